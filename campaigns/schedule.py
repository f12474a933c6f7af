"""The slots of campaigns: each fires at most once, for its run's row and the way to the next slot are one transaction.

`next_run_at` is null where it has to be worked out: after an edit, from `schedule_since` on, so that a slot that was
due by then is neither lost nor fired twice. Nobody waits for a row that somebody else holds; the slot stays due.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from campaigns import starting
from campaigns.definition import Invalid, World, validate
from daemon.cron import MISSED_LISTED, Cron, Slots
from daemon.db import UNREACHABLE, Connection, Statements
from daemon.log import get_logger

SQL = Statements("campaigns", "schedule.sql")
log = get_logger("campaigns")


def next_run(cron: str, timezone: str, now: datetime) -> datetime:
    """The first slot after `now`; ValueError for what is no schedule."""
    return Cron.parse(cron, timezone).next_after(now)


async def work_out(conn: Connection, only: Sequence[UUID] | None = None) -> None:
    """Find the next slot of the campaigns that are new or edited; one whose schedule can't be read is stopped."""
    planned: list[tuple[UUID, datetime]] = []
    broken: list[tuple[UUID, str]] = []
    async with conn.transaction():
        for row in await conn.fetch(SQL["unplanned"], only):
            try:
                planned.append((row["id"], next_run(row["cron"], row["timezone"], row["since"])))
            except ValueError as error:
                broken.append((row["id"], str(error)))
        for statement, rows in (("plan", planned), ("unreadable", broken)):
            if rows:
                await conn.execute(SQL[statement], *map(list, zip(*rows, strict=True)))


@dataclass(slots=True)
class CampaignCalendar:
    """Campaigns as a calendar of the daemon's timers; `wake` has new runs looked at."""

    world: World
    wake: Callable[[], None]
    _started: bool = False
    _mended: bool = False

    async def due(self, conn: Connection) -> Sequence[asyncpg.Record]:
        """Campaigns whose slot has come; those whose budget has renewed are among them again."""
        if not self._mended:
            await _mend(conn, self.world)
            self._mended = True
        await conn.execute(SQL["resume"])
        await work_out(conn)
        rows: list[asyncpg.Record] = await conn.fetch(SQL["due"])
        return rows

    async def take(self, conn: Connection, row: asyncpg.Record, slots: Slots) -> bool:
        """Start the run of the slot, or record why there is none; False if it isn't ours, or failed and stays due."""
        try:
            async with conn.transaction():
                return await self._take(conn, row, slots)
        except UNREACHABLE:
            raise
        except asyncpg.PostgresError as error:  # the other calendars' slots are not to wait for this one
            log.error("slot could not be taken", campaign=row["name"], slot=str(row["next_slot"]), error=str(error))
            return False

    async def follow(self) -> None:
        """The daemon's own sessions send no hint."""
        if self._started:
            self._started = False
            self.wake()

    async def _take(self, conn: Connection, row: asyncpg.Record, slots: Slots) -> bool:
        held = await conn.fetchval(SQL["hold"], row["id"], row["next_slot"], row["cron"], row["timezone"])
        if held is None:
            return False
        await conn.execute(SQL["move_on"], row["id"], slots.next)
        if slots.fire is None:
            if slots.missed:
                await conn.execute(SQL["record"], row["id"], slots.missed[-1], "missed", _missed(slots))
            return False
        await self._fire(conn, row["id"], slots.fire)
        return True

    async def _fire(self, conn: Connection, campaign_id: UUID, slot: datetime) -> None:
        came = await starting.start(
            conn, campaign_id, trigger="schedule", inputs={}, scheduled_for=slot, world=self.world
        )
        if isinstance(came, starting.NotStarted):
            await conn.execute(SQL["record"], campaign_id, slot, "skipped", came.message)
        self._started = True


async def _mend(conn: Connection, world: World) -> None:
    """Once for each daemon: what its settings make valid again is active again."""
    stopped = await conn.fetch(SQL["stopped"])
    mended = [row["id"] for row in stopped if _sound(row, world)]
    if mended:
        await conn.execute(SQL["mended"], mended)


def _sound(row: asyncpg.Record, world: World) -> bool:
    try:
        validate(row["config"], world)
        if row["cron"] is not None:
            Cron.parse(row["cron"], row["timezone"])
    except (Invalid, ValueError):
        return False
    return True


def _missed(slots: Slots) -> str:
    count = len(slots.missed)
    number = f"more than {MISSED_LISTED} slots" if count > MISSED_LISTED else f"{count} slot{'' if count == 1 else 's'}"
    return f"missed {number}: nobody was there in time"
