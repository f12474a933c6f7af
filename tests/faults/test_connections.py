"""Connections that end, servers that crash, networks that fall silent, answers that are lost: the daemon stays up.

Mutants that these tests kill (each one line, tried by hand):
  half-open: `Listener._beat` asks without `timeout=`
  goodbye: `Pool.acquire` lets `InternalClientError` through as it is
  lost COMMIT: `Committer._write` never asks `settled_already`
  lost claim: queue.sql `renew` without `AND id = ANY ($3)`
"""

import asyncio
import os
import signal
from typing import Any

import pytest

from daemon.db import Connection
from tests.support.daemon import scenario
from tests.support.load import all_ended, insert_leads, sent_once, sms_engine
from tests.support.network import behind_network, counted, grown
from tests.support.postgres import Server
from tests.support.processes import DaemonProcess, at_rest, fleet, postmaster_of, reconnected, until

TERMINATE = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'orchestrator' AND datname = current_database()"""
ALL_THROUGH = "SELECT NOT EXISTS (SELECT FROM leads WHERE stage <> 'AI_CONVERSATION')"


async def heard_again(daemon: DaemonProcess, before: float, within: float) -> None:
    """Wait until the listening connection was replaced and proves itself."""

    async def again() -> bool:
        found = await daemon.metrics()
        return found.get("orchestrator_listener_reconnects_total", 0) > before and (
            found.get("orchestrator_listener_connected") == 1
        )

    assert daemon.alive
    await until(again, within, f"a new listening connection:\n{daemon.said()}")


async def test_all_backends_terminated_ten_times(dsn: str, conn: Connection) -> None:
    terminated = 0
    async with sms_engine(honours_keys=True) as engine, fleet(dsn, **engine.settings()) as daemons:
        daemon = await daemons.start()
        for _ in range(10):
            begun, before = len(engine.requests), await daemon.metric("listener_reconnects_total")
            await insert_leads(conn, 40)
            await grown(engine.requests, begun)
            terminated += await conn.fetchval(TERMINATE)
            await heard_again(daemon, before, 10.0)
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 400) == 0
        assert daemon.alive
    assert terminated >= 20, "too few backends were there to be terminated"


HOW = {"immediate": signal.SIGQUIT, "kill -9": signal.SIGKILL}


@pytest.mark.parametrize("how", HOW)
async def test_the_server_crashes_twice(own_server: Server, how: str) -> None:
    dsn = await own_server.clone()
    crashes = 0
    async with sms_engine(honours_keys=True) as engine, fleet(dsn, **engine.settings()) as daemons:
        daemon = await daemons.start()
        for _ in range(2):
            conn = await reconnected(dsn)
            postmaster = await postmaster_of(conn)
            begun, before = len(engine.requests), await daemon.metric("listener_reconnects_total")
            await insert_leads(conn, 100)
            conn.terminate()
            await grown(engine.requests, begun)
            os.kill(postmaster, HOW[how])
            crashes += engine.in_flight > 0
            await until(
                lambda: _is(daemon, "listener_connected", 0), 10.0, "the daemon to say that the database is away"
            )
            await asyncio.to_thread(own_server.embedded.start)
            await heard_again(daemon, before, 15.0)
        conn = await reconnected(dsn)
        await all_ended(conn, 40.0)
        assert await sent_once(conn, engine, 200) == 0
        await conn.close()
        assert daemon.alive
    assert crashes == 2, "a crash met no call in flight"


async def _is(daemon: DaemonProcess, name: str, value: float) -> bool:
    return (await daemon.metrics()).get(f"orchestrator_{name}") == value


@pytest.mark.parametrize("new_ones_too", [False, True], ids=["old connections only", "network gone for a while"])
async def test_half_open_connections_are_replaced(dsn: str, conn: Connection, new_ones_too: bool) -> None:
    async with behind_network(dsn, honours_keys=True) as (network, engine, daemons):
        daemon = await daemons.start()
        await insert_leads(conn, 60)
        await grown(engine.requests, 5)
        before = await daemon.metric("listener_reconnects_total")
        assert network.go_silent(new_ones_too=new_ones_too) >= 2
        await insert_leads(conn, 40)
        await until(lambda: _is(daemon, "listener_connected", 0), 5.0, "the daemon to notice the silence")
        network.silent = False
        await heard_again(daemon, before, 5.0 + 5.0 * new_ones_too)
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 100) == 0


async def test_a_slow_network_loses_nothing(dsn: str, conn: Connection) -> None:
    async with behind_network(dsn, honours_keys=False) as (network, engine, daemons):
        await daemons.start()
        network.delay_s = 0.1
        await insert_leads(conn, 50)
        await all_ended(conn, 30.0)
        assert await sent_once(conn, engine, 50) == 0


async def test_a_network_that_breaks_and_refuses(dsn: str, conn: Connection) -> None:
    async with behind_network(dsn, honours_keys=True) as (network, engine, daemons):
        daemon = await daemons.start()
        for _ in range(2):
            before, begun = await daemon.metric("listener_reconnects_total"), len(engine.requests)
            await insert_leads(conn, 50)
            await grown(engine.requests, begun)
            await network.refuse()
            assert network.cut() >= 2
            await until(lambda: _is(daemon, "listener_connected", 0), 5.0, "the daemon to say so")
            await insert_leads(conn, 50)
            await network.admit()
            await heard_again(daemon, before, 10.0)
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 200) == 0


async def test_a_server_that_says_goodbye_before_it_hangs_up(dsn: str, conn: Connection) -> None:
    """In between, asyncpg refuses every statement with an error that is no PostgresError."""
    async with behind_network(dsn, honours_keys=True, engine={"latency_s": (0.1, 0.3)}) as (network, engine, daemons):
        daemon = await daemons.start()
        for _ in range(4):
            before, begun = await daemon.metric("listener_reconnects_total"), len(engine.requests)
            await insert_leads(conn, 50)
            await grown(engine.requests, begun)
            assert network.say_goodbye() >= 2
            await heard_again(daemon, before, 10.0)
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 200) == 0
        assert "part failed" not in daemon.log.read_text(), daemon.said()


LOST = {"claim": "UPDATE 20", "reservation": "SELECT 2", "reservation with money": "COMMIT", "outcome": "SELECT 3"}
"""Whose answer is lost, by its command tag: what is written at once answers a row for each step that must find some."""


@pytest.mark.parametrize("what", LOST)
async def test_lost_answers_cost_nothing(dsn: str, conn: Connection, what: str) -> None:
    """The server did it, and the daemon never heard so. A lost claim ends with its lease, which nobody renews."""
    money: dict[str, Any] = {"engines__sms__daily_budget": "1000"} if what == "reservation with money" else {}
    async with behind_network(dsn, honours_keys=False, worker__lease_s="3", **money) as (network, engine, daemons):
        daemon = await daemons.start(TEST_KINDS="1")
        await conn.execute("SELECT enqueue('strange.linger', '{\"seconds\": 60}')")  # it always renews something
        for lost in range(1, 6):
            await at_rest(conn)
            network.lose(LOST[what].encode(), 1)
            await insert_leads(conn, 20)
            await counted(network, "lost", lost)
        await until(lambda: conn.fetchval(ALL_THROUGH), 12.0, f"all leads:\n{daemon.said()}")
        assert await sent_once(conn, engine, 100) == 0
        assert daemon.alive
        if what == "outcome":
            assert await daemon.metric("leases_lost_total") == 0, "its own commit is no loss"


async def test_a_connection_that_falls_silent_holds_back_neither_claims_nor_opt_outs(dsn: str) -> None:
    """The daemon's ears are fine, so only that one write waits. Mutant: `Worker._gather` without its time-out."""
    async with scenario(dsn) as t:
        lead = await t.lead()
        await t.until(lead, "AI_CONVERSATION")
        await t.quiet()
        silent = t.running[0].daemon.pool._free[-1].get_server_pid()
        os.kill(silent, signal.SIGSTOP)
        try:
            stuck = await t.lead()
            await t.eventually("SELECT status = 'running' FROM tasks WHERE key = $1", f"lead:{stuck}")
            await t.say(lead, "STOP")
            fresh = await t.lead()
            await t.until(fresh, "AI_CONVERSATION", within_s=5)
            await t.eventually("SELECT do_not_contact FROM leads WHERE id = $1", lead, within_s=5)
            assert await t.get(stuck, "stage") == "NEW_LEAD", "nothing was silent"
        finally:
            os.kill(silent, signal.SIGCONT)
        await t.until(stuck, "AI_CONVERSATION")
