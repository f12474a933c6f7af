"""kill -9: how soon another worker goes on with what the dead one had begun, and whether anything is done twice."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.driver import ALL, BOUND, PEERS, Arena, Bench
from tests.bench.figures import OURS, Aim, Row
from tests.bench.measures.latency import began_at
from tests.support.processes import until

BACKLOG, SLOW, THINK_S = 10_000, 600, 0.2
PEERS_LIMIT_S = 45.0
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class After:
    """After the kill."""

    seconds: float
    twice: int


async def crashes(bench: Bench) -> list[Row]:
    """The peers once: they take half a minute, or for ever."""
    soon = Row("crash", "kill -9 among two workers: what it had begun is begun again", "s", (Aim(2.0, at_most=True),))
    soon.of_passes = max
    never = Aim(0, at_most=True)
    twice = Row("crash", "handled twice after it", "leads", (never,), max)
    again = Row("crash", "handled twice after kill -9 in the drain and a restart", "leads", (never,), max)
    for number, names in enumerate(bench.each(*ALL)):
        measured = [name for name in names if name != BOUND and (name not in PEERS or number == 0)]
        found = {name: await _takeover(bench, name) for name in measured}
        soon.add({name: after.seconds for name, after in found.items()})
        twice.add({name: float(after.twice) for name, after in found.items()})
        again.add({name: await _restarted(bench, name) for name in names if name not in PEERS or number == 0})
    return [soon, twice, again]


def _limit(bench: Bench, name: str) -> float:
    return bench.seconds(PEERS_LIMIT_S, least=4.0) if name in PEERS else LIMIT_S


async def _takeover(bench: Bench, name: str) -> After:
    async with bench.arena(name, BENCH_THINK_S=str(THINK_S), BENCH_MARK="1") as arena:
        traces = [arena.folder / "first", arena.folder / "second"]
        first, _ = (arena.start(BENCH_TRACE=str(trace)) for trace in traces)
        # Both must be at work before the backlog comes: one lead each way would not show that.
        await until(lambda: _both_began(arena, traces), 30.0, "both workers at work", pause=0.1)
        await arena.insert(bench.count(SLOW, least=300), batch=500)
        await until(lambda: _begun(traces[0], 20), 30.0, "the first worker busy", pause=0.01)
        first.kill()
        killed = time.monotonic_ns()
        done = await arena.times_handled()
        in_flight = began_at(traces[0]).keys() - done.keys()
        assert in_flight, f"the first worker of {name} had nothing in flight when it was killed"
        await _calm(arena, _limit(bench, name))
        times = await arena.times_handled()
        began = began_at(traces[1])
    lost_answers = {number for number in in_flight if number in times and number not in began}
    waits = [(began[n] - killed) / 1e9 if n in began else math.inf for n in in_flight - lost_answers]
    return After(max(waits, default=0.0), sum(1 for n in times.values() if n > 1))


async def _both_began(arena: Arena, traces: list[Path]) -> bool:
    """Feed leads until each worker has got some."""
    arena.must_live()
    base = -time.monotonic_ns() // 1_000_000
    await arena.conn.execute(arena.contender.insert, base - 1, base)
    return all(began_at(trace) for trace in traces)


async def _begun(trace: Path, number: int) -> bool:
    return len(began_at(trace)) >= number


async def _calm(arena: Arena, limit: float) -> None:
    """Until everything is handled and settled, or the limit."""
    with suppress(AssertionError):
        await arena.all_handled(limit)


async def _restarted(bench: Bench, name: str) -> float:
    async with bench.arena(name, BENCH_MARK="1") as arena:
        count = bench.count(BACKLOG, least=5000)
        await arena.insert(count, batch=500)
        await arena.settle_down()
        worker = arena.start()
        await until(lambda: _moved(arena, count * 2 // 5), 60.0, "a part of the backlog handled", pause=0.005)
        worker.kill()
        left = await arena.conn.fetchval(arena.contender.left)
        assert left, "the worker was killed too late: nothing was left"
        arena.start()
        await _calm(arena, _limit(bench, name))
        times = await arena.times_handled()
        if name == OURS:
            await arena.events(count)
    return float(sum(1 for n in times.values() if n > 1))


async def _moved(arena: Arena, least: int) -> bool:
    arena.must_live()
    return bool(await arena.conn.fetchval(arena.contender.events) >= least)
