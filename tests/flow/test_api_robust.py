"""What the API withstands on every route: strangers, any JSON, slow and endless bodies, crowds, and what is no HTTP."""

import asyncio
import hmac
import json
import logging
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from daemon.api.application import ROUTES
from daemon.api.campaigns import CampaignDocument
from daemon.api.docs import example
from daemon.api.openapi import document_of
from daemon.api.route import Bounds, Route
from daemon.app import campaign_schema
from daemon.db import Connection
from tests.support.api import TOKEN, Client, Reply, serving
from tests.support.populated import path_to, populate
from tests.support.postgres import Server

DOCUMENT = document_of(ROUTES, {CampaignDocument: campaign_schema})
GETS = [route for route in ROUTES if route.method == "GET"]
CHANGES = [route for route in ROUTES if route.method != "GET"]
GUARDED = [route for route in ROUTES if not route.open]
BEARER = f"Authorization: Bearer {TOKEN}\r\n".encode()
MANY = 200
MIB = 1024 * 1024
LAX = settings(deadline=None, suppress_health_check=[*HealthCheck], database=None)


def name(route: Route) -> str:
    """How pytest shows a route."""
    return f"{route.method} {route.path}"


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon with something of everything; it calls nobody."""
    dsn = await server.clone()
    async with serving(dsn, DRY_RUN="true") as client:
        await populate(client)
        yield client
    await server.drop(dsn)


@pytest.fixture(scope="module")
async def still(server: Server) -> AsyncIterator[Client]:
    """The same for tests that change nothing, and would notice."""
    dsn = await server.clone()
    async with serving(dsn, DRY_RUN="true") as client:
        await populate(client)
        yield client
    await server.drop(dsn)


async def digest(conn: Connection) -> Mapping[str, str]:
    """Every row of every table with the transaction that wrote it, but for the daemon's own signs of life."""
    tables = await conn.fetch(
        "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'orchestrator' AND tablename <> 'workers'"
    )
    sql = "SELECT coalesce(md5(string_agg(t::text || t.xmin, ',' ORDER BY t::text)), '') FROM {} t"
    return {row["name"]: await conn.fetchval(sql.format(row["name"])) for row in tables}


def head(line: str, *headers: bytes, bearer: bool = True) -> bytes:
    """The head of a request, after whose answer the connection ends."""
    always = b"Host: localhost\r\nConnection: close\r\n" + (BEARER if bearer else b"")
    return line.encode() + b" HTTP/1.1\r\n" + always + b"".join(one + b"\r\n" for one in headers) + b"\r\n"


def read_reply(said: bytes) -> Reply:
    """An answer as it came over the wire."""
    top, _, body = said.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    return Reply(int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body)


async def first(api: Client, sent: bytes) -> bytes:
    """What the server says to these bytes first, without waiting for it to hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(sent)
    try:
        async with asyncio.timeout(5.0):
            return await whole_reply(reader)
    finally:
        writer.close()


async def whole_reply(reader: asyncio.StreamReader) -> bytes:
    """One answer as its headers describe it."""
    top = await reader.readuntil(b"\r\n\r\n")
    (length,) = re.findall(rb"\r\nContent-Length: (\d+)", top) or [b"0"]
    return top + await reader.readexactly(int(length))


# -- any JSON


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


NASTY: tuple[Any, ...] = (
    None, "", "\0", "a\ud800", "x" * 5000, -1, 2**63, 10**400, 1.5, float("nan"), float("inf"), True, [], {}, [{}],
)  # fmt: skip


def bodies(route: Route) -> st.SearchStrategy[Any]:
    """Anything at all; objects that have the fields of the route's body; bodies that would fit, but for one value."""
    names = st.sampled_from(sorted(fields(route)) or ["a"])
    anything = st.dictionaries(names | st.text(max_size=3), JSON | st.sampled_from(NASTY), max_size=8)
    spoilt = st.tuples(names, JSON).map(lambda one: {**good(route), one[0]: one[1]})
    return JSON | anything | spoilt | anything.map(lambda body: {**body, **good(route)})


def fields(route: Route) -> set[str]:
    """What the route's body may have."""
    return {info.alias or field for field, info in route.body.model_fields.items()}


def good(route: Route) -> dict[str, Any]:
    """A body that fits."""
    asked = DOCUMENT["paths"][route.path][route.method.lower()].get("requestBody")
    schema = asked["content"]["application/json"]["schema"] if asked else {"type": "object"}
    return dict(example(schema, DOCUMENT["components"]["schemas"], "body"))


def check_refusal(reply: Reply) -> None:
    """Raise unless a refusal is a problem and, for bad input, tells its places."""
    assert reply.status < 500, reply.raw
    if reply.status >= 400:
        problem = reply.problem(reply.status)
        assert problem["detail"]
        assert reply.status not in (400, 422) or all(error["msg"] for error in problem["errors"])


@pytest.mark.parametrize("route", CHANGES, ids=name)
@settings(LAX, max_examples=20)
@given(data=st.data())
async def test_any_json_is_done_or_refused_with_its_places(api: Client, route: Route, data: st.DataObject) -> None:
    """Guarantee 16. Mutant: a body's model that takes any type."""
    path, _ = await path_to(api.conn, route, DOCUMENT)
    body = data.draw(bodies(route))
    check_refusal(await api.ask(route.method, path, data=json.dumps(body).encode()))


@pytest.mark.parametrize("route", CHANGES, ids=name)
async def test_no_single_value_does_harm(api: Client, route: Route) -> None:
    """Guarantee 16. Mutant: reading._from_json without its look at what can't be stored."""
    path, _ = await path_to(api.conn, route, DOCUMENT)
    for field in sorted(fields(route)):
        for value in NASTY:
            body = {**good(route), field: value}
            check_refusal(await api.ask(route.method, path, data=json.dumps(body).encode()))


@pytest.mark.parametrize("route", CHANGES, ids=name)
@settings(LAX, max_examples=3)
@given(data=st.data())
async def test_what_is_refused_leaves_nothing_behind(still: Client, route: Route, data: st.DataObject) -> None:
    """Guarantee 16: everything here is wrong somewhere. Mutant: a write before the body is checked."""
    path, _ = await path_to(still.conn, route, DOCUMENT)
    wrong = bodies(route).map(lambda body: {**body, "no such key": 1} if isinstance(body, dict) else [body])
    before = await digest(still.conn)
    for body in data.draw(st.lists(wrong, min_size=10, max_size=10)):
        reply = await still.ask(route.method, path, data=json.dumps(body).encode())
        check_refusal(reply)
        assert reply.status >= 400
    assert await digest(still.conn) == before


# -- strangers


STRANGE = [
    ("nothing", b"\r\n"),
    ("what is no JSON", b"Content-Length: 1\r\n\r\n{"),
    ("a body beyond all bounds", b"Content-Length: 99999999999\r\n\r\n"),
    ("a body that is not what it says", b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"),
    ("a wish to be told to go on", b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
    ("a wish that nobody knows", b"Expect: nonsense\r\n\r\n"),
    ("a wrong token", b"Authorization: Bearer wrong\r\n\r\n"),
]
TARGETS = [re.sub("[{}]", "", name(route)) for route in GUARDED]
TARGETS += ["GET /", "POST /api", "DELETE /api/leads", "GET /api/leads/../x", "SEARCH /api/leads", "PROPFIND /api"]


@pytest.mark.parametrize("sent", [rest for _, rest in STRANGE], ids=[words for words, _ in STRANGE])
async def test_to_a_stranger_everything_answers_401_before_anything_else(still: Client, sent: bytes) -> None:
    """Guarantee 17, on every path, known or not. Mutant: authorize after the body is read."""
    for target in TARGETS:
        request = head(f"{target}?unknown=1&limit=x", bearer=False)
        reply = read_reply(await first(still, request[:-2] + sent))
        problem = reply.problem(401)
        assert "errors" not in problem, target
        assert reply.headers["WWW-Authenticate"].startswith("Bearer")


async def test_what_strangers_send_is_no_error_in_the_log(still: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody without a token can fill it. Mutant: _Connection.log_exception as aiohttp has it."""
    request = head("POST /api/tasks/1/retry", b"Content-Encoding: gzip", b"Content-Length: 2", bearer=False)
    read_reply(await still.wire(request + b"{}")).problem(401)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


async def test_tokens_are_compared_in_constant_time(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guarantee 17. Mutant: `==` in auth._bears."""
    compared: list[tuple[Any, Any]] = []
    same = hmac.compare_digest

    def noted(left: Any, right: Any) -> bool:
        compared.append((left, right))
        return same(left, right)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    tries = [TOKEN, "", "a", TOKEN[:-1], f"{TOKEN}!", TOKEN.upper(), "x" * 4000]
    told = [(await api.ask("GET", "/api/tasks", token=None, headers=_bearer(one))).status for one in tries]
    assert told == [200, *[401] * (len(tries) - 1)]
    assert compared == [(one.encode(), TOKEN.encode()) for one in tries]


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# -- reading changes nothing


async def test_a_visit_to_everything_changes_nothing(still: Client) -> None:
    """Guarantee 14: GET and HEAD, of what is there and of what isn't. Mutant: an INSERT in any GET handler."""
    before = await digest(still.conn)
    for route in GETS:
        if route.timeout_s is not None:
            path, _ = await path_to(still.conn, route, DOCUMENT)
            for asked in (path, f"{path}?limit=1", f"{path}?token=x", route.path.replace("{", "").replace("}", "")):
                shown, only_head = await still.ask("GET", asked), await still.ask("HEAD", asked)
                assert (only_head.status, only_head.raw) == (shown.status, b"")
                assert shown.status < 500
    assert await digest(still.conn) == before


# -- bodies that are slow, endless, or a bomb


async def test_a_body_that_trickles_is_cut_off(dsn: str) -> None:
    """Each byte comes soon enough, all of them don't. Mutant: a time limit per read instead of per body."""
    async with serving(dsn, bounds=Bounds(body_s=0.3)) as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(head("POST /api/tasks/1/retry", b"Content-Length: 100000"))
        dripping = asyncio.create_task(_drip(writer))
        async with asyncio.timeout(5.0):
            said = await whole_reply(reader)
            others = await api.ask("GET", "/api/tasks")
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
    read_reply(said).problem(408)
    assert others.status == 200


async def _drip(writer: asyncio.StreamWriter) -> None:
    while not writer.transport.is_closing():
        writer.write(b" ")
        await asyncio.sleep(0.01)  # the pace of the client


async def test_what_announces_too_much_is_refused_before_it_is_sent(api: Client) -> None:
    """And who asks whether to send it is never told to go on. Mutant: aiohttp's own answer to Expect."""
    for size in (MIB + 1, 10**12):
        for more in ((), (b"Expect: 100-continue",)):
            request = head("POST /api/tasks/1/retry", b"Content-Length: %d" % size, *more)
            said = await first(api, request)
            read_reply(said).problem(413)
            assert b"100 Continue" not in said


async def test_who_asks_whether_to_go_on_is_told_when_all_is_well(api: Client) -> None:
    request = head("POST /api/tasks/999999/retry", b"Content-Length: 2", b"Expect: 100-continue")
    said = await api.wire(request + b"{}")
    go_on, _, rest = said.partition(b"\r\n\r\n")
    assert go_on == b"HTTP/1.1 100 Continue"
    read_reply(rest).problem(404)


async def test_a_body_without_end_is_refused_after_a_mebibyte(api: Client) -> None:
    """The connection ends soon after, however much more would come. Mutant: lingering without a limit."""
    memory = psutil.Process().memory_info().rss
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(head("POST /api/tasks/1/retry", b"Transfer-Encoding: chunked"))
    pouring = asyncio.create_task(_pour(writer))
    async with asyncio.timeout(10.0):
        said = await reader.readuntil(b"\r\n\r\n")
        answered = time.monotonic() - began
        await asyncio.gather(pouring, return_exceptions=True)
    writer.close()
    assert said.startswith(b"HTTP/1.1 413")
    assert answered < 5.0
    assert psutil.Process().memory_info().rss - memory < 32 * MIB


async def _pour(writer: asyncio.StreamWriter) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    while not writer.transport.is_closing():
        writer.write(chunk)
        await writer.drain()


async def test_a_body_that_unfolds_without_end_is_refused(api: Client) -> None:
    memory = psutil.Process().memory_info().rss
    bomb = zlib.compress(b" " * (256 * MIB), 9)
    memory = max(memory, psutil.Process().memory_info().rss)
    reply = await api.ask("POST", "/api/tasks/1/retry", data=bomb, headers={"Content-Encoding": "deflate"})
    assert reply.status in (400, 413)
    reply.problem(reply.status)
    assert psutil.Process().memory_info().rss - memory < 32 * MIB


# -- a crowd


async def test_two_hundred_at_once_are_all_answered(api: Client) -> None:
    """More clients than connections to the database. Mutant: a lent connection that is not given back."""
    memory = psutil.Process().memory_info().rss
    paths = [(await path_to(api.conn, route, DOCUMENT))[0] for route in GETS if route.timeout_s is not None]
    began = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        client = Client(api.daemon, api.conn, http, api.port)

        async def visit(number: int) -> list[int]:
            mine = [paths[(number + step) % len(paths)] for step in range(4)]
            told = [(await client.ask("GET", path)).status for path in mine]
            told.append((await client.post(f"/api/tasks/{2**62}/cancel")).status)
            return told

        told = await asyncio.gather(*map(visit, range(MANY)))
    assert max(status for statuses in told for status in statuses) < 500
    assert all(statuses[-1] == 404 for statuses in told)
    assert time.monotonic() - began < 30.0
    assert psutil.Process().memory_info().rss - memory < 96 * MIB


async def test_connections_that_say_nothing_are_in_nobodys_way(api: Client) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", api.port) for _ in range(MANY)]
    for number, (_, writer) in enumerate(silent):
        writer.write(head("POST /api/tasks/1/retry", b"Content-Length: 9")[: number * 2])
    try:
        async with asyncio.timeout(5.0):
            assert (await api.ask("GET", "/api/leads")).status == 200
            assert (await api.ask("GET", "/readyz")).status == 200
    finally:
        for _, writer in silent:
            writer.close()


# -- what is no HTTP


NO_HTTP = [
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"G\xffT / HTTP/1.1\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\n\r\n",
    b"GET /api/leads HTTP/1.1\r\n\r\n",
    b"GET /api/leads HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /api/leads HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\x00word\r\n\r\n",
    b"GET /api/leads HTTP/1.1\r\nHost: a\r\nsecret word: b\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(500)) + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
]


@pytest.mark.parametrize("sent", NO_HTTP, ids=lambda sent: repr(sent[:40]))
async def test_what_is_no_http_is_refused_and_quoted_nowhere(api: Client, sent: bytes) -> None:
    """Mutant: aiohttp's own answer, which quotes what it can't read and logs it as an error."""
    with capture_logs() as logged:
        reply = read_reply(await api.wire(sent))
    reply.problem(400)
    assert b"secret" not in reply.raw
    assert reply.headers["Server"] == "orchestrator"
    assert [line for line in logged if line["log_level"] != "debug" or "secret" in str(line)] == []


async def test_a_target_that_is_no_path_is_found_nowhere(api: Client) -> None:
    read_reply(await api.wire(head("OPTIONS *"))).problem(404)


STARTS = [b"", b"GET ", b"GET /healthz HTTP/1.1\r\nHost: a\r\n", head("POST /api/tasks/1/retry")[:-2]]
PARTS = st.binary(max_size=20) | st.sampled_from([b"\r\n", b": ", b"Content-Length", b"\r\n\r\n"])


@settings(LAX, max_examples=100)
@given(start=st.sampled_from(STARTS), rest=st.lists(PARTS, max_size=8))
async def test_no_bytes_do_any_harm(api: Client, start: bytes, rest: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(start + b"".join(rest))
    writer.write_eof()
    async with asyncio.timeout(10.0):
        said = await reader.read()
    writer.close()
    assert said == b"" or (said.startswith(b"HTTP/1.") and said[9:10] in b"24"), said
    assert (await api.ask("GET", "/healthz", token=None)).status == 200
