"""Outcomes and reservations that are written in one statement come out as expected, or are written step by step."""

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import combinations
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from daemon import queue, together
from daemon.committer import Committer
from daemon.db import Connection, Pool, connect
from daemon.ledger import Intent, Ledger, Refused, Reserved
from daemon.metrics import Metrics
from daemon.outcome import Done, Outcome
from daemon.task import Task
from daemon.together import Step
from handlers import effects, registry
from handlers.effects import AT_ONCE, Change, Effect, Event, MessageEnded, Move, Send, Writer
from handlers.messages import GATE
from tests.support.processes import until

KINDS = registry.kinds(registry.by_name(registry.PIPELINES))
TWO = "SELECT n FROM unnest($1::int[]) AS n WHERE n < $2"
WAITS = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted {})"
KEPT = "WITH kept AS (\n    INSERT INTO notes SELECT unnest($1::int[]) RETURNING n\n)\nSELECT n FROM kept"


async def _notes(conn: Connection) -> list[int]:
    return [r["n"] for r in await conn.fetch("SELECT n FROM notes ORDER BY n")]


@pytest.fixture
async def notes(conn: Connection) -> Connection:
    """A connection, and a table to write to."""
    await conn.execute("CREATE TABLE notes (n int)")
    return conn


async def test_all_of_it_is_written_with_the_arguments_of_each(notes: Connection) -> None:
    steps = [Step(TWO, ([1, 2, 3], 3), 2), Step(KEPT, ([7, 8],), 2), Step("INSERT INTO notes VALUES ($1)", (9,))]
    assert await together.together(notes, steps)
    assert await _notes(notes) == [7, 8, 9]


async def test_one_row_too_few_and_nothing_is_written(notes: Connection) -> None:
    steps = [Step(KEPT, ([7, 8],), 2), Step(TWO, ([1, 2, 3], 3), 3)]
    assert not await together.together(notes, steps)
    assert await _notes(notes) == []


async def test_what_is_wrong_otherwise_is_raised(notes: Connection) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await together.together(notes, [Step(KEPT, ([7],), 1), Step("INSERT INTO notes SELECT 1 / $1::int", (0,))])
    assert await _notes(notes) == []


# -- outcomes


async def _lead(conn: Connection) -> UUID:
    insert = "INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id"
    lead: UUID = await conn.fetchval(insert)
    return lead


async def _claimed(conn: Connection) -> Sequence[Task]:
    room = queue.Room(dict.fromkeys(KINDS, 100), 100)
    return await queue.claim(conn, KINDS, room, worker=uuid4(), lease_s=30)


async def _entry(conn: Connection) -> tuple[UUID, Task]:
    lead = await _lead(conn)
    (task,) = await _claimed(conn)
    return lead, task


async def _at_once(conn: Connection, *attempts: tuple[Task, Outcome[Any]]) -> queue.Written | None:
    return await queue.write_at_once(conn, KINDS, attempts)


async def _stage(conn: Connection, lead: UUID) -> Mapping[str, Any]:
    (row,) = await conn.fetch("SELECT stage, data FROM leads WHERE id = $1", lead)
    return dict(row)


async def test_an_outcome_is_written_at_once(conn: Connection) -> None:
    lead, task = await _entry(conn)
    written = await _at_once(conn, (task, Done((Event(lead, "seen", {}), Move(lead, 1, "AI_CONVERSATION", "because")))))
    assert written is not None
    assert [v.task for v in written.verdicts] == [task]
    assert (await _stage(conn, lead))["stage"] == "AI_CONVERSATION"
    assert await conn.fetchval("SELECT status FROM task_log WHERE id = $1", task.id) == "done"


async def test_every_mixture_of_effects_is_one_statement(conn: Connection) -> None:
    """No two of them use one name, and the server takes them all."""
    settle = Step(queue.SQL["settle"], ([], [], []), 0)
    every = {
        k: Step(effects.SQL[k.statement], [[]] * (1 + len(effects.COLUMNS[k])), 0 if c else None)
        for k, c in AT_ONCE.items()
    }
    mixtures = [mix for n in range(1, len(every) + 1) for mix in combinations(every, n)]
    assert len(mixtures) == 31
    for mixture in mixtures:
        assert await together.together(conn, [settle, *(every[kind] for kind in mixture)])


@pytest.mark.parametrize("road", ["at once", "step by step"])
async def test_a_message_is_told_of_before_what_follows_from_it(conn: Connection, road: str) -> None:
    lead = await _lead(conn)
    message, sending = await _message(conn, lead)
    ended = MessageEnded(message, "sent", told={"template": "OFFER"})
    its = ended, Event(lead, "offer_made", {}), Move(lead, 1, "AI_CONVERSATION", "because")
    batch = [(sending, Done(its))]
    async with conn.transaction():
        assert await (queue.write_at_once if road == "at once" else queue.write)(conn, KINDS, batch)
    events = await conn.fetch("SELECT event_type FROM pipeline_events ORDER BY id")
    assert [e["event_type"] for e in events] == ["created", "message_sent", "offer_made", "stage_change"]


async def test_own_commits_are_not_taken_for_lost_leases(dsn: str, conn: Connection) -> None:
    """The connection dies while the statement waits; it goes on, and its own rows are in the way of the next try.

    Mutant: `Committer._write` never asks `settled_already`.
    """
    leads = [await _lead(conn) for _ in range(3)]
    tasks = await _claimed(conn)
    other, pool, metrics, ended = await connect(dsn), Pool(dsn, 3), Metrics("0"), list[Any]()
    committer = Committer(pool, KINDS, metrics, ended.extend)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", leads[-1])
    running = asyncio.create_task(committer.run())
    committer.offer([(task, Done((Change(lead, data={"a": 1}),))) for task, lead in zip(tasks, leads, strict=True)])
    await until(lambda: conn.fetchval(WAITS.format("")), 5.0, "a wait", pause=0.001)
    pool.doubt()
    await transaction.rollback()
    await until(lambda: _truth(len(ended) == 3), 10.0, "every outcome to be settled")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    pool.close()
    await other.close()
    assert await conn.fetchval("SELECT count(*) FROM task_log") == 3
    assert metrics.leases_lost._value.get() == 0


async def _truth(value: bool) -> bool:
    return value


async def test_a_lost_lease_writes_nothing_at_once(conn: Connection) -> None:
    lead, task = await _entry(conn)
    other, its = await _entry(conn)
    await queue.give_back(conn, [task])
    batch = [(task, Done((Change(lead, data={"a": 1}),))), (its, Done((Change(other, data={"a": 1}),)))]
    assert await _at_once(conn, *batch) is None
    assert (await _stage(conn, other))["data"] == {}
    async with conn.transaction():
        written = await queue.write(conn, KINDS, batch)
    assert [task for task, _ in written.lost] == [task]
    assert [(await _stage(conn, i))["data"] for i in (lead, other)] == [{}, {"a": 1}]


async def test_a_move_that_came_too_late_is_written_step_by_step(conn: Connection) -> None:
    lead, task = await _entry(conn)
    await conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
    assert await _at_once(conn, (task, Done((Move(lead, 1, "AI_CONVERSATION", "because"),)))) is None
    assert await conn.fetchval("SELECT status FROM tasks WHERE id = $1", task.id) == "running"


async def test_a_deadline_that_was_put_off_meanwhile_does_nothing(conn: Connection) -> None:
    """Whether it is still due is asked in the transaction that writes it."""
    insert = """
        INSERT INTO leads (name, phone, stage, deadline_at)
        VALUES ('Ann', '+15550001234', 'AI_CONVERSATION', clock() - interval '1 hour') RETURNING id"""
    lead = await conn.fetchval(insert)
    await conn.fetchval("SELECT fire_deadlines(10)")
    (check,) = await _claimed(conn)  # it has the lead's key, and came first
    assert await _at_once(conn, (check, Done(())))
    (task,) = await _claimed(conn)
    assert task.kind == "lead.deadline"
    await conn.execute("UPDATE leads SET deadline_at = clock() + interval '1 day' WHERE id = $1", lead)
    silent = task, Done((Move(lead, 1, "DEAD_LEAD", "silence"),))
    assert await _at_once(conn, silent) is None
    async with conn.transaction():
        await queue.write(conn, KINDS, [silent])
    assert (await _stage(conn, lead))["stage"] == "AI_CONVERSATION"


@pytest.mark.parametrize("second", ["same task", "another task"])
async def test_what_writes_one_lead_twice_takes_a_transaction(conn: Connection, second: str) -> None:
    """In one statement the second change would be lost."""
    lead, task = await _entry(conn)
    changes = Change(lead, data={"a": 1}), Move(lead, 1, "AI_CONVERSATION", "because", {"b": 2})
    batch: list[tuple[Task, tuple[Effect, ...]]] = [(task, changes)]
    if second == "another task":
        _, other = await _entry(conn)
        batch = [(task, changes[:1]), (other, changes[1:])]
    assert Writer().steps(batch) is None
    async with conn.transaction():
        await queue.write(conn, KINDS, [(task, Done(its)) for task, its in batch])
    assert await _stage(conn, lead) == {"stage": "AI_CONVERSATION", "data": {"a": 1, "b": 2}}


@pytest.mark.parametrize("first", [0, 1])
async def test_a_word_of_the_lead_in_the_batch_that_pauses_its_deadline_leaves_it_paused(
    conn: Connection, first: int
) -> None:
    """Mutant: take the rounds of `_rounds` in the order of the tasks."""
    (_, task), (_, other) = [await _entry(conn) for _ in range(2)]
    lead = await conn.fetchval("INSERT INTO leads (stage, name) VALUES ('OFFER_MADE', 'Ann') RETURNING id")
    said = await conn.fetchval("SELECT clock()")
    asks: tuple[Effect, ...] = (Change(lead, 1, set_deadline=True), Send(lead, "QUESTION", "k", stage_seq=1))
    batch = [(task, asks), (other, (Change(lead, last_inbound_at=said),))]
    await Writer().commit(conn, [batch[first], batch[1 - first]])
    row = await conn.fetchrow("SELECT deadline_at, last_inbound_at FROM leads WHERE id = $1", lead)
    assert row is not None
    assert tuple(row) == (None, said)


# -- reservations


async def _message(conn: Connection, lead: UUID) -> tuple[UUID, Task]:
    task = (await _claimed(conn))[0]
    assert await _at_once(conn, (task, Done((Send(lead, "HELLO", f"k:{lead}", stage_seq=1, entry_done=True),))))
    (sending,) = await _claimed(conn)
    return UUID(sending.payload["message_id"]), sending


def _intent(task: Task, item: tuple[UUID, str], **more: Any) -> Intent:
    return Intent(
        "sms", "/api/send", f"key:{item[0]}", Decimal("0.01"), task.lease_id, task.id, gate=GATE, item=item, **more
    )


async def _reserved(dsn: str, *intents: Intent) -> Sequence[Any]:
    pool = Pool(dsn, 1)
    ledger = Ledger(pool, pool)
    try:
        return await ledger._reserve_surely(intents)
    finally:
        pool.close()


async def test_a_refused_message_doesnt_keep_another_from_being_sent(dsn: str, conn: Connection) -> None:
    refused, admitted = [await _message(conn, await _lead(conn)) for _ in range(2)]
    await conn.execute(
        "UPDATE leads SET do_not_contact = true WHERE id = (SELECT lead_id FROM messages WHERE id = $1)", refused[0]
    )
    pairs = refused, admitted
    answers = await _reserved(dsn, *(_intent(task, (message, "+15550001234")) for message, task in pairs))
    assert [type(a) for a in answers] == [Refused, Reserved]
    assert await conn.fetchval("SELECT status FROM messages WHERE id = $1", admitted[0]) == "sending"
    assert [r["task_id"] for r in await conn.fetch("SELECT task_id FROM engine_calls")] == [admitted[1].id]


FORBID = [
    "INSERT INTO email_exclusions (address) VALUES ('+447700900123')",  # which is not how the lead's number is written
    "UPDATE leads SET stage = 'DEAD_LEAD'",
    "UPDATE sending SET stopped_at = clock()",
]


@pytest.mark.parametrize("forbid", FORBID)
async def test_what_is_forbidden_while_a_reservation_waits_is_not_sent(dsn: str, conn: Connection, forbid: str) -> None:
    """The gate must not decide on what was true when the wait began. Mutant: `together` without QUICKLY."""
    lead = await conn.fetchval(
        "INSERT INTO leads (name, phone, country) VALUES ('Ann', '07700 900123', 'GB') RETURNING id"
    )
    message, task = await _message(conn, lead)
    contested = Intent("sms", "/", "contested", Decimal(0), task.lease_id, task.id)
    other = await connect(dsn)
    transaction = other.transaction()
    await transaction.start()
    insert = "INSERT INTO engine_calls (engine, operation, idempotency_key, status) VALUES ('sms', '/', $1, 'reserved')"
    await other.execute(insert, contested.key)
    waiting = asyncio.create_task(_reserved(dsn, contested, _intent(task, (message, "+447700900123"))))
    await until(
        lambda: conn.fetchval(WAITS.format("AND waitstart < clock_timestamp() - interval '30 ms'")), 5.0, "a wait"
    )
    await conn.execute(forbid)
    await transaction.rollback()
    await other.close()
    free, forbidden = await waiting
    assert isinstance(free, Reserved)
    assert isinstance(forbidden, Refused)
    assert await conn.fetchval("SELECT status FROM messages WHERE id = $1", message) != "sending"


async def test_an_attempt_that_only_thinks_it_is_the_first_finds_out(dsn: str, conn: Connection) -> None:
    message, task = await _message(conn, await _lead(conn))
    first, second = (_intent(task, (message, "+15550001234"), repeatable=True) for _ in range(2))
    assert await _reserved(dsn, first) == [Reserved()]
    assert await _reserved(dsn, second) == [Reserved()]
    assert await conn.fetchval("SELECT count(*) FROM engine_calls") == 1


def test_what_is_written_together_is_declared_in_the_order_of_writing() -> None:
    assert [kind for kind in effects.STATEMENTS if kind in AT_ONCE] == [MessageEnded, Change, Event, Move, Send]
