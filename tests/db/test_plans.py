"""Every hot query finds its rows by an index, whatever the statistics say; the loads are a big queue and many leads."""

import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest

from daemon import listener, queue
from daemon.api import stuck
from daemon.api.server import READS
from daemon.db import DAEMON_SESSION, Connection, Statements, connect
from daemon.metrics import Metrics
from daemon.settings import load_settings
from daemon.sweep import strange_kinds
from handlers import registry, sweep
from tests.support.postgres import Server

pytestmark = pytest.mark.xdist_group("plans")  # the load is made once
LOAD: Final = """
SET session_replication_role = replica;
INSERT INTO leads (id, stage, name, phone, email, data, created_at, updated_at, stage_entered_at, deadline_at, version,
                   stage_seq, entry_pending)
SELECT gen_random_uuid(), (ARRAY['AI_CONVERSATION', 'OFFER_MADE', 'DUE_DILIGENCE', 'DEAD_LEAD'])[1 + n % 4],
       'Lead ' || n, '+1555' || lpad(n::text, 7, '0'), 'lead' || n || '@example.com', '{}',
       now() - n * interval '1 second', now(), now(),
       CASE WHEN n % 4 < 3 THEN now() + (1 + n % 500) * interval '1 hour' END, 1, 1, false
FROM generate_series(1, 100000) AS n;
INSERT INTO tasks (kind, key, payload, priority, status, run_at, lease_id, lease_expires_at, worker, max_attempts)
SELECT (ARRAY['lead.check', 'lead.deadline', 'message', 'reply', 'vendor_acquisition.NEW_LEAD',
              'vendor_acquisition.OFFER_MADE'])[1 + n % 6],
       'lead:' || gen_random_uuid(), '{"stage_seq": 1}', (ARRAY[10, 50, 90])[1 + n % 3],
       CASE WHEN n <= 300 THEN 'running' WHEN n <= 2000 THEN 'dead' ELSE 'available' END,
       now() + CASE WHEN n % 40 = 0 THEN interval '-1 minute' ELSE (1 + n % 500) * interval '1 hour' END,
       CASE WHEN n <= 300 THEN gen_random_uuid() END, CASE WHEN n <= 300 THEN now() + interval '1 hour' END,
       CASE WHEN n <= 300 THEN gen_random_uuid() END, 3
FROM generate_series(1, 200000) AS n;
INSERT INTO messages (lead_id, template, to_address, status, send_at)
SELECT id, 'VIDEO', phone, CASE WHEN n % 20 = 0 THEN 'scheduled' ELSE 'sent' END, now() + interval '1 hour'
FROM (SELECT id, phone, row_number() OVER () AS n FROM leads) AS l LIMIT 50000;
INSERT INTO replies (lead_id, channel, from_address, body, status)
SELECT id, 'sms', phone, 'Hello', 'routed' FROM leads LIMIT 20000;
INSERT INTO pipeline_events (lead_id, event_type) SELECT id, 'created' FROM leads;
INSERT INTO engine_calls (engine, operation, task_id, lead_id, idempotency_key, status)
SELECT 'sms', '/api/send', n, gen_random_uuid(), 'k' || n, 'ok' FROM generate_series(1, 50000) AS n;
INSERT INTO task_log (id, kind, payload, priority, status, run_at, attempt, round, interruptions,
                      created_at, finished_at)
SELECT n, 'message', '{}', 50, 'done', now(), 1, 0, 0, now(), now() - (100000 - n) * interval '1 minute'
FROM generate_series(1, 100000) AS n;
INSERT INTO campaigns (name, schedule_cron, next_run_at, status, resume_at)
SELECT 'Campaign ' || n, CASE WHEN n % 2 = 0 THEN '@daily' END,
       CASE WHEN n % 2 = 0 THEN now() + (1 + n % 500) * interval '1 hour' END,
       CASE WHEN n % 10 = 0 THEN 'paused' ELSE 'active' END,
       CASE WHEN n % 20 = 0 THEN now() + (1 + n % 500) * interval '1 hour' END
FROM generate_series(1, 20000) AS n;
INSERT INTO campaign_runs (campaign_id, status, scheduled_for)
SELECT id, 'completed', now() - n * interval '1 day' FROM campaigns CROSS JOIN generate_series(1, 3) AS n;
INSERT INTO email_exclusions (address) SELECT 'gone' || n || '@example.com' FROM generate_series(1, 20000) AS n;
RESET session_replication_role;
"""
BIG: Final = (
    "leads", "tasks", "messages", "replies", "pipeline_events", "engine_calls", "task_log", "email_exclusions",
    "campaigns", "campaign_runs",
)  # fmt: skip
SMALL_INDEXES: Final = frozenset(
    {"tasks_running_key", "tasks_dead", "tasks_lonely", "leads_entry_pending", "messages_scheduled", "replies_received"}
)
"""Partial: each holds only what is going on, so reading all of one is cheap."""
READS_ALL: Final[Mapping[str, str]] = {
    "leads.strangers": "once, at the start",
    "schedule.stopped": "once, at the start",
}
RARE: Final[Mapping[str, str]] = {
    "sweep.set_aside": "only if there are such kinds, and then once",
    "sweep.take_up": "only if there are such kinds, and then once",
}
HOT: Final = {
    ".".join((file.removesuffix(".sql"), name)): text
    for package, file in (
        ("daemon", "queue.sql"), ("daemon", "sweep.sql"), ("daemon", "worker.sql"), ("daemon", "ledger.sql"),
        ("daemon", "learnings.sql"),
        ("handlers", "effects.sql"), ("handlers", "leads.sql"), ("handlers", "messages.sql"),
        ("handlers", "replies.sql"), ("handlers", "sweep.sql"),
        ("campaigns", "schedule.sql"), ("campaigns", "starting.sql"), ("campaigns", "budget.sql"),
    )
    for name, text in Statements(package, file).items()
}  # fmt: skip
FUNCTIONS: Final = ("pulse", "fire_deadlines", "take_over", "free_expired", "revive", "retry_task")
KINDS: Final = registry.kinds(registry.by_name(registry.PIPELINES))
DUE: Final = ("lead.check", "message", "vendor_acquisition.NEW_LEAD")
"""The kinds of which some tasks are due; of the others all wait for their time."""
BEST_OF: Final = 7


Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Scan:
    """One place of a plan where a table is read."""

    node: str
    table: str
    index: str | None
    condition: str | None

    @property
    def reads_all(self) -> bool:
        """Whether the whole table, or a whole index that grows with it, is read."""
        if self.table not in BIG:
            return False
        return self.index is None or (self.condition is None and self.index not in SMALL_INDEXES)


def scans(plan: Mapping[str, Any]) -> Iterator[Scan]:
    """Every place where a plan reads a table."""
    if "Relation Name" in plan and plan["Node Type"] != "ModifyTable":
        yield Scan(plan["Node Type"], plan["Relation Name"], plan.get("Index Name"), plan.get("Index Cond"))
    for part in plan.get("Plans", ()):
        yield from scans(part)


async def plan_of(conn: Connection, text: str) -> list[Scan]:
    """How the daemon's session would read its tables, not knowing the parameters."""
    number = max((int(n) for n in re.findall(r"\$(\d+)", text)), default=0)
    await conn.execute(f"PREPARE hot AS {text}")
    try:
        nothing = f"({', '.join(['NULL'] * number)})" if number else ""
        plan = await conn.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot{nothing}")
    finally:
        await conn.execute("DEALLOCATE hot")
    return list(scans(json.loads(plan)[0]["Plan"]))


@pytest.fixture(scope="module")
async def crowd(server: Server) -> AsyncIterator[str]:
    """A database with 200,000 tasks and 100,000 leads whose statistics say that it is empty."""
    dsn = await server.clone()
    conn = await connect(dsn)
    for table in BIG:
        await conn.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    await conn.execute("VACUUM ANALYZE")
    await conn.execute(LOAD)
    await conn.close()
    yield dsn
    await server.drop(dsn)


@pytest.fixture(scope="module", params=["statistics of empty tables", "true statistics"])
async def full(crowd: str, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A daemon's connection to it."""
    conn = await connect(crowd, session=DAEMON_SESSION)
    if request.param == "true statistics":
        await conn.execute("ANALYZE")
    yield conn
    await conn.close()


@pytest.fixture(scope="module")
async def newborn(server: Server) -> AsyncIterator[Connection]:
    """A daemon's connection to a database that nobody has analysed yet: plans made now meet the first burst."""
    dsn = await server.clone()
    conn = await connect(dsn, session=DAEMON_SESSION)
    assert not await conn.fetchval("SELECT bool_or(reltuples >= 0) FROM pg_class WHERE relname = ANY ($1)", BIG)
    yield conn
    await conn.close()
    await server.drop(dsn)


@pytest.mark.parametrize("name", sorted(HOT.keys() - READS_ALL.keys()))
async def test_a_hot_statement_finds_its_rows_by_an_index(full: Connection, name: str) -> None:
    assert [scan for scan in await plan_of(full, HOT[name]) if scan.reads_all] == []


@pytest.mark.parametrize("name", sorted(HOT.keys() - READS_ALL.keys() - RARE.keys()))
async def test_a_hot_statement_finds_its_rows_by_an_index_in_a_new_database(newborn: Connection, name: str) -> None:
    """Mutant: say NOT EXISTS in `claim`, and it becomes a join that reads all waiting tasks for each of them."""
    assert [scan for scan in await plan_of(newborn, HOT[name]) if scan.reads_all] == []


def test_what_may_read_all_still_exists() -> None:
    assert READS_ALL.keys() | RARE.keys() <= HOT.keys()


# -- functions: their queries, cut out of their texts


def queries_in(text: str) -> Iterator[str]:
    """Every query in a function's text: those in parentheses, and the statements themselves."""
    text = re.sub(r"--[^\n]*", "", text)
    for found in re.finditer(r"\(\s*SELECT\b", text):
        depth = 0
        for place in range(found.start(), len(text)):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            if depth == 0:
                yield text[found.start() + 1 : place]
                break
    for statement in re.split(r";|\bTHEN\s*\n|\bBEGIN\b", text):
        if re.match(r"\s*(UPDATE|INSERT|DELETE)\b", statement):
            yield statement.strip()


async def _as_statement(conn: Connection, function: str, query: str) -> str:
    """The query with the function's parameters and variables as placeholders of their types."""
    text = await conn.fetchval("SELECT prosrc FROM pg_proc WHERE proname = $1", function)
    named = dict(re.findall(r"(\w+) (timestamptz|int|uuid|bigint)\b", text.split("BEGIN")[0]))
    arguments = await conn.fetchval(
        "SELECT pg_get_function_identity_arguments(p.oid) FROM pg_proc p WHERE p.proname = $1", function
    )
    named |= dict(re.findall(r"(\w+) (integer|uuid|bigint)\b", re.sub(r"OUT [^,]+", "", arguments)))
    for number, (variable, kind) in enumerate(sorted(named.items()), start=1):
        query = re.sub(rf"(?<![.\w]){variable}\b", f"(${number}::{kind})", query)
    numbers = sorted({int(n) for n in re.findall(r"\$(\d+)", query)})
    for dense, number in enumerate(numbers, start=1):
        query = query.replace(f"(${number}::", f"(${dense}::")
    return query


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_the_queries_of_a_function_find_their_rows_by_an_index(full: Connection, function: str) -> None:
    text = await full.fetchval("SELECT prosrc FROM pg_proc WHERE proname = $1", function)
    found = list(queries_in(text))
    assert found
    for query in found:
        statement = await _as_statement(full, function, query)
        with suppress(asyncpg.UndefinedTableError):  # part of a larger query, which is looked at as a whole
            assert [scan for scan in await plan_of(full, statement) if scan.reads_all] == [], statement


# -- and in fact: what is read, and how long it takes


async def _best(conn: Connection, call: Call) -> float:
    """Milliseconds of the fastest of a few runs, none of which is committed."""
    times = []
    for _ in range(BEST_OF):
        transaction = conn.transaction()
        await transaction.start()
        began = time.perf_counter()
        await call()
        times.append((time.perf_counter() - began) * 1000)
        await transaction.rollback()
    return min(times)


async def _counters(conn: Connection) -> dict[str, tuple[int, int]]:
    sql = "SELECT relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) AS n FROM pg_stat_xact_user_tables"
    return {r["relname"]: (r["seq_scan"], r["n"]) for r in await conn.fetch(sql) if r["relname"] in BIG}


async def _read(conn: Connection, call: Call) -> dict[str, int]:
    """Rows read of each big table by a call, whatever functions it calls; never by a scan of all."""
    transaction = conn.transaction()
    await transaction.start()
    before = await _counters(conn)
    await call()
    after = await _counters(conn)
    await transaction.rollback()
    assert [table for table in BIG if after[table][0] > before[table][0]] == []
    return {table: after[table][1] - before[table][1] for table in BIG}


def _claim(conn: Connection, names: Collection[str], room: int) -> Call:
    of = queue.Room(dict.fromkeys(names, room), room)
    return lambda: queue.claim(conn, KINDS, of, worker=uuid4(), lease_s=30.0)


async def test_a_claim_beside_200_000_tasks_reads_little_and_is_fast(full: Connection) -> None:
    assert (await _read(full, _claim(full, KINDS, 100)))["tasks"] < 2_000
    assert await _best(full, _claim(full, KINDS, 100)) < 20


async def test_a_claim_of_kinds_of_which_nothing_is_due_reads_next_to_nothing(full: Connection) -> None:
    not_due = [name for name in KINDS if name not in DUE]
    waiting = "SELECT count(*) FROM tasks WHERE kind = ANY ($1) AND status = 'available'"
    assert await full.fetchval(waiting, not_due) > 50_000
    assert (await _read(full, _claim(full, not_due, 500)))["tasks"] < 100
    assert await _best(full, _claim(full, not_due, 500)) < 20


async def test_a_pulse_reads_little_and_is_fast(full: Connection) -> None:
    def pulse() -> Awaitable[Any]:
        return full.fetch(listener.SQL["pulse"], 1)

    read = await _read(full, pulse)
    assert all(n < 1_000 for n in read.values()), read
    assert await _best(full, pulse) < 20


async def test_a_sweep_with_nothing_due_takes_20_ms_at_most(full: Connection) -> None:
    steps = [*sweep.steps(load_settings({}), Metrics("test")), strange_kinds(KINDS)]
    took = {step.name: await _best(full, partial(step.run, full)) for step in steps}
    assert sum(took.values()) < 20, took


@pytest.mark.parametrize("full", ["true statistics"], indirect=True)
@pytest.mark.parametrize("check", stuck.CHECKS, ids=lambda check: check.name)
async def test_a_check_of_what_is_stuck_reads_little_beside_100_000_leads(
    crowd: str, full: Connection, check: stuck.Check
) -> None:
    """Mutant: leave out `m.status = 'scheduled'` in `unsent`, and it reads all messages."""
    api = await connect(crowd, session=READS)
    try:
        facts = stuck._facts(check, load_settings({}))
        read = await _read(api, lambda: api.fetchval(stuck.SQL[check.name], "vendor_acquisition", *facts))
        assert all(n < 3_000 for n in read.values()), read
    finally:
        await api.close()
