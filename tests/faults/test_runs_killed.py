"""kill -9 at random moments between and inside the steps of runs, the daemon started again at once.

Mutants that these tests kill (each one line, tried by hand):
  facts.py: `effect_key` takes `uuid4()` into the key
  steps/engine.py: `most_calls` is left out
  effects.sql: `step_begun` now and then queues nothing
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

import pytest
from aiohttp import web

from daemon.db import Connection
from tests.support.engines import Effect, Refuses
from tests.support.processes import DaemonProcess, Fleet, fleet, until
from tests.support.runs import NAMES, CampaignEngines, Document, document, step

RUNS = 36
TRIES = 3
KILLS = [pytest.param(6, id="6"), pytest.param(50, id="50", marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
RECORDS = """
SELECT count(*) FROM campaign_run_steps a JOIN campaign_run_steps b ON b.run_id = a.run_id AND b.position > a.position
WHERE a.status IN ('pending', 'running', 'waiting', 'skipped', 'cancelled')
  AND b.status NOT IN ('pending', 'skipped')"""
"""Steps that began before one that stands before them had ended."""


@dataclass(slots=True)
class Busy:
    """Answers after a while, now and then with an error; the effect may come before or after the wait."""

    engines: CampaignEngines
    in_flight: int = 0

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        self.in_flight += 1
        try:
            if random.random() < 0.15:
                return await Refuses(503).play(request, effect)
            early = effect() if random.random() < 0.5 else None
            await asyncio.sleep(random.uniform(0.002, 0.03))  # an engine takes its time
            return web.json_response(early or effect())
        finally:
            self.in_flight -= 1


STEPS: tuple[Document, ...] = (
    step("prospecting", retry={"attempts": TRIES, "delay": 0}),
    step("store", "leads", from_="steps.prospecting.prospects"),
    step("analysis", onFailure="continue"),
    step("look", "enrich", from_="steps.store.leads", onFailure="continue", retry={"attempts": TRIES, "delay": 0}),
    step("outreach", onFailure="log"),
)
HONEST = ("prospecting", "contacts")
"""Engines that honour keys; the others are called once at most."""


async def insert_runs(conn: Connection, campaign: UUID, count: int) -> None:
    """So many runs more."""
    rows = [(campaign, document(STEPS), {"number": n}) for n in range(count)]
    await conn.executemany("INSERT INTO campaign_runs (campaign_id, definition, inputs) VALUES ($1, $2, $3)", rows)


async def killed_at_random(daemon: DaemonProcess, engines: CampaignEngines, busy: Busy, calls: int) -> int:
    """Kill it when it has made so many more calls; how many were in flight."""
    begun = len(engines.asked)

    async def called() -> bool:
        return len(engines.asked) >= begun + calls and busy.in_flight > 0

    await until(called, 20.0, f"{calls} calls", pause=random.uniform(0.0005, 0.005))
    in_flight = busy.in_flight
    daemon.kill()
    return in_flight


async def kill_again_and_again(fleet: Fleet, engines: CampaignEngines, busy: Busy, conn: Connection, kills: int) -> int:
    """Start runs and kill; returns how many calls the kills cut off."""
    campaign = await conn.fetchval("INSERT INTO campaigns (name) VALUES ('Weekly') RETURNING id")
    cut, chunk = 0, RUNS // kills or 1
    for number in range(kills):
        daemon = await fleet.start()
        if number % 2:
            await until(lambda: daemon.metric("tasks_taken_over_total"), 10.0, "a takeover")  # noqa: B023
        await insert_runs(conn, campaign, chunk)
        cut += await killed_at_random(daemon, engines, busy, random.randrange(1, 4 * chunk))
        assert await conn.fetchval(RECORDS) == 0
    return cut


@pytest.mark.parametrize("kills", KILLS)
async def test_every_run_ends_right_and_no_step_is_called_beyond_its_tries(
    dsn: str, conn: Connection, kills: int
) -> None:
    engines = CampaignEngines()
    engines.honours_keys = True
    engines.answers["prospecting"] = {"prospects": [{"name": "Ann"}, {"name": "Bob"}, {"name": "Cy"}], "cost": 0.25}
    async with engines.serving():
        busy = Busy(engines)
        for name in NAMES:
            engines.on(name, busy)
        urls = {f"engines__{name}__url": engines.url(name) for name in NAMES}
        honest = {f"engines__{name}__idempotent": "true" for name in HONEST}
        async with fleet(dsn, **urls, **honest, engines__sms__url=engines.url("sms")) as daemons:
            cut = await kill_again_and_again(daemons, engines, busy, conn, kills)
            await daemons.start()
            await until(lambda: conn.fetchval(ALL_OVER), 60.0, "the end of all runs")
    assert cut > 0, "no kill met a call in flight"
    interrupted = "SELECT count(*) FROM task_log WHERE kind LIKE 'run.%' AND interruptions > 0"
    assert await conn.fetchval(interrupted) > 0, "no interruption"
    await check_calls(conn, engines)
    await check_ends(conn)


ALL_OVER = "SELECT NOT EXISTS (SELECT FROM campaign_runs WHERE status IN ('running', 'waiting', 'paused'))"


async def check_calls(conn: Connection, engines: CampaignEngines) -> None:
    """Nobody was asked too often, nor under another key than the one of that step."""
    asked = [a for a in engines.asked if a.engine in NAMES]
    often = {key: n for key, n in Counter(a.key for a in asked).items() if n > TRIES}
    assert often == {}, "a step was called beyond its tries"
    once = Counter(a.key for a in asked if a.engine not in HONEST)
    assert max(once.values()) == 1, "a step of one try was called twice"
    known = {r["idempotency_key"] for r in await conn.fetch("SELECT idempotency_key FROM engine_calls")}
    assert {a.key for a in asked} <= known
    steps = await conn.fetchval("SELECT count(*) FROM campaign_run_steps WHERE kind = 'engine' AND status <> 'skipped'")
    items = await conn.fetchval("SELECT count(*) FROM campaign_run_items")
    assert len({a.key for a in asked}) <= steps + items, "a step was called under two keys"
    assert set(engines.effects.values()) <= {1}, "an effect happened twice"


async def check_ends(conn: Connection) -> None:
    """Each run came to what its steps came to, and cost what its calls did."""
    assert await conn.fetchval(RECORDS) == 0
    for run in await conn.fetch("SELECT * FROM campaign_runs"):
        rows = await conn.fetch("SELECT * FROM campaign_run_steps WHERE run_id = $1 ORDER BY position", run["id"])
        statuses = {r["name"]: r["status"] for r in rows}
        assert run["status"] == expected(statuses), statuses
        assert run["steps_failed"] == sum(s in ("failed", "unknown") for s in statuses.values())
        cost = await conn.fetchval("SELECT coalesce(sum(cost), 0) FROM engine_calls WHERE run_id = $1", run["id"])
        assert run["total_cost"] == cost == sum(r["cost"] or 0 for r in rows)
    runs, total = await conn.fetchrow("SELECT total_runs, total_cost FROM campaigns") or (None, None)
    everything = await conn.fetchrow("SELECT count(*), sum(total_cost) FROM campaign_runs")
    assert (runs, total) == tuple(everything or ())
    assert await conn.fetchval("SELECT count(*) FROM tasks WHERE kind LIKE 'run.%'") == 0


def expected(statuses: dict[str, str]) -> str:
    """What a run comes to whose steps came to this."""
    failed = {name for name, status in statuses.items() if status in ("failed", "unknown")}
    if "prospecting" in failed:
        assert statuses["outreach"] == "skipped"
        return "failed"
    assert statuses["store"] == "completed"
    return "partial" if failed & {"analysis", "look"} else "completed"
