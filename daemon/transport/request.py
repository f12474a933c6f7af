"""What a call asks, how far it got, and what is said of one that broke off."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from daemon.answers import Answer, Failed, Unknown

Settled = Callable[[], Awaitable[Answer | None]]
"""What the engine's webhook has told meanwhile."""
NO_REQUEST = (ValueError, orjson.JSONEncodeError)  # a body that is no JSON; a header or URL that can't be


class Health(NamedTuple):
    """How an engine or a probe answered."""

    ok: bool
    message: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Request:
    """One call as its cause wants it; `url` overrides the engine's URL + operation, at the same origin."""

    operation: str
    body: Mapping[str, Any]
    key: str
    traceparent: str
    timeout_s: float
    method: str
    url: str | None
    prompt: str
    settled: "Settled | None" = None  # asked while the engine, having accepted the call, works on it


@dataclass(slots=True)
class Progress:
    """How far a call got, for the verdict if it breaks off."""

    sent: bool
    known: Failed | None = None
    status: int | None = None
    note: str = ""

    def lost(self, why: str, retryable: bool = True) -> Failed | Unknown:
        """The verdict on a call that ended without an answer."""
        if self.known is not None:
            return self.known
        if not self.sent:
            return Failed(why, retryable)
        return Unknown(f"{why} ({self.note})" if self.note else why, self.status)


class Transport(Protocol):
    """One way to an engine."""

    async def exchange(self, request: Request) -> Answer:
        """Make the call and say what became of it."""
        ...

    async def health(self) -> Health:
        """Whether somebody is there to answer."""
        ...


def explain(error: Exception) -> str:
    """What went wrong; the text of a refused URL is left out, for it may hold a password."""
    kind = type(error).__name__
    said = "" if isinstance(error, ValueError) and not isinstance(error, OSError) else str(error)
    return f"{kind}: {said}" if said else kind
