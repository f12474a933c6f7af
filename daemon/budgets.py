"""Money and its limits: a counter row per scope and period is the lock under which a call fits, or doesn't.

A call's money lies in every counter that its budgets name, the same amount in each.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from daemon.db import Connection, Statements

SQL = Statements("daemon", "budgets.sql")
NOTHING = Decimal(0)
Window = Literal["day", "week", "month"]
WORDS: Mapping[str, str] = {"day": "daily", "week": "weekly", "month": "monthly"}
Place = tuple[str, date]
"""A counter: its scope and the first day of its period."""


@dataclass(frozen=True, slots=True)
class Budget:
    """So much may be spent in a scope (`engine:NAME`, `campaign:ID:daily`, …) per day, week (from Monday) or month."""

    scope: str
    period: Window
    limit: Decimal
    timezone: str

    @property
    def spent(self) -> str:
        """What is said when nothing more fits."""
        kind, _, rest = self.scope.partition(":")
        return f"the {WORDS[self.period]} budget of {f'engine {rest}' if kind == 'engine' else f'the {kind}'} is spent"


@dataclass(frozen=True, slots=True)
class Period:
    """The period that is going on, and when the next one begins."""

    first: date
    until: datetime


Periods = Mapping[tuple[Window, str], Period]


@dataclass(frozen=True, slots=True)
class Money:
    """What a call holds in its counters, or a change of it."""

    reserved: Decimal = NOTHING
    settled: Decimal = NOTHING

    def __add__(self, other: "Money") -> "Money":
        return Money(self.reserved + other.reserved, self.settled + other.settled)

    def __neg__(self) -> "Money":
        return Money(-self.reserved, -self.settled)

    @property
    def total(self) -> Decimal:
        return self.reserved + self.settled


@dataclass(frozen=True, slots=True)
class Held:
    """Money and the counters that it lies in."""

    places: tuple[Place, ...] = ()
    money: Money = Money()


@dataclass(frozen=True, slots=True)
class Want:
    """A call that wants `cost` out of its budgets; `before` is what an earlier attempt at it holds already."""

    budgets: tuple[Budget, ...]
    cost: Decimal
    before: Held


@dataclass(frozen=True, slots=True)
class Spent:
    """It doesn't fit: which budget, and when its period ends."""

    budget: Budget
    until: datetime


async def periods(conn: Connection, budgets: Iterable[Budget]) -> Periods:
    """The periods of these budgets, by the business clock in each one's zone."""
    wanted = sorted({(b.period, b.timezone) for b in budgets})
    if not wanted:
        return {}
    rows = await conn.fetch(SQL["periods"], [w for w, _ in wanted], [z for _, z in wanted])
    return {(r["window"], r["timezone"]): Period(r["first"], r["until"]) for r in rows}


def places(budgets: Sequence[Budget], of: Periods) -> tuple[Place, ...]:
    """The counters of these budgets."""
    return tuple((b.scope, of[b.period, b.timezone].first) for b in budgets)


async def fit(conn: Connection, wants: Sequence[Want], of: Periods) -> list[Spent | None]:
    """In turn, what fits into all of its budgets (None) and what doesn't; the counters stay locked."""
    limits = {p: b.limit for w in wants for b, p in zip(w.budgets, places(w.budgets, of), strict=True)}
    used = await _locked(conn, limits) if limits else {}
    return [_fit_one(want, used, of) for want in wants]


async def _locked(conn: Connection, limits: Mapping[Place, Decimal]) -> dict[Place, Decimal]:
    """What is used of these counters, which are locked, and know their limits from now on."""
    rows = [(*place, limit) for place, limit in sorted(limits.items())]
    scopes, firsts, most = map(list, zip(*rows, strict=True))
    await conn.execute(SQL["open_counters"], scopes, firsts, most)
    counters = {(r["scope"], r["period"]): r for r in await conn.fetch(SQL["lock_counters"], scopes, firsts)}
    if any(counters[place]["most"] != limit for place, limit in limits.items()):
        await conn.execute(SQL["limit_counters"], scopes, firsts, most)
    return {place: counter["used"] for place, counter in counters.items()}


def _fit_one(want: Want, used: dict[Place, Decimal], of: Periods) -> Spent | None:
    totals: dict[Place, Decimal] = {}
    for budget, place in zip(want.budgets, places(want.budgets, of), strict=True):
        covered = want.before.money.total if place in want.before.places else NOTHING
        totals[place] = used[place] - covered + want.cost
        if totals[place] > budget.limit:
            return Spent(budget, of[budget.period, budget.timezone].until)
    used.update(totals)
    return None


async def add(conn: Connection, changes: Iterable[Held]) -> None:
    """Add to the counters, always in the same order of their rows."""
    totals: dict[Place, Money] = {}
    for change in changes:
        for place in change.places:
            totals[place] = totals.get(place, Money()) + change.money
    if totals:
        rows = [(*place, money.reserved, money.settled) for place, money in sorted(totals.items())]
        await conn.execute(SQL["add_to_counters"], *map(list, zip(*rows, strict=True)))


async def tell_overruns(conn: Connection, charged: Collection[Place]) -> None:
    """A bill above its estimate may pass a budget: the next call waits, and a person is told, once a period."""
    if charged:
        scopes, firsts = map(list, zip(*sorted(charged), strict=True))
        await conn.execute(SQL["outlive_overruns"], scopes, firsts)
        await conn.execute(SQL["alert_overrun"], scopes, firsts)
