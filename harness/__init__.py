"""The local stack: MariaDB, local AWS and DynamoDB Local on this machine; the demo; and the load function."""
