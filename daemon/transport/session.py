"""The one client session of all engines, and the question whether somebody answers."""

import asyncio

import aiohttp

from daemon import answers
from daemon.transport.request import Health, explain

NO_LIMIT = aiohttp.ClientTimeout(total=None)
_KEEP_ALIVE_S = 1.0


def open_session() -> aiohttp.ClientSession:
    """The one client session of all engines: no cookies, no proxies, no limit but the engines' own."""
    # An idle connection is given up before any usual server (Node 5 s, gunicorn 2 s) gives it up: a POST that
    # meets a closing connection would be of unknown outcome.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "pipeline-orchestrator"},
        trust_env=False,
    )


async def health(session: aiohttp.ClientSession, url: str, *, timeout_s: float = 5.0) -> Health:
    """GET `url` + `/health`; any answer below 500 is ok."""
    return await probe(session, f"{url.rstrip('/')}/health", timeout_s=timeout_s)


async def probe(session: aiohttp.ClientSession, url: str, *, timeout_s: float = 5.0) -> Health:
    """GET exactly `url`; any answer below 500 is ok."""
    clock = asyncio.get_running_loop().time
    begin = clock()
    try:
        async with asyncio.timeout(timeout_s), session.get(url, allow_redirects=False, timeout=NO_LIMIT) as response:
            ok, message = response.status < 500, f"HTTP {response.status}"
    except TimeoutError:
        ok, message = False, f"no answer within {timeout_s:g} s"
    except aiohttp.ClientConnectorError as error:
        ok, message = False, f"nobody answers there ({error.strerror or error.os_error})"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        ok, message = False, answers.tidy(explain(error))
    return Health(ok, message, round((clock() - begin) * 1000, 1))
