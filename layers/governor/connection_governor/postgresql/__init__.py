"""Governed PostgreSQL sessions: opened behind a fence, closed before their lease is released."""
