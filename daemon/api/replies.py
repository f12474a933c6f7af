"""Replies: hand one in, as its parts or as a whole mail, and see what became of them."""

import asyncio
import base64
import binascii
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from daemon.api.leads import shown
from daemon.api.paging import NewestCursor, Page, page_of
from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success
from daemon.db import Statements

if TYPE_CHECKING:
    from daemon.app import Daemon

SQL = Statements("daemon.api", "replies.sql")
Channel = Literal["email", "sms"]
Status = Literal["received", "routed", "needs_person", "ignored"]
Category = Literal[
    "bounce", "complaint", "delivery_notice", "auto_reply", "out_of_office", "opt_out", "hard_pass", "soft_pass",
    "interested", "pricing", "acceptance", "rejection", "counter", "question", "referral", "unclear",
]  # fmt: skip
Sender = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
LeadFilter = Annotated[
    UUID, WithJsonSchema({"anyOf": [{"type": "string", "format": "uuid"}, {"type": "string", "maxLength": 0}]})
]
"""As every parameter, an empty one counts as not given."""
Line = Annotated[str, StringConstraints(max_length=2000)]


class RepliesQuery(Page):
    """Which replies."""

    status: Status | None = None
    category: Category | None = None
    lead_id: LeadFilter | None = None
    cursor: NewestCursor | None = None


class NewReply(Input):
    """A reply: its channel, sender and text, or a whole mail (`raw`, RFC 5322 in Base64) and nothing else.

    What has the same externalId (a mail: Message-ID) is the same reply, however often it is handed in.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"channel": "sms", "from": "+14155550123", "body": "Is the offer still open?"}]}
    )

    channel: Channel | None = None
    sender: Annotated[Sender | None, Field(alias="from")] = None
    to: Line | None = None
    subject: Line | None = None
    body: str | None = None
    externalId: Annotated[Line, Field(min_length=1)] | None = None  # noqa: N815 - public name
    raw: str | None = None


class Reply(BaseModel):
    """A reply; `lead_id` once it is known whose it is."""

    id: UUID
    lead_id: UUID | None
    channel: Channel
    from_address: str | None
    to_address: str | None
    subject: str | None
    body: str
    headers: dict[str, Any]
    external_id: str | None
    received_at: AwareDatetime
    category: Category | None
    confidence: float | None
    classified_by: str | None
    status: Status
    reason: str | None


class OneReply(Success):
    """A reply, which is classified and routed next."""

    reply: Reply


class ManyReplies(Success):
    """A page of replies."""

    replies: list[Reply]
    nextCursor: str | None  # noqa: N815 - public name


async def create_reply(api: Api, given: Given[Nothing, Nothing, NewReply]) -> Answer:
    """Hand in a reply; it is matched to its lead, classified and routed."""
    flaws = list(_flaws(given.body))
    if flaws:
        raise unfit(flaws)
    raw = given.body.raw
    row = _columns(given.body) if raw is None else await asyncio.to_thread(_mailed, api.daemon, _decoded(raw))
    async with api.writing() as conn:
        reply = await conn.fetchval(SQL["create"], row)
        found = await conn.fetchrow(
            SQL["replies"], reply, None, None, None, None, None, row["channel"], row["external_id"], 1
        )
    if found is None:
        raise Problem(409, "the reply that was handed in before is gone")
    return Answer({"success": True, "reply": orjson.Fragment(found["shown"])}, 202)


def _flaws(new: NewReply) -> Iterator[Flaw]:
    parts = {"channel": new.channel, "from": new.sender, "body": new.body}
    if new.raw is not None:
        others = new.model_dump(exclude={"raw"}, exclude_none=True, by_alias=True)
        yield from (Flaw((name,), "is read from raw, so it can't be given, too") for name in others)
    else:
        yield from (Flaw((name,), "Field required") for name, part in parts.items() if part is None)


def _columns(new: NewReply) -> dict[str, Any]:
    return {
        "channel": new.channel, "from_address": new.sender, "to_address": new.to, "subject": new.subject,
        "body": new.body, "headers": {}, "external_id": new.externalId,
    }  # fmt: skip


def _decoded(raw: str) -> bytes:
    try:
        mail = base64.b64decode("".join(raw.split()), validate=True)  # some programs fold it into lines
    except (binascii.Error, ValueError):
        raise unfit([Flaw(("raw",), "is not Base64")]) from None
    if not mail.strip():
        raise unfit([Flaw(("raw",), "holds no mail")])
    return mail


def _mailed(daemon: "Daemon", raw: bytes) -> dict[str, Any]:
    """The mail's parts. It was received now: its own date is its sender's word."""
    mail = daemon.read_mail(raw, datetime.now(UTC))
    return {
        "channel": "email", "from_address": mail.from_address, "to_address": mail.to_address, "subject": mail.subject,
        "body": mail.body, "headers": mail.headers, "external_id": _message_id(mail.headers),
    }  # fmt: skip


def _message_id(headers: Mapping[str, str]) -> str | None:
    return headers.get("message-id", "").strip()[:1000] or None


async def list_replies(api: Api, given: Given[Nothing, RepliesQuery, Nothing]) -> Answer:
    """Replies, newest first."""
    query = given.query
    received_at, seen = query.cursor or (None, None)
    filters = (query.status, query.category, query.lead_id)
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["replies"], None, *filters, received_at, seen, None, None, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: (row["received_at"], str(row["id"])))
    return Answer({"success": True, "replies": shown(page), "nextCursor": following})


ROUTES = (
    Route("GET", "/api/replies", list_replies, {200: ManyReplies}, query=RepliesQuery),
    Route("POST", "/api/replies", create_reply, {202: OneReply}, body=NewReply, problems=(409,)),
)
