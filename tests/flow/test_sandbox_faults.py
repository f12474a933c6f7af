"""Every fault that the sandbox knows strikes, and the daemon survives it: nothing lost, nothing said twice."""

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from daemon.db import Connection
from daemon.sandbox import Fault, Sandbox, Weather, open_sandbox
from daemon.sandbox.faults import USUAL_S
from daemon.sandbox.show import places_of
from daemon.settings import load_settings
from tests.support.processes import until
from tests.support.sandbox import running

TIMES = 2
LEADS = 30
REPEATED = (
    *(Fault.ERROR, Fault.BUSY, Fault.LIMITED, Fault.DROPPED, Fault.LOST_ANSWER, Fault.CUT_STREAM, Fault.GARBAGE),
)
INSERT = """
INSERT INTO leads (name, phone, data)
SELECT 'Lead ' || n, '+4477009' || 10000 + n, '{"persona": "silent"}' FROM generate_series(1, $1::int) AS n
"""
SPENT = "SELECT cost, count(*) AS n FROM engine_calls GROUP BY cost"
SECOND_TRIES = "SELECT count(*) FROM task_log WHERE kind = 'message' AND attempt = 2"
MOVED_ON = "SELECT count(*) FROM messages WHERE status IN ('cancelled', 'unknown')"
"""Whoever got a message and answered before its lost answer was asked for again."""
SETTLED = """
SELECT NOT EXISTS (SELECT FROM tasks WHERE status <> 'dead' AND run_at <= clock() + interval '10 s')
   AND (SELECT count(*) FROM leads WHERE stage = 'OFFER_ACCEPTED') >= 5
"""


@pytest.fixture
async def calm() -> AsyncIterator[Sandbox]:
    settings = load_settings({"ORCHESTRATOR_ENGINES__SMS__COST_PER_CALL": "0.5"})
    async with open_sandbox(settings, pace=0.1, weather=Weather.CALM, latency_s=(0.0, 0.002)) as opened:
        yield opened


async def test_each_fault_strikes_and_is_survived(calm: Sandbox, dsn: str, conn: Connection) -> None:
    faults = calm.engines.faults
    for fault in Fault:
        seconds = 0.2 if fault in USUAL_S else None
        faults.add(fault, "sms", operation="/api/send", left=TIMES, once=True, seconds=seconds)
    await conn.execute(INSERT, LEADS)

    async with running(calm, dsn):
        there = "SELECT count(*) = $1 FROM leads WHERE stage = 'AI_CONVERSATION'"
        await until(lambda: conn.fetchval(there, LEADS), 25.0, "every lead has its first message")

    assert faults.fired == dict.fromkeys(Fault, TIMES)
    assert faults.survived == faults.fired
    assert await conn.fetchval(SECOND_TRIES) == TIMES * len(REPEATED)
    assert set(Counter(call.key for call in calm.engines.made).values()) == {1}, "an effect happened twice"
    assert await conn.fetchval("SELECT count(*) FROM messages WHERE status = 'sent'") == LEADS
    spent = {row["cost"]: row["n"] for row in await conn.fetch(SPENT)}
    lied = 3 * TIMES
    assert spent == {Decimal("0.0079"): LEADS - lied, Decimal("0.5"): 2 * TIMES, Decimal("0.79"): TIMES}


async def test_nothing_is_said_twice_in_a_storm(dsn: str, conn: Connection) -> None:
    async with open_sandbox(load_settings({}), pace=0.1, weather=Weather.STORMY, latency_s=(0.001, 0.01)) as sandbox:
        await sandbox.enter(conn)
        faults, made = sandbox.engines.faults, sandbox.engines.made

        async def over() -> bool:
            return sandbox.crowd.next_due() is None and bool(await conn.fetchval(SETTLED))

        async with running(sandbox, dsn):
            await until(over, 40.0, "the sample leads have had their say", pause=0.1)

    assert faults.fired.total() >= 10, "a storm of nothing"
    moved_on = await conn.fetchval(MOVED_ON)
    assert faults.fired.total() - moved_on <= faults.survived.total() <= faults.fired.total()
    assert set(Counter((call.engine, call.path, call.key) for call in made).values()) == {1}
    heard = [(call.request["lead_id"], call.request["template"]) for call in made if call.engine == "sms"]
    by_stage = [said for said in heard if said[1] not in ("CONVERSATION", "COUNTER", "QUESTION")]
    assert len(by_stage) == len(set(by_stage))
    assert await conn.fetchval("SELECT count(*) FROM messages WHERE status = 'sending'") == 0
    assert await conn.fetchval("SELECT count(DISTINCT external_id) = count(*) FROM replies")


async def test_an_outage_is_a_dead_letter_and_no_fault_survived(calm: Sandbox, dsn: str, conn: Connection) -> None:
    calm.engines.faults.add(Fault.LIMITED, "sms", seconds=0.0)
    await conn.execute(INSERT, 1)
    async with running(calm, dsn):
        await until(lambda: conn.fetchval("SELECT needs_review FROM leads"), 20.0, "a person is asked")
    assert calm.engines.faults.fired == {Fault.LIMITED: 3}
    assert not calm.engines.faults.survived
    assert not calm.engines.made


# -- the route


async def test_faults_are_put_in_force_shown_and_ended_by_http(calm: Sandbox) -> None:
    route, sms = f"{calm.url}/faults", f"{calm.url}/sms/api/send"
    async with aiohttp.ClientSession() as session:
        async with session.post(route, json={"engine": "sms", "fault": "503", "count": 2, "seconds": 7}) as answer:
            assert answer.status == 201
            rule: dict[str, Any] = (await answer.json())["fault"]
        assert (rule["left"], rule["engine"], rule["fault"], rule["fired"]) == (2, "sms", "503", 0)

        answers = [await session.post(sms, json={}, headers={"Idempotency-Key": "k"}) for _ in range(3)]
        assert [a.status for a in answers] == [503, 503, 200]
        assert answers[0].headers["Retry-After"] == "7"
        shown = await (await session.get(route)).json()
        assert [(rule["left"], rule["fired"], rule["survived"]) for rule in shown["faults"]] == [(0, 2, 2)]
        assert (shown["fired"], shown["survived"], set(shown["known"])) == (2, 2, {*Fault})

        await session.post(route, json={"engine": "*", "fault": "500", "share": 1})
        assert (await session.post(sms, json={})).status == 500
        assert (await (await session.delete(route)).json())["cleared"] == 2
        assert (await session.post(sms, json={})).status == 200


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"engine": "sms"},
        {"engine": "sms", "fault": "504"},
        {"engine": "smss", "fault": "503"},
        {"engine": "sms", "fault": "503", "operation": "/api/sent"},
        {"engine": "sms", "fault": "503", "count": 0},
        {"engine": "sms", "fault": "503", "share": 1.5},
        {"engine": "sms", "fault": "503", "share": 0.5, "count": 1},
        {"engine": "sms", "fault": "garbage", "seconds": 1},
        {"engine": "sms", "fault": "503", "shares": 1},
    ],
)
async def test_a_fault_that_could_never_strike_is_refused(calm: Sandbox, wish: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{calm.url}/faults", json=wish) as answer:
            assert answer.status == 422
            assert (await answer.json())["detail"]
        async with session.post(f"{calm.url}/faults", data=b"[") as answer:
            assert answer.status == 400
    assert not calm.engines.faults.rules


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_what_it_says_to_paste_breaks_something(calm: Sandbox) -> None:
    done = await asyncio.create_subprocess_shell(places_of(calm).curl, stdout=PIPE, stderr=DEVNULL)
    said, _ = await done.communicate()
    assert done.returncode == 0, said
    assert [(rule.engine, rule.fault, rule.left) for rule in calm.engines.faults.rules] == [("sms", Fault.BUSY, 3)]
