"""Engines for tests: one real HTTP server that plays them all, does as it is told and remembers everything.

An instant answer is the default. `on` makes an engine do something else; a request is one thing and its effect
another, so both are counted: `asked` lists the requests, `effects` counts what happened under each key.
"""

import asyncio
import itertools
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import orjson
from aiohttp import web

NAMES = ("sms", "validator", "offers", "classifier")
Result = dict[str, Any]
Effect = Callable[[], Result]
"""Makes the effect happen and says what an honest engine would answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as an engine got it."""

    engine: str
    operation: str
    template: str | None
    key: str
    body: Mapping[str, Any]
    at: float

    @property
    def lead(self) -> str | None:
        """The id of the lead that it is about."""
        lead = self.body.get("lead") or {}
        return self.body.get("lead_id") or lead.get("id")


class Act(Protocol):
    """What an engine does with a request."""

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse: ...


@dataclass(frozen=True, slots=True)
class Answers:
    """The effect, then its result; `more` overrides parts of it, `without` leaves parts out."""

    more: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        result = {**effect(), **self.more}
        return web.json_response({k: v for k, v in result.items() if k not in self.without})


@dataclass(frozen=True, slots=True)
class Says:
    """The effect, then these very bytes."""

    body: bytes
    content_type: str = "application/json"

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        effect()
        return web.Response(body=self.body, content_type=self.content_type)


@dataclass(frozen=True, slots=True)
class Refuses:
    """No effect, an error status."""

    status: int
    retry_after_s: int | None = None
    detail: str = "not today"

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        problem = orjson.dumps({"status": self.status, "detail": self.detail})
        return web.Response(body=problem, status=self.status, headers=headers, content_type="application/problem+json")


@dataclass(frozen=True, slots=True)
class Drops:
    """The connection breaks before or after the effect; the caller can't tell which."""

    after_effect: bool

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        if self.after_effect:
            effect()
        if request.transport is not None:
            request.transport.abort()
        await asyncio.Event().wait()  # until aiohttp notices, and cancels this
        raise AssertionError("the connection outlived its abort")


@dataclass(frozen=True, slots=True)
class Hangs:
    """No answer until `release`, then whatever `then` does."""

    then: Act = field(default_factory=Answers)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let every request that hangs go on."""
        self.released.set()

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        self.started.set()
        await self.released.wait()
        return await self.then.play(request, effect)


@dataclass(frozen=True, slots=True)
class Streams:
    """Server-sent events: progress, then `last` with the result; without a `last` the stream is cut."""

    last: str | None = "complete"

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'event: progress\ndata: {"done": 1}\n\n')
        result = effect()
        if self.last is not None:
            await response.write(b"event: " + self.last.encode() + b"\ndata: " + orjson.dumps(result) + b"\n\n")
        return response


@dataclass(frozen=True, slots=True)
class Accepts:
    """202 and a place to ask, where it is not over at the first poll."""

    status: str = "completed"
    polls: Counter[str] = field(default_factory=Counter)

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        if request.method == "POST":
            place = f"/{request.match_info['engine']}/jobs/{request.headers['Idempotency-Key']}"
            return web.Response(status=202, headers={"Location": place, "Retry-After": "0"})
        self.polls["asked"] += 1
        if self.polls["asked"] == 1:
            return web.json_response({"status": "running"}, headers={"Retry-After": "0"})
        return web.json_response({"status": self.status, "result": effect()})


@dataclass(slots=True)
class Rule:
    """For which requests an act is meant, and how often."""

    engine: str
    act: Act
    template: str | None
    lead: str | None
    left: int | None

    def fits(self, asked: Asked) -> bool:
        wanted = (self.template in (None, asked.template)) and (self.lead in (None, asked.lead))
        return self.engine == asked.engine and wanted and self.left != 0


class Engines:
    """All engines; the last rule that fits a request decides, else there is an instant answer."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.effects: Counter[str] = Counter()
        self.honours_keys = False
        self.categories: dict[str, str] = {}
        self.confidence = 0.95
        self._rules: list[Rule] = []
        self._results: dict[str, Result] = {}
        self._jobs: dict[str, tuple[Accepts, Asked]] = {}
        self._numbers = itertools.count(1)
        self._base = ""

    def url(self, name: str) -> str:
        """Where an engine is to be found."""
        return f"{self._base}/{name}"

    def on(self, engine: str, act: Act, *, template: str | None = None, lead: UUID | None = None,
           times: int | None = None) -> None:  # fmt: skip
        """From now on (or so many times) the engine does this."""
        self._rules.insert(0, Rule(engine, act, template, str(lead) if lead else None, times))

    def well(self, engine: str) -> None:
        """The engine answers at once again."""
        self._rules = [rule for rule in self._rules if rule.engine != engine]

    def requests(self, engine: str, template: str | None = None, lead: UUID | None = None) -> list[Asked]:
        """What an engine was asked, in order."""
        return [
            a
            for a in self.asked
            if a.engine == engine and template in (None, a.template) and (lead is None or a.lead == str(lead))
        ]

    def happened(self, template: str, lead: UUID | None = None) -> int:
        """How many effects a template has had, whatever the caller was told."""
        engine = "offers" if template == "OFFER" else "sms"
        return sum(self.effects[key] for key in {a.key for a in self.requests(engine, template, lead)})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Engines"]:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_post("/{engine}/{operation:.*}", self._asked)
        app.router.add_get("/{engine}/jobs/{job:.*}", self._polled)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self._base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        asked = await _read(request)
        self.asked.append(asked)
        rule = next((r for r in self._rules if r.fits(asked)), None)
        act: Act = Answers() if rule is None else rule.act
        if rule is not None and rule.left is not None:
            rule.left -= 1
        if isinstance(act, Accepts):
            self._jobs[asked.key] = (act, asked)
        return await act.play(request, lambda: self._effect(asked))

    async def _polled(self, request: web.Request) -> web.StreamResponse:
        act, asked = self._jobs[request.match_info["job"]]
        return await act.play(request, lambda: self._effect(asked))

    def _effect(self, asked: Asked) -> Result:
        if self.honours_keys and asked.key in self._results:
            return self._results[asked.key]
        self.effects[asked.key] += 1
        self._results[asked.key] = result = self._usual(asked)
        return result

    def _usual(self, asked: Asked) -> Result:
        number = next(self._numbers)
        match asked.engine, asked.operation:
            case "sms", _:
                return {"message_id": f"sms-{number}", "cost": 0.01}
            case "validator", _:
                return {"passed": True, "reason": None, "bmv_score": 25, "estimated_market_value": 200_000, "cost": 0.1}
            case "offers", "/api/offers":
                return {"offer_amount": 150_000, "message_id": f"offer-{number}", "cost": 0.05}
            case "offers", _:
                return {"deal_id": f"deal-{number}", "cost": 0.05}
            case _:
                category = self.categories.get(asked.body["reply"]["body"], "unclear")
                return {"category": category, "confidence": self.confidence, "reason": "as told", "cost": 0.02}


async def _read(request: web.Request) -> Asked:
    engine, operation = request.match_info["engine"], "/" + request.match_info["operation"]
    body = orjson.loads(await request.read())
    template = "OFFER" if operation == "/api/offers" else body.get("template")
    return Asked(engine, operation, template, request.headers["Idempotency-Key"], body, time.monotonic())


def nowhere() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"
