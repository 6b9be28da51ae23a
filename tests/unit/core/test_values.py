"""Value classes that behave as `dataclasses` makes them, and load it only when it is asked about them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import pprint
from typing import TYPE_CHECKING, Any

import pytest

from connection_governor.core import values

if TYPE_CHECKING:
    from collections.abc import Mapping


def _define(decorate: object, field: object) -> type:
    """Return the same class, by either module."""

    class Point:
        """Has a default, a default made anew, a property and a check."""

        x: int
        y: int = 2
        tags: Mapping[str, int] = field(default_factory=dict)  # type: ignore[operator]

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("x")

        @property
        def total(self) -> int:
            return self.x + self.y

    made: type = decorate(frozen=True, slots=True)(Point)  # type: ignore[operator]
    return made


OURS = _define(values.dataclass, values.field)
WORN = _define(values.dataclass, values.field)
for number in range(values.USES_BEFORE_COMPILING + 1):
    WORN(number)
THEIRS = _define(dataclasses.dataclass, dataclasses.field)
BOTH = pytest.mark.parametrize("point", [OURS, WORN, THEIRS], ids=["ours", "ours-compiled", "dataclasses"])


@pytest.mark.parametrize("module", [values, dataclasses], ids=["ours", "dataclasses"])
def test_a_field_can_be_left_out_of_what_is_shown(module: Any) -> None:  # noqa: ANN401 - a module
    """Every traceback would show a database password."""

    class Secret:
        name: str
        password: str = module.field(repr=False)

    secret = module.dataclass(frozen=True, slots=True)(Secret)("ada", "hush")
    assert repr(secret).endswith("Secret(name='ada')")
    assert secret.password == "hush"
    assert "hush" not in repr(dataclasses.replace(secret, name="bob"))
    with pytest.raises(TypeError):
        type(secret)("ada")


@BOTH
def test_values_are_made_compared_and_shown_alike(point: type) -> None:
    """A lease that is printed without its fields, or that never equals itself read again."""
    one = point(1, tags={"a": 1})
    assert (one.x, one.y, one.tags, one.total) == (1, 2, {"a": 1}, 3)
    assert one == point(x=1, y=2, tags={"a": 1})
    assert one != point(2)
    assert one != (1, 2, {"a": 1})
    assert repr(one).endswith("Point(x=1, y=2, tags={'a': 1})")
    assert point(1).tags is not point(1).tags


@BOTH
def test_values_never_change(point: type) -> None:
    """A lease altered after it was stored no longer matches its record."""
    one = point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.x = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del one.y
    with pytest.raises((AttributeError, TypeError)):
        one.other = 1


@BOTH
def test_bad_arguments_are_refused(point: type) -> None:
    """A forgotten field is found out much later."""
    with pytest.raises(TypeError):
        point()
    with pytest.raises(TypeError):
        point(1, z=1)
    with pytest.raises(TypeError):
        point(1, x=1)
    with pytest.raises(TypeError):
        point(1, 2, {}, 4)
    with pytest.raises(ValueError, match="x"):
        point(-1)


@BOTH
def test_dataclasses_knows_them(point: Any) -> None:  # noqa: ANN401 - one class or the other
    """Callers who change a lease with `dataclasses.replace`, or store one with `asdict`, fail."""
    one = point(1, 5)
    known = dataclasses.is_dataclass(one)
    assert known
    assert dataclasses.replace(one, x=4) == point(4, 5)
    assert dataclasses.asdict(one) == {"x": 1, "y": 5, "tags": {}}
    assert [field.name for field in dataclasses.fields(point)] == ["x", "y", "tags"]
    match one:
        case point(x, y):
            assert (x, y) == (1, 5)


@BOTH
def test_they_can_be_printed_prettily(point: type) -> None:
    """The debugger's and the test runner's view of a lease that does not fit into one line."""
    assert "x=1" in pprint.pformat(point(1, 5), width=1)


def test_replace_checks_the_changed_value() -> None:
    """A check that only the first value passes."""
    assert values.replace(OURS(1), y=7) == OURS(1, 7)
    with pytest.raises(ValueError, match="x"):
        values.replace(OURS(1), x=-1)


def test_values_can_be_copied_and_hashed() -> None:
    """Shard keys as keys of a dictionary, values handed to another process."""
    from connection_governor.core.lease import Lease, ShardKey  # noqa: PLC0415

    lease = Lease("k3Zq81Bd", "orders", "checkout/1", 1, None, 5, 0)
    assert copy.deepcopy(lease) == pickle.loads(pickle.dumps(lease)) == lease
    assert {ShardKey("orders", 1): 1}[ShardKey("orders", 1)] == 1
