"""The test run's PostgreSQL: one embedded server, a template database with the schema, a clone of it per test."""

import fcntl
import importlib
import importlib.util
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from daemon.db import set_codecs
from daemon.embedded import Embedded

TEMPLATE = "template_of_tests"
PREFIX = "orchestrator-tests-"
YOUNG_S = 60


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `dsn` is its superuser's, on a database that no test uses."""

    embedded: Embedded
    dsn: str

    def url(self, database: str) -> str:
        """The DSN of one of its databases."""
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))

    async def clone(self, template: str = TEMPLATE) -> str:
        """A fresh database with the schema in it, within some 30 ms; returns its DSN."""
        name = f"test_{secrets.token_hex(6)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    async def drop(self, dsn: str) -> None:
        """Remove a clone, whoever is connected to it."""
        await self.execute(f"DROP DATABASE IF EXISTS {urlsplit(dsn).path[1:]} WITH (FORCE)")

    async def execute(self, sql: str) -> None:
        """One statement on the maintenance database."""
        conn = await asyncpg.connect(self.dsn)
        try:
            await conn.execute(sql)
        finally:
            await conn.close()

    async def prepare(self) -> None:
        """Make the template, once per server, whichever xdist worker comes first."""
        conn = await asyncpg.connect(self.dsn)
        try:
            await conn.execute("SELECT pg_advisory_lock(1)")
            if not await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = $1 AND datistemplate", TEMPLATE):
                await self._make_template(conn)
        finally:
            await conn.close()

    async def _make_template(self, conn: asyncpg.Connection) -> None:
        await conn.execute(f"DROP DATABASE IF EXISTS {TEMPLATE}")
        await conn.execute(f"CREATE DATABASE {TEMPLATE}")
        inside = await asyncpg.connect(self.url(TEMPLATE))
        try:
            await set_codecs(inside)
            await fill(inside)
        finally:
            await inside.close()
        await conn.execute(f"ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")


async def fill(conn: asyncpg.Connection) -> None:
    """What the daemon's start makes of an empty database: the schema, then what `daemon.app` keeps in it."""
    await importlib.import_module("daemon.schema").create_schema(conn)
    await conn.execute("SET search_path = orchestrator")
    if importlib.util.find_spec("daemon.app"):
        await importlib.import_module("daemon.app").prepare(conn)


@contextmanager
def serve(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server under this home for as long as the block lasts."""
    embedded = Embedded(home, settings)
    dsn = embedded.start()
    try:
        yield Server(embedded, dsn)
    finally:
        embedded.stop()


def make_run_folder() -> Path:
    """A folder for one test run, reachable for PostgreSQL's account; its lock says that the run is alive."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    folder.chmod(0o755)
    _lock(folder)
    return folder


def remove_dead_runs() -> None:
    """Stop and remove what a killed test run of ours left behind."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        found = folder.stat()
        if found.st_uid == os.getuid() and time.time() - found.st_mtime > YOUNG_S:
            lock = _lock(folder)
            if lock is not None:
                remove_run_folder(folder)
                os.close(lock)


def remove_run_folder(folder: Path) -> None:
    """Stop every server in it that nobody uses any more, and remove it."""
    for place in folder.glob("**/postgres/users.lock"):
        Embedded(place.parent.parent).stop()
    shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int | None:
    lock = os.open(folder / "alive.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
