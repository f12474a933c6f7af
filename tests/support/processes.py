"""Daemons as real processes, to be killed, frozen and stopped; and how tests wait."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import asyncpg

from daemon.db import Connection, connect

ROOT = Path(__file__).parents[2]
LOG_LINES = 40
AT_REST = """
SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                   WHERE application_name = 'orchestrator' AND datname = current_database() AND query NOT LIKE '%pulse%'
                     AND greatest(query_start, state_change) > clock_timestamp() - interval '0.3 seconds')"""


async def until(condition: Callable[[], Awaitable[Any]], within: float, what: str, pause: float = 0.01) -> Any:
    """Wait for a condition; its first true answer, or a failure that says what was waited for."""
    deadline = time.monotonic() + within
    while not (answer := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        await asyncio.sleep(pause)
    return answer


@dataclass(frozen=True, slots=True)
class DaemonProcess:
    """One daemon."""

    process: "subprocess.Popen[bytes]"
    log: Path
    socket: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name and labels; empty if it can't answer."""
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                said = (await reader.read()).decode()
                writer.close()
        except (OSError, TimeoutError):
            return {}
        samples = [line.rsplit(" ", 1) for line in said.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in samples}

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(v for k, v in (await self.metrics()).items() if k.split("{")[0] == f"orchestrator_{name}")

    async def ready(self, within: float = 15.0) -> None:
        """Wait until it proves that it listens."""

        async def listens() -> bool:
            assert self.alive, f"the daemon ended with {self.process.returncode}:\n{self.said()}"
            return await self.metric("listener_connected") == 1

        await until(listens, within, f"a listening daemon:\n{self.said()}")

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def kill(self) -> None:
        """kill -9, and bury it."""
        self.process.kill()
        self.process.wait()

    async def ended(self, within: float) -> int:
        """Its exit code."""

        async def over() -> bool:
            return not self.alive

        await until(over, within, f"the end of the daemon:\n{self.said()}")
        return self.process.returncode

    def said(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


@dataclass(slots=True)
class Fleet:
    """The daemons of one test, all on one database."""

    environ: Mapping[str, str]
    folder: Path = field(default_factory=lambda: Path(mkdtemp(prefix="fleet-", dir=os.environ["TEST_RUN_FOLDER"])))
    members: list[DaemonProcess] = field(default_factory=list)

    def launch(self, **more: str) -> DaemonProcess:
        """Start a daemon; it is not ready yet."""
        number = len(self.members)
        log, socket = self.folder / f"{number}.log", self.folder / f"{number}.sock"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TEST_")}
        environ = {**inherited, **self.environ, **more, "TEST_METRICS": str(socket), "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.runner"], cwd=ROOT, env=environ, stdout=out, stderr=out
            )
        self.members.append(DaemonProcess(process, log, socket))
        return self.members[-1]

    async def start(self, **more: str) -> DaemonProcess:
        """Start a daemon and wait until it is ready."""
        daemon = self.launch(**more)
        await daemon.ready()
        return daemon

    def end(self) -> None:
        """Kill what is left, and print what each of them said last (pytest shows it if the test failed)."""
        for number, daemon in enumerate(self.members):
            if daemon.alive:
                daemon.kill()
            print(f"--- daemon {number}, exit {daemon.process.returncode}\n{daemon.said()}")


@asynccontextmanager
async def fleet(dsn: str, **settings: str) -> AsyncIterator[Fleet]:
    """Daemons on this database; settings without their prefix (`worker__lease_s="2"`)."""
    named = {f"ORCHESTRATOR_{name.upper()}": value for name, value in settings.items()}
    daemons = Fleet({"DATABASE_URL": dsn, "ORCHESTRATOR_LOG__FORMAT": "json", **named})
    try:
        yield daemons
    finally:
        daemons.end()


async def reconnected(dsn: str, within: float = 20.0) -> Connection:
    """A connection to a server that is just coming up."""

    async def attempt() -> Connection | None:
        try:
            return await connect(dsn)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return None

    found: Connection = await until(attempt, within, "a connection to the database")
    return found


async def at_rest(conn: Connection) -> None:
    """Wait until the daemons do nothing but beat."""
    await until(lambda: conn.fetchval(AT_REST), 20.0, "daemons at rest")


async def postmaster_of(conn: Connection) -> int:
    """The process of the server behind this connection."""
    folder = await conn.fetchval("SHOW data_directory")
    return int(Path(folder, "postmaster.pid").read_text().splitlines()[0])  # noqa: ASYNC240 - a tiny file


def freeze(daemon: DaemonProcess) -> None:
    """Stop it in its tracks; its sockets stay open."""
    daemon.signal(signal.SIGSTOP)


def thaw(daemon: DaemonProcess) -> None:
    """Let it go on as if nothing had been."""
    daemon.signal(signal.SIGCONT)
