"""PyMySQL: a governed connection for each invocation; with `GOVERNOR_KEEP_SECONDS` kept for the next ones."""

from typing import Any

from connection_governor import Governor, NoConnectionsLeft

governor = Governor.from_env()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401 - Lambda's own
    """Return how many pieces of an article are left; 503 with a hint when to come back where no connection is."""
    try:
        with governor.connection(timeout=2.0, context=context) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pieces FROM stock WHERE id = %s", (event["id"],))
            row = cursor.fetchone()
    except NoConnectionsLeft as refused:
        return {"statusCode": 503, "headers": {"Retry-After": str(-(-refused.retry_after_ms // 1_000))}}
    return {"statusCode": 200, "pieces": row and row[0]}
