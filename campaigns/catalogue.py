"""Campaigns as people keep them: create, replace, delete, pause, resume, run by hand. What is refused is raised."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

from campaigns import budget, library, schedule, starting, storing
from campaigns.definition import Campaign, World, parse, validate
from campaigns.starting import NotStarted
from daemon.db import Connection, Statements
from daemon.errors import BadInput, NotNow, NotThere, Unaffordable

SQL = Statements("campaigns", "catalogue.sql")
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The campaigns on record, whose documents are checked against this world."""

    world: World

    # -- documents

    async def create(self, conn: Connection, text: bytes) -> UUID:
        """Put the campaign of a JSON text on record; BadInput with all that is wrong, NotNow if its name is taken."""
        return await self._create(conn, *await self._read(text))

    async def replace(self, conn: Connection, campaign_id: UUID, text: bytes) -> None:
        """Give a campaign this document: its next run begins with it, what is going on keeps its own."""
        document, campaign = await self._read(text)
        async with conn.transaction():
            if await conn.fetchval(SQL["hold"], campaign_id) is None:
                raise NotThere(f"there is no campaign {campaign_id}")
            await _require_free(conn, campaign.name, campaign_id)
            slots = campaign.schedule
            columns = (slots.cron, slots.timezone, slots.enabled, slots.grace_seconds) if slots else _BY_HAND
            values = (campaign.name, campaign.description, document, *columns, campaign.metadata.project_id)
            await conn.execute(SQL["replace"], campaign_id, *values)
            await schedule.work_out(conn, [campaign_id])

    async def put(self, conn: Connection, text: bytes) -> tuple[UUID, bool]:
        """Create the campaign, or replace the one of its name; whether it is new."""
        document, campaign = await self._read(text)
        there = await conn.fetchval(SQL["by_name"], campaign.name)
        if there is None:
            return await self._create(conn, document, campaign), True
        await self.replace(conn, there, text)
        return there, False

    async def _read(self, text: bytes) -> tuple[Document, Campaign]:
        """A large document takes a moment: the loop goes on meanwhile."""
        return await asyncio.to_thread(self._checked, text)

    def _checked(self, text: bytes) -> tuple[Document, Campaign]:
        document = parse(text)
        campaign = validate(document, self.world)
        assert isinstance(document, dict)  # noqa: S101 - or it would be no campaign
        return document, campaign

    async def _create(self, conn: Connection, document: Document, campaign: Campaign) -> UUID:
        made = await storing.store(conn, document, campaign)
        if made is None:
            await _require_free(conn, campaign.name, None)
            raise NotNow("the campaign of this name was changed by somebody else just now: try again")
        return made

    # -- names

    @staticmethod
    def shipped(name: str) -> bool:
        """Whether a campaign is shipped under this name."""
        return name in library.names()

    async def known(self, conn: Connection, wanted: str) -> UUID:
        """The campaign of that id or name; NotThere if there is none."""
        found: UUID | None = await conn.fetchval(SQL["known"], _id(wanted), wanted)
        if found is None and self.shipped(wanted):
            found = await conn.fetchval(SQL["by_name"], _name_of(wanted))
        if found is None:
            raise NotThere(f"there is no campaign {wanted!r}")
        return found

    async def wanted(self, conn: Connection, wanted: str) -> UUID:
        """The same; a shipped one that isn't on record is imported, its schedule off."""
        return (await self.imported(conn, wanted))[0]

    async def imported(self, conn: Connection, wanted: str) -> tuple[UUID, bool]:
        """The same, and whether it is on record only now."""
        try:
            return await self.known(conn, wanted), False
        except NotThere:
            found = await storing.find(conn, wanted, self.world)
            if found is None:
                shipped = ", ".join(library.names())
                raise NotThere(f"there is no campaign {wanted!r}; shipped are: {shipped}") from None
            return found, True

    # -- what people do with them

    async def delete(self, conn: Connection, campaign_id: UUID) -> str:
        """No future runs; its history stays, and what is going on goes on. What to say about it."""
        row = await conn.fetchrow(SQL["delete"], campaign_id)
        if row is None:
            raise NotThere(f"there is no campaign {campaign_id}")
        said = f'campaign "{row["name"]}" is deleted: no further run starts, its history is kept'
        live = await conn.fetch(SQL["live_runs"], campaign_id)
        return (
            f"{said}; still going on, unless cancelled: run {', '.join(str(r['id']) for r in live)}" if live else said
        )

    async def pause(self, conn: Connection, campaign_id: UUID, reason: str | None = None) -> None:
        """No run starts until a person resumes it, also if its budget had paused it before."""
        said = f"by a person: {reason}" if reason else "by a person"
        if await conn.fetchval(SQL["pause"], campaign_id, said) is None:
            await _refuse(conn, campaign_id, "paused")

    async def resume(self, conn: Connection, campaign_id: UUID) -> None:
        """Its runs start again, whoever or whatever had paused it."""
        async with conn.transaction():
            if await conn.fetchval(SQL["resume"], campaign_id) is None:
                await _refuse(conn, campaign_id, "resumed")
            await schedule.work_out(conn, [campaign_id])

    async def run(
        self,
        conn: Connection,
        campaign_id: UUID,
        inputs: Mapping[str, Any],
        *,
        dry_run: bool = False,
        force: bool = False,
    ) -> UUID:
        """Start a run by hand; NotThere, BadInput, Unaffordable or NotNow if it can't start."""
        came = await starting.start(
            conn, campaign_id, trigger="manual", inputs=inputs, dry_run=dry_run, force=force, world=self.world
        )
        return came.run_id if isinstance(came, starting.Started) else _raise(came)

    # -- what they spend

    async def budgets_used(self, conn: Connection) -> Mapping[tuple[str, str], float]:
        """The used share of each budget in its current window, by the campaign's name and the window's."""
        rows = await conn.fetch(SQL["budgets"])
        return await budget.used_shares(conn, {row["name"]: budget.readable(row) for row in rows})


_BY_HAND = (None, "UTC", True, 3600)


def _raise(came: NotStarted) -> NoReturn:
    match came.why:
        case "unknown":
            raise NotThere(came.message)
        case "inputs":
            raise BadInput(f"the inputs are not valid: {came.message}", came.errors)
        case "budget":
            until = f"; it renews {came.until:%Y-%m-%d %H:%M} UTC" if came.until else ""
            raise Unaffordable(f"{came.message}{until}")
        case _:
            raise NotNow(came.message, reason=came.why)


async def _require_free(conn: Connection, name: str, but: UUID | None) -> None:
    """Refuse a name that another campaign has."""
    there = await conn.fetchval(SQL["by_name"], name)
    if there not in (None, but):
        raise NotNow(f'campaign {there} has the name "{name}" already', id=str(there))


async def _refuse(conn: Connection, campaign_id: UUID, wish: str) -> NoReturn:
    status = await conn.fetchval(SQL["status"], campaign_id)
    if status is None:
        raise NotThere(f"there is no campaign {campaign_id}")
    if status == "error":
        raise NotNow(f"its document is not valid any more, so it can't be {wish}: replace it", campaignStatus=status)
    raise NotNow(f"the campaign is {status}: it can't be {wish}", campaignStatus=status)


def _id(wanted: str) -> UUID | None:
    try:
        return UUID(wanted)
    except ValueError:
        return None


def _name_of(shipped: str) -> str:
    document = library.document(shipped)
    return str(document["name"]) if isinstance(document, dict) else shipped
