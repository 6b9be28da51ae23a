"""The statement limit that MySQL lacks for anything but SELECT: an event of MySQL's own scheduler.

Each second it interrupts each governed statement that has run longer than its session's own `max_execution_time`. The
fence sets that limit, and MySQL by itself obeys it for SELECT only. So a statement is interrupted within its limit and
one second more, whatever has become of its client. MariaDB needs no event: its `max_statement_time` is for each
statement.

Each stack has an event of its own, so that no stack changes or removes another's. Two that interrupt the same statement
do no harm. The definer is an account that nobody can sign in with, with no more rights than the event needs.

NOT covered: a COMMIT and a rollback, which MySQL finishes in any case; a session whose user has SYSTEM_USER, which only
such a user may interrupt; a session that has set its own `max_execution_time` to 0.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pymysql import err
from pymysql.constants import CR

from connection_governor.core.observation import SESSION_NAME
from connection_governor.server.mysql import own_schema
from connection_governor.server.mysql.own_schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Collection

    from pymysql.cursors import Cursor

SILENT_SECONDS: Final = 10
"""The event is due each second; it is missing if it has not run for so long."""

OVERRUN_SECONDS: Final = 5
"""A statement that has run so much longer than its limit shows that the event interrupts nothing."""

_DEFINER: Final = "'connection_governor'@'localhost'"
_DEFINER_NAME: Final = _DEFINER.replace("'", "")
_DEFINED: Final = """
    SELECT (SELECT COUNT(*) FROM information_schema.events WHERE definer = %s)
         + (SELECT COUNT(*) FROM information_schema.routines WHERE definer = %s)
"""
_READS: Final = ("threads", "events_statements_current", "session_connect_attrs", "variables_by_thread")
_STILL_ADMIN: Final = """EXISTS (
    SELECT 1 FROM information_schema.user_privileges
    WHERE privilege_type = 'CONNECTION_ADMIN' AND grantee = '''connection_governor''@''localhost''')"""
# The right to interrupt a statement, how, and what tells later whether the right is still there. RDS from 8.0.36 on
# keeps CONNECTION_ADMIN to itself, and no list that the definer may read shows the right to RDS's own procedure.
_KILLS: Final = {
    "CONNECTION_ADMIN ON *.*": ("KILL QUERY overrun_session", _STILL_ADMIN),
    "EXECUTE ON PROCEDURE mysql.rds_kill_query": ("CALL mysql.rds_kill_query(overrun_session)", "TRUE"),
}
# In the order of the cheapest look: a session's variables are copied one by one, so only those of sessions that have
# been at one statement for 10 ms are read. Times are in ps, the limit in ms.
_OVERRUN: Final = f"""
    FROM performance_schema.threads t
    JOIN performance_schema.events_statements_current s
      ON s.thread_id = t.thread_id AND s.nesting_event_level = 0 AND s.end_event_id IS NULL
    JOIN performance_schema.session_connect_attrs a
      ON a.processlist_id = t.processlist_id AND a.attr_name = 'program_name'
    JOIN performance_schema.variables_by_thread v
      ON v.thread_id = t.thread_id AND v.variable_name = 'max_execution_time'
    WHERE t.processlist_command IN ('Query', 'Execute') AND s.timer_wait > 10000000000
      AND REGEXP_LIKE(a.attr_value, '^{SESSION_NAME}$', 'c')
      AND v.variable_value > 0 AND s.timer_wait > v.variable_value * 1000000000"""
# One run at a time, or slow runs would pile up. A session that has ended, or that may not be interrupted, must not
# spare the rest. A statement is looked at once more before it is interrupted: its session may be at its next one.
_BODY: Final = f"""
BEGIN
  DECLARE no_more BOOL DEFAULT FALSE;
  DECLARE overrun_session, overrun_thread, overrun_statement BIGINT UNSIGNED;
  DECLARE overrun CURSOR FOR SELECT STRAIGHT_JOIN t.processlist_id, s.thread_id, s.event_id {_OVERRUN};
  DECLARE CONTINUE HANDLER FOR NOT FOUND SET no_more = TRUE;
  IF GET_LOCK('{{event}}', 0) THEN
    OPEN overrun;
    each_one: LOOP
      FETCH overrun INTO overrun_session, overrun_thread, overrun_statement;
      IF no_more THEN LEAVE each_one; END IF;
      BEGIN
        DECLARE CONTINUE HANDLER FOR SQLEXCEPTION, NOT FOUND BEGIN END;
        IF EXISTS (SELECT 1 FROM performance_schema.events_statements_current
                   WHERE thread_id = overrun_thread AND event_id = overrun_statement AND end_event_id IS NULL)
        THEN {{kill}}; END IF;
      END;
    END LOOP;
    CLOSE overrun;
    DO RELEASE_LOCK('{{event}}');
  END IF;
END"""  # noqa: S608 - of constants
# The janitor's user may call this and needs no right to the event itself. It reads with the rights of the event's
# definer, so it fails where the event would.
_STATE: Final = f"""
    SELECT e.event_comment, e.definer, e.status, @@event_scheduler,
           TIMESTAMPDIFF(SECOND, COALESCE(e.last_executed, e.starts), UTC_TIMESTAMP()),
           {{may_kill}}, EXISTS (SELECT 1 FROM performance_schema.events_statements_current
                   WHERE thread_id = PS_CURRENT_THREAD_ID() AND end_event_id IS NULL),
           (SELECT STRAIGHT_JOIN COUNT(*) {_OVERRUN} + {OVERRUN_SECONDS} * 1000000000000)
    FROM information_schema.events e WHERE e.event_schema = '{SCHEMA}' AND e.event_name = '{{event}}'"""  # noqa: S608 - of constants
VERSION: Final = hashlib.sha256(f"{_BODY}{_STATE}{_KILLS}".encode()).hexdigest()[:8]
"""Changes with the SQL: the template names it, so that a release with another event runs the seed."""

_SYSTEM_USERS: Final = """
    WITH RECURSIVE holders AS (
      SELECT user, host FROM mysql.global_grants WHERE priv = 'SYSTEM_USER'
      UNION SELECT e.to_user, e.to_host FROM mysql.role_edges e
            JOIN holders h ON e.from_user = h.user AND e.from_host = h.host)
    SELECT DISTINCT user FROM holders WHERE user IN %s ORDER BY user
"""  # a right of a role counts too


def make(cursor: Cursor, *, worker: str, monitor: str) -> str | None:
    """Create or replace the event of this worker's stack. Return why statements stay without a limit, or None."""
    try:
        _make(cursor, worker=worker, monitor=monitor)
    except err.MySQLError as refused:
        if _is_of_the_client(refused):
            raise
        return f"the administrator may not make the event (error {refused.args[0]})"
    return _what_it_needs(cursor)


def remove(cursor: Cursor, *, worker: str) -> None:
    """Drop the event, and its definer and schema if no other stack has anything there."""
    if not _has_schema(cursor):
        return
    cursor.execute(f"DROP EVENT IF EXISTS {SCHEMA}.`{_event(worker)}`")
    cursor.execute(f"DROP PROCEDURE IF EXISTS {SCHEMA}.`{_state(worker)}`")
    cursor.execute(_DEFINED, (_DEFINER_NAME, _DEFINER_NAME))
    if cursor.fetchone() == (0,):
        cursor.execute(f"DROP USER IF EXISTS {_DEFINER}")
    own_schema.remove_if_empty(cursor)


def missing(cursor: Cursor, *, worker: str) -> str | None:
    """Return why this server limits no statement other than SELECT; None if it does. For the janitor's user."""
    try:
        cursor.execute(f"CALL {SCHEMA}.`{_state(worker)}`()")
    except err.MySQLError as refused:
        if _is_of_the_client(refused):
            raise
        return f"the seed has not made the event here, or its definer was changed (error {refused.args[0]})"
    row = cursor.fetchone()
    if row is None:
        return "there is no event"
    version, definer, status, scheduler, silent_seconds, may_kill, sees_statements, overrun = row
    wrong = {
        f"the event is of version {version}, not {VERSION}": version != VERSION,
        f"the event's definer is {definer}": definer != _DEFINER_NAME,
        f"the event is {status}": status != "ENABLED",
        f"event_scheduler is {scheduler}": scheduler != "ON",
        f"the event has not run for {silent_seconds} s": silent_seconds > SILENT_SECONDS,
        "the event's definer has lost the right to interrupt statements": not may_kill,
        "performance_schema does not record the running statements": not sees_statements,
        f"{overrun} statements run on past their limit": overrun > 0,
    }
    return next((reason for reason, is_so in wrong.items() if is_so), None)


def beyond_its_reach(cursor: Cursor, users: Collection[str]) -> tuple[str, ...]:
    """Return which of the users have SYSTEM_USER: only who has it too may interrupt their statements."""
    with suppress(err.OperationalError, err.ProgrammingError):  # no right to read the grants, or MariaDB
        cursor.execute(_SYSTEM_USERS, (tuple(users),))
        return tuple(user for (user,) in cursor.fetchall())
    return ()


def _make(cursor: Cursor, *, worker: str, monitor: str) -> None:
    own_schema.make(cursor)
    cursor.execute(f"CREATE USER IF NOT EXISTS {_DEFINER} IDENTIFIED BY RANDOM PASSWORD ACCOUNT LOCK")
    cursor.execute(f"GRANT EVENT ON {SCHEMA}.* TO {_DEFINER}")
    for table in _READS:
        cursor.execute(f"GRANT SELECT ON performance_schema.{table} TO {_DEFINER}")
    event, state, (kill, may_kill) = _event(worker), _state(worker), _granted_kill(cursor)
    cursor.execute("SET time_zone = '+00:00'")  # the event's for its life: its last run is shown in it
    cursor.execute(f"DROP EVENT IF EXISTS {SCHEMA}.`{event}`")
    cursor.execute(
        f"CREATE DEFINER = {_DEFINER} EVENT {SCHEMA}.`{event}` ON SCHEDULE EVERY 1 SECOND ON COMPLETION PRESERVE ENABLE"
        f" COMMENT '{VERSION}' DO {_filled(_BODY, event=event, kill=kill)}"
    )
    cursor.execute(f"DROP PROCEDURE IF EXISTS {SCHEMA}.`{state}`")
    cursor.execute(
        f"CREATE DEFINER = {_DEFINER} PROCEDURE {SCHEMA}.`{state}`() READS SQL DATA SQL SECURITY DEFINER"
        f" {_filled(_STATE, event=event, may_kill=may_kill)}"
    )
    cursor.execute(f"GRANT EXECUTE ON PROCEDURE {SCHEMA}.`{state}` TO {_DEFINER}, %s@'%%'", (monitor,))


def _granted_kill(cursor: Cursor) -> tuple[str, str]:
    """Grant the definer a right to interrupt statements; return how it does and may. Raises the last refusal."""
    preferred, on_rds = _KILLS
    try:
        cursor.execute(f"GRANT {preferred} TO {_DEFINER}")
    except err.MySQLError:
        cursor.execute(f"GRANT {on_rds} TO {_DEFINER}")
        return _KILLS[on_rds]
    return _KILLS[preferred]


def _what_it_needs(cursor: Cursor) -> str | None:
    cursor.execute("SELECT @@event_scheduler, @@performance_schema")
    scheduler, performance_schema = cursor.fetchone() or ("", 0)
    if scheduler != "ON":
        return f"event_scheduler is {scheduler}"
    return None if performance_schema else "performance_schema is off"


def _has_schema(cursor: Cursor) -> bool:
    cursor.execute("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = %s", (SCHEMA,))
    return cursor.fetchone() != (0,)


def _is_of_the_client(error: err.MySQLError) -> bool:
    """Return whether the driver raised it by itself, such as for a connection that was lost."""
    return not error.args or error.args[0] in range(CR.CR_ERROR_FIRST, CR.CR_ERROR_LAST + 1) or error.args[0] == 0


def _filled(statement: str, **names: str) -> str:
    """Return the statement with its names filled in; `format` would take the regular expression's braces too."""
    for name, value in names.items():
        statement = statement.replace(f"{{{name}}}", value)
    return statement


def _event(worker: str) -> str:
    return f"statement_limit_{worker}"  # the template accepts letters, digits and underscores only


def _state(worker: str) -> str:
    return f"statement_limit_state_{worker}"
