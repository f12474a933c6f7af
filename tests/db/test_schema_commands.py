"""`orchestrator db`: schema, shell, backup and restore, as real commands on real servers."""

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from daemon.db import Connection, connect
from daemon.schema import VERSION
from tests.support.commands import orchestrator
from tests.support.postgres import Server

FAKE = """#!/bin/sh
[ "$1" = --version ] && echo 'pg_dump (PostgreSQL) {major}.4' && exit
{{ echo "$@"; echo "PGPASSWORD=$PGPASSWORD"; }} >{record}
echo 'pg_dump: error: the disk is full' >&2
exit 1
"""
"""A pg_dump that remembers how it was called."""


async def fill(conn: Connection) -> None:
    """Two leads, and a message of each sort that a restore looks at."""
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+14155550100'), ('Bob', '+14155550101')")
    await conn.execute(
        """INSERT INTO messages (lead_id, template, status, send_at)
           SELECT (SELECT id FROM leads LIMIT 1), template, status, clock() + due::interval FROM (VALUES
               ('due', 'scheduled', '-1 hour'), ('later', 'scheduled', '1 day'),
               ('halfway', 'sending', '-1 hour'), ('over', 'sent', '-1 hour')) AS m(template, status, due)"""
    )


async def contents(conn: Connection) -> list[list[tuple[object, ...]]]:
    """Everything but the messages' status."""
    tables = (
        "SELECT * FROM leads ORDER BY id",
        "SELECT * FROM pipeline_events ORDER BY id",
        "SELECT * FROM tasks ORDER BY id",
        "SELECT id, template, send_at FROM messages ORDER BY id",
        "SELECT * FROM stages ORDER BY pipeline, position",
    )
    return [[tuple(row) for row in await conn.fetch(table)] for table in tables]


async def messages(conn: Connection) -> dict[str, tuple[str, str | None]]:
    rows = await conn.fetch(
        "SELECT template, status, reason FROM messages WHERE template IN ('due', 'later', 'halfway', 'over')"
    )
    return {row["template"]: (row["status"], row["reason"]) for row in rows}


async def test_init_is_idempotent(home: Path, server: Server) -> None:
    dsn = await server.clone("template0")
    before = await orchestrator(home, "db", "status", DATABASE_URL=dsn)
    first = await orchestrator(home, "db", "init", DATABASE_URL=dsn)
    again = await orchestrator(home, "db", "init", DATABASE_URL=dsn)
    migrated = await orchestrator(home, "db", "migrate", DATABASE_URL=dsn)
    after = await orchestrator(home, "db", "status", DATABASE_URL=dsn)
    assert [one.code for one in (before, first, again, migrated, after)] == [0] * 5
    assert 'run "orchestrator db init"' in before.out
    assert (first.out, again.out) == (f"schema made, version {VERSION}\n", f"schema is there, version {VERSION}\n")
    assert migrated.out == f"nothing to do, version {VERSION}\n"
    assert f"version {VERSION}, current" in after.out
    assert str(urlsplit(dsn).password) not in after.out
    await server.drop(dsn)


async def test_the_shell_is_psql_on_the_database(home: Path, dsn: str) -> None:
    said = await orchestrator(home, "db", "shell", "--", "-XAtc", "SELECT count(*) FROM stages", DATABASE_URL=dsn)
    assert (said.code, said.out) == (0, "15\n"), said.err


async def test_the_shell_is_of_the_servers_version(home: Path, dsn: str) -> None:
    """Mutant: `next(_candidates(name))` as best_program."""
    older = home / "psql"
    older.write_text("#!/bin/sh\necho 'psql (PostgreSQL) 12.1'\n")
    older.chmod(0o755)
    path = f"{home}{os.pathsep}{os.environ['PATH']}"
    said = await orchestrator(home, "db", "shell", "--", "-XAtc", "SELECT 1", DATABASE_URL=dsn, PATH=path)
    assert (said.code, said.out) == (0, "1\n"), said.err


async def test_the_status_is_a_document_too(home: Path, dsn: str, conn: Connection) -> None:
    """Mutant: `if not as_json`."""
    said = await orchestrator(home, "db", "status", "--json", DATABASE_URL=dsn)
    found = orjson.loads(said.out)["status"]
    assert (found["version"], found["schema"], found["leads"]) == (VERSION, "current", 0)
    assert found["tasks"] == {"available": 0, "running": 0, "dead": 0}
    await conn.execute("INSERT INTO schema_version (version) VALUES (1000)")
    newer = orjson.loads((await orchestrator(home, "db", "status", "--json", DATABASE_URL=dsn)).out)["status"]
    assert newer["version"] == 1000
    assert newer.keys() == {"database", "server", "version", "schema"}


async def test_a_backup_can_be_restored(home: Path, server: Server, dsn: str, conn: Connection) -> None:
    await fill(conn)
    made = await orchestrator(home, "db", "backup", DATABASE_URL=dsn)
    assert made.code == 0, made.err
    file = home / "home/backups" / Path(made.out.strip()).name
    assert file.is_file()
    assert file.stat().st_mode & 0o077 == 0
    elsewhere = await server.clone("template0")
    restored = await orchestrator(home, "db", "restore", file, DATABASE_URL=elsewhere)
    assert restored.code == 0, restored.err
    copy = await connect(elsewhere)
    assert await contents(copy) == await contents(conn)
    assert await messages(copy) == {
        "due": ("awaiting_approval", "restored from a backup: decide again"),
        "later": ("scheduled", None),
        "halfway": ("unknown", "restored from a backup: it was being sent"),
        "over": ("sent", None),
    }
    await copy.execute("INSERT INTO leads (name) VALUES ('Cleo')")  # triggers and sequences work
    await copy.close()
    await server.drop(elsewhere)


async def test_a_restore_overwrites_only_when_told(home: Path, dsn: str, conn: Connection) -> None:
    await fill(conn)
    assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=dsn)).code == 0
    before = await contents(conn)
    await conn.execute("INSERT INTO leads (name) VALUES ('Cleo')")
    refused = await orchestrator(home, "db", "restore", "old.dump", DATABASE_URL=dsn)
    assert refused.code == 1
    assert refused.err == "the database holds 3 leads: --replace overwrites them\n"
    replaced = await orchestrator(home, "db", "restore", "old.dump", "--replace", DATABASE_URL=dsn)
    assert replaced.code == 0, replaced.err
    assert await contents(conn) == before


async def test_a_restore_fills_a_freshly_made_schema(home: Path, dsn: str, server: Server, conn: Connection) -> None:
    await fill(conn)
    assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=dsn)).code == 0
    fresh = await server.clone()
    restored = await orchestrator(home, "db", "restore", "old.dump", DATABASE_URL=fresh)
    assert restored.code == 0, restored.err
    await server.drop(fresh)


@pytest.mark.parametrize("kept", [0, 100, 0.5], ids=["empty", "head only", "half"])
async def test_a_broken_backup_changes_nothing(home: Path, dsn: str, conn: Connection, kept: float) -> None:
    await fill(conn)
    assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=dsn)).code == 0
    before = await contents(conn)
    whole = (home / "old.dump").read_bytes()
    (home / "old.dump").write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    said = await orchestrator(home, "db", "restore", "old.dump", "--replace", DATABASE_URL=dsn)
    assert said.code == 1
    assert "pg_restore failed: " in said.err
    assert await contents(conn) == before


async def test_a_failing_restore_changes_nothing(home: Path, server: Server, dsn: str, conn: Connection) -> None:
    """The backup grants to a role that is not there any more."""
    await fill(conn)
    role = f"clerk_of_{urlsplit(dsn).path[1:]}"
    await conn.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA orchestrator TO {role}")
    assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=dsn)).code == 0
    await conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    before = await messages(conn)
    said = await orchestrator(home, "db", "restore", "old.dump", "--replace", DATABASE_URL=dsn)
    assert said.code == 1
    assert role in said.err
    assert await messages(conn) == before
    without = await orchestrator(home, "db", "restore", "old.dump", "--replace", "--no-privileges", DATABASE_URL=dsn)
    assert without.code == 0, without.err


async def test_a_restore_waits_for_no_daemon(home: Path, dsn: str, conn: Connection) -> None:
    assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=dsn)).code == 0
    daemon = await connect(dsn, session={"application_name": "orchestrator"})
    said = await orchestrator(home, "db", "restore", "old.dump", "--replace", DATABASE_URL=dsn)
    assert (said.code, said.err) == (1, "a daemon is connected to this database: stop it first\n")
    await daemon.close()


async def test_a_backup_is_whole_or_absent_and_no_argument_is_secret(home: Path, dsn: str, conn: Connection) -> None:
    programs, record = home / "programs", home / "record"
    programs.mkdir()
    (programs / "pg_dump").write_text(FAKE.format(major=conn.get_server_version().major, record=record))
    (programs / "pg_dump").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    said = await orchestrator(home, "db", "backup", "new.dump", DATABASE_URL=dsn, PATH=path)
    assert (said.code, said.err) == (1, "pg_dump failed: pg_dump: error: the disk is full\n")
    assert not any(".dump" in file.name for file in await asyncio.to_thread(lambda: list(home.iterdir())))
    arguments, secret = record.read_text().splitlines()
    assert secret == f"PGPASSWORD={urlsplit(dsn).password}"
    assert str(urlsplit(dsn).password) not in arguments


async def test_nothing_to_back_up_is_a_failure(home: Path, server: Server) -> None:
    dsn = await server.clone("template0")
    said = await orchestrator(home, "db", "backup", DATABASE_URL=dsn)
    assert said.code == 1
    assert "nothing to back up" in said.err
    await server.drop(dsn)


async def test_all_of_it_with_the_embedded_server(home: Path) -> None:
    assert (await orchestrator(home, "db", "init")).code == 0
    put = await orchestrator(home, "db", "shell", "--", "-Xqc", "INSERT INTO leads (name) VALUES ('Ann')")
    assert put.code == 0, put.err
    made, status = await asyncio.gather(
        orchestrator(home, "db", "backup", "old.dump"), orchestrator(home, "db", "status")
    )
    assert (made.code, made.out) == (0, "old.dump\n"), made.err
    assert "leads      1" in status.out
    other = {"ORCHESTRATOR_HOME": str(home / "other")}
    restored = await orchestrator(home, "db", "restore", "old.dump", **other)
    assert restored.code == 0, restored.err
    assert "leads      1" in (await orchestrator(home, "db", "status", **other)).out
