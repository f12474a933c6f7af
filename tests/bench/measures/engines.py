"""The shipped pipeline with an engine over loopback HTTP: the lead flow, and a burst of calls."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from tests.bench.contenders import SHIPPED
from tests.bench.driver import HERE, LIMIT_S, OWN_PYTHON, WARM_UP, Arena, Bench
from tests.bench.figures import OURS, Aim, Row
from tests.bench.measures.drain import pace
from tests.support.processes import until

BACKLOG, LEADS, PER_S = 10_000, 200, 20
BURST, AT_ONCE, LATENCY_S = 1_000, 64, 0.25
MEDIAN_MS = """
SELECT 1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM e.created_at - l.created_at))::float8
FROM orchestrator.pipeline_events e JOIN orchestrator.leads l ON l.id = e.lead_id
WHERE e.event_type = 'stage_change' AND e.to_stage = 'AI_CONVERSATION' AND l.external_id NOT LIKE '-%'
"""


@asynccontextmanager
async def engaged(bench: Bench, latency_s: float) -> AsyncIterator[tuple[Arena, str]]:
    """The shipped daemon's database, and the URL of an engine that takes its messages."""
    async with bench.arena(SHIPPED.name) as arena:
        engine = arena.launch((str(HERE / "engine.py"), str(latency_s)), OWN_PYTHON)

        async def listening() -> str:
            engine.must_live()
            return engine.said().strip()

        url = await until(listening, 20.0, "an engine that listens")
        own = {"URL": url, "MAX_CONCURRENCY": str(AT_ONCE), "IDEMPOTENT": "true"}
        arena.environ = {
            **arena.environ, **{f"ORCHESTRATOR_ENGINES__SMS__{name}": value for name, value in own.items()},
            "ORCHESTRATOR_SEND__HOURLY_LIMIT": "1000000", "ORCHESTRATOR_SEND__DAILY_LIMIT": "1000000",
        }  # fmt: skip
        yield arena, url


async def flow(bench: Bench) -> list[Row]:
    """Insert -> message -> engine answers at once -> AI_CONVERSATION; each with its reservation and settlement."""
    count = bench.count(BACKLOG)
    rate = Row("engine", f"drain of {count:,} with an instant engine", "leads/s")
    cpu = Row("engine", "client's and server's CPU in it", "µs/lead")
    wait = Row("engine", f"insert → AI_CONVERSATION at {PER_S}/s with an instant engine, median", "ms")
    for _ in bench.each():
        async with engaged(bench, 0) as (arena, _url):
            per_s, us = await _drain(arena, count)
        async with engaged(bench, 0) as (arena, _url):
            await arena.warm()
            await arena.insert(bench.count(LEADS), per_s=PER_S)
            await arena.all_handled()
            wait.add({OURS: await arena.conn.fetchval(MEDIAN_MS)})
        rate.add({OURS: per_s})
        cpu.add({OURS: us})
    return [rate, cpu, wait]


async def _drain(arena: Arena, count: int) -> tuple[float, float]:
    await arena.insert(count, batch=500)
    await arena.settle_down()
    before = arena.server_cpu_s()
    worker = arena.start()
    await arena.all_handled()
    cpu = worker.cpu_s() + arena.server_cpu_s() - before
    return pace(await arena.events(count)), 1e6 * cpu / count


async def bursts(bench: Bench) -> list[Row]:
    """1,000 calls at once to an engine that takes a quarter of a second."""
    count = bench.count(BURST, least=200)
    flight = Row("burst", f"calls in flight at the peak ({AT_ONCE} allowed)", "calls", (Aim(0.95 * AT_ONCE, AT_ONCE),))
    block = Row("burst", f"longest block of the loop in {count:,} calls", "ms", (Aim(50, at_most=True),), max)
    late = Row("burst", "longest block, with the time in which others had the CPU", "ms", (), max)
    first = Row("burst", "longest block from ready to the burst, first calls with it", "ms", (), max)
    taken = Row("burst", f"{count:,} calls of {LATENCY_S:g} s (ideally {count / AT_ONCE * LATENCY_S:.1f} s)", "s")
    rows = {"peak": flight, "blocked_ms": block, "late_ms": late, "before_ms": first, "seconds": taken}
    for _ in bench.each():
        async with engaged(bench, LATENCY_S) as (arena, url):
            figures = await _burst(arena, url, count)
        for name, row in rows.items():
            row.add({OURS: figures[name]})
    return list(rows.values())


async def _burst(arena: Arena, url: str, count: int) -> dict[str, float]:
    found = arena.folder / "probe.json"
    arena.contender = replace(SHIPPED, work=("-m", "tests.bench.probed"))
    worker = await arena.warm(BENCH_PROBE=str(found))
    worker.process.send_signal(signal.SIGUSR1)
    produced = await arena.insert(count, batch=count)
    await arena.all_handled(LIMIT_S)
    moved = await arena.events(count + WARM_UP)
    async with aiohttp.ClientSession() as http, http.get(f"{url}/figures") as response:
        seen = await response.json()
    assert seen["calls"] == count + WARM_UP, f"{seen} for {count + WARM_UP} leads"
    seconds = moved["last"].timestamp() - produced["end"]
    return {"peak": seen["peak"], "seconds": seconds, **json.loads(found.read_text())}
