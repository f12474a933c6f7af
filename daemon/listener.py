"""The ear of a daemon: one direct connection that listens, holds its lock and beats.

NOTIFY is a hint and may be lost, so the ear proves at every beat, by asking its own session, that it listens,
sits on the primary and holds its lock; a beat that is not answered in time condemns the connection. A daemon
whose connection broke keeps its id: it takes its lock again, LISTENs, and only then has the database swept for
what it missed. If a peer has taken over its work meanwhile, its leases are gone: it aborts and signs on anew.

    beat -> the same answer tells which peers have no lock: absent for `takeover_s` without a break, they are
    taken over, which is proved by taking their lock (nobody ever waits for one).
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import random
from typing import Protocol
from uuid import UUID, uuid4

import asyncpg

from daemon import __version__
from daemon.db import (
    CLIENT_CONFUSED,
    DAEMON_SESSION,
    UNREACHABLE,
    Connection,
    Statements,
    backends,
    connect,
    display,
    is_direct,
)
from daemon.errors import LeaseLost, SettingsError
from daemon.log import get_logger
from daemon.metrics import Metrics

SQL = Statements("daemon", "worker.sql")
CHANNEL = "orchestrator"
LEAST_WAIT_S = 0.005
BACKOFF_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
HINT_SETTLES_S = 0.2  # after a NOTIFY the next due time is asked for again, at most this often
LOCK_TRIES_S = 2.0
FIRED_AT_ONCE = 1000  # as in schema.sql
SIGN_OFF_S = 0.5
AGAIN_S = 0.05  # what a takeover had to skip is looked at again so soon

NO_EARS = (
    "LISTEN and the daemon's lock can't go through a pooler such as PgBouncer: set ORCHESTRATOR_LISTEN_URL to a direct"
    " connection, or ORCHESTRATOR_LISTENER__POLL_ONLY=true"
)

log = get_logger("listener")


class Hearer(Protocol):
    """Who is told what the ear heard; its id is the one under which the daemon is registered."""

    id: UUID

    def wake(self) -> None: ...
    def notice_lonely(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Beat:
    """How often, and how patient."""

    pulse_s: float = 0.75
    takeover_s: float = 1.0
    timeout_s: float = 2.0
    poll_only: bool = False


@dataclass(slots=True)
class Listener:
    """Keeps one listening connection alive and tells `hearer` what is due."""

    dsn: str
    hearer: Hearer
    metrics: Metrics
    beat: Beat
    on_connected: Callable[[], None]
    on_slot_due: Callable[[], None]
    on_broken: Callable[[], list[int]]
    healthy: bool = False
    _connected_before: bool = False
    _number: int | None = None
    _conn: Connection | None = None
    _hint: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: bool = False
    _abandoned: list[int] = field(default_factory=list)  # backends that may not know yet that we are gone
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    _absent_since: dict[UUID, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Connect, beat, and connect again, until cancelled."""
        failures = 0
        while True:
            try:
                await self._session()
                return
            except (*UNREACHABLE, *CLIENT_CONFUSED, asyncpg.PostgresError) as error:
                if self.healthy:
                    failures = 0
                    self._abandoned += self.on_broken()
                self._unhealthy(error, failures)
            except LeaseLost as error:
                log.warning("signing on anew", reason=str(error))
                self.hearer.abort()
                self.hearer.id, self._number = uuid4(), None
            finally:
                self._drop()
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)] * (0.5 + random()))
            failures += 1

    def _unhealthy(self, error: Exception, failures: int) -> None:
        self.healthy = False
        self.metrics.listener_connected.set(0)
        if failures in (0, len(BACKOFF_S)):  # say it at once and once more, not for hours
            log.warning("listening connection lost", error=str(error) or type(error).__name__)

    def _drop(self) -> None:
        self.healthy = False
        self.metrics.listener_connected.set(0)
        if self._conn is not None:
            self._abandoned += backends([self._conn])
            self._conn.terminate()  # close() would hang on a half-open connection
            self._conn = None

    # -- one connection's life

    async def _session(self) -> None:
        conn = self._conn = await connect(self.dsn, session=DAEMON_SESSION)
        if not (self.beat.poll_only or is_direct(conn)):
            raise SettingsError(f"{display(self.dsn)}: {NO_EARS}")
        gone = asyncio.Event()

        def ended(_: object) -> None:
            gone.set()
            self._hint.set()

        conn.add_termination_listener(ended)
        async with asyncio.timeout(self.beat.timeout_s + LOCK_TRIES_S):
            await self._sign_on(conn)
            if not self.beat.poll_only:
                await conn.add_listener(CHANNEL, lambda *_: self._heard())
        self._absent_since.clear()
        self.healthy = True
        self.metrics.listener_connected.set(1)
        if self._connected_before:
            self.metrics.listener_reconnects.inc()
        self._connected_before = True
        self.on_connected()
        while not gone.is_set():
            await self._wait(await self._beat(conn))
            if self._leaving:
                await conn.execute(SQL["deregister"], self.hearer.id, timeout=self.beat.timeout_s)
                self._left.set()
                return
        raise ConnectionResetError("the server closed the listening connection")

    def _heard(self) -> None:
        self.hearer.wake()
        self._hint.set()

    async def _sign_on(self, conn: Connection) -> None:
        """Register once; after a break prove that nobody has taken over in between."""
        if self._abandoned:
            await conn.fetch(SQL["end_abandoned"], self._abandoned)
            self._abandoned = []
        if self._number is None:
            self._number = await conn.fetchval(
                SQL["register"], self.hearer.id, socket.gethostname(), os.getpid(), __version__, not self.beat.poll_only
            )
        if not self.beat.poll_only:
            await self._lock(conn, self._number)
        if not await conn.fetchval(SQL["registered"], self.hearer.id):
            raise LeaseLost("a peer has taken over this daemon's tasks")

    async def _lock(self, conn: Connection, number: int) -> None:
        """Take the lock; the old session, or a peer that is just taking over, may hold it for a moment."""
        while not await conn.fetchval(SQL["try_lock"], number):  # noqa: ASYNC110  # only the server knows when it is free
            await asyncio.sleep(0.02)

    async def _beat(self, conn: Connection) -> float:
        """Ask once; act on the answer; the seconds until something is due."""
        self._hint.clear()
        row = await conn.fetchrow(SQL["pulse"], self._number, timeout=self.beat.timeout_s)
        if row is None or row["in_recovery"]:
            raise ConnectionResetError("the server has become a standby")
        if not self.beat.poll_only and not (row["listening"] and row["locked"]):
            raise ConnectionResetError("the session has lost its LISTEN or its lock")
        await self._free(conn, row)
        if row["fired"] or row["waiting"]:
            self.hearer.wake()
        if row["lonely"]:
            self.hearer.notice_lonely()
        if row["slot_due"]:
            self.on_slot_due()
        if row["fired"] >= FIRED_AT_ONCE:  # and there are more
            return 0.0
        return float("inf") if row["wait_s"] is None else float(row["wait_s"])

    async def _wait(self, due_in_s: float) -> None:
        """Until the next beat, the next due time, or shortly after a hint that it may have changed."""
        now = time.monotonic()
        absent = [max(since + self.beat.takeover_s - now, AGAIN_S) for since in self._absent_since.values()]
        pause = max(LEAST_WAIT_S, min(self.beat.pulse_s, due_in_s, *absent, self.beat.pulse_s))
        try:
            async with asyncio.timeout(pause):
                await self._hint.wait()
                if not self._leaving:
                    await asyncio.sleep(HINT_SETTLES_S)
        except TimeoutError:
            if due_in_s <= pause:
                self.hearer.wake()

    async def _free(self, conn: Connection, row: asyncpg.Record) -> None:
        """Free the tasks of peers that have been gone long enough, and those whose lease ran out."""
        now = time.monotonic()
        self._absent_since = {peer: self._absent_since.get(peer, now) for peer in row["absent"]}
        for peer, since in list(self._absent_since.items()):
            if now - since >= self.beat.takeover_s:
                self._freed(await conn.fetchval(SQL["take_over"], peer), peer=str(peer))
        if row["expired"]:
            self._freed(await conn.fetchval(SQL["free_expired"]))

    def _freed(self, tasks: int, **of: str) -> None:
        if tasks:
            log.warning("took over tasks", tasks=tasks, **of)
            self.metrics.tasks_taken_over.inc(tasks)
            self.hearer.wake()

    async def sign_off(self) -> None:
        """An orderly end: nobody needs to miss this daemon."""
        if self.healthy:
            self._leaving = True
            self._hint.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(SIGN_OFF_S):
                    await self._left.wait()
