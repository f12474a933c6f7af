"""What a campaign may spend a day, a week and a month: for the ledger, for whoever starts a run, and after each call.

The ledger keeps calls within these budgets. What an answer has cost beyond its estimate is seen here, once the step
that it belongs to is on record: the campaign's next call wouldn't fit, so its run ends and the campaign is paused.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any
from uuid import UUID

from daemon import budgets
from daemon.budgets import WORDS, Budget, Period, Periods, Place, Spent, Window
from daemon.cron import time_zone
from daemon.db import Connection, Statements

SQL = Statements("campaigns", "budget.sql")
NEAR = Decimal("0.8")
"""Of a limit: so much is spent when people are warned."""
_LONGEST_FIRST: tuple[Window, ...] = ("month", "week", "day")
_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Charged:
    """A call of a run was paid for: its campaign's counters are looked at."""

    run_id: UUID
    round: int
    step: str
    budgets: tuple[Budget, ...]


@dataclass(frozen=True, slots=True)
class Overspent:
    """A run whose campaign has spent more than it may; why, and when that budget renews."""

    charged: Charged
    reason: str
    window: str
    until: datetime


@dataclass(frozen=True, slots=True)
class _Counter:
    """A run's budget beside what is spent of it."""

    charged: Charged
    budget: Budget
    period: Period
    settled: Decimal

    @property
    def over(self) -> bool:
        return self.settled > self.budget.limit

    @property
    def near(self) -> bool:
        return 0 < self.settled <= self.budget.limit and self.settled >= NEAR * self.budget.limit


def budgets_of(campaign_id: UUID, document: Mapping[str, Any]) -> tuple[Budget, ...]:
    """The budgets of a normalised document, the longest first: of several that are spent, it is the one to wait for."""
    limits = document.get("budget") or {}
    zone = (document.get("schedule") or {}).get("timezone") or "UTC"
    named = [(window, WORDS[window], limits.get(WORDS[window])) for window in _LONGEST_FIRST]
    return tuple(
        Budget(f"campaign:{campaign_id}:{word}", window, Decimal(str(limit)), zone)
        for window, word, limit in named
        if limit is not None
    )


def readable(row: Mapping[str, Any]) -> tuple[Budget, ...]:
    """The budgets of a campaign as its user wrote them; none if they make no sense: somebody went past the checks."""
    document = {"budget": row["budget"], "schedule": {"timezone": row["timezone"]}}
    try:
        found = budgets_of(row["id"], document)
        for budget in found:
            time_zone(budget.timezone)
    except (ValueError, ArithmeticError):
        return ()
    return found


async def used_shares(conn: Connection, of: Mapping[str, Sequence[Budget]]) -> Mapping[tuple[str, str], float]:
    """How much of these budgets is spent or reserved, by their campaign's name and window; nothing to spend is 1."""
    periods, used = await _used(conn, chain.from_iterable(of.values()))
    shares = {}
    for name, limits in of.items():
        for budget, place in zip(limits, budgets.places(limits, periods), strict=True):
            taken = used[place]["reserved"] + used[place]["settled"] if place in used else _NOTHING
            shares[name, WORDS[budget.period]] = float(taken / budget.limit) if budget.limit > 0 else 1.0
    return shares


def of_campaign(scope: str) -> bool:
    """Whether a budget is a campaign's."""
    return scope.startswith("campaign:")


async def exceeded(conn: Connection, limits: Sequence[Budget], cost: Decimal) -> Spent | None:
    """The first of these budgets into which a call of that cost doesn't fit at this moment."""
    periods, used = await _used(conn, limits)
    for budget, place in zip(limits, budgets.places(limits, periods), strict=True):
        row = used.get(place)
        taken = row["reserved"] + row["settled"] if row else _NOTHING
        if taken + cost > budget.limit:
            return Spent(budget, periods[budget.period, budget.timezone].until)
    return None


async def look(conn: Connection, charged: Sequence[Charged]) -> list[Overspent]:
    """After these charges: who has spent too much. Of each budget that is nearly spent people are told, once."""
    limits = sorted({b for c in charged for b in c.budgets}, key=lambda b: (b.scope, b.limit))
    if not limits:
        return []
    counters = list(_counters(charged, *await _used(conn, limits)))
    await _warn(conn, [c for c in counters if c.near])
    return list(_overspent(c for c in counters if c.over))


async def _used(conn: Connection, limits: Iterable[Budget]) -> tuple[Periods, Mapping[Place, Mapping[str, Any]]]:
    these = list(limits)
    periods = await budgets.periods(conn, these)
    places = sorted(set(budgets.places(these, periods)))
    rows = await conn.fetch(SQL["counters"], [scope for scope, _ in places], [first for _, first in places])
    return periods, {(r["scope"], r["period"]): r for r in rows}


def _counters(
    charged: Iterable[Charged], periods: Periods, used: Mapping[Place, Mapping[str, Any]]
) -> Iterator[_Counter]:
    for of in charged:
        for budget, place in zip(of.budgets, budgets.places(of.budgets, periods), strict=True):
            if place in used:
                yield _Counter(of, budget, periods[budget.period, budget.timezone], used[place]["settled"])


async def _warn(conn: Connection, counters: Sequence[_Counter]) -> None:
    if counters:
        rows = (
            (c.charged.run_id, c.budget.scope, c.period.first, WORDS[c.budget.period], c.budget.limit, c.period.until)
            for c in counters
        )
        await conn.execute(SQL["warn"], *map(list, zip(*rows, strict=True)))


def _overspent(counters: Iterable[_Counter]) -> Iterator[Overspent]:
    """One for each run: of the budget that renews last."""
    latest: dict[UUID, _Counter] = {}
    for counter in counters:
        before = latest.setdefault(counter.charged.run_id, counter)
        if counter.period.until > before.period.until:
            latest[counter.charged.run_id] = counter
    for c in latest.values():
        word = WORDS[c.budget.period]
        said = f"the {word} budget of the campaign is overspent: {c.settled} of {c.budget.limit}"
        yield Overspent(c.charged, said, word, c.period.until)
