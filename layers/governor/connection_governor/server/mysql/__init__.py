"""What the functions ask of MySQL and MariaDB: seeding, the janitor's view, and an operator's actions."""
