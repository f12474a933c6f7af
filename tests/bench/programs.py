"""The processes of a measurement: started, watched, killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
END_S = 10.0
LOG_LINES = 30


@dataclass(frozen=True, slots=True)
class Program:
    """One process and what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def must_live(self) -> None:
        """A contender that ended by itself is a failure of the measurement."""
        code = self.process.poll()
        assert code is None, f"process {self.log.parent.name} ended with {code}:\n{self.said()}"

    def cpu_s(self) -> float:
        """CPU time of the process and its children so far."""
        return cpu_s(psutil.Process(self.pid))

    def rss_mb(self) -> float:
        """Resident memory now."""
        return float(psutil.Process(self.pid).memory_info().rss / 2**20)

    def kill(self) -> None:
        """kill -9, and bury it."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """SIGTERM; kill -9 for those who don't listen."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def said(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def launch(python: Path, arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Program:
    """Start a Python program that writes its log into this folder."""
    log = folder / f"{time.monotonic_ns()}.log"
    own = {"PYTHONPATH": str(ROOT)} if python == Path(sys.executable) else {"PYTHONPATH": ""}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, *arguments], cwd=folder, env={**os.environ, **own, **environ},
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    return Program(process, log)


def cpu_s(process: psutil.Process, but: Sequence[int] = ()) -> float:
    """CPU time of a process, of its children alive (but for some) and of those that have ended."""
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += 0.0 if child.pid in but else times.user + times.system
    return float(total)
