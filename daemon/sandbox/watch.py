"""Shows the sandbox on the whole terminal as long as it runs, and leaves it as it was."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.live import Live

from daemon.db import Connection
from daemon.sandbox import figures, screen
from daemon.sandbox.figures import Figures
from daemon.sandbox.guide import Places
from daemon.sandbox.happenings import Follower, Happening
from daemon.sandbox.screen import Scene
from daemon.sandbox.session import stay_connected

DRAW_S = 0.3
LEAST_LOOK_S = 0.3
REST = 10  # a look that takes long is followed by that many times as long a rest
AWAY_S = 3.0
KEPT = 200


@dataclass(slots=True)
class Watch:
    """Looks and draws, each at its own pace: what isn't answered must not freeze the picture."""

    console: Console
    scene: Scene
    follower: Follower
    ending: Callable[[], bool] = lambda: False
    _happenings: deque[Happening] = field(default_factory=lambda: deque(maxlen=KEPT))
    _looked: float = 0.0

    @property
    def last(self) -> Figures:
        """How everything stood at the last look."""
        return self.scene.figures

    @property
    def places(self) -> Places:
        """Where things are."""
        return self.scene.places

    async def run(self, dsn: str) -> None:
        """Show until cancelled, whatever the database does."""
        self._looked = asyncio.get_running_loop().time()
        with Live(
            console=self.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            async with asyncio.TaskGroup() as both:
                both.create_task(stay_connected(dsn, self._look))
                both.create_task(self._draw(live))

    async def _look(self, conn: Connection) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            self._happenings.extend(await self.follower.news(conn))
            seen = await figures.read(conn)
            self._looked = clock()
            self.scene = replace(self.scene, figures=seen, happenings=tuple(self._happenings))
            await asyncio.sleep(max(LEAST_LOOK_S, REST * (self._looked - began)))

    async def _draw(self, live: Live) -> None:
        while True:
            away_s = asyncio.get_running_loop().time() - self._looked
            scene = replace(self.scene, away_s=away_s if away_s > AWAY_S else 0.0, ending=self.ending())
            width, height = self.console.size
            live.update(screen.draw(scene, width, height), refresh=True)
            await asyncio.sleep(DRAW_S)
