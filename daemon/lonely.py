"""A task that keeps ending its daemon runs alone: beside no other call, with nothing unwritten."""

import time
from dataclasses import dataclass

QUIET_S = 30.0  # for so long calls may be held back to let a lonely task run alone


@dataclass(slots=True)
class Lonely:
    """Whether such a task waits, or runs."""

    waits: bool = False
    running: int = 0
    _since: float = 0.0
    _again_at: float = 0.0

    def notice(self) -> bool:
        """One waits; True if that is news and it may be tried by now."""
        if self.waits or time.monotonic() < self._again_at:
            return False
        self.waits, self._since = True, time.monotonic()
        return True

    def claimed(self, task_id: int | None) -> None:
        """It runs; there may be more of them. None: there was none."""
        self.waits, self._since, self.running = task_id is not None, time.monotonic(), task_id or 0

    def turn_away(self) -> None:
        """A very long call makes it wait for another time."""
        if self.waits and time.monotonic() - self._since > QUIET_S:
            self.waits, self._again_at = False, time.monotonic() + 2 * QUIET_S
