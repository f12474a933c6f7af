"""Shows the sandbox to a person: the whole screen of a terminal that is large enough, else line by line."""

from typing import TYPE_CHECKING

from rich.console import Console

from daemon.sandbox.control import ROUTE
from daemon.sandbox.figures import Figures
from daemon.sandbox.guide import Places, introduce, take_leave
from daemon.sandbox.happenings import Follower
from daemon.sandbox.narrator import Narrator
from daemon.sandbox.screen import Scene, fits
from daemon.sandbox.watch import Watch

if TYPE_CHECKING:
    from daemon.sandbox import Sandbox


async def show(
    sandbox: "Sandbox", dsn: str, console: Console, follower: Follower, *, plain: bool, log: str | None
) -> None:
    """Introduce, show until cancelled, take leave."""
    places = places_of(sandbox, log)
    introduce(console, places)
    viewer: Narrator | Watch = Narrator(console, places, follower)
    if not plain and fits(*console.size):
        scene = Scene(Figures(), sandbox.engines.faults, places, speed=sandbox.clock.speed)
        viewer = Watch(console, scene, follower, lambda: sandbox.ending)
    try:
        await viewer.run(dsn)
    finally:
        take_leave(console, viewer.last, sandbox.engines.faults, places)


def places_of(sandbox: "Sandbox", log: str | None = None) -> Places:
    """Where this sandbox can be reached."""
    api = sandbox.settings.api
    return Places(f"http://{api.host}:{api.port}", f"{sandbox.url}{ROUTE}", log, sandbox.settings.timezone)
