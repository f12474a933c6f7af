"""A sandbox on a database that isn't its own may play there, but never drives its clock; nor may a daemon with real
engines take over a sandbox's database as long as its leads are in it."""

from pathlib import Path

import pytest

from daemon.db import Connection
from daemon.errors import OrchestratorError
from daemon.sandbox import Weather, mark, open_sandbox
from daemon.settings import load_settings
from tests.support.commands import orchestrator
from tests.support.processes import until
from tests.support.sandbox import running


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

GONE = "DELETE FROM leads"


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
    assert "DELETE FROM orchestrator.leads (then" in line
    assert await played.fetchval("SELECT count(*) FROM engine_calls") == 0
    assert await is_marked(played)


TEXTED = "SELECT stage = 'AI_CONVERSATION' FROM leads WHERE id = $1"
FLAGGED = "SELECT needs_review FROM leads WHERE id = $1"
ADDED = "INSERT INTO leads (name, phone) VALUES ($1, $2) RETURNING id"


async def test_leads_of_ones_own_that_the_sandbox_texted_are_not_followed_up(
    home: Path, dsn: str, conn: Connection
) -> None:
    """Mutant: `left` without its engine_calls and messages; then Ada is texted a follow-up to what she never got."""
    async with open_sandbox(load_settings({}), weather=Weather.CALM) as sandbox:
        await sandbox.enter(conn)
        ada = await conn.fetchval(ADDED, "Ada Vendor", "+447700900999")
        numberless = await conn.fetchval(ADDED, "Bo Buyer", None)
        async with running(sandbox, dsn):
            await until(lambda: conn.fetchval(TEXTED, ada), 20.0, "Ada is texted")
            await until(lambda: conn.fetchval(FLAGGED, numberless), 20.0, "Bo can't be")
    await conn.execute("DELETE FROM leads WHERE source = 'sandbox' OR run_id IS NOT NULL; " + CANCEL)
    ended = await orchestrator(home, "run", "--once", DATABASE_URL=dsn)
    assert ended.code == 1
    assert "has left 1 leads in this database, 1 of them yours" in ended.err.splitlines()[-1]
    assert "(Ada Vendor)" in ended.err
    assert "Bo Buyer" not in ended.err

    await conn.execute("UPDATE messages SET status = 'sent', lead_id = $1 WHERE lead_id = $2", numberless, ada)
    await conn.execute("DELETE FROM engine_calls")
    assert "(Bo Buyer)" in str(await mark.standing_against(conn)), "the ledger may have been pruned"
    await conn.execute(GONE)
    assert await mark.standing_against(conn) is None


async def test_only_some_of_them_are_named(conn: Connection) -> None:
    for n in range(7):
        lead = await conn.fetchval(ADDED, f"Lead {n}", f"+44770090012{n}")
        await conn.execute("INSERT INTO messages (lead_id, status) VALUES ($1, 'unknown')", lead)
    said = str(await mark.standing_against(conn))
    assert "7 of them yours" in said
    assert "(Lead 0, Lead 1, Lead 2, Lead 3, Lead 4, and 2 more)" in said


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
    """Mutant: the engines are asked all the same; eighteen warnings then hide the one that matters."""
    said = (await orchestrator(home, "check", DATABASE_URL=dsn)).out.splitlines()
    assert said[-2].startswith("warning  sandbox: ")
    assert "has left 24 leads" in said[-2]
    assert said[-1] == "ok       in all: in order, with 1 warnings"
    assert "ok       engines: the sandbox plays them: none is asked whether it is there" in said
    assert not [line for line in said if line.startswith("warning  engine")]
    await played.execute(GONE)
    said = (await orchestrator(home, "check", DATABASE_URL=dsn)).out.splitlines()
    assert [line for line in said if line.startswith("warning  engine")], "real ones are next, and aren't there"
    assert "warning  sandbox: has played here: what it sent reached nobody" in said
    levels = [line.split()[0] for line in said[:-1]]
    assert levels == sorted(levels), "problems come last"


async def test_explain_does_not_send_people_to_what_is_refused(home: Path, dsn: str, played: Connection) -> None:
    lead = await played.fetchval("SELECT id FROM leads LIMIT 1")
    said = (await orchestrator(home, "leads", "explain", str(lead), DATABASE_URL=dsn)).out
    assert said.startswith("No daemon is running, so nothing happens; start one: orchestrator run --sandbox.")
