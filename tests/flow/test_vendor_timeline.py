"""Vendor leads by the clock: each stage on time, each message exactly once, however often anybody looks."""

import asyncpg
import pytest

from tests.support.daemon import COMPLETE, Timeline, scenario

GOLDEN = (
    (48, "VIDEO_SENT", "VIDEO"),
    (96, "RETRY_1", "RETRY_1"),
    (144, "RETRY_2", "RETRY_2"),
    (192, "RETRY_3", "RETRY_3"),
    (264, "DEAD_LEAD", None),
)
UP_TO_THE_OFFER = ("INITIAL_CONTACT", "OFFER")


async def test_an_unanswered_offer_is_followed_up_to_the_hour_each_message_once(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        stage, hours, sent = "OFFER_MADE", 0, list(UP_TO_THE_OFFER)
        for due, following, template in GOLDEN:
            await t.after(hours=due - 1 - hours)
            assert await t.sweep() == 0
            await t.expect(lead, stage)
            await t.expect_sent_in_all(lead, *sent)
            await t.after(hours=1)
            stage, hours = following, due
            sent += [template] if template else []
            await t.expect(lead, stage)
            assert await t.sweep() == 0
            if due == 144:
                await t.restart()
            await t.expect_sent_in_all(lead, *sent)
        assert await t.get(lead, "data ->> 'dead_reason'") == "No response after 3 retries"
        assert await t.path(lead) == [
            "NEW_LEAD",
            "AI_CONVERSATION",
            "DEAL_VALIDATION",
            "OFFER_MADE",
            *[g[1] for g in GOLDEN],
        ]
        assert len(await t.events(lead, "offer_timeout")) == 1
        await t.after(days=20)
        await t.expect_sent_in_all(lead, *sent)


async def test_restarts_and_sweeps_at_every_step_change_nothing(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        for _, stage, template in GOLDEN:
            await t.restart(hours=72 if stage == "DEAD_LEAD" else 48)
            await t.sweep()
            await t.restart()
            await t.sweep()
            await t.expect(lead, stage)
            if template:
                await t.expect_sent(lead, template)
        await t.expect_sent_in_all(lead, *UP_TO_THE_OFFER, "VIDEO", "RETRY_1", "RETRY_2", "RETRY_3")


async def test_a_daemon_that_was_away_for_a_month_takes_one_step_not_all(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        await t.restart(days=30)
        await t.expect(lead, "VIDEO_SENT")
        await t.expect_sent_in_all(lead, *UP_TO_THE_OFFER, "VIDEO")


async def test_two_daemons_on_one_database_do_everything_once(dsn: str) -> None:
    async with scenario(dsn) as t:
        await t.start()
        rows = "SELECT 'Ann', '+1555012' || n, $1 FROM generate_series(1000, 1099) n"
        await t.sql(f"INSERT INTO leads (name, phone, data) {rows}", dict(COMPLETE))
        await t.eventually("SELECT count(*) = 100 FROM leads WHERE stage = 'OFFER_MADE'")
        await t.quiet()
        await t.after(hours=48)
        assert await t.value("SELECT count(*) FROM leads WHERE stage = 'VIDEO_SENT' AND NOT needs_review") == 100
        for template in ("INITIAL_CONTACT", "VIDEO"):
            assert len(t.engines.requests("sms", template)) == 100
            assert t.engines.happened(template) == 100
        assert len(t.engines.requests("offers")) == 100
        assert len(t.engines.requests("validator")) == 100
        workers = await t.sql("SELECT DISTINCT worker FROM task_log")
        assert len(workers) == 2


@pytest.mark.parametrize(
    ("stage", "hours", "following"),
    [
        ("OFFER_MADE", 48, "VIDEO_SENT"),
        ("VIDEO_SENT", 48, "RETRY_1"),
        ("RETRY_1", 48, "RETRY_2"),
        ("RETRY_2", 48, "RETRY_3"),
        ("RETRY_3", 72, "DEAD_LEAD"),
        ("OFFER_REJECTED", 24, "DEAD_LEAD"),
        ("DEAL_VALIDATION", 24, None),
        ("OFFER_ACCEPTED", 7 * 24, None),
        ("INVESTOR_PACK_SENT", 7 * 24, None),
        ("INVESTOR_RESERVED", 7 * 24, None),
        ("DUE_DILIGENCE", 30 * 24, None),
    ],
)
async def test_an_import_gets_its_deadline_but_no_entry_action(
    dsn: str, stage: str, hours: int, following: str | None
) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage=stage, data=dict(COMPLETE))
        await t.quiet()
        await t.sweep()
        assert t.engines.asked == []
        assert await t.value(
            "SELECT deadline_at - stage_entered_at = make_interval(hours => $2) FROM leads WHERE id = $1", lead, hours
        )
        await t.after(hours=hours - 1)
        await t.expect(lead, stage)
        await t.after(hours=1)
        await t.expect(lead, following or stage)
        assert await t.get(lead, "needs_review") is (following is None)
        await t.after(hours=hours - 1)
        assert len(await t.events(lead, "flagged")) == (0 if following else 1)


@pytest.mark.parametrize("stage", ["DEAD_LEAD", "COMPLETED"])
async def test_an_import_at_the_end_stays_there(dsn: str, stage: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage=stage, data=dict(COMPLETE))
        await t.after(days=10)
        await t.expect(lead, stage)
        assert await t.get(lead, "deadline_at") is None
        assert t.engines.asked == []


async def test_whoever_rewrites_the_deadline_snoozes_the_lead(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        await t.after(hours=47)
        await t.sql("UPDATE leads SET deadline_at = clock() + interval '5 days' WHERE id = $1", lead)
        await t.after(hours=119)
        await t.expect(lead, "OFFER_MADE")
        await t.after(hours=1)
        await t.expect(lead, "VIDEO_SENT")


async def test_a_deadline_step_reads_the_column_again(dsn: str) -> None:
    """The step is queued already when somebody snoozes the lead."""
    async with scenario(dsn) as t:
        lead = await t.offered()
        async with t.session() as other:
            tx = other.transaction()
            await tx.start()
            await other.execute("UPDATE leads SET deadline_at = clock() + interval '9 days' WHERE id = $1", lead)
            await t.stop()
            await t.shift(hours=48)
            assert await t.value("SELECT fire_deadlines(10)") == 1
            await tx.commit()
        await t.start()
        await t.expect(lead, "OFFER_MADE")
        await t.expect_sent(lead, "VIDEO", times=0)
        await t.after(days=9)
        await t.expect(lead, "VIDEO_SENT")


async def test_the_whole_way_to_completion(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        await t.reply(lead, "Deal, where do I sign?", "acceptance")
        await t.expect(lead, "OFFER_ACCEPTED")
        assert await t.get(lead, "data ->> 'deal_id'") is not None
        for stage in ("INVESTOR_PACK_SENT", "INVESTOR_RESERVED", "DUE_DILIGENCE", "COMPLETED"):
            assert await t.value("SELECT request_transition($1, $2, 'pat', 'next')", lead, stage)
            await t.expect(lead, stage)
        assert len(await t.events(lead, "completed")) == 1
        assert await t.get(lead, "deadline_at") is None
        assert not await t.get(lead, "needs_review")
        await t.expect_sent_in_all(lead, *UP_TO_THE_OFFER)


# Moves


async def hint(t: Timeline, sql: str, *args: object) -> tuple[str, str]:
    try:
        await t.sql(sql, *args)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate), str(getattr(error, "hint", ""))
    return "accepted", ""


async def test_an_illegal_move_by_hand_is_refused_and_the_legal_ones_are_named(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        code, told = await hint(t, "UPDATE leads SET stage = 'COMPLETED' WHERE id = $1", lead)
        assert code == "PO001"
        for legal in ("OFFER_ACCEPTED", "OFFER_REJECTED", "VIDEO_SENT", "DEAD_LEAD"):
            assert legal in told
        assert (await hint(t, "UPDATE leads SET stage = 'NOWHERE' WHERE id = $1", lead))[0] == "PO001"
        assert (await hint(t, "UPDATE leads SET stage = NULL WHERE id = $1", lead))[0] != "accepted"
        assert (await hint(t, "INSERT INTO leads (stage) VALUES ('NOWHERE')"))[0] == "PO001"
        assert (await hint(t, "INSERT INTO leads (pipeline) VALUES ('none')"))[0] == "PO001"
        await t.expect(lead, "OFFER_MADE")


async def test_a_stage_refuses_a_lead_without_its_required_fields(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="AI_CONVERSATION", data={**COMPLETE, "condition": " "})
        await t.quiet()
        with pytest.raises(asyncpg.PostgresError, match="condition") as refusal:
            await t.sql("UPDATE leads SET stage = 'DEAL_VALIDATION' WHERE id = $1", lead)
        assert refusal.value.sqlstate == "PO002"
        await t.expect(lead, "AI_CONVERSATION")


async def test_an_impossible_wish_is_recorded_flagged_and_answered_false(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        assert await t.value("SELECT request_transition($1, 'COMPLETED', 'pat', 'hurry')", lead) is False
        [event] = await t.events(lead, "invalid_transition_attempt")
        assert (event["actor"], event["from_stage"], event["to_stage"]) == ("pat", "OFFER_MADE", "COMPLETED")
        assert await t.get(lead, "needs_review")
        await t.expect(lead, "OFFER_MADE")


async def test_a_wish_with_missing_fields_is_answered_false_and_says_which(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="AI_CONVERSATION", data={k: v for k, v in COMPLETE.items() if k != "bedrooms"})
        await t.quiet()
        before = len(await t.events(lead, "missing_fields"))
        assert await t.value("SELECT request_transition($1, 'DEAL_VALIDATION', 'pat', 'go')", lead) is False
        events = await t.events(lead, "missing_fields")
        assert len(events) == before + 1
        assert "bedrooms" in str(events[-1]["metadata"])
        await t.expect(lead, "AI_CONVERSATION")


async def test_a_legal_wish_moves_the_lead_and_acts(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        assert await t.value("SELECT request_transition($1, 'VIDEO_SENT', 'pat', 'impatient')", lead) is True
        await t.expect(lead, "VIDEO_SENT")
        await t.expect_sent(lead, "VIDEO")
        move = (await t.events(lead, "stage_change"))[-1]
        assert (move["actor"], move["metadata"]["reason"]) == ("pat", "impatient")


async def test_a_legal_move_by_hand_acts_and_names_its_author(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.offered()
        await t.sql("UPDATE leads SET stage = 'VIDEO_SENT' WHERE id = $1", lead)
        await t.expect_sent(lead, "VIDEO")
        assert await t.value(
            "SELECT actor = session_user FROM pipeline_events WHERE lead_id = $1 AND to_stage = 'VIDEO_SENT'", lead
        )
        assert await t.value(
            "SELECT deadline_at = stage_entered_at + interval '48 hours' FROM leads WHERE id = $1", lead
        )


async def test_an_override_reopens_a_dead_lead_and_acts_like_any_entry(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DEAD_LEAD")
        await t.quiet()
        await t.sql("SELECT override_stage($1, 'VIDEO_SENT', 'pat', 'she called')", lead)
        await t.expect(lead, "VIDEO_SENT")
        await t.expect_sent(lead, "VIDEO")
        [override] = await t.events(lead, "stage_override")
        assert (override["actor"], override["from_stage"], override["to_stage"]) == ("pat", "DEAD_LEAD", "VIDEO_SENT")
        assert len(await t.events(lead, "stage_change")) == 1
        await t.after(hours=48)
        await t.expect(lead, "RETRY_1")


async def test_an_override_skips_required_fields_for_that_one_move_only(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="OFFER_MADE")
        await t.quiet()
        await t.sql("SELECT override_stage($1, 'DEAL_VALIDATION', 'pat', 'value it again')", lead)
        await t.until(lead, "OFFER_MADE")
        await t.expect_sent(lead, "OFFER")
        assert len(t.engines.requests("validator")) == 1
        code, _ = await hint(t, "UPDATE leads SET stage = 'DEAL_VALIDATION' WHERE id = $1", lead)
        assert code == "PO001"


@pytest.mark.parametrize(("actor", "reason"), [("", "why"), ("pat", " "), (None, "why"), ("pat", None)])
async def test_an_override_needs_an_actor_and_a_reason(dsn: str, actor: str | None, reason: str | None) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DEAD_LEAD")
        code, _ = await hint(t, "SELECT override_stage($1, 'VIDEO_SENT', $2, $3)", lead, actor, reason)
        assert code not in ("accepted", "PO001")
        await t.expect(lead, "DEAD_LEAD")
