"""What happens by the clock: the daemon's own jobs in `schedules`; and lease renewal.

A slot is won by whoever moves `next_slot` on, so any number of daemons fire it once. Deadlines need no timer of
their own: the listener's beat fires them, and it beats when the next one is due.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg

from daemon import queue
from daemon.cron import Cron, due_slots
from daemon.db import UNREACHABLE, Connection, Pool, Statements
from daemon.log import get_logger
from daemon.metrics import Metrics
from daemon.worker import Worker

SQL = Statements("daemon", "worker.sql")
log = get_logger("timers")

TICK = timedelta(microseconds=1)
Job = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Timers:
    """Fires the slots of `schedules`."""

    pool: Pool
    jobs: Mapping[str, Job]
    metrics: Metrics
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: set[str] = field(default_factory=set)
    _refused: set[tuple[str, str, str]] = field(default_factory=set)

    def look(self) -> None:
        """A slot may be due."""
        self._due.set()

    def ask(self, job: str) -> None:
        """Have a job run soon, besides its slots."""
        self._asked.add(job)
        self._due.set()

    async def run(self) -> None:
        """Fire what is due until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.fire()
            except (*UNREACHABLE, asyncpg.PostgresError) as error:
                log.warning("schedules could not be read", error=str(error))

    async def fire(self) -> None:
        """Run the jobs whose slot this daemon won, and those that were asked for."""
        async with self.pool.acquire() as conn:
            rows = await conn.fetch(SQL["due_schedules"])
            won = {row["name"] for row in rows if await self._win(conn, row)}
        names, self._asked = won | self._asked, set()
        for name in sorted(names & self.jobs.keys()):
            try:
                await self.jobs[name]()
            except (
                *UNREACHABLE,
                asyncpg.PostgresError,
            ) as error:  # its next slot comes; the others' slots are won already
                log.error("job failed", name=name, error=str(error))

    def _cron(self, row: asyncpg.Record) -> Cron | None:
        try:
            return Cron.parse(row["cron"], row["timezone"])
        except ValueError as error:
            if (row["name"], row["cron"], row["timezone"]) not in self._refused:
                log.error("schedule can't fire: correct its row in schedules", name=row["name"], error=str(error))
                self._refused.add((row["name"], row["cron"], row["timezone"]))
            return None

    async def _win(self, conn: Connection, row: asyncpg.Record) -> bool:
        cron = self._cron(row)
        if cron is None:
            return False
        since = row["next_slot"] - TICK if row["next_slot"] else row["now"]  # a new or edited schedule begins now
        slots = due_slots(cron, since, row["now"], row["grace_s"])
        moved = await conn.fetchval(SQL["advance_schedule"], row["name"], row["next_slot"], slots.next, slots.fire)
        if slots.missed:
            log.warning("slots missed", name=row["name"], count=len(slots.missed), last=slots.missed[-1].isoformat())
        if moved is None or slots.fire is None:
            return False
        self.metrics.schedule_lag.labels(row["name"]).set((row["now"] - slots.fire).total_seconds())
        return True


async def keep_leases(worker: Worker, pool: Pool, lease_s: float) -> None:
    """Renew the leases of what runs, in one statement; if that can't be done in time, stop attempting."""
    renewed = time.monotonic()
    while True:
        await asyncio.sleep(lease_s / 6)
        if time.monotonic() - renewed < lease_s / 3:
            continue
        try:
            async with asyncio.timeout(lease_s / 6), pool.acquire() as conn:
                await queue.renew(conn, worker.id, lease_s, worker.running)
                renewed = time.monotonic()
                await queue.give_back_strays(conn, worker.id, worker.running)
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            log.warning("leases not renewed", error=str(error))
        if time.monotonic() - renewed >= lease_s:
            worker.abort()
            renewed = time.monotonic()
