"""Deliberate bugs, each a change of the production code's text; the simulation's invariants have to catch every one.

A mutant is applied to a module's source while it is imported, in a process of its own. Each piece of text must stand in
the source exactly once, so a mutant that no longer changes the code is an error and not a success.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One bug.

    Attributes:
        name: what is wrong, in a few words.
        module: of the package.
        changes: (text, what it becomes) pairs.
        table: which simulated table shows it; None: any.
        focus: on what the worlds concentrate; None: as always.
    """

    name: str
    module: str
    changes: tuple[tuple[str, str], ...]
    table: str | None = None
    focus: str | None = None


def _m(name: str, module: str, *changes: tuple[str, str], table: str | None = None, focus: str | None = None) -> Mutant:
    return Mutant(name, module, changes, table, focus)


IN_MEMORY = [
    _m(
        "grant without room",
        "core/memory",
        ("                or shard.remaining < connections - freed\n", ""),
        table="memory",
    ),
    _m(
        "grant of an id that is stored",
        "core/memory",
        ("                or lease_id in shard.leases\n", ""),
        table="memory",
    ),
    _m(
        "takeover of whatever was seen",
        "core/memory",
        ("                or not _all_stored(shard, taken)\n", ""),
        table="memory",
        focus="lags",
    ),
    _m(
        "takeover compares the expiry only by its being there",
        "core/memory",
        ("or not _all_stored(shard, taken)", "or not all(lease_id in shard.leases for lease_id, _ in taken)"),
        table="memory",
        focus="lags",
    ),
    _m(
        "takeover leaves the counter alone",
        "core/memory",
        (
            "remaining=shard.remaining + freed - connections)",
            "remaining=shard.remaining - (0 if taken else connections))",
        ),
        table="memory",
    ),
    _m(
        "takeover needs no room beyond what it frees",
        "core/memory",
        ("shard.remaining < connections - freed", "shard.remaining < connections and not taken"),
        table="memory",
        focus="plans",
    ),
    _m(
        "release of what is not stored",
        "core/memory",
        (
            "if shard is None or not _all_stored(shard, leases):",
            "if shard is None:",
        ),
        table="memory",
    ),
    _m(
        "release without ownership: the id is enough",
        "core/memory",
        (
            "if shard is None or not _all_stored(shard, leases):",
            "leases = tuple((i, shard.leases[i]) for i, _ in leases if i in shard.leases) if shard else ()\n"
            "            if shard is None or not leases:",
        ),
        table="memory",
        focus="storms",
    ),
    _m(
        "release believes the caller's count",
        "core/memory",
        (
            "if shard is None or not _all_stored(shard, leases):",
            "if shard is None or leases[0][0] not in shard.leases:",
        ),
        table="memory",
    ),
    _m(
        "renewal of what is not stored so",
        "core/memory",
        (" or not _all_stored(shard, ((lease_id, record),))", ""),
        table="memory",
    ),
    _m("renewal while overdrawn", "core/memory", (" or shard.remaining < 0 or", " or"), table="memory", focus="plans"),
    _m("fence stands still", "core/memory", ("fence=shard.fence + 1", "fence=shard.fence"), table="memory"),
    _m("stamp by an older plan", "core/memory", (" and shard.plan < plan and", " and"), table="memory", focus="plans"),
    _m("raise by another plan", "core/memory", (" and shard.plan == plan and", " and"), table="memory", focus="plans"),
    _m(
        "resize whatever was read",
        "core/memory",
        ("if shard.allowed != change.allowed_as_read:", "if False:"),
        table="memory",
        focus="plans",
    ),
    _m(
        "shrink by setting instead of adding",
        "core/memory",
        ("remaining = shard.remaining + change.added", "remaining = change.allowed"),
        table="memory",
    ),
    _m(
        "settings saved over another operator's",
        "core/memory",
        ("if (stored.plan if stored else None) != plan_as_read:", "if False:"),
        table="memory",
    ),
    _m(
        "making a shard again wipes it",
        "core/memory",
        (
            "self._shards.setdefault(key, Shard(key, allowed=0, remaining=0, fence=0, plan=plan, opens_us=opens_us))",
            "self._shards[key] = Shard(key, allowed=0, remaining=0, fence=0, plan=plan, opens_us=opens_us)",
        ),
        table="memory",
        focus="plans",
    ),
]

IN_DYNAMODB = [
    _m("DynamoDB: grant without HAS_ROOM", "aws/dynamodb", ('f"{HAS_ROOM} AND {NEW_ID}"', "NEW_ID"), table="dynamodb"),
    _m("DynamoDB: grant without NEW_ID", "aws/dynamodb", ('f"{HAS_ROOM} AND {NEW_ID}"', "HAS_ROOM"), table="dynamodb"),
    _m(
        "DynamoDB: takeover without AS_SEEN",
        "aws/dynamodb",
        ('f"{condition} AND {seen}"', "condition"),
        table="dynamodb",
        focus="lags",
    ),
    _m(
        "DynamoDB: takeover does not count what it frees",
        "aws/dynamodb",
        ("_number(connections - connections_of(taken))", "_number(connections)"),
        table="dynamodb",
    ),
    _m(
        "DynamoDB: takeover leaves the old leases",
        "aws/dynamodb",
        ('f"{take} {removal}"', "take"),
        table="dynamodb",
    ),
    _m(
        "DynamoDB: release without AS_SEEN",
        "aws/dynamodb",
        (
            'f"SET remaining = remaining + :n {removal}", condition,',
            'f"SET remaining = remaining + :n {removal}", "attribute_not_exists(nothing)",',
        ),
        table="dynamodb",
    ),
    _m(
        "DynamoDB: renewal without AS_SEEN",
        "aws/dynamodb",
        ("f\"{AS_SEEN.format(id='#id', record=':seen')} AND {NOT_OVERFULL}\"", "NOT_OVERFULL"),
        table="dynamodb",
    ),
    _m(
        "DynamoDB: renewal without NOT_OVERFULL",
        "aws/dynamodb",
        (
            "f\"{AS_SEEN.format(id='#id', record=':seen')} AND {NOT_OVERFULL}\"",
            "AS_SEEN.format(id='#id', record=':seen')",
        ),
        table="dynamodb",
        focus="plans",
    ),
    _m(
        "DynamoDB: stamp without OLDER_PLAN",
        "aws/dynamodb",
        ('f"{OLDER_PLAN} AND {ALLOWED_AS_READ}"', "ALLOWED_AS_READ"),
        table="dynamodb",
        focus="plans",
    ),
    _m(
        "DynamoDB: stamp without ALLOWED_AS_READ",
        "aws/dynamodb",
        ('f"{OLDER_PLAN} AND {ALLOWED_AS_READ}"', "OLDER_PLAN"),
        table="dynamodb",
        focus="plans",
    ),
    _m(
        "DynamoDB: raise without THIS_PLAN",
        "aws/dynamodb",
        ('f"{THIS_PLAN} AND {ALLOWED_AS_READ}"', "ALLOWED_AS_READ"),
        table="dynamodb",
        focus="plans",
    ),
    _m(
        "DynamoDB: raise without ALLOWED_AS_READ",
        "aws/dynamodb",
        ('f"{THIS_PLAN} AND {ALLOWED_AS_READ}"', "THIS_PLAN"),
        table="dynamodb",
        focus="plans",
    ),
    _m(
        "DynamoDB: shrink by setting instead of adding",
        "aws/dynamodb",
        ("remaining = remaining + :added", "remaining = :allowed"),
        table="dynamodb",
    ),
    _m(
        "DynamoDB: making a shard again wipes it",
        "aws/dynamodb",
        ('"Item": item, "ConditionExpression": NO_ITEM}', '"Item": item}'),
        table="dynamodb",
        focus="plans",
    ),
    _m(
        "DynamoDB: settings without PLAN_AS_READ",
        "aws/dynamodb",
        ('"ConditionExpression": PLAN_AS_READ', '"ConditionExpression": "attribute_not_exists(nothing)"'),
        table="dynamodb",
    ),
]

IN_RULES = [
    _m(
        "reclaim without skew",
        "core/rules",
        ("record_expiry_ms(record) + skew_ms < now_ms", "record_expiry_ms(record) < now_ms"),
    ),
    _m("take over what is not over", "core/rules", ("if is_reclaimable(seen[1], now_ms=now_ms, skew_ms=skew_ms)", "")),
    _m(
        "take over 30 s late",
        "core/rules",
        ("record_expiry_ms(record) + skew_ms < now_ms", "record_expiry_ms(record) + skew_ms + 30_000 < now_ms"),
    ),
    _m(
        "take over 0.3 s late",
        "core/rules",
        ("record_expiry_ms(record) + skew_ms < now_ms", "record_expiry_ms(record) + skew_ms + 300 < now_ms"),
    ),
    _m(
        "never take over",
        "core/rules",
        ("if portions and shard.remaining", "if False and shard.remaining"),
        focus="limits",
    ),
    _m(
        "any record of an id is one's own",
        "core/rules",
        ("AlreadyGranted() if stored == record else IdInUse()", "AlreadyGranted()"),
        focus="storms",
    ),
    _m(
        "an earlier end counts as renewed",
        "core/rules",
        ("if same and record_expiry_ms(stored) >= record_expiry_ms(wanted)", "if same"),
        (
            "return AlreadyRenewed(record_expiry_ms(stored))\n    if stored == record:",
            "return AlreadyRenewed(record_expiry_ms(wanted))\n    if stored == record:",
        ),
        focus="storms",
    ),
    _m(
        "renewal of whatever has the id and a later end",
        "core/rules",
        ("if not same or record_expiry_ms(stored) < record_expiry_ms(record):", "if False:"),
        focus="storms",
    ),
    _m(
        "every lease counts for one connection",
        "core/rules",
        ("sum(record_connections(record) for _, record in leases)", "len(leases)"),
    ),
    _m(
        "raise without all stamped",
        "core/plan",
        (
            "reversed(shards) if shard.plan < settings.plan]",
            "reversed(shards)\n"
            "        if shard.plan < settings.plan\n"
            "        and shard.allowed > share(settings.allowed, settings.shards, shard.key.index)]",
        ),
        focus="plans",
    ),
    _m("raise by what is still lent", "core/plan", ("return max(shard.allowed, shard.in_use)", "return shard.allowed")),
    _m("raise whatever the share is", "core/plan", ("target = min(part, _committed(shard) + room)", "target = part")),
    _m("plan number not moved on", "core/operations", ("plan=base.plan + 1", "plan=base.plan")),
]

IN_ENGINE = [
    _m(
        "renewal that shortens",
        "core/engine",
        ("end_ms = max(expires_at_ms, lease.expires_at_ms)", "end_ms = expires_at_ms"),
    ),
    _m(
        "refuse after one shard",
        "core/placement",
        ("return Read(keys) if keys else Stop()", "return Stop()"),
        focus="storms",
    ),
    _m(
        "who is refused finishes no plan",
        "core/engine",
        ("if short and not just_settled:", "if False:"),
        focus="plans",
    ),
    _m(
        "a plan reclaims nothing",
        "core/apply_plan",
        ("        self.reclaim(settings)\n        for _ in", "        for _ in"),
    ),
    _m(
        "release of whatever has the id and a later end",
        "core/rules",
        ("return stored if same else None", "return stored"),
        focus="storms",
    ),
    _m(
        "retry with a new lease id",
        "core/acquisition",
        (
            "        def once() -> Written | Unwritten:\n            try:\n",
            "        tries = iter(range(9))\n\n"
            "        def once() -> Written | Unwritten:\n"
            "            nonlocal wanted\n"
            "            if number := next(tries):\n"
            "                import dataclasses\n\n"
            "                wanted = dataclasses.replace(wanted, lease_id=f'{wanted.lease_id[:-1]}{number}')\n"
            "                self._call = dataclasses.replace(self._call, wanted=wanted)\n"
            "            try:\n",
        ),
    ),
    _m(
        "go elsewhere although the write may have been applied",
        "core/acquisition",
        ("if may_leave and not doubt.exists:", "if may_leave and error.throttled:"),
        focus="storms",
    ),
    _m(
        "a lost renewal is taken for one",
        "core/engine",
        (
            "if outcome.shard is None or isinstance(decision, rules.NotHeld):\n                return None",
            "if outcome.shard is None or isinstance(decision, rules.NotHeld):\n                return Renewal(replace(lease, expires_at_ms=end_ms), pressure=False)",
        ),
    ),
]

IN_SESSIONS = [
    _m(
        "forget wait_timeout",
        "database/fence",
        ('            "wait_timeout": self.idle_seconds,\n', ""),
        focus="limits",
    ),
    _m("forget net_write_timeout", "database/fence", ('            "net_write_timeout": self.write_seconds,\n', "")),
    _m(
        "forget max_statement_time",
        "database/fence",
        ('return settings | {"max_statement_time": self.statement_seconds}', "return settings"),
        focus="deadlines",
    ),
    _m(
        "guard W instead of 2W + E",
        "database/fence",
        ("return self.margin_ms + self.idle_ms", "return self.idle_ms"),
        focus="limits",
    ),
    _m(
        "guard W + E instead of 2W + E",
        "database/fence",
        ("return self.margin_ms + self.idle_ms", "return self.margin_ms"),
        focus="limits",
    ),
    _m(
        "margin E instead of E + W",
        "database/fence",
        ("return self.statement_bound_ms + self.idle_ms", "return self.statement_bound_ms"),
        focus="deadlines",
    ),
    _m(
        "margin W instead of E + W",
        "database/fence",
        ("return self.statement_bound_ms + self.idle_ms", "return self.idle_ms"),
        focus="deadlines",
    ),
    _m(
        "no check of the lease before a statement",
        "mysql/governed",
        ("if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:", "if False:"),
        focus="limits",
    ),
    _m(
        "no recheck after opening",
        "mysql/governed",
        (
            "if self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:",
            "if self._opened and self.usable_until_ms is not None and self._now_ms() > self.usable_until_ms:",
        ),
        focus="openings",
    ),
    _m(
        "sessions named before the takeover is confirmed",
        "core/acquisition",
        (
            "            shard, step, freed = self._freed(outcome.shard)\n",
            "            ended += taken\n            shard, step, freed = self._freed(outcome.shard)\n",
        ),
        focus="lags",
    ),
    _m(
        "reset without fencing again",
        "mysql/session",
        (
            "return (RESET, _query(statement), *(_query(",
            "return (RESET, *(_query(",
        ),
        focus="keeping",
    ),
    _m(
        "release before close",
        "client/sessions",
        (
            "        if self.connection is not None:\n            self.connection.close()\n        self.release_or_leave()\n",
            "        if self.lease is not None:\n            self._sessions.release_or_leave(self.lease, may_linger=False)\n"
            "        if self.connection is not None:\n            self.connection.close()\n        self.release_or_leave()\n",
        ),
    ),
    _m(
        "release although the server may be at work",
        "client/sessions",
        ("        if may_linger:\n", "        if False:\n"),
    ),
    _m(
        "the janitor kills what is held",
        "server/janitor",
        ("session.program_name not in held and self._watch", "self._watch"),
    ),
    _m(
        "the janitor kills sessions whose leases end within 5 s",
        "server/janitor",
        (
            "for lease in status.leases()}",
            "for lease in status.leases() if lease.expires_at_ms > self._clock.now_ms() + 5_000}",
        ),
        focus="rounds",
    ),
    _m(
        "a kept lease need not cover the next body",
        "client/keepalive",
        ("if lease.expires_at_ms < needed_ms:", "if False:"),
        focus="keeping",
    ),
    _m(
        "a kept lease covers the body but not what may follow",
        "client/keepalive",
        (
            "return request.last_use_ms(clock) + fence.required_margin_ms(may_freeze=request.may_freeze)",
            "return request.last_use_ms(clock)",
        ),
        focus="keeping",
    ),
    _m(
        "the janitor reads the leases before the sessions",
        "server/janitor",
        ("        observation, blind = self._observed(database)\n", ""),
        (
            "killed, refused = self._end_overdue(observation, status)",
            "observation, blind = self._observed(database)\n        killed, refused = self._end_overdue(observation, status)",
        ),
        focus="rounds",
    ),
]


def _r(name: str, module: str, *changes: tuple[str, str], table: str | None = None, focus: str = "rates") -> Mutant:
    return Mutant(name, module, changes, table, focus)


IN_THE_RATE = [
    _r(
        "rate: grant without a token",
        "core/memory",
        (" and opens_us <= opening.latest_us", ""),
        table="memory",
    ),
    _r("rate: spend from a full bucket", "core/memory", ("opens_us >= opening.full_us and ", ""), table="memory"),
    _r(
        "rate: refill of a bucket that is not full",
        "core/memory",
        ("return opens_us < opening.full_us", "return True"),
        table="memory",
    ),
    _r(
        "rate: grant by the former pace",
        "core/memory",
        (" or shard.plan > opening.last_plan", ""),
        table="memory",
    ),
    _r(
        "rate: grant on a shard with the former pace",
        "core/memory",
        (" or shard.plan < opening.first_plan", ""),
        table="memory",
        focus="stalls",
    ),
    _r(
        "rate: a token is never spent",
        "core/memory",
        ("return shard.opens_us + opening.cost_us if", "return shard.opens_us if"),
        table="memory",
    ),
    _r("DynamoDB: rate without IS_DUE", "aws/dynamodb", ("{NOT_FULL} AND {IS_DUE}", "{NOT_FULL}"), table="dynamodb"),
    _r("DynamoDB: rate without NOT_FULL", "aws/dynamodb", ("{NOT_FULL} AND {IS_DUE}", "{IS_DUE}"), table="dynamodb"),
    _r(
        "DynamoDB: rate without IS_FULL",
        "aws/dynamodb",
        ('f"{IS_FULL} AND {PACE_SET}', 'f"{PACE_SET}'),
        table="dynamodb",
    ),
    _r(
        "DynamoDB: rate without PACE_SET",
        "aws/dynamodb",
        ("{IS_DUE} AND {PACE_SET} AND", "{IS_DUE} AND"),
        ("{IS_FULL} AND {PACE_SET} AND", "{IS_FULL} AND"),
        table="dynamodb",
        focus="stalls",
    ),
    _r(
        "DynamoDB: rate without PACE_KNOWN",
        "aws/dynamodb",
        ('{IS_DUE} AND {PACE_SET} AND {PACE_KNOWN}"', '{IS_DUE} AND {PACE_SET}"'),
        ('{IS_FULL} AND {PACE_SET} AND {PACE_KNOWN}"', '{IS_FULL} AND {PACE_SET}"'),
        table="dynamodb",
    ),
    _r("rate: no allowance for clocks", "core/opening", (" // rate - _clocks_us(settings.skew_ms),", " // rate,")),
    _r(
        "rate: each shard has all of it",
        "core/opening",
        ("cost_us=_cost_us(rate, settings.shards),", "cost_us=_cost_us(rate, 1),"),
    ),
    _r(
        "rate: every lease costs one token",
        "core/opening",
        ("cost_us, full_us = connections * self.cost_us", "cost_us, full_us = self.cost_us"),
    ),
    _r(
        "rate: a refill costs nothing",
        "core/opening",
        ("self.burst_us - cost_us) + cost_us,", "self.burst_us - cost_us),"),
    ),
    _r(
        "rate: the pace of a new number of shards is the former",
        "core/operations",
        ('"open_burst", "shards", "skew_ms")', '"open_burst", "skew_ms")'),
        focus="stalls",
    ),
    _r(
        "rate: the first shard is stamped first",
        "core/plan",
        ("for shard in reversed(shards) if", "for shard in shards if"),
        ("if shard.key.index >= settings.shards] or older", "] or older"),
        focus="splits",
    ),
    _r(
        "rate: a shard opens with tokens that are taken elsewhere",
        "core/plan",
        ("if not settings.opens_per_second or shard.allowed > 0:", "if True:"),
        focus="splits",
    ),
]

MUTANTS = [*IN_MEMORY, *IN_DYNAMODB, *IN_RULES, *IN_ENGINE, *IN_SESSIONS, *IN_THE_RATE]
