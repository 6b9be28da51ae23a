"""Public alias of `connection_governor.client.sqlalchemy`: a governed SQLAlchemy engine."""

from connection_governor.client.sqlalchemy import governed_engine, invocation

__all__ = ["governed_engine", "invocation"]
