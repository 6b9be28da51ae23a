"""The lean AWS client: signs and sends by itself, and stores leases in DynamoDB."""
