"""Business time in the sandbox: as fast as was asked for, everything at its time."""

from datetime import timedelta

from daemon.db import Connection
from daemon.sandbox import BusinessClock, Weather, open_sandbox
from daemon.settings import load_settings
from tests.support.processes import until
from tests.support.sandbox import running

FAST = 90_000
GOLDEN = {"VIDEO_SENT": 48, "RETRY_1": 96, "RETRY_2": 144, "RETRY_3": 192, "DEAD_LEAD": 264}
MESSAGES = {"VIDEO": 48, "RETRY_1": 96, "RETRY_2": 144, "RETRY_3": 192}
SLACK_H = 0.25
INSERT = """INSERT INTO leads (name, phone, stage, data) VALUES ('Ann', '+447700900001', $1, $2) RETURNING id"""
HOURS = """
SELECT {what} AS what, extract(epoch FROM {at} - l.stage_one)::float8 / 3600 AS hours
FROM {table} AS t, (SELECT created_at AS stage_one FROM leads) AS l WHERE {only} ORDER BY {at}
"""
MOVES = HOURS.format(what="to_stage", at="t.created_at", table="pipeline_events", only="event_type = 'stage_change'")
SENT = HOURS.format(
    what="metadata ->> 'template'", at="t.created_at", table="pipeline_events", only="event_type = 'message_sent'"
)
ANSWERS = """
SELECT r.received_at - m.sent_at AS after
FROM replies r JOIN messages m ON r.external_id = 'sandbox:' || m.idempotency_key
"""


async def test_the_golden_timeline_within_seconds(dsn: str, conn: Connection) -> None:
    """An engine that takes half a second takes eight hours of such time, if the time doesn't wait."""
    settings = load_settings({})
    async with open_sandbox(settings, speed=FAST, weather=Weather.CALM, latency_s=(0.5, 0.5)) as sandbox:
        await conn.fetchval(INSERT, "OFFER_MADE", {"persona": "silent"})
        async with running(sandbox, dsn, sandbox.time(dsn)):
            await until(lambda: conn.fetchval("SELECT stage = 'DEAD_LEAD' FROM leads"), 30.0, "the end", pause=0.1)

    for query, wanted in ((MOVES, GOLDEN), (SENT, MESSAGES)):
        rows = await conn.fetch(query)
        assert [row["what"] for row in rows] == list(wanted), "each once, in this order"
        late = {row["what"]: row["hours"] - wanted[row["what"]] for row in rows}
        assert all(0 <= hours <= SLACK_H for hours in late.values()), late
    assert await conn.fetchval("SELECT count(*) FROM messages") == len(MESSAGES)


async def test_people_take_their_time(dsn: str, conn: Connection) -> None:
    async with open_sandbox(load_settings({}), speed=FAST, weather=Weather.CALM) as sandbox:
        await conn.fetchval(INSERT, None, {"persona": "accepter"})
        async with running(sandbox, dsn, sandbox.time(dsn)):
            await until(lambda: conn.fetchval("SELECT stage = 'OFFER_ACCEPTED' FROM leads"), 20.0, "a deal", pause=0.1)
    answers = [row["after"] for row in await conn.fetch(ANSWERS)]
    assert len(answers) >= 3
    assert all(timedelta(minutes=4) < after < timedelta(hours=6) for after in answers), answers


async def test_what_nobody_does_holds_up_the_time_for_a_moment_only(dsn: str, conn: Connection) -> None:
    async with open_sandbox(load_settings({}), speed=FAST) as sandbox:
        await conn.execute("SELECT enqueue('nobody.does.this', '{}')")
        async with running(sandbox, dsn, sandbox.time(dsn)):
            a_day_on = "SELECT shift > interval '1 day' FROM clock_shift"
            await until(lambda: conn.fetchval(a_day_on), 20.0, "a day has passed", pause=0.1)


async def test_samples_have_the_deadlines_of_their_stages_in_fast_time(dsn: str, conn: Connection) -> None:
    async with open_sandbox(load_settings({}), speed=2) as sandbox:
        await sandbox.enter(conn)
    early = "SELECT count(*) FROM leads WHERE deadline_at < stage_entered_at + interval '24 hours'"
    assert await conn.fetchval(early) == 0


def test_real_time_is_not_driven() -> None:
    assert not BusinessClock().drives
    assert BusinessClock(1.5).drives
