"""The way to an engine at a URL: one request at its origin, and the polls of a call that was accepted."""

import asyncio
import functools
import itertools
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from daemon.answers import Answer, Failed, Unknown
from daemon.sse import TooLargeError
from daemon.transport.documents import as_json, as_query
from daemon.transport.reading import asked_pause, read, read_report
from daemon.transport.request import NO_REQUEST, Health, Progress, Request, Settled, explain
from daemon.transport.session import NO_LIMIT, health

_POLL_FIRST_S, _POLL_GROWTH, _POLL_LAST_S = 0.2, 1.5, 10.0
_LEAST_PAUSE_S = 0.05
_ONE_POLL_S = 15.0
_BY_WEBHOOK = "accepted; waiting for the webhook"


class Http:
    """Speaks to the engine at one origin."""

    def __init__(self, base: str, token: str, session: aiohttp.ClientSession) -> None:
        self._base = URL(base).with_user(None)
        self._session = session
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}

    async def exchange(self, request: Request) -> Answer:
        """Make the call and say what became of it."""
        progress = Progress(sent=request.method == "GET")  # a GET has no body to tell us
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._converse(request, progress)
        except TooLargeError as error:
            return progress.lost(str(error))
        except aiohttp.ClientConnectorError as error:
            return Failed(explain(error), retryable=True)
        except TimeoutError:
            return progress.lost(f"no answer within {request.timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return progress.lost(explain(error), retryable=not isinstance(error, aiohttp.InvalidURL))
        except NO_REQUEST as error:
            return progress.lost(f"the request can't be sent: {explain(error)}", retryable=False)

    async def health(self) -> Health:
        """GET its URL + `/health`."""
        return await health(self._session, str(self._base))

    async def _converse(self, request: Request, progress: Progress) -> Answer:
        target = self._target(request)
        if target is None:
            return Failed("the URL is not at the engine's origin", retryable=False)
        headers = self._headers(request)
        async with self._open(target, request, headers, progress) as response:
            progress.status = response.status
            if response.status != 202:
                return await read(response, progress)
            place, pause_s = response.headers.get("Location"), asked_pause(response)
        del headers["Idempotency-Key"]
        if place is None:
            return await self._await_webhook(request.settled, progress)
        return await self._poll(target, place, pause_s, headers, progress, settled=request.settled)

    def _open(
        self, target: URL, request: Request, headers: dict[str, str], progress: Progress
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        send = functools.partial(
            self._session.request, request.method, target, headers=headers, allow_redirects=False, timeout=NO_LIMIT
        )
        if request.method == "GET":
            return send(params=as_query(request.body))
        return send(data=_Body(as_json(request.body), progress))

    def _target(self, request: Request) -> URL | None:
        joined = f"{str(self._base).rstrip('/')}/{request.operation.lstrip('/')}"
        return self._within(URL(request.url or joined))

    def _within(self, url: URL) -> URL | None:
        """The URL without credentials, if it is the engine's own."""
        return url.with_user(None) if url.absolute and url.host and _origin(url) == _origin(self._base) else None

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream", "Idempotency-Key": request.key}
        headers |= {"traceparent": request.traceparent} if request.traceparent else {}
        return headers | self._authorization

    async def _await_webhook(self, settled: Settled | None, progress: Progress) -> Answer:
        if settled is None:
            return Unknown(_BY_WEBHOOK, 202)
        progress.note = _BY_WEBHOOK
        for pause_s in _growing_pauses():
            await asyncio.sleep(pause_s)
            if (answer := await settled()) is not None:
                return answer
        raise AssertionError("the pauses never end")

    async def _poll(
        self,
        target: URL,
        place: str,
        pause_s: float | None,
        headers: dict[str, str],
        progress: Progress,
        *,
        settled: Settled | None,
    ) -> Answer:
        try:
            where = self._within(target.join(URL(place)))
        except ValueError:
            where = None
        if where is None:
            return Unknown("accepted, but its Location is not at the engine's origin", 202)
        for usual_s in _growing_pauses():
            await asyncio.sleep(usual_s if pause_s is None else max(pause_s, _LEAST_PAUSE_S))
            if settled is not None and (told := await settled()) is not None:
                return told
            answer, pause_s = await self._ask(where, headers, progress)
            if answer is not None:
                return answer
        raise AssertionError("the pauses never end")

    async def _ask(self, where: URL, headers: dict[str, str], progress: Progress) -> tuple[Answer | None, float | None]:
        limit = aiohttp.ClientTimeout(total=_ONE_POLL_S)
        try:
            async with self._session.get(where, headers=headers, allow_redirects=False, timeout=limit) as response:
                progress.note = f"last poll: HTTP {response.status}"
                return await read_report(response), asked_pause(response)
        except (aiohttp.ClientError, OSError) as error:
            progress.note = f"last poll: {explain(error)}"
            return None, None


class _Body(aiohttp.BytesPayload):
    """A JSON body that notes when it begins to go out."""

    def __init__(self, content: bytes, progress: Progress) -> None:
        super().__init__(content, content_type="application/json")
        self._progress = progress

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._progress.sent = True
        await super().write_with_length(writer, content_length)


def _growing_pauses() -> Iterator[float]:
    return (min(_POLL_FIRST_S * _POLL_GROWTH ** min(n, 20), _POLL_LAST_S) for n in itertools.count())


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; to yarl a port that goes without saying differs from the same one said."""
    return url.scheme, url.raw_host, url.port
