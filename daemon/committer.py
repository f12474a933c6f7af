"""Writes outcomes: as many as are at hand in one transaction, and one by one when such a batch fails.

An outcome whose subject is locked by somebody else waits here, without being executed again; one that the
database refuses becomes a failure of its own task. Neither harms the others.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from daemon import queue
from daemon.answers import tidy
from daemon.db import RECONNECT_S, UNREACHABLE, Connection, Pool, passing
from daemon.log import get_logger
from daemon.metrics import Metrics
from daemon.outcome import Fail, Outcome
from daemon.queue import Attempted, Kinds, Written
from daemon.task import Task

LARGEST_BATCH = 1000
LOCKED_AGAIN_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

ONE_BY_ONE = 100
LEVELS = {"done": logging.INFO, "retry": logging.INFO, "dead": logging.ERROR, "lost": logging.WARNING}
log = get_logger("committer")


@dataclass(slots=True)
class Waiting:
    """An outcome whose subject is locked, and how often it has been tried."""

    attempted: Attempted
    tries: int = 0


@dataclass(slots=True)
class Committer:
    """Owns the outcomes at hand between the handlers' end and the commit."""

    pool: Pool
    kinds: Kinds
    metrics: Metrics
    on_written: Callable[[Sequence[Attempted]], None]
    writing: int = 0  # batches
    _at_hand: list[Attempted] = field(default_factory=list)
    _locked: dict[UUID, Waiting] = field(default_factory=dict)
    _being_written: set[UUID] = field(default_factory=set)
    _offered: asyncio.Event = field(default_factory=asyncio.Event)
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, attempts: Sequence[Attempted]) -> None:
        """Take over outcomes; they are committed as soon as the transaction before is."""
        self._at_hand.extend(attempts)
        self._offered.set()

    @property
    def backlog(self) -> int:
        return len(self._at_hand) + len(self._locked)

    def drop(self, leases: set[UUID]) -> None:
        """Forget outcomes whose lease is known to be gone."""
        self._at_hand = [a for a in self._at_hand if a[0].lease_id not in leases]
        self._locked = {lease: w for lease, w in self._locked.items() if lease not in leases}

    async def written_but(self, most: int) -> None:
        """Wait until no more batches than that are being written."""
        while self.writing > most:
            self._free.clear()
            await self._free.wait()

    async def run(self) -> None:
        """Commit until cancelled. Two of these overlap one's SQL with the other's Python."""
        while True:
            await self.flush()
            await self._offered.wait()
            self._offered.clear()

    async def flush(self) -> None:
        """Commit everything at hand; locked ones come back by themselves."""
        while self._at_hand:
            batch = self._take()
            self._being_written.update(a[0].lease_id for a in batch)
            self.writing += 1
            try:
                await self._commit(batch)
            except BaseException:
                self._at_hand = [a for a in batch if a[0].lease_id in self._being_written] + self._at_hand
                raise
            finally:
                self._being_written.difference_update(a[0].lease_id for a in batch)
                self.writing -= 1
                self._free.set()

    def _take(self) -> list[Attempted]:
        """The first outcomes of one subject: only those can be written at once."""
        subject = self.kinds[self._at_hand[0][0].kind].subject
        batch: list[Attempted] = []
        rest: list[Attempted] = []
        for attempt in self._at_hand:
            fits = len(batch) < LARGEST_BATCH and self.kinds[attempt[0].kind].subject is subject
            (batch if fits else rest).append(attempt)
        self._at_hand = rest
        return batch

    async def _commit(self, batch: list[Attempted]) -> None:
        try:
            self._written(await self._write_surely(batch))
        except queue.REFUSALS as error:
            if len(batch) > 1:
                log.info("batch refused, committing one by one", size=len(batch), error=str(error))
            for attempt in batch:
                self._written(await self._write_one(attempt))

    async def _write_one(self, attempt: Attempted) -> Written:
        """Its outcome; if the database refuses that, a failure instead; if it refuses even that, a bare dead letter."""
        task, outcome = attempt
        refused = Fail("outcome refused", retryable=not isinstance(outcome, Fail))
        try:
            return await self._write_surely([attempt], at_once=False)
        except queue.REFUSALS as error:
            if passing(error):
                return Written(locked=[attempt])
            log.warning("outcome refused by the database", **_described(task), error=str(error))
            refused = replace(refused, error=tidy(f"outcome refused: {error}"))
        try:
            return await self._write_surely([(task, refused)], at_once=False)
        except queue.REFUSALS as error:
            if passing(error):
                return Written(locked=[attempt])
            log.error("a task's subject can't be told of its death", **_described(task), error=str(error))
            return await self._write_surely([(task, Fail(refused.error, retryable=False))], at_once=False, bury=False)

    async def _write_surely(self, batch: list[Attempted], *, at_once: bool = True, bury: bool = True) -> Written:
        """Write through lost connections: the fence makes a repeated write harmless."""
        at_once = at_once and not any(task.lease_id in self._locked for task, _ in batch)
        tries = 0
        while True:
            try:
                async with self.pool.acquire() as conn:
                    written = await queue.write_at_once(conn, self.kinds, batch) if at_once else None
                    return written or await self._write(conn, batch, bury=bury)
            except UNREACHABLE as error:
                if tries == 0:
                    log.info("database connection lost while committing", error=str(error))
                await asyncio.sleep(RECONNECT_S[min(tries, len(RECONNECT_S) - 1)])
                tries += 1

    async def _write(self, conn: Connection, batch: list[Attempted], *, bury: bool) -> Written:
        async with conn.transaction():
            written = await queue.write(conn, self.kinds, batch, bury=bury)
        if not written.lost:
            return written
        # Perhaps they were settled by ourselves: the answer to a COMMIT was lost.
        mine = await queue.settled_already(conn, written.lost)
        settled = [queue.judge(self.kinds, *a, bury=False) for a in written.lost if a[0].lease_id in mine]
        lost = [a for a in written.lost if a[0].lease_id not in mine]
        return Written([*written.verdicts, *settled], written.locked, lost)

    def _written(self, written: Written) -> None:
        self._being_written.difference_update(v.task.lease_id for v in written.verdicts)
        self._being_written.difference_update(a[0].lease_id for a in (*written.locked, *written.lost))
        for attempt in written.locked:
            self._wait_for_lock(attempt)
        for subject, effects in queue.by_subject(self.kinds, written.verdicts).items():
            subject.observe(self.metrics, effects)
        for becomes in ("done", "retry", "dead"):
            group = [v for v in written.verdicts if v.becomes == becomes]
            if group:
                self._ended(becomes, [(v.task, v.outcome) for v in group])
        if written.lost:
            self.metrics.leases_lost.inc(len(written.lost))
            self._ended("lost", written.lost)

    def _ended(self, outcome: str, attempts: Sequence[Attempted]) -> None:
        for kind, count in Counter(task.kind for task, _ in attempts).items():
            self.metrics.tasks.labels(kind, outcome).inc(count)
        _tell(outcome, attempts)
        for task, _ in attempts if self._locked else ():
            self._locked.pop(task.lease_id, None)
        self.on_written(attempts)

    def _wait_for_lock(self, attempt: Attempted) -> None:
        waiting = self._locked.setdefault(attempt[0].lease_id, Waiting(attempt))
        delay = LOCKED_AGAIN_S[min(waiting.tries, len(LOCKED_AGAIN_S) - 1)]
        waiting.tries += 1
        asyncio.get_running_loop().call_later(delay, self._try_again, attempt)

    def _try_again(self, attempt: Attempted) -> None:
        if attempt[0].lease_id in self._locked:
            self.offer([attempt])

    @property
    def locked(self) -> list[Any]:
        """The tasks whose outcome waits for somebody else's lock."""
        return [w.attempted[0] for w in self._locked.values()]


def _tell(outcome: str, attempts: Sequence[Attempted]) -> None:
    """A line per task; of a crowd that came to its end as it should one for all, and theirs with --log-level DEBUG."""
    level = LEVELS[outcome]
    if outcome == "done" and len(attempts) > ONE_BY_ONE:
        log.log(level, "tasks ended", outcome=outcome, kinds=dict(Counter(task.kind for task, _ in attempts)))
        level = logging.DEBUG
    if log.is_enabled_for(level):
        for task, came_to in attempts:
            log.log(level, "task ended", outcome=outcome, **_described(task), reason=_why(came_to))


def _described(task: Task) -> dict[str, Any]:
    return {
        "task": task.id,
        "kind": task.kind,
        "key": task.key,
        "attempt": task.attempt,
        "lead": task.payload.get("lead_id"),
    }


def _why(outcome: Outcome[Any]) -> str:
    return outcome.error if isinstance(outcome, Fail) else outcome.reason
