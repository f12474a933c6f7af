"""Connections that answer even what is no HTTP with a problem document, and leave no room in the log to strangers."""

from typing import Any

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from daemon.api import problems
from daemon.api.problems import Problem
from daemon.log import get_logger

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "orchestrator"}
_NOT_UNDERSTOOD = "the request can't be read as HTTP"

log = get_logger("api")


class Runner(web.AppRunner):
    """Runs an application on connections of ours."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **self._kwargs)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to bytes that are no request; they are quoted nowhere, since a credential may be among them."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        log.debug("not understood", error=type(exc).__name__)
        return refusal(Problem(status, _NOT_UNDERSTOOD, close=True))

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Note what went wrong, in a whisper if the other side is to blame."""
        error = kw.get("exc_info")
        if isinstance(error, web.RequestPayloadError | HttpProcessingError):
            log.debug("not understood", error=type(error).__name__)
        else:
            super().log_exception(*args, **kw)


def refusal(problem: Problem) -> web.Response:
    """The answer that a problem is."""
    headers = {**HEADERS, "Content-Type": problems.MEDIA, **problem.headers}
    response = web.Response(status=problem.status, body=orjson.dumps(problem.document(), default=str), headers=headers)
    if problem.close:
        response.force_close()
    return response
