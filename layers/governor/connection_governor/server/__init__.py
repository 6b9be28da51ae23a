"""What the functions serve: the governor's requests, the janitor's rounds, the seed."""
