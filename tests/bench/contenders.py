"""Who is compared: this daemon, two queues that people would otherwise use, and a hand-written bound.

One unit of work, the *lead flow*: another process inserts a lead -> a trigger queues its task -> a handler moves
the lead to AI_CONVERSATION -> the move and its event are committed and the task is settled. Every contender is a
process of its own: `python contenders.py NAME install|work`; the database's DSN is in BENCH_DSN. With BENCH_TRACE
set, each handler writes `number monotonic_ns` there with its first line; with BENCH_THINK_S it then waits for something
that long. With BENCH_MARK this daemon's handler leaves an event beside the move, so that a lead handled twice would
show: its second move would be refused. With BENCH_UVLOOP the others run on uvloop, too.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

import asyncpg

DSN = os.environ.get("BENCH_DSN", "")
THINK_S = float(os.environ.get("BENCH_THINK_S") or 0)
MARK = bool(os.environ.get("BENCH_MARK"))

PLAIN_SCHEMA = """
CREATE TABLE leads (
    id bigint PRIMARY KEY,
    stage text NOT NULL DEFAULT 'NEW_LEAD',
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE lead_events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lead_id bigint NOT NULL,
    from_stage text NOT NULL,
    to_stage text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
MOVE = """
WITH moved AS (UPDATE leads SET stage = 'AI_CONVERSATION', updated_at = clock_timestamp() WHERE id = $1 RETURNING id)
INSERT INTO lead_events (lead_id, from_stage, to_stage) SELECT id, 'NEW_LEAD', 'AI_CONVERSATION' FROM moved
"""


def trigger(body: str) -> str:
    """A statement-level trigger that queues one task per inserted lead."""
    return f"""
        CREATE FUNCTION queue_leads() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} RETURN NULL; END $f$;
        CREATE TRIGGER queue_leads AFTER INSERT ON leads REFERENCING NEW TABLE AS fresh
            FOR EACH STATEMENT EXECUTE FUNCTION queue_leads();
    """


_EVENTS = """
SELECT count(*) n, count(DISTINCT lead_id) leads, min(created_at) AS first, max(created_at) AS last,
       count(*) FILTER (WHERE created_at = first_at) AS at_first
FROM (SELECT lead_id, created_at, min(created_at) OVER () AS first_at FROM {}) AS e
"""


@dataclass(frozen=True, slots=True)
class Contender:
    """How the driver inserts leads and sees what became of them."""

    name: str
    install: tuple[str, ...]
    work: tuple[str, ...]
    insert: str = "INSERT INTO leads (id) SELECT * FROM generate_series($1::bigint, $2::bigint)"
    left: str = "SELECT EXISTS (SELECT FROM leads WHERE stage = 'NEW_LEAD')"
    events: str = _EVENTS.format("lead_events")
    undone: str = ""
    handled: str = "SELECT lead_id::text AS number, count(*) AS times FROM lead_events GROUP BY 1"


def _script(name: str, **columns: str) -> Contender:
    script = str(Path(__file__))
    return Contender(name, (script, name, "install"), (script, name, "work"), **columns)


_OURS = {
    "left": "SELECT EXISTS (SELECT FROM orchestrator.leads WHERE stage = 'NEW_LEAD')",
    "events": _EVENTS.format("orchestrator.pipeline_events WHERE event_type = 'stage_change'"),
    "undone": "SELECT count(*) FROM orchestrator.tasks",
    "handled": "SELECT l.external_id AS number, count(*) AS times FROM orchestrator.pipeline_events e"
    " JOIN orchestrator.leads l ON l.id = e.lead_id WHERE e.event_type IN ('handled', 'stage_change')"
    " GROUP BY 1, e.event_type",
}
_INSERT_OURS = (
    "INSERT INTO orchestrator.leads (pipeline, name, phone, external_id) SELECT '{}', 'Lead ' || g,"
    " '+1202' || lpad(abs(g)::text, 7, '0'), g::text FROM generate_series($1::bigint, $2::bigint) g"
)
CONTENDERS = {
    c.name: c
    for c in (
        _script("orchestrator", insert=_INSERT_OURS.format("bench"), **_OURS),
        _script("pgqueuer", undone="SELECT count(*) FROM pgqueuer"),
        _script("procrastinate", undone="SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"),
        _script("reference", undone="SELECT count(*) FROM jobs"),
    )
}
SHIPPED = Contender(
    "shipped", ("-m", "daemon", "db", "init"), ("-m", "daemon", "run"),
    insert=_INSERT_OURS.format("vendor_acquisition"), **_OURS,
)  # fmt: skip
"""This daemon as it is shipped: the real command, its real pipelines."""


class Trace:
    """Writes down when each handler begins."""

    def __init__(self) -> None:
        path = os.environ.get("BENCH_TRACE")
        self._file: IO[str] | None = Path(path).open("a", buffering=1) if path else None

    def began(self, number: object) -> None:
        """The first line of a handler."""
        if self._file:
            self._file.write(f"{number} {time.monotonic_ns()}\n")


async def plain_install(conn: Any, body: str) -> None:
    await conn.execute(PLAIN_SCHEMA)
    await conn.execute(trigger(body))


async def plain_pool(size: int) -> Any:
    """What the handlers of the others write through; they leave no session state, so nothing is reset."""

    async def no_reset(_: Any) -> None:
        return None

    return await asyncpg.create_pool(DSN, min_size=size, max_size=size, reset=no_reset)


# -- this daemon


def bench_pipeline(trace: Trace) -> Any:
    from daemon.task import Policy
    from handlers.effects import Event, Move
    from handlers.lead import Lead
    from handlers.pipeline import CALLS_AN_ENGINE, Attempt, Pipeline, Stage, done

    async def move_on(lead: Lead, attempt: Attempt) -> Any:
        trace.began(lead.row["external_id"])
        if THINK_S:
            await asyncio.sleep(THINK_S)
        mark = (Event(lead.id, "handled", {}),) if MARK else ()
        return done(*mark, Move(lead.id, lead.stage_seq, "AI_CONVERSATION", "bench"), reason="bench")

    policy = CALLS_AN_ENGINE if THINK_S else Policy()
    return Pipeline("bench", (Stage("NEW_LEAD", ("AI_CONVERSATION",), move_on, policy), Stage("AI_CONVERSATION")))


async def orchestrator_install() -> None:
    from daemon.app import prepare
    from daemon.db import connect

    conn = await connect(DSN)
    await prepare(conn, (bench_pipeline(Trace()),))
    await conn.close()


async def orchestrator_work() -> None:
    from daemon import log
    from daemon.api.server import serve
    from daemon.app import Daemon, ease_collector
    from daemon.settings import load_settings

    log.configure("WARNING", "json")
    ease_collector()
    own = {name: value for name, value in os.environ.items() if name.startswith("ORCHESTRATOR_")}
    daemon = Daemon(load_settings({"DATABASE_URL": DSN, **own}), DSN, DSN, (bench_pipeline(Trace()),))
    async with daemon.assembled():
        await daemon.open_database()
        await daemon.run((serve(daemon),))


# -- pgqueuer


async def pgqueuer_install() -> None:
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    conn = await asyncpg.connect(DSN)
    await Queries(AsyncpgDriver(conn)).install()
    await plain_install(
        conn,
        """
        WITH job AS (
            INSERT INTO pgqueuer (priority, entrypoint, payload, status)
            SELECT 0, 'lead_flow', convert_to(id::text, 'UTF8'), 'queued' FROM fresh
            RETURNING id, entrypoint, priority
        )
        INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority)
        SELECT id, 'queued', entrypoint, priority FROM job;
        """,
    )
    await conn.close()


async def pgqueuer_work() -> None:
    from pgqueuer import PgQueuer

    pool = await plain_pool(20)
    trace, queue = Trace(), PgQueuer.from_asyncpg_connection(await asyncpg.connect(DSN))

    @queue.entrypoint("lead_flow")
    async def lead_flow(job: Any) -> None:
        number = int(job.payload)
        trace.began(number)
        if THINK_S:
            await asyncio.sleep(THINK_S)
        await pool.execute(MOVE, number)

    end_at_once_on_sigterm()
    await queue.run(dequeue_timeout=timedelta(seconds=30), batch_size=50, max_concurrent_tasks=200)


# -- procrastinate


def procrastinate_app(trace: Trace, pool: Any = None) -> Any:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DSN, min_size=4, max_size=4))

    @app.task(name="lead_flow")
    async def lead_flow(lead_id: int) -> None:
        trace.began(lead_id)
        if THINK_S:
            await asyncio.sleep(THINK_S)
        await pool.execute(MOVE, lead_id)

    return app


async def procrastinate_install() -> None:
    app = procrastinate_app(Trace())
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    conn = await asyncpg.connect(DSN)
    defer = await conn.fetchval("SELECT max(proname) FROM pg_proc WHERE proname LIKE 'procrastinate_defer_jobs_v%'")
    job = "('default', 'lead_flow', 0, NULL, NULL, jsonb_build_object('lead_id', id), NULL)"
    await plain_install(conn, f"PERFORM {defer}(ARRAY(SELECT {job}::procrastinate_job_to_defer_v1 FROM fresh));")
    await conn.close()


async def procrastinate_work() -> None:
    pool = await plain_pool(10)
    app = procrastinate_app(Trace(), pool)
    end_at_once_on_sigterm()
    async with app.open_async():
        await app.run_worker_async(concurrency=10, install_signal_handlers=False, delete_jobs="successful")


# -- the bound: a minimal queue without keys, history, guards, versions or retries


REFERENCE_QUEUE = """
CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, lead_id bigint NOT NULL, claim uuid, claimed_at timestamptz
);
CREATE INDEX jobs_ready ON jobs (id) WHERE claim IS NULL;
CREATE INDEX jobs_claimed ON jobs (claimed_at) WHERE claim IS NOT NULL;
"""
REFERENCE_CLAIM = """
WITH pick AS (SELECT id FROM jobs WHERE claim IS NULL ORDER BY id LIMIT 200 FOR UPDATE SKIP LOCKED)
UPDATE jobs SET claim = $1, claimed_at = now() FROM pick WHERE jobs.id = pick.id RETURNING jobs.id, jobs.lead_id
"""
REFERENCE_GIVE_BACK = """
UPDATE jobs SET claim = NULL, claimed_at = NULL WHERE claim IS NOT NULL AND claimed_at < now() - interval '30 seconds'
"""
REFERENCE_APPLY = """
WITH done AS (
    DELETE FROM jobs USING unnest($1::bigint[]) AS j(id) WHERE jobs.id = j.id AND jobs.claim = $2 RETURNING jobs.lead_id
), effect AS (
    SELECT * FROM unnest($3::bigint[], $4::text[]) AS e(lead_id, to_stage)
), moved AS (
    UPDATE leads SET stage = effect.to_stage, updated_at = clock_timestamp()
    FROM effect JOIN done USING (lead_id) WHERE leads.id = effect.lead_id RETURNING leads.id, effect.to_stage
)
INSERT INTO lead_events (lead_id, from_stage, to_stage) SELECT id, 'NEW_LEAD', to_stage FROM moved
"""


async def reference_install() -> None:
    conn = await asyncpg.connect(DSN)
    await conn.execute(REFERENCE_QUEUE)
    await plain_install(conn, "INSERT INTO jobs (lead_id) SELECT id FROM fresh; PERFORM pg_notify('jobs', '');")
    await conn.close()


async def reference_work() -> None:
    wake, listener = asyncio.Event(), await asyncpg.connect(DSN)
    await listener.add_listener("jobs", lambda *_: wake.set())
    end_at_once_on_sigterm()
    trace = Trace()
    await asyncio.gather(reference_loop(trace, wake), reference_loop(trace, wake), reference_give_back(listener))


async def reference_loop(trace: Trace, wake: asyncio.Event) -> None:
    """Batch after batch; when there is none, until the next notification."""
    conn = await asyncpg.connect(DSN)
    while True:
        wake.clear()
        if await reference_batch(conn, trace, uuid4()) == 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await wake.wait()


async def reference_batch(conn: Any, trace: Trace, claim: UUID) -> int:
    """Claim, decide, commit all effects at once."""

    async def handle(number: int) -> tuple[int, str]:
        trace.began(number)
        await asyncio.sleep(THINK_S)
        return number, "AI_CONVERSATION"

    rows = await conn.fetch(REFERENCE_CLAIM, claim)
    if rows:
        effects = await asyncio.gather(*(handle(r["lead_id"]) for r in rows))
        await conn.execute(REFERENCE_APPLY, [r["id"] for r in rows], claim, *map(list, zip(*effects, strict=True)))
    return len(rows)


async def reference_give_back(conn: Any) -> None:
    """A claim older than its lease is given back."""
    while True:
        await conn.execute(REFERENCE_GIVE_BACK)
        await asyncio.sleep(10)


def end_at_once_on_sigterm() -> None:
    """Shutdown isn't measured."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def main(name: str, what: str) -> None:
    """Install or work. The others have asyncio's own loop, as in the comparison that the aims were taken from."""
    import uvloop

    parts: dict[str, Callable[[], Any]] = globals()
    run = uvloop.run if name == "orchestrator" or os.environ.get("BENCH_UVLOOP") else asyncio.run
    run(parts[f"{name}_{what}"]())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
