"""The schema as a whole: how it comes into a database, who may touch it, and what its functions are made of."""

import asyncio
import re
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from daemon import listener, queue, schema
from daemon.app import prepare
from daemon.db import Connection, connect
from handlers import registry
from tests.support.postgres import Server

FIRST_VERSION = Path(__file__).with_name("schema_1.sql")
"""schema.sql as it was first released; needed as soon as there is a migration."""
WRITES = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM|(?<!DISTINCT )FROM) \w")
FUNCTIONS = """
SELECT p.proname AS name, p.prosecdef AS definer, l.lanname AS language, p.proconfig AS settings, p.prosrc AS text
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'orchestrator'::regnamespace
"""


@pytest.fixture
async def empty(server: Server) -> AsyncIterator[str]:
    """A database without the schema."""
    dsn = await server.clone("template0")
    yield dsn
    await server.drop(dsn)


def dumped(server: Server, dsn: str) -> str:
    """The schema as pg_dump writes it."""
    pg_dump = server.embedded.bin("pg_dump")
    done = subprocess.run(
        [pg_dump, "--schema-only", "--no-owner", "--schema=orchestrator", dsn],
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


# -- making it


def first_version() -> str:
    """What the first release made."""
    if FIRST_VERSION.exists():
        return FIRST_VERSION.read_text(encoding="utf-8")
    assert not schema.migrations(), f"keep the first release's schema.sql as {FIRST_VERSION.name}"
    return schema.schema_sql()


async def test_the_schema_and_the_migrations_lead_to_the_same(server: Server, empty: str) -> None:
    moved = await server.clone("template0")
    try:
        new, old = await connect(empty), await connect(moved)
        assert await schema.create_schema(new)
        await old.execute(f"BEGIN; {first_version()}; COMMIT")
        assert await schema.migrate(old) == sorted(schema.migrations())
        for conn in (new, old):
            await schema.require_current(conn)
            await conn.close()
        assert dumped(server, empty) == dumped(server, moved)
    finally:
        await server.drop(moved)


def test_the_version_is_that_of_the_last_migration() -> None:
    assert max([1, *schema.migrations()]) == schema.VERSION
    assert f"INSERT INTO schema_version (version) VALUES ({schema.VERSION})" in schema.schema_sql()
    assert sorted(schema.migrations()) == list(range(2, schema.VERSION + 1))


async def test_four_make_it_at_once_and_one_of_them_has_done_it(empty: str) -> None:
    conns = [await connect(empty) for _ in range(4)]
    made = await asyncio.gather(*map(schema.create_schema, conns))
    assert sorted(made) == [False, False, False, True]
    assert await conns[0].fetchval("SELECT count(*) FROM schema_version") == 1
    assert not await schema.create_schema(conns[0])
    for conn in conns:
        await conn.close()


async def test_four_daemons_prepare_an_empty_database_at_once(empty: str) -> None:
    conns = [await connect(empty) for _ in range(4)]
    await asyncio.gather(*map(prepare, conns))
    stages = await conns[0].fetchval("SELECT count(*) FROM stages")
    assert stages == sum(len(p.stages) for p in registry.PIPELINES)
    for conn in conns:
        await conn.close()


async def test_what_breaks_off_halfway_leaves_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = await connect(empty)
    half = schema.schema_sql().replace("CREATE TABLE schedules", "CREATE TABLE schedules no")
    monkeypatch.setattr(schema, "schema_sql", lambda: half)
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await schema.create_schema(conn)
    assert await schema.current_version(conn) == 0
    await conn.close()


# -- who may touch it


@asynccontextmanager
async def acting_as(conn: Connection, grants: str = "") -> AsyncIterator[str]:
    """A role of its own for the block, with these grants ({role}) and no others."""
    role = f"role_{secrets.token_hex(4)}"
    await conn.execute(f"CREATE ROLE {role}; {grants.format(role=role)}")
    await conn.execute(f"SET SESSION AUTHORIZATION {role}")
    try:
        yield role
    finally:
        await conn.execute("RESET SESSION AUTHORIZATION")
        await conn.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


MAY_INSERT = "GRANT USAGE ON SCHEMA orchestrator TO {role}; GRANT INSERT ON orchestrator.leads TO {role}"
MAY_EDIT = MAY_INSERT + "; GRANT SELECT, UPDATE ON orchestrator.leads TO {role}"


async def test_a_role_that_may_only_insert_leads_sets_everything_going(conn: Connection) -> None:
    async with acting_as(conn, MAY_INSERT) as role:
        await conn.execute("INSERT INTO leads (name, phone, data) VALUES ('Ann', '+15550001234', '{\"bmv_score\": 1}')")
        for forbidden in ("SELECT * FROM leads", "SELECT * FROM tasks", "UPDATE leads SET name = 'Bob'"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(forbidden)
    events = await conn.fetch("SELECT event_type, actor FROM pipeline_events")
    assert [tuple(e) for e in events] == [("created", role)]
    kinds = await conn.fetchval("SELECT array_agg(kind ORDER BY kind) FROM tasks")
    assert kinds == ["lead.check", "vendor_acquisition.NEW_LEAD"]


async def test_the_actor_of_a_move_is_whoever_made_it(conn: Connection) -> None:
    lead = await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")
    async with acting_as(conn, MAY_EDIT) as role:
        await conn.execute("UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", lead)
    moved = await conn.fetchrow("SELECT actor, from_stage FROM pipeline_events WHERE event_type = 'stage_change'")
    assert moved is not None
    assert tuple(moved) == (role, "NEW_LEAD")


FORGERIES = (
    """CREATE TEMP TABLE transitions AS
       SELECT 'vendor_acquisition' AS pipeline, 'NEW_LEAD' AS from_stage, 'COMPLETED' AS to_stage""",
    """CREATE TEMP TABLE stages AS
       SELECT 'vendor_acquisition' AS pipeline, 'COMPLETED' AS name, '{}'::text[] AS required, 1 AS position,
              '{}'::interval[] AS deadlines, false AS counts_silence,
              NULL::text AS entry_kind, NULL::text AS on_complete""",
)


async def test_temporary_tables_of_the_same_names_do_not_deceive_the_guards(conn: Connection) -> None:
    """A function of the owner's that looks into pg_temp first could be made to do anything."""
    lead = await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")
    async with acting_as(conn, MAY_EDIT):
        for forgery in FORGERIES:
            await conn.execute(forgery)
        with pytest.raises(asyncpg.PostgresError) as refused:
            await conn.execute("UPDATE leads SET stage = 'COMPLETED' WHERE id = $1", lead)
    assert refused.value.sqlstate == "PO001"


async def test_functions_of_the_owner_fix_their_search_path_and_look_into_pg_temp_last(conn: Connection) -> None:
    careless = [
        f["name"]
        for f in await conn.fetch(FUNCTIONS)
        if f["definer"] and f["settings"] != ["search_path=orchestrator, pg_catalog, pg_temp"]
    ]
    assert careless == []


async def test_every_trigger_function_that_writes_runs_as_its_owner(conn: Connection) -> None:
    functions = await conn.fetch(FUNCTIONS + " AND p.prorettype = 'trigger'::regtype")
    writing = [f for f in functions if WRITES.search(f["text"])]
    assert len(writing) > 5
    assert [f["name"] for f in writing if not f["definer"]] == []


async def test_a_daemon_needs_no_superuser(empty: str) -> None:
    owner = await connect(empty)
    database = await owner.fetchval("SELECT current_database()")
    async with acting_as(owner, f"GRANT CREATE ON DATABASE {database} TO {{role}}"):
        await owner.execute("SET search_path = orchestrator")
        await prepare(owner)
        await owner.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234')")
        me = uuid4()
        number = await owner.fetchval(listener.SQL["register"], me, "host", 1, "test", True)
        assert await owner.fetchval(listener.SQL["try_lock"], number)
        await owner.execute("LISTEN orchestrator")
        beat = await owner.fetchrow(listener.SQL["pulse"], number)
        assert beat is not None
        assert (beat["locked"], beat["listening"], beat["waiting"]) == (True, True, True)
        kinds = registry.kinds(registry.by_name(registry.PIPELINES))
        room = queue.Room(dict.fromkeys(kinds, 5), 5)
        assert len(await queue.claim(owner, kinds, room, worker=me, lease_s=5)) == 1
    await owner.close()


# -- what it is made of


async def test_functions_compile_without_a_warning(empty: str) -> None:
    conn = await connect(empty, session={"plpgsql.extra_warnings": "all", "check_function_bodies": "on"})
    said: list[str] = []
    conn.add_log_listener(lambda _, message: said.append(f"{message.severity}: {message.message}"))
    await schema.create_schema(conn)
    await conn.close()
    assert said == []


async def test_every_foreign_key_has_an_index_behind_it(conn: Connection) -> None:
    """Without one, deleting what it refers to reads the whole table."""
    bare = await conn.fetch(
        """SELECT c.conrelid::regclass::text AS place, c.conname FROM pg_constraint c
           WHERE c.contype = 'f' AND c.connamespace = 'orchestrator'::regnamespace
             AND c.confrelid NOT IN ('orchestrator.pipelines'::regclass, 'orchestrator.stages'::regclass)
             AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])"""
    )
    assert [tuple(row) for row in bare] == []


async def test_clones_of_the_tests_have_this_very_schema(server: Server, empty: str, dsn: str) -> None:
    conn = await connect(empty)
    await schema.create_schema(conn)
    await conn.close()
    assert dumped(server, empty) == dumped(server, dsn)


async def test_ids_differ_in_sessions_with_one_seed(dsn: str, conn: Connection) -> None:
    """Mutant: `new_id` without pg_backend_pid()."""
    other = await connect(dsn)
    definition = await conn.fetchval("SELECT pg_get_functiondef('new_id'::regproc)")
    at_one_time = definition.replace("clock_timestamp()", "timestamptz '2026-01-01'")
    await conn.execute(at_one_time.replace("new_id", "id_then"))
    ids = []
    for session in (conn, other):
        await session.execute("SELECT setseed(0.42)")
        ids += [r["id"] for r in await session.fetch("SELECT id_then() AS id FROM generate_series(1, 200)")]
    await other.close()
    assert len(set(ids)) == 400
    assert {i.version for i in ids} == {7}
