"""Who is compared: this daemon, two queues that people would otherwise use, and a hand-written bound.

One unit of work, the *lead flow*: another process inserts a lead -> a trigger queues its task -> a handler moves
the lead to AI_CONVERSATION -> the move and its event are committed and the task is settled. Every contender is a
process of its own: `python contenders.py NAME install|work`; the database's DSN is in BENCH_DSN. With BENCH_TRACE
set, each handler writes `number monotonic_ns` there with its first line.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

import asyncpg

DSN = os.environ.get("BENCH_DSN", "")
THINK_S = float(os.environ.get("BENCH_THINK_S") or 0)

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


@dataclass(frozen=True, slots=True)
class Contender:
    """How the driver inserts leads and sees what became of them."""

    name: str
    insert: str = "INSERT INTO leads (id) SELECT * FROM generate_series($1::bigint, $2::bigint)"
    left: str = "SELECT count(*) FROM leads WHERE stage = 'NEW_LEAD'"
    events: str = (
        "SELECT count(*) n, count(DISTINCT lead_id) leads, min(created_at) first, max(created_at) last FROM lead_events"
    )
    undone: str = ""


PLAIN_LEFT_OURS = "SELECT count(*) FROM orchestrator.leads WHERE stage = 'NEW_LEAD'"
CONTENDERS = {
    c.name: c
    for c in (
        Contender(
            "orchestrator",
            "INSERT INTO orchestrator.leads (pipeline, name, phone, external_id)"
            " SELECT 'bench', 'Lead ' || g, '+12025550100', g::text FROM generate_series($1::bigint, $2::bigint) g",
            PLAIN_LEFT_OURS,
            "SELECT count(*) n, count(DISTINCT lead_id) leads, min(created_at) first, max(created_at) last"
            " FROM orchestrator.pipeline_events WHERE event_type = 'stage_change'",
            "SELECT count(*) FROM orchestrator.tasks",
        ),
        Contender("pgqueuer", undone="SELECT count(*) FROM pgqueuer"),
        Contender("procrastinate", undone="SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"),
        Contender("reference", undone="SELECT count(*) FROM jobs"),
    )
}


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


# -- this daemon


def bench_pipeline(trace: Trace) -> Any:
    from handlers.effects import Effects, Move
    from handlers.lead import Lead
    from handlers.pipeline import Attempt, Pipeline, Stage, done

    async def move_on(lead: Lead, attempt: Attempt) -> Any:
        trace.began(lead.row["external_id"])
        return done(Move(lead.id, lead.stage_seq, "AI_CONVERSATION", "bench"), reason="bench")

    _ = Effects
    return Pipeline("bench", (Stage("NEW_LEAD", ("AI_CONVERSATION",), move_on), Stage("AI_CONVERSATION")))


async def orchestrator_install() -> None:
    from daemon.app import prepare
    from daemon.db import connect

    conn = await connect(DSN)
    await prepare(conn, (bench_pipeline(Trace()),))
    await conn.close()


async def orchestrator_work() -> None:
    from daemon import log
    from daemon.app import Daemon
    from daemon.settings import load_settings

    log.configure("WARNING", "json")
    settings = load_settings({"DATABASE_URL": DSN, "ORCHESTRATOR_SHUTDOWN_GRACE_S": "1"})
    daemon = Daemon(settings, DSN, DSN, (bench_pipeline(Trace()),))
    async with daemon.assembled():
        await daemon.open_database()
        await daemon.run()


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

    pool = await asyncpg.create_pool(DSN, min_size=20, max_size=20)
    trace, queue = Trace(), PgQueuer.from_asyncpg_connection(await asyncpg.connect(DSN))

    @queue.entrypoint("lead_flow")
    async def lead_flow(job: Any) -> None:
        number = int(job.payload)
        trace.began(number)
        await pool.execute(MOVE, number)

    end_at_once_on_sigterm()
    await queue.run(dequeue_timeout=timedelta(seconds=30), batch_size=50, max_concurrent_tasks=200)


# -- procrastinate


def procrastinate_app(trace: Trace, pool: Any = None) -> Any:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DSN, min_size=20, max_size=20))

    @app.task(name="lead_flow", queue="leads")
    async def lead_flow(lead_id: int) -> None:
        trace.began(lead_id)
        await pool.execute(MOVE, lead_id)

    return app


async def procrastinate_install() -> None:
    app = procrastinate_app(Trace())
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
    conn = await asyncpg.connect(DSN)
    defer = await conn.fetchval("SELECT max(proname) FROM pg_proc WHERE proname LIKE 'procrastinate_defer_jobs_v%'")
    job = (
        "('leads', 'lead_flow', 0, NULL, NULL, jsonb_build_object('lead_id', id), NULL)::procrastinate_job_to_defer_v1"
    )
    await plain_install(conn, f"PERFORM {defer}(ARRAY(SELECT {job} FROM fresh));")
    await conn.close()


async def procrastinate_work() -> None:
    pool = await asyncpg.create_pool(DSN, min_size=10, max_size=10)
    app = procrastinate_app(Trace(), pool)
    end_at_once_on_sigterm()
    async with app.open_async():
        await app.run_worker_async(
            queues=["leads"], concurrency=20, install_signal_handlers=False, delete_jobs="always"
        )


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
    trace, wake = Trace(), asyncio.Event()
    listener = await asyncpg.connect(DSN)
    await listener.add_listener("jobs", lambda *_: wake.set())

    async def handle(number: int) -> tuple[int, str]:
        trace.began(number)
        await asyncio.sleep(THINK_S)
        return number, "AI_CONVERSATION"

    async def one_batch(conn: Any, claim: UUID) -> int:
        rows = await conn.fetch(REFERENCE_CLAIM, claim)
        if rows:
            effects = await asyncio.gather(*(handle(r["lead_id"]) for r in rows))
            await conn.execute(REFERENCE_APPLY, [r["id"] for r in rows], claim, *map(list, zip(*effects, strict=True)))
        return len(rows)

    async def loop() -> None:
        conn = await asyncpg.connect(DSN)
        while True:
            wake.clear()
            if await one_batch(conn, uuid4()) == 0:
                try:
                    async with asyncio.timeout(5):
                        await wake.wait()
                except TimeoutError:
                    continue

    end_at_once_on_sigterm()
    await asyncio.gather(loop(), loop())


def end_at_once_on_sigterm() -> None:
    """Shutdown isn't measured."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def main(name: str, what: str) -> None:
    """Install or work; uvloop for everybody, so that only the design differs."""
    import uvloop

    parts: dict[str, Callable[[], Any]] = globals()
    uvloop.run(parts[f"{name}_{what}"]())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
