"""The people behind the sample leads: each hears the messages sent to them, and answers when their time has come.

They write into `replies` by plain SQL, as any system outside would.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from daemon.db import Connection, Statements
from daemon.sandbox.clock import BusinessClock
from daemon.sandbox.personas import Heard, answer
from daemon.sandbox.session import stay_connected

SQL = Statements("daemon.sandbox", "people.sql")
AT_ONCE_S = (0.5, 6.0)
IN_THEIR_TIME_S = (300.0, 18_000.0)
"""How long people take: within seconds as long as somebody watches in real time, else minutes to hours."""
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Words:
    """An answer that will be given, at its business time."""

    due: datetime
    text: str
    cause: str


@dataclass(slots=True)
class People:
    """Everybody who has something to say; who hears another message first answers that one instead."""

    clock: BusinessClock
    pace: float = 1.0
    _pending: dict[UUID, Words] = field(default_factory=dict)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _chance: Random = field(default_factory=Random)

    def hear(self, heard: Heard) -> None:
        """A message has reached somebody."""
        text = answer(heard)
        if text is None:
            self._pending.pop(heard.lead_id, None)
            return
        self._pending[heard.lead_id] = Words(self.clock.now() + self._delay(), text, heard.key)
        self._wanted.set()

    def next_due(self) -> datetime | None:
        """When the next one will speak."""
        return min((words.due for words in self._pending.values()), default=None)

    def _delay(self) -> timedelta:
        usual = IN_THEIR_TIME_S if self.clock.drives else AT_ONCE_S
        return timedelta(seconds=self.pace * self._chance.uniform(*usual))

    async def speak(self, conn: Connection) -> None:
        """Insert each answer when its time has come."""
        while True:
            await self._wanted.wait()
            await self._say_due(conn)
            if not self._pending:
                self._wanted.clear()
            await asyncio.sleep(LOOK_S)

    async def _say_due(self, conn: Connection) -> None:
        now = self.clock.now()
        due = {lead_id: words for lead_id, words in self._pending.items() if words.due <= now}
        if not due:
            return
        texts, causes = [w.text for w in due.values()], [f"sandbox:{w.cause}" for w in due.values()]
        await conn.execute(SQL["say"], list(due), texts, causes)
        self._forget(due)

    def _forget(self, said: Mapping[UUID, Words]) -> None:
        for lead_id, words in said.items():
            if self._pending.get(lead_id) is words:
                del self._pending[lead_id]

    async def run(self, dsn: str) -> None:
        """Speak until cancelled, whatever the database does."""
        await stay_connected(dsn, self.speak)
