"""SQLAlchemy: a session has a governed connection once it needs one. Needs `connection-governor[sqlalchemy]`."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from connection_governor import Governor
from connection_governor.alchemy import governed_engine, invocation

engine = governed_engine(Governor.from_env(), timeout=2.0)


class Base(DeclarativeBase):
    """The tables."""


class Stock(Base):
    """An article, and how many pieces of it there are."""

    __tablename__ = "stock"
    id: Mapped[int] = mapped_column(primary_key=True)
    pieces: Mapped[int]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401 - Lambda's own
    """Return how many pieces of an article are left."""
    with invocation(context), Session(engine) as session:
        pieces = session.scalar(select(Stock.pieces).where(Stock.id == event["id"]))
    return {"statusCode": 200, "pieces": pieces}
