"""A batch written by one statement leaves what it leaves if it is written step by step: every table, row by row.

Mutants (tried by hand): `Writer.steps` leaves out Event; effects.sql `move` without `d.facts`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon import queue
from daemon.db import Connection, connect
from daemon.outcome import Done
from daemon.task import Task
from handlers import registry
from handlers.effects import Change, Effect, Event, MessageEnded, Move, Send
from tests.support.postgres import Server

KINDS: Final = registry.kinds(registry.by_name(registry.PIPELINES))
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
TIMES: Final = (
    "'updated_at', 'created_at', 'stage_entered_at', 'deadline_at', 'conversation_started_at', 'run_at', 'send_at'"
)
DUMPS: Final = tuple(
    f"SELECT {columns} FROM {rest}"
    for columns, rest in (
        (f"to_jsonb(l) - ARRAY[{TIMES}]", "leads l ORDER BY id"),
        ("id, deadline_at - stage_entered_at, deadline_at = $1", "leads ORDER BY id"),
        (f"to_jsonb(m) - ARRAY['id', {TIMES}]", "messages m ORDER BY idempotency_key"),
        (
            "lead_id, event_type = 'dnc', array_agg(concat_ws('|', event_type, to_stage, metadata, actor) ORDER BY id)",
            "pipeline_events GROUP BY 1, 2 ORDER BY 1, 2",  # triggers tell of 'dnc', before or after
        ),
        (
            "key, array_agg(concat_ws('|', kind, payload - 'message_id', status) ORDER BY id)",
            "tasks GROUP BY 1 ORDER BY 1",
        ),
        ("id, kind, key, status, result, lease_id", "task_log ORDER BY id"),
        ("pipeline, from_stage, to_stage, sum(n)", "stage_deltas GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"),
    )
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is decided about one lead, or about its message."""

    ended: Mapping[str, Any]
    events: Sequence[str]
    last: tuple[Callable[..., Effect], Mapping[str, Any]] | None

    def effects(self, task: Task) -> tuple[Effect, ...]:
        """The effects of this task."""
        lead = UUID(task.payload["lead_id"])
        found: list[Effect] = []
        if "message_id" in task.payload:
            found.append(MessageEnded(UUID(task.payload["message_id"]), **self.ended))
        found += [Event(lead, name, {"n": n}) for n, name in enumerate(self.events)]
        if self.last is not None:
            kind, fields = self.last
            found.append(kind(lead, **fields))
        return tuple(found)


data = st.none() | st.dictionaries(st.sampled_from(["asking_price", "bedrooms", "note"]), st.integers(0, 3))
times = st.sampled_from([None, NOW])
changes = st.fixed_dictionaries(
    {
        "stage_seq": st.just(1), "entry_done": st.booleans(), "data": data, "flag": st.sampled_from([None, "look"]),
        "do_not_contact": st.booleans(), "last_inbound_at": times, "last_outbound_at": times,
        "set_deadline": st.booleans(), "deadline_at": st.just(NOW),
    }
)  # fmt: skip
moves = st.fixed_dictionaries(
    {
        "stage_seq": st.just(1), "to_stage": st.sampled_from(["AI_CONVERSATION", "DEAD_LEAD"]), "reason": st.just("x"),
        "data": data, "facts": data, "last_outbound_at": times,
    }
)  # fmt: skip
sends = st.fixed_dictionaries(
    {
        "template": st.just("T"), "key": st.uuids().map(str), "stage_seq": st.just(1), "entry_done": st.booleans(),
        "send_at": st.sampled_from([None, datetime(2030, 1, 1, tzinfo=UTC)]),
    }
)  # fmt: skip
ends = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["sent", "suppressed"]), "reason": st.sampled_from([None, "why"]), "sent_at": times,
        "told": st.sampled_from([None, {"template": "H"}]),
    }
)  # fmt: skip
last = (
    st.none() | st.tuples(st.just(Change), changes) | st.tuples(st.just(Move), moves) | st.tuples(st.just(Send), sends)
)
wanted = st.builds(Wanted, ends, st.lists(st.sampled_from(["offer_made", "flagged"]), max_size=2), last)


@pytest.fixture(scope="module")
def world(server: Server) -> Iterator[tuple[asyncio.Runner, Connection]]:
    """A connection, and the loop it lives on."""
    with asyncio.Runner() as runner:
        dsn = runner.run(server.clone())
        conn = runner.run(connect(dsn))
        yield runner, conn
        runner.run(conn.close())
        runner.run(server.drop(dsn))


async def _claimed(conn: Connection) -> Sequence[Task]:
    room = queue.Room(dict.fromkeys(KINDS, 100), 100)
    return sorted(await queue.claim(conn, KINDS, room, worker=uuid4(), lease_s=30), key=lambda task: task.key or "")


async def _batch(conn: Connection, wishes: Sequence[Wanted], *, of_messages: bool) -> list[tuple[Task, Done[Any]]]:
    """A claimed task for each wish: of the lead's entry, or of the message that this has led to."""
    insert = "INSERT INTO leads (name, phone) SELECT 'L', '+155501234' || n FROM generate_series(11, 10 + $1::int) n"
    await conn.execute(insert, len(wishes))
    tasks = await _claimed(conn)
    if of_messages:
        hello = [(t, Done((Send(UUID(t.payload["lead_id"]), "H", f"k:{t.id}", stage_seq=1),))) for t in tasks]
        await queue.write(conn, KINDS, hello)
        tasks = await _claimed(conn)
    return [(task, Done(wish.effects(task))) for task, wish in zip(tasks, wishes, strict=True)]


async def _left(conn: Connection, batch: Sequence[tuple[Task, Done[Any]]], *, at_once: bool) -> list[Any]:
    """What the database holds after the batch, which then never was."""
    savepoint = conn.transaction()
    await savepoint.start()
    written = await (queue.write_at_once if at_once else queue.write)(conn, KINDS, batch)
    assert written is not None
    assert len(written.verdicts) == len(batch)
    left = [[tuple(r) for r in await conn.fetch(dump, *([NOW] if "$1" in dump else []))] for dump in DUMPS]
    await savepoint.rollback()
    return left


async def _compare(conn: Connection, wishes: Sequence[Wanted], *, of_messages: bool) -> None:
    transaction = conn.transaction()
    await transaction.start()
    try:
        batch = await _batch(conn, wishes, of_messages=of_messages)
        at_once, step_by_step = [await _left(conn, batch, at_once=road) for road in (True, False)]
        for one, other in zip(at_once, step_by_step, strict=True):
            assert one == other
    finally:
        await transaction.rollback()


def test_both_roads_lead_to_the_same_place(world: tuple[asyncio.Runner, Connection]) -> None:
    runner, conn = world

    @settings(
        max_examples=60, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(wanted, min_size=1, max_size=6), st.booleans())
    def compare(wishes: list[Wanted], of_messages: bool) -> None:
        runner.run(_compare(conn, wishes, of_messages=of_messages))

    compare()
