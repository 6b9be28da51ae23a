"""Which branches of the rules a run has met: every outcome of `rules` and every step of `plan`, counted.

The rules are wrapped where the production code looks them up, and answer as they always do.
"""

from __future__ import annotations

from collections import Counter
from functools import wraps
from typing import TYPE_CHECKING, Any

from connection_governor.core import opening, plan, rules
from connection_governor.core.lease import Grant, Refusal, Renewal
from connection_governor.core.rules import share

if TYPE_CHECKING:
    from collections.abc import Callable

    from connection_governor.core.lease import Lease
    from tests.simulation.ledger import Tally

MET: Counter[str] = Counter()
_wrapped: set[str] = set()


def note_grant(tally: Tally, outcome: Grant | Refusal) -> None:
    """Count an acquire's answer."""
    if isinstance(outcome, Refusal):
        tally.outcomes["refused: too fast" if outcome.too_fast else "refused"] += 1
    else:
        tally.outcomes["granted" if outcome.lease.fence is not None else "granted, fence unknown"] += 1


def note_renewal(tally: Tally, outcome: Renewal | Refusal | None) -> Lease | None:
    """Count a renew's answer; return the renewed lease, if any."""
    if isinstance(outcome, Renewal):
        tally.outcomes["renewed"] += 1
        return outcome.lease
    tally.outcomes["renew: refused" if isinstance(outcome, Refusal) else "renew: not held"] += 1
    return None


def count_branches() -> None:
    """Count in `MET` from now on."""
    for module, name, label in _RULES:
        if name not in _wrapped:
            _wrapped.add(name)
            setattr(
                module, name, _counting(f"{module.__name__.rpartition('.')[2]}.{name}", getattr(module, name), label)
            )


def _counting(name: str, rule: Callable[..., Any], label: Callable[..., str]) -> Callable[..., Any]:
    @wraps(rule)
    def counting(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any rule
        outcome = rule(*arguments, **options)
        MET[f"{name}: {label(outcome, *arguments)}"] += 1
        return outcome

    return counting


def _decision(outcome: object, *_arguments: object) -> str:
    kind = type(outcome).__name__
    if isinstance(outcome, rules.Write):
        return f"{kind}, taking over {'several' if len(outcome.taken) > 1 else len(outcome.taken) or 'none'}"
    return kind


def _token(outcome: object, *_arguments: object) -> str:
    if isinstance(outcome, rules.Write):
        return "the bucket has a token" if outcome.slack_us is None else "the bucket is full"
    return type(outcome).__name__


def _truth(outcome: object, *_arguments: object) -> str:
    return "yes" if outcome else "no"


def _stamps(changes: list[plan.Change], *_arguments: object) -> str:
    if not changes:
        return "nothing left"
    return "some lowered" if any(change.added < 0 for change in changes) else "all kept"


def _raises(changes: list[plan.Change], shards: Any, settings: Any) -> str:  # noqa: ANN401 - the rule's own arguments
    if changes:
        part = share(settings.allowed, settings.shards, changes[-1].key.index)
        return "whole" if changes[-1].allowed == part else "in part: the rest has yet to come back"
    settled = all(s.allowed == share(settings.allowed, settings.shards, s.key.index) for s in shards)
    return "nothing left" if settled else "nothing has come back yet"


_RULES: list[tuple[Any, str, Callable[..., str]]] = [
    (rules, "next_step", _decision),
    (rules, "room_for", _decision),
    (rules, "after_refused_renew", _decision),
    (opening.Pace, "step", _token),
    (plan, "stamps", _stamps),
    (plan, "raises", _raises),
    (plan, "is_superseded", _truth),
    (plan, "is_settled", _truth),
    (plan, "is_short", _truth),
]
