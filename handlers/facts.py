"""What is known about why a lead stands where it stands: one snapshot of the database, and what it says by itself."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from daemon.db import Connection, Statements
from daemon.sending import UNTIL_RESUMED
from handlers.lead import Lead
from handlers.messages import OWED_ANSWERS
from handlers.pipeline import FlagFor, GoTo, Pipeline, Say, Stage

SQL = Statements("handlers", "explain.sql")
Row = Mapping[str, Any]
UNSENT = ("failed", "unknown", "suppressed", "cancelled")


@dataclass(frozen=True, slots=True)
class Facts:
    """A lead with its tasks, open messages, replies, requests and calls, and who works or holds its row.

    `tasks` are those of its own key and of its unread replies, ordered by id; `calls` those without an answer.
    `sandboxed`: the database refuses real engines.
    """

    lead: Lead
    pipeline: Pipeline | None
    kinds: frozenset[str]
    real_now: datetime
    tasks: Sequence[Row] = ()
    messages: Sequence[Row] = ()
    replies: Sequence[Row] = ()
    approvals: Sequence[Row] = ()
    calls: Sequence[Row] = ()
    exclusions: Sequence[Row] = ()
    daemons: Sequence[Row] = ()
    holder: Row | None = None
    next_sweep: datetime | None = None
    sandboxed: bool = False
    sending: Row | None = None  # who has stopped it, when and why

    @property
    def stage(self) -> Stage | None:
        """The declaration of its stage, if this program has one."""
        return self.pipeline.by_name.get(self.lead.stage) if self.pipeline else None

    @property
    def entry_kind(self) -> str | None:
        """The kind of task that its stage's entry owes."""
        return self.pipeline.entry_kind(self.stage) if self.pipeline and self.stage else None

    @property
    def running(self) -> list[Row]:
        return [t for t in self.tasks if t["status"] == "running"]

    @property
    def dead(self) -> list[Row]:
        """Those of this stage entry first."""
        return sorted((t for t in self.tasks if t["status"] == "dead"), key=lambda t: not self.is_of_entry(t))

    def due(self, now: datetime) -> list[Row]:
        """Tasks that nothing but a daemon, or another task of their key, keeps waiting."""
        return [t for t in self.tasks if t["status"] == "available" and t["run_at"] <= now]

    def later(self, now: datetime) -> list[Row]:
        """Tasks that wait for their time, the next one first."""
        return sorted(
            (t for t in self.tasks if t["status"] == "available" and t["run_at"] > now), key=lambda t: t["run_at"]
        )

    def is_of_entry(self, task: Row) -> bool:
        """Whether the task belongs to the present stage entry."""
        return task["payload"].get("stage_seq") == self.lead.stage_seq

    def awaits_sending(self, task: Row) -> bool:
        """Whether the task waits for sending to be resumed."""
        return self.sending is not None and task["run_at"] >= UNTIL_RESUMED

    @property
    def holding(self) -> Row | None:
        """The dead task that holds the deadline."""
        return next((t for t in self.dead if self.is_of_entry(t) and t["key"] == f"lead:{self.lead.id}"), None)

    def ahead_of(self, task: Row, now: datetime) -> Row | None:
        """The task that goes first: equal keys never run together, and of those due the lower id is the next."""
        rivals = [t for t in self.tasks if t["key"] == task["key"] and t["id"] != task["id"]]
        running = [t for t in rivals if t["status"] == "running"]
        return next(iter(running), None) or next(
            (t for t in self.due(now) if t in rivals and t["id"] < task["id"]), None
        )

    def message_of(self, task: Row) -> Row | None:
        """The message that a task is to send."""
        wanted = task["payload"].get("message_id")
        return next((m for m in self.messages if str(m["id"]) == wanted), None)

    def calls_of(self, task: Row, status: str) -> list[Row]:
        """The calls of its present round that are in flight (`reserved`), or of unknown outcome."""
        its = [c for c in self.calls if c["task_id"] == task["id"] and c["round"] == task["round"]]
        return [c for c in its if c["status"] == status]

    @property
    def alive(self) -> list[Row]:
        """The daemons that live; of one without a lock (poll-only) nobody can tell, so it counts."""
        return [d for d in self.daemons if d["locked"] or not d["expects_lock"]]

    def daemon_of(self, task: Row) -> Row | None:
        """The living daemon that a running task runs on."""
        return next((d for d in self.alive if d["id"] == str(task["worker"])), None)

    @property
    def paused(self) -> bool:
        """Whether the lead's silence doesn't count, because it waits for our answer."""
        owed = [m for m in self.messages if m["template"] in OWED_ANSWERS]
        return self.lead.deadline_at is None and any(
            m["status"] in ("scheduled", "sending", "failed", "unknown") for m in owed
        )

    @property
    def live(self) -> bool:
        """Whether time may still do something with it."""
        return self.stage is not None and not self.stage.terminal and self.lead.row["archived_at"] is None

    @property
    def on_complete(self) -> str | None:
        """Where it goes by itself once its data is complete."""
        return self.stage.on_complete if self.stage else None

    @property
    def missing(self) -> list[str]:
        """Fields of `data` without which it doesn't go there."""
        target = self.pipeline.by_name.get(self.on_complete or "") if self.pipeline else None
        return self.lead.missing(target.required) if target else []

    @property
    def targets(self) -> str:
        """Where a person may move it."""
        return ", ".join(self.stage.to) if self.stage else ""


async def load(
    conn: Connection, lead_id: UUID, pipelines: Mapping[str, Pipeline], kinds: frozenset[str]
) -> tuple[Facts, datetime] | None:
    """The facts and the business time at which they held; None if there is no such lead."""
    row = await conn.fetchrow(SQL["facts"], lead_id)
    if row is None:
        return None
    found = {name: value for name, value in row.items() if name not in ("lead", "now", "tasks", "holder")}
    tasks = sorted(row["tasks"], key=lambda t: t["id"])
    lead, holder = Lead(row["lead"]), row["holder"]
    if holder is not None:
        holder["since"] = datetime.fromisoformat(holder["since"]) if holder["since"] else None
    return Facts(lead, pipelines.get(lead.pipeline), kinds, tasks=tasks, holder=holder, **found), row["now"]


# -- what follows from them


def deadline_does(f: Facts) -> tuple[str, str] | None:
    """What the lead's deadline does when it passes, and why; None if no step is left."""
    lead, stage = f.lead, f.stage
    if stage is None or not stage.deadlines:
        return None
    nurtured = lead.row["nurture_until"]
    if nurtured is not None and nurtured == lead.deadline_at:
        return "send CONVERSATION_FOLLOW_UP", "it was nurtured long enough"
    if lead.deadline_step >= len(stage.deadlines):
        return None
    match stage.deadlines[lead.deadline_step].act:
        case GoTo(target, reason):
            return f"move it to {target}", reason
        case Say(template):
            return f"send {template}", f"silence, step {lead.deadline_step + 1} of {len(stage.deadlines)}"
        case FlagFor(reason):
            return "flag it for review", reason


def without_task(f: Facts, now: datetime) -> Iterator[str]:
    """What should have a task and has none; the next sweep sees to it."""
    if f.lead.entry_pending and f.entry_kind and not any(t["kind"] == f.entry_kind for t in f.tasks):
        yield f"run the entry action of {f.lead.stage}"
    tasks = {t["payload"].get("message_id") for t in f.tasks}
    for message in f.messages:
        if message["status"] == "scheduled" and message["send_at"] <= now and str(message["id"]) not in tasks:
            yield f"send {titled(message)}"
    read = {t["payload"].get("reply_id") for t in f.tasks}
    for reply in f.replies:
        if reply["status"] == "received" and str(reply["id"]) not in read:
            yield f"read reply {reply['id']}"


# -- words


def titled(message: Row) -> str:
    """A message by its template."""
    return str(message["template"] or f"message {message['id']}")


def named(task: Row) -> str:
    """A task by its id and what it is."""
    template = task["payload"].get("template")
    return f"task {task['id']} ({task['kind']}{f' {template}' if template else ''})"


def place(daemon: Row) -> str:
    """Where a daemon runs."""
    return f"{daemon['host']}:{daemon['pid']}"


def running(f: Facts, task: Row) -> str:
    """A running task: since when, where, until when."""
    daemon = f.daemon_of(task)
    where = f"on {place(daemon)}" if daemon else "on a daemon that is gone"
    calls = "".join(f", calling {c['engine']} {c['operation']}" for c in f.calls_of(task, "reserved"))
    since, until = at(task["started_at"], f.real_now), at(task["lease_expires_at"], f.real_now)
    return f"{named(task)} has been running since {since} {where}{calls}; its lease lasts until {until}"


def holder(f: Facts) -> str:
    """The session that holds the lead's row."""
    by = f.holder or {}
    who = " of ".join(str(by[n]) for n in ("application", "user") if by.get(n))
    since = f" since {at(by['since'], f.real_now)}" if by.get("since") else ""
    return f"another session (pid {by.get('pid')}{f', {who}' if who else ''}){since}"


def at(time: datetime, now: datetime) -> str:
    """A time, and how far away it is."""
    if time.year >= 9999:
        return "never (infinity)"
    away = _span(abs(time - now))
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({f'in {away}' if time > now else f'{away} ago'})"


def _span(length: timedelta) -> str:
    seconds = length.total_seconds()
    for size, unit, most in ((1, "s", 120), (60, "min", 7200), (3600, "h", 72 * 3600)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
