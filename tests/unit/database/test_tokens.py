"""Tokens as credentials to try, and how often."""

import heapq
from collections.abc import Callable, Generator
from random import Random

import pytest

from connection_governor.core.deadline import RESERVE_MS, Deadline
from connection_governor.database.credentials import Login, sign_in
from connection_governor.database.tokens import PAUSES_MS, TokenCredentials
from tests.support.virtual import VirtualClock


class DeniedError(Exception):
    """The server refuses the token, or throttles."""


class Half:
    """Jitter that is always half."""

    def fraction(self) -> float:
        return 0.5

    def lease_id(self) -> str:
        raise AssertionError


class Drawn(Half):
    """Jitter of a generator."""

    def __init__(self, random: Random) -> None:
        self.fraction = random.random  # type: ignore[method-assign]


class Tokens:
    """Tokens that are numbered; each is new for as long as a test wants."""

    def __init__(self, *, recent: bool) -> None:
        self.number = 1
        self.recent = recent

    def current(self) -> str:
        return f"token-{self.number}"

    def newer_than(self, refused: str) -> str:
        if refused == self.current() and not self.recent:
            self.number += 1
        return self.current()


def is_denied(error: Exception) -> bool:
    return isinstance(error, DeniedError)


def server(tried: list[str], accepts: Callable[[str], bool]) -> Callable[[Login], str]:
    def connect(login: Login) -> str:
        assert login.username == "worker"
        assert login.is_token
        tried.append(login.password)
        if not accepts(login.password):
            raise DeniedError("no")
        return "session"

    return connect


def credentials(clock: VirtualClock, *, recent: bool) -> TokenCredentials:
    return TokenCredentials("worker", Tokens(recent=recent), is_denied, clock, Half())


def test_an_old_token_that_is_refused_is_made_anew_at_once() -> None:
    """An invocation waits, or fails, because the environment was frozen with its token."""
    clock, tried = VirtualClock(), list[str]()
    connect = server(tried, lambda token: token == "token-2")
    assert sign_in(credentials(clock, recent=False).attempts(), connect) == "session"
    assert tried == ["token-1", "token-2"]
    assert not clock.naps


def test_it_is_made_anew_once() -> None:
    """A user without the right would make tokens for each try: RDS throttles those of all the others."""
    clock, tried = VirtualClock(), list[str]()
    with pytest.raises(DeniedError) as denied:
        sign_in(credentials(clock, recent=False).attempts(), server(tried, lambda _: False))
    assert tried == ["token-1"] + ["token-2"] * (1 + len(PAUSES_MS))
    assert "iam-db-auth-error" in denied.value.__notes__[0]


def test_a_throttled_sign_in_is_tried_again_with_the_same_token() -> None:
    """Of a burst of environments, all above 200 a second fail their invocations."""
    clock, tried = VirtualClock(), list[str]()
    connect = server(tried, lambda _: len(tried) == 3)
    assert sign_in(credentials(clock, recent=True).attempts(), connect) == "session"
    assert tried == ["token-1"] * 3
    assert clock.naps == [0.1, 0.2]


def test_the_tries_are_bounded() -> None:
    """A wrong policy must show as an error, and not as an invocation that runs into its deadline."""
    clock, tried = VirtualClock(), list[str]()
    with pytest.raises(DeniedError):
        sign_in(credentials(clock, recent=True).attempts(), server(tried, lambda _: False))
    assert len(tried) == 1 + len(PAUSES_MS)
    assert clock.naps == [pause_ms / 2_000 for pause_ms in PAUSES_MS]


@pytest.mark.parametrize("left_ms", [0, 101, 500, 1_200])
def test_no_try_starts_in_the_invocations_last_moments(left_ms: int) -> None:
    """Lambda stops the worker in the middle of a sign-in, and the lease is left to expire."""
    clock, tried = VirtualClock(), list[str]()
    deadline = Deadline.after(left_ms + RESERVE_MS, clock)
    with pytest.raises(DeniedError):
        sign_in(credentials(clock, recent=True).attempts(deadline), server(tried, lambda _: False))
    assert deadline.left_ms() >= RESERVE_MS
    assert len(tried) == {0: 1, 101: 2, 500: 3, 1_200: 4}[left_ms]


def test_other_errors_are_not_tried_again() -> None:
    """A database that is down or full gets six times the sign-ins."""

    def full(_: Login) -> str:
        raise ConnectionError("too many connections")

    with pytest.raises(ConnectionError, match="too many"):
        sign_in(credentials(VirtualClock(), recent=True).attempts(), full)


def test_a_rate_that_is_no_fault_of_the_token_makes_none_anew() -> None:
    """A token that is refused later, for its age, would then not be made anew any more."""
    clock, tried = VirtualClock(), list[str]()
    errors = [BlockingIOError(), BlockingIOError(), DeniedError(), BlockingIOError()]

    def connect(login: Login) -> str:
        tried.append(login.password)
        if errors:
            raise errors.pop(0)
        return "session"

    found = TokenCredentials(
        "worker",
        Tokens(recent=False),
        is_denied,
        clock,
        Half(),
        is_throttled=lambda error: isinstance(error, BlockingIOError),
    )
    assert sign_in(found.attempts(), connect) == "session"
    assert tried == ["token-1"] * 3 + ["token-2"] * 2
    assert clock.naps == [0.1, 0.2, 0.4]


def test_nine_of_ten_of_a_crowd_pass_the_throttle() -> None:
    """A thousand environments start at once, RDS lets 200 a second in, and most invocations fail."""
    random, passed, bucket, since_ms = Random(7), 0, 200.0, 0
    waiting: list[tuple[int, int, VirtualClock, Generator[Login]]] = []
    for number in range(1_000):
        clock = VirtualClock()
        tokens = TokenCredentials("worker", Tokens(recent=True), is_denied, clock, Drawn(random))
        attempts = tokens.attempts()
        next(attempts)
        heapq.heappush(waiting, (0, number, clock, attempts))
    while waiting:
        now_ms, number, clock, attempts = heapq.heappop(waiting)
        bucket, since_ms = min(bucket + (now_ms - since_ms) / 5, 200), now_ms
        if bucket >= 1:
            bucket, passed = bucket - 1, passed + 1
            continue
        try:
            attempts.throw(DeniedError("throttled"))
        except DeniedError:
            continue
        heapq.heappush(waiting, (clock.elapsed, number, clock, attempts))
    assert passed >= 900
