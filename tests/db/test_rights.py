"""What somebody may do who has been given little: add leads, and nothing by way of our own functions."""

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from daemon.db import Connection, connect

FOR_THE_TRUSTED = (
    *("enqueue", "flag_lead", "override_stage", "request_transition", "retry_task", "shift_clock"),
    *("resolve_review", "merge_leads", "erase_lead", "erased_hash"),
)
CALLS = (
    "enqueue('lead.check', '{}')",
    "flag_lead($1, 'mine')",
    "override_stage($1, 'COMPLETED', 'guest', 'because I can')",
    "request_transition($1, 'DEAD_LEAD', 'guest', 'because I can')",
    "retry_task(1)",
    "shift_clock('1 day')",
    "resolve_review($1, 'mine', 'guest')",
    "merge_leads($1, $1, 'guest')",
    "erase_lead($1, 'guest')",
    "erased_hash('ann@x.example')",
)
TRAPS = ("tasks", "pipeline_events", "clock_shift", "pipelines", "stages", "leads", "messages", "email_exclusions")


@pytest.fixture
async def guest(dsn: str, conn: Connection) -> AsyncIterator[Connection]:
    """Another program's session: it may look into the schema and insert leads."""
    role = f"guest_{secrets.token_hex(6)}"
    await conn.execute(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA orchestrator TO {role}; GRANT INSERT ON leads TO {role}"
    )
    session = await connect(dsn)
    await session.execute(f"SET SESSION AUTHORIZATION {role}")
    yield session
    await session.close()
    await conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def lay_traps(conn: Connection, guest: Connection) -> None:
    """Tables like ours in the guest's own temporary schema; each remembers as whom it was written to."""
    await guest.execute(
        "CREATE TEMP TABLE caught (name text, as_whom text);"
        "GRANT ALL ON caught TO PUBLIC;"
        "CREATE FUNCTION pg_temp.catch() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO pg_temp.caught VALUES (TG_TABLE_NAME, current_user); RETURN NEW; END'"
    )
    for name in TRAPS:
        columns = await conn.fetchval(
            "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ') FROM pg_attribute"
            f" WHERE attrelid = '{name}'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        await guest.execute(
            f"CREATE TEMP TABLE {name} ({columns});"
            f"GRANT ALL ON pg_temp.{name} TO PUBLIC;"
            f"CREATE TRIGGER caught BEFORE INSERT OR UPDATE ON pg_temp.{name}"
            " FOR EACH ROW EXECUTE FUNCTION pg_temp.catch()"
        )


async def test_a_temporary_table_is_never_taken_for_ours(conn: Connection, guest: Connection) -> None:
    """Mutant: leave pg_temp out of a search_path, and the guest's trigger runs with the owner's rights."""
    await lay_traps(conn, guest)
    await guest.execute("INSERT INTO orchestrator.leads (name, phone) VALUES ('Ann', '+15550001234')")
    assert await guest.fetch("SELECT * FROM caught") == []
    assert [r["kind"] for r in await conn.fetch("SELECT kind FROM tasks")] == ["vendor_acquisition.NEW_LEAD"]
    assert await conn.fetchval("SELECT count(*) FROM pipeline_events WHERE event_type = 'created'") == 1
    assert await guest.fetchval("SELECT count(*) FROM pg_temp.tasks") == 0


async def test_every_function_with_our_rights_looks_for_temporary_tables_last(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = 'orchestrator'::regnamespace AND prosecdef"
    )
    paths = {r["proname"]: [c for c in r["proconfig"] or () if c.startswith("search_path=")] for r in rows}
    assert len(paths) > 10
    assert [name for name, path in paths.items() if not path or not path[0].endswith(", pg_temp")] == []


async def test_nobody_runs_with_our_rights_unless_they_were_given_to_them(conn: Connection) -> None:
    rows = await conn.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'orchestrator'::regnamespace AND prosecdef"
        " AND prorettype <> 'trigger'::regtype AND has_function_privilege('public', oid, 'EXECUTE')"
    )
    assert {r["proname"] for r in rows} == {"clock"}
    granted = await conn.fetch(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'orchestrator'::regnamespace AND proname = ANY ($1)"
        " AND has_function_privilege('public', oid, 'EXECUTE')",
        FOR_THE_TRUSTED,
    )
    assert granted == []


async def test_a_guest_may_not_call_what_acts_for_people(conn: Connection, guest: Connection) -> None:
    """Mutant: forget the REVOKE at the end of the schema; PUBLIC may execute every new function."""
    lead = await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")
    before = await conn.fetchrow("SELECT * FROM leads")
    for call in CALLS:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=call.partition("(")[0]):
            await guest.execute(f"SELECT orchestrator.{call.replace('$1', repr(str(lead)))}")
    assert await conn.fetchrow("SELECT * FROM leads") == before
    assert await conn.fetchval("SELECT count(*) FROM tasks") == 1


async def test_who_was_given_the_right_may_queue_tasks(conn: Connection, guest: Connection) -> None:
    role = await guest.fetchval("SELECT session_user")
    await conn.execute(f"GRANT EXECUTE ON FUNCTION enqueue TO {role}")
    task = await guest.fetchval("SELECT orchestrator.enqueue('lead.check', '{}')")
    assert await conn.fetchval("SELECT kind FROM tasks WHERE id = $1", task) == "lead.check"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await guest.fetch("SELECT * FROM orchestrator.tasks")
