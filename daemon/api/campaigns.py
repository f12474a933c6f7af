"""Campaigns: multi-step runs, on a schedule or by hand."""

from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from daemon.api.leads import shown
from daemon.api.paging import NewestCursor, Page, page_of
from daemon.api.problems import Problem
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Words
from daemon.db import Connection, Statements

SQL = Statements("daemon.api", "campaigns.sql")
Status = Literal["active", "paused", "completed", "error"]


class CampaignId(Input):
    """Which campaign: its id, or its name."""

    id: UUID | Annotated[str, StringConstraints(min_length=1, max_length=200)]


class CampaignsQuery(Page):
    """Which campaigns."""

    status: Status | None = None
    cursor: NewestCursor | None = None


class CampaignDocument(Input):
    """A campaign document, in camelCase; `orchestrator campaigns validate` checks one, `--schema` prints its schema."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "name": "Restaurants",
                    "schedule": {"cron": "0 9 * * MON", "timezone": "America/New_York"},
                    "budget": {"daily": 5, "perLead": 0.2},
                    "steps": [
                        {"engine": "prospecting", "params": {"count": 20}, "retry": {"attempts": 3, "delay": 5000}}
                    ],
                }
            ]
        },
    )

    name: str = Field(min_length=1, max_length=200)
    steps: list[dict[str, Any]] = Field(min_length=1, max_length=200)


class Wish(Input):
    """What a run is given; `dryRun`: nothing is called; `force`: also while the campaign is paused by a person."""

    inputs: dict[str, Any] = Field(default_factory=dict)
    dryRun: bool = False  # noqa: N815 - public name
    force: bool = False


class Why(Input):
    """Why it is paused."""

    reason: Words | None = None


class Stored(BaseModel):
    """A campaign as it was put on record."""

    id: UUID
    name: str
    status: Status
    nextRun: AwareDatetime | None  # noqa: N815 - public name


class Summary(Stored):
    """A campaign in a list; `schedule` is its cron, and the counters are about runs that have ended."""

    schedule: str | None
    schedule_timezone: str
    schedule_enabled: bool
    lastRun: AwareDatetime | None  # noqa: N815 - public names, here and below
    totalRuns: int  # noqa: N815
    totalCost: float  # noqa: N815
    paused_reason: str | None
    resume_at: AwareDatetime | None
    created_at: AwareDatetime


class Campaign(Summary):
    """A campaign, whole; `config` is the document as its user wrote it."""

    description: str | None
    config: dict[str, Any]
    grace_s: int
    project_id: str | None
    updated_at: AwareDatetime


class StoredCampaign(Success):
    """The campaign is on record."""

    campaign: Stored


class OneCampaign(Success):
    """A campaign."""

    campaign: Campaign


class ManyCampaigns(Success):
    """A page of campaigns."""

    campaigns: list[Summary]
    nextCursor: str | None  # noqa: N815 - public name


class Deleted(Success):
    """The campaign is deleted."""

    message: str


class Begun(Success):
    """A run has begun."""

    runId: UUID  # noqa: N815 - public name
    message: str


class Turned(Success):
    """The campaign is paused, or active again."""

    status: Status


async def create_campaign(api: Api, given: Given[Nothing, Nothing, Nothing]) -> Answer:
    """Create a campaign; its next run is worked out at once. Everything that is wrong with its document is told."""
    async with api.writing() as conn:
        made = await api.daemon.catalogue.create(conn, given.raw.strip() or b"{}")
        return await _stored(conn, made, 201)


async def replace_campaign(api: Api, given: Given[CampaignId, Nothing, Nothing]) -> Answer:
    """Replace a campaign's document; the next run begins with it, a run that is going on keeps its own."""
    async with api.writing() as conn:
        campaign = await campaign_at(api, conn, given.path)
        await api.daemon.catalogue.replace(conn, campaign, given.raw.strip() or b"{}")
        return await _stored(conn, campaign)


async def _stored(conn: Connection, campaign: UUID, status: int = 200) -> Answer:
    row = await conn.fetchrow(SQL["summary"], campaign)
    if row is None:
        raise _unknown(campaign)
    return Answer({"success": True, "campaign": orjson.Fragment(row["shown"])}, status)


async def list_campaigns(api: Api, given: Given[Nothing, CampaignsQuery, Nothing]) -> Answer:
    """Campaigns, newest first."""
    query = given.query
    created_at, seen = query.cursor or (None, None)
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["campaigns"], query.status, created_at, seen, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: (row["created_at"], str(row["id"])))
    return Answer({"success": True, "campaigns": shown(page), "nextCursor": following})


async def show_campaign(api: Api, given: Given[CampaignId, Nothing, Nothing]) -> Answer:
    """One campaign, whole."""
    async with api.reading() as conn:
        campaign = await campaign_at(api, conn, given.path)
        row = await conn.fetchrow(SQL["campaign"], campaign)
    if row is None:
        raise _unknown(campaign)
    return Answer({"success": True, "campaign": orjson.Fragment(row["shown"])})


async def delete_campaign(api: Api, given: Given[CampaignId, Nothing, Nothing]) -> Answer:
    """Delete a campaign: no future runs, its history is kept, and what is going on goes on unless it is cancelled."""
    async with api.writing() as conn:
        campaign = await campaign_at(api, conn, given.path)
        return Answer({"success": True, "message": await api.daemon.catalogue.delete(conn, campaign)})


async def run_campaign(api: Api, given: Given[CampaignId, Nothing, Wish]) -> Answer:
    """Start a run by hand.

    402 when its budget has paused the campaign or the first call doesn't fit into it, forced or not; 409 when a run is
    going on, or the campaign is paused by a person and the wish isn't forced.
    """
    wish = given.body
    async with api.writing() as conn:
        campaign = await campaign_at(api, conn, given.path)
        run = await api.daemon.catalogue.run(conn, campaign, wish.inputs, dry_run=wish.dryRun, force=wish.force)
        row = await conn.fetchrow(SQL["summary"], campaign)
    dry = api.daemon.settings.dry_run or wish.dryRun
    said = f"a {'dry ' if dry else ''}run of {row['name'] if row else 'the campaign'} has begun"
    return Answer({"success": True, "runId": run, "message": said}, 202)


async def pause_campaign(api: Api, given: Given[CampaignId, Nothing, Why]) -> Answer:
    """Pause a campaign: no run starts by itself until a person resumes it; what is going on goes on."""
    async with api.writing() as conn:
        campaign = await campaign_at(api, conn, given.path)
        await api.daemon.catalogue.pause(conn, campaign, given.body.reason)
        return await _turned(conn, campaign)


async def resume_campaign(api: Api, given: Given[CampaignId, Nothing, Nothing]) -> Answer:
    """Resume a campaign, whether a person or its budget had paused it."""
    async with api.writing() as conn:
        campaign = await campaign_at(api, conn, given.path)
        await api.daemon.catalogue.resume(conn, campaign)
        return await _turned(conn, campaign)


async def campaign_at(api: Api, conn: Connection, which: CampaignId) -> UUID:
    """The id itself, whether there is such a campaign or not; of a name, which no two have, that of its campaign."""
    return which.id if isinstance(which.id, UUID) else await api.daemon.catalogue.known(conn, which.id)


async def _turned(conn: Connection, campaign: UUID) -> Answer:
    row = await conn.fetchrow(SQL["summary"], campaign)
    if row is None:
        raise _unknown(campaign)
    return Answer({"success": True, "status": row["status"]})


def _unknown(campaign: UUID) -> Problem:
    return Problem(404, f"there is no campaign {campaign}")


_ALL, _ONE = "/api/campaigns", "/api/campaigns/{id}"
ROUTES = (
    Route("GET", _ALL, list_campaigns, {200: ManyCampaigns}, query=CampaignsQuery),
    Route("POST", _ALL, create_campaign, {201: StoredCampaign}, body=CampaignDocument, problems=(409,), unread=True),
    Route("GET", _ONE, show_campaign, {200: OneCampaign}, CampaignId, problems=(404,)),
    Route(
        "PUT", _ONE, replace_campaign, {200: StoredCampaign}, CampaignId, body=CampaignDocument, problems=(404, 409),
        unread=True,
    ),
    Route("DELETE", _ONE, delete_campaign, {200: Deleted}, CampaignId, problems=(404,)),
    Route("POST", f"{_ONE}/run", run_campaign, {202: Begun}, CampaignId, body=Wish, problems=(402, 404, 409)),
    Route("PUT", f"{_ONE}/pause", pause_campaign, {200: Turned}, CampaignId, body=Why, problems=(404, 409)),
    Route("PUT", f"{_ONE}/resume", resume_campaign, {200: Turned}, CampaignId, problems=(404, 409)),
)  # fmt: skip
