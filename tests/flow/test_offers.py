"""What a vendor with an offer in its hands may say, at each of the five stages, and what follows."""

from typing import Any
from uuid import UUID

import pytest

from tests.support.daemon import Timeline, scenario
from tests.support.engines import Hangs, Refuses

OPEN_OFFER = ("OFFER_MADE", "VIDEO_SENT", "RETRY_1", "RETRY_2", "RETRY_3")
NEXT = dict(zip(OPEN_OFFER, (*OPEN_OFFER[1:], "DEAD_LEAD"), strict=True))
PATIENCE_H = {stage: 72 if stage == "RETRY_3" else 48 for stage in OPEN_OFFER}
at_each_stage = pytest.mark.parametrize("stage", OPEN_OFFER)


async def at(t: Timeline, stage: str, **columns: Any) -> UUID:
    lead = await t.lead(stage=stage, **columns)
    await t.quiet()
    return lead


async def overdue_in(t: Timeline, lead: UUID) -> float | None:
    """Hours until the lead's deadline, rounded; None: it has none."""
    hours = await t.value(
        "SELECT extract(epoch FROM deadline_at - clock())::float8 / 3600 FROM leads WHERE id = $1", lead
    )
    return None if hours is None else round(hours, 2)


@at_each_stage
async def test_a_yes_accepts_the_offer_and_creates_the_deal(dsn: str, stage: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, stage)
        reply = await t.reply(lead, "Fine, we have a deal", "acceptance")
        await t.expect(lead, "OFFER_ACCEPTED")
        data = await t.get(lead, "data")
        assert data["deal_id"].startswith("deal-")
        assert data["offer_accepted_at"]
        assert len(await t.events(lead, "offer_accepted")) == 1
        assert [a.operation for a in t.engines.requests("offers")] == ["/api/deals"]
        read = "(category, status, classified_by) = ('acceptance', 'routed', 'classifier')"
        assert await t.value(f"SELECT {read} FROM replies WHERE id = $1", reply)
        assert t.engines.requests("sms") == []


@at_each_stage
async def test_a_no_gives_a_person_a_day_and_then_ends(dsn: str, stage: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, stage)
        await t.reply(lead, "We'd rather keep the house", "rejection")
        await t.expect(lead, "OFFER_REJECTED")
        data = await t.get(lead, "data")
        assert "keep the house" in data["rejection_reason"]
        assert data["offer_rejected_at"]
        assert len(await t.events(lead, "offer_rejected")) == 1
        await t.after(hours=23)
        await t.expect(lead, "OFFER_REJECTED")
        await t.after(hours=1)
        await t.expect(lead, "DEAD_LEAD")
        assert t.engines.requests("sms") == []


@at_each_stage
@pytest.mark.parametrize(("category", "template"), [("counter", "COUNTER"), ("question", "QUESTION")])
async def test_the_deadline_is_paused_while_we_owe_an_answer(
    dsn: str, stage: str, category: str, template: str
) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, stage)
        await t.after(hours=40)
        t.engines.on("sms", Refuses(503, retry_after_s=100 * 3600), template=template, times=1)
        await t.reply(lead, "What about 170?", category)
        assert await t.get(lead, "deadline_at") is None
        await t.after(hours=99)
        await t.expect(lead, stage)
        await t.after(hours=1)
        await t.expect_sent(lead, template)
        assert t.engines.requests("sms", template)[-1].body["context"]["reply"]["body"] == "What about 170?"
        assert await overdue_in(t, lead) == PATIENCE_H[stage]
        await t.after(hours=PATIENCE_H[stage] - 1)
        await t.expect(lead, stage)
        await t.after(hours=1)
        await t.expect(lead, NEXT[stage])


@pytest.mark.parametrize("category", ["counter", "question"])
async def test_the_deadline_restarts_when_we_have_answered(dsn: str, category: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "VIDEO_SENT")
        await t.after(hours=40)
        await t.reply(lead, "Is it cash?", category)
        assert await overdue_in(t, lead) == 48
        await t.after(hours=47)
        await t.expect(lead, "VIDEO_SENT")
        await t.after(hours=1)
        await t.expect(lead, "RETRY_1")


async def test_an_answer_that_can_not_be_given_keeps_the_deadline_paused(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "OFFER_MADE")
        t.engines.on("sms", Refuses(400), template="COUNTER")
        await t.reply(lead, "170 and it's yours", "counter")
        assert await t.get(lead, "needs_review")
        await t.after(days=9)
        await t.expect(lead, "OFFER_MADE")
        t.engines.well("sms")
        await t.retry((await t.dead(lead))[0]["id"])
        await t.expect_sent(lead, "COUNTER")
        assert await overdue_in(t, lead) == 48


@pytest.mark.parametrize("failure", [Refuses(503, retry_after_s=100 * 3600), Refuses(400)], ids=["waits", "failed"])
async def test_another_word_while_we_owe_an_answer_keeps_the_deadline_paused(dsn: str, failure: Refuses) -> None:
    """Mutant: let `owes_answer` be false, and 48 h after its second word the lead gets a video instead of an answer."""
    async with scenario(dsn) as t:
        lead = await at(t, "OFFER_MADE")
        t.engines.on("sms", failure, template="QUESTION", times=1)
        await t.reply(lead, "Is it cash?", "question")
        await t.after(hours=20)
        await t.reply(lead, "Hello? Anybody there?", "unclear")
        assert await t.get(lead, "deadline_at") is None
        await t.after(hours=79)
        await t.expect(lead, "OFFER_MADE")
        await t.after(hours=1)
        for dead in await t.dead(lead):
            await t.retry(dead["id"])
        await t.expect_sent(lead, "QUESTION")
        assert await overdue_in(t, lead) == 48
        await t.after(hours=40)
        await t.reply(lead, "Let me think", "unclear")
        assert await overdue_in(t, lead) == 48


async def test_the_deadline_restarts_with_the_last_answer_that_we_owe(dsn: str) -> None:
    """Mutant: leave out `not letter.owes_more`, and it restarts with the counter-offer's."""
    async with scenario(dsn) as t:
        lead = await at(t, "OFFER_MADE")
        t.engines.on("sms", Refuses(503, retry_after_s=100 * 3600), template="QUESTION", times=1)
        await t.reply(lead, "Is it cash?", "question")
        await t.reply(lead, "And would you go to 170?", "counter")
        await t.expect_sent(lead, "COUNTER")
        assert await t.get(lead, "deadline_at") is None
        await t.after(hours=100)
        await t.expect_sent(lead, "QUESTION")
        assert await overdue_in(t, lead) == 48


async def test_two_questions_owe_two_answers(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "OFFER_MADE")
        slow = Hangs()
        t.engines.on("sms", slow, template="COUNTER")
        await t.reply(lead, "Is it cash?", "question")
        await t.say(lead, "And would you go to 170?", "counter")
        await slow.started.wait()
        assert await t.get(lead, "deadline_at") is None
        slow.release()
        await t.expect_sent(lead, "QUESTION")
        await t.expect_sent(lead, "COUNTER")
        assert await overdue_in(t, lead) == 48


@at_each_stage
@pytest.mark.parametrize("category", ["interested", "pricing", "referral", "unclear"])
async def test_what_is_no_clear_word_goes_to_a_person(dsn: str, stage: str, category: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, stage)
        reply = await t.reply(lead, "Hmm, tell me more about this", category)
        await t.expect(lead, stage)
        [request] = await t.requests_for_a_person(lead)
        assert request["checkpoint"] == "replies"
        assert await t.value("SELECT status FROM replies WHERE id = $1", reply) == "needs_person"
        assert await t.get(lead, "needs_review")
        assert t.engines.requests("sms") == []
        await t.sql("UPDATE approval_queue SET status = 'approved' WHERE id = $1", request["id"])
        await t.quiet()
        assert await t.value("SELECT status FROM replies WHERE id = $1", reply) == "routed"
        assert not await t.get(lead, "needs_review")
        assert len(await t.events(lead, "review_resolved")) == 1


async def test_a_lead_follows_the_offer_and_its_silence_counts_from_its_last_word(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "OFFER_MADE")
        await t.after(hours=40)
        await t.reply(lead, "Hmm", "unclear")
        assert await overdue_in(t, lead) == 48


async def test_an_offer_that_can_not_be_made_holds_the_deadline_until_a_person_retries(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("offers", Refuses(400))
        lead = await t.offered()
        [dead] = await t.dead(lead)
        assert await t.get(lead, "needs_review")
        assert await t.alerts(lead) == ["AGENT_FAILURE"]
        await t.after(hours=49)
        await t.sweep()
        await t.expect(lead, "OFFER_MADE")
        assert t.engines.requests("sms", "VIDEO") == []
        t.engines.well("offers")
        await t.retry(dead["id"])
        await t.expect_sent(lead, "OFFER")
        await t.after(hours=48)
        assert "VIDEO_SENT" in await t.path(lead)
        await t.expect_sent(lead, "VIDEO")


async def test_a_validation_that_died_holds_the_deadline_and_goes_on_after_a_retry(dsn: str) -> None:
    async with scenario(dsn) as t:
        t.engines.on("validator", Refuses(400))
        lead = await t.told_all("DEAL_VALIDATION")
        [dead] = await t.dead(lead)
        await t.after(hours=30)
        await t.sweep()
        await t.expect(lead, "DEAL_VALIDATION")
        assert len(await t.events(lead, "flagged")) == 1
        t.engines.well("validator")
        await t.retry(dead["id"])
        await t.expect(lead, "OFFER_MADE")
        await t.after(hours=48)
        await t.expect(lead, "VIDEO_SENT")
        await t.expect_sent_in_all(lead, "INITIAL_CONTACT", "OFFER", "VIDEO")


async def test_a_deal_that_can_not_be_created_flags_the_lead_and_a_retry_mends_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "RETRY_1")
        t.engines.on("offers", Refuses(409))
        await t.reply(lead, "Yes, done", "acceptance")
        await t.expect(lead, "OFFER_ACCEPTED")
        assert await t.get(lead, "needs_review")
        t.engines.well("offers")
        await t.retry((await t.dead(lead))[0]["id"])
        assert await t.get(lead, "data ->> 'deal_id'")


async def test_a_reminder_that_waits_for_the_engine_is_dropped_when_its_stage_is_left(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "OFFER_MADE")
        t.engines.on("sms", Refuses(503, retry_after_s=3600 * 60), template="VIDEO")
        await t.after(hours=48)
        await t.expect(lead, "VIDEO_SENT")
        await t.after(hours=48)
        await t.expect(lead, "RETRY_1")
        t.engines.well("sms")
        await t.after(hours=13)
        assert (await t.message(lead, "VIDEO"))["status"] == "cancelled"
        await t.expect_sent_in_all(lead, "RETRY_1")


async def test_the_retry_count_is_kept(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await at(t, "VIDEO_SENT")
        for count in (1, 2, 3):
            await t.after(hours=48)
            assert await t.get(lead, "(data -> 'retry_count')::int") == count
