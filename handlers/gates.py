"""The gates before a lead's next step: each open or closed, with a reason that a person can read and act on."""

import re
from dataclasses import dataclass
from datetime import datetime

from handlers import remedies
from handlers.facts import UNSENT, Facts, Row, at, deadline_does, holder, named, place, running, titled
from handlers.remedies import SQL, pasted

SPENT = re.compile(r"the daily budget of engine (\w+) is spent")


@dataclass(frozen=True, slots=True)
class Gate:
    """What may hold a lead up; closed if it does."""

    name: str
    open: bool
    reason: str


def gates(f: Facts, now: datetime) -> tuple[Gate, ...]:
    """Every gate there is."""
    return (
        *(_daemon(f), _stage(f, now), _review(f), _do_not_contact(f), _exclusion(f)),
        *(_sending(f, now), _message(f, now)),
        *(_engine_budget(f, now), _key_order(f, now), _lease(f), _lock(f), _deadline(f, now)),
    )


def _daemon(f: Facts) -> Gate:
    if not f.alive:
        return Gate("daemon", False, f"no daemon is running; start one: {remedies.run(f)}")
    seen = ", ".join(f"{place(d)}{'' if d['locked'] else ' (without a lock: nobody can tell)'}" for d in f.alive)
    return Gate("daemon", True, f"alive: {seen}")


def _stage(f: Facts, now: datetime) -> Gate:
    lead, stage, archived = f.lead, f.stage, f.lead.row["archived_at"]
    if stage is None:
        return Gate("stage", False, f"{lead.pipeline}.{lead.stage} is declared nowhere; {remedies.move(f)}")
    if archived is not None:
        return Gate("stage", False, f"archived {at(archived, now)}: no deadline, no sweep; {remedies.revive(f)}")
    if stage.terminal:
        return Gate("stage", False, f"{lead.stage} is terminal; to move it all the same: {remedies.move(f)}")
    return Gate("stage", True, f"{lead.stage} may go to {f.targets}; by hand: {remedies.move(f)}")


def _review(f: Facts) -> Gate:
    if not f.lead.row["needs_review"]:
        return Gate("review", True, "not flagged")
    because = f.lead.row["review_reason"] or "no reason given"
    resolve = pasted(SQL["resolve_review"], f.lead.id)
    return Gate("review", True, f"flagged: {because}; this shows, and holds nothing; when resolved: {resolve}")


def _do_not_contact(f: Facts) -> Gate:
    if not f.lead.do_not_contact:
        return Gate("do_not_contact", True, "not set")
    allow = pasted(SQL["allow_contact"], f.lead.id)
    return Gate("do_not_contact", False, f"set: no message goes out; with the lead's consent alone: {allow}")


def _exclusion(f: Facts) -> Gate:
    if not f.exclusions:
        return Gate("exclusion", True, "none of its addresses is excluded")
    seen = ", ".join(f"{x['address']} ({x['reason']})" for x in f.exclusions)
    lift = pasted(SQL["lift_exclusion"], f.exclusions[0]["address"])
    return Gate("exclusion", False, f"excluded: {seen}; with the lead's consent alone: {lift}")


def _sending(f: Facts, now: datetime) -> Gate:
    stop = f.sending
    if stop is None:
        return Gate("sending", True, "not stopped")
    said = f"stopped by {stop['stopped_by']}, {at(stop['stopped_at'], now)}: {stop['reason']}"
    return Gate("sending", False, f"{said}; no message goes out; to go on: {remedies.RESUME}")


def _message(f: Facts, now: datetime) -> Gate:
    held = [m for m in f.messages if _is_held(m, now)]
    if held:
        return Gate("message", False, "; ".join(_told(f, m, now) for m in held))
    under_way = ", ".join(f"{titled(m)} is {m['status']}" for m in f.messages)
    return Gate("message", True, under_way or "none is open")


def _is_held(message: Row, now: datetime) -> bool:
    if message["status"] == "scheduled":
        return message["send_at"] > now or message["reason"] is not None
    return message["status"] != "sending"


def _told(f: Facts, message: Row, now: datetime) -> str:
    because = f" ({message['reason']})" if message["reason"] else ""
    if message["status"] == "scheduled":
        due = message["send_at"] <= now
        sooner = remedies.RESUME if f.sending and due else pasted(SQL["send_message_now"], message["id"])
        return f"{titled(message)} is scheduled for {at(message['send_at'], now)}{because}; sooner: {sooner}"
    after_all = "after all" if message["status"] in UNSENT else "it"
    return f"{titled(message)} is {message['status']}{because}; to send {after_all}: {remedies.send(message)}"


def _engine_budget(f: Facts, now: datetime) -> Gate:
    for task in f.later(now):
        spent = SPENT.search(task["error"] or "")
        if spent:
            said = f"{spent[0]}: {named(task)} waits until {at(task['run_at'], now)}"
            return Gate("engine_budget", False, f"{said}; {remedies.raise_budget(spent[1], task)}")
    return Gate("engine_budget", True, "no task waits for one")


def _key_order(f: Facts, now: datetime) -> Gate:
    behind = [(task, ahead) for task in f.due(now) if (ahead := f.ahead_of(task, now))]
    if not behind:
        return Gate("key_order", True, "no task waits for another")
    said = ", ".join(f"{named(task)} waits for {named(ahead)}" for task, ahead in behind)
    return Gate("key_order", False, f"{said}; to drop one that isn't wanted: orchestrator tasks cancel ID")


def _lease(f: Facts) -> Gate:
    if not f.running:
        return Gate("lease", True, "no task runs")
    return Gate("lease", False, "; ".join(f"{running(f, t)}; {remedies.ending(f, t)}" for t in f.running))


def _lock(f: Facts) -> Gate:
    if f.holder is None:
        return Gate("lock", True, "no other session is seen to hold its row")
    return Gate("lock", False, f"held by {holder(f)}; {remedies.free_row(f)}")


def _deadline(f: Facts, now: datetime) -> Gate:
    lead, does, put = f.lead, deadline_does(f), remedies.snooze(f)
    if f.paused:
        return Gate("deadline", False, f"paused while we owe an answer; to go on: {put}")
    if lead.deadline_at is None:
        over = bool(f.stage and f.stage.deadlines)
        said = f"every step of {lead.stage} is over, or it was cleared" if over else f"{lead.stage} has none"
        return Gate("deadline", not over, f"{said}; to set one: {put}" if over else said)
    when = f"{at(lead.deadline_at, now)}: {f'{does[0]} ({does[1]})' if does else 'nothing, no step is left'}"
    if f.holding is not None:
        said = f"{when}; held by dead {named(f.holding)}; {remedies.for_dead(f, f.holding)}"
        return Gate("deadline", False, said)
    return Gate("deadline", lead.row["archived_at"] is None, f"{when}; to put it off: {put}")
