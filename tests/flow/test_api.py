"""Leads and tasks over HTTP, beside a daemon that works."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from daemon.api import leads, tasks
from daemon.api.leads import Event, Lead
from daemon.api.server import READS
from daemon.api.tasks import Task
from daemon.db import Connection, connect
from tests.support.api import Client, serving
from tests.support.postgres import Server
from tests.support.processes import until

NOWHERE = "00000000-0000-0000-0000-000000000000"


# -- leads


async def test_a_lead_shows_its_columns(api: Client) -> None:
    lead = await api.lead(score=12.5, data={"asking_price": 180000.25, "bedrooms": 0}, tier="high")
    row = (await api.get(f"/api/leads/{lead}"))["lead"]
    assert row.keys() == Lead.model_fields.keys()
    Lead.model_validate(row)
    assert (row["id"], row["score"], row["data"]) == (str(lead), 12.5, {"asking_price": 180000.25, "bedrooms": 0})
    assert row["created_at"].endswith("+00:00")


async def test_an_unknown_lead_is_not_found(api: Client) -> None:
    for path in (f"/api/leads/{NOWHERE}", f"/api/leads/{NOWHERE}/events"):
        (await api.ask("GET", path)).problem(404)
    (await api.post(f"/api/leads/{NOWHERE}/transition", {"to": "DEAD_LEAD", "reason": "r"})).problem(404)
    (await api.post(f"/api/leads/{NOWHERE}/transition", {"to": "DEAD_LEAD", "reason": "r", "override": True})).problem(
        404
    )


async def test_values_that_only_the_database_can_hold_are_shown(api: Client) -> None:
    lead = await api.lead()
    await api.quiet()
    await api.conn.execute(
        """UPDATE leads SET data = '{"huge": 1e400, "long": 123456789012345678901234567890}', score = 'NaN'
           WHERE id = $1""",
        lead,
    )
    reply = await api.ask("GET", f"/api/leads/{lead}")
    assert reply.status == 200
    assert b"123456789012345678901234567890" in reply.raw
    await api.conn.execute("UPDATE leads SET data = '{}' WHERE id = $1", lead)


async def test_leads_are_found_by_what_is_known(api: Client) -> None:
    tag = uuid4().hex[:8]
    mail = await api.lead(name=f"Zoë {tag}", email=f"Zoe@{tag}.example", phone="+1 (555) 010-4321", needs_review=True)
    other = await api.lead(company=f"100% {tag.upper()}", stage="DEAD_LEAD", phone=None)

    async def found(**query: str) -> set[str]:
        return {row["id"] for row in (await api.get("/api/leads", limit="200", **query))["leads"]}

    assert await found(q=tag) == {str(mail), str(other)}
    assert await found(q=f"100% {tag}") == {str(other)}
    assert await found(q=f"zoe@{tag}.EXAMPLE") == {str(mail)}
    assert str(mail) in await found(q="+15550104321")
    assert await found(q=tag, stage="DEAD_LEAD") == {str(other)}
    assert await found(q=tag, needs_review="true") == {str(mail)}
    assert await found(q=tag, needs_review="false", pipeline="vendor_acquisition") == {str(other)}
    assert str(mail) in await found(pipeline="", stage="", needs_review="", q="")


async def test_pages_show_every_lead_once_newest_first(dsn: str, conn: Connection) -> None:
    await conn.execute(
        """INSERT INTO leads (stage, name, phone, created_at) SELECT 'DEAD_LEAD', 'n', '+1', '2026-01-01'::timestamptz
           + (i / 4) * interval '1 microsecond' FROM generate_series(1, 23) i"""
    )
    async with serving(dsn) as api:
        seen, cursor = [], None
        while True:
            page = await api.get("/api/leads", limit="5", **({"cursor": cursor} if cursor else {}))
            seen += page["leads"]
            cursor = page["nextCursor"]
            if cursor is None:
                break
            assert len(page["leads"]) == 5
    wanted = [str(row["id"]) for row in await conn.fetch("SELECT id FROM leads ORDER BY created_at DESC, id")]
    assert [row["id"] for row in seen] == wanted


async def test_a_history_is_told_newest_first(api: Client) -> None:
    lead = await api.lead()
    await api.conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
    first = await api.get(f"/api/leads/{lead}/events", limit="1")
    rest = await api.get(f"/api/leads/{lead}/events", cursor=first["nextCursor"])
    events = first["events"] + rest["events"]
    assert [e["event_type"] for e in events if e["event_type"] in ("created", "stage_change")] == [
        "stage_change",
        "created",
    ]
    assert len({e["id"] for e in events}) == len(events)
    assert all(e.keys() == Event.model_fields.keys() for e in events)
    assert rest["nextCursor"] is None


async def test_a_history_outlives_its_lead(api: Client) -> None:
    lead = await api.lead()
    await api.quiet()
    await api.conn.execute("DELETE FROM leads WHERE id = $1", lead)
    assert (await api.get(f"/api/leads/{lead}/events"))["events"][-1]["event_type"] == "created"


# -- moves


async def test_a_legal_move_is_made_and_recorded(api: Client) -> None:
    lead = await api.lead()
    reply = await api.post(f"/api/leads/{lead}/transition", {"to": "DEAD_LEAD", "reason": " sold ", "actor": "ann"})
    assert (reply.status, reply.json["success"], reply.json["lead"]["stage"]) == (200, True, "DEAD_LEAD")
    events = (await api.get(f"/api/leads/{lead}/events"))["events"]  # the daemon may have checked it already
    (event, *_) = [e for e in events if e["event_type"] == "stage_change"]
    assert (event["to_stage"], event["actor"], event["metadata"]["reason"]) == ("DEAD_LEAD", "ann", "sold")


async def test_an_illegal_move_is_refused_with_the_legal_ones_and_recorded(api: Client) -> None:
    lead = await api.lead()
    reply = await api.post(f"/api/leads/{lead}/transition", {"to": "COMPLETED", "reason": "hope"})
    problem = reply.problem(409)
    legal = await api.conn.fetchval("SELECT legal_targets('vendor_acquisition', 'AI_CONVERSATION')")
    assert ", ".join(problem["legalTargets"]) == legal
    assert legal in problem["detail"]
    sql = "SELECT count(*) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'invalid_transition_attempt'"
    assert await api.conn.fetchval(sql, lead) == 1
    assert (await api.get(f"/api/leads/{lead}"))["lead"]["needs_review"] is True


async def test_an_unknown_stage_is_called_so_and_leaves_no_trace(api: Client) -> None:
    """Mutant: no call of _require_declared in move_lead."""
    lead = await api.lead()
    for override in (False, True):
        reply = await api.post(f"/api/leads/{lead}/transition", {"to": "NO_SUCH", "reason": "r", "override": override})
        problem = reply.problem(409)
        assert "has no stage NO_SUCH; legal targets: DEAL_VALIDATION, DEAD_LEAD" in problem["detail"]
        assert problem["errors"][0]["loc"] == ["to"]
    found = (await api.get(f"/api/leads/{lead}"))["lead"]
    assert (found["stage"], found["needs_review"]) == ("AI_CONVERSATION", False)
    sql = "SELECT count(*) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'invalid_transition_attempt'"
    assert await api.conn.fetchval(sql, lead) == 0


@pytest.mark.parametrize(("query", "wrong"), [
    ({"stage": "NO_SUCH"}, "stage"), ({"pipeline": "none"}, "pipeline"),
    ({"pipeline": "vendor_acquisition", "stage": "new_lead"}, "stage"),
])  # fmt: skip
async def test_an_unknown_place_is_no_empty_list(api: Client, query: dict[str, str], wrong: str) -> None:
    """Mutant: no call of _require_known in list_leads."""
    problem = (await api.ask("GET", "/api/leads", params=query)).problem(422)
    (flaw,) = problem["errors"]
    assert flaw["loc"] == ["query", wrong]
    assert ("AI_CONVERSATION" if wrong == "stage" else "vendor_acquisition") in flaw["msg"]


async def test_missing_fields_are_named(api: Client) -> None:
    ((stage, required),) = await api.conn.fetch(
        """SELECT t.from_stage, s.name FROM transitions t
           JOIN stages s ON s.pipeline = t.pipeline AND s.name = t.to_stage
           WHERE s.required <> '{}' AND s.pipeline = 'vendor_acquisition' ORDER BY s.position LIMIT 1"""
    )
    lead = await api.lead(stage=stage, data={})
    problem = (await api.post(f"/api/leads/{lead}/transition", {"to": required, "reason": "r"})).problem(409)
    fields = await api.conn.fetchval("SELECT required FROM stages WHERE name = $1", required)
    assert [error["loc"] for error in problem["errors"]] == [["data", field] for field in fields]
    assert all(field in problem["detail"] for field in fields)


async def test_an_override_passes_by_the_table(api: Client) -> None:
    lead = await api.lead(stage="DEAD_LEAD")
    wish = {"to": "AI_CONVERSATION", "reason": "called back", "override": True, "actor": "ann"}
    assert (await api.post(f"/api/leads/{lead}/transition", wish)).json["lead"]["stage"] == "AI_CONVERSATION"
    types = [e["event_type"] for e in (await api.get(f"/api/leads/{lead}/events"))["events"]]
    assert [t for t in types if t.startswith("stage_")][:2] == ["stage_change", "stage_override"]  # a check may follow
    (await api.post(f"/api/leads/{lead}/transition", wish)).problem(409)  # it is there already


async def test_a_move_wakes_the_daemon(dsn: str) -> None:
    """The stage's entry task runs, although nobody but the API said a word."""
    async with serving(dsn, WORKER__PULSE_S="30") as api:
        lead = await api.lead(stage="DEAD_LEAD", name=None)
        await api.quiet()
        wish = {"to": "NEW_LEAD", "reason": "again", "override": True}
        assert (await api.post(f"/api/leads/{lead}/transition", wish)).status == 200
        sql = "SELECT EXISTS (SELECT FROM task_log WHERE key = 'lead:' || $1 AND kind = 'vendor_acquisition.NEW_LEAD')"
        await until(lambda: api.conn.fetchval(sql, str(lead)), 4.0, "its entry task is done")


# -- tasks


async def test_tasks_of_every_status_are_listed_newest_first(api: Client) -> None:
    kind = f"of-nobody-{uuid4().hex}"
    made = {status: await api.task(status, kind) for status in ("available", "running", "dead")}
    gone = await api.task("available", kind)
    assert (await api.post(f"/api/tasks/{gone}/cancel")).json["task"]["status"] == "cancelled"
    made["cancelled"] = gone
    for status, task in made.items():
        (row,) = (await api.get("/api/tasks", kind=kind, status=status))["tasks"]
        assert (row["id"], row["status"], row.keys()) == (task, status, Task.model_fields.keys())
        Task.model_validate(row)
    assert (await api.get("/api/tasks", kind=kind, status="done"))["tasks"] == []
    first = await api.get("/api/tasks", kind=kind, limit="3")
    rest = await api.get("/api/tasks", kind=kind, limit="3", cursor=first["nextCursor"])
    assert [row["id"] for row in first["tasks"] + rest["tasks"]] == sorted(made.values(), reverse=True)
    assert rest["nextCursor"] is None


async def test_done_tasks_keep_their_result(api: Client) -> None:
    lead = await api.lead()
    await api.quiet()
    rows = (await api.get("/api/tasks", status="done", limit="200"))["tasks"]
    row = next(row for row in rows if row["key"] == f"lead:{lead}")
    assert row["finished_at"]
    assert row["duration_ms"] >= 0
    assert (await api.get(f"/api/tasks/{row['id']}"))["task"] == row


async def test_a_dead_task_is_retried(api: Client) -> None:
    task = await api.task("dead")
    reply = await api.post(f"/api/tasks/{task}/retry")
    assert (reply.status, reply.json["task"]["status"], reply.json["task"]["attempt"]) == (200, "available", 0)


@pytest.mark.parametrize("wish", ["retry", "cancel"])
async def test_running_and_ended_tasks_are_left_alone(api: Client, wish: str) -> None:
    running, ended = await api.task("running"), await api.task("dead")
    assert (await api.post(f"/api/tasks/{ended}/cancel")).status == 200
    for task, status in ((running, "running"), (ended, "cancelled")):
        problem = (await api.post(f"/api/tasks/{task}/{wish}")).problem(409)
        assert problem["taskStatus"] == status
    (await api.post(f"/api/tasks/{2**62}/{wish}")).problem(404)


async def test_cancelling_tells_what_the_task_was_about(api: Client) -> None:
    lead = await api.lead()
    message = await api.conn.fetchval(
        "INSERT INTO messages (lead_id, status, send_at) VALUES ($1, 'scheduled', clock() + '1 day') RETURNING id", lead
    )
    task = await api.conn.fetchval("SELECT id FROM tasks WHERE payload ->> 'message_id' = $1", str(message))
    assert (await api.post(f"/api/tasks/{task}/cancel", {})).status == 200
    assert await api.conn.fetchval("SELECT status FROM messages WHERE id = $1", message) == "cancelled"


# -- speed


@pytest.fixture(scope="module")
async def crowd(server: Server) -> AsyncIterator[Connection]:
    """20,000 leads and as many tasks, seen through a connection for reading."""
    dsn = await server.clone()
    writing = await connect(dsn)
    await writing.execute(
        """INSERT INTO leads (name, phone, email, stage, needs_review, created_at)
           SELECT 'n' || i, '+1' || i, i || '@x.example', CASE WHEN i % 100 = 0 THEN 'COMPLETED' ELSE 'DEAD_LEAD' END,
                  i % 200 = 0, now() - i * interval '1 minute' FROM generate_series(1, 20000) i"""
    )
    await writing.execute("DELETE FROM tasks")
    await writing.execute(
        """INSERT INTO tasks (kind, status) SELECT 'k', CASE WHEN i % 100 = 0 THEN 'dead' ELSE 'available' END
           FROM generate_series(1, 20000) i"""
    )
    await writing.execute(
        """INSERT INTO task_log (id, kind, payload, priority, status, run_at, attempt, round, interruptions,
                                 created_at, finished_at)
           SELECT 100000 + i, 'k', '{}', 50, 'done', now(), 1, 0, 0, now(), now() FROM generate_series(1, 20000) i"""
    )
    await writing.execute("ANALYZE")
    await writing.close()
    reading = await connect(dsn, session=READS)
    yield reading
    await reading.close()
    await server.drop(dsn)


STATEMENTS = {**leads.SQL, **tasks.SQL}
LISTS: list[tuple[str, tuple[Any, ...]]] = [
    ("leads", (None, None, None, None, None, None, None, None, 51)),
    ("leads", (UUID(NOWHERE), None, None, None, None, None, None, None, 1)),
    ("leads", (None, "vendor_acquisition", "COMPLETED", None, None, None, None, None, 51)),
    ("leads", (None, "vendor_acquisition", "DEAD_LEAD", None, None, None, None, None, 51)),
    ("leads", (None, None, None, True, None, None, None, None, 51)),
    ("leads", (None, None, None, None, "7@x.example", None, None, None, 51)),
    ("events", (UUID(NOWHERE), None, 51)),
    ("tasks", (None, None, None, None, 51)),
    ("tasks", (None, None, None, 5000, 201)),
    ("tasks", (None, "dead", None, None, 51)),
    ("tasks", (None, "done", None, None, 51)),
    ("tasks", (17, None, None, None, 1)),
]


async def plan_of(conn: Connection, statement: str, *values: Any) -> str:
    """How the server runs a prepared statement, as the API's session makes it plan."""
    literals = ", ".join("NULL" if value is None else f"'{value}'" for value in values)
    await conn.execute(f"PREPARE asked AS {STATEMENTS[statement]}")
    try:
        return "\n".join(line[0] for line in await conn.fetch(f"EXPLAIN (ANALYZE) EXECUTE asked ({literals})"))
    finally:
        await conn.execute("DEALLOCATE asked")


@pytest.mark.parametrize(
    ("statement", "values"), LISTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v))
)
async def test_no_list_reads_a_whole_table(crowd: Connection, statement: str, values: tuple[Any, ...]) -> None:
    plan = await plan_of(crowd, statement, *values)
    assert "Seq Scan" not in plan, plan
    assert sum(map(int, re.findall(r"Rows Removed by Filter: (\d+)", plan))) < 6000, plan


async def test_a_whole_address_is_found_by_its_index(crowd: Connection) -> None:
    plan = await plan_of(crowd, "leads", *[None] * 4, "7@x.example", *[None] * 3, 51)
    assert "leads_email" in plan
    assert "leads_phone" in plan
    assert "Rows Removed by Filter" not in plan, plan


async def test_the_last_page_is_as_near_as_the_first(crowd: Connection) -> None:
    created_at = await crowd.fetchval("SELECT created_at FROM leads ORDER BY created_at OFFSET 10 LIMIT 1")
    plan = await plan_of(crowd, "leads", *[None] * 6, created_at, NOWHERE, 51)
    assert "leads_newest" in plan
    assert "Rows Removed by Filter" not in plan, plan
