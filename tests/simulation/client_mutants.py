"""Deliberate bugs of the client and the extension, which the simulation does not contain: each names the test that fails.

They are quoted and applied as in `mutants`. `test_client_mutants` runs each named test in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.mutants import Mutant

KEEPING = "tests/unit/client/test_keeping.py"
EXTENSION = "tests/unit/test_extension.py"


@dataclass(frozen=True)
class ClientMutant:
    """One bug, and the test that must fail with it."""

    mutant: Mutant
    test: str


def _m(test: str, name: str, module: str, *changes: tuple[str, str]) -> ClientMutant:
    return ClientMutant(Mutant(name, module, changes), test)


CLIENT_MUTANTS = [
    _m(
        f"{KEEPING}::test_a_lease_is_in_the_file_before_the_request_is_sent",
        "the lease file is written after the request",
        "client/acquire",
        ("        self._lease_file.wanted(wanted)\n", ""),
        (
            "            self._lease_file.held(outcome.lease)\n",
            "            self._lease_file.wanted(wanted)\n            self._lease_file.held(outcome.lease)\n",
        ),
    ),
    _m(
        f"{KEEPING}::test_the_file_has_the_lease_as_it_was_renewed",
        "a renewed expiry is not noted",
        "client/acquire",
        ("        self._lease_file.held(renewal.lease)\n", ""),
    ),
    _m(
        f"{EXTENSION}::test_a_renewal_keeps_what_is_known_of_the_session",
        "a port is lost from the lease file on renewal",
        "client/lease_file",
        (
            "            self._write(Note(lease, noted.session, *noted.ports))\n",
            "            self._write(Note(lease, noted.session))\n",
        ),
    ),
    _m(
        f"{KEEPING}::test_without_a_context_a_kept_session_stops_early",
        "the guard is forgotten for a kept session without a context",
        "client/keepalive",
        (
            "usable_until_ms(lease, fence, may_freeze=request.may_freeze)",
            "usable_until_ms(lease, fence, may_freeze=False)",
        ),
    ),
    _m(
        f"{KEEPING}::test_a_kept_session_is_no_session_of_a_forked_child",
        "a kept session survives a fork",
        "client/keepalive",
        ("if not session.is_own or connection.fence != fence:", "if connection.fence != fence:"),
    ),
    _m(
        f"{KEEPING}::test_a_kept_session_is_no_session_of_a_forked_child",
        "a forked child releases its parent's lease",
        "client/sessions",
        ("        if self.lease is not None and self.is_own:\n", "        if self.lease is not None:\n"),
    ),
    _m(
        f"{KEEPING}::test_a_refusal_is_pressure_for_a_minute_and_no_longer",
        "a session is kept under pressure",
        "client/keepalive",
        (" or too_late or self._lease_client.is_pressed(database):", " or too_late:"),
        ("database in self._kept or not self._lease_client.is_pressed(database)", "True"),
    ),
    _m(
        f"{KEEPING}::test_a_refusal_is_pressure_for_a_minute_and_no_longer",
        "a refusal is no pressure",
        "client/acquire",
        ("            self._note_pressure(request.database, pressure=not outcome.too_fast)\n", ""),
    ),
    _m(
        f"{KEEPING}::test_a_refusal_is_pressure_for_a_minute_and_no_longer",
        "pressure never decays",
        "client/acquire",
        ("        return until is not None and not until.has_passed()\n", "        return until is not None\n"),
    ),
    _m(
        f"{EXTENSION}::test_the_end_of_an_idle_session_is_waited_for_and_a_moment_more",
        "the extension does not wait for the session",
        "extension",
        ("        if seen is None or self.note.ports in seen:\n            return False\n", ""),
    ),
    _m(
        f"{EXTENSION}::test_the_end_of_an_idle_session_is_waited_for_and_a_moment_more",
        "the extension allows no grace",
        "extension",
        ("        return now_ms >= self._ended_ms + GRACE_MS\n", "        return True\n"),
    ),
    _m(
        f"{EXTENSION}::test_only_a_session_that_is_known_to_have_ended_is_released",
        "the extension releases what was at work",
        "extension",
        ("_ENDS_WITH_ITS_CLIENT = {NO_SESSION, IDLE}", '_ENDS_WITH_ITS_CLIENT = {NO_SESSION, IDLE, "w"}'),
    ),
    _m(
        f"{EXTENSION}::test_a_living_process_takes_no_time_from_the_others",
        "the extension settles one process after the other",
        "extension",
        (
            "            for process in [one for one in processes if one.is_gone()]:\n",
            "            for process in [*processes] if all(one.is_gone() for one in processes) else []:\n",
        ),
    ),
]
