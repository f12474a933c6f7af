"""However leads come, move and go: what is kept about stages and moves is what a count would find."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon.db import Connection, connect
from handlers.vendor_acquisition import VENDOR
from tests.model.mutants import InFunction
from tests.support.postgres import Server

STAGES: Final = [s.name for s in VENDOR.stages]
KEPT: Final = "SELECT stage, n FROM stage_sizes WHERE n <> 0 ORDER BY stage"
REAL: Final = "SELECT stage, count(*) AS n FROM leads GROUP BY stage ORDER BY stage"
KEPT_MOVES: Final = "SELECT from_stage, to_stage, n FROM transition_totals"
REAL_MOVES: Final = """
SELECT from_stage, CASE event_type WHEN 'stage_change' THEN to_stage ELSE from_stage END, count(*)
FROM pipeline_events WHERE event_type IN ('stage_change', 'invalid_transition_attempt') GROUP BY 1, 2"""
ACTS: Final = {
    "insert": "INSERT INTO leads (name, stage) SELECT 'Ann', $1 FROM generate_series(1, 3)",
    "insert nobody": "INSERT INTO leads (name, stage) SELECT 'Ann', $1 WHERE false",
    "move": "UPDATE leads SET stage = $1 WHERE id IN (SELECT id FROM leads ORDER BY id LIMIT 2)",
    "move all": "UPDATE leads SET stage = $1",
    "crosswise": "UPDATE leads SET stage = CASE stage WHEN 'OFFER_MADE' THEN 'VIDEO_SENT' ELSE $1 END"
    " WHERE stage IN ('OFFER_MADE', 'DUE_DILIGENCE')",
    "override": "SELECT override_stage(id, $1, 'Ann', 'because') FROM leads WHERE stage <> $1",
    "request": "SELECT request_transition(id, $1, 'Ann', 'because') FROM leads",
    "touch": "UPDATE leads SET city = $1",
    "delete": "DELETE FROM leads WHERE stage = $1",
    "truncate": "TRUNCATE leads CASCADE",
    "fold": "SELECT fold_stage_counts()",
    "recount": "SELECT recount_stages()",
}
SMALL: Final = settings(
    max_examples=20, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Act:
    """Somebody does something to leads, and may think better of it."""

    what: str
    stage: str
    kept: bool


acts = st.builds(Act, st.sampled_from(list(ACTS)), st.sampled_from(STAGES), st.sampled_from([True, True, True, False]))


@dataclass(frozen=True, slots=True)
class Scene:
    """Two sessions of one database, and the loop they live on."""

    runner: asyncio.Runner
    conns: Sequence[Connection]

    def run(self, coroutine: Any) -> Any:
        """Run to the end on the scene's loop."""
        return self.runner.run(coroutine)


@pytest.fixture(scope="module")
def dsn_of_all(server: Server) -> Iterator[str]:
    """One database for all histories."""
    with asyncio.Runner() as runner:
        dsn = runner.run(server.clone())
        yield dsn
        runner.run(server.drop(dsn))


@pytest.fixture(scope="module")
def scene(dsn_of_all: str) -> Iterator[Scene]:
    """Two who change leads."""
    with asyncio.Runner() as runner:
        conns = [runner.run(connect(dsn_of_all, session={"orchestrator.quiet": "on"})) for _ in range(2)]
        yield Scene(runner, conns)
        for conn in conns:
            runner.run(conn.close())


async def _do(conn: Connection, act: Act) -> None:
    """In a transaction of its own; an illegal move changes nothing."""
    transaction = conn.transaction()
    await transaction.start()
    with suppress(asyncpg.PostgresError):
        await conn.execute(ACTS[act.what], *([act.stage] if "$1" in ACTS[act.what] else []))
        if act.kept:
            await transaction.commit()
            return
    await transaction.rollback()


async def _differences(conn: Connection) -> list[Any]:
    found = [[tuple(row) for row in await conn.fetch(sql)] for sql in (KEPT, KEPT_MOVES, REAL, REAL_MOVES)]
    kept, real = {*found[0], *found[1]}, {*found[2], *found[3]}
    return list(kept ^ real)


async def _play(conn: Connection, history: Sequence[Act]) -> list[Any]:
    for act in history:
        await _do(conn, act)
        if wrong := await _differences(conn):
            return wrong
    return []


@SMALL
@given(st.lists(acts, min_size=4, max_size=25))
def test_after_any_history_the_numbers_are_the_real_ones(scene: Scene, history: list[Act]) -> None:
    assert scene.run(_play(scene.conns[0], history)) == []


async def _play_at_once(conns: Sequence[Connection], histories: Sequence[Sequence[Act]]) -> list[Any]:
    async def work(conn: Connection, history: Sequence[Act]) -> None:
        for act in history:
            await _do(conn, act)

    await asyncio.gather(*(work(conn, history) for conn, history in zip(conns, histories, strict=True)))
    return await _differences(conns[0])


@SMALL
@given(st.lists(st.lists(acts, min_size=4, max_size=15), min_size=2, max_size=2))
def test_two_at_once_lose_no_lead(scene: Scene, histories: list[list[Act]]) -> None:
    assert scene.run(_play_at_once(scene.conns, histories)) == []


MUTANTS = (
    InFunction("moves unseen", "leads_after_update", "SELECT pipeline, left_stage,", "SELECT pipeline, NULL,"),
    InFunction("deleted ones stay", "leads_after_delete", "count(*)", "0"),
    InFunction("moves forgotten", "keep_moves", "n = c.n + excluded.n", "n = excluded.n"),
    InFunction("refusals unseen", "request_transition", "l.stage, l.stage, 1", "l.stage, l.stage, 0"),
    InFunction(
        "folded twice", "fold_stage_counts", "DELETE FROM stage_deltas RETURNING *", "SELECT * FROM stage_deltas"
    ),
    InFunction("counted, and folded later", "recount_stages", "DELETE FROM stage_deltas\n", "SELECT 1\n"),
)
EVERYTHING = [
    Act(what, stage, kept=True)
    for what, stage in (
        ("insert", "NEW_LEAD"), ("fold", ""), ("move all", "AI_CONVERSATION"), ("recount", ""),
        ("insert", "OFFER_MADE"), ("override", "DEAD_LEAD"), ("fold", ""), ("delete", "DEAD_LEAD"), ("fold", ""),
        ("insert", "NEW_LEAD"), ("request", "COMPLETED"), ("move", "AI_CONVERSATION"), ("truncate", ""), ("fold", ""),
    )
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
async def test_the_mutant_is_noticed(conn: Connection, mutant: InFunction) -> None:
    assert await _play(conn, EVERYTHING) == []
    async with mutant.applied(conn):
        assert await _play(conn, EVERYTHING) != []


async def test_movers_wait_neither_for_each_other_nor_for_the_fold(dsn: str, conn: Connection) -> None:
    await conn.execute(ACTS["insert"], "NEW_LEAD")
    other = await connect(dsn, session={"lock_timeout": "100ms"})
    first, second, _ = await conn.fetch("SELECT id FROM leads ORDER BY id")
    async with conn.transaction():
        await conn.execute("UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", first["id"])
        await conn.execute(ACTS["fold"])
        await other.execute("UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", second["id"])
        await other.execute(ACTS["fold"])
        await other.execute(ACTS["recount"])
    await other.close()
    assert await _differences(conn) == []


async def test_a_stage_without_leads_has_a_nought(conn: Connection) -> None:
    await conn.execute(ACTS["insert"], "NEW_LEAD")
    sizes = {r["stage"]: r["n"] for r in await conn.fetch("SELECT stage, n FROM stage_sizes ORDER BY position")}
    assert sizes == {"NEW_LEAD": 3} | dict.fromkeys(STAGES[1:], 0)
    assert list(sizes) == STAGES


async def test_a_statement_that_moves_nobody_writes_nothing(conn: Connection) -> None:
    await conn.execute(ACTS["insert"], "NEW_LEAD")
    await conn.execute(ACTS["fold"])
    for act in ("touch", "insert nobody", "delete"):
        await conn.execute(ACTS[act], "AI_CONVERSATION")
    assert await conn.fetchval("SELECT count(*) FROM stage_deltas") == 0


async def test_what_was_written_past_the_triggers_is_counted_anew(conn: Connection) -> None:
    await conn.execute(ACTS["insert"], "NEW_LEAD")
    await conn.execute("SET session_replication_role = replica; DELETE FROM leads; RESET session_replication_role")
    assert await _differences(conn) != []
    await conn.execute(ACTS["recount"])
    assert await _differences(conn) == []
