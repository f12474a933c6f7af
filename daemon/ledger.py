"""The ledger of engine calls: a reservation is committed before its call goes out, and settled after it.

One key is one effect. A key that is settled `ok` is answered from here; one that an earlier attempt left
reserved may have had its effect, and only an engine that honours the key is asked again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

import asyncpg

from daemon import budgets
from daemon.budgets import NOTHING, Budget, Held, Money, Periods, Place, Want
from daemon.db import RECONNECT_S, UNREACHABLE, Connection, Pool, Statements, passing
from daemon.grouped import Grouped
from daemon.together import Step, together

SQL = Statements("daemon", "ledger.sql")
T = TypeVar("T")
IN_TIME, AT_LAST = ["reserved"], ["reserved", "unknown"]


class Gate(Protocol):
    """Asked inside the reservation, in its transaction: what may not go out now, and why."""

    async def admit(self, conn: Connection, items: Sequence[Any]) -> "Sequence[Refused | None]":
        """For each item None, or why its call may not be made (yet). May write, e.g. that it is going out."""

    def step(self, items: Sequence[Any]) -> Step:
        """The same as a statement that answers a row for each item that may go out."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that somebody wants to make; `most_calls` how often it may go out in all, crashes included."""

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
    most_calls: int | None = None
    fresh: bool = True  # no attempt before this one can have made it; if one has, it is only found out later
    budgets: tuple[Budget, ...] = ()
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
class Refuted:
    """It was made as often as it may be, and failed every time."""

    error: str
    http_status: int | None


@dataclass(frozen=True, slots=True)
class Doubtful:
    """It may have been made before, and its engine can't be asked again."""

    error: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not be made now: `until` when it may, if that is known; `scope` of the budget that is spent."""

    reason: str
    until: datetime | None = None
    scope: str | None = None


Reservation = Reserved | Known | Refuted | Doubtful | Refused
Verdicts = dict[str, Reservation]


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
    budgets: tuple[Budget, ...] = ()


@dataclass(slots=True)
class Ledger:
    """Reserves and settles in groups. `pool` commits for good; `quick` doesn't wait for the disk."""

    pool: Pool
    quick: Pool
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

    async def settle_for_good(self, ended: Ended) -> None:
        """Record how a call ended that nobody waits for any more, perhaps; it is on the disk when this returns."""
        await _surely(self.pool, partial(_settle, ended=[ended]))

    async def _reserve_surely(self, intents: Sequence[Intent]) -> Sequence[Reservation]:
        """Intents under one key take turns: the later ones learn from the ledger what the first is doing."""
        answers: dict[int, Reservation] = {}
        left = list(enumerate(intents))
        while left:
            firsts = {intent.key: (n, intent) for n, intent in reversed(left)}
            turn = sorted(firsts.values(), key=lambda pair: pair[0])
            these = [intent for _, intent in turn]
            reserved = await _surely(self.pool, partial(_reserve, intents=these))
            answers |= {n: answer for (n, _), answer in zip(turn, reserved, strict=True)}
            left = [(n, intent) for n, intent in left if n not in answers]
        return [answers[n] for n in range(len(intents))]

    async def _settle_surely(self, ended: Sequence[Ended]) -> Sequence[bool]:
        """In one quick statement; what has money to be counted, or comes late, takes a transaction.

        A settlement that the server forgets leaves the call reserved, as if the daemon had ended before it. The
        outcome that follows it is committed for good, and the log of the server keeps their order.
        """
        plain = [e for e in ended if not e.budgets]
        in_time = await _surely(self.quick, partial(_settle_in_time, ended=plain)) if plain else set()
        left = [e for e in ended if e.key not in in_time]
        if left:
            in_time |= await _surely(self.pool, partial(_settle, ended=left))
        return [e.key in in_time for e in ended]


async def _surely(pool: Pool, write: Callable[[Connection], Awaitable[T]]) -> T:
    """Through lost connections: all these writes may be repeated."""
    tries = 0
    while True:
        try:
            async with pool.acquire() as conn:
                return await write(conn)
        except (*UNREACHABLE, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            if not (isinstance(error, UNREACHABLE) or passing(error)):
                raise
            await asyncio.sleep(RECONNECT_S[min(tries, len(RECONNECT_S) - 1)])
            tries += 1


# -- reserving


async def _reserve(conn: Connection, intents: Sequence[Intent]) -> Sequence[Reservation]:
    """In one statement, if there is nothing to be weighed and nothing forbids it; else in a transaction."""
    plain = all(i.fresh and not i.budgets for i in intents)
    if plain and await together(conn, _steps(intents)):
        return [Reserved()] * len(intents)
    async with conn.transaction():
        periods = await budgets.periods(conn, (b for i in intents for b in i.budgets))
        fresh = await _insert(conn, intents, periods)
        known = [i for i in intents if i.key not in fresh]
        verdicts, held, open_calls = await _from_ledger(conn, known) if known else ({}, {}, set())
        verdicts |= await _by_budgets(conn, _undecided(intents, verdicts), held, periods)
        # Last, for it may write that a message is going out.
        verdicts |= await _by_gates(conn, _undecided(intents, verdicts))
        verdicts |= await _forbidden_now(conn, verdicts, open_calls)
        await _correct(conn, intents, fresh, verdicts, held=held, periods=periods)
    return [verdicts.get(i.key, Reserved()) for i in intents]


def _steps(intents: Sequence[Intent]) -> list[Step]:
    gates = {id(i.gate): i.gate for i in intents if i.gate is not None}.values()
    return [
        Step(SQL["reserve"], _rows(intents, {}), len(intents)),
        *(gate.step([i.item for i in intents if i.gate is gate]) for gate in gates),
    ]


def _undecided(intents: Sequence[Intent], verdicts: Verdicts) -> list[Intent]:
    return [i for i in intents if i.key not in verdicts]


def _rows(intents: Sequence[Intent], periods: Periods) -> list[list[Any]]:
    rows = (
        (i.engine, i.operation, i.task_id, i.lead_id, i.run_id, i.campaign_id, i.key, i.cost, i.lease_id,
         _kept(budgets.places(i.budgets, periods)), i.round)
        for i in intents
    )  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)]


async def _insert(conn: Connection, intents: Sequence[Intent], periods: Periods) -> set[str]:
    inserted = await conn.fetch(SQL["reserve"], *_rows(intents, periods))
    return {r["idempotency_key"] for r in inserted}


async def _from_ledger(conn: Connection, intents: Sequence[Intent]) -> tuple[Verdicts, dict[str, Held], set[str]]:
    """What earlier attempts mean for these keys, the money they hold, and which may be asked again."""
    rows = {r["idempotency_key"]: r for r in await conn.fetch(SQL["known"], [i.key for i in intents])}
    found = {i.key: _verdict(i, rows[i.key]) for i in intents if i.key in rows}
    verdicts = {key: verdict for key, verdict in found.items() if verdict is not None}
    await _doubt(conn, [key for key, verdict in verdicts.items() if isinstance(verdict, Doubtful)])
    again = {key for key, verdict in found.items() if verdict is None and rows[key]["status"] != "failed"}
    return verdicts, {key: _held(rows[key]) for key in again}, again


def _verdict(intent: Intent, row: asyncpg.Record) -> Reservation | None:
    """What an earlier attempt under this key means for this one; None: make the call (again)."""
    used_up = intent.most_calls is not None and row["calls"] >= intent.most_calls
    if row["status"] == "ok":
        return Known(row["result"] or {}, row["http_status"] or 200)
    if row["status"] == "failed":
        return Refuted(row["error"] or "it failed before", row["http_status"]) if used_up else None
    if row["status"] == "reserved" and row["lease_id"] == intent.lease_id:
        return Reserved()  # this very attempt: the answer to its COMMIT was lost
    if row["status"] == "reserved" and row["alive"]:
        return Refused("another attempt is making this call", row["again_at"])
    if intent.repeatable and not used_up:
        return None
    return Doubtful(row["error"] or "an earlier attempt made this call and never heard the answer")


async def _by_budgets(
    conn: Connection, intents: Sequence[Intent], held: Mapping[str, Held], periods: Periods
) -> Verdicts:
    limited = [i for i in intents if i.budgets]
    wants = [Want(i.budgets, i.cost, held.get(i.key, Held())) for i in limited]
    answers = zip(limited, await budgets.fit(conn, wants, periods), strict=True)
    return {i.key: Refused(no.budget.spent, no.until, no.budget.scope) for i, no in answers if no is not None}


async def _by_gates(conn: Connection, intents: Sequence[Intent]) -> Verdicts:
    verdicts: Verdicts = {}
    for gate in {id(i.gate): i.gate for i in intents if i.gate is not None}.values():
        its = [i for i in intents if i.gate is gate]
        refusals = await gate.admit(conn, [i.item for i in its])
        verdicts |= {i.key: refused for i, refused in zip(its, refusals, strict=True) if refused is not None}
    return verdicts


async def _forbidden_now(conn: Connection, verdicts: Verdicts, open_calls: set[str]) -> Verdicts:
    """A call that may have been made, and may not be repeated now, stays of unknown outcome: refused it is not."""
    final = {k: v for k, v in verdicts.items() if isinstance(v, Refused) and v.until is None and k in open_calls}
    await _doubt(conn, list(final))
    return {key: Doubtful(f"it may have been made before; now {v.reason}") for key, v in final.items()}


async def _doubt(conn: Connection, keys: Sequence[str]) -> None:
    """What was reserved for them is charged."""
    if keys:
        changed = await conn.fetch(SQL["doubt"], keys)
        await budgets.add(conn, [Held(_places(r), Money(-r["reserved_cost"], r["reserved_cost"])) for r in changed])


async def _correct(
    conn: Connection,
    intents: Sequence[Intent],
    fresh: set[str],
    verdicts: Verdicts,
    *,
    held: Mapping[str, Held],
    periods: Periods,
) -> None:
    """What was refused is no reservation; what goes out again is one of this attempt, paid for once."""
    refused = [i.key for i in intents if i.key in fresh and i.key in verdicts]
    if refused:
        await conn.execute(SQL["unreserve"], refused)
    going = {i.key: (i, budgets.places(i.budgets, periods)) for i in _undecided(intents, verdicts)}
    again = [pair for key, pair in going.items() if key not in fresh]
    if again:
        rows = ((i.key, i.cost, i.lease_id, _kept(places), i.task_id, i.round) for i, places in again)
        await conn.execute(SQL["reserve_again"], *map(list, zip(*rows, strict=True)))
    refunds = [Held(held[i.key].places, -held[i.key].money) for i, _ in again if i.key in held]
    await budgets.add(conn, [*refunds, *(Held(places, Money(reserved=i.cost)) for i, places in going.values())])


# -- settling


async def _settle_in_time(conn: Connection, ended: Sequence[Ended]) -> set[str]:
    return {r["key"] for r in await conn.fetch(SQL["settle"], *_columns(ended), IN_TIME)}


async def _settle(conn: Connection, ended: Sequence[Ended]) -> set[str]:
    async with conn.transaction():
        rows = await conn.fetch(SQL["settle"], *_columns(ended), AT_LAST)
        await budgets.add(conn, [Held(_places(r), _correction(r)) for r in rows])
        await budgets.tell_overruns(conn, _above_estimate(rows))
        late = [r["task_id"] for r in rows if r["was"] == "unknown" and r["status"] == "ok"]
        await _book(conn, {r["id"]: r["cost"] - (r["charged"] or NOTHING) for r in rows if _was_booked(r)})
        if late:
            await conn.execute(SQL["revive_answered"], late)
    return {r["key"] for r in rows if r["was"] == "reserved"}


def _was_booked(row: asyncpg.Record) -> bool:
    """Whether a run may have booked another cost than the call turns out to have."""
    return row["was"] == "unknown" and row["run_id"] is not None and row["cost"] != row["charged"]


async def _book(conn: Connection, more: Mapping[int, Decimal]) -> None:
    """What calls cost more (or less) than their runs have booked."""
    if more:
        await conn.execute(SQL["book_late"], list(more), list(more.values()))


async def doubt_abandoned(conn: Connection) -> Sequence[asyncpg.Record]:
    """Settle as unknown what nobody will ever ask for; those calls."""
    rows = await conn.fetch(SQL["doubt_abandoned"])
    await budgets.add(conn, [Held(_places(r), Money(-r["reserved_cost"], r["reserved_cost"])) for r in rows])
    await _book(conn, {r["id"]: r["reserved_cost"] for r in rows if r["run_id"] is not None})
    return rows


def _columns(ended: Sequence[Ended]) -> list[list[Any]]:
    rows = ((e.key, e.status, e.cost, e.http_status, e.duration_ms, e.error, e.result) for e in ended)
    return [list(column) for column in zip(*rows, strict=True)]


def _correction(row: asyncpg.Record) -> Money:
    """What a settled call changes in its counters."""
    reserved = -row["reserved_cost"] if row["was"] == "reserved" else NOTHING
    return Money(reserved, (row["cost"] or NOTHING) - (row["charged"] or NOTHING))


def _above_estimate(rows: Sequence[asyncpg.Record]) -> set[Place]:
    """The counters of calls that cost more than was reserved for them."""
    return {place for r in rows if r["cost"] > r["reserved_cost"] for place in _places(r)}


# -- the counters of a call, as its row keeps them


def _kept(places: Sequence[Place]) -> dict[str, str] | None:
    return {scope: first.isoformat() for scope, first in places} or None


def _places(row: asyncpg.Record) -> tuple[Place, ...]:
    return tuple((scope, date.fromisoformat(first)) for scope, first in (row["budgets"] or {}).items())


def _held(row: asyncpg.Record) -> Held:
    """What a call that may be made again holds in its counters."""
    if row["status"] == "reserved":
        return Held(_places(row), Money(reserved=row["reserved_cost"]))
    return Held(_places(row), Money(settled=row["cost"] or NOTHING))
