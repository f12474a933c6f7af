"""One bench for all measurements: BENCH_SCALE (1), BENCH_PASSES (3), BENCH_OUT (.orchestrator/bench.json)."""

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.log import configure
from tests.bench import peers
from tests.bench.driver import Bench
from tests.bench.report import Report, conditions
from tests.bench.server import durable_server

OUT = Path(__file__).parents[2] / ".orchestrator" / "bench.json"


@pytest.fixture(scope="session")
async def bench() -> AsyncIterator[Bench]:
    """The server, the peers and the report of this run; at its end the whole table."""
    configure("WARNING", "json")
    scale, passes = float(os.environ.get("BENCH_SCALE", "1")), int(os.environ.get("BENCH_PASSES", "3"))
    folder = _folder()
    async with durable_server(folder / "server") as (server, durability):
        report = Report(
            Path(os.environ.get("BENCH_OUT", OUT)), conditions(scale=scale, passes=passes, server=durability)
        )
        yield Bench(server, folder, peers.python(), report, scale, passes)
        report.show()


def _folder() -> Path:
    """Reachable for PostgreSQL's account."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=os.environ["TEST_RUN_FOLDER"]))
    folder.chmod(0o755)
    return folder
