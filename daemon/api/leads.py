"""Leads: list, one, its history, and moving it."""

import re
from collections.abc import Mapping
from typing import Any, NoReturn
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel

from daemon.api.paging import IdCursor, NewestCursor, Page, page_of
from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text, Words
from daemon.db import Connection, Statements

SQL = Statements("daemon.api", "leads.sql")
_WHOLE_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+|\+[\d\s().-]{7,}")


class LeadId(Input):
    """Which lead."""

    id: UUID


class LeadsQuery(Page):
    """Which leads; `q` is a whole email address or phone number, or a part of a name, company or address."""

    pipeline: Text | None = None
    stage: Text | None = None
    needs_review: bool | None = None
    q: Text | None = None
    cursor: NewestCursor | None = None


class EventsQuery(Page):
    """Which part of a history."""

    cursor: IdCursor | None = None


class Move(Input):
    """Where a lead shall go, and why; an override passes by table and required fields."""

    to: Words
    reason: Words
    override: bool = False
    actor: Words = "api"


class Lead(BaseModel):
    """A lead: its public columns."""

    id: UUID
    pipeline: str
    stage: str
    name: str | None
    company: str | None
    email: str | None
    phone: str | None
    city: str | None
    region: str | None
    country: str | None
    timezone: str | None
    source: str | None
    external_id: str | None
    tier: str | None
    score: float | None
    scored_at: AwareDatetime | None
    approved_at: AwareDatetime | None
    approved_by: str | None
    data: dict[str, Any]
    needs_review: bool
    review_reason: str | None
    do_not_contact: bool
    nurture_until: AwareDatetime | None
    conversation_started_at: AwareDatetime | None
    last_inbound_at: AwareDatetime | None
    last_outbound_at: AwareDatetime | None
    run_id: UUID | None
    promoted_to: UUID | None
    stage_entered_at: AwareDatetime
    deadline_at: AwareDatetime | None
    archived_at: AwareDatetime | None
    created_at: AwareDatetime
    updated_at: AwareDatetime
    version: int
    stage_seq: int
    deadline_step: int
    moved_by: str | None
    move_reason: str | None
    moved_task: int | None


class Event(BaseModel):
    """One line of a lead's history."""

    id: int
    lead_id: UUID
    event_type: str
    from_stage: str | None
    to_stage: str | None
    metadata: dict[str, Any]
    actor: str
    task_id: int | None
    created_at: AwareDatetime


class OneLead(Success):
    """A lead."""

    lead: Lead


class ManyLeads(Success):
    """A page of leads."""

    leads: list[Lead]
    nextCursor: str | None  # noqa: N815 - public name


class ManyEvents(Success):
    """A page of a lead's history."""

    events: list[Event]
    nextCursor: str | None  # noqa: N815 - public name


async def list_leads(api: Api, given: Given[Nothing, LeadsQuery, Nothing]) -> Answer:
    """Leads, newest first."""
    query = given.query
    address, text = _sought(query.q)
    created_at, seen = query.cursor or (None, None)
    async with api.reading() as conn:
        await _require_known(conn, query)
        rows = await conn.fetch(
            SQL["leads"], None, query.pipeline, query.stage, query.needs_review, address, text, created_at, seen,
            query.limit + 1,
        )  # fmt: skip
    page, following = page_of(rows, query.limit, lambda row: (row["created_at"], str(row["id"])))
    return Answer({"success": True, "leads": shown(page), "nextCursor": following})


async def _require_known(conn: Connection, query: LeadsQuery) -> None:
    """Refuse a pipeline or a stage that there isn't: no lead would be found, and nobody told why."""
    if query.pipeline is None and query.stage is None:
        return
    (known,) = await conn.fetch(SQL["known_places"], query.pipeline)
    for name, said in (("pipeline", query.pipeline), ("stage", query.stage)):
        if said is not None and said not in known[f"{name}s"]:
            there = ", ".join(known[f"{name}s"])
            raise unfit([Flaw(("query", name), f"there is no such {name}; there are: {there}")])


def _sought(q: str | None) -> tuple[str | None, str | None]:
    """What an index finds, or what must be looked for."""
    text = (q or "").strip() or None
    return (text, None) if text and _WHOLE_ADDRESS.fullmatch(text) else (None, text)


def shown(rows: Any) -> list[orjson.Fragment]:
    """Rows that the database has rendered as JSON already, every number as exact as it keeps it."""
    return [orjson.Fragment(row["shown"]) for row in rows]


async def show_lead(api: Api, given: Given[LeadId, Nothing, Nothing]) -> Answer:
    """One lead."""
    async with api.reading() as conn:
        return await answer_with(conn, given.path.id)


async def answer_with(conn: Connection, lead: UUID, status: int = 200) -> Answer:
    """The lead as it is now; `status` of the answer."""
    row = await conn.fetchrow(SQL["leads"], lead, None, None, None, None, None, None, None, 1)
    if row is None:
        raise Problem(404, f"there is no lead {lead}")
    return Answer({"success": True, "lead": orjson.Fragment(row["shown"])}, status)


async def list_events(api: Api, given: Given[LeadId, EventsQuery, Nothing]) -> Answer:
    """A lead's history, newest first; it outlives the lead."""
    lead, query = given.path.id, given.query
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["events"], lead, query.cursor, query.limit + 1)
        if not rows and not await conn.fetchval(SQL["lead_known"], lead):
            raise Problem(404, f"there is no lead {lead}")
    page, following = page_of(rows, query.limit, lambda row: row["id"])
    return Answer({"success": True, "events": shown(page), "nextCursor": following})


async def move_lead(api: Api, given: Given[LeadId, Nothing, Move]) -> Answer:
    """Move a lead to another stage, by the table or, with `override`, past it."""
    lead, move = given.path.id, given.body
    wish = (lead, move.to, move.actor, move.reason)
    refused = None
    async with api.writing() as conn:
        await _require_declared(conn, lead, move.to)
        async with conn.transaction():
            if move.override:
                await conn.execute(SQL["override_stage"], *wish)
            elif not await conn.fetchval(SQL["request_transition"], *wish):
                refused = await conn.fetchrow(SQL["why_refused"], lead, move.to)
        if refused is not None:  # only now: the refusal's own event is to stay
            _refuse(dict(refused), move.to)
        return await answer_with(conn, lead)


async def _require_declared(conn: Connection, lead: UUID, to: str) -> None:
    """Refuse a typo: it is no wish to move, which would be on record and flag the lead."""
    why = await conn.fetchrow(SQL["why_refused"], lead, to)
    if why is not None and to not in why["stages"]:
        flaw = Flaw(("to",), f"there is no such stage; there are: {', '.join(why['stages'])}")
        said = f"pipeline {why['pipeline']} has no stage {to}"
        raise Problem(409, f"{said}; legal targets: {_listed(why['targets'])}", [flaw], legalTargets=why["targets"])


def _listed(targets: list[str]) -> str:
    return ", ".join(targets) or "none: this stage is terminal"


def _refuse(why: Mapping[str, Any], to: str) -> NoReturn:
    if why["legal"]:
        flaws = [Flaw(("data", name), f"is required to enter {to}") for name in why["missing"]]
        raise Problem(409, f"a lead enters {to} only with: {', '.join(why['missing'])}", flaws)
    legal = why["targets"]
    raise Problem(
        409,
        f"a lead may not go from {why['stage']} to {to}; legal targets: {_listed(legal)}",
        [Flaw(("to",), "is no legal target")],
        legalTargets=legal,
    )


_ONE = "/api/leads/{id}"
ROUTES = (
    Route("GET", "/api/leads", list_leads, {200: ManyLeads}, query=LeadsQuery),
    Route("GET", _ONE, show_lead, {200: OneLead}, LeadId, problems=(404,)),
    Route("GET", f"{_ONE}/events", list_events, {200: ManyEvents}, LeadId, EventsQuery, problems=(404,)),
    Route("POST", f"{_ONE}/transition", move_lead, {200: OneLead}, LeadId, body=Move, problems=(404, 409)),
)
