"""Counts that scrapers and probes ask for, read seldom enough that nobody who asks can hurt the database."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from daemon.db import UNREACHABLE, Connection, Pool, Statements
from daemon.log import get_logger

if TYPE_CHECKING:
    from daemon.app import Daemon

SQL = Statements("daemon.api", "health.sql")
SHARE = 0.02
"""At most this share of one connection's time goes into a reading, however large the tables are."""
COUNTED = (
    "leads_by_stage",
    "transitions",
    "invalid_transitions",
    "runs_ended",
    "approvals_decided",
    "approvals_pending",
    "alerts_active",
)

log = get_logger("api")
T = TypeVar("T")


class Cached(Generic[T]):
    """A reading taken anew at most every `least_s`, by one asker for all; None if it can't be had in time."""

    def __init__(
        self, read: Callable[[], Awaitable[T]], least_s: float, patience_s: float, possible: Callable[[], bool]
    ) -> None:
        self._read, self._least_s, self._patience_s, self._possible = read, least_s, patience_s, possible
        self._value: T | None = None
        self._good_until = 0.0
        self._turn = asyncio.Lock()

    async def get(self) -> T | None:
        """The last reading, or a new one if that has grown old."""
        if not self._possible():
            return None
        async with self._turn:
            if time.monotonic() >= self._good_until:
                await self._renew()
            return self._value

    async def _renew(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_s):
                self._value = await self._read()
        except UNREACHABLE as error:
            log.info("counts not read", error=str(error) or type(error).__name__)
            self._value = None
        ended = time.monotonic()
        self._good_until = ended + max(self._least_s, (ended - began) / SHARE)


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue, the campaigns and the clock's plans for them at one moment."""

    available: int
    running: int
    dead: int
    oldest_age_s: float
    active_campaigns: int
    slots_today: int


@dataclass(frozen=True, slots=True)
class Counts:
    """What the metrics show of the tables."""

    queue: QueueState
    leads: Mapping[tuple[str, ...], int]  # by pipeline and stage
    transitions: Mapping[tuple[str, ...], int]  # by pipeline and both stages
    invalid_transitions: Mapping[tuple[str, ...], int]  # by pipeline
    runs: Mapping[tuple[str, ...], int]  # ended, by campaign and status
    approvals: Mapping[tuple[str, ...], int]  # by checkpoint and decision
    pending: Mapping[tuple[str, ...], int]  # by checkpoint
    alerts: Mapping[tuple[str, ...], int]  # unresolved, by type and severity
    budgets: Mapping[tuple[str, str], float]  # the used share, by campaign and window


class Readings:
    """The readings of one API."""

    def __init__(self, pool: Pool, daemon: "Daemon") -> None:
        self._pool, self._daemon = pool, daemon
        self.queue = Cached(self._read_queue, 1.0, 1.0, self._possible)
        self.counts = Cached(self._read_counts, 5.0, 5.0, self._possible)

    def _possible(self) -> bool:
        """Before the daemon is at work, nobody knows what the database is."""
        return self._daemon.at_work

    async def _read_queue(self) -> QueueState:
        async with self._pool.acquire() as conn:
            (row,) = await conn.fetch(SQL["queue_state"])
        return QueueState(**row)

    async def _read_counts(self) -> Counts:
        queue = await self._read_queue()
        async with self._pool.acquire() as conn:
            leads, moves, refused, runs, decided, pending, alerts = [await _counted(conn, name) for name in COUNTED]
            budgets = await self._daemon.catalogue.budgets_used(conn)
        return Counts(queue, leads, moves, refused, runs, decided, pending, alerts, budgets)


async def _counted(conn: Connection, name: str) -> Mapping[tuple[str, ...], int]:
    """A count by some texts, its last column."""
    return {tuple(labels): n for *labels, n in await conn.fetch(SQL[name])}
