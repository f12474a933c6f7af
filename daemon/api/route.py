"""What a route is: one frozen value, from which the application, its checks and its OpenAPI document are made."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from daemon.api.readings import Readings
from daemon.db import Connection, Pool

if TYPE_CHECKING:
    from daemon.app import Daemon

Text = Annotated[str, StringConstraints(max_length=200)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Input(BaseModel):
    """A model of what comes in: nothing unknown is let through."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)


class Nothing(Input):
    """No path parameters, no query, or no keys in the body."""


class Success(BaseModel):
    """What every JSON answer that is no problem begins with."""

    success: Literal[True] = True


P = TypeVar("P", bound=Input)
Q = TypeVar("Q", bound=Input)
B = TypeVar("B", bound=Input)


@dataclass(frozen=True, slots=True)
class Given(Generic[P, Q, B]):
    """A request, read and checked; `request` itself for headers and streams, `raw` for signatures over the body."""

    path: P
    query: Q
    body: B
    raw: bytes
    request: web.Request


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers: JSON, or the bytes of another `media` type."""

    content: Any
    status: int = 200
    media: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request may cost."""

    body_bytes: int = 1024 * 1024
    body_s: float = 10.0
    query_s: float = 6.0


@dataclass(frozen=True, slots=True)
class Api:
    """What handlers work with; a connection for reading can't write."""

    daemon: "Daemon"
    reads: Pool
    writes: Pool
    readings: Readings
    bounds: Bounds

    @asynccontextmanager
    async def reading(self, within_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection whose transactions are read-only; thrown away if it doesn't answer in time."""
        async with self.reads.acquire() as conn, asyncio.timeout(within_s or self.bounds.query_s):
            yield conn

    @asynccontextmanager
    async def writing(self, within_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection for changes, which wake every daemon."""
        async with self.writes.acquire() as conn, asyncio.timeout(within_s or self.bounds.query_s):
            yield conn


Handler = Callable[[Api, Given[Any, Any, Any]], Awaitable[Answer | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path; its handler's docstring is its summary. HEAD comes with GET."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    handler: Handler
    answers: Mapping[int, type[BaseModel] | None]  # None: no JSON
    params: type[Input] = Nothing
    query: type[Input] = Nothing
    body: type[Input] = Nothing
    problems: tuple[int, ...] = ()  # besides those that any route may answer
    open: bool = False  # needs no credential, or checks one of its own
    signed: bool = False  # its handler reads the body, once it has checked the signature over it
    unread: bool = False  # its handler reads the body, being stricter or laxer than a model
    early: bool = False  # answers also as long as the daemon waits for its first connection to the database
    timeout_s: float | None = 15.0  # None: a stream
    media: tuple[str, ...] = ()  # of answers that are no JSON, or not only
    takes: tuple[str, ...] = ("application/json",)  # what the body may be; JSON or a form, of the same fields
