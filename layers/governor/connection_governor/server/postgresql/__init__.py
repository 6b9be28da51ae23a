"""What the functions ask of PostgreSQL: seeding, the janitor's view, and an operator's actions."""
