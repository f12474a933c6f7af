"""`orchestrator run`: the daemon from its settings to its exit code."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, TextIO
from urllib.parse import unquote, urlsplit

import typer

from daemon import __version__, db, log
from daemon.app import Daemon, ease_collector
from daemon.commands import access
from daemon.commands.port import require_port
from daemon.db import Statements
from daemon.errors import DatabaseUnavailable
from daemon.settings import Settings, secret_values

if TYPE_CHECKING:
    from daemon.sandbox import Sandbox

ENDING = (signal.SIGTERM, signal.SIGINT)
Extra = Coroutine[Any, Any, None]
SQL = Statements("daemon.commands", "run.sql")
FASTEST = 100_000
SPEED = "Sandbox: business time runs N times as fast."
FAULTS = "Sandbox: how much goes wrong with its engines: calm, usual or stormy."
logger = log.get_logger("run")


@dataclass(frozen=True, slots=True)
class Play:
    """How the sandbox is to be played."""

    speed: float = 1.0
    faults: str = "usual"
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """How it was called; without `play` there is no sandbox."""

    once: bool
    play: Play | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    *,
    once: Annotated[bool, typer.Option("--once", help="Fire what is due, sweep, drain the queue, and leave.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="No call that reaches people or costs money.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Built-in engines play every external service.")] = False,
    speed: Annotated[float, typer.Option("--speed", metavar="N", help=SPEED)] = 1.0,
    faults: Annotated[str, typer.Option("--faults", metavar="WEATHER", help=FAULTS)] = "usual",
    plain: Annotated[bool, typer.Option("--plain", help="Sandbox: lines instead of the full screen.")] = False,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """The daemon."""
    options = Options(once, checked(Play(speed, faults, plain), sandbox=sandbox, once=once))
    for signum in ENDING:
        signal.signal(signum, lambda *_: sys.exit(0))
    level = {"log": {"level": log_level}} if log_level is not None else {}
    settings = access.read_settings(dry_run=dry_run, **level)
    _configure_log(settings)
    if not once:
        require_port(settings)
    logger.info("starting", database=settings.database_label, version=__version__, dry_run=settings.dry_run)
    with access.database(settings) as database, asyncio.Runner(loop_factory=_fast_loop()) as runner:
        _configure_log(settings, database)
        ease_collector()
        runner.run(_until_signalled(options, settings, database))


def checked(wanted: Play, *, sandbox: bool, once: bool) -> Play | None:
    """How to play the sandbox, if there is to be one; BadParameter for what makes no sense."""
    if not 1 <= wanted.speed <= FASTEST:
        raise typer.BadParameter(f"must be a number from 1 to {FASTEST}", param_hint="--speed")
    if not sandbox and wanted != Play():
        raise typer.BadParameter("only together with --sandbox", param_hint="--speed, --faults, --plain")
    if once and wanted.speed > 1:
        raise typer.BadParameter("a run with --once takes no time", param_hint="--speed")
    if sandbox:
        _require_weather(wanted.faults)
    return wanted if sandbox else None


def _require_weather(name: str) -> None:
    from daemon.sandbox import Weather  # noqa: PLC0415 - a daemon at work has none

    if name not in list(Weather):
        raise typer.BadParameter(f"must be one of {', '.join(Weather)}, not {name!r}", param_hint="--faults")


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    make: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return make


def _configure_log(settings: Settings, database: access.Database | None = None, stream: TextIO | None = None) -> None:
    """No secret in it, nor the embedded server's password, which is known only once that runs."""
    secrets = [*secret_values(settings)]
    if database is not None and database.embedded is not None:
        secrets.append(unquote(urlsplit(database.dsn).password or ""))
    log.configure(settings.log.level, settings.log.format, stream=stream, secrets=secrets)


# -- inside the loop


async def _until_signalled(options: Options, settings: Settings, database: access.Database) -> None:
    """Until the daemon has its own way to end (`Daemon.run`), a signal simply cancels."""
    life = asyncio.create_task(_live(options, settings, database))
    _on_signal(life.cancel)
    with suppress(asyncio.CancelledError):
        await life


def _on_signal(end: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for signum in ENDING:
        loop.add_signal_handler(signum, end)


async def _live(options: Options, settings: Settings, database: access.Database) -> None:
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(_sandbox(settings, options.play)) if options.play else None
        dsn = await access.writable(database.dsn) if options.once else database.dsn
        daemon = Daemon(sandbox.settings if sandbox else settings, dsn, database.listen_dsn)
        await stack.enter_async_context(daemon.assembled())
        if not options.once:
            await stack.enter_async_context(_served(daemon))
        await _open_database(daemon, sandbox, wait=not options.once)
        if options.once:
            await _once(daemon)
        else:
            await daemon.run((*_extras(daemon, database), *_scenes(daemon, database, sandbox, options.play)))


def _served(daemon: Daemon) -> AbstractAsyncContextManager[None]:
    """From the start on, so that whoever asks learns that the database is away."""
    from daemon.api.server import serving  # noqa: PLC0415 - `--once` needs no server

    return serving(daemon)


def _sandbox(settings: Settings, play: Play) -> AbstractAsyncContextManager["Sandbox"]:
    from daemon import sandbox  # noqa: PLC0415 - a daemon at work has none

    return sandbox.open_sandbox(settings, speed=play.speed, weather=sandbox.Weather(play.faults))


async def _open_database(daemon: Daemon, sandbox: "Sandbox | None", *, wait: bool) -> None:
    try:
        await daemon.open_database(wait=wait)
        await (_enter(daemon, sandbox) if sandbox is not None else _take_over(daemon))
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{error}: start it, or correct DATABASE_URL") from error


async def _enter(daemon: Daemon, sandbox: "Sandbox") -> None:
    from daemon.sandbox.seeds import campaigns  # noqa: PLC0415 - as above

    conn = await db.connect(daemon.dsn)
    try:
        await sandbox.enter(conn, partial(campaigns, daemon.catalogue))
    finally:
        conn.terminate()


async def _take_over(daemon: Daemon) -> None:
    """A database that a sandbox has marked is another daemon's only once nothing of the sandbox's is left in it."""
    conn = await db.connect(daemon.dsn)
    try:
        if await conn.fetchval(SQL["sandboxed"]):
            from daemon.sandbox import mark  # noqa: PLC0415 - a daemon at work has none

            await mark.take_over(conn, dry_run=daemon.settings.dry_run)
    finally:
        conn.terminate()


async def _once(daemon: Daemon) -> None:
    """Drain; if a signal comes, claim nothing more and give back what doesn't end in time."""
    asked = asyncio.Event()
    _on_signal(asked.set)
    drained, signalled = asyncio.create_task(daemon.once()), asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({drained, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not drained.done():
            await daemon.worker.stop(daemon.settings.shutdown_grace_s)
    finally:
        drained.cancel()
        signalled.cancel()
    logger.info("drained", tasks=await drained)


def _extras(daemon: Daemon, database: access.Database) -> Iterator[Extra]:
    """What runs beside the daemon's own parts."""
    yield _announce(daemon)
    if database.embedded is not None:
        yield database.embedded.watch()


def _scenes(daemon: Daemon, database: access.Database, sandbox: "Sandbox | None", play: Play | None) -> Iterator[Extra]:
    """People, time, and what a person at a terminal sees of them."""
    if sandbox is not None and play is not None:
        yield sandbox.people(daemon.dsn)
        yield sandbox.time(daemon.dsn)
        yield _shown(daemon, database, sandbox, plain=play.plain)
        yield _tell_end(daemon, sandbox)


async def _tell_end(daemon: Daemon, sandbox: "Sandbox") -> None:
    await daemon.asked_to_stop()
    sandbox.ending = True


async def _shown(daemon: Daemon, database: access.Database, sandbox: "Sandbox", *, plain: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - for people who watch

    console = Console()
    if not (console.is_terminal and sys.stderr.isatty()):
        await sandbox.show(daemon.dsn, console, plain=plain)
        return
    path = daemon.settings.home / "sandbox.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:  # it would tear the picture
        _configure_log(daemon.settings, database, file)
        try:
            await sandbox.show(daemon.dsn, console, plain=plain, log=str(path))
        finally:
            _configure_log(daemon.settings, database)


async def _announce(daemon: Daemon) -> None:
    await daemon.ready()
    logger.info("ready")
    notify_systemd("READY=1")
    await daemon.asked_to_stop()
    notify_systemd("STOPPING=1")


def notify_systemd(state: str) -> None:
    """Tell systemd, if it wants to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door, suppress(OSError):
            door.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
