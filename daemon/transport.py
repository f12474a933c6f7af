"""Carries one call to an engine, over HTTP or to a command, and says what became of it.

A call ends as a value: `Answered`, `Failed` (nothing happened) or `Unknown` (something may have). The line between
the last two is whether the request had begun to go out. Only cancellation is raised.
"""

import asyncio
import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, cast
from uuid import UUID

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from daemon import answers
from daemon.answers import Answer, Failed, Unknown
from daemon.retry import parse_retry_after
from daemon.settings import EngineSettings
from daemon.sse import EventStream, TooLargeError

BODY_LIMIT = 16 * 2**20
ERROR_BODY_LIMIT = 64 * 2**10
STDOUT, STDERR = 1, 2
OUTPUT_LIMITS = {STDOUT: 2**20, STDERR: 64 * 2**10}
LAST_LINES = 5
TEMPORARY_FAILURE = os.EX_TEMPFAIL
ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "CLAUDE_CODE_PATH"),
)
_KEEP_ALIVE_S = 1.0
_POLL_FIRST_S, _POLL_GROWTH, _POLL_LAST_S = 0.2, 1.5, 10.0
_LEAST_PAUSE_S = 0.05
_ONE_POLL_S = 15.0
_LEFTOVERS_S = 1.0
_DEPTH_WORTH_CHECKING = 200
_ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_NO_REQUEST = (ValueError, orjson.JSONEncodeError)  # a body that is no JSON; a header or URL that can't be
_NO_LIMIT = aiohttp.ClientTimeout(total=None)


class Health(NamedTuple):
    """How an engine or a probe answered."""

    ok: bool
    message: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Request:
    """One call as its cause wants it; `url` overrides the engine's URL + operation, at the same origin."""

    operation: str
    body: Mapping[str, Any]
    key: str
    traceparent: str
    timeout_s: float
    method: str
    url: str | None
    prompt: str


@dataclass(slots=True)
class Progress:
    """How far a call got, for the verdict if it breaks off."""

    sent: bool
    known: Failed | None = None
    status: int | None = None
    note: str = ""

    def lost(self, why: str, retryable: bool = True) -> Failed | Unknown:
        """The verdict on a call that ended without an answer."""
        if self.known is not None:
            return self.known
        if not self.sent:
            return Failed(why, retryable)
        return Unknown(f"{why} ({self.note})" if self.note else why, self.status)


def open_session() -> aiohttp.ClientSession:
    """The one client session of all engines: no cookies, no proxies, no limit but the engines' own."""
    # An idle connection is given up before any usual server (Node 5 s, gunicorn 2 s) gives it up: a POST that
    # meets a closing connection would be of unknown outcome.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "pipeline-orchestrator"},
        trust_env=False,
    )


class Engine:
    """One configured engine: its slots, its rate and its transport."""

    def __init__(self, settings: EngineSettings, session: aiohttp.ClientSession) -> None:
        self.name = settings.name
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._spacing_s = 1 / settings.rate_per_s if settings.rate_per_s else 0.0
        self._next_start = 0.0
        self._token = settings.token.get_secret_value() if settings.token else ""
        self._transport = _transport(settings, self._token, session)

    async def call(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        key: str,
        traceparent: str,
        timeout_s: float | None = None,
        method: str = "POST",
        url: str | None = None,
        prompt: str = "",
    ) -> Answer:
        """One call; the time limit counts from taking a slot, which is kept until the answer (polls included)."""
        limit_s = self._settings.timeout_s if timeout_s is None else timeout_s
        request = Request(operation, body, key, traceparent, limit_s, method.upper(), url, prompt)
        async with self._slots:
            await self._pace()
            answer = await self._transport.exchange(request)
        return self._clean(answer)

    async def health(self) -> Health:
        """Whether the engine is there (GET its URL + `/health`, or find its command)."""
        return await self._transport.health()

    async def _pace(self) -> None:
        if self._spacing_s:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next_start)
            self._next_start = start + self._spacing_s
            await asyncio.sleep(start - now)

    def _clean(self, answer: Answer) -> Answer:
        if isinstance(answer, answers.Answered):
            return answer
        error = answer.error.replace(self._token, "***") if self._token else answer.error
        return replace(answer, error=answers.tidy(f"{self.name}: {error}"))


def _transport(settings: EngineSettings, token: str, session: aiohttp.ClientSession) -> "_Http | _Command | _Nowhere":
    if settings.command:
        return _Command(settings.command, token)
    return _Http(URL(str(settings.url)), token, session) if settings.url else _Nowhere()


class _Nowhere:
    """An engine that is named, but has neither URL nor command."""

    async def exchange(self, request: Request) -> Answer:
        return Failed("neither a URL nor a command is set for this engine", retryable=False)

    async def health(self) -> Health:
        return Health(False, "neither a URL nor a command is set", 0.0)


# HTTP


class _Body(aiohttp.BytesPayload):
    """A JSON body that notes when it begins to go out."""

    def __init__(self, content: bytes, progress: Progress) -> None:
        super().__init__(content, content_type="application/json")
        self._progress = progress

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self._progress.sent = True
        await super().write_with_length(writer, content_length)


class _Http:
    """Speaks to the engine at one origin."""

    def __init__(self, base: URL, token: str, session: aiohttp.ClientSession) -> None:
        self._base = base.with_user(None)
        self._session = session
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}

    async def exchange(self, request: Request) -> Answer:
        progress = Progress(sent=request.method == "GET")  # a GET has no body to tell us
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._converse(request, progress)
        except TooLargeError as error:
            return progress.lost(str(error))
        except aiohttp.ClientConnectorError as error:
            return Failed(_explain(error), retryable=True)
        except TimeoutError:
            return progress.lost(f"no answer within {request.timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return progress.lost(_explain(error), retryable=not isinstance(error, aiohttp.InvalidURL))
        except _NO_REQUEST as error:
            return progress.lost(f"the request can't be sent: {_explain(error)}", retryable=False)

    async def health(self) -> Health:
        return await health(self._session, str(self._base))

    async def _converse(self, request: Request, progress: Progress) -> Answer:
        target = self._target(request)
        if target is None:
            return Failed("the URL is not at the engine's origin", retryable=False)
        headers = self._headers(request)
        async with self._open(target, request, headers, progress) as response:
            progress.status = response.status
            if response.status != 202:
                return await _read(response, progress)
            place, pause_s = response.headers.get("Location"), _asked_pause(response)
        if place is None:
            return Unknown("accepted; waiting for the webhook", 202)
        del headers["Idempotency-Key"]
        return await self._poll(target, place, pause_s, headers, progress)

    def _open(
        self, target: URL, request: Request, headers: dict[str, str], progress: Progress
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        send = functools.partial(
            self._session.request, request.method, target, headers=headers, allow_redirects=False, timeout=_NO_LIMIT
        )
        if request.method == "GET":
            return send(params=_query(request.body))
        return send(data=_Body(_json(request.body), progress))

    def _target(self, request: Request) -> URL | None:
        joined = f"{str(self._base).rstrip('/')}/{request.operation.lstrip('/')}"
        return self._within(URL(request.url or joined))

    def _within(self, url: URL) -> URL | None:
        """The URL without credentials, if it is the engine's own."""
        mine = url.absolute and url.host and url.origin() == self._base.origin()
        return url.with_user(None) if mine else None

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Accept": "application/json, text/event-stream", "Idempotency-Key": request.key}
        headers |= {"traceparent": request.traceparent} if request.traceparent else {}
        return headers | self._authorization

    async def _poll(
        self, target: URL, place: str, pause_s: float | None, headers: dict[str, str], progress: Progress
    ) -> Answer:
        try:
            where = self._within(target.join(URL(place)))
        except ValueError:
            where = None
        if where is None:
            return Unknown("accepted, but its Location is not at the engine's origin", 202)
        for usual_s in _growing_pauses():
            await asyncio.sleep(usual_s if pause_s is None else max(pause_s, _LEAST_PAUSE_S))
            answer, pause_s = await self._ask(where, headers, progress)
            if answer is not None:
                return answer
        raise AssertionError("the pauses never end")

    async def _ask(self, where: URL, headers: dict[str, str], progress: Progress) -> tuple[Answer | None, float | None]:
        limit = aiohttp.ClientTimeout(total=_ONE_POLL_S)
        try:
            async with self._session.get(where, headers=headers, allow_redirects=False, timeout=limit) as response:
                progress.note = f"last poll: HTTP {response.status}"
                report = read_object(await _collect(response, BODY_LIMIT)) if response.status < 300 else None
                answer = None if report is None else answers.read_report(report, response.status)
                return answer, _asked_pause(response)
        except (aiohttp.ClientError, OSError) as error:
            progress.note = f"last poll: {_explain(error)}"
            return None, None


async def _read(response: aiohttp.ClientResponse, progress: Progress) -> Answer:
    if response.status >= 300:
        return await _read_refusal(response, progress)
    if response.content_type == "text/event-stream":
        return await _read_stream(response)
    return answers.read_result(read_object(await _collect(response, BODY_LIMIT)), response.status)


async def _read_refusal(response: aiohttp.ClientResponse, progress: Progress) -> Failed:
    pause_s = _asked_pause(response)
    progress.known = answers.read_refusal(response.status, None, "", pause_s)
    body = await _beginning(response, ERROR_BODY_LIMIT)
    return answers.read_refusal(response.status, read_object(body), body.decode("utf-8", "replace"), pause_s)


async def _read_stream(response: aiohttp.ClientResponse) -> Answer:
    stream = EventStream(BODY_LIMIT)
    async for chunk in response.content.iter_any():
        for event in stream.feed(chunk):
            document = read_object(event.text.encode())
            if (answer := answers.read_event(event.kind, document, event.text)) is not None:
                return answer
    return Unknown("the stream ended without complete or error", response.status)


async def _collect(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = await _beginning(response, limit)
    if len(body) > limit:
        raise TooLargeError(f"the answer is larger than {limit} bytes")
    return body


async def _beginning(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or a little more than its first `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


async def health(session: aiohttp.ClientSession, url: str, *, timeout_s: float = 5.0) -> Health:
    """GET `url` + `/health`; any answer below 500 is ok."""
    return await probe(session, f"{url.rstrip('/')}/health", timeout_s=timeout_s)


async def probe(session: aiohttp.ClientSession, url: str, *, timeout_s: float = 5.0) -> Health:
    """GET exactly `url`; any answer below 500 is ok."""
    clock = asyncio.get_running_loop().time
    begin = clock()
    try:
        async with asyncio.timeout(timeout_s), session.get(url, allow_redirects=False, timeout=_NO_LIMIT) as response:
            ok, message = response.status < 500, f"HTTP {response.status}"
    except TimeoutError:
        ok, message = False, f"no answer within {timeout_s:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        ok, message = False, answers.tidy(_explain(error))
    return Health(ok, message, round((clock() - begin) * 1000, 1))


def _asked_pause(response: aiohttp.ClientResponse) -> float | None:
    header = response.headers.get("Retry-After")
    return None if header is None else parse_retry_after(header, datetime.now(UTC))


def _growing_pauses() -> Iterator[float]:
    return (min(_POLL_FIRST_S * _POLL_GROWTH ** min(n, 20), _POLL_LAST_S) for n in itertools.count())


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, fit for a jsonb column (no NUL, bounded depth), or None if it is none."""
    try:
        value = orjson.loads(_ESCAPED_NUL.sub(rb"\1\\ufffd", body))
        if body.count(b"{") + body.count(b"[") > _DEPTH_WORTH_CHECKING:
            orjson.dumps([[value]])  # loads allows four times the depth that dumps does
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return value if isinstance(value, dict) else None


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=_plain)


def _plain(value: object) -> Any:
    """Numbers of the database keep every digit; other mappings are objects; asyncpg has a UUID of its own."""
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


def _query(body: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else _json(value).decode() for name, value in body.items()}


def _explain(error: Exception) -> str:
    """What went wrong; the text of a refused URL is left out, for it may hold a password."""
    kind = type(error).__name__
    said = "" if isinstance(error, ValueError) and not isinstance(error, OSError) else str(error)
    return f"{kind}: {said}" if said else kind


# Commands


class _Command:
    """Runs the engine as a program: one JSON object in, one out.

    Exit 75 (EX_TEMPFAIL) is a failure worth a retry, any other exit but 0 one that is not. Death by a signal, too
    much output and time-out leave the outcome unknown.
    """

    def __init__(self, command: Iterable[str], token: str) -> None:
        self._command = tuple(command)
        self._token = token

    async def exchange(self, request: Request) -> Answer:
        if request.url is not None:
            return Failed("a command engine has no URLs", retryable=False)
        progress = Progress(sent=False)
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._run(_question(request), request.traceparent, progress)
        except TimeoutError:
            return progress.lost(f"no answer within {request.timeout_s:g} s; killed")
        except OSError as error:
            absent = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
            return progress.lost(_explain(error), retryable=not absent)
        except _NO_REQUEST as error:
            return progress.lost(f"the request can't be sent: {_explain(error)}", retryable=False)

    async def health(self) -> Health:
        found = shutil.which(self._command[0])
        return Health(found is not None, "command found" if found else f"no command {self._command[0]}", 0.0)

    async def _run(self, question: bytes, traceparent: str, progress: Progress) -> Answer:
        loop = asyncio.get_running_loop()
        environment = self._environment(traceparent)
        transport, child = await loop.subprocess_exec(_Child, *self._command, start_new_session=True, env=environment)
        try:
            progress.sent = True
            child.ask(question)
            await child.ended
            return _verdict(child, transport.get_returncode())
        finally:
            if transport.get_returncode() is None:
                _kill_group(transport.get_pid())
            transport.close()

    def _environment(self, traceparent: str) -> dict[str, str]:
        extra = {"ENGINE_TOKEN": self._token, "TRACEPARENT": traceparent}
        inherited = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        return inherited | {name: value for name, value in extra.items() if value}


class _Child(asyncio.SubprocessProtocol):
    """Listens to the program until it has ended or said too much."""

    def __init__(self) -> None:
        self.said = {STDOUT: bytearray(), STDERR: bytearray()}
        self.flooded = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def ask(self, question: bytes) -> None:
        """Hands over the one object on stdin."""
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        stdin.write(question)
        stdin.write_eof()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.said[fd] += data
        self.flooded = self.flooded or len(self.said[fd]) > OUTPUT_LIMITS[fd]
        if self.flooded:
            self._end()

    def process_exited(self) -> None:
        _kill_group(self._transport.get_pid())  # what it left behind would hold the pipes open
        asyncio.get_running_loop().call_later(_LEFTOVERS_S, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _question(request: Request) -> bytes:
    return _json(
        {
            "operation": request.operation,
            "prompt": request.prompt,
            "request": request.body,
            "idempotency_key": request.key,
        }
    )


def _verdict(child: _Child, code: int | None) -> Answer:
    if child.flooded:
        return Unknown("it wrote more than it may; killed")
    if code is None or code < 0:
        return Unknown(f"ended by signal {-code}" if code else "ended without an exit code")
    if code:
        last_words = child.said[STDERR].decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        return Failed(f"exit {code}: {' '.join(last_words)}", retryable=code == TEMPORARY_FAILURE)
    answer = answers.read_result(read_object(bytes(child.said[STDOUT])), 200)
    return replace(answer, http_status=None) if isinstance(answer, Unknown) else answer


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
