"""What engines may do to us: refuse, hang, break off, talk nonsense, and send bills."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.daemon import COMPLETE, Timeline, scenario
from tests.support.engines import Accepts, Act, Answers, Drops, Hangs, Refuses, Says, Streams, nowhere

IMPATIENT = {"ENGINES__SMS__TIMEOUT_S": "0.2", "ENGINES__VALIDATOR__TIMEOUT_S": "0.2"}
HONEST = {"ENGINES__SMS__IDEMPOTENT": "true", "ENGINES__VALIDATOR__IDEMPOTENT": "true"}
LOST: tuple[tuple[str, Act], ...] = (
    ("a time-out", Hangs()),
    ("a break before the effect", Drops(after_effect=False)),
    ("a break after the effect", Drops(after_effect=True)),
    ("no JSON", Says(b"<html>ok</html>")),
    ("no object", Says(b"[1, 2]")),
    ("an empty body", Says(b"")),
    ("a cut stream", Streams(last=None)),
)
each_lost_answer = pytest.mark.parametrize("act", [act for _, act in LOST], ids=[name for name, _ in LOST])


async def call_of(t: Timeline, lead: UUID, operation: str = "/api/send") -> list[asyncpg.Record]:
    return await t.sql("SELECT * FROM engine_calls WHERE lead_id = $1 AND operation = $2 ORDER BY id", lead, operation)


# Failures


async def test_a_busy_engine_is_asked_again_no_earlier_than_it_says(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("sms", Refuses(503, retry_after_s=3600), times=1)
        lead = await t.lead()
        await t.expect(lead, "NEW_LEAD")
        assert await t.value(
            "SELECT run_at - clock() BETWEEN '59 minutes' AND '60 minutes' FROM tasks WHERE kind = 'message'"
        )
        await t.after(minutes=59)
        assert len(t.engines.requests("sms")) == 1
        await t.after(minutes=1)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent(lead, "INITIAL_CONTACT")
        assert len({a.key for a in t.engines.requests("sms")}) == 1
        assert not await t.get(lead, "needs_review")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
async def test_what_may_get_better_is_tried_three_times(dsn: str, status: int) -> None:
    async with scenario(dsn) as t:
        t.engines.on("sms", Refuses(status))
        lead = await t.lead()
        await t.quiet()
        for _ in range(4):
            await t.after(minutes=5)
        assert len(t.engines.requests("sms")) == 3
        [dead] = await t.dead(lead)
        assert (dead["attempt"], str(status) in dead["error"]) == (3, True)


@pytest.mark.parametrize("status", [300, 400, 401, 403, 404, 409, 422])
async def test_what_will_not_get_better_is_not_tried_again(dsn: str, status: int) -> None:
    async with scenario(dsn) as t:
        t.engines.on("sms", Refuses(status, detail="that number is blocked"))
        lead = await t.lead()
        await t.expect(lead, "NEW_LEAD")
        await t.after(hours=1)
        assert len(t.engines.requests("sms")) == 1
        [dead] = await t.dead(lead)
        message = await t.message(lead, "INITIAL_CONTACT")
        assert message["status"] == "failed"
        assert str(status) in message["reason"]
        assert await t.get(lead, "needs_review")
        assert len(await t.events(lead, "flagged")) == 1
        assert await t.alerts(lead) == ["AGENT_FAILURE"]
        assert await t.value("SELECT severity = 'HIGH' FROM alerts")
        t.engines.well("sms")
        await t.retry(dead["id"])
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent(lead, "INITIAL_CONTACT")


async def test_a_refused_connection_is_a_failure_and_tried_again(dsn: str) -> None:
    async with scenario(dsn, ENGINES__VALIDATOR__URL=nowhere()) as t:
        lead = await t.told_all("DEAL_VALIDATION")
        for _ in range(3):
            await t.after(minutes=5)
        [dead] = await t.dead(lead)
        assert dead["attempt"] == 3
        assert await t.alerts(lead) == ["AGENT_FAILURE"]
        assert {c["status"] for c in await call_of(t, lead, "/api/validate")} == {"failed"}


async def test_one_poisoned_lead_never_holds_up_the_others(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__MAX_CONCURRENCY="4") as t:
        poisoned = await t.lead()
        t.engines.on("sms", Refuses(500), lead=poisoned)
        await t.quiet()
        leads = [await t.lead() for _ in range(20)]
        for lead in leads:
            await t.until(lead, "AI_CONVERSATION", within_s=3)
        await t.expect(poisoned, "NEW_LEAD")


# Unknown outcomes


@each_lost_answer
async def test_a_send_whose_answer_is_lost_is_never_repeated_by_itself(dsn: str, act: Act) -> None:
    """Mutant: retryable=True for Unknown in Engines.as_outcome, and the lead gets it twice."""
    async with scenario(dsn, **IMPATIENT) as t:
        t.engines.on("sms", act)
        lead = await t.lead()
        await t.expect(lead, "NEW_LEAD")
        [first] = t.engines.requests("sms")
        assert (await t.message(lead, "INITIAL_CONTACT"))["status"] == "unknown"
        [dead] = await t.dead(lead)
        assert await t.get(lead, "needs_review")
        assert await t.alerts(lead) == ["UNKNOWN_OUTCOME"]
        assert [c["status"] for c in await call_of(t, lead)] == ["unknown"]

        await t.after(days=3)
        await t.sweep()
        await t.restart()
        await t.sweep()
        assert len(t.engines.requests("sms")) == 1

        t.engines.well("sms")
        await t.retry(dead["id"])
        await t.expect(lead, "AI_CONVERSATION")
        [_, second] = t.engines.requests("sms")
        assert second.key != first.key
        assert [c["status"] for c in await call_of(t, lead)] == ["unknown", "ok"]
        assert (await t.message(lead, "INITIAL_CONTACT"))["status"] == "sent"


@each_lost_answer
async def test_a_validation_whose_answer_is_lost_waits_for_a_person(dsn: str, act: Act) -> None:
    async with scenario(dsn, **IMPATIENT) as t:
        t.engines.on("validator", act)
        lead = await t.told_all("DEAL_VALIDATION")
        [dead] = await t.dead(lead)
        assert await t.alerts(lead) == ["UNKNOWN_OUTCOME"]
        await t.after(days=3)
        await t.sweep()
        await t.expect(lead, "DEAL_VALIDATION")
        [first] = t.engines.requests("validator")
        t.engines.well("validator")
        await t.retry(dead["id"])
        assert "OFFER_MADE" in await t.path(lead)
        assert t.engines.requests("validator")[-1].key != first.key
        await t.expect_sent(lead, "OFFER")


async def test_every_further_retry_has_a_key_of_its_own(dsn: str) -> None:
    async with scenario(dsn, **IMPATIENT) as t:
        t.engines.on("sms", Drops(after_effect=False))
        lead = await t.lead()
        await t.quiet()
        for _ in range(2):
            await t.retry((await t.dead(lead))[0]["id"])
        assert len({a.key for a in t.engines.requests("sms")}) == len(t.engines.requests("sms")) == 3


@each_lost_answer
async def test_an_engine_that_honours_keys_is_asked_again_under_the_same_key(dsn: str, act: Act) -> None:
    async with scenario(dsn, **IMPATIENT, **HONEST) as t:
        t.engines.honours_keys = True
        t.engines.on("sms", act, times=1)
        lead = await t.lead()
        await t.quiet()
        await t.after(minutes=1)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent(lead, "INITIAL_CONTACT")
        requests = t.engines.requests("sms")
        assert (len(requests), len({a.key for a in requests})) == (2, 1)
        assert [c["status"] for c in await call_of(t, lead)] == ["ok"]


async def test_even_then_three_lost_answers_are_enough(dsn: str) -> None:
    async with scenario(dsn, **IMPATIENT, **HONEST) as t:
        t.engines.on("sms", Drops(after_effect=True))
        lead = await t.lead()
        await t.quiet()
        for _ in range(4):
            await t.after(minutes=5)
        assert len(t.engines.requests("sms")) == 3
        assert (await t.message(lead, "INITIAL_CONTACT"))["status"] == "unknown"
        assert await t.alerts(lead) == ["UNKNOWN_OUTCOME"]


async def test_an_answer_on_record_is_used_and_the_call_never_made_again(dsn: str) -> None:
    """A late answer settles the ledger by hand here; the message it belongs to is sent, and nobody is called."""
    async with scenario(dsn, **IMPATIENT) as t:
        t.engines.on("sms", Drops(after_effect=True))
        lead = await t.lead()
        await t.quiet()
        [dead] = await t.dead(lead)
        await t.sql(
            "UPDATE engine_calls SET status = 'ok', result = $2, http_status = 200 WHERE lead_id = $1",
            lead,
            {"message_id": "late"},
        )
        await t.retry(dead["id"])
        await t.expect(lead, "AI_CONVERSATION")
        assert (await t.message(lead, "INITIAL_CONTACT"))["provider_message_id"] == "late"
        assert len(t.engines.requests("sms")) == 1


# Other ways to answer


@pytest.mark.parametrize("act", [Streams(), Accepts()], ids=["a stream", "accepted, then polled"])
async def test_engines_may_answer_in_their_own_time(dsn: str, act: Act) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", act)
        t.engines.on("offers", act if isinstance(act, Streams) else Accepts())
        lead = await t.offered()
        await t.expect_sent(lead, "OFFER")
        assert len(t.engines.requests("validator")) == 1
        assert await t.get(lead, "data -> 'offer_amount'") == 150_000


async def test_a_job_that_failed_is_a_failure(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", Accepts(status="failed"), times=1)
        lead = await t.told_all("DEAL_VALIDATION")
        assert [c["status"] for c in await call_of(t, lead, "/api/validate")] == ["failed"]
        await t.after(minutes=1)
        await t.expect(lead, "OFFER_MADE")


async def test_every_call_carries_its_lead_by_the_names_of_the_table(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        [asked] = t.engines.requests("validator")
        told: dict[str, Any] = asked.body["lead"]
        assert next(iter(told)) == "id"
        assert (told["id"], told["stage"], told["data"]) == (str(lead), "DEAL_VALIDATION", dict(COMPLETE))
        assert "do_not_contact" in told
        [first] = t.engines.requests("sms")
        assert first.body["dry_run"] is False
        assert set(first.body) >= {"lead_id", "to", "template", "context", "dry_run"}


# Money


@pytest.mark.parametrize(("act", "charged"), [
    (Answers({"cost": 1.25}), "1.25"),
    (Answers({"cost": 0}), "0"),
    (Answers(without=("cost",)), "0.5"),
    (Answers({"cost": -3}), "0.5"),
    (Answers({"cost": "0.10"}), "0.5"),
    (Answers({"cost": None}), "0.5"),
    (Answers({"cost": True}), "0.5"),
    (Answers({"cost": [1]}), "0.5"),
    (Answers({"cost": 1e15}), "1000000000000000"),
    (Says(b'{"message_id": "x", "cost": NaN}'), "0.5"),
    (Says(b'{"message_id": "x", "cost": 1e400}'), "0.5"),
    (Says(b'{"message_id": "x", "cost": -Infinity}'), "0.5"),
], ids=lambda v: str(v)[:50])  # fmt: skip
async def test_the_cost_is_charged_as_it_is_or_as_it_was_estimated(dsn: str, act: Act, charged: str) -> None:
    async with scenario(dsn, ENGINES__SMS__COST_PER_CALL="0.50", ENGINES__SMS__DAILY_BUDGET="100") as t:
        t.engines.on("sms", act)
        lead = await t.lead()
        await t.quiet()
        [call] = await call_of(t, lead)
        assert (call["status"], call["reserved_cost"], call["cost"]) == ("ok", Decimal("0.5"), Decimal(charged))
        assert await t.value("SELECT (reserved, settled) = (0, $1) FROM budget_counters", Decimal(charged))


async def test_a_failure_costs_nothing_and_a_lost_answer_its_estimate(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__COST_PER_CALL="0.50", ENGINES__SMS__DAILY_BUDGET="100") as t:
        t.engines.on("sms", Refuses(400), times=1)
        failed = await t.lead()
        await t.quiet()
        t.engines.on("sms", Drops(after_effect=True), times=1)
        lost = await t.lead()
        await t.quiet()
        assert [c["cost"] for c in [*await call_of(t, failed), *await call_of(t, lost)]] == [Decimal(0), Decimal("0.5")]
        assert await t.value("SELECT (reserved, settled) = (0, 0.5) FROM budget_counters")


async def test_a_spent_daily_budget_lets_the_tasks_wait_for_midnight(dsn: str) -> None:
    budget = {"ENGINES__SMS__COST_PER_CALL": "1", "ENGINES__SMS__DAILY_BUDGET": "2", "TIMEZONE": "America/New_York"}
    async with scenario(dsn, **budget) as t:
        t.engines.on("sms", Answers({"cost": 1}))
        for _ in range(3):
            await t.lead()
        await t.quiet()
        assert len(t.engines.requests("sms")) == 2
        [waiting] = await t.sql("SELECT * FROM tasks WHERE kind = 'message'")
        midnight = await t.value(
            "SELECT ((clock() AT TIME ZONE 'America/New_York')::date + 1)::timestamp AT TIME ZONE 'America/New_York'"
        )
        assert (waiting["status"], waiting["run_at"], waiting["attempt"]) == ("available", midnight, 0)
        [late] = [r["id"] for r in await t.sql("SELECT id FROM leads WHERE stage = 'NEW_LEAD'")]
        assert not await t.get(late, "needs_review")
        await t.value("SELECT shift_clock($1 - clock() - interval '10 seconds')", midnight)
        await t.expect(late, "NEW_LEAD")
        await t.after(seconds=10)
        await t.expect(late, "AI_CONVERSATION")
        await t.expect_sent(late, "INITIAL_CONTACT")


async def test_a_message_that_waits_for_the_budget_says_so(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__COST_PER_CALL="1", ENGINES__SMS__DAILY_BUDGET="0.5") as t:
        lead = await t.lead()
        await t.quiet()
        message = await t.message(lead, "INITIAL_CONTACT")
        assert message["status"] == "scheduled"
        assert "budget" in (message["reason"] or "")


async def test_a_bill_above_the_estimate_is_charged_alerted_and_blocks_the_next_call(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__COST_PER_CALL="0.01", ENGINES__SMS__DAILY_BUDGET="5") as t:
        t.engines.on("sms", Answers({"cost": 7}))
        first = await t.lead()
        await t.expect(first, "AI_CONVERSATION")
        second = await t.lead()
        await t.expect(second, "NEW_LEAD")
        assert len(t.engines.requests("sms")) == 1
        assert await t.value("SELECT settled = 7 FROM budget_counters")
        assert await t.value("SELECT count(*) FROM alerts WHERE type = 'BUDGET_OVERRUN' AND severity = 'HIGH'") == 1


async def test_a_budget_holds_with_many_calls_at_once(dsn: str) -> None:
    async with scenario(
        dsn, ENGINES__SMS__COST_PER_CALL="1", ENGINES__SMS__DAILY_BUDGET="7", ENGINES__SMS__MAX_CONCURRENCY="50"
    ) as t:
        await t.start()
        t.engines.on("sms", Answers({"cost": 1}))
        await t.sql("INSERT INTO leads (name, phone) SELECT 'Ann', '+1555012' || n FROM generate_series(1000, 1049) n")
        await t.quiet()
        assert len(t.engines.requests("sms")) == 7
        assert await t.value("SELECT sum(cost) = 7 FROM engine_calls")
