"""`orchestrator run`: the daemon from its settings to its exit code."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from daemon import __version__, db, log
from daemon.app import Daemon
from daemon.commands import access
from daemon.errors import DatabaseUnavailable, OrchestratorError
from daemon.settings import Settings, secret_values

if TYPE_CHECKING:
    from daemon.sandbox import Sandbox

ENDING = (signal.SIGTERM, signal.SIGINT)
Extra = Coroutine[Any, Any, None]
logger = log.get_logger("run")


@dataclass(frozen=True, slots=True)
class Options:
    """How it was called."""

    once: bool
    sandbox: bool


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run")(run)


def run(
    once: Annotated[bool, typer.Option("--once", help="Fire what is due, sweep, drain the queue, and leave.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="No call that reaches people or costs money.")] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Built-in engines play every external service.")] = False,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """The daemon."""
    for signum in ENDING:
        signal.signal(signum, lambda *_: sys.exit(0))
    level = {"log": {"level": log_level}} if log_level is not None else {}
    settings = access.read_settings(dry_run=dry_run, **level)
    log.configure(settings.log.level, settings.log.format, secrets=secret_values(settings))
    logger.info("starting", database=settings.database_label, version=__version__, dry_run=settings.dry_run)
    if not once:
        _require_port(settings.api.host, settings.api.port)
    with access.database(settings) as database, asyncio.Runner(loop_factory=_fast_loop()) as runner:
        _hide_password(settings, database)
        runner.run(_until_signalled(Options(once, sandbox), settings, database))


def _require_port(host: str, port: int) -> None:
    """Better to find out before anything is claimed than after."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"can't be listened on ({error.strerror})"
        raise OrchestratorError(f"{host}:{port} {why}: free it, or set ORCHESTRATOR_API__PORT") from None


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if find_spec("uvloop") is None:
        return None
    make: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return make


def _hide_password(settings: Settings, database: access.Database) -> None:
    """The embedded server's password is known only once it runs."""
    if database.embedded is not None:
        secrets = [*secret_values(settings), unquote(urlsplit(database.dsn).password or "")]
        log.configure(settings.log.level, settings.log.format, secrets=secrets)


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
        sandbox = await stack.enter_async_context(_sandbox(settings)) if options.sandbox else None
        dsn = await access.writable(database.dsn) if options.once else database.dsn
        daemon = Daemon(sandbox.settings if sandbox else settings, dsn, database.listen_dsn)
        await stack.enter_async_context(daemon.assembled())
        await _open_database(daemon, sandbox, wait=not options.once)
        if options.once:
            await _once(daemon)
        else:
            await daemon.run((*_extras(daemon, database), *_scenes(daemon, sandbox)))


def _sandbox(settings: Settings) -> AbstractAsyncContextManager["Sandbox"]:
    from daemon.sandbox import open_sandbox  # noqa: PLC0415 - a daemon at work has none

    return open_sandbox(settings)


async def _open_database(daemon: Daemon, sandbox: "Sandbox | None", *, wait: bool) -> None:
    try:
        await daemon.open_database(wait=wait)
        if sandbox is not None:
            await _seed(daemon, sandbox)
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(f"{error}: start it, or correct DATABASE_URL") from error


async def _seed(daemon: Daemon, sandbox: "Sandbox") -> None:
    conn = await db.connect(daemon.dsn)
    try:
        await sandbox.seed(conn)
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
    from daemon.api.server import serve  # noqa: PLC0415 - `--once` needs no server

    yield _announce(daemon)
    yield serve(daemon)
    if database.embedded is not None:
        yield database.embedded.watch()


def _scenes(daemon: Daemon, sandbox: "Sandbox | None") -> Iterator[Extra]:
    if sandbox is not None:
        from rich.console import Console  # noqa: PLC0415 - for people who watch

        yield sandbox.people(daemon.dsn)
        yield sandbox.narrate(daemon.dsn, Console())


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
