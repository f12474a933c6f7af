"""How each fault looks to the one who calls: the same call is refused, broken off, cut, delayed or lied to."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import orjson
from aiohttp import web

from daemon.sandbox.bodies import answer, problem
from daemon.sandbox.faults import Fault, Rule

HUNDREDFOLD = 100


@dataclass(frozen=True, slots=True)
class Stroke:
    """A call that a fault has struck: `perform` has its effect and says its result, `keep` gives that a place."""

    rule: Rule
    request: web.Request
    perform: Callable[[], dict[str, Any]]
    keep: Callable[[dict[str, Any], float], str]

    def break_off(self) -> web.Response:
        """The caller hears nothing more; what is returned goes nowhere."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return web.Response()


async def _error(stroke: Stroke) -> web.StreamResponse:
    return problem(500, "something went wrong here, nothing was done")


async def _busy(stroke: Stroke) -> web.StreamResponse:
    wait = {"Retry-After": str(ceil(stroke.rule.seconds))}
    return problem(int(stroke.rule.fault), "too much to do, ask again", wait)


async def _dropped(stroke: Stroke) -> web.StreamResponse:
    return stroke.break_off()


async def _lost_answer(stroke: Stroke) -> web.StreamResponse:
    stroke.perform()
    return stroke.break_off()


async def _garbage(stroke: Stroke) -> web.StreamResponse:
    stroke.perform()
    return web.Response(text="<html>Everything is fi", content_type="application/json")


async def _cut_stream(stroke: Stroke) -> web.StreamResponse:
    complete = b"event: complete\ndata: " + orjson.dumps(stroke.perform())
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(stroke.request)
    await stream.write(b'event: progress\ndata: {"percent": 50}\n\n')
    await stream.write(complete[:-8])
    return stream  # without the blank line that would end the event


async def _late(stroke: Stroke) -> web.StreamResponse:
    await asyncio.sleep(stroke.rule.seconds)
    return answer(stroke.perform())


async def _accepted(stroke: Stroke) -> web.StreamResponse:
    place = stroke.keep(stroke.perform(), stroke.rule.seconds)
    return answer({"status": "accepted"}, 202, {"Location": place})


async def _negative_cost(stroke: Stroke) -> web.StreamResponse:
    return answer({**stroke.perform(), "cost": -1})


async def _missing_cost(stroke: Stroke) -> web.StreamResponse:
    return answer({name: value for name, value in stroke.perform().items() if name != "cost"})


async def _huge_cost(stroke: Stroke) -> web.StreamResponse:
    result = stroke.perform()
    return answer({**result, "cost": round(result.get("cost", 0) * HUNDREDFOLD, 6)})


LOOKS: Mapping[Fault, Callable[[Stroke], Awaitable[web.StreamResponse]]] = {
    Fault.LATENCY: _late,
    Fault.ERROR: _error,
    Fault.BUSY: _busy,
    Fault.LIMITED: _busy,
    Fault.POLL: _accepted,
    Fault.DROPPED: _dropped,
    Fault.LOST_ANSWER: _lost_answer,
    Fault.CUT_STREAM: _cut_stream,
    Fault.GARBAGE: _garbage,
    Fault.NEGATIVE_COST: _negative_cost,
    Fault.MISSING_COST: _missing_cost,
    Fault.HUGE_COST: _huge_cost,
}
WHOLE = {Fault.LATENCY, Fault.NEGATIVE_COST, Fault.MISSING_COST, Fault.HUGE_COST}
"""The faults that give the whole answer, if a strange one."""


async def land(stroke: Stroke) -> web.StreamResponse:
    """What the caller gets."""
    return await LOOKS[stroke.rule.fault](stroke)
