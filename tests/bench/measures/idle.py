"""What a worker costs that has nothing to do, and how long one takes to be ready."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import SHIPPED
from tests.bench.driver import ALL, Arena, Bench
from tests.bench.figures import OURS, Aim, Row
from tests.bench.programs import Program

WINDOW_S, CALM_S, STARTS = 20.0, 4.0, 5
READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Rest:
    """A worker at rest."""

    queries_per_s: float
    cpu_percent: float
    rss_mb: float


async def at_rest(arena: Arena, worker: Program, seconds: float) -> Rest:
    """Watch it do nothing; the database is asked nothing meanwhile."""
    log = arena.statement_log()
    log.mark()
    cpu, began = worker.cpu_s(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    worker.must_live()
    return Rest(log.executed() / took, 100 * (worker.cpu_s() - cpu) / took, worker.rss_mb())


async def idles(bench: Bench) -> list[Row]:
    """Ours is the shipped command with its API and all pipelines."""
    queries = Row("idle", "idle: queries", "1/s", (Aim(1.5, at_most=True),))
    cpu = Row("idle", "idle: CPU", "%", (Aim(0.5, at_most=True),))
    rss = Row("idle", "idle: RSS", "MB", (Aim(80, at_most=True),))
    for names in bench.each(*ALL):
        found = {name: await _idle(bench, name) for name in names}
        queries.add({name: rest.queries_per_s for name, rest in found.items()})
        cpu.add({name: rest.cpu_percent for name, rest in found.items()})
        rss.add({name: rest.rss_mb for name, rest in found.items()})
    return [queries, cpu, rss]


async def _idle(bench: Bench, name: str) -> Rest:
    async with bench.arena(SHIPPED.name if name == OURS else name) as arena:
        await arena.statement_log().begin(arena.conn)
        worker = await _working(arena) if name == OURS else await arena.warm()
        await asyncio.sleep(bench.seconds(CALM_S))
        return await at_rest(arena, worker, bench.seconds(WINDOW_S))


async def _working(arena: Arena) -> Program:
    async with noticing(arena.folder) as (address, ready):
        worker = arena.start(NOTIFY_SOCKET=address)
        await ready()
    return worker


@asynccontextmanager
async def noticing(folder: Path) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """The socket on which a daemon tells systemd that it is ready, and how to wait for that."""
    loop, place = asyncio.get_running_loop(), folder / f"{time.monotonic_ns()}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(place))
        door.setblocking(False)

        async def ready() -> None:
            async with asyncio.timeout(READY_S):
                while b"READY=1" not in await loop.sock_recv(door, 1000):
                    pass

        yield str(place), ready


async def starts(bench: Bench) -> list[Row]:
    """From the start of the command to its word that it is ready, on a database that it knows."""
    row = Row("start", "start to ready, warm database", "s", (Aim(1.0, at_most=True),))
    cpu = Row("start", "its CPU time until then", "s")
    async with bench.arena(SHIPPED.name) as arena:
        (await _working(arena)).end()
        for _ in range(STARTS):
            began = time.monotonic()
            worker = await _working(arena)
            row.add({OURS: time.monotonic() - began})
            cpu.add({OURS: worker.cpu_s()})
            worker.end()
    return [row, cpu]
