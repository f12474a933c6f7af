"""Connections that end, servers that crash, networks that fall silent, answers that are lost: the daemon stays up.

Mutants that these tests kill (each one line, tried by hand):
  half-open: `Listener._beat` asks without `timeout=`
  lost COMMIT: `Committer._write` never asks `settled_already`
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from daemon.db import Connection
from tests.support.load import all_ended, insert_leads, sent_once, sms_engine
from tests.support.postgres import Server
from tests.support.processes import DaemonProcess, fleet, reconnected, until
from tests.support.proxy import proxy

TERMINATE = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'orchestrator' AND datname = current_database()"


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
            await until(lambda: _more(engine.requests, begun), 10.0, "calls in flight")  # noqa: B023
            terminated += await conn.fetchval(TERMINATE)
            await heard_again(daemon, before, 10.0)
        await all_ended(conn, 20.0)
        assert await sent_once(conn, engine, 400) == 0
        assert daemon.alive
    assert terminated >= 20, "too few backends were there to be terminated"


async def _more(seen: list[str], than: int) -> bool:
    return len(seen) > than


def crash(server: Server, how: str) -> None:
    """End the server without a goodbye."""
    pid = int(Path(server.embedded._places.data, "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGQUIT if how == "immediate" else signal.SIGKILL)


@pytest.mark.parametrize("how", ["immediate", "kill -9"])
async def test_the_server_crashes_twice(own_server: Server, how: str) -> None:
    dsn = await own_server.clone()
    crashes = 0
    async with sms_engine(honours_keys=True) as engine, fleet(dsn, **engine.settings()) as daemons:
        daemon = await daemons.start()
        for _ in range(2):
            conn = await reconnected(dsn)
            begun, before = len(engine.requests), await daemon.metric("listener_reconnects_total")
            await insert_leads(conn, 100)
            conn.terminate()
            await until(lambda: _more(engine.requests, begun), 10.0, "calls in flight")  # noqa: B023
            crash(own_server, how)
            crashes += engine.in_flight > 0
            await until(lambda: _is(daemon, "listener_connected", 0), 10.0, "the daemon to say that the database is away")
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
    async with proxy(dsn) as network, sms_engine(honours_keys=True) as engine:
        async with fleet(network.dsn(dsn), **engine.settings()) as daemons:
            daemon = await daemons.start()
            await insert_leads(conn, 60)
            await until(lambda: _more(engine.requests, 5), 10.0, "calls in flight")
            before = await daemon.metric("listener_reconnects_total")
            assert network.go_silent(new_ones_too=new_ones_too) >= 2
            await insert_leads(conn, 40)
            await until(lambda: _is(daemon, "listener_connected", 0), 5.0, "the daemon to notice the silence")
            network.silent = False
            await heard_again(daemon, before, 5.0 + 5.0 * new_ones_too)
            await all_ended(conn, 20.0)
            assert await sent_once(conn, engine, 100) == 0


async def test_a_slow_network_loses_nothing(dsn: str, conn: Connection) -> None:
    async with proxy(dsn) as network, sms_engine(honours_keys=False) as engine:
        async with fleet(network.dsn(dsn), **engine.settings()) as daemons:
            await daemons.start()
            network.delay_s = 0.1
            await insert_leads(conn, 50)
            await all_ended(conn, 30.0)
            assert await sent_once(conn, engine, 50) == 0


async def test_a_network_that_breaks_and_refuses(dsn: str, conn: Connection) -> None:
    async with proxy(dsn) as network, sms_engine(honours_keys=True) as engine:
        async with fleet(network.dsn(dsn), **engine.settings()) as daemons:
            daemon = await daemons.start()
            for _ in range(2):
                before, begun = await daemon.metric("listener_reconnects_total"), len(engine.requests)
                await insert_leads(conn, 50)
                await until(lambda: _more(engine.requests, begun), 10.0, "calls in flight")  # noqa: B023
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
    async with proxy(dsn) as network, sms_engine(honours_keys=True, latency_s=(0.1, 0.3)) as engine:
        async with fleet(network.dsn(dsn), **engine.settings()) as daemons:
            daemon = await daemons.start()
            for _ in range(4):
                before, begun = await daemon.metric("listener_reconnects_total"), len(engine.requests)
                await insert_leads(conn, 50)
                await until(lambda: _more(engine.requests, begun), 10.0, "calls in flight")  # noqa: B023
                assert network.say_goodbye() >= 2
                await heard_again(daemon, before, 10.0)
            await all_ended(conn, 20.0)
            assert await sent_once(conn, engine, 200) == 0
            assert "part failed" not in daemon.log.read_text(), daemon.said()


@pytest.mark.parametrize("tag", ["COMMIT", "UPDATE", "INSERT"])
async def test_lost_answers_cost_nothing(dsn: str, conn: Connection, tag: str) -> None:
    """The server did it, and the daemon never heard so: a commit, a claim, a settlement. Nobody renews a lost claim."""
    async with proxy(dsn) as network, sms_engine(honours_keys=False) as engine:
        async with fleet(network.dsn(dsn), **engine.settings(), worker__lease_s="3") as daemons:
            daemon = await daemons.start()
            for lost in range(1, 6):
                network.lose(tag.encode(), 1)
                await insert_leads(conn, 20)
                await until(lambda: _is_lost(network.counts, lost), 10.0, "an answer to be lost")  # noqa: B023
            engine.latency_s = (1.0, 2.0)  # from now on it always runs something, and renews
            await insert_leads(conn, 200)
            await all_ended(conn, 30.0)
            assert await sent_once(conn, engine, 300) == 0
            assert daemon.alive


async def _is_lost(counts: dict[str, int], times: int) -> bool:
    return counts["lost"] >= times
