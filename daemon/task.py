"""A task as the worker sees it, and what a kind of task must offer."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from daemon.outcome import Outcome

if TYPE_CHECKING:
    from asyncpg import Connection

    from daemon.metrics import Metrics
    from daemon.together import Step

E = TypeVar("E")

URGENT, NORMAL, LOW = 10, 50, 90
"""Priorities: the lower goes first within its kind."""


class Task(NamedTuple):
    """One claimed attempt. `now` is the business time of the claim; `lease_id` is its fence.

    `waited_s`: since its cause was committed; None if it had to wait for its time. A tuple, because a frozen
    dataclass takes longer to make than to claim.
    """

    id: int
    kind: str
    key: str | None
    payload: Mapping[str, Any]
    attempt: int
    max_attempts: int
    round: int
    interruptions: int
    lease_id: UUID
    waited_s: float | None
    now: datetime


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be queued in the transaction of its cause; `run_at` None is now, `max_attempts` None its kind's."""

    kind: str
    payload: Mapping[str, Any]
    key: str | None = None
    run_at: datetime | None = None
    priority: int = NORMAL
    dedup_key: str | None = None
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How a kind is tried. `concurrency` None: it decides without waiting for anything, so it needs no slot."""

    max_attempts: int = 3
    backoff_s: float = 2.0
    timeout_s: float | None = None
    concurrency: int | None = None

    @property
    def decides(self) -> bool:
        """Whether it waits for nothing."""
        return self.concurrency is None


class Subject(Protocol[E]):
    """What a family of kinds is about: it alone reads the snapshots and writes the effects, in sets."""

    async def load(self, conn: "Connection[Any]", tasks: Sequence[Task]) -> Mapping[int, Any]:
        """The snapshots that the attempts will decide on, by task id; a subject that is gone has none."""

    def steps(self, effects: Sequence[tuple[Task, E]]) -> "Sequence[Step] | None":
        """The statements that write these effects, if they may run as one with the settling; None: by `commit`."""

    async def hold(self, conn: "Connection[Any]", effects: Sequence[tuple[Task, E]]) -> Collection[UUID]:
        """Lock what is to be written, waiting for nobody; the leases of the attempts that may be committed now."""

    async def commit(self, conn: "Connection[Any]", effects: Sequence[tuple[Task, E]]) -> None:
        """Write the effects. SQL only, one statement per kind of effect."""

    def observe(self, metrics: "Metrics", effects: Sequence[tuple[Task, E]]) -> None:
        """Count what has been committed."""

    def bury(self, task: Task, error: str, unknown: bool) -> E:
        """What a dead letter means for the subject."""

    async def cancel(self, conn: "Connection[Any]", kind: str, payload: Mapping[str, Any]) -> None:
        """What a person's cancelling of the task means for the subject."""


Execute = Callable[[Task, Any, Any], Awaitable[Outcome[E]]]
"""(task, snapshot, context) -> outcome. May call engines; writes nothing, sleeps never, retries nothing."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[E]):
    """A kind of task: how it is tried, what it is about, and its handler."""

    name: str
    policy: Policy
    subject: Subject[E]
    execute: Execute[E]
