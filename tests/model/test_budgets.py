"""No reservation ever takes a counter past its limit, whoever reserves and settles at the same time.

Mutants that these tests kill (each one line, tried by hand):
  budgets.py: `_fit_one` compares with >= ; `fit` doesn't lock (`lock_counters` without FOR NO KEY UPDATE)
  ledger.py: `_correction` forgets what was reserved
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon.budgets import Budget
from daemon.db import Connection, Pool, connect
from daemon.ledger import Ended, Intent, Ledger, Refused, Reserved
from tests.flow.test_ledger import UNBALANCED
from tests.support.postgres import Server

T = TypeVar("T")
EVERY: Final = (
    Budget("campaign:x:monthly", "month", Decimal(6), "Asia/Kolkata"),
    Budget("campaign:x:daily", "day", Decimal("4.5"), "America/New_York"),
    Budget("engine:y", "day", Decimal(3), "UTC"),
)
WATCH: Final = """
CREATE TABLE watched (scope text, reserved_more boolean, held numeric);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql SET search_path = orchestrator AS $$
BEGIN
    INSERT INTO watched VALUES (NEW.scope, NEW.reserved > OLD.reserved, NEW.reserved + NEW.settled);
    RETURN NULL;
END $$;
CREATE TRIGGER watching AFTER UPDATE ON budget_counters FOR EACH ROW EXECUTE FUNCTION watch()"""
EMPTY: Final = "DELETE FROM engine_calls; DELETE FROM budget_counters; DELETE FROM watched; DELETE FROM alerts"
LEASE: Final = UUID(int=1)
QUICK: Final = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)  # making a failure smaller takes minutes

money = st.integers(0, 8).map(lambda quarters: Decimal(quarters) / 4)  # so that limits are met to the cent


@dataclass(frozen=True, slots=True)
class Wish:
    """A call: what it is thought to cost, within which budgets, and what it comes to."""

    cost: Decimal
    budgets: tuple[Budget, ...]
    status: str
    bill: Decimal

    def intent(self, key: str) -> Intent:
        return Intent("y", "/do", key, self.cost, LEASE, budgets=self.budgets)

    def ended(self, key: str) -> Ended:
        cost = {"ok": self.bill, "failed": Decimal(0), "unknown": self.cost}[self.status]
        return Ended(key, self.status, cost, 200, 1.0, budgets=self.budgets)


wishes = st.builds(
    Wish,
    money,
    st.lists(st.sampled_from(EVERY), unique=True, min_size=1).map(tuple),
    st.sampled_from(["ok", "ok", "failed", "unknown"]),
    money,
)


@dataclass(slots=True)
class Books:
    """A database, two daemons' ledgers, and a loop of their own."""

    runner: asyncio.Runner
    conn: Connection
    ledgers: tuple[Ledger, Ledger]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)


@pytest.fixture(scope="module")
async def database(server: Server) -> AsyncIterator[str]:
    """One database for all examples: each begins by emptying it."""
    dsn = await server.clone()
    yield dsn
    await server.drop(dsn)


@pytest.fixture(scope="module")
def books(database: str) -> Iterator[Books]:
    """The ledgers of two daemons."""
    with asyncio.Runner() as runner:
        conn = runner.run(connect(database))
        runner.run(conn.execute(WATCH))
        pools = [Pool(database, 4) for _ in range(2)]
        made = Books(runner, conn, (Ledger(pools[0], pools[0]), Ledger(pools[1], pools[1])))
        yield made
        for pool in pools:
            pool.close()
        conn.terminate()


# -- one after the other: exactly what fits goes through


@dataclass(slots=True)
class Sums:
    """What every counter should hold."""

    held: dict[str, Decimal]

    def full(self, wish: Wish) -> str | None:
        """The scope of the first of its budgets that it doesn't fit into."""
        return next((b.scope for b in wish.budgets if self.held[b.scope] + wish.cost > b.limit), None)

    def add(self, wish: Wish, amount: Decimal) -> None:
        for budget in wish.budgets:
            self.held[budget.scope] += amount


@given(st.lists(st.lists(st.tuples(wishes, st.booleans()), min_size=1, max_size=4), max_size=8))
@settings(QUICK, max_examples=40)
def test_what_fits_goes_through_and_nothing_else(books: Books, groups: Sequence[Sequence[tuple[Wish, bool]]]) -> None:
    async def played() -> None:
        await books.conn.execute(EMPTY)
        sums = Sums(dict.fromkeys((b.scope for b in EVERY), Decimal(0)))
        for n, group in enumerate(groups):
            await _play(books, sums, {f"{n}.{m}": wish for m, wish in enumerate(group)})
        rows = await books.conn.fetch("SELECT scope, reserved + settled AS held FROM budget_counters")
        assert {r["scope"]: r["held"] for r in rows} == {r["scope"]: sums.held[r["scope"]] for r in rows}
        assert await books.conn.fetch(UNBALANCED) == []

    books.run(played())


async def _play(books: Books, sums: Sums, group: Mapping[str, tuple[Wish, bool]]) -> None:
    """Reserved together by one daemon; some of those that are let through are settled by the other."""
    answers = await books.ledgers[0]._reserve_surely([wish.intent(key) for key, (wish, _) in group.items()])
    through = []
    for (key, (wish, ends)), answer in zip(group.items(), answers, strict=True):
        full = sums.full(wish)
        assert (answer.scope if isinstance(answer, Refused) else None) == full
        if full is None:
            sums.add(wish, wish.cost)
            through += [(key, wish)] if ends else []
    for key, wish in through:
        assert await books.ledgers[1]._settle_surely([wish.ended(key)]) == [True]
        sums.add(wish, wish.ended(key).cost - wish.cost)


# -- all at once: never too much


@given(st.lists(st.tuples(wishes, st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=40))
@settings(QUICK, max_examples=25)
def test_no_reservation_passes_a_limit_however_many_come_at_once(
    books: Books, wanted: Sequence[tuple[Wish, int, int]]
) -> None:
    async def one(n: int, wish: Wish, which: int, pause: int) -> bool:
        ledger = books.ledgers[which]
        for _ in range(pause):
            await asyncio.sleep(0)
        if not isinstance(await ledger.reserve(wish.intent(str(n))), Reserved):
            return False
        await asyncio.sleep(pause / 1000)
        assert await ledger.settle(wish.ended(str(n)))
        return True

    async def played() -> None:
        await books.conn.execute(EMPTY)
        parts = [part.run() for ledger in books.ledgers for part in (ledger.reservations, ledger.settlements)]
        running = [asyncio.create_task(part) for part in parts]
        let_through = await asyncio.gather(*(one(n, *each) for n, each in enumerate(wanted)))
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        limits = {b.scope: b.limit for b in EVERY}
        grown = await books.conn.fetch(
            "SELECT scope, max(held) AS held FROM watched WHERE reserved_more GROUP BY scope"
        )
        assert [dict(r) for r in grown if r["held"] > limits[r["scope"]]] == []
        assert await books.conn.fetch(UNBALANCED) == []
        assert await books.conn.fetchval("SELECT coalesce(sum(reserved), 0) FROM budget_counters") == 0
        assert await books.conn.fetchval("SELECT count(*) FROM engine_calls") == sum(let_through)

    books.run(played())
