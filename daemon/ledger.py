"""The ledger of engine calls: a reservation is committed before its call goes out, and settled after it.

One key is one effect. A key that is settled `ok` is answered from here; one that an earlier attempt left
reserved may have had its effect, and only an engine that honours the key is asked again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

import asyncpg

from daemon.db import RECONNECT_S, UNREACHABLE, Connection, Pool, Statements, passing
from daemon.grouped import Grouped

SQL = Statements("daemon", "ledger.sql")
T = TypeVar("T")
NOTHING = Decimal(0)


class Gate(Protocol):
    """Asked inside the reservation, in its transaction: what may not go out now, and why."""

    async def admit(self, conn: Connection, items: Sequence[Any]) -> "Sequence[Refused | None]":
        """For each item None, or why its call may not be made (yet). May write, e.g. that it is going out."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that somebody wants to make."""

    engine: str
    operation: str
    key: str
    cost: Decimal
    lease_id: UUID
    task_id: int | None = None
    round: int = 0
    lead_id: UUID | None = None
    run_id: UUID | None = None
    campaign_id: UUID | None = None
    repeatable: bool = False
    daily_budget: Decimal | None = None
    gate: Gate | None = None
    item: Any = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Go ahead."""


@dataclass(frozen=True, slots=True)
class Known:
    """It was made and answered before."""

    result: dict[str, Any]
    http_status: int


@dataclass(frozen=True, slots=True)
class Doubtful:
    """It may have been made before, and its engine can't be asked again."""

    error: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not be made now: `until` when it may, if that is known."""

    reason: str
    until: datetime | None = None


Reservation = Reserved | Known | Doubtful | Refused


@dataclass(frozen=True, slots=True)
class Money:
    """An amount, or a change, in the counter of a scope and day."""

    scope: str
    day: date | None
    reserved: Decimal
    settled: Decimal

    @property
    def total(self) -> Decimal:
        return self.reserved + self.settled

    def returned(self) -> "Money":
        """The change that takes it out again."""
        return Money(self.scope, self.day, -self.reserved, -self.settled)


@dataclass(frozen=True, slots=True)
class Day:
    """The budget's day in the business's zone, and when the next one begins."""

    today: date | None
    tomorrow: datetime | None

    def of(self, intent: Intent) -> date | None:
        """The day whose counter holds the call's money, if one does."""
        return self.today if intent.daily_budget is not None else None


@dataclass(frozen=True, slots=True)
class Ended:
    """What a call came to."""

    key: str
    status: str
    cost: Decimal
    http_status: int | None
    duration_ms: float
    error: str | None = None
    result: Mapping[str, Any] | None = None
    daily_budget: Decimal | None = None


@dataclass(slots=True)
class Ledger:
    """Reserves and settles in groups, each group one transaction."""

    pool: Pool
    timezone: str
    reservations: Grouped[Intent, Reservation] = field(init=False)
    settlements: Grouped[Ended, bool] = field(init=False)

    def __post_init__(self) -> None:
        self.reservations = Grouped(self._reserve_surely, (asyncpg.PostgresError,))
        self.settlements = Grouped(self._settle_surely, (asyncpg.PostgresError,))

    async def reserve(self, intent: Intent) -> Reservation:
        """Put the call on record, unless something forbids it or it was made before."""
        return await self.reservations.submit(intent)

    async def settle(self, ended: Ended) -> bool:
        """Record how it ended; False if the ledger had given it up in the meantime (a late answer)."""
        return await self.settlements.submit(ended)

    async def _reserve_surely(self, intents: Sequence[Intent]) -> Sequence[Reservation]:
        """Intents under one key take turns: the later ones learn from the ledger what the first is doing."""
        answers: dict[int, Reservation] = {}
        left = list(enumerate(intents))
        while left:
            firsts = {intent.key: (n, intent) for n, intent in reversed(left)}
            turn = sorted(firsts.values(), key=lambda pair: pair[0])
            these = [intent for _, intent in turn]
            reserved = await self._surely(partial(self._reserve, intents=these))
            answers |= {n: answer for (n, _), answer in zip(turn, reserved, strict=True)}
            left = [(n, intent) for n, intent in left if n not in answers]
        return [answers[n] for n in range(len(intents))]

    async def _settle_surely(self, ended: Sequence[Ended]) -> Sequence[bool]:
        return await self._surely(lambda conn: self._settle(conn, ended))

    async def _surely(self, write: Callable[[Connection], Awaitable[T]]) -> T:
        """In one transaction, through lost connections: both writes may be repeated."""
        tries = 0
        while True:
            try:
                async with self.pool.acquire() as conn, conn.transaction():
                    return await write(conn)
            except (*UNREACHABLE, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                if not (isinstance(error, UNREACHABLE) or passing(error)):
                    raise
                await asyncio.sleep(RECONNECT_S[min(tries, len(RECONNECT_S) - 1)])
                tries += 1

    # -- reserving

    async def _reserve(self, conn: Connection, intents: Sequence[Intent]) -> Sequence[Reservation]:
        day = await self._day(conn, intents)
        fresh = await self._insert(conn, intents, day)
        known = [i for i in intents if i.key not in fresh]
        verdicts, held, open_calls = await self._from_ledger(conn, known) if known else ({}, {}, set())
        open_ = [i for i in intents if i.key not in verdicts]
        verdicts |= await self._by_budgets(conn, open_, held, day)
        open_ = [i for i in intents if i.key not in verdicts]
        verdicts |= await self._by_gates(conn, open_)  # last: it may write that a message is going out
        verdicts |= await self._forbidden_now(conn, verdicts, open_calls)
        await self._correct(conn, intents, fresh, verdicts, held=held, day=day)
        return [verdicts.get(i.key, Reserved()) for i in intents]

    async def _correct(
        self,
        conn: Connection,
        intents: Sequence[Intent],
        fresh: set[str],
        verdicts: Mapping[str, Reservation],
        *,
        held: Mapping[str, Money],
        day: Day,
    ) -> None:
        """What was refused is no reservation; what goes out again is one of this attempt, paid for once."""
        refused = [i.key for i in intents if i.key in fresh and i.key in verdicts]
        if refused:
            await conn.execute(SQL["unreserve"], refused)
        going = [i for i in intents if i.key not in verdicts]
        again = [i for i in going if i.key not in fresh]
        if again:
            rows = ((i.key, i.cost, i.lease_id, day.of(i), i.task_id, i.round) for i in again)
            await conn.execute(SQL["reserve_again"], *map(list, zip(*rows, strict=True)))
        refunds = [held[i.key] for i in again if i.key in held]
        charges = [Money(_scope(i.engine), day.today, i.cost, NOTHING) for i in going if i.daily_budget is not None]
        await _add(conn, [*(m.returned() for m in refunds), *charges])

    async def _day(self, conn: Connection, intents: Sequence[Intent]) -> Day:
        if all(i.daily_budget is None for i in intents):
            return Day(None, None)
        row = await conn.fetchrow(SQL["today"], self.timezone)
        return Day(row["day"], row["tomorrow"]) if row else Day(None, None)

    async def _from_ledger(
        self, conn: Connection, intents: Sequence[Intent]
    ) -> tuple[dict[str, Reservation], dict[str, Money], set[str]]:
        """What earlier attempts mean for these keys, the money they hold, and which may be asked again."""
        rows = {r["idempotency_key"]: r for r in await conn.fetch(SQL["known"], [i.key for i in intents])}
        found = {i.key: (i, rows[i.key]) for i in intents if i.key in rows and rows[i.key]["status"] != "failed"}
        verdicts = {key: _verdict(intent, row) for key, (intent, row) in found.items()}
        doubtful = [key for key, verdict in verdicts.items() if isinstance(verdict, Doubtful)]
        await self._doubt(conn, doubtful)
        held = {key: _held(row) for key, (_, row) in found.items() if row["budget_day"] and verdicts[key] is None}
        again = {key for key, verdict in verdicts.items() if verdict is None}
        return {key: verdict for key, verdict in verdicts.items() if verdict is not None}, held, again

    async def _doubt(self, conn: Connection, keys: Sequence[str]) -> None:
        if keys:
            changed = await conn.fetch(SQL["doubt"], keys)
            await _add(conn, [_charged(r) for r in changed if r["budget_day"]])

    async def _forbidden_now(
        self, conn: Connection, verdicts: Mapping[str, Reservation], open_calls: set[str]
    ) -> dict[str, Reservation]:
        """A call that may have been made, and may not be repeated now, stays of unknown outcome: refused it is not."""
        final = {k: v for k, v in verdicts.items() if isinstance(v, Refused) and v.until is None and k in open_calls}
        await self._doubt(conn, list(final))
        return {key: Doubtful(f"it may have been made before; now {v.reason}") for key, v in final.items()}

    async def _by_gates(self, conn: Connection, intents: Sequence[Intent]) -> dict[str, Reservation]:
        verdicts: dict[str, Reservation] = {}
        for gate in {id(i.gate): i.gate for i in intents if i.gate is not None}.values():
            its = [i for i in intents if i.gate is gate]
            refusals = await gate.admit(conn, [i.item for i in its])
            verdicts |= {i.key: refused for i, refused in zip(its, refusals, strict=True) if refused is not None}
        return verdicts

    async def _by_budgets(
        self, conn: Connection, intents: Sequence[Intent], held: Mapping[str, Money], day: Day
    ) -> dict[str, Reservation]:
        limited = [i for i in intents if i.daily_budget is not None]
        if not limited:
            return {}
        scopes = sorted({_scope(i.engine) for i in limited})
        await conn.execute(SQL["open_counters"], scopes, day.today)
        used = {r["scope"]: r["used"] for r in await conn.fetch(SQL["lock_counters"], scopes, day.today)}
        verdicts: dict[str, Reservation] = {}
        for intent in limited:
            before = held.get(intent.key)
            covered = before.total if before is not None and before.day == day.today else NOTHING
            total = used[_scope(intent.engine)] - covered + intent.cost
            if intent.daily_budget is not None and total > intent.daily_budget:
                verdicts[intent.key] = Refused(f"the daily budget of engine {intent.engine} is spent", day.tomorrow)
            else:
                used[_scope(intent.engine)] = total
        return verdicts

    async def _insert(self, conn: Connection, intents: Sequence[Intent], day: Day) -> set[str]:
        rows = (
            (
                i.engine,
                i.operation,
                i.task_id,
                i.lead_id,
                i.run_id,
                i.campaign_id,
                i.key,
                i.cost,
                i.lease_id,
                day.of(i),
                i.round,
            )
            for i in intents
        )
        inserted = await conn.fetch(SQL["reserve"], *map(list, zip(*rows, strict=True)))
        return {r["idempotency_key"] for r in inserted}

    # -- settling

    async def _settle(self, conn: Connection, ended: Sequence[Ended]) -> Sequence[bool]:
        columns = zip(
            *((e.key, e.status, e.cost, e.http_status, e.duration_ms, e.error, e.result) for e in ended), strict=True
        )
        rows = await conn.fetch(SQL["settle"], *map(list, columns))
        await _add(conn, _corrections(rows))
        await self._tell_overruns(conn, ended, rows)
        late = [r["task_id"] for r in rows if r["was"] == "unknown" and r["status"] == "ok"]
        if late:
            await conn.execute(SQL["revive_answered"], late)
        in_time = {r["key"] for r in rows if r["was"] == "reserved"}
        return [e.key in in_time for e in ended]

    async def _tell_overruns(self, conn: Connection, ended: Sequence[Ended], rows: Sequence[asyncpg.Record]) -> None:
        limits = {e.key: e.daily_budget for e in ended if e.daily_budget is not None}
        over = [
            r for r in rows if r["budget_day"] is not None and r["key"] in limits and r["cost"] > r["reserved_cost"]
        ]
        if over:
            scopes = [_scope(r["engine"]) for r in over]
            await conn.execute(
                SQL["alert_overrun"], scopes, [r["budget_day"] for r in over], [limits[r["key"]] for r in over]
            )


def _verdict(intent: Intent, row: asyncpg.Record) -> Reservation | None:
    """What an earlier attempt under this key means for this one; None: make the call (again)."""
    if row["status"] == "ok":
        return Known(row["result"] or {}, row["http_status"] or 200)
    if row["status"] == "reserved" and row["lease_id"] == intent.lease_id:
        return Reserved()  # this very attempt: the answer to its COMMIT was lost
    if row["status"] == "reserved" and row["alive"]:
        return Refused("another attempt is making this call", row["again_at"])
    if intent.repeatable:
        return None
    return Doubtful(row["error"] or "an earlier attempt made this call and never heard the answer")


def _scope(engine: str) -> str:
    return f"engine:{engine}"


def _held(row: asyncpg.Record) -> Money:
    """What a call that is not settled holds in its day's counter."""
    if row["status"] == "reserved":
        return Money(_scope(row["engine"]), row["budget_day"], row["reserved_cost"], NOTHING)
    return Money(_scope(row["engine"]), row["budget_day"], NOTHING, row["cost"] or NOTHING)


def _charged(row: asyncpg.Record) -> Money:
    """A reservation that became a charge."""
    return Money(_scope(row["engine"]), row["budget_day"], -row["reserved_cost"], row["reserved_cost"])


def _corrections(rows: Iterable[asyncpg.Record]) -> list[Money]:
    """What the settled calls change in their day's counters."""
    return [
        Money(
            _scope(r["engine"]),
            r["budget_day"],
            -r["reserved_cost"] if r["was"] == "reserved" else NOTHING,
            (r["cost"] or NOTHING) - (r["charged"] or NOTHING),
        )
        for r in rows
        if r["budget_day"] is not None
    ]


async def _add(conn: Connection, changes: Sequence[Money]) -> None:
    """Add to the counters, always in the same order of their rows."""
    totals: dict[tuple[str, date | None], tuple[Decimal, Decimal]] = {}
    for change in changes:
        reserved, settled = totals.get((change.scope, change.day), (NOTHING, NOTHING))
        totals[change.scope, change.day] = (reserved + change.reserved, settled + change.settled)
    if totals:
        ordered = sorted(totals.items(), key=lambda item: str(item[0]))
        rows = ((*key, *amounts) for key, amounts in ordered)
        await conn.execute(SQL["add_to_counters"], *map(list, zip(*rows, strict=True)))
