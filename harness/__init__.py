"""The local stack (a database, local AWS and DynamoDB Local on this machine), the demo, and the load function."""
