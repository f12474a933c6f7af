"""A reply before anyone has judged it, and a judgement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class InboundReply:
    """A row of `replies` before anyone has judged it. A mail's machine-readable report is part of the body."""

    channel: Literal["email", "sms"]
    from_address: str
    to_address: str
    subject: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)
    received_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A category with its reason; `suppress` are the addresses never to write to again, `failed` those of a report."""

    category: str
    confidence: float
    reason: str
    suppress: tuple[str, ...] = ()
    suppress_reason: Literal["bounce", "opt_out", "complaint"] | None = None
    return_date: date | None = None
    failed_recipients: tuple[str, ...] = ()
