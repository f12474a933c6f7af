"""Buying from vendors: the table of fifteen stages, then its handlers, to be read from top to bottom."""

from datetime import datetime
from typing import Any

from daemon.answers import Answered
from daemon.outcome import Outcome
from handlers.effects import Change, Effect, Effects, Event, Move, Send
from handlers.lead import Lead
from handlers.pipeline import (
    CALLS_AN_ENGINE,
    Attempt,
    FlagFor,
    GoTo,
    Inbound,
    Pipeline,
    Routed,
    Say,
    Stage,
    after,
    done,
)

DAY = 24
NEEDED = ("property_address", "property_postcode", "asking_price", "property_type", "bedrooms", "condition")
OPEN_OFFER = ("OFFER_MADE", "VIDEO_SENT", "RETRY_1", "RETRY_2", "RETRY_3")
RETRIES = {"RETRY_1": 1, "RETRY_2": 2, "RETRY_3": 3}


async def say_hello(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """The lead moves on once its first message is sent."""
    return done(_message(lead, "INITIAL_CONTACT", then_to="AI_CONVERSATION"), reason="new lead")


async def validate(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """Ask the validator; a pass makes an offer, a fail says so and ends."""
    answer = await attempt.call("validator", "/api/validate", lead, {"lead": lead.document()})
    if not isinstance(answer, Answered):
        return attempt.failed("validator", answer)
    passed = answer.result.get("passed")
    if not isinstance(passed, bool):
        return done(Change(lead.id, flag="the validator gave no verdict"), reason="no verdict")
    verdict: dict[str, Any] = {
        k: answer.result[k] for k in ("bmv_score", "estimated_market_value") if k in answer.result
    }
    facts = {"validation_passed": passed, **verdict}
    if passed:
        return done(Move.of(lead, "OFFER_MADE", "validation passed", facts), reason="validation passed")
    why = str(answer.result.get("reason") or "validation failed")
    return done(
        Change(lead.id, data={**facts, "dead_reason": why}),
        _message(lead, "REJECTION", then_to="DEAD_LEAD"),
        reason=why,
    )


async def make_offer(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """The offers engine contacts the seller itself, so the offer is a message and takes its road."""
    return done(_message(lead, "OFFER", channel="offer"), reason="offer due")


async def send_video(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """A first reminder."""
    return done(_message(lead, "VIDEO"), reason="offer unanswered")


async def send_retry(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """A further reminder, named after its stage."""
    return done(
        _message(lead, lead.stage), Change(lead.id, data={"retry_count": RETRIES[lead.stage]}), reason=lead.stage
    )


async def create_deal(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """The accepted offer becomes a deal."""
    answer = await attempt.call("offers", "/api/deals", lead, {"lead": lead.document()})
    if not isinstance(answer, Answered):
        return attempt.failed("offers", answer)
    deal = {"deal_id": answer.result.get("deal_id"), "offer_accepted_at": _entered(lead)}
    return done(Change(lead.id, data=deal), Event(lead.id, "offer_accepted", deal), reason="offer accepted")


async def note_rejection(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """When and why; a person has a day to step in."""
    why = lead.data.get("rejection_reason") or lead.row["move_reason"] or "rejected"
    facts = {"offer_rejected_at": _entered(lead), "rejection_reason": why}
    return done(Change(lead.id, data=facts), Event(lead.id, "offer_rejected", facts), reason=str(why))


async def celebrate(lead: Lead, attempt: Attempt) -> Outcome[Effects]:
    """The success event."""
    return done(Event(lead.id, "completed", {"deal_id": lead.data.get("deal_id")}), reason="completed")


def check(lead: Lead) -> list[str]:
    """What is wrong with the lead's figures."""
    issues = []
    offer, value, score = (_number(lead.data.get(f)) for f in ("offer_amount", "estimated_market_value", "bmv_score"))
    if offer is not None and value is not None and offer > value:
        issues.append("offer_above_market_value")
    if score is not None and score < 0:
        issues.append("negative_bmv_score")
    return issues


def on_reply(lead: Lead, reply: Inbound) -> Routed | None:
    """The vendor's words by stage; None: a person decides."""
    if lead.stage == "AI_CONVERSATION":
        return Routed((_answer(lead, reply, "CONVERSATION"),), "conversation")
    if lead.stage not in OPEN_OFFER:
        return None
    match reply.category:
        case "acceptance":
            return Routed(
                (
                    Move.of(
                        lead,
                        "OFFER_ACCEPTED",
                        "the vendor accepted",
                        else_flag="the vendor accepted, but had been moved meanwhile",
                    ),
                ),
                "offer accepted",
            )
        case "rejection":
            facts = {"rejection_reason": reply.body[:500]}
            return Routed(
                (
                    Move.of(
                        lead,
                        "OFFER_REJECTED",
                        "the vendor declined",
                        facts,
                        else_flag="the vendor declined, but had been moved meanwhile",
                    ),
                ),
                "offer rejected",
            )
        case "counter" | "question":
            # While we owe an answer, the lead's silence doesn't count.
            paused = Change(lead.id, lead.stage_seq, set_deadline=True)
            return Routed((paused, _answer(lead, reply, reply.category.upper())), f"{reply.category} to answer")
    return None


def _message(lead: Lead, template: str, *, channel: str = "sms", then_to: str | None = None) -> Effect:
    return Send(
        lead.id,
        template,
        f"lead:{lead.id}:{lead.stage_seq}:{template}",
        channel,
        stage_seq=lead.stage_seq,
        then_to=then_to,
    )


def _answer(lead: Lead, reply: Inbound, template: str) -> Effect:
    bound = None if template == "CONVERSATION" else lead.stage_seq
    return Send(
        lead.id, template, f"reply:{reply.id}:{template}", stage_seq=bound, context={"reply": dict(reply.document)}
    )


def _entered(lead: Lead) -> str:
    entered: datetime = lead.row["stage_entered_at"]
    return entered.isoformat()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


VENDOR = Pipeline(
    "vendor_acquisition",
    check=check,
    checked=("offer_amount", "estimated_market_value", "bmv_score"),
    on_reply=on_reply,
    refused="DEAD_LEAD",
    stages=(
        Stage("NEW_LEAD", ("AI_CONVERSATION", "DEAD_LEAD"), say_hello, sweep_step="new_leads"),
        Stage(
            "AI_CONVERSATION",
            ("DEAL_VALIDATION", "DEAD_LEAD"),
            counts_silence=True,
            on_complete="DEAL_VALIDATION",
            deadlines=(
                after(24, Say("CONVERSATION_FOLLOW_UP")),
                after(48, Say("CONVERSATION_FOLLOW_UP")),
                after(72, GoTo("DEAD_LEAD", "No response to follow-ups")),
            ),
        ),
        Stage(
            "DEAL_VALIDATION",
            ("OFFER_MADE", "DEAD_LEAD"),
            validate,
            CALLS_AN_ENGINE,
            required=NEEDED,
            deadlines=(after(24, FlagFor("no verdict for 24 h")),),
            sweep_step="validation_queue",
        ),
        Stage(
            "OFFER_MADE",
            ("OFFER_ACCEPTED", "OFFER_REJECTED", "VIDEO_SENT", "DEAD_LEAD"),
            make_offer,
            deadlines=(after(48, GoTo("VIDEO_SENT", "offer unanswered for 48 h", event="offer_timeout")),),
            sweep_step="offer_timeouts",
        ),
        Stage(
            "VIDEO_SENT",
            ("OFFER_ACCEPTED", "OFFER_REJECTED", "RETRY_1", "DEAD_LEAD"),
            send_video,
            deadlines=(after(48, GoTo("RETRY_1", "video unanswered for 48 h")),),
            sweep_step="offer_timeouts",
        ),
        Stage(
            "RETRY_1",
            ("OFFER_ACCEPTED", "OFFER_REJECTED", "RETRY_2", "DEAD_LEAD"),
            send_retry,
            deadlines=(after(48, GoTo("RETRY_2", "first reminder unanswered for 48 h")),),
            sweep_step="retry_stages",
        ),
        Stage(
            "RETRY_2",
            ("OFFER_ACCEPTED", "OFFER_REJECTED", "RETRY_3", "DEAD_LEAD"),
            send_retry,
            deadlines=(after(48, GoTo("RETRY_3", "second reminder unanswered for 48 h")),),
            sweep_step="retry_stages",
        ),
        Stage(
            "RETRY_3",
            ("OFFER_ACCEPTED", "OFFER_REJECTED", "DEAD_LEAD"),
            send_retry,
            deadlines=(after(72, GoTo("DEAD_LEAD", "No response after 3 retries")),),
            sweep_step="retry_stages",
        ),
        Stage(
            "OFFER_ACCEPTED",
            ("INVESTOR_PACK_SENT", "DUE_DILIGENCE", "DEAD_LEAD"),
            create_deal,
            CALLS_AN_ENGINE,
            deadlines=(after(7 * DAY, FlagFor("accepted 7 days ago")),),
            sweep_step="offer_timeouts",
        ),
        Stage(
            "OFFER_REJECTED",
            ("DEAD_LEAD",),
            note_rejection,
            deadlines=(after(24, GoTo("DEAD_LEAD", "offer rejected")),),
            sweep_step="offer_timeouts",
        ),
        Stage(
            "INVESTOR_PACK_SENT",
            ("INVESTOR_RESERVED", "DEAD_LEAD"),
            deadlines=(after(7 * DAY, FlagFor("no investor for 7 days")),),
            sweep_step="offer_timeouts",
        ),
        Stage(
            "INVESTOR_RESERVED",
            ("DUE_DILIGENCE", "DEAD_LEAD"),
            deadlines=(after(7 * DAY, FlagFor("reserved 7 days ago")),),
            sweep_step="offer_timeouts",
        ),
        Stage(
            "DUE_DILIGENCE",
            ("COMPLETED", "DEAD_LEAD"),
            deadlines=(after(30 * DAY, FlagFor("in due diligence for 30 days")),),
            sweep_step="offer_timeouts",
        ),
        Stage("DEAD_LEAD"),
        Stage("COMPLETED", on_entry=celebrate),
    ),
)
