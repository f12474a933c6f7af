"""Reads an HTTP response to its verdict: an object, a stream of events, a refusal, the report on an accepted call."""

from datetime import UTC, datetime

import aiohttp

from daemon import answers
from daemon.answers import Answer, Failed, Unknown
from daemon.retry import parse_retry_after
from daemon.sse import EventStream, TooLargeError
from daemon.transport.documents import read_object
from daemon.transport.request import Progress

BODY_LIMIT = 16 * 2**20
ERROR_BODY_LIMIT = 64 * 2**10


async def read(response: aiohttp.ClientResponse, progress: Progress) -> Answer:
    """The verdict on a call that was answered at once."""
    if response.status >= 300:
        return await _read_refusal(response, progress)
    if response.content_type == "text/event-stream":
        return await _read_stream(response)
    return answers.read_result(read_object(await _collect(response)), response.status)


async def read_report(response: aiohttp.ClientResponse) -> Answer | None:
    """The verdict on an accepted call, or None as long as there is none."""
    report = read_object(await _collect(response)) if response.status < 300 else None
    return None if report is None else answers.read_report(report, response.status)


def asked_pause(response: aiohttp.ClientResponse) -> float | None:
    """The seconds that the engine asked us to wait."""
    header = response.headers.get("Retry-After")
    return None if header is None else parse_retry_after(header, datetime.now(UTC))


async def _read_refusal(response: aiohttp.ClientResponse, progress: Progress) -> Failed:
    pause_s = asked_pause(response)
    progress.known = answers.read_refusal(response.status, None, "", pause_s)
    body = await _beginning(response, ERROR_BODY_LIMIT)
    return answers.read_refusal(response.status, read_object(body), body.decode("utf-8", "replace"), pause_s)


async def _read_stream(response: aiohttp.ClientResponse) -> Answer:
    stream = EventStream(BODY_LIMIT)
    async for chunk in response.content.iter_any():
        for event in stream.feed(chunk):
            document = read_object(event.text.encode())
            if (answer := answers.read_event(event.kind, document, event.text)) is not None:
                return answer
    return Unknown("the stream ended without complete or error", response.status)


async def _collect(response: aiohttp.ClientResponse) -> bytes:
    body = await _beginning(response, BODY_LIMIT)
    if len(body) > BODY_LIMIT:
        raise TooLargeError(f"the answer is larger than {BODY_LIMIT} bytes")
    return body


async def _beginning(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or a little more than its first `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)
