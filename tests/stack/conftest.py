"""The deployed stack that these tests share, and the means to look at it from outside."""

from collections.abc import Iterator

import pytest

from harness.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The template deployed by sam, a budget of 10 connections, the janitor off; started once in a session."""
    with running_stack(allowed=10, janitor=False) as running:
        yield running
