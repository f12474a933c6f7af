"""Work on a connection of its own that outlives the server's restarts."""

import asyncio
from collections.abc import Awaitable, Callable

from daemon.db import RECONNECT_S, UNREACHABLE, Connection, Pool

SESSION = {"application_name": "orchestrator sandbox", "timezone": "UTC"}


async def stay_connected(dsn: str, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Do `work` on a connection, and again on a new one whenever that is lost, until cancelled."""
    pool = Pool(dsn, 1, session=SESSION)
    failures = 0
    try:
        while True:
            try:
                async with pool.acquire() as conn:
                    failures = 0
                    await work(conn)
            except UNREACHABLE:
                await asyncio.sleep(RECONNECT_S[min(failures, len(RECONNECT_S) - 1)])
                failures += 1
    finally:
        pool.close()
