"""Through a PgBouncer that pools by transaction the daemon keeps its promises, or says what to set.

Mutants that these tests kill (each one line, tried by hand):
  settings: `Pooled.execute` sends BEGIN without `self.settings`
  reads: `settings_of` leaves `default_` before the names
  ignored: `_open` in db.py returns the connection whether its settings have arrived or not
  prepared: `pooler.connect` without `statement_cache_size=0`
  alone: `Pooled._in_transaction` asks at once, without BEGIN: statements of their own lack their settings
  silence: `Pooled._in_transaction` rolls back after every error, also after a time-out
  pids: `backends` in db.py without `is_direct`
  lease: `free_expired` in schema.sql returns 0 at once
  ears: `Listener._session` doesn't ask whether its connection is direct
  strangers: `_refuses` in app.py answers False to what PgBouncer says
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from daemon.api.server import READS, WRITES
from daemon.app import SETTLES_SINCE
from daemon.db import DAEMON_SESSION, Connection, Pool, Statements, backends, connect, is_direct
from tests.support.api import Client, serving
from tests.support.commands import orchestrator
from tests.support.load import all_ended, insert_leads, sent_once, sms_engine
from tests.support.network import grown
from tests.support.pgbouncer import pgbouncer
from tests.support.processes import fleet, until

SESSIONS = {"daemon": DAEMON_SESSION, "claims": {**DAEMON_SESSION, **SETTLES_SINCE}, "reads": READS, "writes": WRITES}
SET = """
SELECT name, setting FROM pg_settings
WHERE name = ANY ($1) AND name NOT IN ('application_name', 'default_transaction_read_only')
UNION SELECT 'orchestrator.quiet', coalesce(current_setting('orchestrator.quiet', true), '')"""
IGNORED = ", ".join({"search_path", "orchestrator.direct", *DAEMON_SESSION, *SETTLES_SINCE, *READS, *WRITES})
OCCUPIED = Statements("daemon.commands", "database.sql")["occupied"]
PATIENCE_S = 20.0
ONE_PROCESS = {"default_pool_size": "1"}  # whoever comes next gets what the one before has left behind


@asynccontextmanager
async def connected(dsn: str, session: Mapping[str, str] | None = None) -> AsyncIterator[Connection]:
    conn = await connect(dsn, session=session)
    try:
        yield conn
    finally:
        conn.terminate()


async def settings(conn: Connection, session: Mapping[str, str]) -> list[tuple[str, str]]:
    """How this statement's session is set."""
    names = ["search_path", "transaction_read_only", *session]
    return sorted(tuple(row) for row in await conn.fetch(SET, names))


# -- what a session is set to


@pytest.mark.parametrize("bouncer", [{}, {"ignore_startup_parameters": IGNORED}], ids=["refused", "ignored"])
@pytest.mark.parametrize("session", SESSIONS)
async def test_every_transaction_is_set_as_a_session_would_be(dsn: str, session: str, bouncer: dict[str, str]) -> None:
    """One process of the server serves them all, so what one left behind another one would find."""
    its = SESSIONS[session]
    async with connected(dsn, its) as direct, connected(dsn) as plain:
        wanted, untouched = await settings(direct, its), await settings(plain, its)
    assert wanted != untouched
    with pgbouncer(dsn, **bouncer, **ONE_PROCESS) as between:
        async with connected(between.dsn, its) as pooled, connected(between.dsn) as other:
            assert not is_direct(pooled)
            for _ in range(2):
                assert await settings(pooled, its) == wanted
                async with pooled.transaction():
                    assert await settings(pooled, its) == wanted
                assert await settings(other, its) == untouched


async def test_what_reads_can_not_write(dsn: str) -> None:
    insert = "INSERT INTO leads (name, phone) VALUES ('Ann', '+15550100')"
    with pgbouncer(dsn, **ONE_PROCESS) as between:
        async with connected(between.dsn, READS) as reads, connected(between.dsn, WRITES) as writes:
            for _ in range(2):
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    await reads.execute(insert)
                with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                    async with reads.transaction():
                        await reads.fetch(insert)
                await writes.execute("UPDATE leads SET name = $1", "Bo")
            assert await reads.fetchval("SELECT count(*) FROM leads") == 0


# -- statements


async def test_clients_that_share_processes_get_their_own_answers(dsn: str) -> None:
    """What one process has prepared is unknown to the next."""

    async def ask(pool: Pool, number: int) -> None:
        async with pool.acquire() as conn:
            assert await conn.fetchval(f"SELECT {number} + $1::int", number) == 2 * number
            row = await conn.fetchrow("SELECT $1::jsonb AS told, $2::text[] AS names", {"n": number}, [str(number)])
            assert row is not None
            assert (row["told"], row["names"]) == ({"n": number}, [str(number)])

    with pgbouncer(dsn, default_pool_size="2") as between:
        pool = Pool(between.dsn, 8)
        await asyncio.gather(*[ask(pool, number) for number in range(200)])
        assert all(not is_direct(conn) for conn in pool._free)
        pool.close()


async def test_a_failed_statement_leaves_nothing_behind(dsn: str) -> None:
    with pgbouncer(dsn, **ONE_PROCESS) as between:
        async with connected(between.dsn) as conn:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await conn.fetchval("SELECT 1 / $1::int", 0)
            with pytest.raises(asyncpg.DataError):
                await conn.fetchval("SELECT $1::int", "no number")
            assert not conn.is_in_transaction()
            assert await conn.fetchval("SELECT 1") == 1


async def test_a_statement_without_an_answer_ends_its_connection_at_once(dsn: str) -> None:
    """A ROLLBACK would wait as long again for a server that is gone."""
    with pgbouncer(dsn, **ONE_PROCESS) as between:
        async with connected(between.dsn) as conn:
            with pytest.raises(TimeoutError):
                await conn.fetchval("SELECT pg_sleep(60)", timeout=0.1)
            assert conn.is_closed()
        async with connected(between.dsn) as conn:
            assert await conn.fetchval("SELECT 1") == 1


async def test_no_process_is_taken_for_ours(dsn: str) -> None:
    """What a pooler calls the process of a connection is a number of its own, and would be terminated."""
    with pgbouncer(dsn) as between:
        async with connected(between.dsn) as pooled, connected(dsn) as direct:
            assert backends([pooled, direct]) == [direct.get_server_pid()]


# -- daemons


async def is_registered(conn: Connection, *, with_lock: bool, number: int) -> None:
    """So many daemons, and whether each of them can be missed by its lock."""
    assert await conn.fetch("SELECT expects_lock FROM workers") == [(with_lock,)] * number


async def pooled_processes(conn: Connection) -> int:
    """Processes of the server that work for daemons behind the pooler."""
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orchestrator pooled'"
    found: int = await conn.fetchval(f"{sql} AND datname = current_database()")
    return found


@pytest.mark.parametrize(
    ("listening", "bouncer"), [(True, {}), (False, {}), (False, {"pool_mode": "session", "default_pool_size": "40"})],
    ids=["direct listener", "poll-only", "poll-only, by session"],
)  # fmt: skip
async def test_every_lead_goes_its_way_once(
    dsn: str, conn: Connection, listening: bool, bouncer: dict[str, str]
) -> None:
    way = {"listen_url": dsn} if listening else {"listener__poll_only": "true"}
    with pgbouncer(dsn, **bouncer) as between:
        async with (
            sms_engine(honours_keys=False) as engine,
            fleet(between.dsn, **engine.settings(), **way) as daemons,
        ):
            for _ in range(2):
                await daemons.start()
            await is_registered(conn, with_lock=listening, number=2)
            for _ in range(8):
                await insert_leads(conn, 50)
            await all_ended(conn, PATIENCE_S)
            assert await sent_once(conn, engine, 400) == 0
            assert await pooled_processes(conn) > 0
            for daemon in daemons.members:
                daemon.signal(signal.SIGTERM)
            for daemon in daemons.members:
                assert await daemon.ended(10.0) == 0
                assert "part failed" not in daemon.log.read_text(), daemon.said()
        assert await conn.fetchval("SELECT count(*) FROM workers") == 0


async def test_a_daemon_killed_in_poll_only_mode_is_replaced_after_its_leases(dsn: str, conn: Connection) -> None:
    way = {"listener__poll_only": "true", "worker__lease_s": "2"}
    with pgbouncer(dsn) as between:
        async with (
            sms_engine(honours_keys=True) as engine,
            fleet(between.dsn, **engine.settings(), **way) as daemons,
        ):
            victim = await daemons.start()
            engine.gate.clear()
            await insert_leads(conn, 20)
            await until(lambda: _in_flight(engine.in_flight, 20), 10.0, "the victim's calls")
            victim.kill()
            heir = await daemons.start()
            engine.gate.set()
            await all_ended(conn, PATIENCE_S)
            assert await sent_once(conn, engine, 20) == 0
            assert set(engine.effects.values()) == {1}
            assert await heir.metric("tasks_taken_over_total") == 20


async def _in_flight(now: int, wanted: int) -> bool:
    return now >= wanted


@pytest.mark.parametrize("listening", [True, False], ids=["direct listener", "poll-only"])
async def test_a_pooler_that_is_killed_and_comes_back_costs_nothing(
    dsn: str, conn: Connection, listening: bool
) -> None:
    way = {"listen_url": dsn} if listening else {"listener__poll_only": "true"}
    with pgbouncer(dsn) as between:
        async with (
            sms_engine(honours_keys=True) as engine,
            fleet(between.dsn, worker__lease_s="3", **engine.settings(), **way) as daemons,
        ):
            daemon = await daemons.start()
            for _ in range(3):
                begun = len(engine.requests)
                await insert_leads(conn, 40)
                await grown(engine.requests, begun)
                between.kill()
                between.start()
            await all_ended(conn, PATIENCE_S)
            assert await sent_once(conn, engine, 120) == 0
            assert daemon.alive


async def test_a_pooler_does_not_keep_a_daemon_alive_that_has_gone(dsn: str, conn: Connection) -> None:
    """Else nobody could migrate or restore until PgBouncer closes what it holds.

    Mutant: `occupied` in database.sql asks for no more than names.
    """
    with pgbouncer(dsn) as between:
        async with fleet(between.dsn, listener__poll_only="true") as daemons:
            daemon = await daemons.start()
            assert await daemons_seen(conn) > 0
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended(10.0) == 0
        assert await pooled_processes(conn) > 0
        await until(lambda: _nobody(conn), 10.0, "nobody to be there")
        assert await pooled_processes(conn) > 0


async def daemons_seen(conn: Connection) -> int:
    """How many sessions of daemons stand in the way of a migration."""
    found: int = (await conn.fetch(OCCUPIED))[0]["daemons"]
    return found


async def _nobody(conn: Connection) -> bool:
    return await daemons_seen(conn) == 0


# -- the API


@pytest.mark.parametrize("listening", [True, False], ids=["direct listener", "poll-only"])
async def test_ready_as_long_as_the_pooler_is_there(dsn: str, listening: bool) -> None:
    with pgbouncer(dsn) as between:
        way = dsn if listening else between.dsn
        async with serving(
            between.dsn, direct=dsn, listen=way, WORKER__PULSE_S="0.05", LISTENER__POLL_ONLY=str(not listening)
        ) as api:
            assert (await api.ask("GET", "/api/leads")).status == 200
            between.kill()
            await until(lambda: _answers(api, "/readyz", 503), 5.0, "not ready")
            assert (await api.ask("GET", "/healthz")).status == 200
            between.start()
            await until(lambda: _answers(api, "/readyz", 200), 10.0, "ready again")


async def _answers(api: Client, path: str, status: int) -> bool:
    return (await api.ask("GET", path)).status == status


# -- settings that don't fit


@pytest.mark.parametrize("command", ["run", "check"])
async def test_ears_behind_a_pooler_are_refused(dsn: str, home: Path, command: str) -> None:
    with pgbouncer(dsn) as between:
        said = await orchestrator(home, command, DATABASE_URL=between.dsn, ORCHESTRATOR_LOG__FORMAT="json")
    assert said.code == (2 if command == "run" else 1), said
    assert "Traceback" not in said.err
    line = said.err.splitlines()[-1] if command == "run" else said.out
    assert "set ORCHESTRATOR_LISTEN_URL to a direct connection, or ORCHESTRATOR_LISTENER__POLL_ONLY=true" in line


@pytest.mark.parametrize("command", ["run", "check"])
async def test_pooling_by_statement_is_refused(dsn: str, home: Path, command: str) -> None:
    with pgbouncer(dsn, pool_mode="statement") as between:
        said = await orchestrator(home, command, DATABASE_URL=between.dsn, ORCHESTRATOR_LISTEN_URL=dsn)
    assert said.code == (2 if command == "run" else 1), said
    assert "Traceback" not in said.err
    assert "set pool_mode = transaction" in said.out + said.err


async def test_check_finds_nothing_wrong_with_the_recommended_way(dsn: str, home: Path) -> None:
    with pgbouncer(dsn) as between:
        said = await orchestrator(home, "check", DATABASE_URL=between.dsn, ORCHESTRATOR_LISTEN_URL=dsn)
    assert said.code == 0, said
    assert "ok       listener: on a direct connection" in said.out


async def test_the_shell_takes_the_direct_way(dsn: str, home: Path) -> None:
    """Its session is set at its start, which the pooler refuses. Mutant: `shell` takes `database.dsn`."""
    with pgbouncer(dsn) as between:
        urls = {"DATABASE_URL": between.dsn, "ORCHESTRATOR_LISTEN_URL": dsn}
        said = await orchestrator(home, "db", "shell", "--", "-Atc", "SHOW search_path", **urls)
    assert (said.code, said.out) == (0, "orchestrator,public\n"), said


async def test_whom_the_pooler_does_not_know_is_told_so(dsn: str, home: Path) -> None:
    with pgbouncer(dsn) as between:
        wrong = urlunsplit(urlsplit(between.dsn)._replace(netloc=f"stranger:guess@127.0.0.1:{between.port}"))
        said = await orchestrator(home, "run", DATABASE_URL=wrong, ORCHESTRATOR_LISTEN_URL=dsn)
    assert said.code == 1, said
    assert "Traceback" not in said.err
    assert "authentication failed: start it, or correct DATABASE_URL" in said.err
