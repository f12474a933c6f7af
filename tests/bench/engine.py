"""An engine, a process of its own: `engine.py LATENCY_S`. Answers every POST after that long.

Prints its URL; GET /figures says how many calls there were and how many were in flight at the peak.
"""

import asyncio
import sys
from dataclasses import dataclass

from aiohttp import web


@dataclass(slots=True)
class Engine:
    """Counts what is in flight."""

    latency_s: float
    calls: int = 0
    in_flight: int = 0
    peak: int = 0

    async def act(self, request: web.Request) -> web.Response:
        """One call."""
        await request.read()
        self.calls += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
        finally:
            self.in_flight -= 1
        return web.json_response({"message_id": request.headers["Idempotency-Key"], "cost": 0.01})

    async def figures(self, _: web.Request) -> web.Response:
        """What happened so far."""
        return web.json_response({"calls": self.calls, "peak": self.peak})


async def main(latency_s: float) -> None:
    """Serve on a free port of loopback until killed."""
    engine, app = Engine(latency_s), web.Application()
    app.router.add_post("/{operation:.*}", engine.act)
    app.router.add_get("/figures", engine.figures)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(float(sys.argv[1])))
