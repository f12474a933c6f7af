"""One key is one effect, and what a call may have cost is on the books: whatever happens around the call."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from daemon import queue
from daemon.ledger import Ended
from daemon.log import configure
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Act, Answers, Asked, Drops, Engines, Hangs, Refuses, Says

IMPATIENT = {"ENGINES__SMS__TIMEOUT_S": "0.2"}
HONEST = {**IMPATIENT, "ENGINES__SMS__IDEMPOTENT": "true"}
BUDGET = {"ENGINES__SMS__COST_PER_CALL": "1", "ENGINES__SMS__DAILY_BUDGET": "30"}
BOTH_CLAIMED = """
SELECT count(*) = 2 FROM tasks WHERE kind = 'message' AND (status = 'running' OR error LIKE 'another attempt%')"""
UNBALANCED = """
WITH booked AS (
    SELECT b.key AS scope, b.value::date AS period,
           coalesce(sum(reserved_cost) FILTER (WHERE status = 'reserved'), 0) AS reserved,
           coalesce(sum(cost) FILTER (WHERE status <> 'reserved'), 0) AS settled
    FROM engine_calls, jsonb_each_text(budgets) AS b GROUP BY 1, 2)
SELECT scope, period, b.reserved, b.settled, c.reserved AS counted_reserved, c.settled AS counted_settled
FROM booked b FULL JOIN budget_counters c USING (scope, period)
WHERE coalesce(b.reserved, 0) <> coalesce(c.reserved, 0) OR coalesce(b.settled, 0) <> coalesce(c.settled, 0)"""


@pytest.fixture(autouse=True)
def few_words() -> None:
    """The default log tells of every task."""
    configure("WARNING", "json")


async def talking(t: Timeline) -> UUID:
    """A lead to whom nothing happens by itself for a day."""
    lead = await t.lead(stage="AI_CONVERSATION")
    await t.quiet()
    return lead


async def later(t: Timeline, lead: UUID, template: str = "NEWS") -> UUID:
    """A message that is due in an hour."""
    found: UUID = await t.value(
        "INSERT INTO messages (lead_id, template, status, send_at) VALUES ($1, $2, 'scheduled', clock() + '1 hour')"
        " RETURNING id", lead, template,
    )  # fmt: skip
    return found


async def counter(t: Timeline) -> tuple[float, float]:
    """What today's counter holds, reserved and settled; the books agree with it."""
    assert await t.sql(UNBALANCED) == []
    row = (await t.sql("SELECT sum(reserved) AS r, sum(settled) AS s FROM budget_counters"))[0]
    return float(row["r"]), float(row["s"])


async def task_of(t: Timeline, lead: UUID) -> asyncpg.Record:
    """The one task that sends to the lead."""
    [task] = await t.sql("SELECT * FROM tasks WHERE kind = 'message' AND key = 'lead:' || $1", str(lead))
    return task


# Two tasks, one message


async def double(t: Timeline, message: UUID) -> None:
    """Somebody queues the message once more, under no key at all."""
    await t.sql(
        "INSERT INTO tasks (kind, payload, run_at) SELECT kind, payload, run_at FROM tasks"
        " WHERE kind = 'message' AND payload ->> 'message_id' = $1", str(message),
    )  # fmt: skip


@pytest.mark.parametrize(("at_once", "honest"), [("1", "true"), ("10", "false"), ("10", "true")])
async def test_two_tasks_for_one_message_make_one_call(dsn: str, at_once: str, honest: str) -> None:
    """Mutant: reserve equal keys in one statement, and both calls go out or the message is called unknown."""
    async with scenario(dsn, ENGINES__SMS__MAX_CONCURRENCY=at_once, ENGINES__SMS__IDEMPOTENT=honest) as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        message = await later(t, await talking(t))
        await double(t, message)
        await t.shift(hours=1)
        await slow.started.wait()
        await t.eventually(BOTH_CLAIMED)
        slow.release()
        await t.eventually("SELECT count(*) = 0 FROM tasks")
        assert len(t.engines.requests("sms")) == 1
        assert await t.value("SELECT status FROM messages") == "sent"
        assert await t.value("SELECT count(*) FROM alerts") == 0
        assert [c["status"] for c in await t.sql("SELECT status FROM engine_calls")] == ["ok"]


# An answer that is hard to write down


async def tried_in_vain(t: Timeline, table: str, times: int) -> None:
    """The daemon has waited so many times for this table and given up."""
    seen: set[tuple[object, object]] = set()

    async def often() -> bool:
        sql = "SELECT pid, waitstart FROM pg_locks WHERE relation = $1::text::regclass AND waitstart IS NOT NULL"
        seen.update((r["pid"], r["waitstart"]) for r in await t.sql(sql, table))
        return len(seen) > times

    await t.wait_for(often, f"nobody waited for {table}")


async def test_an_answer_is_written_down_as_soon_as_the_ledger_can_be_written_to(dsn: str) -> None:
    """Mutant: let settling end with the first lock time-out, and a message that was sent is called unknown."""
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        lead = await t.lead()
        await slow.started.wait()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute("LOCK TABLE engine_calls IN SHARE MODE")
            slow.release()
            await tried_in_vain(t, "engine_calls", 4)
            await tx.rollback()
        await t.until(lead, "AI_CONVERSATION")
        await t.expect_sent(lead, "INITIAL_CONTACT")
        assert [c["status"] for c in await t.sql("SELECT status FROM engine_calls")] == ["ok"]
        assert await t.value("SELECT count(*) FROM alerts") == 0


# A daemon that ends in mid-call


async def abandon(t: Timeline) -> None:
    """Its end without a word to anybody."""
    await t.running.pop().discard()


ENDS = pytest.mark.parametrize("ends", [Timeline.stop, abandon], ids=["gives back", "vanishes"])


async def doubted(t: Timeline, lead: UUID) -> None:
    """The message may have reached the lead, and everybody is told so."""
    for _ in range(3):
        await t.after(minutes=1)
    assert (await t.message(lead, "INITIAL_CONTACT"))["status"] == "unknown"
    assert await t.alerts(lead) == ["UNKNOWN_OUTCOME"]
    assert await t.value("SELECT status FROM engine_calls") == "unknown"
    assert len(t.engines.requests("sms")) == 1
    assert await counter(t) == (0, 1)


@ENDS
@pytest.mark.parametrize("honest", ["false", "true"], ids=["no keys", "honours keys"])
async def test_a_call_that_outlived_its_daemon_is_unknown_wherever_its_lead_went(
    dsn: str, honest: str, ends: Callable[[Timeline], Awaitable[None]]
) -> None:
    """Mutant: look at the lead's stage before the ledger, and the message is cancelled although it was sent."""
    async with scenario(dsn, WORKER__TAKEOVER_S="0.2", ENGINES__SMS__IDEMPOTENT=honest, **BUDGET) as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        lead = await t.lead()
        await slow.started.wait()
        await ends(t)
        slow.release()
        await t.sql("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
        await t.start()
        await t.eventually("SELECT count(*) = 0 FROM tasks WHERE status = 'running'")
        await doubted(t, lead)
        await t.expect(lead, "DEAD_LEAD")


@ENDS
async def test_a_call_whose_task_was_cancelled_after_its_daemon_ended_is_unknown(
    dsn: str, ends: Callable[[Timeline], Awaitable[None]]
) -> None:
    """Mutant: a sweep without its step `calls`, and the money stays reserved for ever."""
    async with scenario(dsn, **BUDGET) as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        lead = await t.lead()
        await slow.started.wait()
        kinds = t.running[0].daemon.worker.kinds
        await ends(t)
        slow.release()
        await t.sql("UPDATE tasks SET lease_expires_at = now() WHERE status = 'running'")
        await t.sql("SELECT free_expired()")
        task = await t.value("SELECT id FROM tasks WHERE kind = 'message'")
        assert await queue.cancel(t.conn, kinds, task)
        await t.start()
        for _ in range(2):
            await t.sweep()
        assert await t.value("SELECT status FROM engine_calls") == "unknown"
        assert await counter(t) == (0, 1)
        assert (await t.message(lead, "INITIAL_CONTACT"))["status"] == "unknown"
        assert await t.get(lead, "needs_review")
        [alert] = await t.sql("SELECT type, severity, resolved_at FROM alerts WHERE subject LIKE 'call:%'")
        assert tuple(alert) == ("UNKNOWN_OUTCOME", "HIGH", None)


async def test_a_call_that_is_being_made_is_left_alone_by_the_sweep(dsn: str) -> None:
    """Mutant: `doubt_abandoned` without its look at tasks."""
    async with scenario(dsn, **BUDGET) as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        lead = await t.lead()
        await slow.started.wait()
        await t.running[0].daemon.sweep.run()
        assert await t.value("SELECT status FROM engine_calls") == "reserved"
        slow.release()
        await t.expect(lead, "AI_CONVERSATION")


@pytest.mark.parametrize("then", [
    "UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1",
    "UPDATE leads SET do_not_contact = true WHERE id = $1",
], ids=["moved on", "do not contact"])  # fmt: skip
async def test_a_lost_answer_is_not_forgotten_because_it_may_not_be_asked_for_again(dsn: str, then: str) -> None:
    """Mutant: let the gate's no be the message's end, and one that arrived is called suppressed."""
    async with scenario(dsn, **HONEST, **BUDGET) as t:
        t.engines.on("sms", Drops(after_effect=True), times=1)
        lead = await t.lead()
        await t.quiet()
        await t.sql(then, lead)
        await doubted(t, lead)
        assert t.engines.happened("INITIAL_CONTACT", lead) == 1


# Money


async def test_a_lost_answer_is_paid_for_once_however_often_its_key_goes_out(dsn: str) -> None:
    async with scenario(dsn, **HONEST, **BUDGET) as t:
        t.engines.honours_keys = True
        t.engines.on("sms", Answers({"cost": 1.5}))
        t.engines.on("sms", Drops(after_effect=True), times=2)
        lead = await t.lead()
        await t.quiet()
        assert await counter(t) == (0, 1)
        await t.after(seconds=30)
        assert (len(t.engines.requests("sms")), await counter(t)) == (2, (0, 1))
        await t.after(seconds=30)
        assert (len(t.engines.requests("sms")), await counter(t)) == (3, (0, 1.5))
        await t.expect(lead, "AI_CONVERSATION")
        assert len({a.key for a in t.engines.requests("sms")}) == 1


async def held_back(t: Timeline) -> bool:
    """The daemon has an outcome in its hands that it can't write."""
    return bool(t.running[0].daemon.worker.committer.locked)


async def test_an_answer_that_comes_while_the_death_is_written_is_not_lost(dsn: str) -> None:
    """Mutant: let `kill` make every task dead, and the answered message stays unknown for ever."""
    async with scenario(dsn, **IMPATIENT) as t:
        t.engines.on("sms", Hangs(), times=1)
        lead = await t.lead()
        async with t.session() as psql:
            tx = psql.transaction()
            await t.eventually("SELECT count(*) = 1 FROM messages WHERE status = 'sending'")
            await tx.start()
            await psql.execute("SELECT FROM messages FOR UPDATE")
            await t.wait_for(lambda: held_back(t), "the outcome was never held back")
            key = await t.value("SELECT idempotency_key FROM engine_calls WHERE status = 'unknown'")
            late = Ended(key, "ok", Decimal(0), 200, 1.0, result={"message_id": "late"})
            await t.running[0].daemon.ledger.settle_for_good(late)
            await tx.rollback()
        await t.expect(lead, "AI_CONVERSATION")
        assert await t.value("SELECT provider_message_id FROM messages") == "late"
        assert len(t.engines.requests("sms")) == 1


async def test_a_retry_that_may_not_go_out_refunds_nothing(dsn: str) -> None:
    """Mutant: refund what a key holds before the gate is asked, and the day's spending is forgotten."""
    async with scenario(dsn, **HONEST, **BUDGET) as t:
        t.engines.on("sms", Drops(after_effect=True), times=1)
        message = await later(t, await talking(t))
        await t.after(hours=1)
        assert await counter(t) == (0, 1)
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute("SELECT FROM messages WHERE id = $1 FOR UPDATE", message)
            await t.shift(minutes=1)
            await t.wait_for(lambda: held_back(t), "the gate never refused it")
            assert await counter(t) == (0, 1)
            await tx.rollback()
        await t.quiet()
        await t.after(seconds=5)
        assert len(t.engines.requests("sms")) == 2
        assert await counter(t) == (0, 0.01)


async def test_a_retry_fits_into_the_budget_that_its_first_call_filled(dsn: str) -> None:
    async with scenario(dsn, **HONEST, ENGINES__SMS__COST_PER_CALL="1", ENGINES__SMS__DAILY_BUDGET="1") as t:
        t.engines.honours_keys = True
        t.engines.on("sms", Drops(after_effect=True), times=1)
        lead = await t.lead()
        await t.quiet()
        await t.after(minutes=1)
        await t.expect(lead, "AI_CONVERSATION")
        assert len(t.engines.requests("sms")) == 2
        assert await t.sql(UNBALANCED) == []


ODD: tuple[Act, ...] = (
    Drops(after_effect=False), Drops(after_effect=True), Refuses(503), Refuses(400), Says(b"<html>ok</html>"),
    Answers({"cost": 3}), Answers({"cost": 0}), Hangs(),
)  # fmt: skip


@pytest.mark.parametrize("honest", [IMPATIENT, HONEST], ids=["no keys", "honours keys"])
async def test_the_counters_are_the_sum_of_the_ledger_at_any_moment(dsn: str, honest: dict[str, str]) -> None:
    """Everything that can become of a call, two days, three daemons of which one vanishes, and two retries by hand."""
    async with scenario(dsn, WORKER__TAKEOVER_S="0.2", **honest, **BUDGET) as t:
        for act in ODD:
            t.engines.on("sms", act, times=4)
        await t.start()
        await t.sql("INSERT INTO leads (name, phone) SELECT 'Ann', '+1555012' || n FROM generate_series(1000, 1059) n")
        await t.wait_for(lambda: asked(t.engines, 20), "too few calls")
        await abandon(t)
        await t.start()
        await balanced_until_quiet(t)
        for minutes in (1, 1, 24 * 60, 1):
            await t.shift(minutes=minutes)
            await balanced_until_quiet(t)
        for task in await t.sql("SELECT id FROM tasks WHERE status = 'dead' LIMIT 2"):
            await t.value("SELECT retry_task($1)", task["id"])
        await balanced_until_quiet(t)
        assert await t.value("SELECT count(*) FROM budget_counters WHERE settled > 0") == 2
        assert await t.value("SELECT count(*) FROM engine_calls WHERE status = 'reserved'") == 0
        assert await t.value("SELECT sum(reserved) FROM budget_counters") == 0


async def asked(engines: Engines, times: int) -> list[Asked] | None:
    return engines.asked if len(engines.asked) >= times else None


async def balanced_until_quiet(t: Timeline) -> None:
    """Nothing is due any more, and all the way the books agreed with the counters."""

    async def over() -> bool:
        assert await t.sql(UNBALANCED) == []
        return bool(await t.value("SELECT NOT EXISTS (SELECT FROM tasks WHERE status = 'running'"
                                  " OR (status = 'available' AND run_at <= clock()))"))  # fmt: skip

    await t.wait_for(over, "it never became quiet")


# Keys


async def test_a_retry_of_what_waits_goes_out_under_the_same_key(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("sms", Refuses(503, retry_after_s=3600), times=2)
        lead = await t.lead()
        await t.quiet()
        await t.retry((await task_of(t, lead))["id"])
        await t.retry((await task_of(t, lead))["id"])
        await t.expect_sent(lead, "INITIAL_CONTACT")
        requests = t.engines.requests("sms")
        assert (len(requests), len({a.key for a in requests})) == (3, 1)


async def test_a_retry_of_an_unknown_outcome_that_waits_to_be_asked_again_keeps_its_key(dsn: str) -> None:
    async with scenario(dsn, **HONEST) as t:
        t.engines.honours_keys = True
        t.engines.on("sms", Drops(after_effect=True), times=1)
        lead = await t.lead()
        await t.quiet()
        waiting = await task_of(t, lead)
        assert waiting["status"] == "available"
        await t.retry(waiting["id"])
        await t.expect_sent(lead, "INITIAL_CONTACT")
        assert len({a.key for a in t.engines.requests("sms")}) == 1


async def test_each_retry_of_an_unknown_outcome_has_a_key_of_its_own_and_no_other_retry_has(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("sms", Refuses(400), times=1)
        t.engines.on("sms", Drops(after_effect=True), times=2)
        lead = await t.lead()
        for _ in range(3):
            await t.quiet()
            await t.retry((await t.dead(lead))[0]["id"])
        await t.expect(lead, "AI_CONVERSATION")
        first, second, third, last = [a.key for a in t.engines.requests("sms")]
        assert len({first, second, third}) == 3
        assert last == third  # what was refused surely had no effect
        sql = "SELECT idempotency_key, status FROM engine_calls ORDER BY round"
        assert [tuple(r) for r in await t.sql(sql)] == [(first, "unknown"), (second, "unknown"), (third, "ok")]
