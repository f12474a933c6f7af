"""Tells on the terminal what happens to the leads, one short line each, and how they stand every few seconds."""

import asyncio
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from daemon.db import Connection
from daemon.sandbox import figures
from daemon.sandbox.figures import Figures
from daemon.sandbox.guide import Places
from daemon.sandbox.happenings import Follower, Happening, short
from daemon.sandbox.session import stay_connected

LOOK_S = 0.5
SUMMARY_S = 10.0


@dataclass(slots=True)
class Narrator:
    """Lines below each other; `last` is how everything stood at the last look."""

    console: Console
    places: Places
    follower: Follower
    last: Figures = field(default_factory=Figures)
    _summary: str = ""
    _summary_due: float = 0.0

    async def run(self, dsn: str) -> None:
        """Tell until cancelled, whatever the database does."""
        await stay_connected(dsn, self._follow)

    async def _follow(self, conn: Connection) -> None:
        while True:
            for happening in await self.follower.news(conn):
                self._say(happening)
            self.last = await figures.read(conn)
            self._sum_up()
            await asyncio.sleep(LOOK_S)

    def _say(self, told: Happening) -> None:
        at = f"{self.places.local(told.at):%H:%M:%S}  "
        line = Text.assemble((at, "dim"), (f"{short(told.who, 16):<16}  ", "bold"), (told.what, told.style))
        self.console.print(line, soft_wrap=True)

    def _sum_up(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._summary_due:
            return
        self._summary_due = now + SUMMARY_S
        text = figures.standing(self.last)
        if text != self._summary:  # nothing new is no news
            self._summary = text
            self.console.print(Text(f"          {text}", style="magenta"), soft_wrap=True)
