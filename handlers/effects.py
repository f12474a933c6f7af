"""What outcomes may write, one type and one set-based statement per kind of effect.

An effect's fields are the columns of its statement, in order, after the task's id. The statements run in the
order of STATEMENTS; what touches a lead holds that lead's row first and waits for nobody. Most are written at once,
each row as it is when its turn comes; what differs from what the handler saw is then written step by step.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

import asyncpg

from daemon import queue
from daemon.db import Connection, Statements
from daemon.metrics import Metrics
from daemon.task import NewTask, Task
from daemon.together import Step
from handlers.lead import Lead

SQL = Statements("handlers", "effects.sql")
TABLES = ("leads", "messages", "replies")
Json = Mapping[str, Any]
NO_COLUMN = {"column": False}


@dataclass(frozen=True, slots=True)
class Change:
    """New facts about a lead; None leaves a column alone. `stage_seq` guards what belongs to one stage entry."""

    statement: ClassVar[str] = "change"
    lead_id: UUID
    stage_seq: int | None = None
    entry_done: bool = False
    data: Json | None = None
    flag: str | None = None
    do_not_contact: bool = False
    last_inbound_at: datetime | None = None
    last_outbound_at: datetime | None = None
    nurture_until: datetime | None = None
    issues: Json | None = None
    set_deadline: bool = False
    deadline_at: datetime | None = None
    deadline_step: int | None = None
    unflag: bool = False
    nurtured: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A stage move out of one stage entry; if the lead has left it meanwhile, the move is dropped and recorded."""

    statement: ClassVar[str] = "move"
    lead_id: UUID
    stage_seq: int
    to_stage: str
    reason: str
    data: Json | None = None
    actor: str = "orchestrator"
    else_flag: str | None = None  # what a person is told if the move is dropped
    facts: Json | None = None  # this and the next are kept, even if the move is dropped
    last_outbound_at: datetime | None = None

    @classmethod
    def of(
        cls, lead: Lead, to_stage: str, reason: str, data: Json | None = None, else_flag: str | None = None
    ) -> "Move":
        """The move of this lead out of its present stage entry."""
        return cls(lead.id, lead.stage_seq, to_stage, reason, data, else_flag=else_flag)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the lead's timeline that no trigger writes."""

    statement: ClassVar[str] = "event"
    lead_id: UUID
    event_type: str
    metadata: Json
    actor: str = "orchestrator"


@dataclass(frozen=True, slots=True)
class Send:
    """A message to a lead, at most one per key; `stage_seq` set: worth sending only in that stage entry."""

    statement: ClassVar[str] = "send"
    lead_id: UUID
    template: str
    key: str
    channel: str = "sms"
    to_address: str | None = None
    stage_seq: int | None = None
    then_to: str | None = None
    context: Json | None = None
    send_at: datetime | None = None
    entry_done: bool = False  # this message is what the stage's entry owed


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """What became of a message; `told` is what the lead's timeline says of its sending."""

    statement: ClassVar[str] = "message_ended"
    message_id: UUID
    status: str
    reason: str | None = None
    provider_message_id: str | None = None
    cost: Decimal | None = None
    sent_at: datetime | None = None
    told: Json | None = None
    channel: str = field(default="", metadata=NO_COLUMN)


@dataclass(frozen=True, slots=True)
class MessageWaits:
    """Why a message hasn't gone out yet; `unsent`: a call was answered, and isn't under way any more."""

    statement: ClassVar[str] = "message_waits"
    message_id: UUID
    reason: str
    unsent: bool = False


@dataclass(frozen=True, slots=True)
class AwaitSending:
    """The task waits until sending resumes; if that has happened meanwhile, its gate is asked again."""

    statement: ClassVar[str] = "await_sending"


@dataclass(frozen=True, slots=True)
class CancelMessages:
    """Whatever is still scheduled for the lead."""

    statement: ClassVar[str] = "cancel_messages"
    lead_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class ReplyRead:
    """What a reply is, and where it stands; None leaves a column alone."""

    statement: ClassVar[str] = "reply_read"
    reply_id: UUID
    lead_id: UUID | None = None
    category: str | None = None
    confidence: float | None = None
    classified_by: str | None = None
    status: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Exclude:
    """Never again to this address; an older exclusion stands."""

    statement: ClassVar[str] = "exclude"
    address: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class AskPerson:
    """A request in `approval_queue`."""

    statement: ClassVar[str] = "ask_person"
    checkpoint: str
    title: str
    payload: Json
    lead_id: UUID | None


@dataclass(frozen=True, slots=True)
class Feedback:
    """A person's words for an agent."""

    statement: ClassVar[str] = "feedback"
    agent: str
    feedback: str
    approval_id: UUID
    created_by: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One open alert per type and subject."""

    statement: ClassVar[str] = "alert"
    type: str
    message: str
    severity: str
    subject: str
    metadata: Json


@dataclass(frozen=True, slots=True)
class AddressMended:
    """What failed in this stage entry for want of an address is tried again, unless that reason is `still` so."""

    statement: ClassVar[str] = "address_mended"
    lead_id: UUID
    stage_seq: int
    still: str | None = None


Written = (
    Change
    | Move
    | Event
    | Send
    | MessageEnded
    | MessageWaits
    | AwaitSending
    | CancelMessages
    | ReplyRead
    | Exclude
    | AskPerson
    | Feedback
    | Alert
    | AddressMended
)
Effect = Written | NewTask
Effects = tuple[Effect, ...]

STATEMENTS: tuple[type[Written], ...] = (
    *(Exclude, ReplyRead, MessageEnded, MessageWaits, AwaitSending, Change, CancelMessages, Event),
    *(Move, Send, AskPerson, Feedback, Alert, AddressMended),
)
ONE_PER_LEAD = (Change, Move)
AT_ONCE: Mapping[type[Written], bool] = {MessageEnded: True, Change: False, Event: False, Move: True, Send: False}
"""What may be written together with the settling, and whether each of its rows must find what it writes."""
SHARED = (Exclude, Alert)  # two batches may write the same rows, and must do so in the same order
# They write the lead, or refer to its row.
HOLDING = (Change, Move, CancelMessages, Send, ReplyRead, AskPerson, AddressMended)
COLUMNS = {kind: [f.name for f in fields(kind) if f.metadata != NO_COLUMN] for kind in STATEMENTS}


def id_in(payload: Mapping[str, Any], name: str) -> UUID | None:
    """The id in a payload that anybody may have written; None if it is none."""
    try:
        return UUID(str(payload.get(name)))
    except ValueError:
        return None


class Writer:
    """Holds and writes effects; what the tasks are about is the subclass's."""

    def steps(self, effects: Sequence[tuple[Task, Effects]]) -> Sequence[Step] | None:
        """Most outcomes are one or two of these; no lead may be written twice."""
        by_type = _by_type(effects)
        leads = [e.lead_id for kind in (Change, Move, Send) for e in _all(kind, by_type)]
        if not by_type.keys() <= AT_ONCE.keys() or len(set(leads)) < len(leads):
            return None
        return [
            Step(SQL[kind.statement], _columns(kind, by_type[kind]), len(by_type[kind]) if AT_ONCE[kind] else None)
            for kind in STATEMENTS
            if kind in by_type
        ]

    async def hold(self, conn: Connection, effects: Sequence[tuple[Task, Effects]]) -> Collection[UUID]:
        """The attempts whose rows could all be locked at once, without waiting; what is gone needs no lock."""
        wanted = [(task.lease_id, list(_rows(its))) for task, its in effects]
        every = {row for _, rows in wanted for row in rows}
        if not every:
            return [lease for lease, _ in wanted]
        columns = [sorted(row_id for table, row_id in every if table == of) for of in TABLES]
        free = {r["id"] for r in await conn.fetch(SQL["hold"], *columns)}
        return [lease for lease, rows in wanted if all(row_id in free for _, row_id in rows)]

    async def commit(self, conn: Connection, effects: Sequence[tuple[Task, Effects]]) -> None:
        """One statement per kind of effect."""
        by_type = _by_type(effects)
        for kind in STATEMENTS:
            for rows in _rounds(kind, by_type.get(kind, [])):
                answered = await write(conn, kind, rows)
                if kind is Move and len(answered) < len(rows):
                    moved = {r["task_id"] for r in answered}
                    await write(conn, Move, [row for row in rows if row[0] not in moved], "move_dropped")
        await queue.enqueue(conn, _all(NewTask, by_type))

    def observe(self, metrics: Metrics, effects: Sequence[tuple[Task, Effects]]) -> None:
        """Count messages and replies."""
        for effect in (effect for _, its in effects for effect in its):
            if isinstance(effect, MessageEnded):
                metrics.sends.labels(effect.channel, effect.status).inc()
            elif isinstance(effect, ReplyRead) and effect.category:
                metrics.replies.labels(effect.category).inc()


async def write(
    conn: Connection, kind: type[Written], rows: Sequence[tuple[int, Effect]], statement: str | None = None
) -> list[asyncpg.Record]:
    """Write effects of one type in one statement (mostly its own); what it answers."""
    if not rows:
        return []
    if kind in SHARED:
        rows = sorted(rows, key=lambda row: repr(row[1]))
    answer: list[asyncpg.Record] = await conn.fetch(SQL[statement or kind.statement], *_columns(kind, rows))
    return answer


def _by_type(effects: Sequence[tuple[Task, Effects]]) -> dict[type[Effect], list[tuple[int, Effect]]]:
    by_type: dict[type[Effect], list[tuple[int, Effect]]] = {}
    for task, its in effects:
        for effect in its:
            by_type.setdefault(type(effect), []).append((task.id, effect))
    return by_type


def _all(kind: type[Effect], by_type: Mapping[type[Effect], Sequence[tuple[int, Effect]]]) -> list[Any]:
    return [effect for _, effect in by_type.get(kind, ())]


def _columns(kind: type[Written], rows: Sequence[tuple[int, Effect]]) -> list[list[Any]]:
    """Task ids, then a column per field. One without values is left empty: unnest pads it, and most are."""
    columns = ([getattr(effect, name) for _, effect in rows] for name in COLUMNS[kind])
    return [
        [task_id for task_id, _ in rows],
        *(column if column.count(None) < len(column) else [] for column in columns),
    ]


def _rows(effects: Effects) -> Iterator[tuple[str, UUID]]:
    """The rows that these effects write or refer to."""
    for effect in effects:
        if isinstance(effect, HOLDING) and effect.lead_id is not None:
            yield "leads", effect.lead_id
        if isinstance(effect, MessageEnded | MessageWaits):
            yield "messages", effect.message_id
        if isinstance(effect, ReplyRead):
            yield "replies", effect.reply_id


def _pauses(row: tuple[int, Effect]) -> bool:
    """Whether it takes the deadline away: it comes last, or a word of the lead's in the same batch gives it back."""
    effect = row[1]
    if not isinstance(effect, Change):
        return False
    return effect.set_deadline and effect.deadline_at is None and effect.deadline_step is None


def _rounds(kind: type[Written], rows: list[tuple[int, Effect]]) -> list[list[tuple[int, Effect]]]:
    """A set-based UPDATE applies one change per row, so a second one for the same lead goes into a second round."""
    if kind not in ONE_PER_LEAD or len({effect.lead_id for _, effect in rows}) == len(rows):  # type: ignore[union-attr]  # as below
        return [rows] if rows else []
    rounds: list[dict[UUID, tuple[int, Effect]]] = [{}]
    for row in sorted(rows, key=_pauses):
        lead_id: UUID = row[1].lead_id  # type: ignore[union-attr,assignment]  # both kinds have one
        place = next((r for r in rounds if lead_id not in r), None)
        if place is None:
            rounds.append(place := {})
        place[lead_id] = row
    return [list(r.values()) for r in rounds]
