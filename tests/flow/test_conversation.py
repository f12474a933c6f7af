"""The conversation with a vendor: its silence, its replies, and the data that ends it."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.daemon import COMPLETE, Timeline, scenario
from tests.support.engines import Answers, Drops, Hangs, Refuses, nowhere

FOLLOW_UP = "CONVERSATION_FOLLOW_UP"


async def talking(t: Timeline, **columns: Any) -> UUID:
    lead = await t.lead(**columns)
    await t.expect(lead, "AI_CONVERSATION")
    return lead


# Silence


async def test_silence_brings_two_follow_ups_and_then_the_end_without_a_word(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        for hours, follow_ups in ((23, 0), (1, 1), (23, 1), (1, 2), (23, 2)):
            await t.after(hours=hours)
            await t.sweep()
            await t.expect_sent(lead, FOLLOW_UP, times=follow_ups)
            await t.expect(lead, "AI_CONVERSATION")
        await t.restart(hours=1)
        await t.expect(lead, "DEAD_LEAD")
        assert await t.get(lead, "data ->> 'dead_reason'") == "No response to follow-ups"
        await t.after(days=5)
        await t.expect_sent_in_all(lead, "INITIAL_CONTACT", FOLLOW_UP, FOLLOW_UP)


async def test_a_reply_begins_the_silence_anew_and_its_follow_ups_come_again(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        for _ in range(2):
            await t.after(hours=24)
        await t.expect_sent(lead, FOLLOW_UP, times=2)
        await t.reply(lead, "Sorry, I was away. It has a garden.", "unclear")
        await t.expect_sent(lead, "CONVERSATION")
        await t.after(hours=23)
        await t.expect_sent(lead, FOLLOW_UP, times=2)
        await t.after(hours=1)
        await t.expect_sent(lead, FOLLOW_UP, times=3)
        await t.after(hours=24)
        await t.expect_sent(lead, FOLLOW_UP, times=4)
        await t.after(hours=23)
        await t.expect(lead, "AI_CONVERSATION")
        await t.after(hours=1)
        await t.expect(lead, "DEAD_LEAD")


async def test_our_own_words_do_not_break_the_silence(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        await t.after(hours=20)
        await t.sql("INSERT INTO messages (lead_id, template, status) VALUES ($1, 'CONVERSATION', 'scheduled')", lead)
        await t.expect_sent(lead, "CONVERSATION")
        await t.after(hours=4)
        await t.expect_sent(lead, FOLLOW_UP)


async def test_the_silence_is_counted_from_the_word_not_from_when_we_read_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        await t.shift(hours=10)
        said = await t.value("SELECT clock() - interval '6 hours'")
        await t.reply(lead, "It is a bungalow.", received_at=said)
        assert await t.get(lead, "deadline_at") == said + timedelta(hours=24)


async def test_a_snoozed_conversation_waits_and_then_goes_on_where_it_was(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        await t.after(hours=24)
        await t.sql("UPDATE leads SET deadline_at = clock() + interval '10 days' WHERE id = $1", lead)
        await t.after(days=9)
        await t.expect_sent(lead, FOLLOW_UP, times=1)
        await t.after(days=1)
        await t.expect_sent(lead, FOLLOW_UP, times=2)
        await t.after(hours=24)
        await t.expect(lead, "DEAD_LEAD")


async def test_a_daemon_away_for_weeks_still_gives_the_lead_its_chances(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        await t.restart(days=20)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent(lead, FOLLOW_UP, times=1)
        await t.after(hours=24)
        await t.expect_sent(lead, FOLLOW_UP, times=2)


# Replies


@pytest.mark.parametrize(
    "category", ["interested", "pricing", "acceptance", "rejection", "counter", "question", "referral", "unclear"]
)
async def test_any_human_reply_is_answered_whatever_the_classifier_says(dsn: str, category: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        reply = await t.reply(lead, "Well, three bedrooms I suppose", category)
        await t.expect_sent(lead, "CONVERSATION")
        [asked] = t.engines.requests("sms", "CONVERSATION")
        assert asked.body["context"]["reply"]["body"] == "Well, three bedrooms I suppose"
        assert asked.body["context"]["lead"]["id"] == str(lead)
        assert asked.body["to"] == await t.get(lead, "phone")
        assert await t.value("SELECT status FROM replies WHERE id = $1", reply) == "routed"
        assert await t.requests_for_a_person(lead) == []
        await t.expect(lead, "AI_CONVERSATION")


async def test_without_a_classifier_the_conversation_goes_on(dsn: str) -> None:
    async with scenario(dsn, ENGINES__CLASSIFIER__URL="-") as t:
        lead = await talking(t)
        await t.reply(lead, "Yes, it is mine")
        await t.expect_sent(lead, "CONVERSATION")
        assert await t.requests_for_a_person(lead) == []


@pytest.mark.parametrize("confidence", [0.2, 0.95])
async def test_an_unsure_or_failing_classifier_does_not_stop_the_conversation(dsn: str, confidence: float) -> None:
    async with scenario(dsn) as t:
        t.engines.confidence = confidence
        if confidence > 0.5:
            t.engines.on("classifier", Refuses(400))
        lead = await talking(t)
        await t.reply(lead, "Perhaps", "rejection")
        await t.expect_sent(lead, "CONVERSATION")
        assert await t.requests_for_a_person(lead) == []
        assert await t.value("SELECT category FROM replies") == "unclear"


async def test_what_the_engine_learns_is_merged_and_may_complete_the_set(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t, data={"note": "kept"})
        t.engines.on("sms", Answers({"fields": dict(COMPLETE)}), template="CONVERSATION")
        await t.reply(lead, "1 Mill Lane, terraced, fair, 180k", "unclear")
        await t.expect(lead, "OFFER_MADE")
        assert await t.get(lead, "data ->> 'note'") == "kept"
        await t.expect_sent(lead, "CONVERSATION")


async def test_a_person_is_asked_if_the_conversations_engine_fails(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        t.engines.on("sms", Refuses(422), template="CONVERSATION")
        await t.reply(lead, "Two floors", "unclear")
        assert await t.get(lead, "needs_review")
        assert len(await t.dead(lead)) == 1
        t.engines.well("sms")
        await t.retry((await t.dead(lead))[0]["id"])
        await t.expect_sent(lead, "CONVERSATION")


async def test_two_replies_get_an_answer_each(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        await t.say(lead, "First", "unclear")
        await t.say(lead, "Second", "unclear")
        await t.expect_sent(lead, "CONVERSATION", times=2)


async def test_the_same_reply_delivered_twice_is_one_reply(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        for _ in range(2):
            await t.sql(
                "INSERT INTO replies (channel, from_address, body, external_id) SELECT 'sms', phone, 'Hm', 'SM1' "
                "FROM leads WHERE id = $1 ON CONFLICT DO NOTHING",
                lead,
            )
        await t.expect_sent(lead, "CONVERSATION", times=1)


# The data that ends the conversation


async def test_another_agents_update_that_completes_the_set_moves_the_lead(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        told: dict[str, Any] = {}
        for field, value in COMPLETE.items():
            await t.expect(lead, "AI_CONVERSATION")
            told[field] = value
            await t.tell(lead, **{field: value})
        await t.until(lead, "OFFER_MADE")
        assert (await t.path(lead))[1:4] == ["AI_CONVERSATION", "DEAL_VALIDATION", "OFFER_MADE"]


async def test_the_event_says_which_fields_are_missing(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t, data={**COMPLETE, "condition": "", "asking_price": None})
        assert set((await t.events(lead, "missing_fields"))[-1]["metadata"]["missing"]) == {"asking_price", "condition"}
        await t.tell(lead, asking_price=1)
        await t.quiet()
        assert (await t.events(lead, "missing_fields"))[-1]["metadata"]["missing"] == ["condition"]
        seen = len(await t.events(lead, "missing_fields"))
        await t.tell(lead, note="nothing new")
        await t.sweep()
        assert len(await t.events(lead, "missing_fields")) == seen


@pytest.mark.parametrize(("field", "value", "enough"), [
    ("bedrooms", 0, True), ("asking_price", 0, True),
    ("condition", "", False), ("condition", "  ", False), ("bedrooms", None, False),
])  # fmt: skip
async def test_null_and_empty_are_missing_but_a_studio_has_no_bedrooms(
    dsn: str, field: str, value: object, enough: bool
) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(data={**COMPLETE, field: value})
        await t.expect(lead, "OFFER_MADE" if enough else "AI_CONVERSATION")


async def test_an_import_that_is_complete_on_entry_moves_by_itself(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="AI_CONVERSATION", data=dict(COMPLETE))
        await t.expect(lead, "OFFER_MADE")


async def test_a_change_while_the_leads_handler_runs_is_not_swallowed(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t)
        slow = Hangs()
        t.engines.on("sms", slow, template="CONVERSATION")
        await t.say(lead, "Hold on", "unclear")
        await slow.started.wait()
        await t.tell(lead, **COMPLETE)
        slow.release()
        await t.expect(lead, "OFFER_MADE")


async def test_a_change_after_its_check_has_read_the_lead_is_not_swallowed(dsn: str) -> None:
    """The check has decided on the old data and waits for the lock of the very transaction that completes the set.

    Mutant: a dedup_key that still covers the running check.
    """
    async with scenario(dsn) as t:
        lead = await talking(t)
        async with t.session() as other:
            tx = other.transaction()
            await tx.start()
            await other.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", lead)
            payload = {"lead_id": str(lead), "issues": ["so that it has something to write"]}
            sql = "INSERT INTO tasks (kind, payload, key, dedup_key) VALUES ('lead.check', $1, $2, $3) RETURNING id"
            check = await t.value(sql, payload, f"lead:{lead}", f"check:{lead}")
            await t.eventually("SELECT status = 'running' FROM tasks WHERE id = $1", check)
            await t.wait_for(lambda: waits_for_lock(t), "the check never met the lock")
            await other.execute("UPDATE leads SET data = data || $2 WHERE id = $1", lead, dict(COMPLETE))
            await tx.commit()
        await t.expect(lead, "OFFER_MADE")


async def waits_for_lock(t: Timeline) -> bool:
    return bool(t.running[0].daemon.worker.committer.locked)


# The verdict on the deal


async def test_a_passed_validation_makes_an_offer_through_a_message(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        data = await t.get(lead, "data")
        assert (data["validation_passed"], data["bmv_score"], data["estimated_market_value"]) == (True, 25, 200_000)
        assert data["offer_amount"] == 150_000
        assert data["offer_sent_at"]
        offer = await t.message(lead, "OFFER")
        assert (offer["channel"], offer["status"], offer["provider_message_id"]) == ("offer", "sent", "offer-3")
        assert len(await t.events(lead, "offer_made")) == 1
        [asked] = t.engines.requests("offers")
        assert asked.operation == "/api/offers"
        assert asked.body["lead"]["data"]["validation_passed"] is True


async def test_a_failed_validation_is_told_first_and_then_ends_the_lead(dsn: str) -> None:
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on("validator", Answers({"passed": False, "reason": "priced above the market", "bmv_score": -3}))
        t.engines.on("sms", slow, template="REJECTION")
        lead = await t.lead(data=dict(COMPLETE))
        await slow.started.wait()
        assert await t.get(lead, "stage") == "DEAL_VALIDATION"
        slow.release()
        await t.expect(lead, "DEAD_LEAD")
        data = await t.get(lead, "data")
        assert (data["validation_passed"], data["dead_reason"]) == (False, "priced above the market")
        await t.expect_sent_in_all(lead, "INITIAL_CONTACT", "REJECTION")
        assert t.engines.requests("offers") == []


async def test_a_rejection_that_can_not_be_sent_keeps_the_lead_for_a_person(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", Answers({"passed": False, "reason": "no"}))
        t.engines.on("sms", Refuses(400), template="REJECTION")
        lead = await t.lead(data=dict(COMPLETE))
        await t.expect(lead, "DEAL_VALIDATION")
        assert await t.get(lead, "needs_review")
        await t.after(hours=30)
        await t.expect(lead, "DEAL_VALIDATION")
        t.engines.well("sms")
        await t.retry((await t.dead(lead))[0]["id"])
        await t.expect(lead, "DEAD_LEAD")
        await t.expect_sent(lead, "REJECTION")


async def test_a_day_without_a_verdict_asks_for_a_person(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", Refuses(503, retry_after_s=40 * 3600), times=1)
        lead = await t.lead(data=dict(COMPLETE))
        await t.expect(lead, "DEAL_VALIDATION")
        await t.after(hours=24)
        await t.expect(lead, "DEAL_VALIDATION")
        assert await t.get(lead, "needs_review")
        assert len(await t.events(lead, "flagged")) == 1
        await t.after(hours=17)
        await t.expect(lead, "OFFER_MADE")


async def test_a_validator_without_a_verdict_asks_for_a_person(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", Answers(without=("passed",)))
        lead = await t.lead(data=dict(COMPLETE))
        await t.expect(lead, "DEAL_VALIDATION")
        assert await t.get(lead, "needs_review")


# The first message


async def test_a_lead_without_a_phone_is_flagged_and_written_to_once_it_has_one(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(phone=None)
        await t.expect(lead, "NEW_LEAD")
        assert await t.get(lead, "needs_review")
        await t.after(days=2)
        assert t.engines.asked == []
        await t.sql("UPDATE leads SET phone = '+15550121234' WHERE id = $1", lead)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent_in_all(lead, "INITIAL_CONTACT")


@pytest.mark.parametrize("phone", ["+1555", "+44 12", "no number", "12345678901234567890", ""])
async def test_an_impossible_number_is_never_called_and_mended_later(dsn: str, phone: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(phone=phone)
        await t.expect(lead, "NEW_LEAD")
        assert await t.get(lead, "needs_review")
        assert t.engines.asked == []
        await t.sql("UPDATE leads SET phone = '+15550121234' WHERE id = $1", lead)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent_in_all(lead, "INITIAL_CONTACT")
        assert not await t.get(lead, "needs_review")


async def test_an_impossible_number_is_told_once_however_many_days_pass(dsn: str) -> None:
    """Mutant: `address_mended` without `reason IS DISTINCT FROM`; then a person is told every night."""
    async with scenario(dsn) as t:
        lead = await t.lead(phone="+4477009")
        await t.quiet()
        for _ in range(3):
            await t.daily_job()
        [told] = await t.events(lead, "flagged")
        assert "local number" in told["metadata"]["reason"]
        assert await t.alerts(lead) == ["AGENT_FAILURE"]
        await t.sql("UPDATE leads SET phone = 'none yet' WHERE id = $1", lead)
        await t.quiet()
        assert "characters" in (await t.events(lead, "flagged"))[1]["metadata"]["reason"], "another reason is news"
        await t.sql("UPDATE leads SET phone = '+15550121234' WHERE id = $1", lead)
        await t.expect(lead, "AI_CONVERSATION")
        await t.expect_sent_in_all(lead, "INITIAL_CONTACT")
        assert not await t.get(lead, "needs_review")


@pytest.mark.parametrize(("phone", "country", "to"), [
    ("+1 (555) 012-9999", None, "+15550129999"), ("020 7946 0958", "GB", "+442079460958"),
])  # fmt: skip
async def test_numbers_are_dialled_in_one_spelling(dsn: str, phone: str, country: str | None, to: str) -> None:
    async with scenario(dsn) as t:
        await talking(t, phone=phone, country=country)
        [asked] = t.engines.requests("sms")
        assert asked.body["to"] == to


async def test_an_unreachable_engine_flags_the_lead_and_a_retry_goes_on(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__URL=nowhere()) as t:
        lead = await t.lead()
        for _ in range(3):
            await t.after(minutes=1)
        await t.expect(lead, "NEW_LEAD")
        assert await t.get(lead, "needs_review")
        [dead] = await t.dead(lead)
        assert dead["attempt"] == 3


STATE = "SELECT status || ': ' || coalesce(reason, '-') FROM messages WHERE lead_id = $1"


async def test_between_two_tries_a_message_is_scheduled_and_says_why(dsn: str) -> None:
    """Mutants: `_postponed` passes a Fail on as it is; `messages_rescheduled` also after `sending`."""
    async with scenario(dsn) as t:
        t.engines.on("sms", Refuses(503, retry_after_s=3600))
        lead = await t.lead()
        await t.eventually("SELECT reason IS NOT NULL FROM messages WHERE lead_id = $1", lead)
        assert await t.value(STATE, lead) == "scheduled: sms: HTTP 503: not today"
        assert await t.value("SELECT count(*) FROM tasks WHERE kind = 'message'") == 1
        await t.sql("INSERT INTO email_exclusions (address) SELECT phone FROM leads")
        assert (await t.value(STATE, lead)).startswith("cancelled: excluded")
        t.engines.well("sms")
        await t.after(hours=2)
        assert len(t.engines.requests("sms", lead=lead)) == 1


async def test_what_may_have_gone_out_is_not_scheduled_again(dsn: str) -> None:
    """Mutant: `_postponed` doesn't look at `unknown`."""
    async with scenario(dsn, ENGINES__SMS__IDEMPOTENT="true") as t:
        t.engines.on("sms", Drops(after_effect=False))
        lead = await t.lead()
        await t.eventually("SELECT EXISTS (SELECT FROM tasks WHERE error LIKE 'sms%')")
        assert await t.value(STATE, lead) == "sending: -"


async def test_a_message_whose_task_vanished_between_two_tries_is_found_by_the_sweep(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__IDEMPOTENT="true") as t:
        t.engines.on("sms", Drops(after_effect=False))
        lead = await t.lead()
        await t.eventually("SELECT EXISTS (SELECT FROM tasks WHERE error LIKE 'sms%')")
        await t.stop()
        await t.sql("DELETE FROM tasks")
        t.engines.well("sms")
        await t.start()
        await t.sweep()
        await t.until(lead, "AI_CONVERSATION")


# Checks of the data


@pytest.mark.parametrize(("columns", "issue"), [
    ({"name": None}, "missing_name"),
    ({"phone": None}, "missing_phone"),
    ({"stage": "RETRY_1", "data": {"offer_amount": 11, "estimated_market_value": 10}}, "offer_above_market_value"),
    ({"stage": "DUE_DILIGENCE", "data": {"bmv_score": -0.5}}, "negative_bmv_score"),
])  # fmt: skip
async def test_each_issue_of_the_data_is_told_once(dsn: str, columns: dict[str, Any], issue: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(**columns)
        await t.quiet()
        assert [e["metadata"]["issue"] for e in await t.events(lead, "data_issue")] == [issue]
        assert await t.get(lead, "needs_review")
        await t.sql("UPDATE leads SET email = 'a@b.test' WHERE id = $1", lead)
        await t.quiet()
        await t.sweep()
        assert len(await t.events(lead, "data_issue")) == 1


async def test_a_mended_issue_may_be_told_again(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DUE_DILIGENCE")
        for score in (-1, 5, -2):
            await t.tell(lead, bmv_score=score)
            await t.quiet()
        assert len(await t.events(lead, "data_issue")) == 2


async def test_a_lead_that_nobody_touches_for_a_month_is_told_once(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DUE_DILIGENCE")
        ended = await t.lead(stage="COMPLETED")
        await t.sql("UPDATE leads SET deadline_at = clock() + interval '1 year' WHERE id = $1", lead)
        await t.after(days=29)
        await t.daily_job()
        assert await t.events(lead, "data_issue") == []
        await t.after(days=1)
        await t.daily_job()
        told = "SELECT count(*) = 1 FROM pipeline_events WHERE lead_id = $1 AND metadata ->> 'issue' = 'no_update'"
        await t.eventually(told, lead)
        await t.daily_job()
        assert await t.value(told, lead)
        assert await t.events(ended, "data_issue") == []


async def test_the_daily_job_checks_leads_whose_data_nobody_changes(dsn: str) -> None:
    """The rows were there before the check: loaded with the triggers off, as a restore does."""
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DUE_DILIGENCE", data={"bmv_score": 1})
        await t.quiet()
        async with t.session() as other:
            await other.execute("SET session_replication_role = replica")
            await other.execute("UPDATE leads SET data = jsonb_build_object('bmv_score', -1) WHERE id = $1", lead)
        await t.daily_job()
        told = "SELECT count(*) = 1 FROM pipeline_events WHERE lead_id = $1 AND event_type = 'data_issue'"
        await t.eventually(told, lead, within_s=3)
