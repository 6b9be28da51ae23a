"""The state of a session: what a client may conclude from the packets of the MySQL protocol."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connection_governor.mysql.state import Phase, Reply, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable

IN_TRANSACTION, MORE = 1, 8
COLUMN_COUNT, COLUMN, ROW, NULL_ROW = b"\x01", b"\x03def" + bytes(20), b"\x011", b"\xfb"
EMPTY_ROW, HUGE_ROW = b"\x00" + bytes(8), b"\xfe" + struct.pack("<Q", 1 << 24) + b"x"
ERROR = b"\xff\x28\x04#HY000no"
FILE = b"\xfb/etc/passwd"


def ok(flags: int = 0, affected: bytes = b"\x00") -> bytes:
    return b"\x00" + affected + b"\x00" + struct.pack("<HH", flags, 0)


def end(flags: int = 0) -> bytes:
    return b"\xfe\x00\x00" + struct.pack("<H", flags)


def heard(state: SessionState, *packets: bytes) -> SessionState:
    for packet in packets:
        state.read_begun()
        state.received(packet)
    return state


def signed_in() -> SessionState:
    state = heard(SessionState(), b"\x0agreeting")
    state.login_sent()
    return heard(state, ok(2))


def asked(*packets: bytes) -> SessionState:
    state = signed_in()
    state.commands_sent()
    return heard(state, *packets)


def left(state: SessionState, reply: Reply = Reply.NOTHING) -> SessionState:
    """End a session, as both drivers do."""
    if state.may_send_goodbye:
        state.goodbye_sent()
        state.goodbye_answered(reply)
    state.cut_off()
    return state


ANSWERED = {
    "ok": (ok(),),
    "many rows were affected": (ok(affected=b"\xfd\x00\x00\x08"),),
    "rows": (COLUMN_COUNT, COLUMN, end(), ROW, NULL_ROW, EMPTY_ROW, HUGE_ROW, end()),
    "no rows": (COLUMN_COUNT, COLUMN, end(), end()),
    "a file": (FILE, ok()),
    "a procedure": (COLUMN_COUNT, COLUMN, end(MORE), ROW, end(MORE), ok()),
}


@pytest.mark.parametrize("packets", ANSWERED.values(), ids=ANSWERED.keys())
def test_only_a_whole_answer_makes_a_session_ready(packets: tuple[bytes, ...]) -> None:
    """The rest of one answer is taken for the next one's."""
    for count in range(len(packets)):
        state = asked(*packets[:count])
        assert not state.is_ready
        assert left(state).may_linger, "a slot is given back while MySQL is still at work"
    state = asked(*packets)
    assert state.may_be_kept
    assert not left(state).may_linger


@pytest.mark.parametrize("packets", ANSWERED.values(), ids=ANSWERED.keys())
def test_an_interruption_anywhere_ends_a_session(packets: tuple[bytes, ...]) -> None:
    """After a time-out by signal within the reading of a packet, every query gets the answer of another."""
    for count in range(len(packets)):
        state = asked(*packets[:count])
        state.read_begun()
        assert not state.is_ready
        assert not state.may_send_goodbye
        assert left(state).may_linger


@pytest.mark.parametrize("flags", [IN_TRANSACTION, 0x40])
@pytest.mark.parametrize("returning", [False, True])
def test_a_transaction_is_known_from_every_kind_of_answer(flags: int, *, returning: bool) -> None:
    """INSERT ... RETURNING opens one, and the slot is given back while MySQL rolls it back."""

    def state() -> SessionState:
        return asked(COLUMN_COUNT, COLUMN, end(), ROW, end(flags)) if returning else asked(ok(flags))

    assert state().is_ready
    assert not state().may_be_kept
    assert left(state()).may_linger
    assert not left(state(), Reply.RESET).may_linger
    assert not left(state(), Reply.END).may_linger
    ended = state()
    ended.server_closed()  # MySQL hangs up before it rolls back
    assert left(ended).may_linger


def test_after_an_error_a_transaction_may_be_open() -> None:
    """A procedure writes and then fails; its error says nothing about the transaction."""
    state = asked(ERROR)
    assert state.is_ready
    assert not state.may_be_kept
    assert left(state).may_linger
    state = asked(ERROR)
    state.commands_sent()
    assert heard(state, ok()).may_be_kept


def test_a_servers_end_counts_only_where_nothing_was_left_to_do() -> None:
    """KILL hangs up at once, and the statement goes on; or every failover costs all leases."""
    idle, busy = signed_in(), asked()
    for state in (idle, busy):
        state.server_closed()
    assert (left(idle).may_linger, idle.has_ended) == (False, True)
    assert (left(busy).may_linger, busy.has_ended) == (True, False)


def test_a_failed_opening_lingers_from_its_login_to_its_refusal() -> None:
    """A slow login's slot is given back, or a wrong password costs a slot for a whole lease."""
    state = heard(SessionState(), b"\x0agreeting")
    assert not left(state).may_linger
    state = SessionState()
    state.login_sent()
    assert left(state).may_linger
    state = SessionState()
    state.login_sent()
    heard(state, b"\xfemysql_native_password\x00salt", b"\x01\x04")
    assert left(state).may_linger
    assert not left(heard(state, ERROR)).may_linger


def test_each_of_several_commands_in_one_write_is_awaited() -> None:
    """A reset's answers are taken for those of the next invocation's queries."""
    state = signed_in()
    state.commands_sent(3)
    for packet in (ok(), ERROR):
        assert not heard(state, packet).is_ready
    assert heard(state, ok()).may_be_kept


def test_a_packet_that_nothing_asked_for_ends_a_session() -> None:
    """What a server says out of turn is taken for an answer."""
    state = heard(signed_in(), ok())
    assert state.phase is Phase.OUT_OF_STEP
    assert not state.read_begun()
    assert not state.is_ready


@given(st.lists(st.sampled_from([ok(), ok(MORE), ok(1), end(), end(MORE), ERROR, ROW, COLUMN, FILE, HUGE_ROW])))
def test_whatever_comes_a_working_session_is_never_ready(packets: list[bytes]) -> None:
    """Any sequence of packets that the table does not know."""
    state = asked()
    for packet in packets:
        heard(state, packet)
        assert state.is_ready == (state.phase is Phase.IDLE)
        assert not (state.may_be_kept and not state.is_ready)
        if not state.is_ready:
            assert state._is_working


def test_the_worse_is_reported_before_the_deed() -> None:
    """Nothing yet; it pins that no order of endings makes a busy session one that has ended."""
    for order in itertools.permutations(["server_closed", "cut_off"]):
        state = asked()
        for report in order:
            getattr(state, report)()
        assert state.may_linger


def test_work_is_reported_only_at_a_change() -> None:
    """Each report is written to a file: a transaction of many statements would write twice for each of them."""
    reports: list[bool] = []
    state = reporting(lambda *, working: reports.append(working))
    assert reports == [False]
    for answer in (ok(IN_TRANSACTION), ok(IN_TRANSACTION), ok()):
        state.commands_sent()
        heard(state, answer)
    assert reports == [False, True, False]


@pytest.mark.parametrize("at", [True, False])
def test_a_report_that_was_interrupted_is_made_again(*, at: bool) -> None:
    """The file says idle while the server works, and the extension gives the slot of a running statement back."""
    written: list[bool] = []
    strikes = [at]

    def note(*, working: bool) -> None:
        if written and working in strikes:
            strikes.clear()
            raise KeyboardInterrupt
        written.append(working)

    def command() -> None:
        state.commands_sent()
        assert written[-1]
        heard(state, ok())
        assert not written[-1]

    state = reporting(note)
    with pytest.raises(KeyboardInterrupt):
        command()
    command()


def reporting(note: Callable[..., None]) -> SessionState:
    state = heard(SessionState(note), b"\x0agreeting")
    state.login_sent()
    return heard(state, ok(2))
