"""Why nothing happens, asked of a whole daemon in each of the situations that make people ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
from aiohttp import web

from daemon.api.application import build
from daemon.api.explain import ROUTES
from daemon.api.explain import Explanation as Shape
from daemon.api.readings import Readings
from daemon.api.route import Api, Bounds
from daemon.api.server import READS
from daemon.app import Daemon, explain
from daemon.db import Pool, connect
from tests.support.daemon import COMPLETE, Timeline, scenario
from tests.support.engines import Drops, Hangs, Refuses

READ_ONLY = {"default_transaction_read_only": "on", "timezone": "UTC"}
Json = dict[str, Any]


async def explained(t: Timeline, lead: UUID) -> Json:
    """The explanation, read on a connection that can't write."""
    reader = await connect(t.dsn, session=READ_ONLY)
    try:
        found = await explain(reader, lead)
    finally:
        await reader.close()
    assert found is not None
    assert found.keys() == Shape.model_fields.keys()
    Shape.model_validate(found)
    return found


def closed(explanation: Json) -> dict[str, str]:
    return {gate["name"]: gate["reason"] for gate in explanation["gates"] if not gate["open"]}


@asynccontextmanager
async def psql(dsn: str) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A person's session."""
    settings = {"application_name": "psql", "search_path": "orchestrator"}
    session = await asyncpg.connect(dsn, server_settings=settings)
    try:
        yield session
    finally:
        await session.close()


async def test_a_lead_that_nobody_knows(dsn: str) -> None:
    async with scenario(dsn) as t:
        assert await explain(t.conn, uuid4()) is None


async def test_waits_for_the_lead_and_then_for_its_deadline(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        said = await explained(t, lead)
        assert "for its deadline at" in said["summary"]
        assert "send CONVERSATION_FOLLOW_UP (silence, step 1 of 3)" in said["summary"]
        assert closed(said) == {}
        follow_up, complete = said["next"]
        assert follow_up["when"] == (await t.get(lead, "deadline_at")).isoformat()
        assert complete["what"] == "move it to DEAL_VALIDATION"
        assert "condition" in complete["why"]
        await t.after(hours=24)
        assert "step 2 of 3" in (await explained(t, lead))["summary"]
        await t.after(hours=24)
        assert "move it to DEAD_LEAD (No response to follow-ups)" in (await explained(t, lead))["summary"]
        await t.after(hours=24)
        assert "DEAD_LEAD is terminal" in (await explained(t, lead))["summary"]


async def test_stuck_by_a_dead_task_until_a_person_retries_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", Refuses(400))
        lead = await t.told_all("DEAL_VALIDATION")
        [dead] = await t.dead(lead)
        await t.shift(hours=30)
        said = await explained(t, lead)
        assert f"Task {dead['id']} (vendor_acquisition.DEAL_VALIDATION) is dead" in said["summary"]
        assert f"orchestrator tasks retry {dead['id']}" in said["summary"]
        assert f"held by dead task {dead['id']}" in closed(said)["deadline"]
        assert said["next"] == [{"what": "flag it for review", "when": None, "why": said["next"][0]["why"]}]
        t.engines.well("validator")
        await t.retry(dead["id"])
        await t.until(lead, "OFFER_MADE")
        await t.quiet()
        assert "deadline" not in closed(await explained(t, lead))


async def test_no_phone_until_one_is_added(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(phone=None)
        await t.quiet()
        said = await explained(t, lead)
        assert "no usable address: the lead has none" in said["summary"]
        advice = f"UPDATE orchestrator.leads SET phone = '+…' WHERE id = '{lead}'"
        assert f"add a phone number: {advice}; it is then sent by itself" in said["summary"]
        async with psql(t.dsn) as person:
            await person.execute(advice.replace("+…", "+14155550100"))
        await t.expect(lead, "AI_CONVERSATION")


async def test_do_not_contact(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(do_not_contact=True)
        await t.quiet()
        said = await explained(t, lead)
        assert "INITIAL_CONTACT is suppressed (do not contact)" in said["summary"]
        assert "goes on to AI_CONVERSATION" in said["summary"]
        assert closed(said).keys() == {"do_not_contact", "message"}


async def test_an_excluded_address(dsn: str) -> None:
    async with scenario(dsn) as t:
        await t.sql("INSERT INTO email_exclusions (address, reason) VALUES ('+14155550123', 'opt_out')")
        lead = await t.lead(phone="+1 415 555 0123")
        await t.quiet()
        said = await explained(t, lead)
        assert "excluded: opt_out" in said["summary"]
        assert "+14155550123 (opt_out)" in closed(said)["exclusion"]


async def test_snoozed_until_the_budget_has_a_new_day(dsn: str) -> None:
    budget = {"ENGINES__SMS__DAILY_BUDGET": "0.01", "ENGINES__SMS__COST_PER_CALL": "0.01"}
    async with scenario(dsn, **budget) as t:
        first = await t.lead()
        await t.expect(first, "AI_CONVERSATION")
        lead = await t.lead()
        await t.quiet()
        said = await explained(t, lead)
        assert "the daily budget of engine sms is spent" in said["summary"]
        assert closed(said).keys() == {"engine_budget", "message"}
        [task] = await t.sql("SELECT * FROM tasks WHERE key = 'lead:' || $1", str(lead))
        assert [(s["what"], s["when"]) for s in said["next"]] == [
            ("send INITIAL_CONTACT by sms, then move it to AI_CONVERSATION", task["run_at"].isoformat())
        ]


async def test_a_message_for_later(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        await t.sql(
            "INSERT INTO messages (lead_id, template, status, send_at)"
            " VALUES ($1, 'HELLO', 'scheduled', clock() + '150 minutes')", lead,
        )  # fmt: skip
        said = await explained(t, lead)
        assert "(message HELLO) waits until" in said["summary"]
        assert "(in 2 h)" in said["summary"]
        assert "send HELLO by sms" in [s["what"] for s in said["next"]]
        assert "HELLO is scheduled" in closed(said)["message"]


async def test_a_task_that_was_set_aside_waits_for_no_date(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="VIDEO_SENT")
        strange = """
            INSERT INTO tasks (kind, key, run_at, error)
            VALUES ('survey.ASKED', 'lead:' || $1, clock() + interval '100 years', 'set aside: no daemon knows it')
            RETURNING id"""
        task = await t.value(strange, str(lead))
        found = await explained(t, lead)
        waits = " ".join(str(part) for part in found.values())
        assert "waits until a daemon knows its kind: set aside: no daemon knows it" in waits
        assert f"orchestrator tasks cancel {task}" in waits


async def test_held_by_a_session_that_locks_its_row(dsn: str) -> None:
    async with scenario(dsn) as t, psql(t.dsn) as person:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        pid = person.get_server_pid()
        async with person.transaction():
            await person.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", lead)
            said = await explained(t, lead)
            assert f"held by another session (pid {pid}, psql of" in said["summary"]
            assert f"pg_terminate_backend({pid})" in closed(said)["lock"]
        assert "lock" not in closed(await explained(t, lead))
        async with person.transaction():
            await person.execute("UPDATE leads SET city = 'Leeds' WHERE id = $1", lead)
            assert f"(pid {pid}" in closed(await explained(t, lead))["lock"]
        assert "lock" not in closed(await explained(t, lead))


async def test_a_session_that_only_refers_to_the_lead_holds_nothing(dsn: str) -> None:
    async with scenario(dsn) as t, psql(t.dsn) as person:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        async with person.transaction():
            await person.execute("INSERT INTO messages (lead_id, status) VALUES ($1, 'draft')", lead)
            assert closed(await explained(t, lead)) == {}


async def test_an_outcome_that_waits_for_a_lock(dsn: str) -> None:
    async with scenario(dsn) as t, psql(t.dsn) as person:
        lead = await t.told_all("OFFER_MADE")
        async with person.transaction():
            await person.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", lead)
            await t.shift(hours=49)
            await t.eventually("SELECT EXISTS (SELECT FROM tasks WHERE kind = 'lead.deadline' AND status = 'running')")
            said = await explained(t, lead)
            assert "held by another session" in said["summary"]
            assert closed(said).keys() >= {"lock", "lease"}
        await t.until(lead, "VIDEO_SENT")


async def test_waits_for_a_person_to_decide_about_a_reply(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        await t.reply(lead, "hm, well", "unclear")
        [request] = await t.requests_for_a_person(lead)
        said = await explained(t, lead)
        assert said["summary"].startswith("A person has to decide: Reply from +1555")
        assert f"SET status = 'approved' WHERE id = '{request['id']}'" in said["summary"]
        assert len(said["waiting_for"]) == 2  # and for the deadline
        await t.sql("UPDATE approval_queue SET status = 'approved' WHERE id = $1", request["id"])
        await t.quiet()
        assert "for its deadline" in (await explained(t, lead))["summary"]


async def test_the_deadline_is_paused_while_we_owe_an_answer(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        t.engines.on("sms", Refuses(400), template="QUESTION")
        await t.reply(lead, "how soon?", "question")
        said = await explained(t, lead)
        assert "(message QUESTION) is dead" in said["summary"]
        assert "paused while we owe an answer" in closed(said)["deadline"]


async def test_a_call_that_is_under_way(dsn: str) -> None:
    async with scenario(dsn) as t:
        hangs = Hangs()
        t.engines.on("sms", hangs)
        lead = await t.lead()
        async with asyncio.timeout(10):
            await hangs.started.wait()
        said = await explained(t, lead)
        assert "(message INITIAL_CONTACT) has been running since" in said["summary"]
        assert "calling sms /api/send" in closed(said)["lease"]
        hangs.release()
        await t.expect(lead, "AI_CONVERSATION")


async def test_a_call_whose_outcome_nobody_knows(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("sms", Drops(after_effect=True))
        lead = await t.lead()
        await t.quiet()
        said = await explained(t, lead)
        key = await t.value("SELECT idempotency_key FROM engine_calls WHERE lead_id = $1", lead)
        assert f"ask sms whether it knows the key {key}" in said["summary"]


async def test_no_daemon_is_alive(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        await t.stop()
        said = await explained(t, lead)
        assert said["summary"].startswith("No daemon is running")
        assert closed(said).keys() == {"daemon"}
        another = await t.lead(data=dict(COMPLETE))
        await t.start()
        await t.expect(another, "OFFER_MADE")
        assert "daemon" not in closed(await explained(t, another))


async def test_the_row_of_a_daemon_that_was_killed_is_no_life(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        await t.stop()
        await t.sql("INSERT INTO workers (id, host, pid, version) VALUES ($1, 'gone', 1, '0')", uuid4())
        assert "daemon" in closed(await explained(t, lead))


async def test_a_task_that_vanished(dsn: str) -> None:
    async with scenario(dsn) as t:
        await t.stop()
        lead = await t.lead()
        await t.sql("DELETE FROM tasks")
        said = await explained(t, lead)
        assert "No daemon is running" in said["summary"]
        assert "a task is missing that should run the entry action of NEW_LEAD" in said["waiting_for"][1]["what"]
        await t.start()
        await t.sweep()
        await t.expect(lead, "AI_CONVERSATION")


async def test_a_reply_that_is_not_matched_yet_belongs_to_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        await t.stop()
        await t.say(lead, "hello")
        said = await explained(t, lead)
        assert "(reply) is due" in " ".join(w["what"] for w in said["waiting_for"])


async def test_archived(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DEAD_LEAD")
        await t.sql("UPDATE leads SET archived_at = clock() WHERE id = $1", lead)
        await t.quiet()
        assert "archived" in (await explained(t, lead))["summary"]


@asynccontextmanager
async def served(daemon: Daemon) -> AsyncIterator[str]:
    """The route alone, on a free port."""
    reads = Pool(daemon.dsn, 1, session=READS)
    runner = web.AppRunner(
        build(Api(daemon, reads, reads, Readings(reads, daemon), Bounds()), ROUTES),
        shutdown_timeout=0.1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/leads"
    finally:
        await runner.cleanup()
        reads.close()


async def test_the_api_says_the_same(dsn: str) -> None:
    async with scenario(dsn) as t, served(t.running[0].daemon) as leads, aiohttp.ClientSession() as http:
        lead = await t.lead()
        await t.expect(lead, "AI_CONVERSATION")
        async with http.get(f"{leads}/{lead}/explain") as known:
            said = await known.json()
        assert known.status == 200
        assert said["success"] is True
        assert said["explanation"]["lead_id"] == str(lead)
        assert closed(said["explanation"]) == {}
        async with http.get(f"{leads}/{uuid4()}/explain") as unknown:
            assert unknown.status == 404
        async with http.get(f"{leads}/nonsense/explain") as bad:
            assert 400 <= bad.status < 500
