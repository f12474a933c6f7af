"""Of an alert's type and subject one is open; a retry of what died closes it, and another death is told anew."""

from uuid import UUID, uuid4

from daemon import queue
from daemon.db import Connection
from daemon.outcome import Fail
from daemon.task import Task
from handlers import registry
from handlers.effects import Alert, write

KINDS = registry.kinds(registry.by_name(registry.PIPELINES))
OPEN = "SELECT array_agg(message ORDER BY message) FROM alerts WHERE resolved_at IS NULL"
TOLD = "SELECT count(*) FROM tasks WHERE kind = 'notification'"


async def test_who_fails_again_and_again_is_told_of_once(conn: Connection) -> None:
    for message in ("timed out", "reset", "timed out"):
        await write(conn, Alert, [(1, Alert("UNKNOWN_OUTCOME", message, "HIGH", "run:1", {}))])
    assert await conn.fetchval(OPEN) == ["timed out"]
    assert await conn.fetchval(TOLD) == 1


async def _claimed(conn: Connection) -> Task:
    (task,) = await queue.claim(conn, KINDS, queue.Room({"lead.check": 9}, 9), worker=uuid4(), lease_s=30)
    return task


async def _dies(conn: Connection, why: str) -> int:
    """The next check of a lead dies."""
    task = await _claimed(conn)
    async with conn.transaction():
        await queue.write(conn, KINDS, [(task, Fail(why, retryable=False))])
    return task.id


async def _lead_with_checks(conn: Connection, checks: int) -> UUID:
    await conn.execute("INSERT INTO leads (name, phone, stage) VALUES ('Ann', '+15550001234', 'DUE_DILIGENCE')")
    lead: UUID = await conn.fetchval("SELECT id FROM leads")
    for _ in range(checks):
        await conn.fetchval(
            "SELECT enqueue('lead.check', jsonb_build_object('lead_id', $1::uuid), 'lead:' || $1)", lead
        )
    return lead


async def test_a_retry_closes_the_alert_and_another_failure_is_told(conn: Connection) -> None:
    """Mutant: `revive` in schema.sql without its UPDATE of alerts."""
    await _lead_with_checks(conn, 1)
    task = await _dies(conn, "first")
    assert (await conn.fetchval(OPEN), await conn.fetchval(TOLD)) == (["lead.check: lead.check: first"], 1)
    await conn.fetchval("SELECT retry_task($1)", task)
    assert await conn.fetchval(OPEN) is None
    assert await _dies(conn, "second") == task
    assert (await conn.fetchval(OPEN), await conn.fetchval(TOLD)) == (["lead.check: lead.check: second"], 2)


async def test_an_alert_stays_while_something_else_of_its_subject_is_dead(conn: Connection) -> None:
    await _lead_with_checks(conn, 2)
    first, _ = await _dies(conn, "first"), await _dies(conn, "second")
    await conn.fetchval("SELECT retry_task($1)", first)
    assert await conn.fetchval(OPEN) == ["lead.check: lead.check: first"]
