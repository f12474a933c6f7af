"""The port that a daemon is to serve: free, or a clear word on who has it."""

import errno
import socket
from functools import partial

from daemon.commands import access
from daemon.db import Connection, Statements
from daemon.embedded import Embedded
from daemon.errors import OrchestratorError
from daemon.schema import current_version
from daemon.settings import Settings

SQL = Statements("daemon.commands", "port.sql")


def require_port(settings: Settings) -> None:
    """Better to find out before anything is claimed than after."""
    host, port = settings.api.host, settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), port), family=family).close()
    except OSError as error:
        raise OrchestratorError(_why_not(error, settings)) from None


def _why_not(error: OSError, settings: Settings) -> str:
    place = f"{settings.api.host}:{settings.api.port}"
    if error.errno != errno.EADDRINUSE:
        return f"{place} can't be listened on ({error.strerror}): free it, or set ORCHESTRATOR_API__PORT"
    here = socket.gethostname()
    pid = _neighbour(settings, here)
    if pid is None:
        return f"{place} is in use: free it, or set ORCHESTRATOR_API__PORT"
    return (
        f"a daemon already runs here (pid {pid} on {here}, http://{place}): stop it first, or set "
        "ORCHESTRATOR_API__PORT to run a second one"
    )


def _neighbour(settings: Settings, host: str) -> int | None:
    """The process of a live daemon of this host on the same database, as far as that can be learnt."""
    if settings.dsn is None and not Embedded(settings.home).alive:
        return None
    try:
        with access.database(settings) as database:
            return access.on_connection(database.dsn, partial(_pid, host=host))
    except (OSError, OrchestratorError):
        return None


async def _pid(conn: Connection, host: str) -> int | None:
    if not await current_version(conn):
        return None
    found: int | None = await conn.fetchval(SQL["neighbour"], host)
    return found
