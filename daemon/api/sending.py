"""Sending: the kill switch for every message to a person."""

from pydantic import AwareDatetime, BaseModel

from daemon import sending
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Words


class Stop(Input):
    """Who stops it, and why."""

    by: Words = "api"
    reason: Words | None = None


class Sending(BaseModel):
    """Whether sending is stopped; `overdue`: scheduled messages whose time has come."""

    stopped: bool
    stopped_at: AwareDatetime | None
    stopped_by: str | None
    reason: str | None
    overdue: int


class OneSending(Success):
    """The kill switch."""

    sending: Sending


async def stop_sending(api: Api, given: Given[Nothing, Nothing, Stop]) -> Answer:
    """Let nothing go out until sending is resumed; what is being sent ends. Who stopped it first stays on record."""
    async with api.writing() as conn:
        return Answer({"success": True, "sending": await sending.stop(conn, given.body.by, given.body.reason)})


async def resume_sending(api: Api, _given: Given[Nothing, Nothing, Nothing]) -> Answer:
    """Let everything go out again; what is overdue is tried at once."""
    async with api.writing() as conn:
        return Answer({"success": True, "sending": await sending.resume(conn)})


ROUTES = (
    Route("POST", "/api/sending/stop", stop_sending, {200: OneSending}, body=Stop),
    Route("POST", "/api/sending/resume", resume_sending, {200: OneSending}),
)
