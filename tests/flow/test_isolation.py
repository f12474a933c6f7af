"""What goes wrong with one lead, one row, one table or one task is nobody else's concern."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest

from daemon import queue
from daemon.app import Daemon
from daemon.db import Connection
from daemon.log import configure
from daemon.worker import BATCHES_IN_FLIGHT
from handlers import registry
from tests.support.daemon import COMPLETE, Timeline, scenario
from tests.support.engines import Hangs

KINDS = registry.kinds(registry.by_name(registry.PIPELINES))
PHONES = "'+1555' || 7000000 + n"
IN_VAIN = """
SELECT pid, waitstart FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted AND waitstart IS NOT NULL
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""  # clones share their oids


@pytest.fixture(autouse=True)
def few_words() -> None:
    """The default log tells of every task."""
    configure("WARNING", "json")


async def talking(t: Timeline, count: int) -> list[UUID]:
    """Leads to whom nothing happens by itself for a day."""
    rows = await t.sql(
        "INSERT INTO leads (name, phone, stage) SELECT 'Ann', '+1555012' || 1000 + n, 'AI_CONVERSATION'"
        " FROM generate_series(1, $1) n RETURNING id", count,
    )  # fmt: skip
    await t.quiet()
    return [r["id"] for r in rows]


async def news_in_an_hour(t: Timeline) -> None:
    """A message to everybody."""
    await t.sql(
        "INSERT INTO messages (lead_id, template, status, send_at)"
        " SELECT id, 'NEWS', 'scheduled', clock() + '1 hour' FROM leads"
    )


async def nothing_runs(t: Timeline) -> None:
    """Every attempt has ended, in the daemon's mind and in the table."""
    await t.quiet()
    assert await t.value("SELECT count(*) FROM tasks WHERE status = 'running'") == 0
    assert all(one.daemon.worker.running == [] for one in t.running)


# A batch that can't be read


async def given_up(t: Timeline, table: str) -> None:
    """The daemon has waited in vain for this table, several times."""
    seen: set[tuple[object, object]] = set()

    async def often() -> bool:
        seen.update((r["pid"], r["waitstart"]) for r in await t.sql(IN_VAIN, table))
        return len(seen) > 3

    await t.wait_for(often, f"nobody waited for {table}")


async def cut_off(t: Timeline, table: str) -> None:
    """Whoever waits for this table is thrown out, several times."""
    gone: set[int] = set()

    async def often() -> bool:
        sql = f"SELECT pid FROM ({IN_VAIN}) w WHERE pg_terminate_backend(pid)"
        gone.update(r["pid"] for r in await t.sql(sql, table))
        return len(gone) > 3

    await t.wait_for(often, f"nobody waited for {table}")


@pytest.mark.parametrize("fault", [given_up, cut_off])
@pytest.mark.parametrize("table", ["messages", "leads"])
async def test_a_batch_that_could_not_be_read_is_nobodys_failure(dsn: str, table: str, fault: object) -> None:
    """Mutant: take every error of a load for a malformed task, and the messages of the whole batch fail."""
    async with scenario(dsn) as t:
        leads = await talking(t, 20)
        await news_in_an_hour(t)
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            await t.shift(hours=1)
            assert callable(fault)
            await fault(t, table)
            await tx.rollback()
        await nothing_runs(t)
        assert await t.value("SELECT count(*) FROM messages WHERE status = 'sent'") == len(leads)
        assert sorted(t.engines.effects.values()) == [1] * len(leads)
        assert await t.value("SELECT count(*) FROM tasks") == 0
        assert await t.value("SELECT max(attempt) FROM task_log WHERE kind = 'message'") == 1
        assert await t.value("SELECT count(*) FROM alerts") == 0


# Tasks that make no sense


NAMES = ("message_id", "reply_id", "approval_id", "lead_id", "stage_seq")
NO_IDS: Sequence[object] = ("no-uuid", "", "\n", 7, -1.5, True, [], [7], {}, {"id": 7})
NONSENSE: Sequence[dict[str, object]] = [{}, {"reply_id": None}, *(dict.fromkeys(NAMES, no_id) for no_id in NO_IDS)]


async def test_nonsense_dies_alone(dsn: str) -> None:
    """Mutant: load a batch in one statement only, and the leads that were claimed with the nonsense die of it."""
    async with scenario(dsn) as t:
        async with t.conn.transaction():
            for kind in KINDS:
                for payload in NONSENSE:
                    await t.value("SELECT enqueue($1, $2)", kind, payload)
            leads = [await t.lead() for _ in range(5)]
        for lead in leads:
            await t.until(lead, "AI_CONVERSATION", within_s=5)
        last = await t.lead()
        await t.until(last, "AI_CONVERSATION", within_s=2)
        await t.reply(last, "STOP")
        await t.expect(last, "DEAD_LEAD")
        await nothing_runs(t)
        rows = await t.sql("SELECT kind, payload, status FROM tasks")
        assert {r["status"] for r in rows} == {"dead"}
        assert len(rows) >= len(KINDS) * (len(NONSENSE) - 1)
        assert await t.value("SELECT count(*) FROM leads WHERE needs_review") == 0


async def test_what_died_of_nonsense_can_be_retried_and_cancelled(dsn: str) -> None:
    async with scenario(dsn) as t:
        for kind in KINDS:
            nonsense = {"message_id": "no-uuid", "lead_id": [], "reply_id": 7, "after": "nowhere"}
            await t.value("SELECT enqueue($1, $2)", kind, nonsense)
        await t.quiet()
        dead = [r["id"] for r in await t.sql("SELECT id FROM tasks WHERE status = 'dead'")]
        assert len(dead) == len(KINDS)
        for task in dead:
            assert await t.value("SELECT retry_task($1)", task)
        await t.quiet()
        for task in dead:
            assert await queue.cancel(t.conn, KINDS, task)
        assert await t.value("SELECT count(*) FROM tasks") == 0


async def test_a_payload_that_is_no_object_is_refused(conn: Connection) -> None:
    payloads: Sequence[object] = ([], "text", 7, True)
    for payload in payloads:
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute("SELECT enqueue('lead.check', $1)", payload)


async def test_a_task_of_somebody_who_is_gone_just_ends(dsn: str) -> None:
    async with scenario(dsn) as t:
        for nobody in (str(uuid4()), None):
            for kind in KINDS:
                await t.value("SELECT enqueue($1, $2)", kind, dict.fromkeys(NAMES, nobody))
        await nothing_runs(t)
        assert await t.value("SELECT count(*) FROM tasks") == 0
        assert await t.value("SELECT count(*) FROM task_log WHERE status = 'done'") >= 2 * len(KINDS)


# A flood


async def flood_before(t: Timeline, kind: str) -> int:
    """How many leads of the flood were taken up before the first task of that kind."""
    found: int = await t.value(
        "SELECT count(*) FROM task_log f WHERE f.kind = 'vendor_acquisition.NEW_LEAD'"
        " AND f.started_at < (SELECT min(started_at) FROM task_log WHERE kind = $1)", kind,
    )  # fmt: skip
    return found


async def test_a_flood_of_leads_stands_before_no_reply(dsn: str) -> None:
    """Mutant: let a claim fill its room with the leads' kinds first, and the opt-out is read after all of them."""
    async with scenario(dsn) as t:
        [lead] = await talking(t, 1)
        t.engines.on("sms", Hangs())
        async with t.conn.transaction():
            await t.sql(f"INSERT INTO leads (name, phone) SELECT 'Bo', {PHONES} FROM generate_series(1, 3000) n")
            await t.say(lead, "STOP")
        await t.eventually("SELECT count(*) = 1 FROM email_exclusions", within_s=2)
        await t.until(lead, "DEAD_LEAD")
        await t.eventually("SELECT count(*) = 0 FROM tasks WHERE kind LIKE 'vendor%'")
        assert await flood_before(t, "reply") == 0
        assert await flood_before(t, "reply.farewell") <= BATCHES_IN_FLIGHT * t.settings.worker.batch


# A lead that is deleted in the middle


async def once(t: Timeline) -> None:
    """What `run --once` does."""
    async with Daemon(t.settings, t.dsn, t.dsn).assembled() as daemon:
        await daemon.open_database()
        await daemon.once()
        assert daemon.worker.running == []


@pytest.mark.parametrize("engine", ["sms", "validator"])
async def test_a_lead_deleted_in_mid_call_keeps_no_lease(dsn: str, engine: str) -> None:
    """Mutant: wait for the row of a lead that is gone, and its outcome waits for ever."""
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on(engine, slow)
        lead = await t.lead(data=dict(COMPLETE))
        await slow.started.wait()
        await t.sql("DELETE FROM leads WHERE id = $1", lead)
        slow.release()
        await nothing_runs(t)
        assert await t.value("SELECT count(*) FROM tasks") == 0
        assert await t.value("SELECT bool_and(status = 'ok') FROM engine_calls")
        other = await t.lead()
        await t.until(other, "AI_CONVERSATION", within_s=2)


@pytest.mark.parametrize("engine", ["sms", "validator"])
async def test_a_single_run_ends_although_a_lead_was_deleted_in_mid_call(dsn: str, engine: str) -> None:
    async with scenario(dsn) as t:
        await t.stop()
        slow = Hangs()
        t.engines.on(engine, slow)
        lead = await t.lead(data=dict(COMPLETE))
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(once(t))
            await slow.started.wait()
            await t.sql("DELETE FROM leads WHERE id = $1", lead)
            slow.release()
        assert await t.value("SELECT count(*) FROM tasks") == 0


# A row that somebody holds


async def test_an_open_update_of_one_message_holds_up_no_other(dsn: str) -> None:
    """Mutant: let the gate wait for the row, and the whole group of reservations waits with it."""
    async with scenario(dsn) as t:
        locked, *others = await talking(t, 20)
        await news_in_an_hour(t)
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute("UPDATE messages SET body = 'later' WHERE lead_id = $1", locked)
            await t.shift(hours=1)
            sent = "SELECT count(*) = 19 FROM messages WHERE status = 'sent' AND lead_id = ANY ($1)"
            await t.eventually(sent, others, within_s=2)
            assert t.engines.requests("sms", lead=locked) == []
            await tx.commit()
        await t.eventually("SELECT status = 'sent' FROM messages WHERE lead_id = $1", locked)
        await nothing_runs(t)
        assert sorted(t.engines.effects.values()) == [1] * 20


async def test_a_message_held_after_its_call_is_recorded_later_and_alone(dsn: str) -> None:
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on("sms", slow, times=1)
        locked = await t.lead()
        await slow.started.wait()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute("SELECT FROM messages WHERE lead_id = $1 FOR UPDATE", locked)
            slow.release()
            await t.eventually("SELECT status = 'ok' FROM engine_calls")
            for _ in range(3):
                await t.until(await t.lead(), "AI_CONVERSATION", within_s=2)
            assert (await t.message(locked, "INITIAL_CONTACT"))["status"] == "sending"
            await tx.commit()
        await t.until(locked, "AI_CONVERSATION", within_s=3)
        await t.expect_sent(locked, "INITIAL_CONTACT")


@pytest.mark.parametrize("stage", ["OFFER_MADE", "AI_CONVERSATION"])
@pytest.mark.parametrize("later", ["deadline_at + interval '7 days'", "NULL"], ids=["a week later", "never"])
async def test_a_deadline_put_off_while_it_fell_due_does_nothing(dsn: str, later: str, stage: str) -> None:
    """Mutant: write a step by what its snapshot said, and the lead is hurried whose deadline was just put off."""
    async with scenario(dsn) as t:
        lead = await t.lead(stage=stage)
        await t.quiet()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(f"UPDATE leads SET deadline_at = {later} WHERE id = $1", lead)
            await t.shift(hours=48)
            await t.wait_for(lambda: held_back(t), "the deadline never came")
            await tx.commit()
        await t.expect(lead, stage)
        assert t.engines.requests("sms") == []
        assert await t.get(lead, "deadline_step") == 0
        assert await t.value("SELECT count(*) FROM messages") == await t.value("SELECT count(*) FROM tasks") == 0
        if later != "NULL":
            await t.after(days=7)
            assert len(t.engines.requests("sms")) == 1


async def held_back(t: Timeline) -> bool:
    """The daemon has an outcome in its hands that it can't write."""
    return bool(t.running[0].daemon.worker.committer.locked)


# A schema that grows


@pytest.mark.parametrize("table", ["leads", "messages"])
async def test_a_new_column_disturbs_nobody(dsn: str, table: str) -> None:
    """Mutant: let a stale statement end the batch that met it, and its tasks run for ever without anybody at it."""
    async with scenario(dsn) as t:
        first = [await t.lead(data=dict(COMPLETE)) for _ in range(10)]
        await t.reply(first[0], "Maybe.")
        await t.sql(f"INSERT INTO leads (name, phone) SELECT 'Bo', {PHONES} FROM generate_series(1, 100) n")
        await t.eventually("SELECT count(*) > 20 FROM messages WHERE status = 'sent'")
        async with t.session() as psql:
            await psql.execute(f"ALTER TABLE {table} ADD COLUMN shoe_size int DEFAULT 43")
        await t.sql("INSERT INTO leads (name, phone) SELECT 'Cy', '+1555' || 8000000 + n FROM generate_series(1, 20) n")
        await t.reply(first[1], "STOP")
        await nothing_runs(t)
        assert await t.value(
            "SELECT count(*) = 120 FROM leads WHERE name <> 'Ann Vendor' AND stage = 'AI_CONVERSATION'"
        )
        assert await t.get(first[1], "stage") == "DEAD_LEAD"
        assert await t.value("SELECT count(*) FROM tasks WHERE status = 'dead'") == 0
        assert set(t.engines.effects.values()) == {1}


# Cancelling one task


async def owed(conn: Connection, lead: UUID) -> bool:
    return bool(await conn.fetchval("SELECT entry_pending FROM leads WHERE id = $1", lead))


@pytest.mark.parametrize("kind", ["lead.check", "lead.deadline"])
async def test_who_cancels_a_check_or_a_deadline_still_owes_the_entry_action(dsn: str, kind: str) -> None:
    """Mutant: let any cancelled task of a lead settle its entry, and the lead is never greeted."""
    async with scenario(dsn) as t:
        await t.stop()
        lead = await t.lead()
        task = await t.value(
            "SELECT enqueue($1, $2, 'lead:' || $3)", kind, {"lead_id": str(lead), "stage_seq": 1}, str(lead)
        )
        assert await queue.cancel(t.conn, KINDS, task)
        assert await owed(t.conn, lead)
        await t.sql("DELETE FROM tasks")
        await t.start()
        await t.until(lead, "AI_CONVERSATION")


async def test_who_cancels_the_entry_action_owes_it_no_more(dsn: str) -> None:
    async with scenario(dsn) as t:
        await t.stop()
        lead = await t.lead()
        [task] = [r["id"] for r in await t.sql("SELECT id FROM tasks")]
        assert await queue.cancel(t.conn, KINDS, task)
        assert not await owed(t.conn, lead)
        await t.start()
        assert await t.sweep() == 0
        await t.expect(lead, "NEW_LEAD")
        assert t.engines.requests("sms") == []
