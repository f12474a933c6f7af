"""From a producer's commit to the first line of the handler, one lead at a time."""

from pathlib import Path

from tests.bench.driver import Arena, Bench
from tests.bench.figures import Aim, Row, share

LEADS, PER_S = 300, 20
BELOW = (Aim(1, 0.5, "pgqueuer", at_most=True), Aim(1, None, "procrastinate", at_most=True))
"""Half: what 1 ms is of the 2 ms that pgqueuer takes on the machine for which the goal in milliseconds is meant."""


async def latencies(bench: Bench) -> list[Row]:
    """Commit acknowledged -> handler, at 20 leads/s."""
    what = f"commit → handler at {PER_S} leads/s"
    middle = Row("latency", f"{what}, p50", "ms", (Aim(None, 1.0, at_most=True), *BELOW))
    tail = Row("latency", f"{what}, p99", "ms", (Aim(None, 3.0, at_most=True), *BELOW))
    for names in bench.each():
        found = {}
        for name in names:
            async with bench.arena(name) as arena:
                found[name] = await _latencies(arena, bench.count(LEADS))
        middle.add({name: share(ms, 0.5) for name, ms in found.items()})
        tail.add({name: share(ms, 0.99) for name, ms in found.items()})
    return [middle, tail]


async def _latencies(arena: Arena, count: int) -> list[float]:
    trace = arena.folder / "trace"
    await arena.warm(BENCH_TRACE=str(trace))
    produced = await arena.insert(count, per_s=PER_S)
    await arena.all_handled()
    began = began_at(trace)
    return [(began[number] - committed) / 1e6 for number, committed in produced["committed"].items()]


def began_at(trace: Path) -> dict[str, int]:
    """When each lead's first handler began, in monotonic nanoseconds."""
    first: dict[str, int] = {}
    for line in trace.read_text().splitlines() if trace.exists() else []:
        number, _, at = line.partition(" ")
        if at:
            first.setdefault(number, int(at))
    return first
