"""The HTTP server: its connections, its port, its orderly end."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from daemon.api.application import build
from daemon.api.connection import Runner
from daemon.api.readings import Readings
from daemon.api.route import Api, Bounds
from daemon.db import Pool
from daemon.errors import OrchestratorError
from daemon.log import get_logger
from daemon.settings import ApiSettings

if TYPE_CHECKING:
    from daemon.app import Daemon

log = get_logger("api")

SHUTDOWN_S = 0.75  # aiohttp waits for it twice, and a daemon has two seconds beyond its grace
LINGERING_S = 2.0
KEEPALIVE_S = 75.0  # also how long a connection may take over its first request's headers
SESSION = {"application_name": "orchestrator api", "timezone": "UTC", "statement_timeout": "5s", "jit": "off"}
READS = {
    **SESSION,
    "default_transaction_read_only": "on",
    "plan_cache_mode": "force_custom_plan",  # filters that are not given vanish from the plan
}
WRITES = {**SESSION, "lock_timeout": "3s", "idle_in_transaction_session_timeout": "10s"}


async def serve(daemon: "Daemon", bounds: Bounds | None = None) -> None:
    """Serve the API until cancelled."""
    async with serving(daemon, bounds):
        await asyncio.Event().wait()


@asynccontextmanager
async def serving(daemon: "Daemon", bounds: Bounds | None = None) -> AsyncIterator[None]:
    """Serve the API as long as the block lasts; OrchestratorError if its address can't be had."""
    reads, writes = Pool(daemon.dsn, 4, session=READS), Pool(daemon.dsn, 2, session=WRITES)
    api = Api(daemon, reads, writes, Readings(reads, daemon), bounds or Bounds())
    runner = Runner(
        build(api),
        access_log=None,  # queries may hold what signed links hold
        shutdown_timeout=SHUTDOWN_S,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGERING_S,
    )
    await runner.setup()
    try:
        await _listen(runner, daemon.settings.api)
        yield
    finally:
        await runner.cleanup()
        reads.close()
        writes.close()


async def _listen(runner: web.AppRunner, settings: ApiSettings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        raise OrchestratorError(_why(error, settings)) from error
    log.info("API listening", addresses=[_shown(address) for address in runner.addresses])


def _why(error: OSError, settings: ApiSettings) -> str:
    place = f"can't listen on {settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place}: the port is in use; stop what uses it or set ORCHESTRATOR_API__PORT to another"
    return f"{place}: {error.strerror or error}; see ORCHESTRATOR_API__HOST and ORCHESTRATOR_API__PORT"


def _shown(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
