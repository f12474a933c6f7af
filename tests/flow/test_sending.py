"""The kill switch: while sending is stopped nothing reaches people, and once it resumes everything does, once."""

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from daemon.app import explain
from daemon.db import Connection, connect
from daemon.sending import gate_of
from tests.support.api import Client, serving
from tests.support.commands import Ended, environment, orchestrator
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Engines, Hangs
from tests.support.postgres import Server
from tests.support.processes import until
from tests.support.runs import running, step

STOP = "UPDATE sending SET stopped_at = clock(), reason = 'too many typos'"
RESUME = "UPDATE sending SET stopped_at = NULL"
WHY = "sending is stopped: too many typos"
PUT_OFF = "SELECT count(*) = $1 FROM tasks WHERE status = 'available' AND run_at > clock() + '1 year' AND error = $2"


async def held(t: Timeline, tasks: int = 1) -> None:
    """So many tasks wait until sending resumes."""
    await t.eventually(PUT_OFF, tasks, WHY)


# -- messages


async def test_a_message_waits_while_sending_is_stopped_and_is_sent_once_when_it_resumes(dsn: str) -> None:
    """Mutants: `admit` without `sending`; `sending_changed` without its UPDATE of tasks."""
    async with scenario(dsn) as t:
        await t.sql(STOP)
        lead = await t.lead()
        await t.quiet()
        await held(t)
        assert t.engines.requests("sms") == []
        message = await t.message(lead, "INITIAL_CONTACT")
        assert (message["status"], message["reason"]) == ("scheduled", WHY)
        await t.after(days=3)
        assert t.engines.requests("sms") == []
        assert await t.value("SELECT count(*) FROM engine_calls") == 0
        await t.sql(RESUME)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent(lead, "INITIAL_CONTACT")


async def test_a_lead_says_that_it_waits_for_sending_and_what_to_do(dsn: str) -> None:
    async with scenario(dsn) as t:
        await t.sql(STOP)
        lead = await t.lead()
        await held(t)
        said = await explain(t.conn, lead)
        assert said is not None
        user = await t.value("SELECT session_user::text")
        closed = {gate["name"]: gate["reason"] for gate in said["gates"] if not gate["open"]}
        assert {"sending", "message"} <= closed.keys()
        assert closed["sending"].startswith(f"stopped by {user}, ")
        assert closed["sending"].endswith("too many typos; no message goes out; to go on: orchestrator resume-sending")
        assert closed["message"].endswith(f"({WHY}); sooner: orchestrator resume-sending")
        assert said["summary"].endswith(f"waits until sending is resumed: {WHY}; orchestrator resume-sending.")
        assert said["next"][-1]["when"] is None
        await t.sql(RESUME)
        await t.expect(lead, "AI_CONVERSATION")
        said = await explain(t.conn, lead)
        assert said is not None
        assert {"name": "sending", "open": True, "reason": "not stopped"} in said["gates"]


async def test_who_must_not_be_contacted_is_told_so_also_while_sending_is_stopped(dsn: str) -> None:
    """Mutant: the kill switch before the suppressions in `refusals`."""
    async with scenario(dsn) as t:
        await t.sql(STOP)
        lead = await t.lead(do_not_contact=True)
        await t.quiet()
        message = await t.message(lead, "INITIAL_CONTACT")
        assert (message["status"], message["reason"]) == ("suppressed", "do not contact")


async def test_what_is_under_way_ends_and_nothing_begins_after_the_stop(dsn: str) -> None:
    """Forty want to go, five are being sent when sending stops. Mutant: `admit` without `sending`."""
    async with scenario(dsn, ENGINES__SMS__MAX_CONCURRENCY="5") as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        await t.sql("INSERT INTO leads (name, phone) SELECT 'Ann', '+1555012' || n FROM generate_series(1000, 1039) n")
        await t.eventually("SELECT count(*) = 40 FROM tasks WHERE kind = 'message' AND status = 'running'")
        await until(lambda: asked(t, 5), 10.0, "five calls")
        await t.sql(STOP)
        slow.release()
        await held(t, 35)
        await t.eventually("SELECT count(*) = 5 FROM messages WHERE status = 'sent'")
        assert len(t.engines.requests("sms")) == 5
        await t.sql(RESUME)
        await t.eventually("SELECT count(*) = 40 FROM messages WHERE status = 'sent'")
        await t.quiet()
        assert len(t.engines.requests("sms")) == len({a.key for a in t.engines.requests("sms")}) == 40


async def asked(t: Timeline, times: int) -> bool:
    return len(t.engines.requests("sms")) == times


# -- the wake-up isn't lost


async def test_a_message_put_off_after_sending_has_resumed_is_sent(dsn: str) -> None:
    """Its gate saw the stop; the resume came before that was written. Mutant: `await_sending` does nothing."""
    async with scenario(dsn) as t:
        lead = await t.lead(stage="AI_CONVERSATION")
        await t.sql(STOP)
        await t.sql(
            "INSERT INTO messages (lead_id, template, status, send_at)"
            " VALUES ($1, 'NEWS', 'scheduled', clock() + '1 hour')", lead,
        )  # fmt: skip
        async with t.session() as other:
            holding = other.transaction()
            await holding.start()
            await other.execute("SELECT FROM messages FOR UPDATE")
            await t.shift(hours=1)
            await t.wait_for(lambda: outcome_waits(t), "no outcome waits for the lock")
            await t.sql(RESUME)
            await holding.commit()
        await t.eventually("SELECT status = 'sent' FROM messages")
        await t.expect_sent(lead, "NEWS")


async def outcome_waits(t: Timeline) -> bool:
    return any(one.daemon.worker.committer.locked for one in t.running)


async def test_who_resumes_waits_for_what_is_being_put_off_just_now(dsn: str, conn: Connection) -> None:
    """Mutant: `await_sending` without FOR SHARE, and its task isn't found."""
    task = await conn.fetchval("SELECT enqueue('message', '{}', 'k')")
    await conn.execute(STOP)
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    async with conn.transaction():
        await conn.execute("UPDATE tasks SET run_at = '9999-01-01 00:00 UTC', error = $1 WHERE id = $2", WHY, task)
        await conn.execute("SELECT await_sending(ARRAY[$1::bigint])", task)
        other = await connect(dsn)
        resuming = asyncio.create_task(other.execute(RESUME))
        await until(lambda: conn.fetchval(waits), 5.0, "the resume waits")
    await resuming
    await other.close()
    assert await conn.fetchval("SELECT run_at <= clock() FROM tasks WHERE id = $1", task)


async def test_what_is_put_off_while_somebody_resumes_asks_again(dsn: str, conn: Connection) -> None:
    """Nobody waits for a person's transaction. Mutant: `await_sending` without SKIP LOCKED."""
    task = await conn.fetchval("SELECT enqueue('message', '{}', 'k')")
    await conn.execute(STOP)
    other = await connect(dsn)
    async with other.transaction():
        await other.execute(RESUME)
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '1s'")
            await conn.execute("UPDATE tasks SET run_at = '9999-01-01 00:00 UTC', error = $1 WHERE id = $2", WHY, task)
            await conn.execute("SELECT await_sending(ARRAY[$1::bigint])", task)
    await other.close()
    assert await conn.fetchval("SELECT run_at <= clock() + '1 second' FROM tasks WHERE id = $1", task)


# -- campaigns


async def test_an_engine_that_chooses_recipients_itself_waits_too(dsn: str) -> None:
    """Mutants: `call` without its gate; `skipped` without AwaitSending is told by the next test."""
    async with running(dsn) as r:
        await r.t.sql(STOP)
        run = await r.start(step("prospecting"), step("sender", engine="outreach", endpoint="/api/send-batch"))
        await held(r.t)
        assert [a.engine for a in r.engines.asked] == ["prospecting"]
        assert await r.steps(run) == {"prospecting": "completed", "sender": "running"}
        await r.t.sql(RESUME)
        await r.ended(run, "completed")
        assert [a.engine for a in r.engines.asked] == ["prospecting", "outreach"]


async def test_a_step_put_off_after_sending_has_resumed_goes_on(dsn: str) -> None:
    """Mutant: `skipped` without AwaitSending."""
    async with running(dsn) as r:
        await r.t.sql(STOP)
        async with r.t.session() as other:
            holding = other.transaction()
            await holding.start()
            await other.execute("UPDATE sending SET stopped_at = NULL")
            run = await r.start(step("sender", engine="outreach", endpoint="/api/send-batch"))
            asks_again = "SELECT EXISTS (SELECT FROM tasks WHERE error = $1 AND run_at < clock() + '1 day')"
            await r.t.eventually(asks_again, WHY)
            await holding.commit()
        await r.ended(run, "completed")
        assert len(r.engines.asked) == 1


@pytest.mark.parametrize(("endpoint", "gated"), [
    ("/api/send-batch", True), ("/api/send", True), ("/api/offers", True),
    ("http://localhost:3001/api/send-batch/?a=1", True),
    ("/api/compose-batch", False), ("/api/prospect", False), ("/api/resend", False), ("/", False),
])  # fmt: skip
def test_calls_that_reach_people_are_known_by_their_operation(endpoint: str, gated: bool) -> None:
    assert (gate_of(endpoint) is not None) == gated


# -- commands


async def test_it_is_stopped_and_resumed_by_command(home: Path, dsn: str, conn: Connection) -> None:
    await conn.execute(
        "INSERT INTO messages (template, to_address, status) VALUES ('NEWS', '+15550001234', 'scheduled')"
    )
    open_ = await orchestrator(home, "resume-sending", DATABASE_URL=dsn)
    assert (open_.code, open_.out) == (0, "sending is not stopped\n"), open_.err
    stopped = await orchestrator(home, "stop-sending", "--reason", "a typo", DATABASE_URL=dsn)
    assert (stopped.code, stopped.out.endswith(": a typo\n")) == (0, True), stopped.err
    again = await orchestrator(home, "stop-sending", DATABASE_URL=dsn)
    assert again.out == stopped.out
    checked = await orchestrator(home, "check", DATABASE_URL=dsn)
    assert "warning  sending: stopped by " in checked.out
    assert "a typo; no message goes out until orchestrator resume-sending" in checked.out
    refused = await orchestrator(home, "resume-sending", DATABASE_URL=dsn)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert "NEWS" in refused.out
    assert await conn.fetchval("SELECT stopped_at IS NOT NULL FROM sending")
    resumed = await orchestrator(home, "resume-sending", "--yes", DATABASE_URL=dsn)
    assert (resumed.code, resumed.out.splitlines()[-1]) == (0, "sending goes on; messages that were overdue: 1")
    assert tuple((await conn.fetch("SELECT stopped_at, stopped_by, reason FROM sending"))[0]) == (None, None, None)


@pytest.mark.parametrize("word", ["n", "y"])
async def test_on_a_terminal_resuming_asks(home: Path, dsn: str, conn: Connection, word: str) -> None:
    await conn.execute(STOP)
    ours, theirs = pty.openpty()
    os.write(ours, f"{word}\n".encode())
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "daemon", "resume-sending"], cwd=home, stdin=theirs,
        env=environment(home, DATABASE_URL=dsn), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == (word != "y"), ended.stderr
    assert "overdue: nothing" in ended.stdout
    assert await conn.fetchval("SELECT stopped_at IS NULL FROM sending") == (word == "y")


async def test_a_restored_database_sends_nothing_until_it_is_told_to(home: Path, server: Server, dsn: str) -> None:
    """Mutant: after_restore.sql without its INSERT."""
    async with Engines().serving() as engines:
        assert (await orchestrator(home, "db", "init", DATABASE_URL=dsn)).code == 0
        source = await connect(dsn)
        lead = await source.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+14155550100') RETURNING id")
        await source.execute("INSERT INTO messages (lead_id, template, status) VALUES ($1, 'OLD', 'scheduled')", lead)
        await source.close()
        assert (await orchestrator(home, "db", "backup", "old.dump", DATABASE_URL=dsn)).code == 0
        copy = await server.clone("template0")
        settings = {"DATABASE_URL": copy, "ORCHESTRATOR_ENGINES__SMS__URL": engines.url("sms")}

        async def does(*words: str) -> Ended:
            ended = await orchestrator(home, *words, **settings)
            assert ended.code == 0, ended.err
            return ended

        assert 'sending is stopped: "orchestrator resume-sending"' in (await does("db", "restore", "old.dump")).out
        assert "restored from old.dump" in (await does("check")).out
        await does("run", "--once")
        assert engines.requests("sms") == []
        listed = (await does("resume-sending", "--yes")).out
        assert "restored from old.dump" in listed
        rows = [line.split()[2:5] for line in listed.splitlines() if "Ann" in line]
        assert rows == [["OLD", "Ann", "awaiting_approval"], ["INITIAL_CONTACT", "Ann", "scheduled"]]
        await does("run", "--once")
        await does("run", "--once")
        assert [(a.template, a.lead) for a in engines.requests("sms")] == [("INITIAL_CONTACT", str(lead))]
        await server.drop(copy)


# -- HTTP


async def test_it_is_stopped_and_resumed_by_http(dsn: str) -> None:
    async with serving(dsn, NOTIFY__MUTED="true", ENGINES__SMS__URL="http://127.0.0.1:9") as api:
        stopped = await api.post("/api/sending/stop", {"by": "ann", "reason": "a typo"})
        assert stopped.status == 200
        said = stopped.json["sending"]
        assert said.pop("stopped_at")
        assert said == {"stopped": True, "stopped_by": "ann", "reason": "a typo", "overdue": 0}
        again = (await api.post("/api/sending/stop")).json["sending"]
        assert (again["stopped_by"], again["reason"]) == ("ann", "a typo")
        lead: UUID = await api.lead(stage="NEW_LEAD")
        waits = "SELECT count(*) = 1 FROM messages WHERE lead_id = $1 AND reason = 'sending is stopped: a typo'"
        await until(lambda: api.conn.fetchval(waits, lead), 10.0, "the message waits")
        await api.conn.execute("UPDATE messages SET status = 'cancelled'")
        resumed = await api.post("/api/sending/resume")
        assert resumed.json == {"success": True, "sending": {
            "stopped": False, "stopped_at": None, "stopped_by": None, "reason": None, "overdue": 0}}  # fmt: skip


@pytest.mark.parametrize("token", [None, "a wrong one"])
async def test_nobody_stops_or_resumes_without_the_token(api: Client, token: str | None) -> None:
    for path in ("/api/sending/stop", "/api/sending/resume"):
        (await api.ask("POST", path, token=token)).problem(401)
    assert await api.conn.fetchval("SELECT stopped_at IS NULL FROM sending")
