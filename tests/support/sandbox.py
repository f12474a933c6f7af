"""A daemon in this process among the sandbox's engines and people."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from daemon.app import Daemon
from daemon.sandbox import Sandbox


@asynccontextmanager
async def running(sandbox: Sandbox, dsn: str, *extras: Coroutine[Any, Any, None]) -> AsyncIterator[Daemon]:
    """The daemon with its people, and whatever else runs beside it."""
    daemon = Daemon(sandbox.settings, dsn, dsn)
    async with daemon.assembled():
        await daemon.open_database()
        life = asyncio.create_task(daemon.run((sandbox.people(dsn), *extras)))
        try:
            yield daemon
        finally:
            daemon.stop()
            await life
