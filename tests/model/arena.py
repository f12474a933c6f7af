"""Where the queue's machine lives: a subject that records, a database with side tables, actors with connections."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg
from asyncpg.transaction import Transaction

from daemon import listener
from daemon.db import Connection, connect
from daemon.metrics import Metrics
from daemon.outcome import Outcome
from daemon.task import Kind, Policy, Task
from daemon.together import Step

SIDE_TABLES: Final = """
    CREATE TABLE IF NOT EXISTS causes (n int PRIMARY KEY, subject text NOT NULL);
    CREATE TABLE IF NOT EXISTS effects (task_id bigint, lease_id uuid, status text NOT NULL, causes int[] NOT NULL);
"""
RECORD: Final = """
INSERT INTO effects
SELECT task_id, lease_id, status, ARRAY(SELECT cause::int FROM jsonb_array_elements_text(causes -> 'seen') AS cause)
FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::jsonb[]) AS d(task_id, lease_id, status, causes)
RETURNING task_id
""".strip()
EMPTY: Final = "; ".join(
    ["DELETE FROM " + table for table in ("tasks", "task_log", "workers", "causes", "effects")]
    + ["UPDATE clock_shift SET shift = '0'"]
)
IMPATIENT: Final = {"lock_timeout": "40ms", "orchestrator.quiet": "on"}

Causes: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """The effect of an attempt: what became of it, and the causes it had seen."""

    status: str
    causes: Causes = ()


class Recording:
    """A subject whose snapshot is what has been asked for, and whose only effect is a row that says so."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Causes]:
        """By task, the causes of its subject that are committed."""
        rows = await conn.fetch("SELECT n, subject FROM causes")
        return {t.id: tuple(r["n"] for r in rows if r["subject"] == t.payload["subject"]) for t in tasks}

    def steps(self, effects: Sequence[tuple[Task, Note]]) -> Sequence[Step]:
        """The same rows in one statement."""
        rows = ((task.id, task.lease_id, note.status, {"seen": list(note.causes)}) for task, note in effects)
        return [Step(RECORD, [list(column) for column in zip(*rows, strict=True)], len(effects))]

    async def hold(self, conn: Connection, effects: Sequence[tuple[Task, Note]]) -> Collection[UUID]:
        """There is nothing to lock."""
        return [task.lease_id for task, _ in effects]

    async def commit(self, conn: Connection, effects: Sequence[tuple[Task, Note]]) -> None:
        """One row per attempt."""
        rows = [(task.id, task.lease_id, note.status, list(note.causes)) for task, note in effects]
        await conn.executemany("INSERT INTO effects VALUES ($1, $2, $3, $4)", rows)

    def observe(self, metrics: Metrics, effects: Sequence[tuple[Task, Note]]) -> None:
        """Nobody counts."""

    def bury(self, task: Task, error: str, unknown: bool) -> Note:
        """A death is an effect, too."""
        return Note("dead")

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """Whoever cancels has seen what was asked for."""
        its = "SELECT 'cancelled', coalesce(array_agg(n), '{}') FROM causes WHERE subject = $1"
        await conn.execute(f"INSERT INTO effects (status, causes) {its}", payload["subject"])


async def _never(task: Task, snapshot: Any, context: Any) -> Outcome[Note]:
    raise NotImplementedError


SUBJECT: Final = Recording()
KINDS: Final[Mapping[str, Kind[Note]]] = {
    "once": Kind("once", Policy(max_attempts=1, backoff_s=0), SUBJECT, _never),
    "often": Kind("often", Policy(max_attempts=3, backoff_s=0), SUBJECT, _never),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claimed task and what its snapshot showed."""

    task: Task
    seen: Causes


@dataclass(frozen=True, slots=True)
class Tables:
    """What is committed at one moment."""

    tasks: Mapping[int, asyncpg.Record]
    ended: Mapping[int, str]
    effects: Sequence[asyncpg.Record]

    def held(self, attempt: Attempt) -> bool:
        """Whether the attempt's lease is the task's present one."""
        row = self.tasks.get(attempt.task.id)
        return row is not None and row["lease_id"] == attempt.task.lease_id

    def claimable(self, *, lonely: bool) -> list[asyncpg.Record]:
        """What may be claimed: due, the first of its key, and nothing of its key running."""
        rows = self.tasks.values()
        taken = {r["key"] for r in rows if r["status"] == "running"}
        due = [r for r in rows if r["status"] == "available" and r["due"]]
        first = {r["key"]: r["id"] for r in sorted(due, key=lambda r: -r["id"])}
        free = [r for r in due if r["key"] is None or (r["key"] not in taken and first[r["key"]] == r["id"])]
        return [r for r in free if (r["interruptions"] >= 3) == lonely]

    def unlike(self, other: "Tables") -> set[int]:
        """The tasks that are not the same in the two."""
        ids = self.tasks.keys() | other.tasks.keys()
        return {i for i in ids if _stable(self.tasks.get(i)) != _stable(other.tasks.get(i))}


def _stable(row: asyncpg.Record | None) -> Mapping[str, Any] | None:
    return None if row is None else {k: v for k, v in row.items() if k != "due"}


@dataclass(slots=True)
class Actor:
    """Somebody with a connection, perhaps in the middle of a transaction."""

    conn: Connection
    id: UUID = field(default_factory=uuid4)
    open: Transaction | None = None
    committed: Callable[[], None] | None = None


class Arena:
    """A database, connections to it, and the loop they live on; shared by all examples of a test."""

    def __init__(self, dsn: str) -> None:
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.observer, *actors = self.run(self._connect(dsn))
        self.daemons = [Actor(c) for c in actors[:3]]
        self.users = [Actor(c) for c in actors[3:]]

    @property
    def actors(self) -> list[Actor]:
        """Everybody who may have a transaction open."""
        return [*self.daemons, *self.users]

    def run(self, coroutine: Any) -> Any:
        """Run to the end on the arena's loop."""
        return self.runner.run(coroutine)

    async def _connect(self, dsn: str) -> list[Connection]:
        conns = [await connect(dsn, session=IMPATIENT) for _ in range(6)]
        await conns[0].execute(SIDE_TABLES)
        return conns

    async def clear(self) -> None:
        """Begin an example."""
        await self.observer.execute(EMPTY)
        for daemon in self.daemons:
            await self.sign_on(daemon)

    async def sign_on(self, daemon: Actor) -> None:
        """A daemon's start: a new id, a row and a lock."""
        daemon.id = uuid4()
        number = await daemon.conn.fetchval(listener.SQL["register"], daemon.id, "host", 1, "test", True)
        assert await daemon.conn.fetchval(listener.SQL["try_lock"], number)

    async def end(self) -> None:
        """End an example, whatever it left open."""
        for actor in self.actors:
            if actor.open is not None:
                await actor.open.rollback()
                actor.open = actor.committed = None
            await actor.conn.execute("SELECT pg_advisory_unlock_all()")

    async def look(self) -> Tables:
        """What everybody can see."""
        tasks = await self.observer.fetch("SELECT t.*, t.run_at <= clock() AS due FROM tasks t")
        ended = await self.observer.fetch("SELECT id, status FROM task_log")
        effects = await self.observer.fetch("SELECT * FROM effects")
        return Tables({r["id"]: r for r in tasks}, {r["id"]: r["status"] for r in ended}, effects)

    def close(self) -> None:
        """End everything."""
        self.run(self._disconnect())
        self.runner.close()

    async def _disconnect(self) -> None:
        for conn in (self.observer, *(a.conn for a in self.actors)):
            await conn.close()
