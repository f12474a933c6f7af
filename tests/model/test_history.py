"""Whoever moves a lead, and however many at once: its history is a path in the declared graph."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from daemon.db import Connection, connect
from handlers.vendor_acquisition import NEEDED, VENDOR
from tests.model import mutants
from tests.support.postgres import Server

STAGES: Final = [s.name for s in VENDOR.stages]
EDGES: Final = {(s.name, to) for s in VENDOR.stages for to in s.to}
COMPLETE: Final = dict.fromkeys(NEEDED, "1")
LEADS: Final = 3
RANDOM: Final = settings(
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody wants a lead in a stage."""

    lead: int
    how: str
    to: str


targets = st.sampled_from([*STAGES, *STAGES[:8], "NOWHERE"])
wishes = st.builds(
    Wish, st.integers(0, LEADS - 1), st.sampled_from(["update", "update", "ask", "ask", "override"]), targets
)
workloads = st.lists(st.lists(wishes, min_size=1, max_size=12), min_size=2, max_size=4)


@dataclass(slots=True)
class Scene:
    """A database, the connections of those who move leads, and the loop they live on."""

    runner: asyncio.Runner
    conns: Sequence[Connection]

    def run(self, coroutine: Any) -> Any:
        """Run to the end on the scene's loop."""
        return self.runner.run(coroutine)


async def _connections(dsn: str) -> list[Connection]:
    return [await connect(dsn, session={"orchestrator.quiet": "on"}) for _ in range(5)]


async def _disconnect(conns: Sequence[Connection]) -> None:
    for conn in conns:
        await conn.close()


@pytest.fixture(scope="module")
async def database(server: Server) -> AsyncIterator[str]:
    """One database for all histories: each has leads of its own."""
    dsn = await server.clone()
    yield dsn
    await server.drop(dsn)


@pytest.fixture(scope="module")
def scene(database: str) -> Iterator[Scene]:
    """Four who move leads and one who reads their history."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        conns = runner.run(_connections(database))
        yield Scene(runner, conns)
        runner.run(_disconnect(conns))


async def play(conns: Sequence[Connection], workload: Sequence[Sequence[Wish]], data: Mapping[str, str]) -> None:
    """Everybody's wishes at once, then look at what became of them."""
    insert = "INSERT INTO leads (name, phone, data) VALUES ('Ann', '+15550001234', $1) RETURNING id"
    leads = [await conns[-1].fetchval(insert, dict(data)) for _ in range(LEADS)]
    granted: Counter[UUID] = Counter()
    people = enumerate(zip(conns, workload, strict=False))
    await asyncio.gather(*(_work(conn, who, leads, wishes, granted) for who, (conn, wishes) in people))
    for lead in leads:
        await _check_history(conns[-1], lead, granted[lead])


async def _work(
    conn: Connection, who: int, leads: Sequence[UUID], wishes: Sequence[Wish], granted: Counter[UUID]
) -> None:
    for n, wish in enumerate(wishes):
        moved = await _try(conn, f"actor {who}.{n}", leads[wish.lead], wish)
        granted[leads[wish.lead]] += moved


async def _try(conn: Connection, actor: str, lead: UUID, wish: Wish) -> bool:
    """Whether the lead has been moved; a refusal has its code and its hint."""
    refusal: asyncpg.PostgresError
    try:
        match wish.how:
            case "update":
                moving = "UPDATE leads SET stage = $2, moved_by = $3 WHERE id = $1 AND stage <> $2"
                return await conn.execute(moving, lead, wish.to, actor) == "UPDATE 1"
            case "ask":
                asking = "SELECT request_transition($1, $2, $3, 'asked for')"
                return bool(await conn.fetchval(asking, lead, wish.to, actor))
            case _:
                await conn.execute("SELECT override_stage($1, $2, $3, 'overridden')", lead, wish.to, actor)
                return True
    except asyncpg.PostgresError as error:
        refusal = error
    assert refusal.sqlstate in ("PO001", "PO002"), refusal
    assert refusal.hint
    assert refusal.sqlstate == "PO001" or refusal.column_name in NEEDED
    return False


async def _check_history(conn: Connection, lead: UUID, granted: int) -> None:
    row = await conn.fetchrow("SELECT stage, stage_seq FROM leads WHERE id = $1", lead)
    events = await conn.fetch("SELECT * FROM pipeline_events WHERE lead_id = $1 ORDER BY id", lead)
    by_type: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for event in events:
        by_type[event["event_type"]].append(event)
    moves = by_type["stage_change"]
    assert row is not None
    assert row["stage_seq"] == 1 + len(moves) == 1 + granted, "stage_seq counts the entries"
    path = [*by_type["created"], *moves]
    assert len(by_type["created"]) == 1
    assert path[-1]["to_stage"] == row["stage"]
    assert all(after["from_stage"] == before["to_stage"] for before, after in pairwise(path)), "a gap"
    allowed = [(e["from_stage"], e["to_stage"], e["actor"]) for e in by_type["stage_override"]]
    for move in moves:
        edge = move["from_stage"], move["to_stage"]
        assert move["actor"].startswith("actor")
        assert edge in EDGES or (*edge, move["actor"]) in allowed, f"not declared: {edge}"
        if move["to_stage"] == "DEAL_VALIDATION" and (*edge, move["actor"]) not in allowed:
            data = await conn.fetchval("SELECT data FROM leads WHERE id = $1", lead)
            assert data, "entered without the required fields"
    assert len(allowed) == len([m for m in moves if (m["from_stage"], m["to_stage"], m["actor"]) in allowed])
    entries = await conn.fetchval(
        "SELECT count(*) FROM tasks WHERE key = $1 AND kind LIKE $2", f"lead:{lead}", "vendor%"
    )
    with_action = {s.name for s in VENDOR.stages if s.on_entry}
    assert entries == sum(e["to_stage"] in with_action for e in path), "an entry task for each entry that owes one"


@given(workload=workloads, complete=st.booleans())
@RANDOM
def test_a_history_is_a_path_in_the_declared_graph(scene: Scene, workload: list[list[Wish]], complete: bool) -> None:
    scene.run(play(scene.conns, workload, COMPLETE if complete else {}))


@pytest.mark.soak
@given(workload=st.lists(st.lists(wishes, min_size=1, max_size=60), min_size=4, max_size=4), complete=st.booleans())
@settings(RANDOM, max_examples=2000)
def test_long_histories_are_paths_in_the_declared_graph(
    scene: Scene, workload: list[list[Wish]], complete: bool
) -> None:
    scene.run(play(scene.conns, workload, COMPLETE if complete else {}))


def _update(*path: str) -> list[Wish]:
    return [Wish(0, "update", to) for to in path]


CAUGHT_BY: Final[Mapping[mutants.Mutant, list[Wish]]] = {
    mutants.MOVES_UNCHECKED: _update("COMPLETED"),
    mutants.FIELDS_UNCHECKED: _update("AI_CONVERSATION", "DEAL_VALIDATION"),
    mutants.ENTRIES_UNCOUNTED: _update("AI_CONVERSATION"),
    mutants.ORIGIN_FORGOTTEN: _update("AI_CONVERSATION", "DEAD_LEAD"),
}


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda m: m.name.replace(" ", "-"))
def test_a_guard_broken_on_purpose_is_caught(scene: Scene, mutant: mutants.Mutant) -> None:
    async def caught() -> None:
        async with mutant.applied(scene.conns[-1]):
            with pytest.raises(AssertionError):
                await play(scene.conns, [CAUGHT_BY[mutant]], {})

    scene.run(caught())
    scene.run(play(scene.conns, [CAUGHT_BY[mutant]], {}))


# -- what a permission to leave the graph is good for


async def _lead(conn: Connection) -> UUID:
    lead: UUID = await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")
    return lead


async def test_an_override_is_good_for_one_move_of_one_lead(conn: Connection) -> None:
    lead, other = await _lead(conn), await _lead(conn)
    async with conn.transaction():
        await conn.execute("SELECT override_stage($1, 'COMPLETED', 'ann', 'paid in cash')", lead)
        for mine, to in ((lead, "NEW_LEAD"), (other, "COMPLETED"), (lead, "OFFER_MADE")):
            with pytest.raises(asyncpg.PostgresError) as refused:
                async with conn.transaction():
                    await conn.execute("UPDATE leads SET stage = $2 WHERE id = $1", mine, to)
            assert refused.value.sqlstate == "PO001"
    assert await conn.fetchval("SELECT count(*) FROM stage_overrides") == 0


async def test_a_legal_override_leaves_no_permission_behind(conn: Connection) -> None:
    lead = await _lead(conn)
    async with conn.transaction():
        await conn.execute("SELECT override_stage($1, 'DEAD_LEAD', 'ann', 'gone away')", lead)
        await conn.execute("SELECT override_stage($1, 'NEW_LEAD', 'ann', 'came back')", lead)
        await conn.execute("UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", lead)
        with pytest.raises(asyncpg.PostgresError) as refused:
            await conn.execute("UPDATE leads SET stage = 'NEW_LEAD' WHERE id = $1", lead)
    assert refused.value.sqlstate == "PO001"


async def test_a_permission_of_a_transaction_that_was_rolled_back_is_gone(conn: Connection) -> None:
    lead = await _lead(conn)
    overriding = conn.transaction()
    await overriding.start()
    await conn.execute("SELECT override_stage($1, 'COMPLETED', 'ann', 'paid in cash')", lead)
    await overriding.rollback()
    with pytest.raises(asyncpg.PostgresError) as refused:
        await conn.execute("UPDATE leads SET stage = 'COMPLETED' WHERE id = $1", lead)
    assert refused.value.sqlstate == "PO001"


async def test_the_actor_who_was_named_is_the_one_in_the_history_each_time(conn: Connection) -> None:
    lead = await _lead(conn)
    for to in ("AI_CONVERSATION", "DEAD_LEAD"):
        assert await conn.fetchval("SELECT request_transition($1, $2, 'ann', 'by hand')", lead, to)
    for to in ("NEW_LEAD", "DEAD_LEAD"):
        await conn.execute("SELECT override_stage($1, $2, 'ann', 'by hand')", lead, to)
    actors = (
        "SELECT array_agg(actor ORDER BY id) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'stage_change'"
    )
    assert await conn.fetchval(actors, lead) == ["ann"] * 4


async def test_the_actor_of_plain_sql_is_the_one_it_names_else_the_session(conn: Connection) -> None:
    lead, user = await _lead(conn), await conn.fetchval("SELECT session_user")
    await conn.execute("UPDATE leads SET stage = 'AI_CONVERSATION', moved_by = 'ann' WHERE id = $1", lead)
    await conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
    actors = (
        "SELECT array_agg(actor ORDER BY id) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'stage_change'"
    )
    assert await conn.fetchval(actors, lead) == ["ann", user]


async def test_plain_sql_that_names_the_same_actor_again_is_believed_again(conn: Connection) -> None:
    lead = await _lead(conn)
    for to in ("AI_CONVERSATION", "DEAD_LEAD"):
        await conn.execute("UPDATE leads SET stage = $2, moved_by = 'ann' WHERE id = $1", lead, to)
    actors = (
        "SELECT array_agg(actor ORDER BY id) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'stage_change'"
    )
    assert await conn.fetchval(actors, lead) == ["ann", "ann"]


async def test_a_refused_wish_is_recorded_and_flags_the_lead(conn: Connection) -> None:
    lead = await _lead(conn)
    assert not await conn.fetchval("SELECT request_transition($1, 'COMPLETED', 'ann', 'wishful')", lead)
    event = await conn.fetchrow("SELECT * FROM pipeline_events WHERE lead_id = $1 ORDER BY id DESC LIMIT 1", lead)
    assert event is not None
    assert (event["event_type"], event["actor"]) == ("invalid_transition_attempt", "ann")
    assert event["metadata"]["legal_targets"] == "AI_CONVERSATION, DEAD_LEAD"
    assert await conn.fetchval("SELECT needs_review FROM leads WHERE id = $1", lead)


async def test_a_wish_without_the_required_fields_is_recorded_with_their_names(conn: Connection) -> None:
    lead = await _lead(conn)
    await conn.execute("UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", lead)
    assert not await conn.fetchval("SELECT request_transition($1, 'DEAL_VALIDATION', 'ann', 'go')", lead)
    event = await conn.fetchrow("SELECT * FROM pipeline_events WHERE lead_id = $1 ORDER BY id DESC LIMIT 1", lead)
    assert event is not None
    assert (event["event_type"], sorted(event["metadata"]["missing"])) == ("missing_fields", sorted(NEEDED))
