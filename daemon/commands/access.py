"""A command's way to its settings and to its database."""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from daemon import db
from daemon.db import Connection
from daemon.embedded import Embedded
from daemon.errors import DatabaseUnavailable
from daemon.settings import Settings, load_settings, require_database

REACH_S = 2.5  # with the program's own start a command has failed within 5 s
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Database:
    """Where the database is, and our own server if it is one."""

    dsn: str
    listen_dsn: str
    embedded: Embedded | None = None


def read_settings(**options: Any) -> Settings:
    """All settings, checked; a command's options win."""
    settings = load_settings(**options)
    require_database(settings)
    return settings


@contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """The database of these settings; without DATABASE_URL our own server, which runs meanwhile."""
    if settings.dsn is not None:
        yield Database(settings.dsn, settings.listen_dsn or settings.dsn)
        return
    embedded = Embedded(settings.home)
    dsn = _start(embedded)
    try:
        yield Database(dsn, settings.listen_dsn or dsn, embedded)
    finally:
        embedded.stop()


def _start(embedded: Embedded) -> str:
    try:
        return embedded.start()
    except DatabaseUnavailable:
        raise
    except BaseException:  # a signal in the middle
        embedded.stop()
        raise


async def writable(dsn: str) -> str:
    """The DSN of the one host that is the primary; all are asked at once, so that a dead one holds up nobody."""
    asked = [asyncio.create_task(_primary(host)) for host in db.hosts_of(dsn)]
    why = []
    try:
        async with asyncio.timeout(REACH_S):
            for answer in asyncio.as_completed(asked):
                try:
                    return await answer
                except DatabaseUnavailable as error:
                    why.append(str(error).removeprefix("can't reach Postgres: "))
    except TimeoutError:
        why.append(f"no answer within {REACH_S:g} s from {db.display(dsn)}")
    finally:
        for one in asked:
            one.cancel()
    raise DatabaseUnavailable(f"can't reach Postgres: {'; '.join(why)}: start it, or correct DATABASE_URL")


def primary(dsn: str) -> str:
    """The same for a command without a loop of its own."""
    return asyncio.run(writable(dsn))


async def _primary(host_dsn: str) -> str:
    conn = await db.connect(host_dsn)
    await conn.close()
    return host_dsn


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """A connection to the writable primary, found in time or not at all."""
    conn = await db.connect(await writable(dsn))
    try:
        yield conn
    finally:
        conn.terminate()


def on_connection(dsn: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """What `work` makes of a connection."""

    async def do() -> T:
        async with connected(dsn) as conn:
            return await work(conn)

    return asyncio.run(do())


def person() -> str:
    """Who is at the keyboard, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return f"uid {os.getuid()}"
