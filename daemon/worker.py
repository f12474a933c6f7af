"""The loop between the queue and the handlers: wake, claim what there is room for, attempt, offer the outcome.

Kinds that only decide run to their end at once, in batches; kinds that call engines take one of the slots.
There is no queue in memory: what is claimed is being attempted.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from random import sample
from typing import Any
from uuid import UUID

import asyncpg

from daemon import queue
from daemon.answers import tidy
from daemon.committer import Committer
from daemon.db import CLIENT_CONFUSED, RECONNECT_S, UNREACHABLE, Connection, Pool, passing
from daemon.log import context, get_logger
from daemon.metrics import Metrics
from daemon.outcome import Fail, Outcome
from daemon.queue import MOST_INTERRUPTIONS, Attempted, Claimed, Kinds
from daemon.task import Kind, Subject, Task

log = get_logger("worker")
POLL_S, POLL_UNHEALTHY_S = 5.0, 0.5
QUIET_S = 30.0  # for so long calls may be held back to let a lonely task run alone
GIVE_BACK_S = 0.5
BATCHES_IN_FLIGHT = 3  # one being claimed, two being written
LOCKED_MAY_PILE_UP = 10  # batches of outcomes that wait for a lock before claiming halts

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one daemon takes on."""

    concurrency: int = 64
    batch: int = 500
    lease_s: float = 30.0


@dataclass(slots=True)
class Lane:
    """The kinds that claim together: those that only decide, or those that call engines."""

    kinds: Kinds
    woken: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Worker:
    """One daemon's claims and attempts."""

    claims: Pool
    pool: Pool
    kinds: Kinds
    metrics: Metrics
    limits: Limits
    context: Any
    spawn: Spawn
    id: UUID
    healthy: Callable[[], bool] = lambda: True
    stopping: bool = False
    committer: Committer = field(init=False)
    deciding: Lane = field(init=False)
    calling: Lane = field(init=False)
    _running: dict[int, tuple[Task, "asyncio.Task[None] | None"]] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _claiming: int = 0
    _lonely: bool = False
    _lonely_since: float = 0.0
    _lonely_again_at: float = 0.0
    _alone: int = 0

    def __post_init__(self) -> None:
        self.committer = Committer(self.pool, self.kinds, self.metrics, self._written)
        self.deciding = Lane({n: k for n, k in self.kinds.items() if k.policy.concurrency is None})
        self.calling = Lane({n: k for n, k in self.kinds.items() if k.policy.concurrency is not None})
        self._idle.set()

    def wake(self) -> None:
        """Something may be due."""
        self.deciding.woken.set()
        self.calling.woken.set()

    @property
    def running(self) -> list[Task]:
        return [task for task, _ in self._running.values()]

    # -- the loop

    async def run(self, lane: Lane) -> None:
        """Claim and attempt until told to stop; what goes wrong with the connection is tried again."""
        while not self.stopping:
            lane.woken.clear()
            try:
                found = await self.run_once(lane)
            except (*UNREACHABLE, *CLIENT_CONFUSED, asyncpg.PostgresError) as error:
                log.info("can't claim", error=str(error))
                found = 0
            if not found and not self.stopping:
                await self._wait(lane)

    async def _wait(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(POLL_S if self.healthy() else POLL_UNHEALTHY_S):
                await lane.woken.wait()
        except TimeoutError:
            return

    async def run_once(self, lane: Lane) -> int:
        """Claim one batch and attempt it; the number of tasks claimed."""
        if lane is self.calling and self._hold_calls():
            return 0
        if lane is self.deciding and self._lonely and not self._calls.total():
            return await self._run_lonely()
        claimed = await self._claim(lane)
        if claimed:
            await self._attempt_all(claimed)
        return len(claimed)

    async def drain(self) -> int:
        """Run until nothing more can be claimed and every outcome is written; the number of tasks attempted."""
        total = 0
        while True:
            self.deciding.woken.clear()
            busy = bool(self._running)  # what ends from here on may queue more
            found = await self.run_once(self.deciding) + await self.run_once(self.calling)
            total += found
            await self.committer.flush()
            if not found and not busy:
                return total
            if not found and self._running:
                await self._wait(self.deciding)

    # -- claiming

    def _room(self, lane: Lane) -> tuple[dict[str, int], int]:
        """How many tasks of each kind may be claimed now, and how many in all."""
        if self.stopping:
            return {}, 0
        if lane is self.calling:
            free = self.limits.concurrency - self._calls.total()
            names = sample(list(lane.kinds), len(lane.kinds))  # so that no kind always comes last
            caps = {name: min(free, (lane.kinds[name].policy.concurrency or 0) - self._calls[name]) for name in names}
            return {name: n for name, n in caps.items() if n > 0}, max(free, 0)
        locked = len(self.committer.locked)
        decided = len(self._running) - self._calls.total() - locked
        batch = min(self.limits.batch, BATCHES_IN_FLIGHT * self.limits.batch - decided)
        if batch <= 0 or locked > LOCKED_MAY_PILE_UP * self.limits.batch:
            return {}, 0
        return dict.fromkeys(lane.kinds, batch), batch

    async def _claim(self, lane: Lane) -> list[Claimed]:
        room, total = self._room(lane)
        if not room:
            return []
        self._claiming += 1
        self._idle.clear()
        claimed: list[Claimed] = []
        try:
            async with self.claims.acquire() as conn:
                claimed = await queue.claim(conn, self.kinds, room, total, worker=self.id, lease_s=self.limits.lease_s)
        finally:
            self._claiming -= 1
            if not claimed:
                self._maybe_idle()
        return claimed

    # -- a task that keeps ending its daemon

    def notice_lonely(self) -> None:
        """A task waits that has been interrupted too often to be attempted beside other calls."""
        if not self._lonely and time.monotonic() >= self._lonely_again_at:
            self._lonely, self._lonely_since = True, time.monotonic()
            self.wake()

    def _hold_calls(self) -> bool:
        """Whether no new call may begin, for a lonely task's sake; a very long call makes it wait for another time."""
        if self._lonely and self._calls.total() and time.monotonic() - self._lonely_since > QUIET_S:
            self._lonely, self._lonely_again_at = False, time.monotonic() + 2 * QUIET_S
        return self._lonely or self._alone in self._running

    async def _run_lonely(self) -> int:
        """Nothing else is called or unwritten: if the daemon ends now, it was this task's doing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # some outcome may wait for somebody's lock
                await self._idle.wait()
        async with self.claims.acquire() as conn:
            claimed = await queue.claim_lonely(conn, self.kinds, self.id, self.limits.lease_s)
        self._lonely, self._lonely_since = bool(claimed), time.monotonic()  # there may be more
        self._alone = claimed[0].task.id if claimed else 0
        await self._attempt_all(claimed)
        self.wake()
        return len(claimed)

    # -- attempting

    async def _attempt_all(self, claimed: Sequence[Claimed]) -> None:
        tasks = [c.task for c in claimed]
        self._running.update({t.id: (t, None) for t in tasks})
        self._idle.clear()
        for c in claimed:
            if c.waited_s is not None:
                self.metrics.event_latency.observe(max(0.0, c.waited_s))
        try:
            snapshots, malformed = await self._load(tasks)
        except BaseException:  # whatever it was: what is not attempted is not kept
            await self._give_back(tasks)
            raise
        if malformed:
            self.committer.offer(malformed)
            bad = {task.id for task, _ in malformed}
            tasks = [t for t in tasks if t.id not in bad]
        self._start(tasks, snapshots)

    async def _load(self, tasks: Sequence[Task]) -> tuple[dict[int, Any], list[Attempted]]:
        """The snapshots of a batch, one statement per subject, and the tasks that are malformed and have none."""
        by_subject: dict[Subject[Any], list[Task]] = {}
        for task in tasks:
            by_subject.setdefault(self.kinds[task.kind].subject, []).append(task)
        snapshots: dict[int, Any] = {}
        malformed: list[Attempted] = []
        async with self.claims.acquire() as conn:
            for subject, its_tasks in by_subject.items():
                snapshots |= await _load_each(conn, subject, its_tasks, malformed)
        return snapshots, malformed

    def _start(self, tasks: Sequence[Task], snapshots: Mapping[int, Any]) -> None:
        decided: list[Attempted] = []
        for name, group in groupby(sorted(tasks, key=lambda t: (t.kind, t.id)), key=lambda t: t.kind):
            kind = self.kinds[name]
            if kind.policy.concurrency is None:
                decided += self._decide_all(kind, list(group), snapshots)
                continue
            for task in group:
                self._calls[name] += 1
                self._running[task.id] = (task, self.spawn(self._attempt(kind, task, snapshots.get(task.id))))
        if decided:
            self.committer.offer(decided)

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
                self._forget(task)
                raise
        self._calls[kind.name] -= 1
        self._running[task.id] = (task, None)
        self.committer.offer([(task, outcome)])

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

    # -- ending

    def _written(self, attempts: Sequence[Attempted]) -> None:
        for task, _ in attempts:
            self._drop(task)
        self._ended()

    def _forget(self, task: Task) -> None:
        self._drop(task)
        self._calls[task.kind] -= 1
        self._ended()

    def _drop(self, task: Task) -> None:
        """Unless a newer attempt of it runs here."""
        if task.id in self._running and self._running[task.id][0].lease_id == task.lease_id:
            del self._running[task.id]

    def _ended(self) -> None:
        self._maybe_idle()
        self.wake()

    def _maybe_idle(self) -> None:
        if not self._running and not self._claiming:
            self._idle.set()

    async def _give_back(self, tasks: Sequence[Task]) -> None:
        """Make claimed tasks available again; if the database is away, their lease runs out or a peer takes over."""
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._give_back_surely(tasks)
        except (*UNREACHABLE, *CLIENT_CONFUSED, asyncpg.PostgresError) as error:
            log.info("can't give back; the lease will", tasks=len(tasks), error=str(error))
        for task in tasks:
            self._drop(task)
        self._ended()

    async def _give_back_surely(self, tasks: Sequence[Task]) -> None:
        while True:
            try:
                async with self.pool.acquire() as conn:
                    await queue.give_back(conn, tasks)
            except UNREACHABLE:  # the next pooled connection may be dead, too
                await asyncio.sleep(RECONNECT_S[0])
            else:
                return

    def abort(self) -> None:
        """Nobody may count on this daemon's leases any more: stop attempting, discard outcomes."""
        lost = {task.lease_id for task in self.running}
        self.committer.drop(lost)
        for task, attempt in list(self._running.values()):
            if attempt is not None:
                attempt.cancel()
            else:
                self._running.pop(task.id, None)
        if lost:
            log.warning("attempts aborted: the leases are gone", tasks=len(lost))
            self.metrics.leases_lost.inc(len(lost))
        self._ended()

    async def stop(self, grace_s: float) -> None:
        """Claim nothing more, let attempts end within the grace, give back the rest."""
        self.stopping = True
        self.wake()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            left = self.running
            log.info("giving back what did not end in time", tasks=len(left))
            calls = [attempt for _, attempt in self._running.values() if attempt is not None]
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await self._give_back(left)


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


def _worn_out(task: Task) -> Fail:
    return Fail(f"interrupted {task.interruptions} times: it may be what ends the daemon", retryable=False)
