"""Why is nothing (more) happening with this lead, and what happens next?

Facts in, sentences out: pure, but for `ask`, which reads one snapshot and changes nothing. What the lead waits for is
put in the order in which a person should look at it; the first of it is the summary.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from daemon.db import Connection
from handlers import facts, gates, remedies
from handlers.facts import UNSENT, Facts, Row, at, holder, named, running, titled
from handlers.gates import Gate
from handlers.pipeline import Pipeline
from handlers.remedies import BY_ITSELF, SQL, pasted

SET_ASIDE = timedelta(days=18_000)
"""What is due later than that waits for a daemon that knows its kind, not for a time."""
DOES = {
    "lead.deadline": "act on its deadline",
    "lead.check": "check its data",
    "reply": "read its reply",
    "reply.farewell": "note that it wants no more contact",
    "reply.classify": "classify its reply",
    "reply.route": "act on its reply",
    "approval": "act on a person's decision",
}


@dataclass(frozen=True, slots=True)
class Wait:
    """What the lead waits for, and what a person can do about it."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Step:
    """What happens next by itself; `when` None: not at a time, but when `why` comes true."""

    what: str
    when: datetime | None
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer: one sentence, the coming steps, every gate, and what is waited for."""

    lead_id: UUID
    stage: str
    summary: str
    next: tuple[Step, ...]
    gates: tuple[Gate, ...]
    waiting_for: tuple[Wait, ...]

    def document(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            "lead_id": str(self.lead_id),
            "stage": self.stage,
            "summary": self.summary,
            "next": [{"what": s.what, "when": s.when and s.when.isoformat(), "why": s.why} for s in self.next],
            "gates": [{"name": g.name, "open": g.open, "reason": g.reason} for g in self.gates],
            "waiting_for": [{"what": w.what, "do": w.do} for w in self.waiting_for],
        }


async def ask(
    conn: Connection, lead_id: UUID, pipelines: Mapping[str, Pipeline], kinds: frozenset[str]
) -> Explanation | None:
    """The explanation of a lead, read in one statement; None if there is no such lead."""
    known = await facts.load(conn, lead_id, pipelines, kinds)
    return explain(*known) if known else None


def explain(f: Facts, now: datetime) -> Explanation:
    """What the facts come to at that business time."""
    waits = tuple(_waits(f, now))
    first = waits[0]
    return Explanation(
        f.lead.id,
        f.lead.stage,
        f"{first.what[0].upper()}{first.what[1:]}; {first.do}.",
        tuple(sorted(_steps(f, now), key=lambda step: (step.when is None, step.when))),
        gates.gates(f, now),
        waits,
    )


# -- what it waits for


def _waits(f: Facts, now: datetime) -> Iterator[Wait]:
    found = False
    for look in (_daemon, _session, _running, _dead, _due, _passed, _people, _unsent, _later, _lost, _lead):
        for wait in look(f, now):
            found = True
            yield wait
    if not found:
        yield _nothing(f, now)


def _daemon(f: Facts, now: datetime) -> Iterator[Wait]:
    to_do = f.running or f.due(now) or f.later(now) or f.lead.deadline_at or any(facts.without_task(f, now))
    if to_do and not f.alive:
        yield Wait("no daemon is running, so nothing happens", f"start one: {remedies.run(f)}")


def _session(f: Facts, now: datetime) -> Iterator[Wait]:
    if f.holder is not None:
        yield Wait(f"the lead's row is held by {holder(f)}: nobody else can write it", remedies.free_row(f))


def _running(f: Facts, now: datetime) -> Iterator[Wait]:
    for task in f.running:
        yield Wait(running(f, task), remedies.ending(f, task))


def _dead(f: Facts, now: datetime) -> Iterator[Wait]:
    for task in f.dead:
        yield Wait(f"{named(task)} is dead: {task['error']}", remedies.for_dead(f, task))


def _due(f: Facts, now: datetime) -> Iterator[Wait]:
    for task in f.due(now):
        ahead = f.ahead_of(task, now)
        if task["kind"] not in f.kinds:
            what = f"{named(task)} is of a kind that this program doesn't know, and nobody claims it"
            yield Wait(what, remedies.drop_unknown(task))
        elif ahead is not None:
            yield Wait(f"{named(task)} waits for {named(ahead)}, which goes first", f"{BY_ITSELF}: it comes next")
        else:
            alone = " (it ended its daemon before, so it runs alone)" if task["interruptions"] >= 3 else ""
            yield Wait(f"{named(task)} is due{alone}", f"{BY_ITSELF}: a daemon claims it at once")


def _passed(f: Facts, now: datetime) -> Iterator[Wait]:
    """Between a deadline's passing and the next beat of a daemon."""
    due = f.lead.deadline_at is not None and f.lead.deadline_at <= now
    if due and f.holding is None and f.lead.row["archived_at"] is None and not _has_deadline_task(f):
        yield Wait("its deadline has just passed", f"{BY_ITSELF}: a daemon sees to it within a second")


def _people(f: Facts, now: datetime) -> Iterator[Wait]:
    for request in f.approvals:
        approve = pasted(SQL["approve"], request["id"])
        command = f"orchestrator approvals approve {request['id']}"
        yield Wait(f"a person has to decide: {request['title']}", f"{command} (or reject); {approve} (or 'rejected')")
    asked = {str((a["payload"].get("reply") or {}).get("id")) for a in f.approvals}
    for reply in f.replies:
        if reply["status"] == "needs_person" and str(reply["id"]) not in asked:
            handled = pasted(SQL["reply_handled"], reply["id"])
            yield Wait(
                f"a person has to answer reply {reply['id']}: {reply['reason']}", f"when that is done: {handled}"
            )
    for message in f.messages:
        if message["status"] in ("draft", "awaiting_approval"):
            cancel = pasted(SQL["cancel_message"], message["id"])
            yield Wait(
                f"{titled(message)} is {message['status']}", f"to send it: {remedies.send(message)}; or {cancel}"
            )


def _unsent(f: Facts, now: datetime) -> Iterator[Wait]:
    """The lead would have moved on with that message; a dead task has told of those that failed."""
    told = {task["payload"].get("message_id") for task in f.dead}
    for message in f.messages:
        moves = message["then_to"] if message["stage_seq"] == f.lead.stage_seq else None
        if message["status"] in UNSENT and moves and str(message["id"]) not in told:
            what = f"{titled(message)} is {message['status']} ({message['reason']})"
            do = f"mend that, then {remedies.send(message)}; or {remedies.move(f)}"
            yield Wait(f"{what}, and only with it the lead goes on to {moves}", do)


def _later(f: Facts, now: datetime) -> Iterator[Wait]:
    for task in f.later(now):
        if f.awaits_sending(task):
            yield Wait(f"{named(task)} waits until sending is resumed: {task['error']}", remedies.RESUME)
            continue
        because = f": {task['error']}" if task["error"] else ""
        if because and task["run_at"] > now + SET_ASIDE:
            yield Wait(f"{named(task)} waits until a daemon knows its kind{because}", remedies.drop_unknown(task))
            continue
        tries = f" ({task['attempt']} of {task['max_attempts']} tries used)" if task["attempt"] else ""
        yield Wait(f"{named(task)} waits until {at(task['run_at'], now)}{because}{tries}", remedies.sooner(task))


def _lost(f: Facts, now: datetime) -> Iterator[Wait]:
    for what in facts.without_task(f, now):
        sweep = remedies.next_sweep(at(f.next_sweep, now) if f.next_sweep else None)
        yield Wait(f"a task is missing that should {what}", sweep)


def _lead(f: Facts, now: datetime) -> Iterator[Wait]:
    """The lead's own word, its silence, its data."""
    if f.paused:
        yield Wait("we owe it an answer; its deadline is paused meanwhile", "see the tasks and messages of that answer")
    due = f.lead.deadline_at
    if f.live and due is not None and due > now and f.holding is None:
        does, why = facts.deadline_does(f) or ("do nothing", "no step is left")
        what = f"it waits for the lead's word, or for its deadline at {at(due, now)} to {does} ({why})"
        yield Wait(what, f"another time: {remedies.snooze(f)}; by hand: {remedies.move(f)}")
    if f.missing:
        what = f"data is missing without which it doesn't go on to {f.on_complete}: {', '.join(f.missing)}"
        yield Wait(what, remedies.complete(f))
    elif f.on_complete and not any(t["kind"] == "lead.check" for t in f.tasks):
        check = pasted(SQL["check_lead"], f.lead.id)
        yield Wait("its data is complete, but no check is queued that would move it on", f"now, not daily: {check}")


def _nothing(f: Facts, now: datetime) -> Wait:
    lead, nothing = f.lead.row, "nothing happens any more"
    if lead["archived_at"] is not None:
        return Wait(f"{nothing}: the lead was archived {at(lead['archived_at'], now)}", remedies.revive(f))
    if f.stage is None:
        return Wait(f"{nothing}: {lead['pipeline']}.{lead['stage']} is declared nowhere", remedies.move(f))
    if f.stage.terminal:
        return Wait(f"{nothing}: {lead['stage']} is terminal", f"to move it all the same: {remedies.move(f)}")
    flagged = f", and it is flagged: {lead['review_reason']}" if lead["needs_review"] else ""
    return Wait(
        f"nothing is queued and no deadline is set{flagged}", f"go on by hand: {remedies.move(f)} ({f.targets})"
    )


# -- what happens next


def _steps(f: Facts, now: datetime) -> Iterator[Step]:
    for task in f.running:
        yield Step(_does(f, task), now, f"{named(task)} is running")
    for task in f.due(now):
        ahead = f.ahead_of(task, now)
        yield Step(_does(f, task), now, f"{named(task)} waits for {named(ahead)}" if ahead else f"{named(task)} is due")
    for task in f.later(now):
        when = None if f.awaits_sending(task) else task["run_at"]
        yield Step(_does(f, task), when, f"{named(task)}: {task['error'] or 'waits for its time'}")
    for what in facts.without_task(f, now):
        yield Step(what, f.next_sweep, "the sweep finds that its task is missing")
    if f.missing:
        yield Step(f"move it to {f.on_complete}", None, f"as soon as data has {', '.join(f.missing)}")
    yield from _deadline_step(f, now)


def _deadline_step(f: Facts, now: datetime) -> Iterator[Step]:
    does, due = facts.deadline_does(f), f.lead.deadline_at
    if does is None or due is None or f.lead.row["archived_at"] is not None or _has_deadline_task(f):
        return
    if f.holding is not None:
        yield Step(does[0], None, f"its deadline waits until dead {named(f.holding)} is retried or cancelled")
    else:
        yield Step(does[0], max(due, now), does[1])


def _has_deadline_task(f: Facts) -> bool:
    return any(t["kind"] == "lead.deadline" and t["status"] != "dead" for t in f.tasks)


def _does(f: Facts, task: Row) -> str:
    message = f.message_of(task)
    if message is not None:
        moves = f", then move it to {message['then_to']}" if message["then_to"] else ""
        return f"send {titled(message)} by {message['channel']}{moves}"
    if task["kind"] == f.entry_kind:
        return f"run the entry action of {f.lead.stage}"
    return DOES.get(task["kind"], str(task["kind"]))
