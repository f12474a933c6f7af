"""The two kinds of telling people: `notification` finds the targets, `notification.deliver` tells one of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from uuid import UUID, uuid4

from daemon import queue
from daemon.answers import Answer, Answered, Failed, tidy
from daemon.context import Context
from daemon.db import Connection, Statements
from daemon.engines import Call
from daemon.log import get_logger
from daemon.metrics import Metrics
from daemon.notify.delivery import Notifier
from daemon.notify.notice import STORED, Notice, Target, address_of, targets
from daemon.outcome import Done, Fail, Outcome
from daemon.settings import Settings
from daemon.task import Kind, NewTask, Policy, Task

log = get_logger("notify")
SQL = Statements("daemon.notify", "notify.sql")
FAN_OUT, DELIVER = "notification", "notification.deliver"
KINDS = (FAN_OUT, DELIVER)
LONGEST_PAUSE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Row:
    """The alert or request that a notice is about; `before`: how many alerts of its type the hour had brought."""

    facts: Mapping[str, Any]
    open: bool
    before: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """One notice for one target, under an id that stays."""

    id: str
    notice: Notice
    target: Target

    @property
    def key(self) -> str:
        """The target's: of its tasks, and the subject of the alert that it can't be told."""
        return f"notify:{self.target.label}"

    def task(self) -> NewTask:
        """The task that carries it out; one target is told one thing at a time."""
        payload = {"id": self.id, "target": self.target.document(),
                   "event": self.notice.event, "facts": self.notice.facts}  # fmt: skip
        return NewTask(DELIVER, payload, key=self.key)

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Read back from a payload."""
        return cls(str(UUID(str(payload.get("id")))), Notice.of(payload), Target.of(payload.get("target")))


@dataclass(frozen=True, slots=True)
class Reached:
    """The target hears us."""

    subject: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The target could not be told: a person should know by another road."""

    subject: str
    message: str
    task_id: int


Effects = tuple[NewTask | Reached | Unreachable, ...]


@dataclass(frozen=True, slots=True)
class Notices:
    """Tasks that tell people; `told_hourly`: how many alerts of one type are told within an hour."""

    told_hourly: int

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Row]:
        """The rows that the notices are about."""
        about = {task.id: found for task in tasks if (found := _about(task))}
        alerts = [row_id for event, row_id in about.values() if event == "alert"]
        requests = [row_id for event, row_id in about.values() if event == "approval"]
        rows = [*await conn.fetch(SQL["alerts"], alerts, self.told_hourly)] if alerts else []
        rows += await conn.fetch(SQL["approvals"], requests) if requests else []
        by_id = {r["id"]: self._row(r) for r in rows}
        return {task: by_id[row_id] for task, (_, row_id) in about.items() if row_id in by_id}

    def _row(self, record: Mapping[str, Any]) -> Row:
        before = record.get("before", 0)
        return Row({**record, "last": before == self.told_hourly - 1}, record["open"], before)

    def steps(self, effects: Sequence[tuple[Task, Effects]]) -> None:
        """Nobody waits for a notice so much."""

    async def hold(self, conn: Connection, effects: Sequence[tuple[Task, Effects]]) -> Collection[UUID]:
        """Nothing is anybody else's."""
        return [task.lease_id for task, _ in effects]

    async def commit(self, conn: Connection, effects: Sequence[tuple[Task, Effects]]) -> None:
        """Queue, resolve, alert: a statement each."""
        every = [effect for _, its in effects for effect in its]
        await queue.enqueue(conn, [e for e in every if isinstance(e, NewTask)])
        if reached := sorted({e.subject for e in every if isinstance(e, Reached)}):
            await conn.execute(SQL["delivered"], reached)
        if lost := sorted((e.subject, e.message, e.task_id) for e in every if isinstance(e, Unreachable)):
            await conn.execute(SQL["undeliverable"], *map(list, zip(*lost, strict=True)))

    def observe(self, metrics: Metrics, effects: Sequence[tuple[Task, Effects]]) -> None:
        """The queue's own metrics tell all there is."""

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """An alert per target; about an alert's own notice, too, but only one is open at a time."""
        return (Unreachable(task.key or FAN_OUT, tidy(f"could not be told: {error}"), task.id),)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """Then nobody is told."""


def kinds(notifier: Notifier) -> list[Kind[Effects]]:
    """Both kinds."""
    subject = Notices(notifier.settings.notify.alerts_per_hour)
    deliver = Policy(max_attempts=8, backoff_s=30.0, timeout_s=60.0, concurrency=8)
    return [
        Kind(FAN_OUT, Policy(), subject, _find_targets),
        Kind(DELIVER, deliver, subject, partial(_deliver, notifier)),
    ]


# -- the handlers


async def _find_targets(task: Task, row: Row | None, context: Context) -> Outcome[Effects]:
    try:
        notice = _completed(Notice.of(task.payload), row)
        found = targets(notice, context.settings.notify)
    except ValueError as error:
        return Fail(str(error), retryable=False)
    if needless := _needless(notice, row, context.settings):
        return Done((), needless)
    if not found:
        log.info("nobody to tell", about=notice.event)
        return Done((), "nobody to tell")
    asked = Notice.of(task.payload)
    return Done(tuple(Order(str(uuid4()), asked, one).task() for one in found), f"{len(found)} to be told")


async def _deliver(notifier: Notifier, task: Task, row: Row | None, context: Context) -> Outcome[Effects]:
    try:
        order = Order.of(task.payload)
    except ValueError as error:
        return Fail(str(error), retryable=False)
    if needless := _needless(order.notice, row, context.settings):
        return Done((), needless)
    address = address_of(order.target, context.settings.notify)
    if address is None:
        return Done((), "its address is no setting any more")
    said = await notifier.words(order.notice.event, _completed(order.notice, row).facts)
    if order.target.channel == "email" and context.settings.smtp.url is None:
        body = {"lead_id": None, "to": address, "subject": said.subject, "body": said.text}
        call = Call("outreach", "/api/send", body, cause=f"notification:{order.id}")
        answer = await context.engines.call(task, call)
        return _told(order) if isinstance(answer, Answered) else context.engines.as_outcome(call.engine, answer)
    return _outcome(order, await notifier.carry(order.target.channel, address, said, order.id))


def _outcome(order: Order, answer: Answer) -> Outcome[Effects]:
    """A notice that may have arrived is repeated: better twice than never."""
    match answer:
        case Answered():
            return _told(order)
        case Failed(error, retryable, after_s, _):
            return Fail(error, retryable, None if after_s is None else min(after_s, LONGEST_PAUSE_S))
    return Fail(answer.error)


def _told(order: Order) -> Done[Effects]:
    return Done((Reached(order.key),), f"told {order.target.channel}")


def _needless(notice: Notice, row: Row | None, settings: Settings) -> str:
    """Why nobody is to be told (any more), if so."""
    if settings.dry_run:
        return "dry run: nobody is told"
    if settings.notify.muted:
        return "muted: nobody is told"
    if notice.event in STORED and "id" in notice.facts and row is None:
        return f"the {notice.event} is gone"
    if row is not None and not row.open:
        return f"the {notice.event} is settled"
    if row is not None and notice.event == "alert" and row.before >= settings.notify.alerts_per_hour:
        return f"more than {settings.notify.alerts_per_hour} alerts of this type within the hour: stored only"
    return ""


def _completed(notice: Notice, row: Row | None) -> Notice:
    """The notice with the facts of its row."""
    return notice if row is None else Notice(notice.event, {**notice.facts, **row.facts}, notice.to)


def _about(task: Task) -> tuple[str, UUID] | None:
    try:
        notice = Notice.of(task.payload)
    except ValueError:
        return None
    return (notice.event, notice.row_id) if notice.row_id else None
