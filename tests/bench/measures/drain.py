"""A backlog that waits when the only worker starts; and leads that come in as fast as one producer can."""

from dataclasses import dataclass

import asyncpg

from tests.bench.driver import BOUND, WARM_UP, Arena, Bench
from tests.bench.figures import OURS, Aim, Row

BACKLOG, BIG_BACKLOG = 10_000, 100_000
AT_10K = "orchestrator, 10k"


@dataclass(frozen=True, slots=True)
class Drained:
    """How fast a backlog went, and what it cost."""

    leads_per_s: float
    client_us: float
    server_us: float
    rss_mb: float


async def drain(bench: Bench, name: str, count: int) -> Drained:
    """One worker on a backlog; its CPU includes its start."""
    async with bench.arena(name) as arena:
        await arena.insert(count, batch=500)
        await arena.settle_down()
        before = arena.server_cpu_s()
        worker = arena.start()
        await arena.all_handled()
        client, server, rss = worker.cpu_s(), arena.server_cpu_s() - before, worker.rss_mb()
        rate = pace(await arena.events(count))
    return Drained(rate, 1e6 * client / count, 1e6 * server / count, rss)


def pace(moved: asyncpg.Record) -> float:
    """Moves per second after the first of them; all that were written together with it don't count."""
    seconds = (moved["last"] - moved["first"]).total_seconds()
    return float((moved["n"] - moved["at_first"]) / seconds) if seconds else 0.0


async def drains(bench: Bench) -> list[Row]:
    """A tenth by everybody; the whole by us and the bound."""
    few, many = bench.count(BACKLOG, least=2_000), bench.count(BIG_BACKLOG, least=4_000)
    small = Row("drain", f"drain of {few:,} waiting", "leads/s", (Aim(3, 5, "pgqueuer"), Aim(0.35, None, BOUND)))
    big = Row("drain", f"drain of {many:,} waiting", "leads/s", (Aim(0.5, None, BOUND), Aim(0.8, None, AT_10K)))
    rss = Row("drain", f"RSS at the end of {many:,}", "MB", (Aim(80, at_most=True),))
    costs = _costs(few, Aim(over="pgqueuer")), _costs(many)
    for names in bench.each():
        tenth = {name: await drain(bench, name, few) for name in names}
        whole = {name: await drain(bench, name, many) for name in (OURS, BOUND)}
        at_10k = {AT_10K: tenth[OURS].leads_per_s}
        small.add({name: drained.leads_per_s for name, drained in tenth.items()})
        big.add({**{name: drained.leads_per_s for name, drained in whole.items()}, **at_10k})
        rss.add({name: drained.rss_mb for name, drained in whole.items()})
        for (client, server), found in zip(costs, (tenth, whole), strict=True):
            client.add({name: drained.client_us for name, drained in found.items()})
            server.add({name: drained.server_us for name, drained in found.items()})
    return [small, *costs[0], big, *costs[1], rss]


def _costs(count: int, *aims: Aim) -> tuple[Row, Row]:
    return (
        Row("drain", f"client's CPU, its start with it, at {count:,}", "µs/lead", aims),
        Row("drain", f"server's CPU at {count:,}", "µs/lead", aims),
    )


async def live(bench: Bench) -> list[Row]:
    """A worker that waits for work; 100 leads per INSERT, one INSERT after the other."""
    row = Row("live", "live, 100 leads per INSERT", "leads/s", (Aim(3, 5, "pgqueuer"), Aim(0.35, None, BOUND)))
    supply = Row("live", "the producer's own pace meanwhile", "leads/s")
    for names in bench.each():
        rates, paces = {}, {}
        for name in names:
            async with bench.arena(name) as arena:
                rates[name], paces[name] = await _live(arena, bench.count(BACKLOG, least=200))
        row.add(rates)
        supply.add(paces)
    return [row, supply]


async def _live(arena: Arena, count: int) -> tuple[float, float]:
    await arena.warm()
    await arena.conn.execute("CHECKPOINT")
    produced = await arena.insert(count, batch=100)
    await arena.all_handled()
    moved = await arena.events(count + WARM_UP)
    return count / (moved["last"].timestamp() - produced["start"]), count / (produced["end"] - produced["start"])
