"""kill -9 at random moments, calls to the engine in flight, the daemon started again at once.

Mutants that these tests kill (each one line, tried by hand):
  ledger: `Engines.call` makes the call before it awaits `self.ledger.reserve(intent)`
  takeover: `take_over` in schema.sql returns 0 at once: what the dead daemon held never ends in time
"""

import random

import pytest

from daemon.db import Connection
from tests.support.load import SmsEngine, all_ended, insert_leads, sent_once, sms_engine
from tests.support.processes import DaemonProcess, Fleet, fleet, until

LEADS = 400
KILLS = [pytest.param(6, id="6"), pytest.param(20, id="20", marks=[pytest.mark.soak, pytest.mark.timeout(600)]),
         pytest.param(50, id="50", marks=[pytest.mark.soak, pytest.mark.timeout(1200)])]  # fmt: skip


async def killed_at_random(daemon: DaemonProcess, engine: SmsEngine, calls: int) -> int:
    """Kill it when it has made so many more calls; how many were in flight."""
    begun = len(engine.requests)

    async def called() -> bool:
        return len(engine.requests) >= begun + calls and engine.in_flight > 0

    await until(called, 20.0, f"{calls} calls", pause=random.uniform(0.0005, 0.005))
    in_flight = engine.in_flight
    daemon.kill()
    return in_flight


async def kill_again_and_again(fleet: Fleet, engine: SmsEngine, conn: Connection, kills: int) -> int:
    """Feed leads and kill; returns how many calls the kills cut off."""
    cut, chunk = 0, LEADS // kills
    for number in range(kills):
        daemon = await fleet.start()
        if number % 2:  # this one begins with what the one before left behind
            await until(lambda: daemon.metric("tasks_taken_over_total"), 10.0, "a takeover")  # noqa: B023
        await insert_leads(conn, chunk)
        cut += await killed_at_random(daemon, engine, random.randrange(1, chunk // 2))
    await insert_leads(conn, LEADS - kills * chunk)
    return cut


@pytest.mark.parametrize("kills", KILLS)
@pytest.mark.parametrize("honours_keys", [True, False], ids=["idempotent engine", "plain engine"])
async def test_nobody_is_lost_or_called_twice(dsn: str, conn: Connection, kills: int, honours_keys: bool) -> None:
    async with sms_engine(honours_keys=honours_keys) as engine, fleet(dsn, **engine.settings()) as daemons:
        cut = await kill_again_and_again(daemons, engine, conn, kills)
        await daemons.start()
        await all_ended(conn, 40.0)
        unknown = await sent_once(conn, engine, LEADS)
    assert cut > 0, "no kill met a call in flight"
    assert await conn.fetchval("SELECT count(*) FROM task_log WHERE interruptions > 0") > 0 or unknown, (
        "no interruption"
    )
    if honours_keys:
        assert unknown == 0
    else:
        assert max(engine.requests.count(key) for key in set(engine.requests)) == 1
        assert 0 < unknown <= 64 * kills
