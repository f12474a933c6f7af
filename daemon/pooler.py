"""Connections through a pooler (PgBouncer), where nothing but a transaction stays with one process of the server.

The settings of a session are refused or lost there. So every statement runs in a transaction, its own if there is none
yet, and every transaction begins with what the session would have been set to. That costs a statement of its own two
more journeys, and one because nothing stays prepared. LISTEN and session locks are not to be had at all.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import asyncpg

from daemon.db import Connection

T = TypeVar("T")
SETTING = "SET LOCAL {} = '{}';"


class Pooled(Connection):
    """A connection whose transactions bring their settings with them."""

    settings: str = ""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As any connection; BEGIN, whoever says it, is one journey together with the settings."""
        if query.startswith("BEGIN"):
            return await super().execute(query + self.settings, **options)
        return await self._in_transaction(super().execute, query, *args, **options)

    async def fetch(self, *args: Any, **options: Any) -> Any:
        """As any connection."""
        return await self._in_transaction(super().fetch, *args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        """As any connection."""
        return await self._in_transaction(super().fetchrow, *args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        """As any connection."""
        return await self._in_transaction(super().fetchval, *args, **options)

    async def _in_transaction(self, ask: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        if self.is_in_transaction():
            return await ask(*args, **options)
        limit = options.get("timeout")
        try:
            await self.execute("BEGIN;", timeout=limit)
            answer = await ask(*args, **options)
            await self.execute("COMMIT;", timeout=limit)
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._roll_back()
            raise
        except BaseException:  # cancelled, or no answer in time: a ROLLBACK might not be answered either
            self.terminate()
            raise
        return answer

    async def _roll_back(self) -> None:
        if self.is_in_transaction() and not self.is_closed():
            await self.execute("ROLLBACK;")


def settings_of(session: Mapping[str, str]) -> str:
    """What a session would have been set to, as statements for one transaction; names and values are our own."""
    kept = {name: value for name, value in session.items() if name != "application_name"}
    # A default would be for the next transaction, and this one has begun.
    return "".join(SETTING.format(name.removeprefix("default_"), value) for name, value in kept.items())


async def connect(dsn: str, session: Mapping[str, str], **options: Any) -> Pooled:
    """A connection that needs no more of its session than a pooler can keep."""
    called = {name: f"{value} pooled" for name, value in session.items() if name == "application_name"}
    conn: Pooled = await asyncpg.connect(
        dsn, connection_class=Pooled, server_settings=called, statement_cache_size=0, **options
    )
    conn.settings = settings_of(session)
    return conn
