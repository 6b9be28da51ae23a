"""Any other driver: the lease, and what MySQL must be told so that it ends the session when its holder vanishes.

The driver here is PyMySQL without our layer on top; what matters are the two marked lines, and that the connection is
closed before the lease goes back. The password comes from a variable for brevity: read it from Secrets Manager.
"""

import os
from contextlib import closing
from typing import Any

import pymysql

from connection_governor import Governor
from connection_governor.fence import Fence

governor = Governor.from_env()
fence = Fence()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ANN401 - Lambda's own
    """Return how many pieces of an article are left."""
    with (
        governor.lease(timeout=2.0, context=context) as lease,
        closing(
            pymysql.connect(
                host=os.environ["DB_HOST"],
                port=int(os.environ["DB_PORT"]),
                database=os.environ["DB_NAME"],
                user=os.environ["DB_USER"],
                password=os.environ["DB_PASSWORD"],
                ssl_ca=os.environ["DB_TLS_CA"],
                ssl_verify_cert=True,
                program_name=lease.session_name,  # by this the janitor knows whose session it is
            )
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT VERSION() LIKE '%MariaDB%'")
        limits = fence.session_settings(is_mariadb=cursor.fetchone() == (1,))
        cursor.execute("SET SESSION " + ", ".join(f"{name} = {limit}" for name, limit in limits.items()))  # the fence
        cursor.execute("SELECT pieces FROM stock WHERE id = %s", (event["id"],))
        row = cursor.fetchone()
    return {"statusCode": 200, "pieces": row and row[0]}
