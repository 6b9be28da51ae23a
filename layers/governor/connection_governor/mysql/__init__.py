"""Governed MySQL and MariaDB sessions: opened behind a fence, closed before their lease is released."""
