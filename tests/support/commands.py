"""The real command line, run as a user runs it: a process of its own, its exit code and what it said."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.support.processes import ROOT, until

PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    seconds: float


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port: int = door.getsockname()[1]
        return port


def environment(home: Path, **settings: str) -> dict[str, str]:
    """A user's environment; every command gets an API port of its own."""
    usual = {
        "PYTHONPATH": str(ROOT),
        "ORCHESTRATOR_HOME": str(home / "home"),
        "ORCHESTRATOR_API__PORT": str(free_port()),
    }
    return {**os.environ, **usual, **settings}


async def orchestrator(home: Path, *arguments: str | Path, **settings: str) -> Ended:
    """Run a command to its end."""
    began = time.monotonic()
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "daemon", *arguments], cwd=home, env=environment(home, **settings),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Running:
    """A command that runs on."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self) -> list[dict[str, Any]]:
        """Its complete log lines."""
        return [orjson.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]

    async def until_said(self, event: str) -> dict[str, Any]:
        """Wait for a log line."""

        async def heard() -> dict[str, Any] | None:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.log.read_text()}"
            return next((line for line in self.said() if line["event"] == event), None)

        line: dict[str, Any] = await until(heard, PATIENCE_S, f"{event!r}; it said: {self.log.read_text()}")
        return line

    async def ended(self, within: float = PATIENCE_S) -> int:
        """Its exit code."""

        async def over() -> bool:
            return self.process.poll() is not None

        await until(over, within, f"its end; it said: {self.log.read_text()}")
        return self.process.returncode

    async def stopped(self, signum: int, within: float) -> int:
        """Its exit code after this signal."""
        self.process.send_signal(signum)
        return await self.ended(within)


@contextmanager
def running(home: Path, *arguments: str, **settings: str) -> Iterator[Running]:
    """A command that is killed at the end of the block if it still runs."""
    log = home / f"log-{time.monotonic_ns()}"
    with log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "daemon", *arguments], cwd=home, env=environment(home, **settings),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
        )  # fmt: skip
    try:
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
