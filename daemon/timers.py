"""What happens by the clock: calendars whose slots fire, the daemon's own jobs among them; and lease renewal.

A slot is won by whoever moves the calendar's row on, so any number of daemons fire it once. Deadlines need no timer of
their own: the listener's beat fires them, and it beats when the next one is due.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from daemon import queue
from daemon.cron import Cron, Slots, due_slots
from daemon.db import UNREACHABLE, Connection, Pool, Statements
from daemon.log import get_logger
from daemon.metrics import Metrics
from daemon.worker import Worker

SQL = Statements("daemon", "worker.sql")
log = get_logger("timers")

Job = Callable[[], Awaitable[None]]


class Calendar(Protocol):
    """A table of rows with a cron and the time of their next slot."""

    async def due(self, conn: Connection) -> Sequence[asyncpg.Record]:
        """Rows whose slot has come, or is to be worked out: name, cron, timezone, grace_s, next_slot (or null), now."""

    async def take(self, conn: Connection, row: asyncpg.Record, slots: Slots) -> bool:
        """Move the row on to its next slot, unless somebody else has; whether a slot fired here."""

    async def follow(self) -> None:
        """What is to be done outside of the database, once all slots are taken."""


@dataclass(slots=True)
class Jobs:
    """The daemon's own jobs, in `schedules`."""

    jobs: Mapping[str, Job]
    _asked: set[str] = field(default_factory=set)

    def ask(self, job: str) -> None:
        """Have a job run soon, besides its slots."""
        self._asked.add(job)

    async def due(self, conn: Connection) -> Sequence[asyncpg.Record]:
        """The jobs that are due."""
        rows: list[asyncpg.Record] = await conn.fetch(SQL["due_schedules"])
        return rows

    async def take(self, conn: Connection, row: asyncpg.Record, slots: Slots) -> bool:
        """Whoever moves next_slot on runs the job."""
        won = await conn.fetchval(SQL["advance_schedule"], row["name"], row["next_slot"], slots.next, slots.fire)
        if won is None or slots.fire is None:
            return False
        self._asked.add(row["name"])
        return True

    async def follow(self) -> None:
        """Run the jobs whose slot this daemon won, and those that were asked for."""
        names, self._asked = self._asked, set()
        for name in sorted(names & self.jobs.keys()):
            try:
                await self.jobs[name]()
            except (*UNREACHABLE, asyncpg.PostgresError) as error:  # its next slot comes; the others' are won already
                log.error("job failed", name=name, error=str(error))


@dataclass(slots=True)
class Timers:
    """Fires the slots of all calendars."""

    pool: Pool
    calendars: Sequence[Calendar]
    metrics: Metrics
    _due: asyncio.Event = field(default_factory=asyncio.Event)
    _refused: set[tuple[str, str, str]] = field(default_factory=set)

    def look(self) -> None:
        """A slot may be due."""
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
        """Take every slot that is due, then do what follows."""
        async with self.pool.acquire() as conn:
            for calendar in self.calendars:
                for row in await calendar.due(conn):
                    await self._take(conn, calendar, row)
        for calendar in self.calendars:
            await calendar.follow()

    def _cron(self, row: asyncpg.Record) -> Cron | None:
        try:
            return Cron.parse(row["cron"], row["timezone"])
        except ValueError as error:
            if (row["name"], row["cron"], row["timezone"]) not in self._refused:
                log.error("schedule can't fire: correct its row", name=row["name"], error=str(error))
                self._refused.add((row["name"], row["cron"], row["timezone"]))
            return None

    async def _take(self, conn: Connection, calendar: Calendar, row: asyncpg.Record) -> None:
        cron = self._cron(row)
        if cron is None:
            return
        slots = due_slots(cron, row["next_slot"], row["now"], row["grace_s"])
        if slots.missed:
            log.warning("slots missed", name=row["name"], count=len(slots.missed), last=slots.missed[-1].isoformat())
        if await calendar.take(conn, row, slots) and slots.fire is not None:
            self.metrics.schedule_lag.labels(row["name"]).set((row["now"] - slots.fire).total_seconds())


async def keep_leases(worker: Worker, pool: Pool, lease_s: float) -> None:
    """Renew the leases of what runs, in one statement; if that can't be done in time, stop attempting."""
    renewed = looked_for_strays = time.monotonic()
    while True:
        await asyncio.sleep(lease_s / 6)
        if time.monotonic() - renewed < lease_s / 3:
            continue
        try:
            async with asyncio.timeout(lease_s / 6), pool.acquire() as conn:
                if running := worker.running:
                    await queue.renew(conn, worker.id, lease_s, running)
                renewed = time.monotonic()
                if renewed - looked_for_strays >= lease_s:
                    await queue.give_back_strays(conn, worker.id, worker.running)
                    looked_for_strays = renewed
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            log.warning("leases not renewed", error=str(error))
        if time.monotonic() - renewed >= lease_s:
            worker.abort()
            renewed = time.monotonic()
