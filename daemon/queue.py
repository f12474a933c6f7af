"""The queue's side of the tasks table: claim a batch, write a batch of outcomes.

A claim is committed without waiting for the disk: a claim that is lost with the server merely makes its
tasks available again. Outcomes are committed for good, all effects of a batch in one transaction; each
settles only what its lease still holds, and its effects follow for those alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from daemon.db import Connection, Statements
from daemon.outcome import Done, Fail, Outcome, Snooze
from daemon.retry import Retry, after_failure
from daemon.task import Kind, NewTask, Subject, Task

SQL = Statements("daemon", "queue.sql")
MOST_INTERRUPTIONS = 20
CLAIM_TRIES = 5
REFUSALS = (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TypeError, LookupError, AttributeError)
"""What a malformed payload or value raises: the fault of one task, not of its batch."""

Kinds = Mapping[str, Kind[Any]]
Attempted = tuple[Task, Outcome[Any]]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A task and how long it waited since its cause was committed (None if it had to wait for its time)."""

    task: Task
    waited_s: float | None


@dataclass(slots=True)
class Written:
    """What became of a batch: tasks written, those whose subject was locked, those that were no longer ours."""

    settled: list[tuple[Task, Done[Any]]] = field(default_factory=list)
    retried: list[Attempted] = field(default_factory=list)
    dead: list[tuple[Task, Fail]] = field(default_factory=list)
    locked: list[Attempted] = field(default_factory=list)
    lost: list[Attempted] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wait:
    """A task that becomes available again: after a delay, or at a business time."""

    task: Task
    outcome: Outcome[Any]
    delay_s: float | None
    until: datetime | None
    error: str
    counts: bool


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


def _claimed(rows: Sequence[asyncpg.Record], lease: UUID) -> list[Claimed]:
    return [
        Claimed(
            Task(r["id"], r["kind"], r["key"], r["payload"], r["attempt"], r["max_attempts"], r["round"],
                 r["interruptions"], lease, r["now"]),
            r["waited_s"],
        )
        for r in rows
    ]  # fmt: skip


async def claim(
    conn: Connection, kinds: Kinds, room: Mapping[str, int], total: int, *, worker: UUID, lease_s: float
) -> list[Claimed]:
    """Claim due tasks of these kinds, each up to its room, in order of priority, time and id."""
    lease = uuid4()
    tries = [kinds[name].policy.max_attempts for name in room]
    rows = await _claim(conn, "claim", list(room), list(room.values()), tries, total, worker, lease, lease_s)
    return _claimed(rows, lease)


async def claim_lonely(conn: Connection, kinds: Kinds, worker: UUID, lease_s: float) -> list[Claimed]:
    """Claim one task that has taken its daemon down too often to run beside others."""
    lease = uuid4()
    rows = await _claim(conn, "claim_lonely", list(kinds), 3, worker, lease, lease_s)
    return _claimed(rows, lease)


def _fences(attempts: Sequence[Attempted]) -> tuple[list[int], list[UUID]]:
    return [task.id for task, _ in attempts], [task.lease_id for task, _ in attempts]


def by_subject(kinds: Kinds, done: Sequence[tuple[Task, Done[Any]]]) -> dict[Subject[Any], list[tuple[Task, Any]]]:
    """Outcomes by the subject that writes them, with their effects."""
    groups: dict[Subject[Any], list[tuple[Task, Any]]] = {}
    for task, outcome in done:
        groups.setdefault(kinds[task.kind].subject, []).append((task, outcome.effects))
    return groups


async def write(conn: Connection, kinds: Kinds, attempts: Sequence[Attempted], *, bury: bool = True) -> Written:
    """Write a batch of outcomes; the caller holds the transaction. `bury` False: tell no subject of a death."""
    written = Written()
    done = [(task, o) for task, o in attempts if isinstance(o, Done)]
    waits = [Wait(task, o, None, o.until, o.reason, counts=False) for task, o in attempts if isinstance(o, Snooze)]
    failed = [(task, o, _again(kinds[task.kind], task, o)) for task, o in attempts if isinstance(o, Fail)]
    waits += [again for _, _, again in failed if again is not None]
    deaths = [(task, fail) for task, fail, again in failed if again is None]
    if done:
        await _write_done(conn, kinds, done, written)
    if waits:
        await _postpone(conn, waits, written)
    if deaths:
        await _kill(conn, deaths, written)
    for task, fail in written.dead if bury else ():
        await kinds[task.kind].subject.bury(conn, task, fail.error, fail.unknown)
    return written


def _again(kind: Kind[Any], task: Task, fail: Fail) -> Wait | None:
    """When a failed attempt is tried again, if it is."""
    base_s = kind.policy.backoff_s
    verdict = after_failure(task.attempt, task.max_attempts, fail.retryable, fail.after_s, random(), base_s=base_s)
    return Wait(task, fail, verdict.delay_s, None, fail.error, counts=True) if isinstance(verdict, Retry) else None


async def _write_done(conn: Connection, kinds: Kinds, done: Sequence[tuple[Task, Done[Any]]], written: Written) -> None:
    held: set[int] = set()
    for subject, items in by_subject(kinds, done).items():
        held.update(await subject.hold(conn, items))
    written.locked = [a for a in done if a[0].id not in held]
    ready = [a for a in done if a[0].id in held]
    rows = await conn.fetch(SQL["settle"], *_fences(ready), [outcome.reason for _, outcome in ready])
    ours = {r["id"] for r in rows}
    written.settled = [a for a in ready if a[0].id in ours]
    written.lost += [a for a in ready if a[0].id not in ours]
    for subject, items in by_subject(kinds, written.settled).items():
        await subject.commit(conn, items)


async def _postpone(conn: Connection, waits: Sequence[Wait], written: Written) -> None:
    attempts: list[Attempted] = [(w.task, w.outcome) for w in waits]
    columns = [w.delay_s for w in waits], [w.until for w in waits], [w.error for w in waits], [w.counts for w in waits]
    ours = {r["id"] for r in await conn.fetch(SQL["postpone"], *_fences(attempts), *columns)}
    written.retried = [a for a in attempts if a[0].id in ours]
    written.lost += [a for a in attempts if a[0].id not in ours]


async def _kill(conn: Connection, deaths: Sequence[tuple[Task, Fail]], written: Written) -> None:
    rows = await conn.fetch(SQL["kill"], *_fences(deaths), [fail.error for _, fail in deaths])
    ours = {r["id"] for r in rows}
    written.dead = [d for d in deaths if d[0].id in ours]
    written.lost += [d for d in deaths if d[0].id not in ours]


async def settled_already(conn: Connection, attempts: Sequence[Attempted]) -> set[int]:
    """Which of these were settled by this very lease: the answer to an earlier COMMIT was lost."""
    return {r["id"] for r in await conn.fetch(SQL["settled_by"], *_fences(attempts))}


async def give_back(conn: Connection, tasks: Sequence[Task]) -> int:
    """Make interrupted attempts available again at no cost; returns how many were still ours."""
    rows = await conn.fetch(SQL["give_back"], [t.id for t in tasks], [t.lease_id for t in tasks])
    return len(rows)


async def renew(conn: Connection, worker: UUID, lease_s: float, tasks: Sequence[Task]) -> None:
    """Renew the leases of what this daemon attempts, in one statement."""
    await conn.execute(SQL["renew"], worker, lease_s, [t.id for t in tasks])


async def enqueue(conn: Connection, tasks: Sequence[NewTask]) -> None:
    """Queue tasks; one that waits under the same dedup_key is brought forward instead."""
    if tasks:
        columns = zip(*((t.kind, t.key, t.payload, t.run_at, t.priority, t.dedup_key) for t in tasks), strict=True)
        await conn.execute(SQL["enqueue"], *map(list, columns))


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
