"""What the API keeps out, on every route of the table: strangers, bad input, changes by reading."""

import json
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.api.application import ROUTES
from daemon.api.route import Bounds, Nothing, Route
from daemon.api.server import READS
from daemon.db import Connection, connect
from daemon.links import token_of
from daemon.settings import secret_key
from tests.support.api import TOKEN, Client, serving
from tests.support.postgres import Server

NOWHERE = "00000000-0000-0000-0000-000000000000"
GETS = [route for route in ROUTES if route.method == "GET"]
POSTS = [route for route in ROUTES if route.method != "GET"]
LINK = "/approve/{id}"
"""Its credential is in the link: see test_api_approvals."""
TABLES = {
    "campaigns": "campaigns",
    "runs": "campaign_runs",
    "leads": "leads",
    "tasks": "tasks",
    "approve": "approval_queue",
}
"""By the first word of a path that is one of these: where there are ids for it."""


def name(route: Route) -> str:
    """How pytest shows a route."""
    return f"{route.method} {route.path}"


def place(route: Route) -> str:
    """The path of something that may or may not exist."""
    number = "1" if "tasks" in route.path else NOWHERE
    return route.path.replace("{id}", number).replace("{name}", "vendor_acquisition").replace("{engine}", "sms")


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
@pytest.mark.parametrize(
    "credential", [None, "Bearer wrong", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff"]
)
async def test_no_route_acts_without_its_credential(api: Client, route: Route, credential: str | None) -> None:
    """Guarantee 17. Mutant: `same = True` in auth._bears."""
    headers = {"Authorization": credential} if credential and credential.isascii() else {}
    reply = await api.ask(route.method, place(route), token=None, headers=headers, data=b"not even JSON")
    reply.problem(401)
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("route", [r for r in ROUTES if r.path != LINK], ids=name)
async def test_with_the_credential_every_route_answers(api: Client, route: Route) -> None:
    reply = await api.ask(route.method, place(route))
    assert reply.status < 500
    assert reply.status not in (401, 403, 405)


@pytest.mark.parametrize("route", [r for r in ROUTES if r.open and "{" not in r.path], ids=name)
async def test_open_routes_need_none(api: Client, route: Route) -> None:
    assert (await api.ask(route.method, route.path, token=None)).status == 200


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/nothing"), ("GET", "/nothing"), ("PUT", "/api/leads"), ("OPTIONS", "/api/leads")]
)
async def test_a_stranger_learns_not_even_which_paths_exist(api: Client, method: str, path: str) -> None:
    (await api.ask(method, path, token=None)).problem(401)
    (await api.ask(method, path)).problem(405 if path == "/api/leads" else 404)


async def test_who_comes_without_a_path_is_sent_to_the_docs(api: Client) -> None:
    """Mutant: no FRONT_DOOR in application.build."""
    for method in ("GET", "HEAD"):
        reply = await api.ask(method, "/", allow_redirects=False)
        assert (reply.status, reply.headers["Location"]) == (303, "/api/docs")
    assert (await api.ask("GET", "/")).status == 200


async def test_what_is_wrong_is_told_in_plain_words(api: Client) -> None:
    """Mutant: `return error["msg"]` in reading._worded."""
    odd = (await api.ask("GET", "/api/leads/nope")).problem(422)
    assert odd["errors"] == [{"loc": ["path", "id"], "msg": "'nope' is no id"}]
    body = (await api.post("/api/leads", {"nmae": "Ann"})).problem(422)
    assert body["errors"] == [{"loc": ["nmae"], "msg": "unknown field nmae; nearest: name"}]
    query = (await api.ask("GET", "/api/leads", params={"stge": "NEW_LEAD"})).problem(422)
    assert query["errors"] == [{"loc": ["query", "stge"], "msg": "unknown field stge; nearest: stage"}]
    assert (await api.ask("GET", "/healthz", params={"x": "1"})).problem(422)["errors"][0]["msg"] == "unknown field x"


async def test_the_methods_of_a_path_are_told(api: Client) -> None:
    assert (await api.ask("DELETE", "/api/leads")).headers["Allow"] == "GET, HEAD, POST"
    (await api.ask("POST", "/healthz", token=None)).problem(405)


async def test_authentication_comes_before_the_body_is_read(api: Client) -> None:
    said = await api.wire(
        b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert said.startswith(b"HTTP/1.1 401")


async def test_a_credential_that_is_no_text_is_refused(api: Client) -> None:
    said = await api.wire(
        b"GET /api/leads HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
    )
    assert said.startswith(b"HTTP/1.1 401")


async def test_without_a_token_programs_may_ask_and_web_pages_may_not(dsn: str) -> None:
    async with serving(dsn, token=None) as api:
        own = f"http://127.0.0.1:{api.port}"
        assert (await api.ask("GET", "/api/leads", token=None)).status == 200
        assert (await api.ask("GET", "/api/leads", token=None, headers={"Origin": own})).status == 200
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Host": "evil.example"},
            {"Host": "[::x"},
        ):
            (await api.ask("POST", "/api/tasks/1/retry", token=None, headers=headers)).problem(403)
        assert (await api.ask("GET", "/healthz", token=None, headers={"Host": "10.0.0.1"})).status == 200


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
    reply.problem(422)
    assert loc in reply.places


async def test_bytes_that_are_no_text_are_refused_or_found_nowhere(api: Client) -> None:
    for path in (
        b"/api/leads?q=\xff\xfe",
        b"/api/leads/\xff",
        b"/api/leads?\xff=1",
        b"/api/leads?q=%ff%ed%a0%80",
        b"/\xff",
    ):
        said = await api.wire(
            b"GET "
            + path
            + b" HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
            + TOKEN.encode()
            + b"\r\nConnection: close\r\n\r\n"
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
async def test_a_bad_body_is_refused_with_its_place(
    api: Client, body: bytes, status: int, loc: list[str | int]
) -> None:
    before = await snapshot(api.conn)
    reply = await api.ask("POST", f"/api/leads/{NOWHERE}/transition", data=body)
    reply.problem(status)
    assert loc in reply.places
    assert await snapshot(api.conn) == before


@pytest.mark.parametrize("route", [r for r in POSTS if r.body is Nothing and not r.unread], ids=name)
async def test_where_no_body_is_expected_an_empty_one_will_do(api: Client, route: Route) -> None:
    for body in (None, b"", b"{}", b" \n"):
        assert (await api.ask(route.method, place(route), data=body)).status not in (400, 422)
    reply = await api.ask(route.method, place(route), data=b'{"x": 1}')
    reply.problem(422)
    assert reply.places == [["x"]]


async def test_a_flood_of_mistakes_has_a_short_answer(api: Client) -> None:
    body = orjson.dumps({f"{n}" * 500: n for n in range(500)})
    reply = await api.ask("POST", f"/api/leads/{NOWHERE}/transition", data=body)
    reply.problem(422)
    assert len(reply.raw) < 50_000


async def test_a_body_over_a_mebibyte_is_refused(api: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    (await api.ask("POST", "/api/tasks/1/retry", data=chunks())).problem(413)
    (await api.ask("POST", "/api/tasks/1/retry", data=b" " * (1024 * 1024 + 1))).problem(413)
    (await api.ask("POST", f"/api/tasks/{2**62}/retry", data=b" " * (1024 * 1024))).problem(404)


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
        b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer "
        + TOKEN.encode()
        + b"\r\n"
        + rest
    )
    assert said.split()[1] == b"400", said


async def test_a_body_that_never_comes_is_not_waited_for(dsn: str) -> None:
    async with serving(dsn, bounds=Bounds(body_s=0.1)) as api:
        said = await api.wire(
            b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
            + TOKEN.encode()
            + b"\r\nContent-Length: 9\r\n\r\n{"
        )
    assert said.startswith(b"HTTP/1.1 408")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["to", "reason"]), inner, max_size=4)
    ),
    max_leaves=12,
)
MOVES = st.fixed_dictionaries(
    {"to": JSON | st.sampled_from(["COMPLETED", "AI_CONVERSATION"]), "reason": JSON | st.text(min_size=1)},
    optional={"override": JSON, "actor": JSON},
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=(JSON | MOVES).map(lambda value: json.dumps(value).encode()))
async def test_no_document_gets_past_the_checks(api: Client, body: bytes) -> None:
    """Guarantee 16. Mutant: reading._from_json without its look at what can't be stored."""
    await _is_refused_or_done(api, body)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
async def test_no_bytes_get_past_the_checks(api: Client, body: bytes) -> None:
    await _is_refused_or_done(api, body)


async def _is_refused_or_done(api: Client, body: bytes) -> None:
    reply = await api.ask("POST", f"/api/leads/{await _victim(api)}/transition", data=body)
    if reply.status != 200:
        reply.problem(reply.status)
        assert reply.status in (400, 409, 422)
        assert reply.status == 409 or reply.json["errors"]


async def _victim(api: Client) -> UUID:
    known: UUID | None = await api.conn.fetchval(
        "SELECT id FROM leads WHERE name = 'victim' AND stage = 'AI_CONVERSATION'"
    )
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
    reply = await api.ask("GET", route.path.replace("{id}", quote(part, safe="")), params=query)
    assert reply.status < 500, reply.raw


# -- reading changes nothing


@pytest.fixture(scope="module")
async def still(server: Server) -> AsyncIterator[Client]:
    """A daemon with nothing to do."""
    dsn = await server.clone()
    async with serving(dsn) as client:
        await client.lead()
        await client.task("dead")
        await client.conn.execute(
            """WITH c AS (INSERT INTO campaigns (name) VALUES ('still') RETURNING id),
                    r AS (INSERT INTO campaign_runs (campaign_id, status) SELECT id, 'failed' FROM c RETURNING id)
               INSERT INTO approval_queue (checkpoint, title, run_id) SELECT 'campaign', 'Look', id FROM r"""
        )
        await client.quiet()
        yield client
    await server.drop(dsn)


@pytest.mark.parametrize("route", GETS, ids=name)
async def test_reading_changes_nothing(still: Client, route: Route) -> None:
    """Guarantee 14. Mutant: an INSERT in any GET handler."""
    of = next((TABLES[word] for word in route.path.split("/") if word in TABLES), "tasks")
    found = await still.conn.fetchval(f"SELECT id FROM {of} LIMIT 1")
    path = route.path.replace("{id}", str(found)).replace("{name}", "vendor_acquisition")
    if route.path == LINK:
        path += f"?token={token_of(secret_key(still.daemon.settings).get_secret_value(), 'approve', found, 2**33)}"
    before = await snapshot(still.conn)
    shown, head = await still.ask("GET", path), await still.ask("HEAD", path)
    assert await snapshot(still.conn) == before
    assert (shown.status, head.status, head.raw) == (200, 200, b"")
    assert head.headers["Content-Type"] == shown.headers["Content-Type"]


async def test_a_connection_for_reading_can_not_write(dsn: str, conn: Connection) -> None:
    """Guarantee 14. Mutant: READS without default_transaction_read_only."""
    reading = await connect(dsn, session=READS)
    try:
        with pytest.raises(Exception, match="read-only transaction"):
            await reading.execute("INSERT INTO leads (name) VALUES ('x')")
    finally:
        await reading.close()
