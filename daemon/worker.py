"""The loop between the queue and the handlers: wake, claim what there is room for, attempt, offer the outcome.

Kinds that only decide and kinds that call engines have room of their own, so that slow engines never hold back
decisions. There is no queue in memory: what is claimed is being attempted.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import sample
from typing import Any
from uuid import UUID

import asyncpg

from daemon import queue
from daemon.attempts import Attempts, Spawn
from daemon.committer import Committer
from daemon.db import CLIENT_CONFUSED, RECONNECT_S, UNREACHABLE, Pool
from daemon.log import get_logger
from daemon.lonely import Lonely
from daemon.metrics import Metrics
from daemon.queue import Attempted, Kinds, Room
from daemon.task import Task

log = get_logger("worker")
POLL_S, POLL_UNHEALTHY_S = 30.0, 0.5  # the pulse, too, says what waits
GIVE_BACK_S = 0.5
GATHER_S = 0.05
BATCHES_IN_FLIGHT = 3  # one being claimed, two being written
LOCKED_MAY_PILE_UP = 10  # batches of outcomes that wait for a lock before claiming halts


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one daemon takes on."""

    concurrency: int = 64
    batch: int = 1000
    lease_s: float = 30.0


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
    attempts: Attempts = field(init=False)
    _lonely: Lonely = field(default_factory=Lonely)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _claiming: bool = False
    _deciding: list[str] = field(init=False)
    _calling: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._deciding = [name for name, kind in self.kinds.items() if kind.policy.decides]
        self._calling = {n: kind.policy.concurrency for n, kind in self.kinds.items() if kind.policy.concurrency}
        self.committer = Committer(self.pool, self.kinds, self.metrics, self._written)
        self.attempts = Attempts(
            self.claims, self.kinds, self.metrics, self.context, self.spawn, self.committer.offer, self._ended
        )
        self._idle.set()

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    def notice_lonely(self) -> None:
        """A task waits that has been interrupted too often to be attempted beside other calls."""
        if self._lonely.notice():
            self.wake()

    @property
    def running(self) -> list[Task]:
        return self.attempts.tasks

    # -- the loop

    async def run(self) -> None:
        """Claim and attempt until told to stop; what goes wrong with the connection is tried again."""
        more = False
        while not self.stopping:
            await self._gather(more)
            self._woken.clear()
            try:
                more = (await self.run_once()).more
            except (*UNREACHABLE, *CLIENT_CONFUSED, asyncpg.PostgresError) as error:
                log.info("can't claim", error=str(error))
                more = False
            if not more and not self.stopping:
                await self._wait()

    async def _gather(self, more: bool) -> None:
        """What comes while a batch is being written is better claimed and written together.

        Unless there is more than one batch of it already, or engines wait for calls. A write that takes long is no
        reason to wait: an opt-out may be among what comes.
        """
        most = 1 if more or self.attempts.calls.total() else 0
        if self.committer.writing > most:
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self.committer.written_but(most)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(POLL_S if self.healthy() else POLL_UNHEALTHY_S):
                await self._woken.wait()
        except TimeoutError:
            return

    async def run_once(self) -> "Round":
        """Claim one batch and attempt it."""
        if self._lonely.waits and not self.attempts.calls.total():
            return await self._run_lonely()
        room = self._room()
        claimed = await self._claim(room)
        if claimed:
            await self._attempt(claimed)
        return Round(len(claimed), room.used_up_by(task.kind for task in claimed))

    async def drain(self) -> int:
        """Run until nothing more can be claimed and every outcome is written; the number of tasks attempted."""
        total = 0
        while True:
            self._woken.clear()
            busy = bool(self.attempts)  # what ends from here on may queue more
            found = (await self.run_once()).claimed
            total += found
            await self.committer.flush()
            if not found and not busy:
                return total
            if not found and self.attempts:
                await self._wait()

    # -- claiming

    def _room(self) -> Room:
        """How many tasks of each kind may be claimed now, and how many in all."""
        if self.stopping:
            return Room()
        most = self._room_for_decisions()
        return Room(dict.fromkeys(self._deciding, most) if most else {}, most, *self._room_for_calls())

    def _room_for_calls(self) -> tuple[dict[str, int], int]:
        self._lonely.turn_away()
        if self._lonely.waits or self._lonely.running in self.attempts:
            return {}, 0
        calls = self.attempts.calls
        free = max(self.limits.concurrency - calls.total(), 0)
        names = sample(list(self._calling), len(self._calling))  # so that no kind always comes last
        return {name: room for name in names if (room := min(free, self._calling[name] - calls[name])) > 0}, free

    def _room_for_decisions(self) -> int:
        locked = len(self.committer.locked)
        if locked > LOCKED_MAY_PILE_UP * self.limits.batch:
            return 0
        decided = len(self.attempts) - self.attempts.calls.total() - locked
        return max(min(self.limits.batch, BATCHES_IN_FLIGHT * self.limits.batch - decided), 0)

    async def _claim(self, room: Room) -> list[Task]:
        if not room:
            return []
        self._claiming = True
        self._idle.clear()
        claimed: list[Task] = []
        try:
            async with self.claims.acquire() as conn:
                claimed = await queue.claim(conn, self.kinds, room, worker=self.id, lease_s=self.limits.lease_s)
        finally:
            self._claiming = False
            if not claimed:
                self._maybe_idle()
        return claimed

    async def _run_lonely(self) -> "Round":
        """Nothing else is called or unwritten: if the daemon ends now, it was this task's doing."""
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # some outcome may wait for somebody's lock
                await self._idle.wait()
        async with self.claims.acquire() as conn:
            claimed = await queue.claim_lonely(conn, self.kinds, self.id, self.limits.lease_s)
        self._lonely.claimed(claimed[0].id if claimed else None)
        await self._attempt(claimed)
        return Round(len(claimed), more=True)

    async def _attempt(self, tasks: Sequence[Task]) -> None:
        self.attempts.take(tasks)
        self._idle.clear()
        self.metrics.event_latency.observe_each([max(0.0, t.waited_s) for t in tasks if t.waited_s is not None])
        try:
            await self.attempts.begin(tasks)
        except BaseException:  # whatever it was: what is not attempted is not kept
            await self._give_back(tasks)
            raise

    # -- ending

    def _written(self, attempts: Sequence[Attempted]) -> None:
        self.attempts.written(attempts)

    def _ended(self) -> None:
        self._maybe_idle()
        self.wake()

    def _maybe_idle(self) -> None:
        if not self.attempts and not self._claiming:
            self._idle.set()

    async def _give_back(self, tasks: Sequence[Task]) -> None:
        """Make claimed tasks available again; if the database is away, their lease runs out or a peer takes over."""
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._give_back_surely(tasks)
        except (*UNREACHABLE, *CLIENT_CONFUSED, asyncpg.PostgresError) as error:
            log.info("can't give back; the lease will", tasks=len(tasks), error=str(error))
        self.attempts.drop(tasks)

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
        lost = self.attempts.abort()
        self.committer.drop(lost)
        if lost:
            log.warning("attempts aborted: the leases are gone", tasks=len(lost))
            self.metrics.leases_lost.inc(len(lost))

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
            await self.attempts.cancel_calls()
            await self._give_back(left)


@dataclass(frozen=True, slots=True)
class Round:
    """What one claim brought, and whether there may be more of what it had room for."""

    claimed: int
    more: bool
