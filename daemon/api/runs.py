"""Runs of campaigns: what each step came to; pause, resume, cancel, retry."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, Field, WithJsonSchema

from daemon.api.campaigns import SQL as CAMPAIGNS
from daemon.api.campaigns import CampaignId, campaign_at
from daemon.api.leads import shown
from daemon.api.paging import NewestCursor, Page, page_of
from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success
from daemon.db import Connection, Statements

SQL = Statements("daemon.api", "runs.sql")
ENDED = ("completed", "partial", "failed", "aborted", "cancelled")
RunStatus = Literal[
    "running", "waiting", "paused", "completed", "partial", "failed", "aborted", "cancelled", "skipped", "missed"
]
StepStatus = Literal["pending", "running", "waiting", "completed", "failed", "unknown", "skipped", "cancelled"]
AnyJson = Annotated[Any, WithJsonSchema({})]


class RunId(Input):
    """Which run."""

    id: UUID


class RunsQuery(Page):
    """Which part of the list."""

    cursor: NewestCursor | None = None


class Retry(Input):
    """At which step the run begins anew; else at the first that did not succeed."""

    fromStep: Annotated[str | None, Field(max_length=200, examples=["prospecting"])] = None  # noqa: N815 - public name


class Failure(BaseModel):
    """What went wrong, and at which step; null: before the first, or with the run as a whole."""

    step: str | None
    error: str | None


class Run(BaseModel):
    """A run; its figures are the sums of what its steps' results call `found`, `analyzed` and `sent`."""

    id: UUID
    campaign_id: UUID
    trigger: Literal["schedule", "manual", "event"]
    scheduled_for: AwareDatetime | None
    started_at: AwareDatetime
    completed_at: AwareDatetime | None
    status: RunStatus
    steps_completed: int
    steps_failed: int
    prospects_generated: float
    leads_analyzed: float
    emails_sent: float
    total_cost: float
    errors: list[Failure]
    dry_run: bool
    round: int


class Step(BaseModel):
    """A step of a run."""

    position: int
    name: str
    kind: str
    status: StepStatus
    attempts: int
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    result: AnyJson
    error: str | None
    cost: float | None


class WholeRun(Run):
    """A run with its steps, what it was given, and the definition that it started with."""

    campaign: str
    inputs: dict[str, Any]
    definition: dict[str, Any]
    results: dict[str, Any]
    steps: list[Step]


class ManyRuns(Success):
    """A page of runs."""

    runs: list[Run]
    nextCursor: str | None  # noqa: N815 - public name


class OneRun(Success):
    """A run."""

    run: WholeRun


async def list_runs(api: Api, given: Given[CampaignId, RunsQuery, Nothing]) -> Answer:
    """A campaign's runs, newest first; they outlive it."""
    query = given.query
    started_at, seen = query.cursor or (None, None)
    async with api.reading() as conn:
        campaign = await campaign_at(api, conn, given.path)
        rows = await conn.fetch(SQL["runs"], campaign, started_at, seen, query.limit + 1)
        if not rows and not await conn.fetchval(CAMPAIGNS["ever_known"], campaign):
            raise Problem(404, f"there is no campaign {campaign}")
    page, following = page_of(rows, query.limit, lambda row: (row["started_at"], str(row["id"])))
    return Answer({"success": True, "runs": shown(page), "nextCursor": following})


async def show_run(api: Api, given: Given[RunId, Nothing, Nothing]) -> Answer:
    """One run with its steps."""
    async with api.reading() as conn:
        return await _answer(conn, given.path.id)


async def _answer(conn: Connection, run: UUID) -> Answer:
    row = await conn.fetchrow(SQL["run"], run)
    if row is None:
        raise _unknown(run)
    return Answer({"success": True, "run": orjson.Fragment(row["shown"])})


async def cancel_run(api: Api, given: Given[RunId, Nothing, Nothing]) -> Answer:
    """Cancel a run: no further step; what is being called ends, and its cost counts."""
    return await _change(api, given.path.id, SQL["cancel"], "cancelled")


async def pause_run(api: Api, given: Given[RunId, Nothing, Nothing]) -> Answer:
    """Pause a run: no new step and no new call until it is resumed."""
    return await _change(api, given.path.id, SQL["pause"], "paused")


async def resume_run(api: Api, given: Given[RunId, Nothing, Nothing]) -> Answer:
    """Resume a paused run where it stood."""
    return await _change(api, given.path.id, SQL["resume"], "resumed")


async def _change(api: Api, run: UUID, wish: str, done: str) -> Answer:
    async with api.writing() as conn:
        if not await conn.fetchval(wish, run):
            await _refuse(conn, run, done)
        return await _answer(conn, run)


async def retry_run(api: Api, given: Given[RunId, Nothing, Retry]) -> Answer:
    """Begin an ended run anew at a step; what ran before keeps its results, and every call has a new key."""
    run, first = given.path.id, given.body.fromStep
    async with api.writing() as conn:
        if not await conn.fetchval(SQL["retry"], run, first):
            await _refuse(conn, run, "retried", first)
        return await _answer(conn, run)


async def _refuse(conn: Connection, run: UUID, wish: str, step: str | None = None) -> NoReturn:
    row = await conn.fetchrow(SQL["stand"], run)
    if row is None:
        raise _unknown(run)
    if step is not None and row["steps"] and step not in row["steps"]:
        raise unfit([Flaw(("fromStep",), f"is no step of this run; its steps: {', '.join(row['steps'])}")])
    why = _why_not_anew(row) if wish == "retried" and row["status"] in ENDED else ""
    raise Problem(409, f"run {run} is {row['status']}: it can't be {wish}{why}", runStatus=row["status"])


def _why_not_anew(row: Mapping[str, Any]) -> str:
    if row["other"] is not None:
        return f" while run {row['other']} of its campaign is going on"
    return ": no step of it has failed; say fromStep"


def _unknown(run: UUID) -> Problem:
    return Problem(404, f"there is no run {run}")


_ONE = "/api/runs/{id}"
ROUTES = (
    Route("GET", "/api/campaigns/{id}/runs", list_runs, {200: ManyRuns}, CampaignId, RunsQuery, problems=(404,)),
    Route("GET", _ONE, show_run, {200: OneRun}, RunId, problems=(404,)),
    Route("POST", f"{_ONE}/cancel", cancel_run, {200: OneRun}, RunId, problems=(404, 409)),
    Route("POST", f"{_ONE}/pause", pause_run, {200: OneRun}, RunId, problems=(404, 409)),
    Route("POST", f"{_ONE}/resume", resume_run, {200: OneRun}, RunId, problems=(404, 409)),
    Route("POST", f"{_ONE}/retry", retry_run, {200: OneRun}, RunId, body=Retry, problems=(404, 409)),
)
