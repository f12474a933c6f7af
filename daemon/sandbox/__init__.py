"""The sandbox: every external service played on loopback, sample leads, and people who answer them.

It knows leads only as an outside system does: by SQL and by the engines' requests.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from daemon.db import Connection
from daemon.sandbox import happenings, mark, seeds
from daemon.sandbox.clock import BusinessClock
from daemon.sandbox.engines import Engines, Overhear, serve
from daemon.sandbox.faults import Fault, Faults, Weather
from daemon.sandbox.operations import Made
from daemon.sandbox.people import People
from daemon.sandbox.personas import Heard, overheard
from daemon.sandbox.runs import RunFollower
from daemon.settings import EngineSettings, ImapSettings, NotifySettings, Settings, SmtpSettings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BusinessClock", "Fault", "Faults", "Heard", "Sandbox", "Weather", "open_sandbox"]

Also = Callable[[Connection], Awaitable[object]]


@dataclass(slots=True)
class Sandbox:
    """A running sandbox at `url`; a daemon with its `settings` reaches nothing outside. `ending`: it is to stop."""

    settings: Settings
    url: str
    engines: Engines
    clock: BusinessClock
    crowd: People
    ending: bool = False
    _told: int | None = None

    async def enter(self, conn: Connection, *also: Also) -> int:
        """Take an empty database and put the sample leads into it; how many were put in. A used one gets none.

        `also` is what else an empty database gets, in the same transaction: the hook for a sample campaign.
        """
        async with conn.transaction():
            await mark.take(conn, drives_clock=self.clock.drives)
            before = await happenings.last_event(conn)
            put_in = await seeds.seed(conn, None if self.clock.drives else self.crowd.pace)
            for fill in also if put_in else ():
                await fill(conn)
        if put_in:
            self._told = before
        return put_in

    async def people(self, dsn: str) -> None:
        """Let the leads answer, until cancelled."""
        await self.crowd.run(dsn)

    async def time(self, dsn: str) -> None:
        """Let business time go its way, until cancelled."""
        await self.clock.run(dsn)

    async def show(self, dsn: str, console: "Console", *, plain: bool = False, log: str | None = None) -> None:
        """Show what happens, until cancelled: on the whole screen of a terminal, or in plain lines."""
        from daemon.sandbox.show import show  # noqa: PLC0415  # `--once` needs it not

        follower = happenings.Follower(self._told, ZoneInfo(self.settings.timezone), also=(RunFollower(),))
        await show(self, dsn, console, follower, plain=plain or not console.is_terminal, log=log)


@asynccontextmanager
async def open_sandbox(
    settings: Settings,
    *,
    pace: float = 1.0,
    speed: float = 1.0,
    weather: Weather = Weather.USUAL,
    latency_s: tuple[float, float] = (0.005, 0.06),
) -> AsyncIterator[Sandbox]:
    """Serve all engines as long as the block lasts.

    People and samples take `pace` times their usual while; business time runs `speed` times as fast as real time.
    """
    clock, faults = BusinessClock(speed), Faults()
    crowd = People(clock, pace)
    clock.next_word = crowd.next_due
    faults.forecast(weather)
    engines = Engines(settings.engines.keys(), faults, _told_to(crowd), latency_s)
    async with serve(engines) as url:
        yield Sandbox(isolated(settings, url), url, engines, clock, crowd)


def isolated(settings: Settings, url: str) -> Settings:
    """These settings, but nothing real is ever called: all engines are the sandbox's, also those that are set."""
    engines = {name: _played(engine, f"{url}/{name}") for name, engine in settings.engines.items()}
    send = settings.send.model_copy(update={"quiet_hours": None, "window": None})
    return settings.model_copy(
        update={
            "engines": engines,
            "send": send,
            "smtp": SmtpSettings(),
            "imap": ImapSettings(),
            "notify": NotifySettings(muted=True),
            "probes": {},
        }
    )


def _played(engine: EngineSettings, url: str) -> EngineSettings:
    """The sandbox honours Idempotency-Key and asks for no credential."""
    return engine.model_copy(update={"url": url, "command": None, "token": None, "idempotent": True})


def _told_to(crowd: People) -> Overhear:
    def tell(call: Made) -> None:
        heard = overheard(call, crowd.clock.now())
        if heard is not None:
            crowd.hear(heard)

    return tell
