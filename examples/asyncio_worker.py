"""asyncio with aiomysql: a task that waits sleeps in the loop. Needs `connection-governor[asyncio]`."""

import asyncio
from typing import Any

from connection_governor.aio import AsyncGovernor

governor = AsyncGovernor.from_env()


async def pieces_of(article: int, context: Any) -> int | None:  # noqa: ANN401 - Lambda's own
    """Return one query on a connection of its own."""
    async with governor.connection(timeout=2.0, context=context) as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT pieces FROM stock WHERE id = %s", (article,))
        row = await cursor.fetchone()
    pieces: int | None = row and row[0]
    return pieces


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401 - Lambda's own
    """Return how many pieces of an article are left."""
    return {"statusCode": 200, "pieces": asyncio.run(pieces_of(event["id"], context))}
