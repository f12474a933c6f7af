"""The attempts under way: snapshots for a batch, then each task's handler, then its outcome to the committer.

Kinds that only decide run to their end at once, in batches; kinds that call engines run side by side.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any
from uuid import UUID

from daemon import queue
from daemon.answers import tidy
from daemon.db import Connection, Pool, passing
from daemon.log import context, get_logger
from daemon.metrics import Metrics
from daemon.outcome import Fail, Outcome
from daemon.queue import MOST_INTERRUPTIONS, Attempted, Kinds
from daemon.task import Kind, Subject, Task

log = get_logger("attempts")
AT_A_STRETCH = 100  # decisions between which the loop looks at others
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(slots=True)
class Attempts:
    """What this daemon has claimed and not yet written."""

    pool: Pool
    kinds: Kinds
    metrics: Metrics
    context: Any
    spawn: Spawn
    offer: Callable[[Sequence[Attempted]], None]
    on_ended: Callable[[], None]
    calls: Counter[str] = field(default_factory=Counter)
    _running: dict[int, tuple[Task, "asyncio.Task[None] | None"]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        return [task for task, _ in self._running.values()]

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, task_id: int) -> bool:
        return task_id in self._running

    def take(self, tasks: Iterable[Task]) -> None:
        """From now on these are ours."""
        self._running.update({task.id: (task, None) for task in tasks})

    async def begin(self, tasks: Sequence[Task]) -> None:
        """Load what they decide on and let them run."""
        snapshots, malformed = await self._load(tasks)
        if malformed:
            self.offer(malformed)
            bad = {task.id for task, _ in malformed}
            tasks = [t for t in tasks if t.id not in bad]
        await self._start(tasks, snapshots)

    def written(self, attempts: Sequence[Attempted]) -> None:
        """Their outcomes are committed (or lost): they are ours no more."""
        self.drop(task for task, _ in attempts)

    def drop(self, tasks: Iterable[Task]) -> None:
        """Forget these, unless a newer attempt of one runs here."""
        for task in tasks:
            if task.id in self._running and self._running[task.id][0].lease_id == task.lease_id:
                del self._running[task.id]
        self.on_ended()

    def abort(self) -> set[UUID]:
        """Stop them all where they are; the leases they held."""
        lost = {task.lease_id for task in self.tasks}
        for task, attempt in list(self._running.values()):
            if attempt is not None:
                attempt.cancel()
            else:
                del self._running[task.id]
        self.on_ended()
        return lost

    async def cancel_calls(self) -> None:
        """Cut off what still calls an engine, and wait until it is."""
        calls = [attempt for _, attempt in self._running.values() if attempt is not None]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    # -- snapshots

    async def _load(self, tasks: Sequence[Task]) -> tuple[dict[int, Any], list[Attempted]]:
        """The snapshots of a batch, one statement per subject, and the tasks that are malformed and have none."""
        by_subject: dict[Subject[Any], list[Task]] = {}
        for task in tasks:
            by_subject.setdefault(self.kinds[task.kind].subject, []).append(task)
        snapshots: dict[int, Any] = {}
        malformed: list[Attempted] = []
        async with self.pool.acquire() as conn:
            for subject, its_tasks in by_subject.items():
                snapshots |= await _load_each(conn, subject, its_tasks, malformed)
        return snapshots, malformed

    # -- handlers

    async def _start(self, tasks: Sequence[Task], snapshots: Mapping[int, Any]) -> None:
        """Calls begin, then decisions are made, few at a time: nobody else shall wait for hundreds of them."""
        decided: list[Attempted] = []
        for kind, group in self._by_kind(tasks):
            if not kind.policy.decides:
                self._call_all(kind, group, snapshots)
                continue
            for some in _slices(group, AT_A_STRETCH):
                decided += self._decide_all(kind, some, snapshots)
                if len(some) == AT_A_STRETCH:
                    await asyncio.sleep(0)
        if decided:
            self.offer(decided)

    def _by_kind(self, tasks: Sequence[Task]) -> list[tuple[Kind[Any], list[Task]]]:
        """The tasks of each kind in the order of their ids; those that call come first."""
        groups: dict[str, list[Task]] = {}
        for task in sorted(tasks, key=attrgetter("id")):
            groups.setdefault(task.kind, []).append(task)
        return sorted(
            ((self.kinds[name], group) for name, group in groups.items()), key=lambda found: found[0].policy.decides
        )

    def _call_all(self, kind: Kind[Any], tasks: Iterable[Task], snapshots: Mapping[int, Any]) -> None:
        for task in tasks:
            self.calls[kind.name] += 1
            self._running[task.id] = (task, self.spawn(self._attempt(kind, task, snapshots.get(task.id))))

    def _decide_all(self, kind: Kind[Any], tasks: Sequence[Task], snapshots: Mapping[int, Any]) -> list[Attempted]:
        began = time.perf_counter()
        decided = [(task, self._decide(kind, task, snapshots.get(task.id))) for task in tasks]
        self.metrics.task_seconds.observe((time.perf_counter() - began) / len(tasks), kind.name, len(tasks))
        return decided

    def _decide(self, kind: Kind[Any], task: Task, snapshot: Any) -> Outcome[Any]:
        """Run a handler that waits for nothing; one that does is a mistake in its declaration."""
        if task.interruptions >= MOST_INTERRUPTIONS:
            return _worn_out(task)
        attempt = kind.execute(task, snapshot, self.context)
        try:
            attempt.send(None)  # type: ignore[attr-defined]  # handlers are coroutines; Awaitable has no send
        except StopIteration as end:
            return end.value
        except Exception as error:  # the attempt: whatever a handler raises is this task's failure
            log.exception("handler raised", task=task.id, kind=kind.name)
            return Fail(tidy(f"{type(error).__name__}: {error}"))
        attempt.close()  # type: ignore[attr-defined]  # as above
        return Fail(f"{kind.name} is declared to wait for nothing, but it waited", retryable=False)

    async def _attempt(self, kind: Kind[Any], task: Task, snapshot: Any) -> None:
        with context(task=task.id, kind=kind.name, attempt=task.attempt, key=task.key):
            try:
                outcome = await self._execute(kind, task, snapshot)
            except asyncio.CancelledError:
                self.calls[task.kind] -= 1
                self.drop([task])
                raise
        self.calls[kind.name] -= 1
        self._running[task.id] = (task, None)
        self.offer([(task, outcome)])

    async def _execute(self, kind: Kind[Any], task: Task, snapshot: Any) -> Outcome[Any]:
        if task.interruptions >= MOST_INTERRUPTIONS:
            return _worn_out(task)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(kind.policy.timeout_s):
                return await kind.execute(task, snapshot, self.context)
        except TimeoutError:
            return Fail(f"timed out (the kind's limit: {kind.policy.timeout_s} s)")
        except Exception as error:  # the attempt: whatever a handler raises is this task's failure
            log.exception("handler raised")
            return Fail(tidy(f"{type(error).__name__}: {error}"))
        finally:
            self.metrics.task_seconds.observe(time.perf_counter() - began, kind.name)


async def _load_each(
    conn: Connection, subject: Subject[Any], tasks: Sequence[Task], malformed: list[Attempted]
) -> Mapping[int, Any]:
    """Load a batch; if that fails, one by one, so that one malformed task harms no other."""
    try:
        return await subject.load(conn, tasks)
    except queue.REFUSALS as error:
        if passing(error) or conn.is_closed():
            raise
        if len(tasks) == 1:
            log.warning("malformed task", task=tasks[0].id, kind=tasks[0].kind, error=str(error))
            malformed.append((tasks[0], Fail(tidy(f"malformed: {type(error).__name__}: {error}"), retryable=False)))
            return {}
    snapshots: dict[int, Any] = {}
    for task in tasks:
        snapshots |= await _load_each(conn, subject, [task], malformed)
    return snapshots


def _slices(tasks: Sequence[Task], size: int) -> Iterator[Sequence[Task]]:
    """Slices of at most that size."""
    return (tasks[start : start + size] for start in range(0, len(tasks), size))


def _worn_out(task: Task) -> Fail:
    return Fail(f"interrupted {task.interruptions} times: it may be what ends the daemon", retryable=False)
