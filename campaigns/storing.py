"""Campaigns on record: put there, found by name, and imported where one is shipped."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from campaigns import library, schedule
from campaigns.definition import Campaign, World, validate
from daemon.db import Connection, Statements

SQL = Statements("campaigns", "storing.sql")


async def find(conn: Connection, name: str, world: World) -> UUID | None:
    """The campaign of that name; a shipped one is imported if it isn't there, its schedule off. None: nobody knows it.

    Raises Invalid if what is shipped doesn't fit this world.
    """
    found: UUID | None = await conn.fetchval(SQL["by_name"], name)
    if found is not None or name not in library.names():
        return found
    document = switched_off(library.document(name))
    campaign = validate(document, world)
    return await conn.fetchval(SQL["by_name"], campaign.name) or await store(conn, document, campaign)


def switched_off(document: Any) -> dict[str, Any]:
    """The same document, its schedule off."""
    written = document.get("schedule")
    if written is None:
        return dict(document)
    spelled_out = {"cron": written} if isinstance(written, str) else written
    return {**document, "schedule": {**spelled_out, "enabled": False}}


async def store(conn: Connection, document: Mapping[str, Any], campaign: Campaign) -> UUID | None:
    """Put a new campaign on record, its next slot worked out; None if there is one of its name."""
    async with conn.transaction():
        slots = campaign.schedule
        columns = (
            (slots.cron, slots.timezone, slots.enabled, slots.grace_seconds) if slots else (None, "UTC", True, 3600)
        )
        campaign_id: UUID | None = await conn.fetchval(
            SQL["store"], campaign.name, campaign.description, document, *columns, campaign.metadata.project_id
        )
        if campaign_id is not None:
            await schedule.work_out(conn, [campaign_id])
        return campaign_id
