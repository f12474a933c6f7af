"""Why nothing (more) happens with a lead, and what happens next."""

from uuid import UUID

from pydantic import AwareDatetime, BaseModel

from daemon.api.leads import LeadId
from daemon.api.problems import Problem
from daemon.api.route import Answer, Api, Given, Nothing, Route, Success


class Step(BaseModel):
    """What happens by itself; without a time, when `why` comes true."""

    what: str
    when: AwareDatetime | None
    why: str


class Gate(BaseModel):
    """What may hold the lead up, and whether it does."""

    name: str
    open: bool
    reason: str


class Wait(BaseModel):
    """What the lead waits for, and what a person can do about it."""

    what: str
    do: str


class Explanation(BaseModel):
    """The summary is the first of what is waited for."""

    lead_id: UUID
    stage: str
    summary: str
    next: list[Step]
    gates: list[Gate]
    waiting_for: list[Wait]


class OneExplanation(Success):
    """An explanation."""

    explanation: Explanation


async def explain_lead(api: Api, given: Given[LeadId, Nothing, Nothing]) -> Answer:
    """Why nothing (more) happens with a lead, and what happens next."""
    async with api.reading() as conn:
        explanation = await api.daemon.explain(conn, given.path.id)
    if explanation is None:
        raise Problem(404, f"there is no lead {given.path.id}")
    return Answer({"success": True, "explanation": explanation})


ROUTES = (Route("GET", "/api/leads/{id}/explain", explain_lead, {200: OneExplanation}, LeadId, problems=(404,)),)
