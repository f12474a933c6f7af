"""A reply out of an RFC 5322 mail."""

import email
import re
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

from handlers.addresses import normal_address
from handlers.reply_rules.bodies import body_of
from handlers.reply_rules.charsets import decoded, storable
from handlers.reply_rules.reply import InboundReply

LARGEST = 2_000_000  # bytes of a mail that are read; the rest is attachments


def parse_mail(raw: bytes, received_at: datetime | None = None) -> InboundReply:
    """The reply in an RFC 5322 mail, however broken. A report's fields and its subject's headers follow the text."""
    clean = raw[:LARGEST].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        mail = email.message_from_bytes(clean)
        body = body_of(mail)
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError, AssertionError):
        mail = email.message_from_bytes(clean.partition(b"\n\n")[0] + b"\n\n")  # too deep or too broken to take apart
        body = clean.decode("utf-8", "replace")[:100_000]
    headers = _headers(mail)
    sender = headers.get("from") or headers.get("return-path", "")
    to = headers.get("to") or headers.get("delivered-to", "")
    return InboundReply(
        channel="email",
        from_address=_first_address(sender),
        to_address=_first_address(to),
        subject=headers.get("subject", ""),
        body=storable(body),
        headers=headers,
        received_at=received_at or _sent_at(headers.get("date", "")),
    )


def _first_address(text: str) -> str:
    found = re.search(r"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+", text)
    return (normal_address(found.group(), "email") or found.group()) if found else text.strip()


def _headers(mail: Message) -> dict[str, str]:
    """Lower-case names; the first of several wins, as readers show it."""
    return {name.lower(): decoded(str(value)) for name, value in reversed(mail.items()[:300])}


def _sent_at(text: str) -> datetime:
    try:
        sent = parsedate_to_datetime(text)
        return sent.astimezone(UTC) if sent.tzinfo else sent.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return datetime(1970, 1, 1, tzinfo=UTC)
