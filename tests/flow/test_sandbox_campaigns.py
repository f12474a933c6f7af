"""The sandbox's campaigns: an empty database gets some, one of them runs, and whoever watches sees it."""

import asyncio
import io
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from daemon.app import catalogue
from daemon.db import Connection
from daemon.sandbox import Sandbox, open_sandbox
from daemon.sandbox.happenings import Follower
from daemon.sandbox.runs import RunFollower
from daemon.sandbox.seeds import CAMPAIGNS, campaigns
from daemon.settings import load_settings
from tests.support.processes import until
from tests.support.sandbox import running


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """One without faults, so that nothing takes a while."""
    async with open_sandbox(load_settings({}), pace=0.1, latency_s=(0.001, 0.01)) as opened:
        opened.engines.faults.clear()
        yield opened


async def put_in(sandbox: Sandbox, conn: Connection) -> int:
    """As `run --sandbox` begins."""
    return await sandbox.enter(conn, partial(campaigns, catalogue(sandbox.settings)))


async def ended(conn: Connection, runs: int) -> list[Any]:
    """The runs, once so many have ended."""
    sql = "SELECT count(*) = $1 FROM campaign_runs WHERE completed_at IS NOT NULL"
    await until(lambda: conn.fetchval(sql, runs), 20.0, "the ends")
    return await conn.fetch("SELECT c.name, r.* FROM campaign_runs r JOIN campaigns c ON c.id = r.campaign_id")


async def test_an_empty_database_gets_campaigns_and_a_run_once(sandbox: Sandbox, conn: Connection) -> None:
    assert await put_in(sandbox, conn) > 0
    assert await put_in(sandbox, conn) == 0
    rows = await conn.fetch("SELECT name, schedule_cron IS NULL OR NOT schedule_enabled AS off FROM campaigns")
    assert len(rows) == len(CAMPAIGNS) == 3
    assert all(row["off"] for row in rows), "a daemon with real engines that takes over must not find any due"
    assert await conn.fetchval("SELECT count(*) FROM campaign_runs") == 1
    await conn.execute("DELETE FROM leads")
    assert await put_in(sandbox, conn) > 0
    assert await conn.fetchval("SELECT count(*) FROM campaign_runs") == 1


async def test_all_three_run_through(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    await put_in(sandbox, conn)
    async with running(sandbox, dsn) as daemon:
        for name in CAMPAIGNS[:2]:
            which = await daemon.catalogue.known(conn, name)
            await daemon.catalogue.run(conn, which, {})
        runs = await ended(conn, 3)
    assert {run["status"] for run in runs} == {"completed"}, [(r["name"], r["errors"]) for r in runs]
    assert all(run["steps_completed"] == (3 if run["name"] == "Test Campaign" else 4) for run in runs)
    assert all(run["total_cost"] > 0 for run in runs)


async def test_a_run_is_seen_line_by_line(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=200, height=50, force_terminal=True, color_system=None)
    await put_in(sandbox, conn)
    async with running(sandbox, dsn):
        showing = asyncio.create_task(sandbox.show(dsn, console, plain=True))

        async def seen() -> bool:
            return "run completed for $" in screen.getvalue() and "runs: 1 completed" in screen.getvalue()

        await until(seen, 20.0, "the run's end")
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    told = screen.getvalue()
    for words in (
        "a run of 4 steps begins",
        "prospecting: found 20, $0.40",
        "analysis: analyzed 18",
        "send-emails: sent 14",
    ):
        assert told.count(words) == 1, words


async def test_each_turn_of_a_run_is_told_once_and_a_retry_anew(conn: Connection) -> None:
    campaign = await conn.fetchval("INSERT INTO campaigns (name) VALUES ('Mine') RETURNING id")
    old = await conn.fetchval(
        "INSERT INTO campaign_runs (campaign_id, status) VALUES ($1, 'failed') RETURNING id", campaign
    )
    follower = Follower(also=(RunFollower(),))
    assert await follower.news(conn) == []
    steps = {"steps": [{"name": "one", "kind": "engine"}]}
    run = await conn.fetchval(
        "INSERT INTO campaign_runs (campaign_id, definition) VALUES ($1, $2) RETURNING id", campaign, steps
    )
    assert [(h.who, h.what) for h in await follower.news(conn)] == [("Mine", "a run of 1 steps begins")]
    await fail(conn, run)
    said = [h.what for h in await follower.news(conn)]
    assert said == ["one failed: no credit", "run failed: no credit"]
    assert await follower.news(conn) == []
    await conn.execute("SELECT retry_run($1)", run)
    assert [h.what for h in await follower.news(conn)] == ["a run of 1 steps begins"]
    assert old != run


async def fail(conn: Connection, run: UUID) -> None:
    """The run's one step fails, and the run with it."""
    await conn.execute(
        """UPDATE campaign_run_steps SET status = 'failed', error = 'no credit', completed_at = clock()
           WHERE run_id = $1""",
        run,
    )
    await conn.execute(
        """UPDATE campaign_runs SET status = 'failed', completed_at = clock() + interval '1 s',
           errors = '[{"step": "one", "error": "no credit"}]' WHERE id = $1""",
        run,
    )
