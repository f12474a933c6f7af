"""Guarantees broken on purpose: each mutant takes one safeguard out of the queue, and a test must notice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from daemon import queue
from daemon.db import Connection


@dataclass(frozen=True, slots=True)
class InStatement:
    """One line of a named statement of the queue, said otherwise."""

    name: str
    statement: str
    line: str
    instead: str = ""

    @asynccontextmanager
    async def applied(self, conn: Connection) -> AsyncIterator[None]:
        """Change the text that the queue sends, for as long as the block lasts."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(queue.SQL._texts, self.statement, _said_otherwise(self, queue.SQL[self.statement]))
            yield


@dataclass(frozen=True, slots=True)
class InFunction:
    """One line of a function in the test's own database, said otherwise."""

    name: str
    function: str
    line: str
    instead: str = ""

    @asynccontextmanager
    async def applied(self, conn: Connection) -> AsyncIterator[None]:
        """Make the function anew in this database, for as long as the block lasts."""
        text = await conn.fetchval("SELECT pg_get_functiondef($1::text::regproc)", f"orchestrator.{self.function}")
        await conn.execute(_said_otherwise(self, text))
        try:
            yield
        finally:
            await conn.execute(text)


@dataclass(frozen=True, slots=True)
class WithoutIndex:
    """An index that is not there."""

    name: str
    index: str

    @asynccontextmanager
    async def applied(self, conn: Connection) -> AsyncIterator[None]:
        """Drop it in this database, for as long as the block lasts (which leaves no row behind that it forbids)."""
        text = await conn.fetchval("SELECT pg_get_indexdef($1::text::regclass)", f"orchestrator.{self.index}")
        await conn.execute(f"DROP INDEX orchestrator.{self.index}")
        try:
            yield
        finally:
            await conn.execute("DELETE FROM tasks")
            await conn.execute(text)


Mutant: TypeAlias = InStatement | InFunction | WithoutIndex


def _said_otherwise(mutant: InStatement | InFunction, text: str) -> str:
    assert text.count(mutant.line) == 1, f"{mutant.name}: the line to be broken is not there (any more)"
    return text.replace(mutant.line, mutant.instead)


SETTLED_WITHOUT_ITS_LEASE = InStatement("settled without its lease", "settle", "AND t.lease_id = d.lease")
POSTPONED_WITHOUT_ITS_LEASE = InStatement("postponed without its lease", "postpone", "AND t.lease_id = d.lease")
KILLED_WITHOUT_ITS_LEASE = InStatement("killed without its lease", "kill", "AND t.lease_id = d.lease")
GIVEN_BACK_WITHOUT_ITS_LEASE = InStatement("given back without its lease", "give_back", "AND t.lease_id = d.lease")
CLAIMED_BESIDE_A_RUNNING_ONE = InStatement(
    "claimed beside a running one",
    "claim",
    "AND (SELECT r.id FROM tasks r WHERE r.status = 'running' AND r.key = t.key LIMIT 1) IS NULL",
)
CLAIMED_OUT_OF_ORDER = InStatement("claimed out of order", "claim", "AND e.id < t.id", "AND e.id < t.id AND false")
CLAIMED_BEFORE_ITS_TIME = InStatement(
    "claimed before its time", "claim", "AND t.run_at <= (SELECT now FROM clock) AND", "AND"
)
HELD_BACK_BY_A_LATER_ONE = InStatement(
    "held back by one whose time has not come",
    "claim",
    "\n                                                  AND e.run_at <= (SELECT now FROM clock) LIMIT 1)",
    " LIMIT 1)",
)
CLAIMED_WITH_ITS_DEDUP_KEY = InStatement("claimed with its dedup_key", "claim", "dedup_key = NULL, ")
TIRED_ONES_RUN_WITH_OTHERS = InStatement(
    "interrupted too often, yet run with others", "claim", "AND t.interruptions < 3"
)
ENQUEUE_DOES_NOTHING = InStatement(
    "a second enqueue does nothing",
    "enqueue",
    "DO UPDATE SET run_at = least(tasks.run_at, excluded.run_at)",
    "DO NOTHING",
)
SNOOZE_COSTS_A_TRY = InStatement("a snooze costs a try", "postpone", "CASE WHEN d.counts THEN 0 ELSE 1 END", "0")
RUNNING_ONE_CANCELLED = InStatement(
    "a running one is cancelled", "cancel", "('available', 'dead')", "('available', 'running')"
)
NO_INDEX_ON_RUNNING_KEYS = WithoutIndex("no unique index on running keys", "tasks_running_key")
LIVING_DAEMON_TAKEN_OVER = InFunction(
    "a living daemon is taken over", "take_over", "NOT pg_try_advisory_xact_lock(1869767528, its_number)", "false"
)
TAKEOVER_COSTS_A_TRY = InFunction("a takeover costs a try", "take_over", "attempt = attempt - 1, ")
LIVING_LEASES_FREED = InFunction("living leases are freed", "free_expired", "AND lease_expires_at < clock_timestamp() ")
WRITTEN_WHATEVER_CAME = InFunction("written at once, whatever came of it", "expect", "IF came <> expected", "IF false")
RETRY_REACHES_RUNNING_ONES = InFunction(
    "a retry reaches running ones", "revive", "('dead', 'available')", "('running')"
)

FOR_THE_MACHINE: tuple[Mutant, ...] = (
    SETTLED_WITHOUT_ITS_LEASE,
    WRITTEN_WHATEVER_CAME,
    POSTPONED_WITHOUT_ITS_LEASE,
    KILLED_WITHOUT_ITS_LEASE,
    GIVEN_BACK_WITHOUT_ITS_LEASE,
    CLAIMED_BESIDE_A_RUNNING_ONE,
    CLAIMED_OUT_OF_ORDER,
    CLAIMED_BEFORE_ITS_TIME,
    HELD_BACK_BY_A_LATER_ONE,
    CLAIMED_WITH_ITS_DEDUP_KEY,
    TIRED_ONES_RUN_WITH_OTHERS,
    ENQUEUE_DOES_NOTHING,
    SNOOZE_COSTS_A_TRY,
    RUNNING_ONE_CANCELLED,
    NO_INDEX_ON_RUNNING_KEYS,
    LIVING_DAEMON_TAKEN_OVER,
    TAKEOVER_COSTS_A_TRY,
    LIVING_LEASES_FREED,
    RETRY_REACHES_RUNNING_ONES,
)
"""Each of them makes the queue's machine fail."""

MOVES_UNCHECKED = InFunction(
    "moves are not checked", "leads_before_update", "IF NOT st.legal OR missing <> '{}' THEN", "IF false THEN"
)
FIELDS_UNCHECKED = InFunction(
    "required fields are not checked",
    "leads_before_update",
    "IF NOT st.legal OR missing <> '{}' THEN",
    "IF NOT st.legal THEN",
)
ENTRIES_UNCOUNTED = InFunction(
    "entries are not counted",
    "leads_before_update",
    "NEW.stage_seq := OLD.stage_seq + 1",
    "NEW.stage_seq := OLD.stage_seq",
)
ORIGIN_FORGOTTEN = InFunction(
    "history forgets where a lead came from",
    "leads_before_update",
    "NEW.left_stage := OLD.stage;",
    "NEW.left_stage := coalesce(OLD.left_stage, OLD.stage);",
)

FOR_THE_HISTORY: tuple[Mutant, ...] = (MOVES_UNCHECKED, FIELDS_UNCHECKED, ENTRIES_UNCOUNTED, ORIGIN_FORGOTTEN)
"""Each of them makes the property of stage histories fail."""
