"""Posts a text to an incoming webhook of Slack's kind (Mattermost and Rocket.Chat speak it, too)."""

import asyncio
from html import escape

import aiohttp

from daemon import answers
from daemon.answers import Answer, Answered, Failed, Unknown
from daemon.transport.documents import as_json
from daemon.transport.reading import asked_pause
from daemon.transport.request import explain
from daemon.transport.session import NO_LIMIT

_LONGEST = 8_000
_ERROR_BYTES = 300


async def post_text(session: aiohttp.ClientSession, url: str, text: str, *, timeout_s: float) -> Answer:
    """POST `{"text": …}`; what it says never pings anybody, and no error repeats the URL."""
    body = as_json({"text": escape(text[:_LONGEST], quote=False)})
    try:
        async with asyncio.timeout(timeout_s), _posted(session, url, body) as response:
            if response.status < 300:
                return Answered({}, response.status)
            said = (await response.content.read(_ERROR_BYTES)).decode("utf-8", "replace")
            return answers.read_refusal(response.status, None, answers.tidy(said), asked_pause(response))
    except aiohttp.InvalidURL as error:
        return Failed(explain(error), retryable=False)
    except aiohttp.ClientConnectorError as error:
        return Failed(explain(error), retryable=True)
    except TimeoutError:
        return Unknown(f"no answer within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        return Unknown(explain(error))


def _posted(session: aiohttp.ClientSession, url: str, body: bytes) -> "aiohttp.client._RequestContextManager":
    headers = {"Content-Type": "application/json"}
    return session.post(url, data=body, headers=headers, allow_redirects=False, timeout=NO_LIMIT)
