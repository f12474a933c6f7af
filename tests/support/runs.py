"""Runs of campaigns in the timeline language: documents in a few words, engines that answer them, and their ends.

async with running(dsn) as r:
    run = await r.start(step("prospecting"), step("analysis", onFailure="continue"))
    await r.ended(run, "completed")
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from daemon import queue
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Asked, Engines, Result

NAMES = ("prospecting", "analysis", "outreach", "scout", "contacts", "writer", "extraction", "sourcing")
OVER = ("completed", "partial", "failed", "aborted", "cancelled", "skipped", "missed")
Document = Mapping[str, Any]
TABLES = {
    "run": "SELECT status, round, total_cost, results, errors FROM campaign_runs WHERE id = $1",
    "step": "SELECT * FROM campaign_run_steps WHERE run_id = $1 ORDER BY position",
    "item": "SELECT n, lead_id, status, queued, error FROM campaign_run_items WHERE run_id = $1 ORDER BY n",
    "task": "SELECT id, kind, key, status, payload, run_at, attempt, error FROM tasks"
    " WHERE payload ->> 'run_id' = ($1::uuid)::text",
    "ended task": "SELECT id, kind, payload, attempt, interruptions, result FROM task_log"
    " WHERE payload ->> 'run_id' = ($1::uuid)::text ORDER BY finished_at",
    "call": "SELECT idempotency_key, status, calls, cost, error FROM engine_calls WHERE run_id = $1 ORDER BY id",
    "request": "SELECT id, checkpoint, step, status, decided_by, comment FROM approval_queue WHERE run_id = $1",
}
"""What is known about a run."""


class CampaignEngines(Engines):
    """All engines; those of campaigns answer as their protocol says, or what a test has put into `answers`."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Result] = {}

    def _usual(self, asked: Asked) -> Result:
        if asked.engine not in NAMES:
            return super()._usual(asked)
        return dict(self.answers.get(asked.engine, {"cost": 0.25}))


def step(name: str, kind: str = "engine", **of: Any) -> Document:
    """A normalised step; the engine is named like the step unless told otherwise."""
    retry = {"attempts": 1, "delay": 0, "backoff": "fixed", **of.pop("retry", {})}
    usual: dict[str, Any] = {
        "engine": name if kind == "engine" else "contacts" if kind == "enrich" else None,
        "endpoint": "/api/do", "method": "POST", "params": {}, "timeout": 10_000, "cost": None, "onSuccess": "continue",
        "onFailure": "abort", "checkpoint": None, "expiresAfter": None, "pipeline": None, "from": None, "map": None,
        "priority": "normal", "channel": "email", "template": None,
    }  # fmt: skip
    return {"name": name, "kind": kind, **usual, "retry": retry, **{k.removesuffix("_"): v for k, v in of.items()}}


def document(steps: Iterable[Document], **of: Any) -> Document:
    """A normalised definition."""
    return {"name": "test", "inputs": {}, "budget": {}, "notifications": {}, "steps": list(steps), **of}


@dataclass(slots=True)
class Running:
    """A timeline with campaigns in it."""

    t: Timeline
    engines: CampaignEngines
    campaign: UUID
    _runs: list[UUID] = field(default_factory=list)

    async def start(self, *steps: Document, inputs: Document | None = None, dry_run: bool = False, **of: Any) -> UUID:
        """Insert a run of these steps; `of` is the rest of its definition."""
        run: UUID = await self.t.value(
            "INSERT INTO campaign_runs (campaign_id, definition, inputs, dry_run) VALUES ($1, $2, $3, $4) RETURNING id",
            self.campaign, document(steps, **of), inputs or {}, dry_run,
        )  # fmt: skip
        self._runs.append(run)
        return run

    async def ended(self, run: UUID, status: str) -> asyncpg.Record:
        """Wait for the run's end; its row."""
        over = "SELECT status = ANY ($2) FROM campaign_runs WHERE id = $1"
        await self._until(run, over, list(OVER))
        row = await self.row(run)
        assert row["status"] == status, await self.story(run)
        return row

    async def comes_to(self, run: UUID, name: str, status: str) -> None:
        """Wait until a step has that status."""
        await self._until(
            run, "SELECT status = $3 FROM campaign_run_steps WHERE run_id = $1 AND name = $2", name, status
        )

    async def waits(self, run: UUID, status: str) -> None:
        """Wait until the run has that status."""
        await self._until(run, "SELECT status = $2 FROM campaign_runs WHERE id = $1", status)

    async def retries(self, run: UUID, attempt: int) -> asyncpg.Record:
        """Wait until a try has failed and the next one is put off; its task."""
        sql = (
            "FROM tasks WHERE key = 'run:' || $1::uuid AND kind = 'run.step' AND status = 'available' AND attempt = $2"
        )
        await self._until(run, f"SELECT EXISTS (SELECT {sql})", attempt)
        [row] = await self.t.sql(
            f"SELECT *, extract(epoch FROM run_at - clock())::float8 AS wait_s {sql}", run, attempt
        )
        return row

    async def row(self, run: UUID) -> asyncpg.Record:
        """The run's row."""
        [row] = await self.t.sql("SELECT * FROM campaign_runs WHERE id = $1", run)
        return row

    async def steps(self, run: UUID) -> dict[str, str]:
        """The status of each step."""
        sql = "SELECT name, status FROM campaign_run_steps WHERE run_id = $1 ORDER BY position"
        return {r["name"]: r["status"] for r in await self.t.sql(sql, run)}

    async def step(self, run: UUID, name: str) -> asyncpg.Record:
        """One step's row."""
        [row] = await self.t.sql("SELECT * FROM campaign_run_steps WHERE run_id = $1 AND name = $2", run, name)
        return row

    async def balanced(self, run: UUID) -> Decimal:
        """What the run has cost: the same in its row, its steps and the ledger."""
        cost: Decimal = (await self.row(run))["total_cost"]
        of_steps = await self.t.value("SELECT coalesce(sum(cost), 0) FROM campaign_run_steps WHERE run_id = $1", run)
        ledger = await self.t.value("SELECT coalesce(sum(cost), 0) FROM engine_calls WHERE run_id = $1", run)
        assert cost == of_steps == ledger, await self.story(run)
        return cost

    async def notices(self, event: str) -> list[Document]:
        """What people are to be told of that kind: payloads of tasks, waiting or done."""
        both = " UNION ALL ".join(
            f"SELECT id, payload FROM {of} WHERE kind = 'notification'" for of in ("tasks", "task_log")
        )
        sql = f"SELECT payload FROM ({both}) AS t WHERE payload ->> 'event' = $1 ORDER BY id"
        return [r["payload"] for r in await self.t.sql(sql, event)]

    async def alerts(self, run: UUID) -> list[str]:
        """The types of the run's open alerts."""
        sql = "SELECT type FROM alerts WHERE subject = 'run:' || $1::uuid AND resolved_at IS NULL ORDER BY type"
        return [r["type"] for r in await self.t.sql(sql, run)]

    async def do(self, function: str, *args: Any) -> bool:
        """One of pause_run, resume_run, cancel_run, retry_run."""
        places = ", ".join(f"${n}" for n in range(1, len(args) + 1))
        return bool(await self.t.value(f"SELECT {function}({places})", *args))

    async def cancel_task(self, task: int) -> None:
        """A person cancels a task."""
        daemon = self.t.running[0].daemon
        async with daemon.pool.acquire() as conn:
            assert await queue.cancel(conn, daemon.worker.kinds, task), f"task {task} can't be cancelled"
        daemon.worker.wake()

    async def outcome_waits(self) -> bool:
        """Whether an outcome waits for somebody's lock."""
        return any(running.daemon.worker.committer.locked for running in self.t.running)

    async def at_rest(self) -> None:
        """Nothing about runs is due or running."""
        sql = """SELECT NOT EXISTS (SELECT FROM tasks WHERE kind LIKE 'run.%'
                 AND (status = 'running' OR (status = 'available' AND run_at <= clock())))"""
        await self.t.wait_for(lambda: self.t.value(sql), "the runs never came to rest")

    async def story(self, run: UUID) -> str:
        """All that is known about the run, for a failed test to tell."""
        rows = [(title, dict(r)) for title, sql in TABLES.items() for r in await self.t.sql(sql, run)]
        return "\n".join(f"{title} {json.dumps(row, default=str)[:800]}" for title, row in rows)

    async def _until(self, run: UUID, sql: str, *args: Any) -> None:
        try:
            await self.t.wait_for(lambda: self.t.value(sql, run, *args), f"never true: {sql} {args}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.story(run)}") from None


@asynccontextmanager
async def running(dsn: str, **overrides: str) -> AsyncIterator[Running]:
    """A daemon, engines, and a campaign for the runs."""
    async with CampaignEngines().serving() as engines:
        assert isinstance(engines, CampaignEngines)
        urls = {f"ENGINES__{name.upper()}__URL": engines.url(name) for name in NAMES}
        async with scenario(dsn, engines, **{**urls, **overrides}) as t:
            campaign = await t.value("INSERT INTO campaigns (name) VALUES ('Weekly') RETURNING id")
            yield Running(t, engines, campaign)
