"""One million leads and as many waiting tasks: the sweep, memory, deadlines that fall due together, the API's lists."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import aiohttp

from daemon import __version__
from daemon.db import Pool
from daemon.metrics import Metrics
from daemon.settings import load_settings
from daemon.sweep import Sweep
from handlers import sweep
from tests.bench.contenders import SHIPPED
from tests.bench.driver import LIMIT_S, Arena, Bench
from tests.bench.figures import OURS, Aim, Row, share
from tests.bench.measures.idle import noticing
from tests.support.api import free_port
from tests.support.processes import until

LEADS, DUE, ASKED = 1_000_000, 10_000, 40
LIST_MS = 20.0
CALM_S, HEAD_START_S = 10.0, 5.0
LOAD = """
SET session_replication_role = replica;
SET search_path = orchestrator;
INSERT INTO leads (id, stage, name, phone, email, data, created_at, updated_at, stage_entered_at, deadline_at,
                   deadline_step, needs_review, version, stage_seq, entry_pending, conversation_started_at)
SELECT new_id(), (ARRAY['AI_CONVERSATION', 'OFFER_MADE', 'DUE_DILIGENCE', 'DEAD_LEAD'])[1 + n % 4],
       'Lead ' || n, '+1555' || lpad(n::text, 7, '0'), 'lead' || n || '@example.com', '{{}}',
       now() - n * interval '1 second', now(), now(),
       CASE WHEN n % 4 < 3 THEN now() + (24 + n % 500) * interval '1 hour' END, 0, n % 500 = 0, 1, 1, false, now()
FROM generate_series(1, {0}) AS n;
INSERT INTO tasks (kind, key, payload, run_at)
SELECT 'lead.check', 'lead:' || id, jsonb_build_object('lead_id', id), now() + interval '2 days' FROM leads;
INSERT INTO pipeline_events (lead_id, event_type, to_stage, created_at)
SELECT id, 'created', stage, created_at FROM leads;
RESET session_replication_role;
"""
FALL_DUE = """
WITH chosen AS (SELECT id FROM orchestrator.leads WHERE stage = 'AI_CONVERSATION' ORDER BY created_at LIMIT $1)
UPDATE orchestrator.leads SET deadline_step = 2, deadline_at = $2 WHERE id IN (SELECT id FROM chosen)
"""
PENDING = "SELECT EXISTS (SELECT FROM orchestrator.leads WHERE deadline_at = $1)"
LATEST = """
SELECT count(*) AS n, max(created_at) AS last FROM orchestrator.pipeline_events
WHERE event_type = 'stage_change' AND to_stage = 'DEAD_LEAD' AND created_at >= $1
"""


async def millions(bench: Bench) -> list[Row]:
    """Everything on one database, which takes a minute to fill."""
    async with bench.arena(SHIPPED.name) as arena:
        count = bench.count(LEADS, least=20_000)
        await _fill(arena, count)
        rows = [await _sweeps(bench, arena)]
        port = free_port()
        async with noticing(arena.folder) as (address, ready):
            worker = arena.start(NOTIFY_SOCKET=address, ORCHESTRATOR_API__PORT=str(port))
            await ready()
        rss = Row("million", f"RSS beside {count:,} waiting tasks", "MB", (Aim(80, at_most=True),))
        await asyncio.sleep(bench.seconds(CALM_S))
        rss.add({OURS: worker.rss_mb()})
        rows += await _lists(arena, f"http://127.0.0.1:{port}")
        rows += [await _deadlines(bench, arena), rss]
        rss.add({OURS: worker.rss_mb()})
    return rows


async def _fill(arena: Arena, count: int) -> None:
    began = time.monotonic()
    async with asyncio.timeout(5 * LIMIT_S):
        await arena.conn.execute(LOAD.format(count))
        await arena.settle_down()
    print(f"\n{count:,} leads and tasks in {time.monotonic() - began:.0f} s", flush=True)


async def _sweeps(bench: Bench, arena: Arena) -> Row:
    row = Row("million", "a sweep with nothing due: database time", "ms", (Aim(20, at_most=True),))
    log, metrics = arena.statement_log(), Metrics(__version__)
    await log.begin(arena.conn)
    with closing(Pool(arena.dsn, 1)) as pool:
        one = Sweep(pool, sweep.steps(load_settings({}), metrics), metrics)
        assert await one.run() == 0, "the sweep found something due"
        for _ in bench.each():
            log.mark()
            await one.run()
            row.add({OURS: log.database_ms()})
    await log.end(arena.conn)
    return row


async def _deadlines(bench: Bench, arena: Arena) -> Row:
    count = bench.count(DUE, least=500)
    row = Row("million", f"{count:,} deadlines that fall due at once: all handled", "s", (Aim(3.0, at_most=True),))
    for _ in bench.each():
        due = await arena.conn.fetchval("SELECT clock_timestamp() + $1", timedelta(seconds=HEAD_START_S))
        await arena.conn.execute(FALL_DUE, count, due)
        assert await arena.conn.fetchval("SELECT clock_timestamp() < $1", due), "the deadlines were written too slowly"

        async def over(due: datetime = due) -> bool:
            arena.must_live()
            return not await arena.conn.fetchval(PENDING, due)

        await until(over, LIMIT_S, f"{count} deadlines handled", pause=0.1)
        [moved] = await arena.conn.fetch(LATEST, due)
        assert moved["n"] == count, f"{moved} after {count} deadlines"
        row.add({OURS: (moved["last"] - due).total_seconds()})
    return row


# -- the API's lists


async def _lists(arena: Arena, base: str) -> list[Row]:
    slowest = Row("million", "API lists with filters: p95 of the slowest", "ms", (Aim(LIST_MS, at_most=True),))
    rare = Row("million", "API: leads by a text that one of them has, p95", "ms")
    async with aiohttp.ClientSession(base) as http:
        found = {}
        for name, path, query in [one async for one in _asks(arena, http)]:
            found[name] = await _p95(http, path, query)
        rare.add({OURS: await _p95(http, "/api/leads", {"q": "lead4321@"}, asked=5)})
    slowest.add({OURS: max(found.values())})
    slowest.note = ", ".join(f"{name} {ms:.1f}" for name, ms in sorted(found.items(), key=lambda one: -one[1]))
    return [slowest, rare]


async def _asks(arena: Arena, http: aiohttp.ClientSession) -> Any:
    lead = await arena.conn.fetchval("SELECT id FROM orchestrator.leads OFFSET 1000 LIMIT 1")
    async with http.get("/api/leads") as response:
        cursor = (await response.json())["nextCursor"]
    for name, path, query in _plain_asks(str(lead)):
        yield name, path, query
    yield "second page", "/api/leads", {"cursor": cursor}


def _plain_asks(lead: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    vendor = {"pipeline": "vendor_acquisition"}
    yield "newest", "/api/leads", {}
    yield "100 newest", "/api/leads", {"limit": "100"}
    yield "pipeline and stage", "/api/leads", {**vendor, "stage": "OFFER_MADE"}
    yield "an empty stage", "/api/leads", {**vendor, "stage": "RETRY_3"}
    yield "to review", "/api/leads", {"needs_review": "true"}
    yield "stage to review", "/api/leads", {"needs_review": "true", "stage": "DUE_DILIGENCE"}
    yield "an email address", "/api/leads", {"q": "lead4321@example.com"}
    yield "a phone number", "/api/leads", {"q": "+15550004321"}
    yield "a frequent text", "/api/leads", {"q": "Lead 1"}
    yield "history", f"/api/leads/{lead}/events", {}
    yield "tasks", "/api/tasks", {}
    yield "waiting tasks of a kind", "/api/tasks", {"status": "available", "kind": "lead.check"}
    yield "dead tasks", "/api/tasks", {"status": "dead"}
    yield "ended tasks", "/api/tasks", {"status": "done"}


async def _p95(http: aiohttp.ClientSession, path: str, query: dict[str, str], asked: int = ASKED) -> float:
    took = []
    for _ in range(asked):
        began = time.perf_counter()
        async with http.get(path, params=query) as response:
            said = await response.read()
        took.append(1e3 * (time.perf_counter() - began))
        assert response.status == 200, f"{path} {query}: {said!r}"
    return share(took, 0.95)
