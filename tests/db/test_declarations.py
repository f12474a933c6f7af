"""Pipelines are written by a starting daemon and, now and then, by a person: neither locks the other out, or up."""

import asyncio

import pytest

from daemon.db import Connection, connect
from daemon.errors import DeclarationError
from handlers import leads
from handlers.vendor_acquisition import VENDOR
from tests.support.processes import until


async def test_who_changes_declarations_takes_turns_with_a_starting_daemon(dsn: str, conn: Connection) -> None:
    """Neither waits with rows that the other wants. Mutant: `transitions_locked` is an AFTER trigger."""
    other = await connect(dsn)
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute(leads.SQL["lock_declarations"])  # a daemon's first step
    delete = "DELETE FROM transitions WHERE from_stage = 'NEW_LEAD' AND to_stage = 'DEAD_LEAD'"
    person = asyncio.create_task(other.execute(delete))
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    await until(lambda: conn.fetchval(waits), 5.0, "a wait")
    await leads._sync_one(conn, VENDOR)
    await transaction.commit()
    assert await person == "DELETE 1"
    await other.close()


async def test_a_start_beside_an_open_transaction_ends_with_one_clear_line(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        leads, "SQL", {**leads.SQL, "lock_declarations": leads.SQL["lock_declarations"].replace("10s", "50ms")}
    )
    other = await connect(dsn)
    async with other.transaction():
        await other.execute("SELECT shift_clock('1 day')")
        with pytest.raises(DeclarationError, match="an open transaction has changed a declared pipeline or the clock"):
            await leads.sync(conn, (VENDOR,))
    await other.close()
    await leads.sync(conn, (VENDOR,))
