"""One server for many processes: who joins first starts it, who leaves last stops it, whoever watches revives it."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import structlog

from daemon.embedded.locks import locked, open_lock, share_lock, try_lock
from daemon.embedded.places import Places
from daemon.embedded.programs import program
from daemon.embedded.server import Server
from daemon.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

WATCH_S = 0.25
PAUSE_S = 5.0  # between tries to start a dead server again


class Embedded:
    """The server of one home, shared by every process that has started it and not yet stopped it."""

    def __init__(self, home: Path, settings: Mapping[str, str] | None = None) -> None:
        self._places = Places(home)
        self._server = Server(self._places, settings or {})
        self._users: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> str:
        """Make sure that the server runs, and return its DSN; blocks for a second at the first time."""
        try:
            return self._start()
        except OSError as error:
            raise DatabaseUnavailable(f"the embedded PostgreSQL under {self._places.home}: {error}") from error

    def stop(self) -> None:
        """Leave the server; the last one out stops it."""
        with locked(self._start_lock):
            self._join()
            if self._leave():
                self._server.halt()

    async def watch(self) -> None:
        """Start the server again whenever it has died, until cancelled."""
        pause = WATCH_S
        while True:
            await asyncio.sleep(pause)
            pause = WATCH_S
            if not self.alive:
                log.warning("embedded_postgres_died", folder=str(self._places.folder))
                revived = await asyncio.to_thread(self._revive)
                pause = WATCH_S if revived else PAUSE_S

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self.pid is not None

    @property
    def pid(self) -> int | None:
        """The server's process, if it runs."""
        return self._server.pid()

    @property
    def dsn(self) -> str:
        """How to reach the server, once it has been started."""
        return self._server.dsn

    def bin(self, name: str) -> Path:
        """One of the server's own programs: psql, pg_dump, pg_restore..."""
        return program(name, self._server.installation)

    @property
    def _start_lock(self) -> Path:
        return self._places.folder / "start.lock"

    def _start(self) -> str:
        with locked(self._start_lock):
            self._join()
            try:
                self._server.serve()
            except BaseException:
                self._leave()
                raise
        return self.dsn

    def _join(self) -> None:
        if self._users is None:
            self._users = open_lock(self._places.folder / "users.lock")
            share_lock(self._users)

    def _leave(self) -> bool:
        """Were we the last user?"""
        if self._users is None:
            return False
        last = try_lock(self._users)
        os.close(self._users)
        self._users = None
        return last

    def _revive(self) -> bool:
        try:
            with locked(self._start_lock):
                if self._users is not None:
                    self._server.serve()
        except (DatabaseUnavailable, OSError) as error:
            log.error("embedded_postgres_down", error=str(error))
            return False
        return True
