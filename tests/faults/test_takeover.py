"""Several daemons on one database: who dies is replaced, who is only cut off or frozen does no harm when he comes back.

Mutants that these tests kill (each one line, tried by hand):
  settle fence: queue.sql `settle` without `AND t.lease_id = d.lease`: the zombie's outcome moves the lead again
  takeover: `take_over` in schema.sql returns 0 at once
  lease: `free_expired` in schema.sql returns 0 at once
"""

import statistics
import time
from uuid import UUID

import pytest

from daemon.db import Connection
from tests.support.load import SmsEngine, all_ended, insert_leads, sent_once, sms_engine
from tests.support.processes import DaemonProcess, fleet, freeze, thaw, until
from tests.support.proxy import proxy

HELD = "SELECT t.id FROM tasks t JOIN workers w ON w.id = t.worker WHERE t.status = 'running' AND w.pid = $1"

GIVEN_UP = """
SELECT count(*) = 10 FROM tasks WHERE id = ANY ($1) AND interruptions = 1 AND worker IS DISTINCT FROM $2"""


async def held_by(conn: Connection, daemon: DaemonProcess) -> list[int]:
    """The tasks that it is attempting."""
    return [row["id"] for row in await conn.fetch(HELD, daemon.pid)]


async def kill_one_at_work(conn: Connection, living: list[DaemonProcess]) -> float:
    """Kill one in mid-work; the seconds until the first of its tasks was settled by a peer."""
    at_work: list[DaemonProcess] = []

    async def found() -> bool:
        at_work[:] = [daemon for daemon in living if await held_by(conn, daemon)]
        return bool(at_work)

    await until(found, 20.0, "somebody to hold tasks", pause=0.002)
    daemon = at_work[0]
    living.remove(daemon)
    daemon.kill()
    began = time.monotonic()
    tasks = await held_by(conn, daemon)
    if not tasks:
        return -1.0
    ended = "SELECT EXISTS (SELECT FROM task_log WHERE id = ANY ($1))"
    await until(lambda: conn.fetchval(ended, tasks), 10.0, "a task of the victim to be settled", pause=0.005)
    return time.monotonic() - began


@pytest.mark.parametrize("number", [2, 3])
async def test_a_dead_daemon_is_replaced_within_two_seconds(dsn: str, conn: Connection, number: int) -> None:
    took: list[float] = []
    async with (
        sms_engine(honours_keys=True, latency_s=(0.05, 0.1)) as engine,
        fleet(dsn, **engine.settings()) as daemons,
    ):
        living = [await daemons.start() for _ in range(number)]
        for _ in range(5 - number):
            await insert_leads(conn, 100)
            took.append(await kill_one_at_work(conn, living))
            living.append(await daemons.start())
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 100 * (5 - number)) == 0
    measured = [seconds for seconds in took if seconds > 0]
    assert measured, "no victim held a task when it died"
    assert statistics.median(measured) <= 2.0, took


async def test_two_daemons_share_a_load_and_handle_each_lead_once(dsn: str, conn: Connection) -> None:
    async with sms_engine(honours_keys=False) as engine, fleet(dsn, **engine.settings()) as daemons:
        for _ in range(2):
            await daemons.start()
        for _ in range(8):
            await insert_leads(conn, 50)
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 400) == 0
        assert await conn.fetchval("SELECT count(DISTINCT worker) FROM task_log") == 2, "one of them did nothing"


async def test_a_daemon_cut_off_from_its_lock_signs_on_anew(dsn: str, conn: Connection) -> None:
    async with (
        proxy(dsn) as network,
        sms_engine(honours_keys=True) as engine,
        fleet(dsn, **engine.settings()) as daemons,
    ):
        victim = await daemons.start(ORCHESTRATOR_LISTEN_URL=network.dsn(dsn))
        number = await number_of(conn, victim)
        engine.gate.clear()
        await insert_leads(conn, 10)
        await until(lambda: _in_flight(engine, 10), 10.0, "the victim's calls")
        await daemons.start()
        await network.refuse()
        assert network.cut() == 1
        await until(lambda: _in_flight(engine, 20), 10.0, "the peer to make the same calls")
        await network.admit()
        await until(lambda: _lost(victim, 10), 10.0, "the victim to know that its leases are gone")
        engine.gate.set()
        await all_ended(conn, 10.0)
        assert await sent_once(conn, engine, 10) == 0
        assert len(engine.requests) == 20
        assert set(engine.effects.values()) == {1}
        assert victim.alive
        assert await until(lambda: number_of(conn, victim), 20.0, "a new registration") != number


async def number_of(conn: Connection, daemon: DaemonProcess) -> UUID | None:
    """The id under which it is registered."""
    found: UUID | None = await conn.fetchval("SELECT id FROM workers WHERE pid = $1", daemon.pid)
    return found


async def _in_flight(engine: SmsEngine, calls: int) -> bool:
    return engine.in_flight >= calls


async def _lost(daemon: DaemonProcess, leases: int) -> bool:
    return await daemon.metric("leases_lost_total") >= leases


@pytest.mark.parametrize("honours_keys", [True, False], ids=["idempotent engine", "plain engine"])
async def test_a_thawed_zombie_changes_nothing(dsn: str, conn: Connection, honours_keys: bool) -> None:
    """Frozen, it keeps its lock; only the leases free its tasks, and its late outcomes are discarded."""
    async with (
        sms_engine(honours_keys=honours_keys) as engine,
        fleet(dsn, **engine.settings(), worker__lease_s="2") as daemons,
    ):
        zombie = await daemons.start()
        engine.gate.clear()
        await insert_leads(conn, 10)
        await until(lambda: _in_flight(engine, 10), 10.0, "the zombie's calls")
        freeze(zombie)
        tasks = await held_by(conn, zombie)
        assert len(tasks) == 10
        await daemons.start()
        its_id = await number_of(conn, zombie)
        assert its_id, "the frozen daemon still holds its lock, nobody may take it over"
        await until(lambda: conn.fetchval(GIVEN_UP, tasks, its_id), 10.0, "the leases to run out")
        engine.gate.set()
        await until(lambda: _peer_is_through(conn, tasks), 10.0, "the peer to end them")
        thaw(zombie)
        await until(lambda: _lost(zombie, 10), 10.0, "the late outcomes to be discarded")
        await all_ended(conn, 10.0)
        await until(lambda: conn.fetchval("SELECT count(*) = 10 FROM leads WHERE stage = 'AI_CONVERSATION'"), 10.0,
                    "the late answers to be heard")  # fmt: skip
        assert await sent_once(conn, engine, 10) == 0
        assert len(engine.requests) == (20 if honours_keys else 10)


async def _peer_is_through(conn: Connection, tasks: list[int]) -> bool:
    ended = "SELECT count(*) FROM tasks WHERE id = ANY ($1) AND status <> 'dead'"
    return bool(await conn.fetchval(ended, tasks) == 0)
