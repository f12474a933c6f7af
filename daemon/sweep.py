"""The sweep: repairs what should have a task and has none; a failing step never stops the rest."""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from daemon import __version__
from daemon.db import UNREACHABLE, Connection, Pool, Statements
from daemon.log import get_logger
from daemon.metrics import Metrics

SQL = Statements("daemon", "sweep.sql")
log = get_logger("sweep")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a sweep; answers how much it did, a bounded bite: of a `repair`, causes found without their task."""

    name: str
    run: Callable[[Connection], Awaitable[int]]
    repair: bool = True


@dataclass(slots=True)
class Sweep:
    """Repairs what should have a task and has none; a failing step never stops the rest."""

    pool: Pool
    steps: Sequence[Step]
    metrics: Metrics
    last: datetime | None = None

    async def run(self, *, whole: bool = False) -> int:
        """Run every step, each in its own transaction, or as many as leave it nothing; the number of causes found."""
        began = time.perf_counter()
        results = [await (self._whole(step) if whole else self._step(step)) for step in self.steps]
        found = sum(n or 0 for step, n in zip(self.steps, results, strict=True) if step.repair)
        if None not in results:
            self.metrics.sweep_last_success.set_to_current_time()
            self.last = datetime.now().astimezone()
        log.info("swept", found=found, seconds=round(time.perf_counter() - began, 4), failed=results.count(None))
        return found

    async def _whole(self, step: Step) -> int | None:
        total = 0
        while did := await self._step(step):
            total += did
        return None if did is None else total

    async def _step(self, step: Step) -> int | None:
        try:
            with self.metrics.sweep_seconds.labels(step.name).time():
                async with self.pool.acquire() as conn, conn.transaction():
                    did = await step.run(conn)
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            log.error("sweep step failed", step=step.name, error=str(error))
            return None
        if did and step.repair:
            self.metrics.found_by_sweep.inc(did)
            log.warning("sweep found work without a task", step=step.name, found=did)
        return did


def strange_kinds(known: Collection[str]) -> Step:
    """Set aside the tasks of kinds that no daemon knows, and take up those that were and are `known` now."""
    names = sorted(known)

    async def look(conn: Connection) -> int:
        strange = [row["kind"] for row in await conn.fetch(SQL["strange_kinds"], names, __version__)]
        aside = changed(await conn.execute(SQL["set_aside"], strange)) if strange else 0
        if aside:
            log.warning("tasks of kinds that no daemon knows were set aside", tasks=aside, kinds=strange)
        taken_up = changed(await conn.execute(SQL["take_up"], names))
        if taken_up:
            log.info("tasks that had been set aside are due again", tasks=taken_up)
        return aside + taken_up

    return Step("strange_kinds", look, repair=False)


def changed(tag: str) -> int:
    """The number of rows in what the server says of a statement (`INSERT 0 5`, `UPDATE 3`)."""
    return int(tag.rsplit(" ", 1)[-1])
