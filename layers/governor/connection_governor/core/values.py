"""Frozen, slotted value classes as `dataclasses` makes them, without loading `dataclasses`.

That module loads `inspect`, `ast`, `dis` and `tokenize`, and compiles half a dozen functions for each class: with some
thirty classes that is a third of a cold worker's import of this package. Here a class's `__init__` is compiled at its
fifth value, and the rest is shared. `dataclass_transform` shows type checkers the same as a dataclass.
A call of `dataclasses` on such a class (`replace`, `fields`, `asdict`) finds a dataclass; only then is it loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_NAMES = "__slots__"
_MISSING = object()
USES_BEFORE_COMPILING = 4


class _Made:
    """The default of a field that is made anew for each value."""

    def __init__(self, factory: Any) -> None:  # noqa: ANN401 - any callable
        self.factory = factory


class _Hidden:
    """Marks a field that `repr` leaves out."""


def field(*, default_factory: Any = None, repr: bool = True) -> Any:  # noqa: A002, ANN401 - as `dataclasses.field`
    """Return a field that is made anew for each value, or one without a default that `repr` leaves out."""
    assert repr == (default_factory is not None)
    return _Made(default_factory) if repr else _Hidden()


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
    """Make a class as `dataclasses.dataclass(frozen=True, slots=True)` does: the only kind here."""
    assert frozen
    assert slots
    return _value_class


def replace(value: T, /, **changes: Any) -> T:  # noqa: ANN401 - as `dataclasses.replace`
    """Return a value with some fields changed."""
    names = getattr(type(value), _NAMES)
    return type(value)(**{**{name: getattr(value, name) for name in names}, **changes})


def _value_class(cls: Any) -> Any:  # noqa: ANN401 - any class
    names = tuple(cls.__annotations__)
    given = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    defaults = {name: value for name, value in given.items() if not isinstance(value, _Hidden)}
    body = {name: what for name, what in cls.__dict__.items() if name not in (*names, "__dict__", "__weakref__")}
    body |= {
        "__slots__": names,
        "__match_args__": names,
        "__value_defaults__": defaults,
        "__value_shown__": tuple(name for name in names if not isinstance(given.get(name), _Hidden)),
        "__dataclass_fields__": _AsDataclasses("__dataclass_fields__"),
        "__dataclass_params__": _AsDataclasses("__dataclass_params__"),
        "__value_uses__": 0,
        "__init__": _init,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__eq__": _is_equal,
        "__hash__": _hash,
        "__reduce__": _reduce,
    }
    body.setdefault("__repr__", _repr)
    return type(cls)(cls.__name__, cls.__bases__, body)


def _init(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - any value class
    """Set the fields one by one for the first few values; compiling costs as much as fifty of them."""
    cls = type(self)
    cls.__value_uses__ += 1
    names, defaults = getattr(cls, _NAMES), cls.__value_defaults__
    rest = names[len(arguments) :]
    fits = named.keys() <= set(rest) and all(name in named or name in defaults for name in rest)
    if cls.__value_uses__ > USES_BEFORE_COMPILING or len(arguments) > len(names) or not fits:
        cls.__init__ = _compiled_init(cls)
        cls.__init__(self, *arguments, **named)
        return
    for name, value in zip(names, arguments, strict=False):
        object.__setattr__(self, name, value)
    for name in rest:
        value = named[name] if name in named else defaults[name]
        object.__setattr__(self, name, value.factory() if isinstance(value, _Made) else value)
    if hasattr(cls, "__post_init__"):
        self.__post_init__()


def _compiled_init(cls: Any) -> Any:  # noqa: ANN401 - a function
    names, defaults = getattr(cls, _NAMES), cls.__value_defaults__
    scope: dict[str, Any] = {"missing": _MISSING, "defaults": defaults}
    parameters, lines = ["self"], []
    for name in names:
        scope[f"set_{name}"] = getattr(cls, name).__set__
        made = isinstance(defaults.get(name), _Made)
        parameters.append(name if name not in defaults else f"{name}=missing" if made else f"{name}=defaults[{name!r}]")
        given = f"defaults[{name!r}].factory() if {name} is missing else {name}" if made else name
        lines.append(f" set_{name}(self, {given})")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    source = f"def __init__({', '.join(parameters)}):\n" + ("\n".join(lines) or " pass")
    exec(source, scope)  # noqa: S102 - of our own field names, as `dataclasses` does
    return scope["__init__"]


def _content(value: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any value class
    return tuple([getattr(value, name) for name in getattr(type(value), _NAMES)])


def _is_equal(self: object, other: object) -> bool:
    return _content(self) == _content(other) if type(other) is type(self) else NotImplemented


def _hash(self: object) -> int:
    return hash(_content(self))


def _repr(self: object) -> str:
    cls: Any = type(self)
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in cls.__value_shown__)
    return f"{cls.__qualname__}({shown})"


def _reduce(self: object) -> tuple[type, tuple[Any, ...]]:
    return type(self), _content(self)


def _refuse(self: object, name: str, *_value: object) -> None:
    from dataclasses import FrozenInstanceError  # noqa: PLC0415 - loaded only for the error

    raise FrozenInstanceError(f"cannot assign to field {name!r} of a {type(self).__name__}")


class _AsDataclasses:
    """An attribute that `dataclasses` or `pprint` look for: made at its first use, which loads that module."""

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute
        self._made: Any = None

    def __get__(self, value: object, cls: Any) -> Any:  # noqa: ANN401 - any value class
        if self._made is None:
            self._made = getattr(_dataclass_like(cls), self._attribute)
        return self._made


def _dataclass_like(cls: Any) -> Any:  # noqa: ANN401 - any value class
    import dataclasses  # noqa: PLC0415 - see the module's description

    defaults = cls.__value_defaults__
    fields = []
    for name in getattr(cls, _NAMES):
        default = defaults.get(name, dataclasses.MISSING)
        made = isinstance(default, _Made)
        shown = name in cls.__value_shown__
        spec = (
            dataclasses.field(default_factory=default.factory)
            if made
            else dataclasses.field(default=default, repr=shown)
        )
        fields.append((name, Any, spec))
    return dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
