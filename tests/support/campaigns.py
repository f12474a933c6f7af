"""Campaigns in the timeline language: documents put on record, a clock set to a moment, and what became of the slots.

async with campaigns(dsn) as c:
    weekly = await c.campaign(schedule="0 9 * * MON")
    await c.until("2026-03-09 13:00")
    assert await c.slots(weekly) == ["2026-03-09 13:00 completed"]
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from campaigns.definition import World, validate
from campaigns.starting import NotStarted, Started, start
from campaigns.storing import store
from daemon.app import campaign_world
from tests.support.runs import OVER, Running, running

SETTLED = """
SELECT NOT EXISTS (SELECT FROM campaigns WHERE scheduled AND (next_run_at IS NULL OR next_run_at <= clock()))
   AND NOT EXISTS (SELECT FROM campaigns WHERE status = 'paused' AND resume_at <= clock())"""
STEP: Mapping[str, Any] = {"engine": "prospecting"}


@dataclass(slots=True)
class Campaigns:
    """A timeline in which campaigns start their runs themselves."""

    r: Running
    world: World

    async def campaign(self, *steps: Mapping[str, Any], name: str = "Ours", **of: Any) -> UUID:
        """A valid campaign on record; one step that calls an engine unless told otherwise."""
        document = {"name": name, "steps": list(steps) or [dict(STEP)], **of}
        found = await store(self.r.t.conn, document, validate(document, self.world))
        assert found is not None
        return found

    async def start(self, campaign: UUID, **of: Any) -> Started | NotStarted:
        """As the API does."""
        wish: Any = {"trigger": "manual", "inputs": {}, "world": self.world, **of}
        return await start(self.r.t.conn, campaign, **wish)

    async def started(self, campaign: UUID, **of: Any) -> UUID:
        """A run that nothing forbids."""
        came = await self.start(campaign, **of)
        assert isinstance(came, Started), came
        return came.run_id

    async def refused(self, campaign: UUID, **of: Any) -> NotStarted:
        """Why there is no run."""
        came = await self.start(campaign, **of)
        assert isinstance(came, NotStarted), came
        return came

    # -- time

    async def set_clock(self, moment: str) -> None:
        """Only the clock moves, to a moment in UTC."""
        await self.r.t.value("SELECT shift_clock($1 - clock())", at(moment))

    async def until(self, moment: str) -> None:
        """It is that moment, and everything that is due then is done."""
        await self.set_clock(moment)
        await self.settled()

    async def settled(self) -> None:
        """No slot is due, and nothing runs."""
        await self.r.t.wait_for(lambda: self.r.t.value(SETTLED), "some slot was never taken")
        await self.r.t.quiet()

    # -- what is to be seen

    async def slots(self, campaign: UUID) -> list[str]:
        """The slots that have a row, in order, and what became of each."""
        sql = "SELECT * FROM campaign_runs WHERE campaign_id = $1 AND scheduled_for IS NOT NULL ORDER BY scheduled_for"
        return [f"{shown(r['scheduled_for'])} {r['status']}" for r in await self.r.t.sql(sql, campaign)]

    async def runs(self, campaign: UUID) -> list[asyncpg.Record]:
        """Its runs, oldest first."""
        return await self.r.t.sql("SELECT * FROM campaign_runs WHERE campaign_id = $1 ORDER BY started_at", campaign)

    async def why(self, campaign: UUID) -> list[str]:
        """What the rows of its runs say of errors."""
        return [e["error"] for r in await self.runs(campaign) for e in r["errors"]]

    async def over(self, campaign: UUID) -> None:
        """All of its runs have ended."""
        sql = "SELECT NOT EXISTS (SELECT FROM campaign_runs WHERE campaign_id = $1 AND status <> ALL ($2))"
        await self.r.t.eventually(sql, campaign, list(OVER))

    async def next(self, campaign: UUID) -> str | None:
        """Its next slot."""
        moment = (await self.row(campaign))["next_run_at"]
        return shown(moment) if moment else None

    async def row(self, campaign: UUID) -> asyncpg.Record:
        """The campaign's row."""
        [row] = await self.r.t.sql("SELECT * FROM campaigns WHERE id = $1", campaign)
        return row

    async def edit(self, campaign: UUID, **columns: Any) -> None:
        """Somebody's UPDATE of its row."""
        names = ", ".join(f"{name} = ${n}" for n, name in enumerate(columns, start=2))
        await self.r.t.sql(f"UPDATE campaigns SET {names} WHERE id = $1", campaign, *columns.values())

    async def alerts(self, campaign: UUID) -> list[str]:
        """The types of its open alerts."""
        its = "subject LIKE 'campaign:' || $1::uuid || '%' AND resolved_at IS NULL"
        return [r["type"] for r in await self.r.t.sql(f"SELECT type FROM alerts WHERE {its} ORDER BY type", campaign)]


def at(moment: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(moment).replace(tzinfo=UTC)


def shown(moment: datetime) -> str:
    """As `at` reads it; seconds only where there are some."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")


@asynccontextmanager
async def campaigns(dsn: str, clock: str = "2026-03-02 12:00", **overrides: str) -> AsyncIterator[Campaigns]:
    """A daemon and its engines at that moment, without any campaign yet."""
    async with running(dsn, **overrides) as r:
        await r.t.sql("DELETE FROM campaigns")
        c = Campaigns(r, campaign_world(r.t.settings))
        await c.until(clock)
        yield c
