"""Why nothing happens with a lead: facts in, the first thing that a person should know out."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from handlers.explain import Explanation, Step, explain
from handlers.facts import Facts, at
from handlers.gates import Gate
from handlers.lead import Lead
from handlers.remedies import pasted
from handlers.vendor_acquisition import VENDOR

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
LEAD = UUID("11111111-1111-4111-8111-111111111111")
MESSAGE = UUID("22222222-2222-4222-8222-222222222222")
REPLY = UUID("33333333-3333-4333-8333-333333333333")
REQUEST = UUID("44444444-4444-4444-8444-444444444444")
WORKER = UUID("55555555-5555-4555-8555-555555555555")
KINDS = frozenset({"message", "lead.check", "lead.deadline", "reply", "vendor_acquisition.NEW_LEAD", "reply.route"})
COMPLETE = {"property_address": "1 Mill Lane", "property_postcode": "LS1", "asking_price": 1, "property_type": "flat",
            "bedrooms": 0, "condition": "fair"}  # fmt: skip
ALIVE = {"id": str(WORKER), "host": "vps", "pid": 7, "expects_lock": True, "locked": True}
GONE = {**ALIVE, "locked": False}
PSQL = {"pid": 99, "application": "psql", "user": "ann", "since": NOW - timedelta(minutes=5)}


def hours(n: float) -> datetime:
    return NOW + timedelta(hours=n)


def lead(stage: str = "OFFER_MADE", **columns: Any) -> Lead:
    row = {"id": LEAD, "pipeline": "vendor_acquisition", "stage": stage, "stage_seq": 3, "data": {}, "phone": "+1415",
           "name": "Ann", "needs_review": False, "review_reason": None, "do_not_contact": False, "nurture_until": None,
           "deadline_at": None, "deadline_step": 0, "archived_at": None, "entry_pending": False}  # fmt: skip
    return Lead({**row, **columns})


def task(number: int = 42, status: str = "available", kind: str = "message", **columns: Any) -> Mapping[str, Any]:
    payload = {"lead_id": str(LEAD), "stage_seq": 3}
    if kind == "message":
        payload |= {"message_id": str(MESSAGE), "template": "VIDEO"}
    row = {"id": number, "kind": kind, "key": f"lead:{LEAD}", "payload": payload, "status": status, "run_at": NOW,
           "attempt": 0, "max_attempts": 3, "interruptions": 0, "round": 0, "error": None, "worker": None,
           "started_at": hours(-1), "lease_expires_at": NOW + timedelta(seconds=30)}  # fmt: skip
    return {**row, **columns}


def message(status: str = "scheduled", **columns: Any) -> Mapping[str, Any]:
    row = {"id": MESSAGE, "template": "VIDEO", "channel": "sms", "status": status, "reason": None, "send_at": NOW,
           "stage_seq": 3, "then_to": None, "to_address": None}  # fmt: skip
    return {**row, **columns}


def facts(of: Lead | None = None, **more: Any) -> Facts:
    return Facts(of or lead(), VENDOR, KINDS, NOW, **{"daemons": [ALIVE], **more})


def gate(explanation: Explanation, name: str) -> Gate:
    [found] = [g for g in explanation.gates if g.name == name]
    return found


DEAD = task(status="dead", error="engine sms answered 400")
NO_PHONE = task(status="dead", error="no usable address: the lead has none")
CALL = {
    "task_id": 42,
    "round": 0,
    "status": "unknown",
    "engine": "sms",
    "operation": "/api/send",
    "idempotency_key": "lead:1:VIDEO",
}
BUDGET = task(run_at=hours(12), error="the daily budget of engine sms is spent")
RUNNING = task(status="running", worker=WORKER)
NEEDS_PERSON = {"id": REPLY, "status": "needs_person", "reason": "unclear at OFFER_MADE"}
ASKED = {"id": REQUEST, "title": "Reply from +1415: unclear", "payload": {"reply": {"id": str(REPLY)}}}

SITUATIONS: dict[str, tuple[Facts, tuple[str, ...]]] = {
    "waits for its deadline": (
        facts(lead(deadline_at=hours(20))),
        ("lead's word", "2026-03-03 08:00:00 UTC (in 20 h)", "move it to VIDEO_SENT", "SET deadline_at"),
    ),
    "waits for a nurtured one": (
        facts(lead(deadline_at=hours(20), nurture_until=hours(20))),
        ("send CONVERSATION_FOLLOW_UP", "nurtured long enough"),
    ),
    "waits to be flagged": (
        facts(lead("INVESTOR_PACK_SENT", deadline_at=hours(100))),
        ("in 4 d", "flag it for review", "no investor"),
    ),
    "a follow-up comes next": (
        facts(lead("AI_CONVERSATION", deadline_at=hours(1), deadline_step=1)),
        ("send CONVERSATION_FOLLOW_UP", "step 2 of 3"),
    ),
    "no daemon": (facts(lead(deadline_at=hours(1)), daemons=[GONE]), ("No daemon is running", "orchestrator run")),
    "no daemon in a sandbox": (
        facts(lead(deadline_at=hours(1)), daemons=[GONE], sandboxed=True),
        ("No daemon is running", "start one: orchestrator run --sandbox."),
    ),
    "never a daemon": (facts(tasks=[task()], daemons=[]), ("No daemon is running", "orchestrator run")),
    "held by psql": (
        facts(lead(deadline_at=hours(1)), tasks=[RUNNING], holder=PSQL),
        ("pid 99, psql of ann", "5 min ago", "pg_terminate_backend(99)", "ROLLBACK"),
    ),
    "held by a session that hides": (
        facts(holder={"pid": 99, "application": None, "user": None, "since": None}),
        ("(pid 99)",),
    ),
    "being worked on": (
        facts(tasks=[RUNNING], calls=[{**CALL, "status": "reserved"}]),
        ("Task 42 (message VIDEO) has been running", "60 min ago", "on vps:7", "calling sms /api/send", "in 30 s"),
    ),
    "its daemon is gone": (
        facts(tasks=[{**RUNNING, "worker": MESSAGE}]),
        ("on a daemon that is gone", "takes it over"),
    ),
    "its daemon is gone and no other is there": (facts(tasks=[RUNNING], daemons=[GONE]), ("orchestrator run",)),
    "stuck by a dead task": (
        facts(lead(deadline_at=hours(-1)), tasks=[DEAD]),
        ("Task 42 (message VIDEO) is dead: engine sms answered 400", "tasks retry 42", "tasks cancel 42"),
    ),
    "no phone": (
        facts(lead(needs_review=True, phone=None), tasks=[NO_PHONE], messages=[message("failed")]),
        ("no usable address", f"UPDATE orchestrator.leads SET phone = '+…' WHERE id = '{LEAD}'", "sent by itself"),
    ),
    "no phone, not flagged": (
        facts(tasks=[NO_PHONE], messages=[message("failed")]),
        ("SET phone = '+…'", "then orchestrator tasks retry 42"),
    ),
    "no email": (
        facts(lead(needs_review=True), tasks=[NO_PHONE], messages=[message("failed", channel="email")]),
        ("SET email", "then orchestrator tasks retry 42"),
    ),
    "outcome unknown": (
        facts(tasks=[task(status="dead", error="cut")], calls=[CALL], messages=[message("unknown")]),
        ("is dead: cut", "ask sms whether it knows the key lead:1:VIDEO", "tasks retry 42", "a new call"),
    ),
    "due": (facts(tasks=[task()]), ("Task 42 (message VIDEO) is due", "at once")),
    "due, but it ended its daemons": (facts(tasks=[task(interruptions=3)]), ("runs alone",)),
    "of an unknown kind": (facts(tasks=[task(kind="of_the_future")]), ("doesn't know", "tasks cancel 42")),
    "the deadline has just passed": (facts(lead(deadline_at=hours(-1))), ("just passed", "within a second")),
    "a person decides": (
        facts(lead(deadline_at=hours(9)), approvals=[ASKED], replies=[NEEDS_PERSON]),
        ("Reply from +1415: unclear", f"SET status = 'approved' WHERE id = '{REQUEST}'"),
    ),
    "a person answers": (facts(replies=[NEEDS_PERSON]), (f"answer reply {REPLY}", "unclear", "SET status = 'routed'")),
    "a draft": (facts(messages=[message("draft")]), ("VIDEO is draft", "SET status = 'scheduled'", "'cancelled'")),
    "do not contact": (
        facts(
            lead("NEW_LEAD", do_not_contact=True),
            messages=[message("suppressed", reason="do not contact", then_to="AI_CONVERSATION")],
        ),
        ("VIDEO is suppressed (do not contact)", "goes on to AI_CONVERSATION", "leads move"),
    ),
    "the first message was dropped": (
        facts(lead("NEW_LEAD"), messages=[message("cancelled", then_to="AI_CONVERSATION")]),
        ("VIDEO is cancelled", "leads move"),
    ),
    "snoozed": (
        facts(lead(deadline_at=hours(40)), tasks=[task(run_at=hours(9), error="quiet hours")], messages=[message()]),
        ("waits until 2026-03-02 21:00:00 UTC (in 9 h): quiet hours", "tasks retry 42"),
    ),
    "tried again later": (
        facts(tasks=[task(run_at=NOW + timedelta(seconds=4), error="502", attempt=2)]),
        ("in 4 s", "502 (2 of 3 tries used)"),
    ),
    "the budget is spent": (facts(tasks=[BUDGET]), ("the daily budget of engine sms is spent", "in 12 h")),
    "a task is missing": (
        facts(lead("NEW_LEAD", entry_pending=True), next_sweep=hours(0.2)),
        ("run the entry action of NEW_LEAD", "sweep", "in 12 min"),
    ),
    "a task is missing and nobody sweeps": (
        facts(messages=[message(send_at=hours(-1))]),
        ("send VIDEO", "sweep is off"),
    ),
    "a reply without its task": (
        facts(replies=[{"id": REPLY, "status": "received"}], next_sweep=NOW),
        (f"read reply {REPLY}",),
    ),
    "we owe an answer": (
        facts(messages=[message(template="QUESTION")], tasks=[task(run_at=hours(1), error="not yet")]),
        ("task 42", "not yet"),
    ),
    "nobody queued anything": (
        facts(lead("INVESTOR_PACK_SENT", deadline_step=1, needs_review=True, review_reason="no investor")),
        ("nothing is queued", "flagged: no investor", "INVESTOR_RESERVED, DEAD_LEAD"),
    ),
    "only its data is missing": (
        facts(lead("AI_CONVERSATION", data={**COMPLETE, "condition": " "}, deadline_step=3)),
        ("go on to DEAL_VALIDATION: condition", "SET data = data ||"),
    ),
    "its data is complete, but nobody looks": (
        facts(lead("AI_CONVERSATION", data=COMPLETE)),
        ("complete", "no check is queued", f"enqueue('lead.check', jsonb_build_object('lead_id', '{LEAD}'::text)"),
    ),
    "at its end": (facts(lead("COMPLETED")), ("COMPLETED is terminal", "--override")),
    "archived": (facts(lead("DEAD_LEAD", archived_at=hours(-50))), ("archived", "50 h ago", "archived_at = NULL")),
    "declared nowhere": (replace(facts(lead("LIMBO")), pipeline=None), ("vendor_acquisition.LIMBO", "nowhere")),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_summary_is_what_a_person_should_know_first(situation: str) -> None:
    known, words = SITUATIONS[situation]
    said = explain(known, NOW).summary
    lowered = said.lower()
    assert all(word.lower() in lowered for word in words), said


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_statement_says_what_to_do(situation: str) -> None:
    explanation = explain(SITUATIONS[situation][0], NOW)
    assert explanation.waiting_for
    assert all(wait.what and wait.do for wait in explanation.waiting_for)
    assert all(g.reason for g in explanation.gates)
    assert len({g.name for g in explanation.gates}) == len(explanation.gates) == 12
    assert explanation.document().keys() == {"lead_id", "stage", "summary", "next", "gates", "waiting_for"}


CLOSED: dict[str, tuple[str, Facts, str]] = {
    "daemon": ("daemon", facts(daemons=[]), "orchestrator run"),
    "stage: terminal": ("stage", facts(lead("DEAD_LEAD")), "DEAD_LEAD is terminal"),
    "stage: archived": ("stage", facts(lead(archived_at=NOW)), "archived_at = NULL"),
    "stage: unknown": ("stage", facts(lead("LIMBO")), "declared nowhere"),
    "do_not_contact": ("do_not_contact", facts(lead(do_not_contact=True)), "do_not_contact = false"),
    "exclusion": (
        "exclusion",
        facts(exclusions=[{"address": "o'neill@example.org", "reason": "opt_out"}]),
        "address = 'o''neill@example.org'",
    ),
    "message: to come": ("message", facts(messages=[message(send_at=hours(3))]), "in 3 h"),
    "message: says why": ("message", facts(messages=[message(reason="outside the window")]), "outside the window"),
    "message: suppressed": ("message", facts(messages=[message("suppressed", reason="excluded: bounce")]), "excluded"),
    "engine_budget": ("engine_budget", facts(tasks=[BUDGET]), "ORCHESTRATOR_ENGINES__SMS__DAILY_BUDGET"),
    "key_order: due": ("key_order", facts(tasks=[task(7, kind="lead.check"), task(42)]), "waits for task 7"),
    "key_order: running": ("key_order", facts(tasks=[task(7), RUNNING]), "(message VIDEO) waits for task 42"),
    "lease": ("lease", facts(tasks=[RUNNING]), "lease lasts until"),
    "lock": ("lock", facts(holder=PSQL), "pg_terminate_backend(99)"),
    "deadline: held": ("deadline", facts(lead(deadline_at=hours(1)), tasks=[DEAD]), "held by dead task 42"),
    "deadline: paused": ("deadline", facts(messages=[message(template="COUNTER")]), "paused"),
    "deadline: over": ("deadline", facts(lead(deadline_step=1)), "every step"),
    "deadline: archived": ("deadline", facts(lead(deadline_at=hours(1), archived_at=NOW)), "VIDEO_SENT"),
}  # fmt: skip


@pytest.mark.parametrize("case", CLOSED)
def test_a_gate_that_holds_it_up_is_closed_and_says_why(case: str) -> None:
    name, known, word = CLOSED[case]
    found = gate(explain(known, NOW), name)
    assert not found.open
    assert word in found.reason


def test_without_anything_in_the_way_every_gate_is_open() -> None:
    explanation = explain(facts(lead(deadline_at=hours(1), needs_review=True)), NOW)
    assert [g.name for g in explanation.gates if not g.open] == []
    assert "holds nothing" in gate(explanation, "review").reason


def test_a_task_of_the_future_holds_nobody_back() -> None:
    explanation = explain(facts(tasks=[task(7, run_at=hours(1)), task(42)]), NOW)
    assert gate(explanation, "key_order").open
    assert explanation.summary.startswith("Task 42")


def test_a_dead_task_of_another_stage_entry_holds_no_deadline() -> None:
    old = {**DEAD, "payload": {**DEAD["payload"], "stage_seq": 2}}
    explanation = explain(facts(lead(deadline_at=hours(1)), tasks=[old]), NOW)
    assert gate(explanation, "deadline").open
    assert Step("move it to VIDEO_SENT", hours(1), "offer unanswered for 48 h") in explanation.next


def test_a_call_of_an_earlier_round_is_history() -> None:
    again = task(status="dead", error="engine sms answered 400", round=1)
    [wait] = explain(facts(tasks=[again], calls=[CALL]), NOW).waiting_for
    assert "tasks retry 42" in wait.do
    assert "ask sms" not in wait.do


def test_a_held_deadline_has_no_time() -> None:
    [step] = explain(facts(lead(deadline_at=hours(1)), tasks=[DEAD]), NOW).next
    assert (step.what, step.when) == ("move it to VIDEO_SENT", None)
    assert "dead task 42" in step.why


def test_what_comes_next_is_in_order_of_time() -> None:
    first = message("scheduled", send_at=hours(2), then_to="AI_CONVERSATION")
    known = facts(
        lead("AI_CONVERSATION", deadline_at=hours(1)),
        tasks=[task(run_at=hours(2)), task(43, kind="lead.check")],
        messages=[first],
    )
    steps = explain(known, NOW).next
    assert [(s.what, s.when) for s in steps] == [
        ("check its data", NOW),
        ("send CONVERSATION_FOLLOW_UP", hours(1)),
        ("send VIDEO by sms, then move it to AI_CONVERSATION", hours(2)),
        ("move it to DEAL_VALIDATION", None),
    ]


def test_a_reply_that_somebody_is_asked_about_is_told_once() -> None:
    explanation = explain(facts(approvals=[ASKED], replies=[NEEDS_PERSON]), NOW)
    assert len(explanation.waiting_for) == 1


def test_a_deadline_that_is_snoozed_for_ever() -> None:
    never = datetime.max.replace(tzinfo=UTC)
    assert "never" in explain(facts(lead(deadline_at=never)), NOW).summary


@pytest.mark.parametrize(("away", "words"), [(-1, "1 s ago"), (119, "in 119 s"), (120, "in 2 min"), (7200, "in 2 h"),
                                             (72 * 3600, "in 3 d")])  # fmt: skip
def test_a_time_says_how_far_away_it_is(away: int, words: str) -> None:
    assert at(NOW + timedelta(seconds=away), NOW).endswith(f"UTC ({words})")


def test_what_is_pasted_is_quoted() -> None:
    assert pasted("UPDATE t SET a = $2\nWHERE id = $1", 5, "it's") == "UPDATE t SET a = 'it''s' WHERE id = 5"
