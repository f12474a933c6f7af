"""The one way to start a run: for a slot, an event, the API and the command line.

Whoever starts one holds the campaign's row meanwhile, so that of two who come at once the second sees the first one's
run. What may not start now is answered, not raised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from campaigns import budget
from campaigns.definition import (
    Campaign,
    EngineStep,
    EnrichStep,
    Flaw,
    Invalid,
    World,
    check_inputs,
    normalised,
    validate,
)
from campaigns.estimates import estimate
from daemon.answers import tidy
from daemon.db import Connection, Statements

SQL = Statements("campaigns", "starting.sql")
Trigger = Literal["schedule", "manual", "event"]
Why = Literal["unknown", "invalid", "inputs", "budget", "busy", "paused"]


@dataclass(frozen=True, slots=True)
class Started:
    """The run is on its way."""

    run_id: UUID


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Why not; `until` when it may be tried again, if that is known."""

    why: Why
    message: str
    errors: tuple[Flaw, ...] = ()
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to start."""

    trigger: Trigger
    inputs: Mapping[str, Any]
    dry_run: bool = False
    force: bool = False
    scheduled_for: datetime | None = None


async def start(
    conn: Connection,
    campaign_id: UUID,
    *,
    trigger: Trigger,
    inputs: Mapping[str, Any],
    dry_run: bool = False,
    force: bool = False,
    scheduled_for: datetime | None = None,
    world: World,
) -> Started | NotStarted:
    """Begin a run of the campaign as its stored document says today, or say why not; the caller commits.

    An event starts its run beside others: its cause is its own. A slot doesn't ask what a call may cost: at its first
    call the run itself finds out, and pauses the campaign.
    """
    async with conn.transaction():
        row = await conn.fetchrow(SQL["hold"], campaign_id)
        if row is None or row["deleted"]:
            return NotStarted("unknown", "there is no such campaign")
        return await _start(conn, row, Wish(trigger, inputs, dry_run, force, scheduled_for), world)


async def _start(conn: Connection, row: asyncpg.Record, wish: Wish, world: World) -> Started | NotStarted:
    try:
        campaign = validate(row["config"], world)
    except Invalid as invalid:
        return await _broken(conn, row["id"], invalid)
    try:
        inputs = check_inputs(campaign, wish.inputs)
    except Invalid as invalid:
        return NotStarted("inputs", _listed(invalid), invalid.errors)
    refused = _paused_by_budget(row) or await _too_dear(conn, row["id"], campaign, wish, world)
    refused = refused or await _not_now(conn, row, wish)
    return refused or await _begin(conn, row, wish, inputs, campaign)


async def _broken(conn: Connection, campaign_id: UUID, invalid: Invalid) -> NotStarted:
    said = _listed(invalid)
    await conn.execute(SQL["invalid"], campaign_id, said, {"errors": [flaw.document() for flaw in invalid.errors]})
    return NotStarted("invalid", f"its document is not valid any more: {said}", invalid.errors)


def _paused_by_budget(row: asyncpg.Record) -> NotStarted | None:
    if not row["spent"]:
        return None
    return NotStarted("budget", row["paused_reason"] or "its budget is spent", until=row["resume_at"])


async def _too_dear(
    conn: Connection, campaign_id: UUID, campaign: Campaign, wish: Wish, world: World
) -> NotStarted | None:
    """Whether its first call wouldn't fit."""
    first = next((step for step in campaign.steps if isinstance(step, EngineStep | EnrichStep)), None)
    if first is None or wish.dry_run or wish.trigger == "schedule":
        return None
    limits = budget.budgets_of(campaign_id, normalised(campaign))
    spent = await budget.exceeded(conn, limits, estimate(first, world.engines))
    return NotStarted("budget", spent.budget.spent, until=spent.until) if spent else None


async def _not_now(conn: Connection, row: asyncpg.Record, wish: Wish) -> NotStarted | None:
    if wish.trigger != "event" and await conn.fetchval(SQL["going_on"], row["id"]):
        return NotStarted("busy", "a run of this campaign is going on")
    if row["paused"] and not wish.force:
        reason = row["paused_reason"]
        return NotStarted("paused", f"the campaign is paused: {reason}" if reason else "the campaign is paused")
    return None


async def _begin(
    conn: Connection, row: asyncpg.Record, wish: Wish, inputs: Mapping[str, Any], campaign: Campaign
) -> Started | NotStarted:
    run_id = await conn.fetchval(
        SQL["begin"], row["id"], wish.trigger, wish.scheduled_for, inputs, normalised(campaign), wish.dry_run
    )
    if run_id is None:
        return NotStarted("busy", "that slot has fired already")
    if row["status"] == "error":
        await conn.execute(SQL["mended"], row["id"])
    return Started(run_id)


def _listed(invalid: Invalid) -> str:
    return tidy("; ".join(map(str, invalid.errors)))
