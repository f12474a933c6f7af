"""One real server on loopback that plays every engine, each under its own path, with the faults of real ones."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from aiohttp import web

from daemon.sandbox import control
from daemon.sandbox.bodies import answer, problem, read_object
from daemon.sandbox.faults import Faults, Struck
from daemon.sandbox.operations import Made, operation
from daemon.sandbox.strokes import WHOLE, Stroke, land

KEPT_ANSWERS = 20_000
KEPT_CALLS = 5_000
LARGEST_BODY = 16 * 2**20
Overhear = Callable[[Made], None]
"""Told once per call that was made."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The result of a call that was only accepted, and from when on it may be fetched."""

    call: Struck
    result: dict[str, Any]
    ready_at: float


@dataclass(slots=True)
class Engines:
    """All engines: what they were asked, what they answered, and whom they tell."""

    names: Collection[str]
    faults: Faults
    overhear: Overhear
    latency_s: tuple[float, float] = (0.005, 0.06)
    made: deque[Made] = field(default_factory=lambda: deque(maxlen=KEPT_CALLS))
    _answers: dict[Struck, dict[str, Any]] = field(default_factory=dict)
    _kept: dict[str, Kept] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _chance: Random = field(default_factory=Random)

    async def health(self, request: web.Request) -> web.Response:
        """An engine of ours is well."""
        known = request.match_info["engine"] in self.names
        return answer({"status": "ok"}) if known else problem(404, "no such engine")

    async def call(self, request: web.Request) -> web.StreamResponse:
        """One call: the operation's result, unless a fault strikes."""
        engine, path = request.match_info["engine"], "/" + request.match_info["path"]
        perform = operation(engine, path) if engine in self.names else None
        if perform is None:
            return problem(404, f"{engine} has no operation {path}")
        body = read_object(await request.read())
        if body is None:
            return problem(400, "the body must be a JSON object")
        await asyncio.sleep(self._chance.uniform(*self.latency_s))
        call = (engine, path, request.headers.get("Idempotency-Key", ""))
        return await self._answered(request, call, lambda: self._once(call, body, perform))

    async def _answered(
        self, request: web.Request, call: Struck, perform: Callable[[], dict[str, Any]]
    ) -> web.StreamResponse:
        rule = self.faults.strike(call)
        if rule is None:
            response: web.StreamResponse = answer(perform())
        else:
            response = await land(Stroke(rule, request, perform, lambda result, s: self._keep(call, result, s)))
        if rule is None or rule.fault in WHOLE:
            self.faults.answered(call)
        return response

    def _once(self, call: Struck, body: Mapping[str, Any], perform: Callable[..., Any]) -> dict[str, Any]:
        """The result under this key, made at its first asking only; nothing is awaited, so calls take turns."""
        if call[2] and call in self._answers:
            return self._answers[call]
        result: dict[str, Any] = perform(body)
        _remember(self._answers, call, result)
        self.made.append(Made(*call, body, result))
        self.overhear(self.made[-1])
        return result

    # -- calls that are accepted first

    def _keep(self, call: Struck, result: dict[str, Any], seconds: float) -> str:
        number = str(next(self._numbers))
        _remember(self._kept, number, Kept(call, result, asyncio.get_running_loop().time() + seconds))
        return f"/{call[0]}/accepted/{number}"

    async def report(self, request: web.Request) -> web.Response:
        """How an accepted call stands."""
        kept = self._kept.get(request.match_info["number"])
        if kept is None or kept.call[0] != request.match_info["engine"]:
            return problem(404, "no such call")
        if asyncio.get_running_loop().time() < kept.ready_at:
            return answer({"status": "running"})
        self.faults.answered(kept.call)
        return answer({"status": "completed", "result": kept.result})


@asynccontextmanager
async def serve(engines: Engines) -> AsyncIterator[str]:
    """Serve on a free port of loopback; the URL under which `/NAME` is the engine of that name."""
    app = web.Application(client_max_size=LARGEST_BODY)
    control.add_to(app, control.Control(engines.faults, engines.names))
    app.router.add_get("/{engine}/health", engines.health)
    app.router.add_get("/{engine}/accepted/{number}", engines.report)
    app.router.add_post("/{engine}/{path:.*}", engines.call)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    memory[key] = value
    if len(memory) > KEPT_ANSWERS:
        del memory[next(iter(memory))]
