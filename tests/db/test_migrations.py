"""A database of the first release is moved forward with all that is in it, and a daemon goes on with it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from daemon import schema
from daemon.db import Connection, connect
from tests.support.commands import orchestrator
from tests.support.daemon import scenario
from tests.support.postgres import Server

FIRST = tuple(
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("schema_1.sql", "schema_1_rows.sql")
)
TABLES = """
SELECT relname FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'orchestrator'::regnamespace AND relname <> 'schema_version'
"""
RENAMED = {("leads", "from_stage"): "left_stage"}
DROPPED = {("engine_calls", "budget_day")}
UNBALANCED = """
WITH booked AS (
    SELECT b.key AS scope, b.value::date AS period,
           coalesce(sum(reserved_cost) FILTER (WHERE status = 'reserved'), 0) AS reserved,
           coalesce(sum(cost) FILTER (WHERE status <> 'reserved'), 0) AS settled
    FROM engine_calls, jsonb_each_text(budgets) AS b GROUP BY 1, 2)
SELECT scope, period FROM booked b FULL JOIN budget_counters c USING (scope, period)
WHERE (b.reserved, b.settled) IS DISTINCT FROM (c.reserved, c.settled)"""
MISCOUNTED = """
SELECT pipeline, stage FROM stage_sizes s
WHERE n <> (SELECT count(*) FROM leads l WHERE l.pipeline = s.pipeline AND l.stage = s.stage)"""
NOTICES = """
SELECT coalesce(a.title, b.message) AS about, t.dedup_key = 'notification:' || (t.payload #>> '{facts,id}') AS once
FROM tasks t LEFT JOIN approval_queue a ON a.id::text = t.payload #>> '{facts,id}'
             LEFT JOIN alerts b ON b.id::text = t.payload #>> '{facts,id}'
WHERE t.kind = 'notification' ORDER BY 1"""
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def old(server: Server) -> AsyncIterator[str]:
    """A database of version 1 with something of everything in it."""
    dsn = await server.clone("template0")
    conn = await connect(dsn)
    for script in FIRST:
        async with conn.transaction():
            await conn.execute(script)
    await conn.close()
    yield dsn
    await server.drop(dsn)


async def contents(conn: Connection) -> Rows:
    """Every row of every table."""
    tables = [row["relname"] for row in await conn.fetch(TABLES)]
    return {t: [r["row"] for r in await conn.fetch(f"SELECT to_jsonb(t) AS row FROM {t} t")] for t in tables}


def as_it_is_now(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row of version 1 as far as it says the same in this one."""
    kept = {name: value for name, value in row.items() if (table, name) not in DROPPED}
    return {RENAMED.get((table, name), name): value for name, value in kept.items()}


async def test_nothing_is_lost(old: str) -> None:
    """Mutant: DELETE FROM any table in a migration."""
    conn = await connect(old)
    before = await contents(conn)
    assert [table for table, rows in before.items() if not rows] == []
    await schema.migrate(conn)
    after = await contents(conn)
    for table, rows in before.items():
        for row in (as_it_is_now(table, row) for row in rows):
            assert any(row.items() <= now.items() for now in after[table]), (table, row)
    assert {t for t in before if len(before[t]) != len(after[t])} == {"tasks"}  # the notices of what is open
    await conn.close()


async def test_what_is_new_fits_what_was_there(old: str) -> None:
    conn = await connect(old)
    await schema.migrate(conn)
    budgets = await conn.fetch("SELECT idempotency_key, budgets, calls FROM engine_calls ORDER BY 1")
    march = [{"engine:sms": "2026-03-01"}, {"engine:sms": "2026-03-02"}]
    assert [tuple(row) for row in budgets] == [
        ("doubtful", march[0], 1), ("free", None, 1), ("paid", march[0], 1), ("under way", march[1], 1),
    ]  # fmt: skip
    assert await conn.fetch(UNBALANCED) == []
    assert await conn.fetch(MISCOUNTED) == []
    assert await conn.fetchval("SELECT sum(n)::int FROM stage_sizes") == 6
    assert [tuple(row) for row in await conn.fetch(NOTICES)] == [("Open", True), ("it is down", True)]
    await conn.close()


async def test_a_daemon_goes_on_with_it(old: str) -> None:
    conn = await connect(old)
    await schema.migrate(conn)
    names = {row["name"]: row["id"] for row in await conn.fetch("SELECT id, name FROM leads")}
    await conn.close()
    async with scenario(old) as t:
        for name in ("new", "claimed"):
            await t.until(names[name], "AI_CONVERSATION")
        await t.until(names["overdue"], "VIDEO_SENT")
        await t.expect(names["talking"], "AI_CONVERSATION")
        assert await t.path(names["lost"]) == ["AI_CONVERSATION", "DEAD_LEAD"]
        assert (await t.message(names["talking"], "DUE"))["status"] == "sent"
        await t.retry((await t.dead(names["offered"]))[0]["id"])
        assert await t.dead(names["offered"]) == []
        [request] = await t.requests_for_a_person(names["talking"])
        await t.sql("UPDATE approval_queue SET status = 'rejected' WHERE id = $1", request["id"])
        await t.eventually("SELECT status = 'ignored' FROM replies")
        await t.after(days=2)
        assert (await t.message(names["talking"], "LATER"))["status"] == "sent"
        assert await t.sql(MISCOUNTED) == []
        assert await t.sql("SELECT kind, error FROM tasks WHERE error IS NOT NULL") == []


async def test_what_breaks_off_halfway_leaves_version_1(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = await connect(old)
    before = await contents(conn)
    broken = {2: schema.migrations()[2] + "SELECT 1 / 0;"}
    monkeypatch.setattr(schema, "migrations", lambda: broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await schema.migrate(conn)
    assert (await schema.current_version(conn), await contents(conn)) == (1, before)
    await conn.close()


async def test_four_migrate_at_once_and_one_of_them_has_done_it(old: str) -> None:
    conns = [await connect(old) for _ in range(4)]
    done = await asyncio.gather(*map(schema.migrate, conns))
    assert sorted(version for versions in done for version in versions) == sorted(schema.migrations())
    for conn in conns:
        await conn.close()


# -- the commands


@pytest.mark.parametrize("words", [("run",), ("run", "--once"), ("run", "--sandbox"), ("check",), ("db", "init")])
async def test_nothing_begins_on_an_old_schema(home: Path, old: str, words: tuple[str, ...]) -> None:
    said = await orchestrator(home, *words, DATABASE_URL=old)
    assert said.code == 1
    assert f'the schema is at version 1, this program needs {schema.VERSION}: run "orchestrator db migrate"' in (
        said.out if words == ("check",) else said.err.splitlines()[-1]
    )
    assert "Traceback" not in said.err


async def test_it_is_migrated_by_command(home: Path, old: str) -> None:
    daemon = await connect(old, session={"application_name": "orchestrator"})
    refused = await orchestrator(home, "db", "migrate", DATABASE_URL=old)
    assert (refused.code, refused.err) == (1, "a daemon is connected to this database: stop it first\n")
    await daemon.close()
    moved = await orchestrator(home, "db", "migrate", DATABASE_URL=old)
    assert (moved.code, moved.out) == (0, "applied: 2, 3, 4\n"), moved.err
    again = await orchestrator(home, "db", "migrate", DATABASE_URL=old)
    assert (again.code, again.out) == (0, f"nothing to do, version {schema.VERSION}\n"), again.err


async def test_it_is_migrated_in_the_embedded_server(home: Path) -> None:
    """What somebody finds who updates a checkout: one line that says what to do, and then it runs."""
    for number, script in enumerate(FIRST):
        (home / "script.sql").write_text(script)
        made = await orchestrator(home, "db", "shell", "--", "-Xq1v", "ON_ERROR_STOP=1", "-f", "script.sql")
        assert (made.code, made.err) == (0, ""), number
    refused = await orchestrator(home, "run", "--sandbox")
    assert refused.code == 1
    assert 'run "orchestrator db migrate"' in refused.err.splitlines()[-1]
    assert (await orchestrator(home, "db", "migrate")).out == "applied: 2, 3, 4\n"
    assert (await orchestrator(home, "run", "--once", "--dry-run")).code == 0
    assert "leads      6" in (await orchestrator(home, "db", "status")).out


async def test_a_restored_old_database_sends_nothing_when_it_is_migrated(home: Path, old: str, server: Server) -> None:
    """Mutant: the table `sending` is made anew by its migration."""
    assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=old)).code == 0
    copy = await server.clone("template0")
    for words in (("restore", "old.dump"), ("migrate",)):
        said = await orchestrator(home, "db", *words, DATABASE_URL=copy)
        assert said.code == 0, said.err
    conn = await connect(copy)
    assert await conn.fetchval("SELECT reason FROM sending WHERE stopped_at IS NOT NULL") == "restored from old.dump"
    await conn.close()
    await server.drop(copy)
