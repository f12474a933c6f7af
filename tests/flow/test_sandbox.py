"""A whole daemon among the sandbox's engines and people."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from daemon.db import Connection
from daemon.sandbox import Heard, Sandbox, open_sandbox
from daemon.sandbox.operations import ENGINES, OPERATIONS
from daemon.sandbox.reading import classify, learn
from daemon.settings import load_settings
from tests.support.processes import until
from tests.support.sandbox import running

LOSE_CONNECTION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'orchestrator sandbox' AND datname = current_database()
"""
UNREACHABLE = {"Mia Mason", "Ned Numberless"}
ENDS = {
    "Ann Archer": "OFFER_ACCEPTED",
    "Bill Baker": "OFFER_ACCEPTED",
    "Carol Cooper": "OFFER_ACCEPTED",
    "David Dyer": "OFFER_ACCEPTED",
    "Ella Fletcher": "OFFER_ACCEPTED",
    "Frank Fisher": "OFFER_ACCEPTED",
    "Grace Glover": "OFFER_MADE",
    "Harry Hunter": "OFFER_REJECTED",
    "Ivy Ironside": "AI_CONVERSATION",
    "Jack Joiner": "DEAD_LEAD",
    "Kate Knight": "AI_CONVERSATION",
    "Leo Luxury": "DEAD_LEAD",
    "Mia Mason": "NEW_LEAD",
    "Ned Numberless": "NEW_LEAD",
    "Olive Orchard": "OFFER_ACCEPTED",
    "Paul Potter": "VIDEO_SENT",
    "Queenie Quill": "OFFER_REJECTED",
    "Ralph Roper": "RETRY_1",
    "Sue Shepherd": "OFFER_ACCEPTED",
    "Tom Tanner": "DEAD_LEAD",
    "Una Usher": "DEAD_LEAD",
    "Vic Vintner": "DUE_DILIGENCE",
    "Wendy Weaver": "INVESTOR_PACK_SENT",
    "Xavier Young": "OFFER_MADE",
}
SETTLED = """
SELECT NOT EXISTS (SELECT FROM tasks WHERE status <> 'dead' AND run_at <= orchestrator.clock() + interval '10 s')
   AND (SELECT count(*) FROM leads JOIN unnest($1::text[], $2::text[]) AS e(name, stage) USING (name, stage)
        WHERE stage_seq > 1 OR needs_review) = cardinality($1)
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox(load_settings({}), pace=0.1, latency_s=(0.001, 0.01)) as opened:
        yield opened


async def reached(holds: Callable[[], Awaitable[Any]], within: float) -> bool:
    try:
        await until(holds, within, "", pause=0.1)
    except AssertionError:
        return False
    return True


async def test_every_sample_lead_meets_its_fate(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    assert await sandbox.enter(conn) == len(ENDS)
    assert await sandbox.enter(conn) == 0

    async with running(sandbox, dsn, sandbox.time(dsn)):
        settled = await reached(lambda: conn.fetchval(SETTLED, list(ENDS), list(ENDS.values())), 30)
    leads = {r["name"]: r for r in await conn.fetch("SELECT * FROM leads")}
    assert {name: lead["stage"] for name, lead in leads.items()} == ENDS
    assert settled
    assert await conn.fetchval("SELECT shift = '0' FROM clock_shift"), "nobody asked for another time"

    stays = {name for name, lead in leads.items() if lead["stage_seq"] == 1}
    assert all(leads[name]["needs_review"] and leads[name]["review_reason"] for name in stays), stays
    assert stays == {*UNREACHABLE, "Vic Vintner", "Wendy Weaver", "Xavier Young"}
    assert leads["Jack Joiner"]["do_not_contact"]
    assert leads["Ann Archer"]["data"]["deal_id"].startswith("DEAL-")
    assert leads["Leo Luxury"]["data"]["validation_passed"] is False
    assert leads["Tom Tanner"]["data"]["dead_reason"] == "No response after 3 retries"
    assert "offer_above_market_value" in leads["Xavier Young"]["review_reason"]
    assert leads["Kate Knight"]["deadline_at"] > leads["Ivy Ironside"]["deadline_at"]  # until the return date

    sent = await conn.fetch(
        "SELECT l.name, m.* FROM messages m JOIN leads l ON l.id = m.lead_id WHERE m.status = 'sent'"
    )
    by_lead = {name: [m["template"] for m in sent if m["name"] == name] for name in ENDS}
    assert "COUNTER" in by_lead["David Dyer"]
    assert "QUESTION" in by_lead["Frank Fisher"]
    assert by_lead["Jack Joiner"] == ["INITIAL_CONTACT"]
    assert not by_lead["Mia Mason"]

    dead = await conn.fetch(
        "SELECT l.name FROM tasks t JOIN leads l ON t.key = 'lead:' || l.id WHERE t.status = 'dead'"
    )
    assert Counter(r["name"] for r in dead) == Counter(UNREACHABLE)
    assert await conn.fetchval("SELECT count(*) FROM tasks WHERE status = 'dead'") == len(UNREACHABLE)


async def test_people_answer_across_a_lost_connection(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    lead = await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900001') RETURNING id")
    facts = {"persona": "accepter"}

    async def answered(times: int) -> bool:
        return bool(await conn.fetchval("SELECT count(*) = $1 FROM replies WHERE lead_id = $2", times, lead))

    speaking = asyncio.create_task(sandbox.people(dsn))
    try:
        sandbox.crowd.hear(Heard(lead, "OFFER", "one", {}, facts))
        assert await reached(lambda: answered(1), 10)
        await conn.execute(LOSE_CONNECTION)
        sandbox.crowd.hear(Heard(lead, "VIDEO", "two", {}, facts))
        assert await reached(lambda: answered(2), 10)
    finally:
        speaking.cancel()
        with suppress(asyncio.CancelledError):
            await speaking
    assert await conn.fetchval("SELECT body FROM replies LIMIT 1") == "Yes, I accept your offer."


async def test_who_hears_again_before_answering_answers_the_later_message(sandbox: Sandbox) -> None:
    lead = UUID(int=7)
    sandbox.crowd.hear(Heard(lead, "OFFER", "one", {}, {"persona": "haggler", "asking_price": 100_000}))
    sandbox.crowd.hear(Heard(lead, "COUNTER", "two", {}, {"persona": "haggler", "asking_price": 100_000}))
    assert [(w.cause, w.text) for w in sandbox.crowd._pending.values()] == [("two", "All right, deal. I accept.")]
    sandbox.crowd.hear(Heard(lead, "REJECTION", "three", {}, {"persona": "haggler"}))
    assert not sandbox.crowd._pending


async def test_an_empty_database_gets_more_than_leads_if_there_is_more(sandbox: Sandbox, conn: Connection) -> None:
    async def campaign(inside: Connection) -> None:
        assert inside.is_in_transaction()
        await inside.execute("INSERT INTO schedules (name, cron) VALUES ('sample', '0 9 * * *')")

    assert await sandbox.enter(conn, campaign) == len(ENDS)
    assert await sandbox.enter(conn, campaign) == 0
    assert await conn.fetchval("SELECT count(*) FROM schedules WHERE name = 'sample'") == 1


async def test_settings_lead_to_nothing_real() -> None:
    real = load_settings({
        "ORCHESTRATOR_ENGINES__SMS__URL": "https://sms.example",
        "ORCHESTRATOR_ENGINES__SMS__TOKEN": "s3cret",
        "ORCHESTRATOR_ENGINES__CLASSIFIER__COMMAND": '["agent"]',
        "ORCHESTRATOR_ENGINES__MINE__URL": "https://mine.example",
        "ORCHESTRATOR_SMTP__URL": "smtp://mail.example",
        "ORCHESTRATOR_IMAP__URL": "imaps://mail.example",
        "ORCHESTRATOR_NOTIFY__SLACK_WEBHOOK_URL": "https://hooks.example",
        "ORCHESTRATOR_NOTIFY__ADMIN_EMAIL": "me@company.example",
    })  # fmt: skip
    async with open_sandbox(real) as sandbox:
        played = sandbox.settings
    assert {e.url.partition(":")[2].partition(":")[0] for e in played.engines.values() if e.url} == {"//127.0.0.1"}
    assert set(played.engines) == {*real.engines} == {*ENGINES, "mine"}
    assert all(e.url and e.command is None and e.token is None for e in played.engines.values())
    assert (played.smtp.url, played.imap.url, played.notify.slack_webhook_url) == (None, None, None)
    assert played.notify.admin_email is None
    assert played.send.quiet_hours is None


async def test_engines_refuse_what_the_contract_does_not_know(sandbox: Sandbox) -> None:
    base = sandbox.settings.engines["sms"].url
    async with aiohttp.ClientSession() as session:
        statuses = [
            (await session.get(f"{base}/health")).status,
            (await session.get(f"{str(base).replace('/sms', '/nobody')}/health")).status,
            (await session.post(f"{base}/api/nothing", json={})).status,
            (await session.post(f"{base}/api/send", data=b"[1")).status,
            (await session.post(f"{base}/api/send", data=b"[1]")).status,
        ]
    assert statuses == [200, 404, 404, 400, 400]


@pytest.mark.parametrize("engine_and_path", sorted(OPERATIONS))
async def test_every_operation_bears_an_empty_and_an_odd_request(
    sandbox: Sandbox, engine_and_path: tuple[str, str]
) -> None:
    sandbox.engines.faults.clear()
    engine, path = engine_and_path
    odd = {"lead": [1], "leads": [1, {"id": None}], "reply": None, "context": "x", "payloads": {}, "count": "many"}
    async with aiohttp.ClientSession() as session:
        for body in ({}, odd):
            async with session.post(f"{sandbox.settings.engines[engine].url}{path}", json=body) as answer:
                assert answer.status == 200
                assert isinstance(await answer.json(), dict)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Yes please", "acceptance"),
        ("OK, I accept", "acceptance"),
        ("No", "rejection"),
        ("I can't accept that", "rejection"),
        ("I'd take 180,000", "counter"),
        ("would you go to £200k?", "counter"),
        ("When would you pay?", "question"),
        ("I am not interested", "hard_pass"),
        ("maybe later", "soft_pass"),
        ("hm", "unclear"),
    ],
)
def test_the_classifier_goes_by_keywords(text: str, category: str) -> None:
    assert classify(text)[0] == category


def test_the_conversation_learns_what_a_text_says() -> None:
    assert learn("My flat at 12b High Street, Leeds, LS1 4AB: 2 bed, good condition, asking £150k") == {
        "property_address": "12b High Street, Leeds",
        "property_postcode": "LS1 4AB",
        "asking_price": 150_000,
        "property_type": "flat",
        "bedrooms": 2,
        "condition": "good",
    }
    assert learn("Who is this?") == {}
