"""The gates before a lead's next step: each open or closed, with the reason that a person can read and act on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from handlers.facts import UNSENT, Facts, Row, at, deadline_does, named, titled
from handlers.messages import OWED_ANSWERS

SPENT = re.compile(r"the daily budget of engine (\w+) is spent")


@dataclass(frozen=True, slots=True)
class Gate:
    """What may hold a lead up; closed if it does."""

    name: str
    open: bool
    reason: str


def gates(f: Facts, now: datetime) -> tuple[Gate, ...]:
    """Every gate, in the order in which a step meets them."""
    return (
        _daemon(f),
        _stage(f, now),
        _review(f),
        _do_not_contact(f),
        _exclusion(f),
        _message(f, now),
        _engine_budget(f, now),
        _key_order(f, now),
        _lease(f),
        _lock(f),
        _deadline(f, now),
    )


def _daemon(f: Facts) -> Gate:
    if not f.alive:
        return Gate("daemon", False, "no daemon is running; start one: orchestrator run")
    seen = ", ".join(f"{place(d)}{'' if d['locked'] else ' (without a lock: nobody can tell)'}" for d in f.alive)
    return Gate("daemon", True, f"alive: {seen}")


def _stage(f: Facts, now: datetime) -> Gate:
    lead, stage = f.lead, f.stage
    if stage is None:
        return Gate("stage", False, f"{lead.pipeline}.{lead.stage} is declared nowhere; {how_to_move(f)}")
    if lead.row["archived_at"] is not None:
        said = f"archived {at(lead.row['archived_at'], now)}: no deadline, no sweep; {how_to_revive(f)}"
        return Gate("stage", False, said)
    if stage.terminal:
        return Gate("stage", False, f"{lead.stage} is terminal; {how_to_move(f)}")
    return Gate("stage", True, f"{lead.stage} may go to {f.targets}; {how_to_move(f)}")


def _review(f: Facts) -> Gate:
    if not f.lead.row["needs_review"]:
        return Gate("review", True, "not flagged")
    because = f.lead.row["review_reason"] or "no reason given"
    unflag = update_lead(f, "needs_review = false, review_reason = NULL")
    return Gate("review", True, f"flagged: {because} (this shows, and holds nothing); when resolved: {unflag}")


def _do_not_contact(f: Facts) -> Gate:
    if not f.lead.do_not_contact:
        return Gate("do_not_contact", True, "not set")
    undo = update_lead(f, "do_not_contact = false")
    return Gate("do_not_contact", False, f"set: no message goes out; only with the lead's consent: {undo}")


def _exclusion(f: Facts) -> Gate:
    if not f.exclusions:
        return Gate("exclusion", True, "none of its addresses is excluded")
    seen = ", ".join(f"{x['address']} ({x['reason']})" for x in f.exclusions)
    undo = f"DELETE FROM email_exclusions WHERE address = '{f.exclusions[0]['address']}'"
    return Gate("exclusion", False, f"excluded: {seen}; give it another address, or with its consent: {undo}")


def _message(f: Facts, now: datetime) -> Gate:
    held = [m for m in f.messages if _is_held(m, now)]
    if held:
        return Gate("message", False, "; ".join(_told(m, now) for m in held))
    under_way = ", ".join(f"{titled(m)} is {m['status']}" for m in f.messages)
    return Gate("message", True, under_way or "none is open")


def _is_held(message: Row, now: datetime) -> bool:
    if message["status"] == "scheduled":
        return message["send_at"] > now or message["reason"] is not None
    return message["status"] != "sending"


def _told(message: Row, now: datetime) -> str:
    because = f" ({message['reason']})" if message["reason"] else ""
    if message["status"] == "scheduled":
        sooner = f"sooner: UPDATE messages SET send_at = clock() WHERE id = '{message['id']}'"
        return f"{titled(message)} is scheduled for {at(message['send_at'], now)}{because}; {sooner}"
    again = "again" if message["status"] in UNSENT else "it"
    return f"{titled(message)} is {message['status']}{because}; to send {again}: {schedule(message)}"


def _engine_budget(f: Facts, now: datetime) -> Gate:
    for task in f.later(now):
        spent = SPENT.search(task["error"] or "")
        if spent:
            setting = f"ORCHESTRATOR_ENGINES__{spent[1].upper()}__DAILY_BUDGET"
            said = f"{spent[0]}: {named(task)} waits until {at(task['run_at'], now)}"
            return Gate("engine_budget", False, f"{said}; raise {setting}, then orchestrator tasks retry {task['id']}")
    return Gate("engine_budget", True, "no task waits for one")


def _key_order(f: Facts, now: datetime) -> Gate:
    behind = [(task, ahead) for task in f.due(now) if (ahead := f.ahead_of(task, now))]
    if not behind:
        return Gate("key_order", True, "no task waits for another")
    said = ", ".join(f"{named(task)} waits for {named(ahead)}" for task, ahead in behind)
    return Gate("key_order", False, f"{said}; drop one that isn't wanted: orchestrator tasks cancel ID")


def _lease(f: Facts) -> Gate:
    if not f.running:
        return Gate("lease", True, "no task runs")
    return Gate("lease", False, "; ".join(running(f, task) for task in f.running))


def _lock(f: Facts) -> Gate:
    if f.holder is None:
        return Gate("lock", True, "no other session is seen to hold its row")
    return Gate("lock", False, f"held by {holder(f)}; {how_to_free(f)}")


def _deadline(f: Facts, now: datetime) -> Gate:
    lead, does = f.lead, deadline_does(f, now)
    if f.stage is not None and not f.stage.deadlines:
        return Gate("deadline", True, f"{lead.stage} has none")
    put = update_lead(f, "deadline_at = clock() + interval '1 day'")
    if is_paused(f):
        return Gate("deadline", False, f"paused while we owe an answer; to go on: {put}")
    if lead.deadline_at is None:
        return Gate("deadline", False, f"every step of {lead.stage} is over, or it was cleared; to set one: {put}")
    what = f"{does[0]} ({does[1]})" if does else "nothing: no step is left"
    when = f"{at(lead.deadline_at, now)}: {what}"
    if f.holding is not None:
        return Gate("deadline", False, f"{when}; held by dead {named(f.holding)}; {retry_or_cancel(f.holding)}")
    return Gate("deadline", lead.row["archived_at"] is None, f"{when}; to put it off: {put}")


def is_paused(f: Facts) -> bool:
    """Whether the lead's silence doesn't count, because it waits for our answer."""
    owed = any(m["template"] in OWED_ANSWERS and m["status"] in ("scheduled", "sending", "failed", "unknown")
               for m in f.messages)  # fmt: skip
    return f.lead.deadline_at is None and owed


# -- words


def place(daemon: Row) -> str:
    """Where a daemon runs."""
    return f"{daemon['host']}:{daemon['pid']}"


def running(f: Facts, task: Row) -> str:
    """A running task: since when, where, until when."""
    daemon = f.daemon_of(task)
    where = f"on {place(daemon)}" if daemon else "on a daemon that is gone"
    calls = "".join(f", calling {c['engine']}{c['operation']}" for c in f.calls_of(task, "reserved"))
    since, until = at(task["started_at"], f.real_now), at(task["lease_expires_at"], f.real_now)
    return f"{named(task)} has been running since {since} {where}{calls}; its lease lasts until {until}"


def holder(f: Facts) -> str:
    """The session that holds the lead's row."""
    by = f.holder or {}
    who = " of ".join(str(by[n]) for n in ("application", "user") if by.get(n))
    since = f" since {at(by['since'], f.real_now)}" if by.get("since") else ""
    return f"another session (pid {by.get('pid')}{f', {who}' if who else ''}){since}"


def how_to_free(f: Facts) -> str:
    """How to get rid of that session's lock."""
    return (
        f"end its transaction (COMMIT or ROLLBACK there), or SELECT pg_terminate_backend({(f.holder or {}).get('pid')})"
    )


def update_lead(f: Facts, what: str) -> str:
    """The UPDATE of the lead."""
    return f"UPDATE leads SET {what} WHERE id = '{f.lead.id}'"


def schedule(message: Row) -> str:
    """The UPDATE that has a message sent."""
    return f"UPDATE messages SET status = 'scheduled' WHERE id = '{message['id']}'"


def retry_or_cancel(task: Row) -> str:
    """What becomes of a dead task is a person's to say."""
    return f"orchestrator tasks retry {task['id']}, or orchestrator tasks cancel {task['id']} to do without"


def how_to_move(f: Facts) -> str:
    """How a person moves the lead."""
    way = "STAGE" if f.targets else "STAGE --override"
    return f"to move it: orchestrator leads move {f.lead.id} {way} --reason WHY"


def how_to_revive(f: Facts) -> str:
    """How an archived lead comes back."""
    return f"to bring it back: {update_lead(f, 'archived_at = NULL')}, then orchestrator leads move with --override"
