"""The one place through which every message to a person goes: gates, reservation, the one call, what it came to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from daemon.answers import Answered, charge
from daemon.context import Context
from daemon.db import Connection, Statements
from daemon.engines import Call, Skipped
from daemon.ledger import Refused
from daemon.outcome import Done, Fail, Outcome, Snooze
from daemon.sending import UNTIL_RESUMED
from daemon.task import Kind, Policy, Task
from daemon.together import Step
from handlers.addresses import no_text_to, normal_address
from handlers.effects import (
    AwaitSending,
    Change,
    Effect,
    Effects,
    Event,
    MessageEnded,
    MessageWaits,
    Move,
    Writer,
    id_in,
    write,
)
from handlers.lead import Lead
from handlers.leads import Pipelines, mourn
from handlers.pipeline import done

SQL = Statements("handlers", "messages.sql")
OPEN = ("scheduled", "sending", "unknown")  # unknown: a late answer has come, and the ledger has it
OWED_ANSWERS = ("COUNTER", "QUESTION")
DRY_RUN = "dry run"
LEFT = "the lead has left that stage"
NOT_YET = "a campaign's messages are not sent yet: limits and sending windows are to come first"
LOOK_AGAIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and its lead, if it has one."""

    row: Mapping[str, Any]
    lead: Lead | None
    owes_more: bool = False  # it is an answer, and not the last one that we owe

    @property
    def id(self) -> UUID:
        return self.row["id"]


@dataclass(frozen=True, slots=True)
class Transport:
    """Which engine carries a channel, and what it is asked."""

    engine: str
    operation: str
    body: Callable[[Letter, str], Mapping[str, Any]]


def _sms(letter: Letter, to: str) -> Mapping[str, Any]:
    lead = letter.lead.document() if letter.lead else None
    context = {"lead": lead, **letter.row["context"]}
    return {"lead_id": letter.row["lead_id"], "to": to, "template": letter.row["template"], "context": context,
            "body": letter.row["body"], "dry_run": False}  # fmt: skip


def _email(letter: Letter, to: str) -> Mapping[str, Any]:
    return {"lead_id": letter.row["lead_id"], "to": to, "subject": letter.row["subject"], "body": letter.row["body"]}


def _offer(letter: Letter, to: str) -> Mapping[str, Any]:
    return {"lead": letter.lead.document() if letter.lead else None}


TRANSPORTS: Mapping[str, Transport] = {
    "sms": Transport("sms", "/api/send", _sms),
    "email": Transport("outreach", "/api/send", _email),
    "offer": Transport("offers", "/api/offers", _offer),
}


class SendingGate:
    """Asked inside the reservation: suppression and the kill switch count when the message becomes `sending`."""

    def step(self, items: Sequence[tuple[UUID, str]]) -> Step:
        """All of them, or none."""
        return Step(SQL["admit"], ([i for i, _ in items], [a for _, a in items]), len(items))

    async def admit(self, conn: Connection, items: Sequence[tuple[UUID, str]]) -> Sequence[Refused | None]:
        """Why a message may not go out, or None."""
        columns = [i for i, _ in items], [a for _, a in items]
        admitted = {r["id"] for r in await conn.fetch(SQL["admit"], *columns)}
        if len(admitted) == len(items):
            return [None] * len(items)
        rows = await conn.fetch(SQL["refusals"], *columns)
        why = {r["id"]: Refused(r["reason"] or "somebody else holds its row", r["until"]) for r in rows}
        return [None if i in admitted else why.get(i, Refused("the message is gone")) for i, _ in items]


GATE = SendingGate()


class Messages(Writer):
    """Tasks whose payload names a message."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Letter]:
        """Each task's message with its lead."""
        rows = await conn.fetch(SQL["load"], [t.payload["message_id"] for t in tasks])
        letters = {
            str(r["message"]["id"]): Letter(r["message"], Lead(r["lead"]) if r["lead"] else None, bool(r["owes_more"]))
            for r in rows
        }
        return {t.id: letters[t.payload["message_id"]] for t in tasks if t.payload["message_id"] in letters}

    async def commit(self, conn: Connection, effects: Sequence[tuple[Task, Effects]]) -> None:
        """What follows a send follows it once: only the attempt that made the message `sent` writes it."""
        ended = [(task.id, e) for task, its in effects for e in its if isinstance(e, MessageEnded)]
        winners = {r["task_id"] for r in await write(conn, MessageEnded, ended)}
        late = {task_id for task_id, e in ended if e.status == "sent" and task_id not in winners}
        rest = [(task, _without_end(its)) for task, its in effects if task.id not in late]
        await super().commit(conn, rest)

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """The message has failed, or nobody knows; a person is told."""
        ended = MessageEnded(
            UUID(task.payload["message_id"]),
            "unknown" if unknown else "failed",
            error[:500],
            channel=task.payload.get("channel") or "",
        )
        if not task.payload.get("lead_id"):
            return (ended,)
        what = "outcome unknown" if unknown else "could not be sent"
        why = f"{task.payload.get('template') or 'message'} {what}: {error}"
        return (ended, *mourn(UUID(task.payload["lead_id"]), task, why, unknown))

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """A person's cancelling of the task cancels the message."""
        await conn.execute(SQL["cancelled"], id_in(payload, "message_id"))


def _without_end(effects: Effects) -> Effects:
    return tuple(e for e in effects if not isinstance(e, MessageEnded))


def kinds(pipelines: Pipelines) -> list[Kind[Effects]]:
    """The one kind that sends."""
    return [Kind("message", Policy(concurrency=64), Messages(), _send(pipelines))]


def _send(pipelines: Pipelines) -> Any:
    async def send(task: Task, letter: Letter | None, context: Context) -> Outcome[Effects]:
        if letter is None:
            return done(reason="the message is gone")
        early = _not_now(letter, task.now)
        if early is not None:
            return early
        to = _address(letter)
        if not isinstance(to, str):
            return to
        transport = TRANSPORTS[letter.row["channel"]]
        answer = await context.engines.call(task, _call(letter, transport, to))
        if isinstance(answer, Answered):
            estimate = context.settings.engines[transport.engine].cost_per_call
            return Done(_sent(letter, task, answer, estimate, pipelines), "sent")
        if isinstance(answer, Skipped) and answer.until is None:
            return Done(_skipped(letter, answer.reason), answer.reason)
        return _postponed(letter, context.engines.as_outcome(transport.engine, answer))

    return send


def _postponed(letter: Letter, outcome: Fail | Snooze[Effects]) -> Outcome[Effects]:
    """A message that waits says why; one that the engine has refused isn't on its way any more."""
    if isinstance(outcome, Snooze):
        held = (AwaitSending(),) if outcome.until == UNTIL_RESUMED else ()
        return replace(outcome, effects=(MessageWaits(letter.id, outcome.reason), *held))
    if outcome.unknown:
        return outcome
    return replace(outcome, effects=(MessageWaits(letter.id, outcome.error, unsent=True),))


def _call(letter: Letter, transport: Transport, to: str) -> Call:
    return Call(
        transport.engine,
        transport.operation,
        transport.body(letter, to),
        cause=letter.row["idempotency_key"],
        lead_id=letter.row["lead_id"],
        run_id=letter.row["run_id"],
        gate=GATE,
        item=(letter.id, to),
    )


def _not_now(letter: Letter, now: datetime) -> Outcome[Effects] | None:
    """Why the message isn't to be sent now, or None; all of it is asked again by the gate."""
    row, lead = letter.row, letter.lead
    if row["status"] not in OPEN:
        return done(reason=f"the message is {row['status']}")
    if row["status"] != "scheduled":
        return None  # an earlier attempt may have sent it: the ledger knows, and the gate is asked again
    if row["send_at"] > now:
        return Snooze(row["send_at"], "waits for its time")
    if row["run_id"] is not None:
        return Snooze(now + LOOK_AGAIN, NOT_YET, (MessageWaits(letter.id, NOT_YET),))
    if lead and row["stage_seq"] is not None and row["stage_seq"] != lead.stage_seq:
        return Done(_skipped(letter, LEFT), LEFT)
    return None


def _address(letter: Letter) -> str | Fail:
    """Where the message goes; a number that can't be one is a failure no retry mends."""
    lead, channel = letter.lead, letter.row["channel"]
    raw = letter.row["to_address"] or (lead.text("email" if channel == "email" else "phone") if lead else "")
    if not raw and channel != "offer":
        return Fail("no usable address: the lead has none" if lead else "no usable address", retryable=False)
    country = lead.row["country"] if lead else None
    plain = normal_address(raw, "email" if channel == "email" else "sms", country)
    unfit = no_text_to(raw, country) if plain is None and channel == "sms" else None
    if unfit:
        return Fail(unfit, retryable=False)
    return plain or raw


def _sent(letter: Letter, task: Task, answer: Answered, estimate: Decimal, pipelines: Pipelines) -> Effects:
    row, result = letter.row, answer.result
    cost = charge(result, estimate).cost
    told = {"template": row["template"], "channel": row["channel"], "message_id": str(letter.id)}
    provider_id = _text(result.get("message_id"))
    ended: list[Effect] = [
        MessageEnded(letter.id, "sent", None, provider_id, cost, task.now, told, channel=row["channel"])
    ]
    if letter.lead is None:
        return tuple(ended)
    lead, facts = letter.lead, _facts(row, result, task.now)
    if row["channel"] == "offer":
        made: dict[str, Any] = {k: facts[k] for k in ("offer_amount", "offer_sent_at") if k in facts}
        ended.append(Event(lead.id, "offer_made", made))
    move = _move_on(letter, "message sent")
    if move is not None:
        return (*ended, replace(move, facts=facts or None, last_outbound_at=task.now))
    again = _deadline_again(letter, task, pipelines)
    return (*ended, Change(lead.id, lead.stage_seq, data=facts or None, last_outbound_at=task.now, **again))


def _facts(row: Mapping[str, Any], result: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """What the engine learnt about the lead."""
    fields = result.get("fields")
    facts = dict(fields) if isinstance(fields, dict) else {}
    if row["channel"] == "offer":
        facts |= {"offer_sent_at": now.isoformat()} | {k: result[k] for k in ("offer_amount",) if k in result}
    return facts


def _deadline_again(letter: Letter, task: Task, pipelines: Pipelines) -> dict[str, Any]:
    """We have answered, or said late what was due: from now on the lead's silence counts (again)."""
    lead = letter.lead
    if lead is None:
        return {}
    deadlines = pipelines[lead.pipeline].by_name[lead.stage].deadlines
    paused = lead.deadline_at is None and letter.row["template"] in OWED_ANSWERS and not letter.owes_more
    late = lead.deadline_at is not None and lead.deadline_at <= task.now and letter.row["stage_seq"] == lead.stage_seq
    if not (paused or late) or lead.deadline_step >= len(deadlines):
        return {}
    before = deadlines[lead.deadline_step - 1].after if lead.deadline_step else timedelta()
    return {"set_deadline": True, "deadline_at": task.now + deadlines[lead.deadline_step].after - before}


def _skipped(letter: Letter, reason: str) -> Effects:
    """An end like any other; whoever waits for this message needs a person, except in a dry run."""
    status = "cancelled" if reason == LEFT else "suppressed"
    ended: list[Effect] = [MessageEnded(letter.id, status, reason, channel=letter.row["channel"])]
    if letter.lead is None:
        return tuple(ended)
    lead, template = letter.lead, letter.row["template"]
    ended.append(Event(lead.id, "message_skipped", {"template": template, "reason": reason}))
    if reason == DRY_RUN:
        move = _move_on(letter, reason)
        return (*ended, move) if move else tuple(ended)
    if reason != LEFT and (letter.row["then_to"] or template in OWED_ANSWERS):
        ended.append(Change(lead.id, flag=f"{template} not sent: {reason}"))
    return tuple(ended)


def _move_on(letter: Letter, reason: str) -> Move | None:
    lead, row = letter.lead, letter.row
    if lead is None or row["then_to"] is None:
        return None
    why = str(lead.data.get("dead_reason") or reason)
    move = Move.of(lead, row["then_to"], why)
    return replace(move, stage_seq=row["stage_seq"]) if row["stage_seq"] else move


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:500]
