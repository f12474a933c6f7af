"""What a mail says: its text, the fields of a report in it, and the headers of the mail that it is about."""

import base64
import binascii
from collections.abc import Iterator
from email.message import Message

from handlers import delivery_reports
from handlers.reply_rules.charsets import decoded, in_charset
from handlers.reply_rules.markup import text_of_html

DEEPEST = 200  # parts looked at


def body_of(mail: Message) -> str:
    """The text that a reader sees, then the fields of a report, then the headers of the mail that it is about."""
    plain: list[str] = []
    marked: list[str] = []
    report: list[str] = []
    original = ""
    for part in _parts(mail):
        kind = part.get_content_type()
        if kind in {"message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"}:
            original = original or _original(part)
        elif kind.startswith("message/"):
            report.append(_field_text(part))
        elif kind.startswith("multipart/"):
            plain.append(_unparted(part))
        elif kind == "text/plain" and part.get_content_disposition() != "attachment":
            plain.append(_text(part))
        elif kind == "text/html":
            marked.append(text_of_html(_text(part)))
    text = "\n".join(plain) if any(p.strip() for p in plain) else "\n".join(marked)
    tail = f"\n\n{delivery_reports.ORIGINAL}\n{original}" if original else ""
    return "\n\n".join([text[:20_000], *report] if report else [text]) + tail  # a report's fields must not drown


def _parts(mail: Message) -> Iterator[Message]:
    """The leaves, in order; a mail within a mail is a leaf."""
    waiting, seen = [mail], 0
    while waiting and seen < DEEPEST:
        part, seen = waiting.pop(0), seen + 1
        inner = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(inner, list):
            waiting[:0] = [p for p in inner if isinstance(p, Message)]
        else:
            yield part


def _text(part: Message) -> str:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    return in_charset(content, part.get_content_charset("utf-8") or "utf-8")[:500_000]


def _unparted(part: Message) -> str:
    """What claims to have parts and has none."""
    content = part.get_payload()
    return content if isinstance(content, str) else ""


def _original(part: Message) -> str:
    inner = part.get_payload()
    if isinstance(inner, list):
        held = [p for p in inner[:1] if isinstance(p, Message)]
        return "\n".join(f"{name}: {decoded(str(value))}" for p in held for name, value in p.items())
    return _text(part).split("\n\n")[0]


def _field_text(part: Message) -> str:
    """The fields of a delivery status or feedback report, which the parser takes for headers of small mails."""
    inner = part.get_payload()
    groups = [p for p in inner if isinstance(p, Message)] if isinstance(inner, list) else []
    if not groups:
        return _text(part)
    return "\n\n".join(_group_text(group, str(part.get("Content-Transfer-Encoding", ""))) for group in groups)


def _group_text(group: Message, encoding: str) -> str:
    fields = "\n".join(f"{name}: {decoded(str(value))}" for name, value in group.items())
    rest = group.get_payload()
    rest = rest if isinstance(rest, str) else ""
    if not fields and encoding.lower() == "base64":
        try:
            rest = base64.b64decode(rest, validate=False).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return rest
    return f"{fields}\n\n{rest}".strip()
