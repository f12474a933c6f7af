"""Changes that people make to leads: create, patch, review, do-not-contact, merge, erase."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from daemon.api.lead_fields import NewLead, Patch, require_reachable
from daemon.api.leads import LeadId, OneLead, answer_with
from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Words
from daemon.db import Connection, Statements

SQL = Statements("daemon.api", "lead_changes.sql")
ERASE_S = 60.0  # it reads every table


class Resolution(Input):
    """What a person has done about a lead's flag."""

    resolution: Words
    actor: Words = "api"


class Merge(Input):
    """The lead that the other one lives on in."""

    into: UUID
    actor: Words = "api"


class Erased(Success):
    """What is left of an erased lead: other leads with one of its addresses, none of which is contacted."""

    message: str
    others: list[UUID]


async def create_lead(api: Api, given: Given[Nothing, Nothing, NewLead]) -> Answer:
    """Create a lead; its pipeline's first action follows."""
    fields = given.body.given()
    require_reachable(api.daemon, fields, fields.get("country"))
    async with api.writing() as conn:
        await _require_stage(conn, given.body)
        await _require_new(conn, None, given.body.pipeline, fields.get("source"), fields.get("external_id"))
        lead = await conn.fetchval(SQL["create"], fields)
        if lead is None:  # somebody was quicker
            await _require_new(conn, None, given.body.pipeline, fields.get("source"), fields.get("external_id"))
            raise Problem(409, "the lead is being created by somebody else")
        return await answer_with(conn, lead, 201)


async def _require_stage(conn: Connection, new: NewLead) -> None:
    row = await conn.fetchrow(SQL["stages_of"], new.pipeline)
    if row is None or row["stages"] is None:
        known = row["pipelines"] if row else []
        raise unfit([Flaw(("pipeline",), f"there is no such pipeline; there are: {', '.join(known)}")])
    if new.stage is not None and new.stage not in row["stages"]:
        raise unfit([Flaw(("stage",), f"{new.pipeline} has no such stage; it has: {', '.join(row['stages'])}")])


async def _require_new(
    conn: Connection, lead: UUID | None, pipeline: str, source: str | None, external_id: str | None
) -> None:
    """Refuse what another lead, or one merged into it, is known by at its source."""
    if external_id is None:
        return
    existing = await conn.fetchval(SQL["known_as"], pipeline, source, external_id, lead)
    if existing is not None:
        flaw = Flaw(("external_id",), "is known already")
        raise Problem(409, f"lead {existing} has this source and external_id already", [flaw], id=str(existing))


async def change_lead(api: Api, given: Given[LeadId, Nothing, Patch]) -> Answer:
    """Change a lead's fields; the checks and deadlines that read them follow."""
    lead, fields = given.path.id, given.body.given()
    async with api.writing() as conn, conn.transaction():
        row = await conn.fetchrow(SQL["held"], lead)
        if row is None:
            raise Problem(404, f"there is no lead {lead}")
        await _require_sound(api, conn, lead, fields, {**row, **fields})
        if fields:
            await conn.execute(SQL["change"], lead, fields)
        return await answer_with(conn, lead)


async def _require_sound(
    api: Api, conn: Connection, lead: UUID, fields: Mapping[str, Any], then: Mapping[str, Any]
) -> None:
    if then["was_do_not_contact"] and not then["do_not_contact"]:
        flaw = Flaw(("do_not_contact",), "can be set here, but not lifted")
        raise Problem(409, "the lead doesn't want to be contacted; only its own consent, by SQL, changes that", [flaw])
    require_reachable(api.daemon, fields, then["country"])
    if fields.keys() & {"source", "external_id"}:
        await _require_new(conn, lead, then["pipeline"], then["source"], then["external_id"])


async def resolve_review(api: Api, given: Given[LeadId, Nothing, Resolution]) -> Answer:
    """Say what was done about a flagged lead; the flag goes."""
    lead, said = given.path.id, given.body
    async with api.writing() as conn:
        if not await conn.fetchval(SQL["resolve_review"], lead, said.resolution, said.actor):
            raise Problem(409, f"lead {lead} is not flagged for review")
        return await answer_with(conn, lead)


async def forbid_contact(api: Api, given: Given[LeadId, Nothing, Nothing]) -> Answer:
    """Never contact this lead again; what is scheduled to it is cancelled."""
    async with api.writing() as conn:
        await conn.execute(SQL["do_not_contact"], given.path.id)
        return await answer_with(conn, given.path.id)


async def merge_leads(api: Api, given: Given[LeadId, Nothing, Merge]) -> Answer:
    """Merge a lead into another one of its pipeline, which is answered.

    History, messages, replies and contacts move over, empty fields are filled, the strictest consent wins. The merged
    lead is gone, what it was about to do is cancelled, and its source can't import it again.
    """
    lead, body = given.path.id, given.body
    if lead == body.into:
        raise unfit([Flaw(("into",), "is the lead itself")])
    async with api.writing() as conn:
        await conn.execute(SQL["merge"], lead, body.into, body.actor)
        return await answer_with(conn, body.into)


async def erase_lead(api: Api, given: Given[LeadId, Nothing, Nothing]) -> Answer:
    """Erase a lead and what was said to it or of it; its addresses stay excluded, as keyed hashes."""
    lead = given.path.id
    async with api.writing(ERASE_S) as conn, conn.transaction():
        await conn.execute(SQL["patiently"])
        others = await api.daemon.erase(conn, lead, "api")
    return Answer({"success": True, "message": f"lead {lead} is erased", "others": others})


_ONE = "/api/leads/{id}"
ROUTES = (
    Route("POST", "/api/leads", create_lead, {201: OneLead}, body=NewLead, problems=(409,)),
    Route("PATCH", _ONE, change_lead, {200: OneLead}, LeadId, body=Patch, problems=(404, 409)),
    Route("DELETE", _ONE, erase_lead, {200: Erased}, LeadId, problems=(404, 409), timeout_s=ERASE_S),
    Route("POST", f"{_ONE}/review", resolve_review, {200: OneLead}, LeadId, body=Resolution, problems=(404, 409)),
    Route("POST", f"{_ONE}/dnc", forbid_contact, {200: OneLead}, LeadId, problems=(404,)),
    Route("POST", f"{_ONE}/merge", merge_leads, {200: OneLead}, LeadId, body=Merge, problems=(404, 409)),
)
