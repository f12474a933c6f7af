"""The application: the table of all routes, and what happens around every handler.

authorize -> read path, query and body -> handler -> JSON          any exception on the way -> problem document
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

import orjson
from aiohttp import web

from daemon.api import (
    alerts,
    approval_links,
    approvals,
    campaigns,
    checkpoints,
    docs,
    engine_webhooks,
    exclusions,
    explain,
    feedback,
    health,
    lead_changes,
    leads,
    openapi,
    pipelines,
    replies,
    runs,
    sending,
    stuck,
    tasks,
)
from daemon.api.auth import authorize
from daemon.api.connection import HEADERS, refusal
from daemon.api.problems import RETRY, Problem, problem_of
from daemon.api.reading import read
from daemon.api.route import Answer, Api, Route

ROUTES: tuple[Route, ...] = (
    *health.ROUTES,
    *leads.ROUTES,
    *lead_changes.ROUTES,
    *explain.ROUTES,
    *pipelines.ROUTES,
    *stuck.ROUTES,
    *replies.ROUTES,
    *exclusions.ROUTES,
    *campaigns.ROUTES,
    *runs.ROUTES,
    *approvals.ROUTES,
    *approval_links.ROUTES,
    *checkpoints.ROUTES,
    *feedback.ROUTES,
    *sending.ROUTES,
    *tasks.ROUTES,
    *alerts.ROUTES,
    *engine_webhooks.ROUTES,
    *openapi.ROUTES,
    *docs.ROUTES,
)
"""Every route of the API; a new resource is its module and one line here."""

ELSEWHERE = "/{elsewhere:.*}"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Resource:
    """All routes under one path."""

    api: Api
    routes: Mapping[str, Route]

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """Read the request, let the handler of its method answer it."""
        route = self.routes.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise Problem(405, f"{request.method} is not possible here", headers={"Allow": ", ".join(self._methods())})
        if not (route.early or self.api.daemon.at_work):
            raise Problem(503, "the database is away", headers=RETRY)
        given = await read(request, route, self.api.bounds)
        async with asyncio.timeout(route.timeout_s):
            answer = await route.handler(self.api, given)
        return _response(answer) if isinstance(answer, Answer) else answer

    def is_open(self, method: str) -> bool:
        """Whether a request with this method needs no credential."""
        route = self.routes.get("GET" if method == "HEAD" else method)
        return route.open if route else all(route.open for route in self.routes.values())

    def _methods(self) -> list[str]:
        return sorted({*self.routes, *(["HEAD"] if "GET" in self.routes else [])})


def build(api: Api, routes: Sequence[Route] = ROUTES) -> web.Application:
    """The aiohttp application of these routes."""
    by_path = sorted((*routes, docs.FRONT_DOOR), key=lambda route: route.path)
    resources = {
        path: Resource(api, {route.method: route for route in group})
        for path, group in groupby(by_path, key=lambda route: route.path)
    }
    app = web.Application(middlewares=[_guard(api, resources)], client_max_size=api.bounds.body_bytes)
    wholes: openapi.Wholes = {campaigns.CampaignDocument: api.daemon.campaign_schema}
    app[openapi.DESCRIBED] = described = openapi.Described(routes, wholes)
    app[docs.PAGE] = docs.Page(described, api.daemon.settings.public_url)
    for path, resource in resources.items():
        app.router.add_route("*", path, resource.respond, expect_handler=_expect)
    app.router.add_route("*", ELSEWHERE, _nowhere, expect_handler=_expect)
    return app


def _guard(api: Api, resources: Mapping[str, Resource]) -> Any:
    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            found = request.match_info.route.resource
            resource = resources.get(found.canonical) if found else None  # a stranger learns not even which paths exist
            if resource is None or not resource.is_open(request.method):
                authorize(request, api.daemon.settings)
            return await handler(request)
        except web.HTTPNotFound:
            return refusal(Problem(404, "there is no such path; what there is: /api/docs"))
        except Exception as error:  # noqa: BLE001 - nothing a request does may end in a bare 500
            return refusal(problem_of(error))

    return guarded


async def _nowhere(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


async def _expect(_request: web.Request) -> None:
    """Who waits to be told to go on with the body is told when it is about to be read."""


def _response(answer: Answer) -> web.Response:
    body = answer.content if isinstance(answer.content, bytes) else orjson.dumps(answer.content, default=_json)
    headers = {**HEADERS, "Content-Type": answer.media, **answer.headers}
    return web.Response(status=answer.status, body=body, headers=headers)


def _json(value: object) -> Any:
    """Money is a JSON number; ids and the like are text."""
    return float(value) if isinstance(value, Decimal) else str(value)
