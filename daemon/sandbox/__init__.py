"""The sandbox: every external service played on loopback, sample leads, and people who answer them.

It knows leads only as an outside system does: by SQL and by the engines' requests.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daemon.db import Connection
from daemon.sandbox import seeds
from daemon.sandbox.engines import Engines, Moods, serve
from daemon.sandbox.people import Heard, People, overheard
from daemon.settings import EngineSettings, ImapSettings, NotifySettings, Settings, SmtpSettings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Heard", "Moods", "Sandbox", "open_sandbox"]


@dataclass(slots=True)
class Sandbox:
    """A running sandbox; a daemon with its `settings` reaches nothing outside."""

    settings: Settings
    engines: Engines
    crowd: People
    _told: int | None = field(default=None)

    async def seed(self, conn: Connection) -> int:
        """Put the sample leads into an empty database; how many were put in."""
        before: int = await conn.fetchval(seeds.SQL["last_event"])
        put_in = await seeds.seed(conn, self.crowd.pace)
        if put_in:
            self._told = before
        return put_in

    async def people(self, dsn: str) -> None:
        """Let the leads answer, until cancelled."""
        await self.crowd.run(dsn)

    async def narrate(self, dsn: str, console: "Console", *, force: bool = False) -> None:
        """Tell a person at a terminal what happens, until cancelled; nothing where nobody reads."""
        if not (console.is_terminal or force):
            return
        from daemon.sandbox.narrator import Narrator  # noqa: PLC0415  # only a terminal needs it

        narrator = Narrator(console, self._told)
        narrator.introduce(f"http://{self.settings.api.host}:{self.settings.api.port}")
        await narrator.run(dsn)


@asynccontextmanager
async def open_sandbox(settings: Settings, *, pace: float = 1.0, moods: Moods | None = None) -> AsyncIterator[Sandbox]:
    """Serve all engines as long as the block lasts; people and samples take `pace` times their usual while."""
    crowd = People(pace)
    engines = Engines(settings.engines.keys(), moods or Moods(), _told_to(crowd))
    async with serve(engines) as url:
        yield Sandbox(isolated(settings, url), engines, crowd)


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
            "notify": NotifySettings(),
            "probes": {},
        }
    )


def _played(engine: EngineSettings, url: str) -> EngineSettings:
    """The sandbox honours Idempotency-Key and asks for no credential."""
    return engine.model_copy(update={"url": url, "command": None, "token": None, "idempotent": True})


def _told_to(crowd: People) -> Any:
    def tell(engine: str, path: str, key: str, request: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        heard = overheard(engine, path, key, request, result)
        if heard is not None:
            crowd.hear(heard)

    return tell
