"""The sandbox's business time: how far it is ahead of real time, and who drives it on.

Driven, it goes on in small steps, never past what is due next, and waits while that is being done: everything happens
at its time, at any speed. What the work has cost is caught up with afterwards.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from daemon.db import Connection, Statements
from daemon.sandbox.session import stay_connected

SQL = Statements("daemon.sandbox", "clock.sql")
STEP_S = 0.2
LOOK_S = 1.0
PATIENCE_S = 5.0  # longer than that nothing holds up the time
CATCH_UP_S = 10.0
NEIGHBOURS_S = 60.0
"""What is due within one business minute goes together."""


@dataclass(slots=True)
class BusinessClock:
    """Business time runs `speed` times as fast as real time; at 1 somebody else may still shift it."""

    speed: float = 1.0
    next_word: Callable[[], datetime | None] = lambda: None
    _ahead: timedelta = field(default_factory=timedelta)
    _owed_s: float = 0.0
    _busy_since: float | None = None

    @property
    def drives(self) -> bool:
        """Whether business time is driven at all."""
        return self.speed > 1

    def now(self) -> datetime:
        """The business time, as of the last look."""
        return datetime.now(UTC) + self._ahead

    async def run(self, dsn: str) -> None:
        """Drive, or follow, until cancelled, whatever the database does."""
        await stay_connected(dsn, self._drive if self.drives else self._follow)

    async def _follow(self, conn: Connection) -> None:
        while True:
            self._set(await conn.fetchval(SQL["now"]))
            await asyncio.sleep(LOOK_S)

    async def _drive(self, conn: Connection) -> None:
        clock = asyncio.get_running_loop().time
        last = clock()
        self._set(await conn.fetchval(SQL["now"]))
        while True:
            await asyncio.sleep(STEP_S)
            last, passed_s = clock(), clock() - last
            self._owed_s = min(self._owed_s + (self.speed - 1) * passed_s, self.speed * CATCH_UP_S)
            await self._step(conn, last)

    async def _step(self, conn: Connection, at: float) -> None:
        patient = self._busy_since is None or at - self._busy_since < PATIENCE_S
        neighbours_s = min(NEIGHBOURS_S, self.speed * STEP_S / 2)
        row = await conn.fetchrow(SQL["advance"], self._most_s(), neighbours_s, patient)
        if row is None:
            return
        self._busy_since = (self._busy_since or at) if row["at_hand"] else None
        self._owed_s -= row["moved_s"]
        self._set(row["now"])

    def _most_s(self) -> float:
        """How far it may go: not past the next word that somebody has to say."""
        word = self.next_word()
        return self._owed_s if word is None else min(self._owed_s, max(0.0, (word - self.now()).total_seconds()))

    def _set(self, now: datetime) -> None:
        self._ahead = now - datetime.now(UTC)
