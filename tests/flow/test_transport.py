"""Calls to real servers on loopback and to real programs."""

import asyncio
import itertools
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import pytest
from aiohttp import web

from daemon.answers import Answer, Answered, Failed, Unknown
from daemon.settings import EngineSettings
from daemon.transport import Engine, command, health, open_session, probe, reading

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], AbstractAsyncContextManager[str]]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TOKEN = "s3cret-token"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as opened:
        yield opened


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application(client_max_size=2**25)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_served(said: bytes) -> AsyncIterator[str]:
    """Reads a whole request, says `said` and hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        await reader.readexactly(length)
        writer.write(said)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def engine(session: aiohttp.ClientSession, url: str | None, **more: Any) -> Engine:
    return Engine(EngineSettings(name="sms", url=url, **more), session)


def program(session: aiohttp.ClientSession, source: str, *arguments: str, **more: Any) -> Engine:
    command = [sys.executable, "-c", source, *arguments]
    return Engine(EngineSettings(name="sourcing", command=command, **more), session)


async def call(to: Engine, body: dict[str, Any] | None = None, **more: Any) -> Answer:
    async with to.slot():
        return await to.call("/api/send", body or {"n": 1}, key="k-1", traceparent=TRACE, **more)


async def call_answered_by(session: aiohttp.ClientSession, handler: Handler, **more: Any) -> Answer:
    async with served(handler) as url:
        return await call(engine(session, url, **more))


async def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110  # what other processes do sets no Event
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def answering(*responses: web.Response) -> Handler:
    """Answers with each response in turn, then with the last for ever."""
    left = list(responses)

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        one = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=one.status, body=one.body, headers=one.headers)

    return answer


def streaming(*chunks: bytes) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        return response

    return answer


# The request


async def test_the_request_is_what_the_protocol_says(session: aiohttp.ClientSession) -> None:
    seen: list[tuple[str, str, dict[str, str], Any]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.path, dict(request.headers), await request.json()))
        return web.json_response({"cost": 0.25})

    lead = {"id": UUID(int=7), "score": Decimal("12.30"), "data": {"town": "Köln"}}
    async with served(note) as url:
        answer = await call(engine(session, url, token=TOKEN), {"lead": lead})
    assert answer == Answered({"cost": 0.25}, 200)
    [(method, path, headers, body)] = seen
    assert (method, path) == ("POST", "/api/send")
    assert body == {"lead": {"id": str(UUID(int=7)), "score": 12.30, "data": {"town": "Köln"}}}
    wanted = {
        "Idempotency-Key": "k-1",
        "traceparent": TRACE,
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
    }
    assert wanted.items() <= headers.items()


async def test_numbers_of_the_database_keep_every_digit(session: aiohttp.ClientSession) -> None:
    bodies: list[bytes] = []

    async def note(request: web.Request) -> web.StreamResponse:
        bodies.append(await request.read())
        return web.json_response({})

    async with served(note) as url:
        await call(engine(session, url), {"price": Decimal("0.1234567890123456789012345")})
    assert bodies == [b'{"price":0.1234567890123456789012345}']


async def test_a_get_carries_its_body_as_a_query(session: aiohttp.ClientSession) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.json_response({"query": dict(request.query), "length": request.content_length})

    async with served(echo) as url:
        answer = await call(engine(session, url), {"city": "Köln & Bonn", "count": 2, "tags": ["a"]}, method="get")
    assert answer == Answered({"query": {"city": "Köln & Bonn", "count": "2", "tags": '["a"]'}, "length": None}, 200)


async def test_a_full_url_is_called_only_at_the_engines_origin(session: aiohttp.ClientSession) -> None:
    paths: list[str] = []

    async def note(request: web.Request) -> web.StreamResponse:
        paths.append(str(request.rel_url))
        assert "Authorization" not in request.headers
        return web.json_response({})

    async with served(note) as url, served(note) as elsewhere:
        to = engine(session, url)
        with_password = url.replace("http://", "http://user:pa55word@")
        assert isinstance(await call(to, url=f"{with_password}/x?y=1"), Answered)
        at = url.removeprefix("http://")
        for foreign in (
            elsewhere,
            f"https://{at}/x",
            f"http://{at}@evil.test/x",
            "//evil.test/x",
            "/api/x",
            "file:///etc",
        ):
            refused = await call(to, url=foreign)
            assert isinstance(refused, Failed)
            assert not refused.retryable
        assert isinstance(await to.call("//evil.test/x", {}, key="k", traceparent=""), Answered)
    assert paths == ["/x?y=1", "/evil.test/x"]


@pytest.mark.parametrize("body", [{"n": 2**70}, {"s": {1, 2}}, {"d": Decimal("NaN")}])
async def test_a_request_that_is_no_json_fails_before_it_goes_out(
    session: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    answer = await call(engine(session, "http://127.0.0.1:9"), body)
    assert isinstance(answer, Failed)
    assert not answer.retryable


async def test_a_key_cannot_smuggle_a_header(session: aiohttp.ClientSession) -> None:
    async with served(answering(web.json_response({}))) as url:
        answer = await engine(session, url).call("/x", {}, key="k\r\nX-Evil: 1", traceparent=TRACE)
    assert isinstance(answer, Failed)
    assert not answer.retryable


# Plain answers


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"<html>", b'{"a":', b"\xff", b'{"a":' * 300 + b"1" + b"}" * 300]
)
async def test_success_without_a_json_object_is_of_unknown_outcome(session: aiohttp.ClientSession, body: bytes) -> None:
    answer = await call_answered_by(session, answering(web.Response(body=body)))
    assert isinstance(answer, Unknown)
    assert answer.http_status == 200
    assert "no JSON object" in answer.error


async def test_a_result_holds_no_nul_for_a_column_could_not(session: aiohttp.ClientSession) -> None:
    body = rb'{"a\u0000":"\u0000\u0000x", "b": "\\u0000", "c": "\\\u0000"}'
    answer = await call_answered_by(session, answering(web.Response(body=body)))
    assert answer == Answered({"a\ufffd": "\ufffd\ufffdx", "b": r"\u0000", "c": "\\\ufffd"}, 200)


ODD = (
    rb'{"cost": NaN, "most": [Infinity, -Infinity, 1e999], "text": "a\ud83d\u0000", "\udc00": 1, "all": "\ud83d\ude00"}'
)
READ = {"cost": None, "most": [None] * 3, "text": "a\ufffd\ufffd", "\ufffd": 1, "all": "\U0001f600"}


async def test_what_python_writes_for_json_is_an_answer(session: aiohttp.ClientSession) -> None:
    """Mutant: `read_object` takes None where orjson refuses."""
    assert await call_answered_by(session, answering(web.Response(body=ODD))) == Answered(READ, 200)
    stream = streaming(b"event: complete\ndata: " + ODD + b"\n\n")
    assert await call_answered_by(session, stream) == Answered(READ, 200)
    accepted = web.Response(status=202, headers={"Location": "/jobs/1", "Retry-After": "0"})
    report = web.Response(body=b'{"status": "completed", "result": ' + ODD + b"}")
    assert await call_answered_by(session, answering(accepted, report)) == Answered(READ, 200)
    assert await call(program(session, f"print({ODD.decode()!r})")) == Answered(READ, 200)


async def test_an_answer_without_end_is_of_unknown_outcome(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 2**16)

    monkeypatch.setattr(reading, "BODY_LIMIT", 2**20)
    answer = await call_answered_by(session, endless)
    assert answer == Unknown("sms: the answer is larger than 1048576 bytes", 200)


async def test_a_compressed_bomb_is_of_unknown_outcome(session: aiohttp.ClientSession) -> None:
    async def bomb(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=b" " * (4 * reading.BODY_LIMIT))
        response.enable_compression(web.ContentCoding.gzip)
        return response

    assert isinstance(await call_answered_by(session, bomb), Unknown)


async def test_a_redirect_is_not_followed(session: aiohttp.ClientSession) -> None:
    calls: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        calls.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    answer = await call_answered_by(session, redirect)
    assert answer == Failed("sms: HTTP 307: redirects are not followed", False, None, 307)
    assert calls == ["/api/send"]


async def test_a_problem_document_gives_the_error_and_retry_after_the_pause(session: aiohttp.ClientSession) -> None:
    problem = web.json_response(
        {"title": "Busy", "detail": f"later,\nyour token is {TOKEN}"},
        status=503,
        content_type="application/problem+json",
        headers={"Retry-After": "7"},
    )
    answer = await call_answered_by(session, answering(problem), token=TOKEN)
    assert answer == Failed("sms: HTTP 503: later, your token is ***", True, 7.0, 503)


async def test_a_long_error_is_cut(session: aiohttp.ClientSession) -> None:
    answer = await call_answered_by(session, answering(web.Response(status=400, body=b"no\0 " * 100_000)))
    assert isinstance(answer, Failed)
    assert len(answer.error) == 500
    assert answer.error.isprintable()


# Streams


async def test_a_stream_is_settled_by_complete(session: aiohttp.ClientSession) -> None:
    handler = streaming(
        b": hello\r\n\r\nevent: progress\r\ndata: {}\r",
        b"\n\r\nevent: com",
        b'plete\ndata: {"cost":\n',
        b"data: 2}\n\ndata: never read\n\n",
    )
    assert await call_answered_by(session, handler) == Answered({"cost": 2}, 200)


async def test_a_stream_is_settled_by_error(session: aiohttp.ClientSession) -> None:
    answer = await call_answered_by(
        session, streaming(b'event: error\ndata: {"detail": "no credit", "status": 402}\n\n')
    )
    assert answer == Failed("sms: no credit", False, None, 200)


@pytest.mark.parametrize("cut", [b"", b"event: progress\ndata: {}\n\n", b"event: complete\ndata: {}\n"])
async def test_a_stream_that_just_ends_is_of_unknown_outcome(session: aiohttp.ClientSession, cut: bytes) -> None:
    answer = await call_answered_by(session, streaming(cut) if cut else streaming())
    assert isinstance(answer, Unknown)
    assert "ended without" in answer.error


async def test_a_cut_stream_is_of_unknown_outcome(session: aiohttp.ClientSession) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw_served(head + b"4\r\n: hi") as url:
        assert isinstance(await call(engine(session, url)), Unknown)


async def test_a_boundless_event_is_of_unknown_outcome(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_LIMIT", 1000)
    answer = await call_answered_by(session, streaming(b"data: x\n" * 1000))
    assert isinstance(answer, Unknown)
    assert "larger than 1000" in answer.error


# Accepted calls


def accepting(*reports: web.Response, location: str | None = "../jobs/1?x=2", **headers: str) -> Handler:
    later = answering(*reports) if reports else None

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            place = {"Location": location} if location is not None else {}
            return web.Response(status=202, headers=place | {"Retry-After": "0"} | headers)
        assert later is not None
        assert request.path_qs == "/jobs/1?x=2"
        assert request.headers["traceparent"] == TRACE
        assert "Idempotency-Key" not in request.headers
        return await later(request)

    return answer


async def test_an_accepted_call_is_polled_until_it_is_over(session: aiohttp.ClientSession) -> None:
    now = {"Retry-After": "0"}
    reports = [
        web.json_response({"status": "running"}, headers=now),
        web.Response(status=503, headers=now),
        web.Response(body=b"garbage", headers=now),
        web.json_response({"status": "completed", "result": {"cost": 3}}),
    ]
    assert await call_answered_by(session, accepting(*reports)) == Answered({"cost": 3}, 200)


async def test_an_accepted_call_may_fail(session: aiohttp.ClientSession) -> None:
    report = web.json_response({"status": "failed", "error": "no such number"})
    assert await call_answered_by(session, accepting(report)) == Failed("sms: no such number", True, None, 200)


async def test_retry_after_spaces_the_polls(session: aiohttp.ClientSession) -> None:
    at: list[float] = []

    async def busy(request: web.Request) -> web.StreamResponse:
        at.append(time.monotonic())
        report: dict[str, Any] = {"status": "completed" if len(at) == 3 else "running", "result": {}}
        status = 202 if request.method == "POST" else 200
        return web.json_response(report, status=status, headers={"Location": "/job", "Retry-After": "1"})

    assert isinstance(await call_answered_by(session, busy), Answered)
    assert all(1.0 <= later - earlier < 3.0 for earlier, later in itertools.pairwise(at))


async def test_polls_that_fail_until_the_deadline_leave_the_outcome_unknown(session: aiohttp.ClientSession) -> None:
    handler = accepting(web.Response(status=500, headers={"Retry-After": "0"}))
    answer = await call_answered_by(session, handler, timeout_s=0.4)
    assert answer == Unknown("sms: no answer within 0.4 s (last poll: HTTP 500)", 202)


async def test_a_call_accepted_without_a_location_waits_for_the_webhook(session: aiohttp.ClientSession) -> None:
    answer = await call_answered_by(session, accepting(location=None))
    assert answer == Unknown("sms: accepted; waiting for the webhook", 202)


@pytest.mark.parametrize("location", ["http://evil.test/jobs", "//evil.test/jobs", "http://[bad", "file:///etc/passwd"])
async def test_a_location_elsewhere_is_not_polled(session: aiohttp.ClientSession, location: str) -> None:
    answer = await call_answered_by(session, accepting(location=location))
    assert answer == Unknown("sms: accepted, but its Location is not at the engine's origin", 202)


# Lost answers


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_refused_connection_is_a_failure_worth_a_retry(session: aiohttp.ClientSession, method: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        answer = await call(engine(session, f"http://127.0.0.1:{closed.getsockname()[1]}"), method=method)
    assert isinstance(answer, Failed)
    assert answer.retryable


async def test_a_name_nobody_knows_is_a_failure_worth_a_retry(session: aiohttp.ClientSession) -> None:
    answer = await call(engine(session, "http://engine.invalid"))
    assert isinstance(answer, Failed)
    assert answer.retryable


async def test_a_broken_tls_handshake_is_a_failure_worth_a_retry(session: aiohttp.ClientSession) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 no TLS here\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        answer = await call(engine(session, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert isinstance(answer, Failed)
    assert answer.retryable


async def test_a_handshake_that_never_ends_is_a_failure_for_nothing_went_out(session: aiohttp.ClientSession) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        answer = await call(engine(session, f"https://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2))
    assert answer == Failed("sms: no answer within 0.2 s", True)


async def test_silence_after_the_request_is_of_unknown_outcome(session: aiohttp.ClientSession) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await request.read()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    answer = await call_answered_by(session, silent, timeout_s=0.2)
    assert answer == Unknown("sms: no answer within 0.2 s", None)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 2",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_a_break_after_the_request_is_of_unknown_outcome(session: aiohttp.ClientSession, said: bytes) -> None:
    async with raw_served(said) as url:
        assert isinstance(await call(engine(session, url)), Unknown)


async def test_a_refusal_whose_body_breaks_off_is_still_a_failure(session: aiohttp.ClientSession) -> None:
    async with raw_served(b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 100\r\n\r\n{") as url:
        assert await call(engine(session, url)) == Failed("sms: HTTP 503", True, 9.0, 503)


async def test_a_call_may_bring_its_own_time_limit(session: aiohttp.ClientSession) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async with served(slow) as url:
        begin = time.monotonic()
        assert isinstance(await call(engine(session, url, timeout_s=60), timeout_s=0.1), Unknown)
    assert time.monotonic() - begin < 10


async def test_cancellation_propagates_and_frees_the_slot(session: aiohttp.ClientSession) -> None:
    held, silent = asyncio.Event(), True

    async def answer(request: web.Request) -> web.StreamResponse:
        held.set()
        if silent:
            await asyncio.Event().wait()
        return web.json_response({})

    async with served(answer) as url:
        to = engine(session, url, max_concurrency=1)
        running = asyncio.create_task(call(to))
        await held.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        silent = False
        assert isinstance(await call(to), Answered)


# Slots, rate, health


async def longest_block(during: Awaitable[object]) -> float:
    """The longest time for which the loop did not come round."""
    gaps = list[float]()

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            last, before = time.perf_counter(), last
            gaps.append(last - before)

    ticking = asyncio.create_task(tick())
    await during
    ticking.cancel()
    return max(gaps)


async def test_a_burst_of_1000_calls_keeps_the_limit_and_never_blocks_the_loop(session: aiohttp.ClientSession) -> None:
    running, most = 0, 0

    async def count(request: web.Request) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await request.read()
        await asyncio.sleep(0.01)
        running -= 1
        return web.json_response({"cost": 0})

    async def burst() -> None:
        results = await asyncio.gather(*(call(to, {"n": n}) for n in range(1000)))
        assert all(isinstance(result, Answered) for result in results)

    async with served(count) as url:
        to = engine(session, url, max_concurrency=64)
        # A busy machine stalls one burst or another; a loop that blocks does so in each.
        blocked = [await longest_block(burst()) for _ in range(3)]
    assert most == 64
    assert min(blocked) < 0.05


async def test_waiting_for_a_slot_does_not_use_up_the_time_limit(session: aiohttp.ClientSession) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.json_response({})

    async with served(slow) as url:
        to = engine(session, url, max_concurrency=1, timeout_s=0.6)
        results = await asyncio.gather(*(call(to) for _ in range(4)))
    assert results == [Answered({}, 200)] * 4


async def test_calls_start_no_faster_than_the_rate(session: aiohttp.ClientSession) -> None:
    at: list[float] = []

    async def note(request: web.Request) -> web.StreamResponse:
        at.append(time.monotonic())
        return web.json_response({})

    async with served(note) as url:
        to = engine(session, url, rate_per_s=20)
        begin = time.monotonic()
        await asyncio.gather(*(call(to) for _ in range(8)))
    assert len(at) == 8
    assert max(at) - begin >= 7 / 20


@pytest.mark.parametrize(("status", "ok"), [(200, True), (302, True), (404, True), (500, False), (503, False)])
async def test_any_answer_below_500_is_healthy(session: aiohttp.ClientSession, status: int, ok: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        assert (request.method, request.path) == ("GET", "/base/health")
        return web.Response(status=status, headers={"Location": "/x"})

    async with served(answer) as url:
        state = await health(session, f"{url}/base/")
        assert (state.ok, state.message) == (ok, f"HTTP {status}")
        assert state.latency_ms >= 0
        assert (await engine(session, f"{url}/base").health()).ok is ok


async def test_no_answer_is_not_healthy_and_tells_no_password(session: aiohttp.ClientSession) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        slow = await probe(session, f"http://user:pa55word@{place}", timeout_s=0.1)
    assert (slow.ok, slow.message) == (False, "no answer within 0.1 s")
    for url in (f"http://user:pa55word@{place}", "http://user:pa55word@[bad", "http://user:pa55word@:x/", "pa55word"):
        state = await probe(session, url, timeout_s=1)
        assert not state.ok
        assert "pa55word" not in state.message


# Commands

ANSWER_BACK = """
import json, os, sys
asked = json.load(sys.stdin)
print(json.dumps({"asked": asked, "arguments": sys.argv[1:], "environment": dict(os.environ),
                  "leads_its_group": os.getpgid(0) == os.getpid()}))
"""


async def test_a_program_gets_one_object_and_answers_one(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_API__TOKEN", "hidden")
    to = program(session, ANSWER_BACK, "--flag", token=TOKEN, claude_code_path="/opt/agent")
    answer = await call(to, {"criteria": {"n": Decimal("1.5")}}, prompt="Learnings first")
    assert isinstance(answer, Answered)
    assert answer.result["asked"] == {
        "operation": "/api/send",
        "prompt": "Learnings first",
        "request": {"criteria": {"n": 1.5}},
        "idempotency_key": "k-1",
    }
    assert answer.result["leads_its_group"]
    assert answer.result["arguments"] == ["--flag"]
    environment = answer.result["environment"]
    assert environment["CLAUDE_CODE_PATH"] == "/opt/agent"
    assert (environment["ENGINE_TOKEN"], environment["TRACEPARENT"]) == (TOKEN, TRACE)
    assert set(environment) <= {*command.ENVIRONMENT, "CLAUDE_CODE_PATH", "ENGINE_TOKEN", "TRACEPARENT"}


async def test_a_program_that_reads_nothing_may_answer(session: aiohttp.ClientSession) -> None:
    answer = await call(program(session, "print('{}')"), {"large": "x" * 2**20})
    assert answer == Answered({}, 200)


@pytest.mark.parametrize(("code", "retryable"), [(1, False), (2, False), (75, True), (127, False)])
async def test_an_exit_code_is_a_failure_told_by_stderr(
    session: aiohttp.ClientSession, code: int, retryable: bool
) -> None:
    source = f"import sys, os; sys.stderr.write('no ' + os.environ['ENGINE_TOKEN'] + '\\n'); sys.exit({code})"
    answer = await call(program(session, source, token=TOKEN))
    assert answer == Failed(f"sourcing: exit {code}: no ***", retryable)


@pytest.mark.parametrize("source", ["print('[]')", "print('done')", "pass", "print('{}{}')"])
async def test_a_program_without_an_object_leaves_the_outcome_unknown(
    session: aiohttp.ClientSession, source: str
) -> None:
    answer = await call(program(session, source))
    assert answer == Unknown("sourcing: the engine reported success, but its result is no JSON object")


async def test_death_by_a_signal_leaves_the_outcome_unknown(session: aiohttp.ClientSession) -> None:
    answer = await call(program(session, "import os; os.kill(os.getpid(), 9)"))
    assert answer == Unknown("sourcing: ended by signal 9")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_a_program_that_says_too_much_is_killed(session: aiohttp.ClientSession, stream: str) -> None:
    source = f"import sys\nwhile True: sys.{stream}.write('x' * 65536)"
    assert await call(program(session, source)) == Unknown("sourcing: it wrote more than it may; killed")


FAMILY = """
import json, os, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path(sys.argv[1]).write_text(json.dumps([os.getpid(), child.pid]))
if sys.argv[2] == "stay":
    time.sleep(600)
print("{}")
"""


def family_in(file: Path) -> list[int]:
    pids: list[int] = orjson.loads(file.read_bytes())
    return pids


async def test_a_program_that_takes_too_long_is_killed_whole(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    answer = await call(program(session, FAMILY, str(file), "stay"), timeout_s=1.5)
    assert answer == Unknown("sourcing: no answer within 1.5 s; killed")
    await until(lambda: not any(map(alive, family_in(file))))


async def test_a_cancelled_call_kills_the_program_whole(session: aiohttp.ClientSession, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    running = asyncio.create_task(call(program(session, FAMILY, str(file), "stay")))
    await until(lambda: file.exists() and file.stat().st_size > 0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not any(map(alive, family_in(file))))


async def test_what_a_program_leaves_behind_neither_delays_nor_outlives_it(
    session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    file = tmp_path / "pids"
    begin = time.monotonic()
    assert await call(program(session, FAMILY, str(file), "go")) == Answered({}, 200)
    assert time.monotonic() - begin < 10
    await until(lambda: not any(map(alive, family_in(file))))


async def test_a_missing_program_is_a_failure_that_no_retry_mends(session: aiohttp.ClientSession) -> None:
    to = Engine(EngineSettings(name="sourcing", command=["/nowhere/agent"]), session)
    answer = await call(to)
    assert isinstance(answer, Failed)
    assert not answer.retryable
    assert not (await to.health()).ok
    assert (await program(session, "pass").health()).ok


async def test_an_engine_without_url_and_command_says_so(session: aiohttp.ClientSession) -> None:
    to = Engine(EngineSettings(name="sourcing"), session)
    assert isinstance(await call(to), Failed)
    assert not (await to.health()).ok
    assert isinstance(await call(program(session, "pass"), url="http://x.test"), Failed)
