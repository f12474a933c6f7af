"""The HTTP API, asked over HTTP, beside a daemon that works."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from daemon.api.application import ROUTES
from daemon.api.leads import SQL, Event, Lead
from daemon.api.route import Bounds, Nothing, Route
from daemon.api.server import READS, serve
from daemon.api.tasks import Task
from daemon.app import Daemon
from daemon.db import Connection, connect
from daemon.errors import OrchestratorError
from daemon.settings import load_settings
from structlog.testing import capture_logs

from tests.support.api import TOKEN, Client, free_port, serving
from tests.support.postgres import Server
from tests.support.processes import until
from tests.support.proxy import proxy

NOWHERE = "00000000-0000-0000-0000-000000000000"
GETS = [route for route in ROUTES if route.method == "GET"]
POSTS = [route for route in ROUTES if route.method != "GET"]


def name(route: Route) -> str:
    """How pytest shows a route."""
    return f"{route.method} {route.path}"


def place(route: Route) -> str:
    """The path of something that may or may not exist."""
    return route.path.replace("{id}", NOWHERE if "leads" in route.path else "1")


def checked(reply: Any, status: int) -> Any:
    """A problem document as RFC 9457 and the contract want it."""
    problem = reply.json
    assert (reply.status, reply.headers["Content-Type"]) == (status, "application/problem+json"), reply.raw
    assert problem["status"] == status
    assert problem["success"] is False
    assert {"type", "title", "detail"} <= problem.keys()
    assert all({"loc", "msg"} == error.keys() for error in problem.get("errors", []))
    return problem


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for the tests that leave it as it is."""
    dsn = await server.clone()
    async with serving(dsn) as client:
        yield client
    await server.drop(dsn)


async def snapshot(conn: Connection) -> Mapping[str, str]:
    """Every row of every table, with the transaction that wrote it."""
    tables = await conn.fetch("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'orchestrator'")
    sql = "SELECT coalesce(md5(string_agg(t::text || t.xmin, ',' ORDER BY t::text)), '') FROM {} t"
    return {row["name"]: await conn.fetchval(sql.format(row["name"])) for row in tables}


# -- who may ask


@pytest.mark.parametrize("route", [r for r in ROUTES if not r.open], ids=name)
@pytest.mark.parametrize("credential", [None, "Bearer wrong", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff"])
async def test_no_route_acts_without_its_credential(api: Client, route: Route, credential: str | None) -> None:
    headers = {"Authorization": credential} if credential and credential.isascii() else {}
    reply = await api.ask(route.method, place(route), token=None, headers=headers, data=b"not even JSON")
    checked(reply, 401)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_with_the_credential_every_route_answers(api: Client, route: Route) -> None:
    reply = await api.ask(route.method, place(route))
    assert reply.status < 500
    assert reply.status not in (401, 403, 405)


@pytest.mark.parametrize("route", [r for r in ROUTES if r.open and "{" not in r.path], ids=name)
async def test_open_routes_need_none(api: Client, route: Route) -> None:
    assert (await api.ask(route.method, route.path, token=None)).status == 200


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/nothing"), ("GET", "/"), ("PUT", "/api/leads"), ("OPTIONS", "/api/leads")])
async def test_a_stranger_learns_not_even_which_paths_exist(api: Client, method: str, path: str) -> None:
    checked(await api.ask(method, path, token=None), 401)
    checked(await api.ask(method, path), 405 if path == "/api/leads" else 404)


async def test_the_methods_of_a_path_are_told(api: Client) -> None:
    assert (await api.ask("DELETE", "/api/leads")).headers["Allow"] == "GET, HEAD"
    checked(await api.ask("POST", "/healthz", token=None), 405)


async def test_authentication_comes_before_the_body_is_read(api: Client) -> None:
    said = await api.wire(
        b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert said.startswith(b"HTTP/1.1 401")


async def test_a_credential_that_is_no_text_is_refused(api: Client) -> None:
    said = await api.wire(b"GET /api/leads HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 401")


async def test_without_a_token_programs_may_ask_and_web_pages_may_not(dsn: str) -> None:
    async with serving(dsn, token=None) as api:
        own = f"http://127.0.0.1:{api.port}"
        assert (await api.ask("GET", "/api/leads", token=None)).status == 200
        assert (await api.ask("GET", "/api/leads", token=None, headers={"Origin": own})).status == 200
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "[::x"}):
            checked(await api.ask("POST", "/api/tasks/1/retry", token=None, headers=headers), 403)
        assert (await api.ask("GET", "/healthz", token=None, headers={"Host": "10.0.0.1"})).status == 200


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
        checked(await api.ask("GET", path), 404)
    checked(await api.post(f"/api/leads/{NOWHERE}/transition", {"to": "DEAD_LEAD", "reason": "r"}), 404)
    checked(await api.post(f"/api/leads/{NOWHERE}/transition", {"to": "DEAD_LEAD", "reason": "r", "override": True}), 404)


async def test_values_that_only_the_database_can_hold_are_shown(api: Client) -> None:
    lead = await api.lead()
    await api.quiet()
    await api.conn.execute(
        """UPDATE leads SET data = '{"huge": 1e400, "long": 123456789012345678901234567890}', score = 'NaN' WHERE id = $1""", lead
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
    assert await found(pipeline="no such") == set()
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
    assert [e["event_type"] for e in events if e["event_type"] in ("created", "stage_change")] == ["stage_change", "created"]
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
    (event,) = (await api.get(f"/api/leads/{lead}/events", limit="1"))["events"]
    assert (event["event_type"], event["actor"], event["metadata"]["reason"]) == ("stage_change", "ann", "sold")


async def test_an_illegal_move_is_refused_with_the_legal_ones_and_recorded(api: Client) -> None:
    lead = await api.lead()
    reply = await api.post(f"/api/leads/{lead}/transition", {"to": "COMPLETED", "reason": "hope"})
    problem = checked(reply, 409)
    legal = await api.conn.fetchval("SELECT legal_targets('vendor_acquisition', 'AI_CONVERSATION')")
    assert ", ".join(problem["legalTargets"]) == legal
    assert legal in problem["detail"]
    sql = "SELECT count(*) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'invalid_transition_attempt'"
    assert await api.conn.fetchval(sql, lead) == 1
    assert (await api.get(f"/api/leads/{lead}"))["lead"]["needs_review"] is True


async def test_an_unknown_stage_is_an_illegal_move(api: Client) -> None:
    lead = await api.lead()
    for override in (False, True):
        reply = await api.post(f"/api/leads/{lead}/transition", {"to": "NO_SUCH", "reason": "r", "override": override})
        checked(reply, 409)
    assert (await api.get(f"/api/leads/{lead}"))["lead"]["stage"] == "AI_CONVERSATION"


async def test_missing_fields_are_named(api: Client) -> None:
    stage, required = await api.conn.fetchrow(
        """SELECT t.from_stage, s.name FROM transitions t JOIN stages s ON s.pipeline = t.pipeline AND s.name = t.to_stage
           WHERE s.required <> '{}' AND s.pipeline = 'vendor_acquisition' ORDER BY s.position LIMIT 1"""
    )
    lead = await api.lead(stage=stage, data={})
    problem = checked(await api.post(f"/api/leads/{lead}/transition", {"to": required, "reason": "r"}), 409)
    fields = await api.conn.fetchval("SELECT required FROM stages WHERE name = $1", required)
    assert [error["loc"] for error in problem["errors"]] == [["data", field] for field in fields]
    assert all(field in problem["detail"] for field in fields)


async def test_an_override_passes_by_the_table(api: Client) -> None:
    lead = await api.lead(stage="DEAD_LEAD")
    wish = {"to": "AI_CONVERSATION", "reason": "called back", "override": True, "actor": "ann"}
    assert (await api.post(f"/api/leads/{lead}/transition", wish)).json["lead"]["stage"] == "AI_CONVERSATION"
    types = [e["event_type"] for e in (await api.get(f"/api/leads/{lead}/events"))["events"]]
    assert types[:2] == ["stage_change", "stage_override"]
    checked(await api.post(f"/api/leads/{lead}/transition", wish), 409)  # it is there already


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
        problem = checked(await api.post(f"/api/tasks/{task}/{wish}"), 409)
        assert problem["taskStatus"] == status
    checked(await api.post(f"/api/tasks/{2**62}/{wish}"), 404)


async def test_cancelling_tells_what_the_task_was_about(api: Client) -> None:
    lead = await api.lead()
    message = await api.conn.fetchval(
        "INSERT INTO messages (lead_id, status, send_at) VALUES ($1, 'scheduled', clock() + '1 day') RETURNING id", lead
    )
    task = await api.conn.fetchval("SELECT id FROM tasks WHERE payload ->> 'message_id' = $1", str(message))
    assert (await api.post(f"/api/tasks/{task}/cancel", {})).status == 200
    assert await api.conn.fetchval("SELECT status FROM messages WHERE id = $1", message) == "cancelled"


# -- bad input


@pytest.mark.parametrize(
    ("path", "loc"),
    [
        ("/api/leads?limit=0", ["query", "limit"]),
        ("/api/leads?limit=201", ["query", "limit"]),
        ("/api/leads?limit=ten", ["query", "limit"]),
        ("/api/leads?limit=1&limit=2", ["query", "limit"]),
        ("/api/leads?cursor=x", ["query", "cursor"]),
        ("/api/leads?cursor=MQ", ["query", "cursor"]),
        ("/api/leads?stagee=", ["query", "stagee"]),
        ("/api/leads?needs_review=perhaps", ["query", "needs_review"]),
        ("/api/leads?q=%00", ["query", "q"]),
        (f"/api/leads?q={'x' * 201}", ["query", "q"]),
        ("/api/leads/17", ["path", "id"]),
        ("/api/leads/%00", ["path", "id"]),
        ("/api/leads/17/events?limit=x", ["path", "id"]),
        ("/api/tasks/x", ["path", "id"]),
        ("/api/tasks/0", ["path", "id"]),
        ("/api/tasks/99999999999999999999", ["path", "id"]),
        ("/api/tasks?status=ended", ["query", "status"]),
        ("/api/tasks?cursor=LTE", ["query", "cursor"]),
        ("/metrics?name=x", ["query", "name"]),
    ],
)
async def test_a_bad_question_is_refused_with_its_place(api: Client, path: str, loc: list[str]) -> None:
    reply = await api.ask("GET", path)
    checked(reply, 422)
    assert loc in reply.places


async def test_bytes_that_are_no_text_are_refused_or_found_nowhere(api: Client) -> None:
    for path in (b"/api/leads?q=\xff\xfe", b"/api/leads/\xff", b"/api/leads?\xff=1", b"/api/leads?q=%ff%ed%a0%80", b"/\xff"):
        said = await api.wire(
            b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\nConnection: close\r\n\r\n"
        )
        assert said.split()[1] in (b"200", b"400", b"404", b"422"), said


@pytest.mark.parametrize(
    ("body", "status", "loc"),
    [
        (b"{", 400, []),
        (b"\xff\xfe{}", 400, []),
        (b'\xef\xbb\xbf{"to": "X"}', 400, []),
        (b'{"to": NaN}', 400, []),
        (b"[" * 100_000, 400, []),
        (b"9" * 5000, 400, []),
        (b"[]", 422, []),
        (b"null", 422, []),
        (b'"to"', 422, []),
        (b"{}", 422, ["to"]),
        (b"", 422, ["reason"]),
        (b'{"to": 1, "reason": "r"}', 422, ["to"]),
        (b'{"to": "  ", "reason": "r"}', 422, ["to"]),
        (b'{"to": "A", "reason": "r", "override": "yes"}', 422, ["override"]),
        (b'{"to": "A", "reason": "r", "override": 1}', 422, ["override"]),
        (b'{"to": "A", "reason": "r", "force": true}', 422, ["force"]),
        (b'{"to": "A\\u0000", "reason": "r"}', 422, ["to"]),
        (b'{"to": "\\ud800", "reason": "r"}', 422, ["to"]),
        (b'{"to": "A", "reason": "r", "\\ud800": {"\\u0000": 1}}', 422, ["\\ud800"]),
        (b'{"to": 9223372036854775808, "reason": "r"}', 422, ["to"]),
        (b'{"to": 1e999, "reason": "r"}', 422, ["to"]),
        (b'{"to": ' + b"[" * 70 + b"]" * 70 + b', "reason": "r"}', 422, ["to", *[0] * 64]),
        (orjson.dumps({"to": "A", "reason": "r" * 2001}), 422, ["reason"]),
    ],
)
async def test_a_bad_body_is_refused_with_its_place(api: Client, body: bytes, status: int, loc: list[str | int]) -> None:
    before = await snapshot(api.conn)
    reply = await api.ask("POST", f"/api/leads/{NOWHERE}/transition", data=body)
    checked(reply, status)
    assert loc in reply.places
    assert await snapshot(api.conn) == before


@pytest.mark.parametrize("route", [r for r in POSTS if r.body is Nothing], ids=name)
async def test_where_no_body_is_expected_an_empty_one_will_do(api: Client, route: Route) -> None:
    for body in (None, b"", b"{}", b" \n"):
        assert (await api.ask(route.method, place(route), data=body)).status not in (400, 422)
    reply = await api.ask(route.method, place(route), data=b'{"x": 1}')
    checked(reply, 422)
    assert reply.places == [["x"]]


async def test_a_flood_of_mistakes_has_a_short_answer(api: Client) -> None:
    body = orjson.dumps({f"{n}" * 1000: n for n in range(500)})
    reply = await api.ask("POST", f"/api/leads/{NOWHERE}/transition", data=body)
    checked(reply, 422)
    assert len(reply.raw) < 50_000


async def test_a_body_over_a_mebibyte_is_refused(api: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    checked(await api.ask("POST", "/api/tasks/1/retry", data=chunks()), 413)
    checked(await api.ask("POST", "/api/tasks/1/retry", data=b" " * (1024 * 1024 + 1)), 413)
    checked(await api.ask("POST", f"/api/tasks/{2**62}/retry", data=b" " * (1024 * 1024)), 404)


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"Content-Length: x\r\n\r\n",
    ],
)
async def test_a_body_unlike_its_headers_is_refused(api: Client, rest: bytes) -> None:
    said = await api.wire(
        b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n" + rest
    )
    assert said.split()[1] == b"400", said


async def test_a_body_that_never_comes_is_not_waited_for(dsn: str) -> None:
    async with serving(dsn, bounds=Bounds(body_s=0.1)) as api:
        said = await api.wire(
            b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 9\r\n\r\n{"
        )
    assert said.startswith(b"HTTP/1.1 408")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["to", "reason"]), inner, max_size=4),
    max_leaves=12,
)
MOVES = st.fixed_dictionaries(
    {"to": JSON | st.sampled_from(["COMPLETED", "AI_CONVERSATION"]), "reason": JSON | st.text(min_size=1)},
    optional={"override": JSON, "actor": JSON},
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=(JSON | MOVES).map(lambda value: json.dumps(value).encode()))
async def test_no_document_gets_past_the_checks(api: Client, body: bytes) -> None:
    await _is_refused_or_done(api, body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
async def test_no_bytes_get_past_the_checks(api: Client, body: bytes) -> None:
    await _is_refused_or_done(api, body)


async def _is_refused_or_done(api: Client, body: bytes) -> None:
    reply = await api.ask("POST", f"/api/leads/{await _victim(api)}/transition", data=body)
    if reply.status != 200:
        checked(reply, reply.status)
        assert reply.status in (400, 409, 422)
        assert reply.status == 409 or reply.json["errors"]


async def _victim(api: Client) -> UUID:
    known: UUID | None = await api.conn.fetchval("SELECT id FROM leads WHERE name = 'victim' AND stage = 'AI_CONVERSATION'")
    return known or await api.lead(name="victim")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=st.sampled_from(GETS),
    query=st.dictionaries(
        st.sampled_from(["limit", "cursor", "q", "stage", "status", "kind", "needs_review"]) | st.text(max_size=5),
        st.text(max_size=20),
        max_size=3,
    ),
    part=st.text(min_size=1, max_size=12),
)
async def test_no_question_gets_past_the_checks(api: Client, route: Route, query: dict[str, str], part: str) -> None:
    reply = await api.ask("GET", route.path.replace("{id}", aiohttp.helpers.quote(part, safe="")), params=query)
    assert reply.status < 500, reply.raw


# -- reading changes nothing


@pytest.fixture(scope="module")
async def still(server: Server) -> AsyncIterator[Client]:
    """A daemon with nothing to do."""
    dsn = await server.clone()
    async with serving(dsn) as client:
        await client.lead()
        await client.task("dead")
        await client.quiet()
        yield client
    await server.drop(dsn)


@pytest.mark.parametrize("route", GETS, ids=name)
async def test_reading_changes_nothing(still: Client, route: Route) -> None:
    of = "leads" if "leads" in route.path else "tasks"
    path = route.path.replace("{id}", str(await still.conn.fetchval(f"SELECT id FROM {of} LIMIT 1")))
    before = await snapshot(still.conn)
    shown, head = await still.ask("GET", path), await still.ask("HEAD", path)
    assert await snapshot(still.conn) == before
    assert (shown.status, head.status, head.raw) == (200, 200, b"")
    assert head.headers["Content-Type"] == shown.headers["Content-Type"]


async def test_a_connection_for_reading_can_not_write(dsn: str, conn: Connection) -> None:
    reading = await connect(dsn, session=READS)
    try:
        with pytest.raises(Exception, match="read-only transaction"):
            await reading.execute("INSERT INTO leads (name) VALUES ('x')")
    finally:
        await reading.close()


# -- health


async def test_health_has_the_keys_of_the_contract(api: Client) -> None:
    health = await api.get("/api/health")
    assert health["status"] == "healthy"
    assert health["service"] == "pipeline-orchestrator"
    assert health["listener"] is True
    assert health["activeCampaigns"] == 0
    assert health.keys() >= {"scheduledRuns", "queueDepth", "oldestTaskAgeSeconds", "lastSweep", "version", "database"}
    assert health["queueDepth"] >= 0
    assert "@" not in health["database"]


async def test_ready_only_while_the_listener_is(dsn: str) -> None:
    """The database answers, but the way that LISTEN needs is closed."""
    async with proxy(dsn) as way:
        async with serving(dsn, listen=way.dsn(dsn), WORKER__PULSE_S="0.05") as api:
            await way.refuse()
            assert way.cut() >= 1
            await until(lambda: _status(api, "/readyz", 503), 5.0, "not ready")
            checked(await api.ask("GET", "/readyz"), 503)
            assert (await api.ask("GET", "/healthz")).status == 200
            health = await api.get("/api/health")
            assert (health["status"], health["listener"], health["queueDepth"] is None) == ("degraded", False, False)
            await way.admit()
            await until(lambda: _status(api, "/readyz", 200), 10.0, "ready again")


async def _status(api: Client, path: str, status: int) -> bool:
    return (await api.ask("GET", path)).status == status


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_while_postgres_is_away_every_answer_comes_at_once(dsn: str, how: str) -> None:
    async with proxy(dsn) as way:
        async with serving(way.dsn(dsn), direct=dsn, WORKER__PULSE_S="0.05", LISTENER__PROBE_TIMEOUT_S="0.3") as api:
            assert (await api.ask("GET", "/api/leads")).status == 200  # a connection is open
            if how == "refused":
                await way.refuse()
                assert way.cut() >= 1
            else:
                assert way.go_silent(new_ones_too=True) >= 1
            began = time.monotonic()
            checked(await api.ask("GET", "/readyz"), 503)
            assert time.monotonic() - began < 2.5
            await until(lambda: _degraded(api), 5.0, "degraded")
            began = time.monotonic()
            health = await api.get("/api/health")
            assert (health["status"], health["queueDepth"], health["scheduledRuns"]) == ("degraded", None, None)
            assert (await api.ask("GET", "/healthz")).status == 200
            assert time.monotonic() - began < 1.5
            problem = checked(await api.ask("GET", "/api/leads"), 503)
            assert "postgres" not in problem["detail"].lower()
            metrics = await api.ask("GET", "/metrics")
            assert metrics.status == 200
            assert b"orchestrator_leads{" not in metrics.raw
            way.silent = False
            way.cut()
            if how == "refused":
                await way.admit()
            await until(lambda: _status(api, "/readyz", 200), 15.0, "ready again")
            await until(lambda: _status(api, "/api/leads", 200), 10.0, "leads again")


async def _degraded(api: Client) -> bool:
    return bool((await api.get("/api/health"))["queueDepth"] is None)


async def test_a_locked_lead_is_no_reason_to_hang(api: Client) -> None:
    lead = await api.lead()
    other = await connect(api.daemon.dsn)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", lead)
            reply = await api.post(f"/api/leads/{lead}/transition", {"to": "DEAD_LEAD", "reason": "r"})
            checked(reply, 503)
            assert reply.headers["Retry-After"]
    finally:
        await other.close()


# -- metrics


async def test_metrics_count_what_is_there(dsn: str, conn: Connection) -> None:
    await conn.execute("INSERT INTO leads (name, phone, stage) SELECT 'n', '+1', 'DEAD_LEAD' FROM generate_series(1, 3)")
    await conn.execute("INSERT INTO tasks (kind, run_at) VALUES ('of-nobody', clock() - interval '100 seconds')")
    async with serving(dsn) as api:
        reply = await api.ask("GET", "/metrics")
        assert reply.headers["Content-Type"].startswith("text/plain; version=")
        families = {f.name: f for f in text_string_to_metric_families(reply.raw.decode())}
        stages = {s.labels["stage"]: s.value for s in families["orchestrator_leads"].samples}
        assert (stages["DEAD_LEAD"], stages["NEW_LEAD"]) == (3, 0)
        queue = {s.labels["status"]: s.value for s in families["orchestrator_queue_tasks"].samples}
        assert queue.keys() == {"available", "running", "dead"}
        assert queue["available"] >= 1
        (age,) = families["orchestrator_queue_oldest_age_seconds"].samples
        assert 100 <= age.value < 130


async def test_scraping_in_a_loop_reads_the_database_once(dsn: str, conn: Connection) -> None:
    async with serving(dsn) as api:
        first = (await api.ask("GET", "/metrics")).raw
        await conn.execute("INSERT INTO leads (name, phone, stage) VALUES ('n', '+1', 'DEAD_LEAD')")
        rest = await asyncio.gather(*[api.ask("GET", "/metrics") for _ in range(20)])

    def leads(raw: bytes) -> list[bytes]:
        return [line for line in raw.splitlines() if line.startswith(b"orchestrator_leads{")]

    assert all(leads(reply.raw) == leads(first) for reply in rest)


# -- the server


async def test_a_port_in_use_is_one_clear_line(dsn: str) -> None:
    port = free_port()
    holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    try:
        daemon = Daemon(load_settings({"DATABASE_URL": dsn, "ORCHESTRATOR_API__PORT": str(port)}), dsn, dsn)
        with pytest.raises(OrchestratorError, match="ORCHESTRATOR_API__PORT") as failed:
            await serve(daemon)
        assert "\n" not in str(failed.value)
    finally:
        holder.close()


async def test_an_address_of_elsewhere_is_one_clear_line(dsn: str) -> None:
    given = {"DATABASE_URL": dsn, "ORCHESTRATOR_API__HOST": "192.0.2.1", "ORCHESTRATOR_API__TOKEN": "t" * 20}
    with pytest.raises(OrchestratorError, match="ORCHESTRATOR_API__HOST"):
        await serve(Daemon(load_settings(given), dsn, dsn))


async def test_what_nobody_foresaw_is_a_problem_without_details(dsn: str, conn: Connection) -> None:
    async with serving(dsn) as api:
        await conn.execute("ALTER TABLE leads RENAME COLUMN city TO town")
        with capture_logs() as logged:
            problem = checked(await api.ask("GET", "/api/leads"), 500)
    assert "city" not in orjson.dumps(problem).decode()
    assert any(line["log_level"] == "error" and "city" in str(line.get("exc_info")) for line in logged)


async def test_a_client_that_stays_does_not_hold_up_the_end(dsn: str) -> None:
    async with serving(dsn) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\nContent-Length: 9\r\n\r\n{")
        await writer.drain()
        began = time.monotonic()
    assert time.monotonic() - began < 0.2 + 2.0
    writer.close()


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
    await writing.execute("INSERT INTO tasks (kind, status) SELECT 'k', CASE WHEN i % 100 = 0 THEN 'dead' ELSE 'available' END FROM generate_series(1, 20000) i")
    await writing.execute(
        """INSERT INTO task_log (id, kind, payload, priority, status, run_at, attempt, round, interruptions, created_at, finished_at)
           SELECT 100000 + i, 'k', '{}', 50, 'done', now(), 1, 0, 0, now(), now() FROM generate_series(1, 20000) i"""
    )
    await writing.execute("ANALYZE")
    await writing.close()
    reading = await connect(dsn, session=READS)
    yield reading
    await reading.close()
    await server.drop(dsn)


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


@pytest.mark.parametrize(("statement", "values"), LISTS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v)))
async def test_no_list_reads_a_whole_table(crowd: Connection, statement: str, values: tuple[Any, ...]) -> None:
    lines = await crowd.fetch(f"EXPLAIN {SQL[statement]}", *values)
    plan = "\n".join(line[0] for line in lines)
    assert "Seq Scan" not in plan, plan


async def test_the_last_page_is_as_near_as_the_first(crowd: Connection) -> None:
    created_at = await crowd.fetchval("SELECT created_at FROM leads ORDER BY created_at OFFSET 10 LIMIT 1")
    lines = await crowd.fetch(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT TEXT) {SQL['leads']}",
        None, None, None, None, None, None, created_at, UUID(NOWHERE), 51,
    )  # fmt: skip
    plan = "\n".join(line[0] for line in lines)
    assert "leads_newest" in plan
    assert "Rows Removed by Filter" not in plan, plan
