"""The promises of speed, each measured and held against its floor: `make bench`, or a part of it with `-k drain`."""

import pytest

from tests.bench.driver import Bench
from tests.bench.measures import crash, drain, engines, idle, latency, million

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


async def test_drain(bench: Bench) -> None:
    bench.judge(await drain.drains(bench))


async def test_live(bench: Bench) -> None:
    bench.judge(await drain.live(bench))


async def test_latency(bench: Bench) -> None:
    bench.judge(await latency.latencies(bench))


async def test_engine_flow(bench: Bench) -> None:
    bench.judge(await engines.flow(bench))


async def test_engine_burst(bench: Bench) -> None:
    bench.judge(await engines.bursts(bench))


async def test_idle(bench: Bench) -> None:
    bench.judge(await idle.idles(bench))


async def test_start(bench: Bench) -> None:
    bench.judge(await idle.starts(bench))


async def test_crash(bench: Bench) -> None:
    bench.judge(await crash.crashes(bench))


async def test_million_leads(bench: Bench) -> None:
    bench.judge(await million.millions(bench))
