"""Hands a mail to the SMTP server of a URL, and says what became of it.

`smtps://` speaks TLS from the start. `smtp://` upgrades by STARTTLS: always before a password is told, unless the
server is on this machine; without a password if the server offers it.
"""

import asyncio
import socket
from contextlib import suppress
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import aiosmtplib
from aiosmtplib.typing import SMTPStatus

from daemon.answers import Answer, Answered, Failed, Unknown, tidy
from daemon.settings.addresses import is_loopback
from daemon.transport.request import Health, explain

_GOODBYE_S = 2.0


class _Client(aiosmtplib.SMTP):
    """Notes when the text of the mail may have gone out."""

    handed_over = False

    async def data(self, *args: Any, **kwargs: Any) -> aiosmtplib.SMTPResponse:
        self.handed_over = True
        return await super().data(*args, **kwargs)


async def send_mail(url: str, mail: EmailMessage, *, timeout_s: float) -> Answer:
    """Send it to its To addresses; without an answer to the text itself the outcome is unknown."""
    client = _client(url, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect()
            _, said = await client.send_message(mail)
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        return _verdict(error, client.handed_over)
    else:
        await _leave(client)
        return Answered({"said": tidy(said)}, int(SMTPStatus.completed))
    finally:
        client.close()


async def probe_mail(url: str, *, timeout_s: float = 5.0) -> Health:
    """Whether the server lets us in; no mail is sent."""
    clock = asyncio.get_running_loop().time
    client, begin, ok, message = _client(url, timeout_s), clock(), True, "ready"
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect()
        await _leave(client)
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        ok, message = False, _verdict(error, handed_over=False).error
    finally:
        client.close()
    return Health(ok, message, round((clock() - begin) * 1000, 1))


def _client(url: str, timeout_s: float) -> _Client:
    parts = urlsplit(url)
    host, user = parts.hostname or "", unquote(parts.username or "")
    upgrade = None if not user else True
    return _Client(
        hostname=host,
        port=parts.port or _usual_port(parts.scheme, user),
        username=user or None,
        password=unquote(parts.password or "") if user else None,
        use_tls=parts.scheme == "smtps",
        start_tls=False if parts.scheme == "smtps" or is_loopback(host) else upgrade,
        timeout=timeout_s,
        local_hostname=socket.gethostname(),  # the default asks the name service
    )


def _usual_port(scheme: str, user: str) -> int:
    if scheme == "smtps":
        return 465
    return 587 if user else 25


async def _leave(client: _Client) -> None:
    """Say goodbye; the mail is out, whatever comes now."""
    with suppress(aiosmtplib.SMTPException, OSError):
        async with asyncio.timeout(_GOODBYE_S):
            await client.quit()


def _verdict(error: Exception, handed_over: bool) -> Failed | Unknown:
    """A refusal is final (5xx) or for now (4xx); a break is of unknown outcome once the text may be out."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return _verdict(error.recipients[0], handed_over)
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code >= 400:
        return Failed(tidy(f"SMTP {error.code}: {error.message}"), retryable=error.code < 500)
    if isinstance(error, aiosmtplib.SMTPNotSupported):
        return Failed(tidy(f"SMTP: {error.message}"), retryable=False)
    if isinstance(error, aiosmtplib.SMTPException | OSError):
        why = tidy(explain(error))
        return Unknown(why) if handed_over else Failed(why, retryable=True)
    return Failed(f"no mail can be made of it: {tidy(str(error))}", retryable=False)
