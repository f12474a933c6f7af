"""Feedback: what people have said about agents' work; every later request to an agent carries what is active."""

from typing import Annotated
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints

from daemon.api.checkpoints import SQL
from daemon.api.leads import shown
from daemon.api.paging import NewestCursor, Page, page_of
from daemon.api.problems import Problem
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text

Said = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=5000)]
Agent = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), Field(examples=["scout"])
]


class FeedbackQuery(Page):
    """Which feedback."""

    agent: Text | None = None
    active: bool | None = None
    cursor: NewestCursor | None = None


class NewFeedback(Input):
    """What to tell an agent, in a person's words; `effect`: what changed with it, if that is known already."""

    agent: Agent
    feedback: Said
    effect: Said | None = None
    active: bool = True
    created_by: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] = "api"


class Feedback(BaseModel):
    """What a person has said; `approval_id`: with which rejection."""

    id: UUID
    agent: str
    feedback: str
    effect: str | None
    approval_id: UUID | None
    active: bool
    created_by: str
    created_at: AwareDatetime


class OneFeedback(Success):
    """What a person has said."""

    feedback: Feedback


class ManyFeedback(Success):
    """A page of what people have said."""

    feedback: list[Feedback]
    nextCursor: str | None  # noqa: N815 - public name


async def list_feedback(api: Api, given: Given[Nothing, FeedbackQuery, Nothing]) -> Answer:
    """Feedback, newest first."""
    query = given.query
    created_at, seen = query.cursor or (None, None)
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["feedback"], None, query.agent, query.active, created_at, seen, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: (row["created_at"], str(row["id"])))
    return Answer({"success": True, "feedback": shown(page), "nextCursor": following})


async def give_feedback(api: Api, given: Given[Nothing, Nothing, NewFeedback]) -> Answer:
    """Tell an agent something; its next request carries it."""
    said = given.body
    async with api.writing() as conn:
        made = await conn.fetchval(
            SQL["give_feedback"], said.agent, said.feedback, said.effect, said.active, said.created_by
        )
        row = await conn.fetchrow(SQL["feedback"], made, None, None, None, None, 1)
    if row is None:
        raise Problem(409, "it was deleted by somebody else just now")
    return Answer({"success": True, "feedback": orjson.Fragment(row["shown"])}, 201)


ROUTES = (
    Route("GET", "/api/feedback", list_feedback, {200: ManyFeedback}, query=FeedbackQuery),
    Route("POST", "/api/feedback", give_feedback, {201: OneFeedback}, body=NewFeedback, problems=(409,)),
)
