"""NOTIFY is only a hint: with every notification lost, the beat finds the work.

Mutant that these tests kill (tried by hand): `Listener._beat` ignores `row["waiting"]`.
"""

import time

from daemon.db import Connection
from tests.support.load import insert_leads, sent_once, sms_engine
from tests.support.processes import at_rest, fleet, until
from tests.support.proxy import proxy

BEAT_S = 2.0


async def _through(conn: Connection, leads: list[str]) -> bool:
    there = "SELECT count(*) FROM leads WHERE id = ANY ($1::uuid[]) AND stage = 'AI_CONVERSATION'"
    return bool(await conn.fetchval(there, leads) == len(leads))


async def test_leads_inserted_in_silence_are_handled_within_a_beat(dsn: str, conn: Connection) -> None:
    async with sms_engine(honours_keys=False) as engine, fleet(dsn, **engine.settings()) as daemons:
        await daemons.start()
        listener = await conn.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orchestrator'")
        assert listener
        for _ in range(3):
            await at_rest(conn)
            leads = await insert_leads(conn, 10, quiet=True)
            began = time.monotonic()
            await until(lambda: _through(conn, leads), 10.0, "the leads, found by the beat")  # noqa: B023
            assert time.monotonic() - began <= BEAT_S
        assert await sent_once(conn, engine, 30) == 0


async def test_notifications_lost_on_the_way_cost_a_beat(dsn: str, conn: Connection) -> None:
    async with (
        proxy(dsn) as network,
        sms_engine(honours_keys=False) as engine,
        fleet(dsn, **engine.settings()) as daemons,
    ):
        await daemons.start(ORCHESTRATOR_LISTEN_URL=network.dsn(dsn))
        network.mute = True
        for _ in range(3):
            await at_rest(conn)
            leads = await insert_leads(conn, 10)
            began = time.monotonic()
            await until(lambda: _through(conn, leads), 10.0, "the leads, found by the beat")  # noqa: B023
            assert time.monotonic() - began <= BEAT_S
        assert await sent_once(conn, engine, 30) == 0
        assert network.counts["muted"] >= 3, "no notification was lost"
