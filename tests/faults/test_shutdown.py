"""SIGTERM at a bad moment, and a start at one: nothing is lost, nothing waits for a lease.

Mutants that these tests kill (each one line, tried by hand):
  cost: queue.sql `give_back` without `attempt = t.attempt - 1`
  claim on its way: `Worker._claim` without `self._idle.clear()`
"""

import asyncio
import os
import random
import signal
import time

import pytest

from daemon.db import Connection
from tests.support.load import SmsEngine, all_ended, insert_leads, sent_once, sms_engine
from tests.support.network import behind_network, counted, grown
from tests.support.postgres import Server
from tests.support.processes import DaemonProcess, at_rest, fleet, postmaster_of, reconnected, until
from tests.support.proxy import proxy

GRACE_S = 1.0
NOBODY_THERE = """
SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                   WHERE application_name = 'orchestrator' AND datname = current_database())"""


async def stopped(daemon: DaemonProcess) -> float:
    """SIGTERM; exit code 0, and the seconds it took."""
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended(GRACE_S + 10.0) == 0, daemon.said()
    return time.monotonic() - began


async def _in_flight(engine: SmsEngine, calls: int) -> bool:
    return engine.in_flight >= calls


async def test_calls_that_end_within_the_grace_are_settled(dsn: str, conn: Connection) -> None:
    async with (
        sms_engine(honours_keys=False, latency_s=(0.3, 0.5)) as engine,
        fleet(dsn, **engine.settings(), shutdown_grace_s="5") as daemons,
    ):
        daemon = await daemons.start()
        await insert_leads(conn, 40)
        await until(lambda: _in_flight(engine, 20), 10.0, "calls in flight")
        assert await stopped(daemon) < 3.0
        assert await conn.fetchval("SELECT count(*) FROM messages WHERE status = 'sent'") == len(engine.requests)
        assert await conn.fetchval("SELECT count(*) FROM tasks WHERE status = 'running'") == 0
        await daemons.start()
        await all_ended(conn, 10.0)
        assert await sent_once(conn, engine, 40) == 0


async def test_what_does_not_end_in_time_is_given_back_at_no_cost(dsn: str, conn: Connection) -> None:
    async with (
        sms_engine(honours_keys=True) as engine,
        fleet(dsn, **engine.settings(), shutdown_grace_s=str(GRACE_S)) as daemons,
    ):
        daemon = await daemons.start()
        engine.gate.clear()
        await insert_leads(conn, 40)
        await until(lambda: _in_flight(engine, 40), 10.0, "calls in flight")
        assert await stopped(daemon) <= GRACE_S + 2.0
        given_back = await conn.fetch("SELECT status, attempt, interruptions, run_at <= clock() AS due FROM tasks")
        assert [tuple(row) for row in given_back] == [("available", 0, 0, True)] * 40
        assert await conn.fetchval("SELECT count(*) FROM workers") == 0
        engine.gate.set()
        await daemons.start()
        began = time.monotonic()
        await all_ended(conn, 10.0)
        assert time.monotonic() - began < 5.0, "they were not available at once"
        assert await sent_once(conn, engine, 40) == 0
        assert len(engine.requests) == 80


async def test_stopped_at_any_moment_it_leaves_nothing_running(dsn: str, conn: Connection) -> None:
    """Also between a claim and its answer: what nobody attempts would wait for its lease."""
    async with (
        sms_engine(honours_keys=False, latency_s=(0.001, 0.002)) as engine,
        fleet(dsn, **engine.settings()) as daemons,
    ):
        for _ in range(5):
            daemon = await daemons.start()
            feeding = asyncio.create_task(feed(dsn, 10))
            begun, more = len(engine.requests), random.randrange(1, 60)
            await grown(engine.requests, begun + more, pause=0.001)
            await stopped(daemon)
            assert await conn.fetchval("SELECT count(*) FROM tasks WHERE status = 'running'") == 0, daemon.said()
            await feeding
        await daemons.start()
        await all_ended(conn, 10.0)
        assert await sent_once(conn, engine, 500) == 0


async def test_a_claim_on_its_way_is_not_left_behind(dsn: str, conn: Connection) -> None:
    async with behind_network(dsn, honours_keys=False) as (network, _, daemons):
        for _ in range(2):
            daemon = await daemons.start()
            await at_rest(conn)
            network.delay_s = 0.3
            await insert_leads(conn, 1)
            before = network.counts["delayed"]
            await counted(network, "delayed", before + 2)
            network.delay_s = 0.0  # what is on its way stays late
            await stopped(daemon)
            await until(lambda: conn.fetchval(NOBODY_THERE), 5.0, "the end of its sessions")
            assert await conn.fetchval("SELECT count(*) FROM tasks WHERE status = 'running'") == 0, daemon.said()


async def feed(dsn: str, times: int) -> None:
    """Leads in a quick succession, ten at a time."""
    conn = await reconnected(dsn)
    for _ in range(times):
        await insert_leads(conn, 10)
    await conn.close()


@pytest.mark.parametrize("how", ["gone", "silent"])
async def test_it_stops_while_postgres_is_away(dsn: str, conn: Connection, how: str) -> None:
    async with behind_network(dsn, honours_keys=True, shutdown_grace_s=str(GRACE_S)) as (network, engine, daemons):
        daemon = await daemons.start()
        engine.gate.clear()
        await insert_leads(conn, 20)
        await until(lambda: _in_flight(engine, 20), 10.0, "calls in flight")
        if how == "gone":
            await network.refuse()
            assert network.cut() >= 1
        else:
            assert network.go_silent(new_ones_too=True) >= 1
        engine.gate.set()
        await until(lambda: _in_flight_no_more(engine), 10.0, "answers that can't be settled")
        assert await stopped(daemon) <= GRACE_S + 2.0
        network.cut()
        network.silent = False
        if how == "gone":
            await network.admit()
        await daemons.start()
        await all_ended(conn, 45.0)
        assert await sent_once(conn, engine, 20) == 0


async def _in_flight_no_more(engine: SmsEngine) -> bool:
    return engine.in_flight == 0


async def test_it_starts_before_postgres_and_then_works(own_server: Server) -> None:
    dsn = await own_server.clone()
    async with proxy(dsn) as network, sms_engine(honours_keys=False) as engine:
        await network.refuse()
        async with fleet(network.dsn(dsn), **engine.settings()) as daemons:
            daemon = daemons.launch()
            await until(lambda: _says(daemon, "waiting for the database"), 10.0, "the daemon to wait")
            conn = await reconnected(dsn)
            os.kill(await postmaster_of(conn), signal.SIGQUIT)
            conn.terminate()
            await network.admit()
            await counted(network, "refused", network.counts["refused"] + 1)
            await asyncio.to_thread(own_server.embedded.start)
            await daemon.ready(20.0)
            conn = await reconnected(dsn)
            await insert_leads(conn, 10)
            await all_ended(conn, 10.0)
            assert await sent_once(conn, engine, 10) == 0
            await conn.close()


async def test_sigterm_while_it_waits_for_its_first_connection(dsn: str) -> None:
    async with proxy(dsn) as network:
        await network.refuse()
        async with fleet(network.dsn(dsn)) as daemons:
            daemon = daemons.launch()
            await until(lambda: _says(daemon, "waiting for the database"), 10.0, "the daemon to wait")
            daemon.signal(signal.SIGTERM)
            assert await daemon.ended(5.0) in (0, -signal.SIGTERM)


async def _says(daemon: DaemonProcess, words: str) -> bool:
    return words in daemon.said()
