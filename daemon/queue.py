"""The queue's side of the tasks table: claim a batch, write a batch of outcomes.

A claim is committed without waiting for the disk: a claim that is lost with the server merely makes its
tasks available again. Outcomes are committed for good, all effects of a batch in one transaction; each
settles only what its lease still holds, and its effects follow for those alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import random
from typing import Any, Literal
from uuid import UUID

import asyncpg

from daemon.db import Connection, Statements
from daemon.outcome import Done, Fail, Outcome, Snooze
from daemon.retry import Retry, after_failure
from daemon.task import Kind, NewTask, Subject, Task
from daemon.together import Step, together

SQL = Statements("daemon", "queue.sql")
MOST_INTERRUPTIONS = 20
CLAIM_TRIES = 5
REFUSALS = (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TypeError, LookupError, AttributeError)
"""What a malformed payload or value raises, if it isn't `passing`: the fault of one task, not of its batch."""

Kinds = Mapping[str, Kind[Any]]
Attempted = tuple[Task, Outcome[Any]]


@dataclass(frozen=True, slots=True)
class Room:
    """How many tasks of each kind may be claimed, and how many in all of those that decide and of those that call."""

    deciding: Mapping[str, int] = field(default_factory=dict)
    most_decisions: int = 0
    calling: Mapping[str, int] = field(default_factory=dict)
    most_calls: int = 0

    def __bool__(self) -> bool:
        return bool(self.deciding or self.calling)

    def used_up_by(self, kinds: Iterable[str]) -> bool:
        """Whether a claim of these may have left some for want of room."""
        claimed = Counter(kinds)
        decisions = sum(n for kind, n in claimed.items() if kind in self.deciding)
        full = (decisions and decisions >= self.most_decisions) or (
            claimed.total() > decisions and claimed.total() - decisions >= self.most_calls
        )
        return bool(full) or any(n >= {**self.deciding, **self.calling}[kind] for kind, n in claimed.items())


@dataclass(frozen=True, slots=True)
class Again:
    """When a task is tried again, and whether the attempt before counts."""

    delay_s: float | None = None
    until: datetime | None = None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a task: `done` (settled), `retry` (available again) or `dead`."""

    task: Task
    outcome: Outcome[Any]
    becomes: Literal["done", "retry", "dead"]
    effects: Any = None
    said: str = ""
    again: Again = Again()


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch: verdicts written, outcomes whose subject is locked, those that were no longer ours."""

    verdicts: Sequence[Verdict] = ()
    locked: Sequence[Attempted] = ()
    lost: Sequence[Attempted] = ()


async def _claim(conn: Connection, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """Two claims of one key that did not see each other: the index refuses the second, which looks again."""
    for _ in range(CLAIM_TRIES):
        try:
            rows: list[asyncpg.Record] = await conn.fetch(SQL[statement], *arguments)
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "tasks_running_key":
                raise
        else:
            return rows
    return []


def _tasks(rows: Sequence[asyncpg.Record]) -> list[Task]:
    """Their columns come in the order of a task's fields; the last, in microseconds since 1970, is the same for all."""
    if not rows:
        return []
    now = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=rows[0][-1])
    return [Task._make((*row[:-1], now)) for row in rows]


async def claim(conn: Connection, kinds: Kinds, room: Room, *, worker: UUID, lease_s: float) -> list[Task]:
    """Claim due tasks, each kind up to its room, in order of priority, time and id."""
    names = [*room.deciding, *room.calling]
    rows = await _claim(
        conn, "claim", names, [*room.deciding.values(), *room.calling.values()],
        [kinds[name].policy.max_attempts for name in names], [name in room.calling for name in names],
        room.most_decisions, room.most_calls, worker, lease_s,
    )  # fmt: skip
    return _tasks(rows)


async def claim_lonely(conn: Connection, kinds: Kinds, worker: UUID, lease_s: float) -> list[Task]:
    """Claim one task that has taken its daemon down too often to run beside others."""
    rows = await _claim(conn, "claim_lonely", list(kinds), 3, worker, lease_s)
    return _tasks(rows)


def _fences(attempts: Sequence[Attempted]) -> tuple[list[int], list[UUID]]:
    return [task.id for task, _ in attempts], [task.lease_id for task, _ in attempts]


def judge(kinds: Kinds, task: Task, outcome: Outcome[Any], *, bury: bool = True) -> Verdict:
    """What the queue does with an outcome, and the effects that go with it."""
    if isinstance(outcome, Done):
        return Verdict(task, outcome, "done", outcome.effects, outcome.reason)
    if isinstance(outcome, Snooze):
        again_at = Again(until=outcome.until, counts=False)
        return Verdict(task, outcome, "retry", outcome.effects, outcome.reason, again_at)
    base_s = kinds[task.kind].policy.backoff_s
    again = after_failure(task.attempt, task.max_attempts, outcome.retryable, outcome.after_s, random(), base_s=base_s)
    if isinstance(again, Retry):
        return Verdict(task, outcome, "retry", outcome.effects, outcome.error, Again(again.delay_s))
    effects = kinds[task.kind].subject.bury(task, outcome.error, outcome.unknown) if bury else None
    return Verdict(task, outcome, "dead", effects, outcome.error)


def by_subject(kinds: Kinds, verdicts: Sequence[Verdict]) -> dict[Subject[Any], list[tuple[Task, Any]]]:
    """The effects of verdicts, by the subject that writes them."""
    groups: dict[Subject[Any], list[tuple[Task, Any]]] = {}
    for verdict in verdicts:
        if verdict.effects is not None:
            groups.setdefault(kinds[verdict.task.kind].subject, []).append((verdict.task, verdict.effects))
    return groups


async def write_at_once(conn: Connection, kinds: Kinds, attempts: Sequence[Attempted]) -> Written | None:
    """Write a batch in one statement, if that is possible; None: nothing is written, and it takes a transaction."""
    if not all(isinstance(outcome, Done) for _, outcome in attempts):
        return None
    verdicts = [judge(kinds, task, outcome) for task, outcome in attempts]
    subjects = by_subject(kinds, verdicts)
    steps = [subject.steps(effects) for subject, effects in subjects.items()]
    if len(steps) != 1 or steps[0] is None:
        return None
    settle = Step(SQL["settle"], _settling(verdicts), len(verdicts))
    return Written(verdicts) if await together(conn, [settle, *steps[0]]) else None


async def write(conn: Connection, kinds: Kinds, attempts: Sequence[Attempted], *, bury: bool = True) -> Written:
    """Write a batch of outcomes; the caller holds the transaction. `bury` False: no subject is told of a death."""
    verdicts = [judge(kinds, task, outcome, bury=bury) for task, outcome in attempts]
    free = {v.task.lease_id for v in verdicts if v.effects is None}
    for subject, effects in by_subject(kinds, verdicts).items():
        free.update(await subject.hold(conn, effects))
    ours = await _apply(conn, [v for v in verdicts if v.task.lease_id in free])
    written = [v for v in verdicts if v.task.lease_id in ours]
    for subject, effects in by_subject(kinds, written).items():
        await subject.commit(conn, effects)
    return Written(
        written,
        locked=[a for a in attempts if a[0].lease_id not in free],
        lost=[a for a in attempts if a[0].lease_id in free and a[0].lease_id not in ours],
    )


def _settling(verdicts: Sequence[Verdict]) -> list[list[Any]]:
    return [[v.task.id for v in verdicts], [v.task.lease_id for v in verdicts], [v.said for v in verdicts]]


async def _apply(conn: Connection, verdicts: Sequence[Verdict]) -> set[UUID]:
    """Write the tasks' own rows, by lease; the leases that held. A batch may hold a zombie and its successor."""
    ours: set[UUID] = set()
    for becomes, statement in (("done", "settle"), ("retry", "postpone"), ("dead", "kill")):
        group = [v for v in verdicts if v.becomes == becomes]
        if group:
            columns = _settling(group)
            if becomes == "dead":
                columns.append([isinstance(v.outcome, Fail) and v.outcome.unknown for v in group])
            if becomes == "retry":
                columns += [[getattr(v.again, name) for v in group] for name in ("delay_s", "until", "counts")]
            ours.update(r["lease_id"] for r in await conn.fetch(SQL[statement], *columns))
    return ours


async def settled_already(conn: Connection, attempts: Sequence[Attempted]) -> set[UUID]:
    """Which of these were settled by this very lease: the answer to an earlier COMMIT was lost."""
    return {r["lease_id"] for r in await conn.fetch(SQL["settled_by"], *_fences(attempts))}


async def give_back(conn: Connection, tasks: Sequence[Task]) -> int:
    """Make interrupted attempts available again at no cost; returns how many were still ours."""
    rows = await conn.fetch(SQL["give_back"], [t.id for t in tasks], [t.lease_id for t in tasks])
    return len(rows)


async def renew(conn: Connection, worker: UUID, lease_s: float, tasks: Sequence[Task]) -> None:
    """Renew the leases of what this daemon attempts, in one statement."""
    await conn.execute(SQL["renew"], worker, lease_s, [t.id for t in tasks])


async def give_back_strays(conn: Connection, worker: UUID, tasks: Sequence[Task]) -> int:
    """Free what was claimed in this daemon's name without its knowing; returns how many there were."""
    return len(await conn.fetch(SQL["strays"], worker, [t.id for t in tasks]))


async def enqueue(conn: Connection, tasks: Sequence[NewTask]) -> None:
    """Queue tasks; one that waits under the same dedup_key is brought forward instead."""
    sooner = sorted(tasks, key=lambda t: (t.run_at is not None, t.run_at))  # of one dedup_key the first to be due
    tasks = list({t.dedup_key or n: t for n, t in reversed(list(enumerate(sooner)))}.values())
    if tasks:
        rows = ((t.kind, t.key, t.payload, t.run_at, t.priority, t.dedup_key, t.max_attempts) for t in tasks)
        await conn.execute(SQL["enqueue"], *map(list, zip(*rows, strict=True)))


async def retry(conn: Connection, task_id: int) -> bool:
    """A person's retry: a dead task starts anew, a waiting one is due now."""
    return bool(await conn.fetchval("SELECT orchestrator.retry_task($1)", task_id))


async def cancel(conn: Connection, kinds: Kinds, task_id: int) -> bool:
    """Cancel a task that is not running; its subject learns of it in the same transaction."""
    async with conn.transaction():
        row = await conn.fetchrow(SQL["cancel"], task_id)
        if row is None:
            return False
        if row["kind"] in kinds:
            await kinds[row["kind"]].subject.cancel(conn, row["kind"], row["payload"])
        return True


async def prune_log(conn: Connection, days: int) -> int:
    """Delete ended tasks older than `days`, in bites; returns how many went."""
    gone = 0
    while (bite := int((await conn.execute(SQL["prune_log"], days)).split()[-1])) > 0:
        gone += bite
    return gone
