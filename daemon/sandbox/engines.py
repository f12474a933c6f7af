"""One real server on loopback that plays every engine, each under its own path, with the moods of real ones.

Moods depend on the Idempotency-Key alone, so that a retry fares better: a key is turned away once at most.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson
from aiohttp import web

from daemon.sandbox.homes import draws
from daemon.sandbox.operations import operation

KEPT_ANSWERS = 20_000
KEPT_CALLS = 5_000
LARGEST_BODY = 16 * 2**20
Overhear = Callable[[str, str, str, Mapping[str, Any], Mapping[str, Any]], None]
"""(engine, path, key, request, result): told once per call that was made."""


@dataclass(frozen=True, slots=True)
class Moods:
    """How the engines behave: usual latency in seconds, shares of keys turned away once or answered slowly."""

    latency_s: tuple[float, float] = (0.005, 0.06)
    busy: float = 0.04
    slow: float = 0.02
    slow_s: tuple[float, float] = (1.0, 3.0)
    retry_after_s: int = 1


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made."""

    engine: str
    path: str
    key: str
    request: Mapping[str, Any]
    result: Mapping[str, Any]


@dataclass(slots=True)
class Engines:
    """All engines: what they were asked, what they answered, and whom they tell."""

    names: Collection[str]
    moods: Moods
    overhear: Overhear
    made: deque[Made] = field(default_factory=lambda: deque(maxlen=KEPT_CALLS))
    turned_away: int = 0
    _answers: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    _refused: set[tuple[str, str, str]] = field(default_factory=set)
    _chance: Random = field(default_factory=Random)

    async def health(self, request: web.Request) -> web.Response:
        """An engine of ours is well."""
        known = request.match_info["engine"] in self.names
        return _json({"status": "ok"}) if known else _problem(404, "no such engine")

    async def answer(self, request: web.Request) -> web.Response:
        """One call: an answer given before, trouble, or the operation's result."""
        engine, path = request.match_info["engine"], "/" + request.match_info["path"]
        perform = operation(engine, path) if engine in self.names else None
        if perform is None:
            return _problem(404, f"{engine} has no operation {path}")
        body = _object(await request.read())
        if body is None:
            return _problem(400, "the body must be a JSON object")
        call = (engine, path, request.headers.get("Idempotency-Key", ""))
        await asyncio.sleep(self._latency(call))
        if self._turns_away(call):
            wait = {"Retry-After": str(self.moods.retry_after_s)}
            return _problem(503, f"{engine} is busy, ask again", wait)
        return _json(self._once(call, body, perform))

    def _latency(self, call: tuple[str, str, str]) -> float:
        slow = call[2] and call not in self._answers and draws("slow", *call).random() < self.moods.slow
        return self._chance.uniform(*(self.moods.slow_s if slow else self.moods.latency_s))

    def _turns_away(self, call: tuple[str, str, str]) -> bool:
        if not call[2] or call in self._refused or call in self._answers:
            return False
        if draws("busy", *call).random() >= self.moods.busy:
            return False
        self._refused.add(call)
        self.turned_away += 1
        return True

    def _once(self, call: tuple[str, str, str], body: Mapping[str, Any], perform: Callable[..., Any]) -> dict[str, Any]:
        """The result under this key, made at its first asking only; nothing is awaited, so calls take turns."""
        if call[2] and call in self._answers:
            return self._answers[call]
        result: dict[str, Any] = perform(body)
        self._keep(call, result)
        self.made.append(Made(*call, body, result))
        self.overhear(*call, body, result)
        return result

    def _keep(self, call: tuple[str, str, str], result: dict[str, Any]) -> None:
        self._answers[call] = result
        self._refused.discard(call)
        if len(self._answers) > KEPT_ANSWERS:
            del self._answers[next(iter(self._answers))]


@asynccontextmanager
async def serve(engines: Engines) -> AsyncIterator[str]:
    """Serve on a free port of loopback; the URL under which `/NAME` is the engine of that name."""
    app = web.Application(client_max_size=LARGEST_BODY)
    app.router.add_get("/{engine}/health", engines.health)
    app.router.add_post("/{engine}/{path:.*}", engines.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _json(document: Mapping[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type="application/json")


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps({"status": status, "title": "the sandbox says", "detail": detail})
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)
