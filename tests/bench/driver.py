"""Runs measurements: a fresh database per contender and measurement, every contender a process of its own."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
import psutil
import pytest

from tests.bench.contenders import CONTENDERS, SHIPPED, Contender
from tests.bench.figures import OURS, Row
from tests.bench.programs import Program, cpu_s, launch
from tests.bench.report import Report
from tests.bench.server import StatementLog
from tests.support.api import free_port
from tests.support.postgres import Server
from tests.support.processes import until

HERE = Path(__file__).parent
OWN_PYTHON = Path(sys.executable)
PEERS = ("pgqueuer", "procrastinate")
BOUND = "reference"
ALL = (OURS, *PEERS, BOUND)
LIMIT_S = 180.0
INSTALL_S = 60.0
WARM_UP = 20


@dataclass(slots=True)
class Arena:
    """One contender on a database of its own."""

    contender: Contender
    python: Path
    server: Server
    dsn: str
    folder: Path
    conn: asyncpg.Connection
    environ: Mapping[str, str]
    programs: list[Program] = field(default_factory=list)

    # -- processes

    def launch(self, arguments: tuple[str, ...], python: Path | None, **more: str) -> Program:
        """Start a process that knows the database."""
        program = launch(python or self.python, arguments, self.folder, {**self.environ, **more})
        self.programs.append(program)
        return program

    def start(self, **more: str) -> Program:
        """Start a worker; it is not ready yet."""
        return self.launch(self.contender.work, None, **{"ORCHESTRATOR_API__PORT": str(free_port()), **more})

    async def warm(self, **more: str) -> Program:
        """Start a worker and wait until it has handled something."""
        worker = self.start(**more)
        await self.conn.execute(self.contender.insert, -WARM_UP, -1)
        await self.all_handled()
        return worker

    async def run(self, arguments: tuple[str, ...], python: Path | None = None) -> str:
        """Run a program to its end; what it said."""
        program = self.launch(arguments, python)
        await until(lambda: _truth(program.process.poll() is not None), LIMIT_S, f"the end of {arguments}")
        assert program.process.returncode == 0, program.said()
        return program.said()

    async def insert(self, count: int, *, batch: int = 0, per_s: int = 0) -> Any:
        """Another process inserts leads 1 to `count`: batch by batch as fast as it can, or one by one at a pace."""
        script, how = str(HERE / "producer.py"), str(per_s or batch)
        said = await self.run(
            (script, self.contender.insert, str(count), "paced" if per_s else "fast", how), OWN_PYTHON
        )
        return orjson.loads(said)

    # -- what is to be seen

    def must_live(self) -> None:
        """No worker ended by itself."""
        for program in self.programs:
            if program.process.returncode is None:
                program.must_live()

    async def all_handled(self, within: float = LIMIT_S) -> None:
        """Wait until no lead is new and the queue is empty."""

        async def handled() -> bool:
            self.must_live()
            return not await self.conn.fetchval(self.contender.left)

        async def settled() -> bool:
            return int(await self.conn.fetchval(self.contender.undone)) == 0

        await until(handled, within, f"every lead handled by {self.contender.name}", pause=0.1)
        await until(settled, 10.0, f"an empty queue of {self.contender.name}", pause=0.05)

    async def events(self, expected: int) -> asyncpg.Record:
        """How many leads were moved, the first and the last of them; none was lost or moved twice."""
        [found] = await self.conn.fetch(self.contender.events)
        assert (found["n"], found["leads"]) == (expected, expected), f"{self.contender.name}: {found}, not {expected}"
        return found

    async def times_handled(self) -> dict[str, int]:
        """How often each lead was handled."""
        times: dict[str, int] = {}
        for row in await self.conn.fetch(self.contender.handled):
            times[row["number"]] = max(row["times"], times.get(row["number"], 0))
        return times

    async def settle_down(self) -> None:
        """Statistics in place and no dirty pages before a timed run."""
        await self.conn.execute("VACUUM ANALYZE")
        await self.conn.execute("CHECKPOINT")

    def server_cpu_s(self) -> float:
        """CPU time of the whole server so far, but for who watches."""
        return cpu_s(psutil.Process(self.server.embedded.pid), but=(self.conn.get_server_pid(),))

    def statement_log(self) -> StatementLog:
        """What the server says about this database's statements."""
        return StatementLog(self.folder.parent / "server" / "postgres" / "server.log", urlsplit(self.dsn).path[1:])


@dataclass(slots=True)
class Bench:
    """One run: its server, who is compared, how much and how often."""

    server: Server
    folder: Path
    peers: Path | None
    report: Report
    scale: float = 1.0
    passes: int = 3

    def count(self, full: int, least: int = 40) -> int:
        """So many, or fewer in a scaled run."""
        return max(least, int(full * self.scale))

    def seconds(self, full: float, least: float = 2.0) -> float:
        """So long, or shorter in a scaled run."""
        return max(least, full * min(self.scale, 1.0))

    @property
    def here(self) -> tuple[str, ...]:
        """Who can be measured."""
        return ALL if self.peers else (OURS, BOUND)

    def each(self, *names: str, passes: int | None = None) -> Iterator[tuple[str, ...]]:
        """Pass after pass, those of these contenders that are here."""
        for _ in range(passes or self.passes):
            yield tuple(name for name in names or ALL if name in self.here)

    @asynccontextmanager
    async def arena(self, name: str, **environ: str) -> AsyncIterator[Arena]:
        """A fresh database with the contender's tables; its processes end and the database goes with the block."""
        contender = SHIPPED if name == SHIPPED.name else CONTENDERS[name]
        python = self.peers if name in PEERS and self.peers else OWN_PYTHON
        database = f"bench_{secrets.token_hex(4)}"
        await self.server.execute(f"CREATE DATABASE {database}")
        dsn = self.server.url(database)
        folder = Path(mkdtemp(prefix=f"{name}-", dir=self.folder))
        conn = await asyncpg.connect(dsn)
        arena = Arena(contender, python, self.server, dsn, folder, conn, {**_environment(dsn, folder), **environ})
        try:
            async with asyncio.timeout(INSTALL_S):
                await arena.run(contender.install)
            yield arena
        finally:
            for program in arena.programs:
                program.kill()
            await conn.close()
            await self.server.drop(dsn)

    def judge(self, rows: list[Row]) -> None:
        """Report the rows; a floor that is not reached fails, a comparison that was not possible is skipped loudly."""
        self.report.add(rows)
        if self.scale < 1.0:
            print(f"!!! BENCH_SCALE={self.scale:g}: nothing is judged, only shown")
            return
        verdicts = [(row.what, verdict) for row in rows for verdict in row.verdicts()]
        missed = [f"{what}: {v.value} against {v.aim}" for what, v in verdicts if v.floor_met is False]
        assert not missed, "below the floor: " + "; ".join(missed)
        unjudged = [f"{what} over {v.aim.over}" for what, v in verdicts if v.unjudged]
        if unjudged:
            pytest.skip("!!! NOT COMPARED, the peers could not be installed: " + "; ".join(unjudged))


def _environment(dsn: str, folder: Path) -> dict[str, str]:
    """What every process is told; only ours listen to most of it."""
    return {
        "BENCH_DSN": dsn,
        "DATABASE_URL": dsn,
        "ORCHESTRATOR_HOME": str(folder),
        "ORCHESTRATOR_LOG__LEVEL": "WARNING",
        "ORCHESTRATOR_SHUTDOWN_GRACE_S": "1",
        "ORCHESTRATOR_SEND__QUIET_HOURS": "",
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        "TERM": os.environ.get("TERM", "dumb"),
    }


async def _truth(value: bool) -> bool:
    return value
