"""A sandbox on a database that isn't its own may play there, but never drives its clock; nor may a daemon with real
engines take over a sandbox's database as long as its leads are in it."""

from pathlib import Path

import pytest

from daemon.db import Connection
from daemon.errors import OrchestratorError
from daemon.sandbox import mark, open_sandbox
from daemon.settings import load_settings
from tests.support.commands import orchestrator


async def is_marked(conn: Connection) -> bool:
    state = await conn.fetchrow(mark.SQL["state"])
    return bool(state and state["marked"])


async def test_an_empty_database_is_marked_for_good(conn: Connection) -> None:
    await mark.take(conn, drives_clock=True)
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900101')")
    await mark.take(conn, drives_clock=True)
    assert await is_marked(conn)


async def test_a_used_database_is_played_on_but_not_marked(conn: Connection) -> None:
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900101')")
    await mark.take(conn)
    assert not await is_marked(conn)


async def test_the_clock_of_a_used_database_is_left_alone(conn: Connection) -> None:
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900101')")
    with pytest.raises(OrchestratorError, match="--speed is only for a database that was empty"):
        await mark.take(conn, drives_clock=True)


# -- afterwards, with real engines

GONE = "DELETE FROM leads WHERE source = 'sandbox'"


@pytest.fixture
async def played(conn: Connection) -> Connection:
    """A database with a sandbox's sample leads."""
    await conn.execute("COMMENT ON SCHEMA orchestrator IS 'Ann''s'")
    async with open_sandbox(load_settings({})) as sandbox:
        await sandbox.enter(conn)
    return conn


async def test_sample_leads_are_never_sent_through_real_engines(home: Path, dsn: str, played: Connection) -> None:
    ended = await orchestrator(home, "run", "--once", DATABASE_URL=dsn)
    assert ended.code == 1
    [line] = [line for line in ended.err.splitlines() if "a sandbox has left 24 leads" in line]
    assert "DELETE FROM orchestrator.leads WHERE source = 'sandbox'" in line
    assert await played.fetchval("SELECT count(*) FROM engine_calls") == 0
    assert await is_marked(played)


async def test_a_dry_run_of_them_says_so_and_calls_nobody(home: Path, dsn: str, played: Connection) -> None:
    ended = await orchestrator(home, "run", "--once", "--dry-run", DATABASE_URL=dsn)
    assert ended.code == 0
    assert ended.err.count("a sandbox has left") == 1
    assert await played.fetchval("SELECT count(*) FROM engine_calls") == 0
    assert await is_marked(played)


async def test_once_they_are_gone_the_database_is_no_sandboxs_any_more(
    home: Path, dsn: str, played: Connection
) -> None:
    await played.execute(GONE)
    first = await orchestrator(home, "run", "--once", DATABASE_URL=dsn)
    assert first.code == 0
    assert first.err.count("a sandbox has played on this database") == 1
    assert not await is_marked(played)
    assert await played.fetchval("SELECT obj_description('orchestrator'::regnamespace, 'pg_namespace')") == "Ann's"
    assert "sandbox" not in (await orchestrator(home, "run", "--once", DATABASE_URL=dsn)).err


async def test_a_clock_that_was_driven_ahead_has_to_be_set_right_first(played: Connection) -> None:
    await played.execute(GONE + "; SELECT shift_clock('40 days')")
    with pytest.raises(OrchestratorError, match="40 days"):
        await mark.take_over(played, dry_run=False)
    await played.execute("SELECT shift_clock(-shift) FROM clock_shift")
    await mark.take_over(played, dry_run=False)
    assert not await is_marked(played)


A_RUN = """
WITH of AS (INSERT INTO campaigns (name) VALUES ('theirs') RETURNING id)
INSERT INTO campaign_runs (campaign_id, status) SELECT id, 'waiting' FROM of"""
CANCEL = "SELECT cancel_run(id) FROM campaign_runs WHERE status IN ('running', 'waiting', 'paused')"


async def test_a_run_that_a_sandbox_began_does_not_go_on_with_real_engines(played: Connection) -> None:
    await played.execute(f"{GONE}; {A_RUN}")
    with pytest.raises(OrchestratorError, match="has left 1 runs under way"):
        await mark.take_over(played, dry_run=False)
    await played.execute(CANCEL)
    await mark.take_over(played, dry_run=False)
    assert not await is_marked(played)


async def test_check_tells_of_them(home: Path, dsn: str, played: Connection) -> None:
    said = (await orchestrator(home, "check", DATABASE_URL=dsn)).out
    assert "has left 24 leads" in said
    await played.execute(GONE)
    assert "has played here" in (await orchestrator(home, "check", DATABASE_URL=dsn)).out
