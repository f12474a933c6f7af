"""Approvals: what waits for a person's decision, and deciding it."""

from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, StringConstraints

from daemon.api.leads import shown
from daemon.api.paging import NewestCursor, Page, page_of
from daemon.api.problems import Problem
from daemon.api.replies import LeadFilter
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text
from daemon.db import Connection, Statements
from daemon.gates import Decision, decide

SQL = Statements("daemon.api", "approvals.sql")
Status = Literal["pending", "approved", "rejected", "expired", "superseded"]


def _person(name: str) -> str:
    if name.lower().startswith("system ("):
        raise ValueError("must be a person's name: what the system decides is called so")
    return name


Person = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_person),
    Field(examples=["ann"]),
]  # fmt: skip
Comment = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=5000)]
Code = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class ApprovalId(Input):
    """Which request."""

    id: UUID


class ApprovalsQuery(Page):
    """Which requests."""

    status: Status | None = None
    checkpoint: Text | None = None
    run_id: LeadFilter | None = None
    cursor: NewestCursor | None = None


class Approval(Input):
    """Who approves; at the checkpoint extraction with the code that the data provider has shown."""

    by: Person
    comment: Comment | None = None
    code: Code | None = None


class Rejection(Input):
    """Who rejects, and why: the agent whose work it is hears it from its next request on."""

    by: Person
    comment: Comment


class Request(BaseModel):
    """Something that waits, or waited, for a decision; `payload` is what a person needs to know."""

    id: UUID
    checkpoint: str
    title: str
    payload: dict[str, Any]
    run_id: UUID | None
    step: str | None
    lead_id: UUID | None
    status: Status
    decided_by: str | None
    decided_at: AwareDatetime | None
    comment: str | None
    expires_at: AwareDatetime | None
    created_at: AwareDatetime


class OneApproval(Success):
    """A request."""

    approval: Request


class ManyApprovals(Success):
    """A page of requests."""

    approvals: list[Request]
    nextCursor: str | None  # noqa: N815 - public name


async def list_approvals(api: Api, given: Given[Nothing, ApprovalsQuery, Nothing]) -> Answer:
    """Requests, newest first."""
    query = given.query
    created_at, seen = query.cursor or (None, None)
    filters = (query.status, query.checkpoint, query.run_id)
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["approvals"], None, *filters, created_at, seen, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: (row["created_at"], str(row["id"])))
    return Answer({"success": True, "approvals": shown(page), "nextCursor": following})


async def approve(api: Api, given: Given[ApprovalId, Nothing, Approval]) -> Answer:
    """Approve: the run or lead that waits goes on. 409 if it is decided already."""
    said = given.body
    return await _decide(api, given.path.id, Decision("approved", said.by, said.comment, said.code))


async def reject(api: Api, given: Given[ApprovalId, Nothing, Rejection]) -> Answer:
    """Reject: the run that waits is aborted. 409 if it is decided already."""
    return await _decide(api, given.path.id, Decision("rejected", given.body.by, given.body.comment))


async def _decide(api: Api, request: UUID, decision: Decision) -> Answer:
    async with api.writing() as conn:
        await decide(conn, request, decision)
        return Answer({"success": True, "approval": orjson.Fragment(await request_as_json(conn, request))})


async def request_as_json(conn: Connection, request: UUID) -> str:
    """The request as the database renders it; Problem if it is gone."""
    row = await conn.fetchrow(SQL["approvals"], request, None, None, None, None, None, 1)
    if row is None:
        raise Problem(404, f"there is no request {request}")
    return str(row["shown"])


_ONE = "/api/approvals/{id}"
ROUTES = (
    Route("GET", "/api/approvals", list_approvals, {200: ManyApprovals}, query=ApprovalsQuery),
    Route("POST", f"{_ONE}/approve", approve, {200: OneApproval}, ApprovalId, body=Approval, problems=(404, 409)),
    Route("POST", f"{_ONE}/reject", reject, {200: OneApproval}, ApprovalId, body=Rejection, problems=(404, 409)),
)
