"""Signed links to requests: looking decides nothing, so whoever only follows links, as scanners do, can't decide."""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs
from uuid import UUID

import orjson
from pydantic import Field

from daemon.api.approval_page import HEADERS, MEDIA, Typed, notice, page, page_about
from daemon.api.approvals import ApprovalId, Code, Comment, Person, request_as_json
from daemon.api.problems import Problem, problem_of
from daemon.api.reading import parse
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route
from daemon.errors import OrchestratorError
from daemon.gates import Decision, decide
from daemon.links import fault_of
from daemon.settings import secret_key

Followed = Given[ApprovalId, "Link", Nothing]
Handler = Callable[[Api, Followed], Awaitable[Answer]]


class Link(Input):
    """What the link carries."""

    token: Annotated[str | None, Field(max_length=200)] = None


class Form(Input):
    """What the form says."""

    decision: Literal["approve", "reject"]
    by: Person
    comment: Comment | None = None
    code: Code | None = None


def for_people(handler: Handler) -> Handler:
    """A browser shows a page also where programs get a problem document."""

    @wraps(handler)
    async def answered(api: Api, given: Followed) -> Answer:
        try:
            return await handler(api, given)
        except OrchestratorError as error:
            problem = problem_of(error)
            if "text/html" not in given.request.headers.get("Accept", ""):
                raise
            return _page(await _excuse(api, given, problem), problem.status)

    return answered


@for_people
async def show_request(api: Api, given: Followed) -> Answer:
    """A request, and a form to decide it, for whoever has its link. Looking changes nothing."""
    _require_token(api, given)
    return _page(page_about(await _request(api, given.path.id)))


@for_people
async def decide_request(api: Api, given: Followed) -> Answer:
    """Decide a request by its form. The body is a form (application/x-www-form-urlencoded) or JSON.

    409 if it is decided already.
    """
    _require_token(api, given)
    said = parse(Form, _as_json(given))
    status: Literal["approved", "rejected"] = "approved" if said.decision == "approve" else "rejected"
    async with api.writing() as conn:
        await decide(conn, given.path.id, Decision(status, said.by, said.comment, said.code))
        request = orjson.loads(await request_as_json(conn, given.path.id))
    return _page(page_about(request))


def _require_token(api: Api, given: Followed) -> None:
    key = secret_key(api.daemon.settings).get_secret_value()
    fault = fault_of(key, "approve", given.path.id, given.query.token or "", time.time())
    if fault is not None:
        raise Problem(403, f"{fault}; at a terminal: orchestrator approvals show {given.path.id}")


async def _request(api: Api, request: UUID) -> Mapping[str, Any]:
    async with api.reading() as conn:
        found: Mapping[str, Any] = orjson.loads(await request_as_json(conn, request))
        return found


def _as_json(given: Followed) -> bytes:
    """The body as JSON; what is left empty in a form isn't said."""
    if given.request.content_type == "application/json":
        return given.raw
    return orjson.dumps({name: text for name, text in _fields(given.raw).items() if text.strip()})


def _fields(raw: bytes) -> Mapping[str, str]:
    try:
        return {name: texts[-1] for name, texts in parse_qs(raw.decode(), errors="strict", max_num_fields=20).items()}
    except ValueError:
        raise Problem(422, "the form can't be read") from None


async def _excuse(api: Api, given: Followed, problem: Problem) -> bytes:
    """What went wrong, above the form if that may be of use."""
    said = "; ".join(f"{'.'.join(map(str, flaw.loc))}: {flaw.msg}" for flaw in problem.errors) or problem.detail
    if problem.status not in (409, 422):
        return page("This can't be decided here", notice(said))
    of = _fields(given.raw)
    typed = Typed(said, of.get("by", ""), of.get("comment", ""), of.get("code", ""))
    return page_about(await _request(api, given.path.id), typed)


def _page(html: bytes, status: int = 200) -> Answer:
    return Answer(html, status, MEDIA, HEADERS)


_LINK = "/approve/{id}"
ROUTES = (
    Route(
        "GET", _LINK, show_request, {200: None}, ApprovalId, Link, problems=(403, 404, 409), open=True,
        media=("text/html",),
    ),
    Route(
        "POST", _LINK, decide_request, {200: None}, ApprovalId, Link, Form, problems=(403, 404, 409), open=True,
        unread=True, media=("text/html",), takes=("application/x-www-form-urlencoded", "application/json"),
    ),
)  # fmt: skip
