"""This daemon with a probe in its loop, a process of its own. BENCH_PROBE names the file for what the probe found.

The probe wakes every few milliseconds. How much later than asked it wakes is how long the loop was blocked; of that,
the time in which this thread was ready to run but had no CPU (others use it, too) is told apart.
"""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import uvloop

from daemon import log
from daemon.api.server import serve
from daemon.app import Daemon, ease_collector
from daemon.settings import load_settings

EVERY_S = 0.002
SCHEDULE = Path("/proc/thread-self/schedstat")


def waited_s() -> float:
    """For how long this thread has waited for a CPU so far; 0 where the system doesn't tell."""
    try:
        return int(SCHEDULE.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(slots=True)
class Blocks:
    """The longest ones so far."""

    path: Path
    blocked_ms: float = 0.0
    late_ms: float = 0.0
    before_ms: float = 0.0

    def begin_anew(self) -> None:
        """What counts begins now."""
        self.before_ms, self.blocked_ms, self.late_ms = self.blocked_ms, 0.0, 0.0

    def saw(self, blocked_ms: float, late_ms: float) -> None:
        """One more look; a new longest one is written down."""
        if blocked_ms > self.blocked_ms or late_ms > self.late_ms:
            self.blocked_ms, self.late_ms = max(self.blocked_ms, blocked_ms), max(self.late_ms, late_ms)
            figures = {"blocked_ms": self.blocked_ms, "late_ms": self.late_ms, "before_ms": self.before_ms}
            self.path.write_text(json.dumps(figures))


async def probe(daemon: Daemon, path: Path) -> None:
    """Note the longest block since the daemon was ready, or since SIGUSR1."""
    await daemon.ready()
    blocks = Blocks(path)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, blocks.begin_anew)
    while True:
        began, waited = time.perf_counter(), waited_s()
        await asyncio.sleep(EVERY_S)
        late = time.perf_counter() - began - EVERY_S
        blocks.saw(1e3 * (late - (waited_s() - waited)), 1e3 * late)


async def main() -> None:
    """One daemon with its API, until it is told to stop."""
    log.configure("WARNING", "json")
    ease_collector()  # as `orchestrator run` does
    own = {name: value for name, value in os.environ.items() if name.startswith("ORCHESTRATOR_")}
    settings = load_settings({"DATABASE_URL": os.environ["DATABASE_URL"], **own})
    async with Daemon(settings, os.environ["DATABASE_URL"], os.environ["DATABASE_URL"]).assembled() as daemon:
        await daemon.open_database()
        await daemon.run((serve(daemon), probe(daemon, Path(os.environ["BENCH_PROBE"]))))


if __name__ == "__main__":
    uvloop.run(main())
