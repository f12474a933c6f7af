"""A whole daemon with its API on a free port, and a client that speaks to it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from uuid import UUID

import aiohttp
import orjson

from daemon.api.route import Bounds
from daemon.api.server import serve
from daemon.app import Daemon
from daemon.db import Connection, connect
from daemon.log import configure
from daemon.settings import load_settings
from tests.support.processes import until

TOKEN = "a token of the tests"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API said."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The document in it."""
        return orjson.loads(self.raw)

    def problem(self, status: int) -> Any:
        """The problem document, as RFC 9457 and the contract want it."""
        problem = self.json
        assert (self.status, self.headers["Content-Type"]) == (status, "application/problem+json"), self.raw
        assert (problem["status"], problem["success"]) == (status, False)
        assert {"type", "title", "detail"} <= problem.keys()
        assert all({"loc", "msg"} == error.keys() for error in problem.get("errors", []))
        return problem

    @property
    def places(self) -> list[list[str | int]]:
        """Where the input was wrong."""
        return [error["loc"] for error in self.json["errors"]]


@dataclass(frozen=True, slots=True)
class Client:
    """A daemon that serves, and how to ask it."""

    daemon: Daemon = field(repr=False)
    conn: Connection = field(repr=False)
    http: aiohttp.ClientSession = field(repr=False)
    port: int

    async def ask(self, method: str, path: str, *, token: str | None = TOKEN, **options: Any) -> Reply:
        """One request; `token` None: without a credential."""
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        if isinstance(options.get("data"), bytes):
            options["data"] = BytesIO(options["data"])
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.http.request(method, url, headers=headers, **options) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def get(self, path: str, **query: Any) -> Any:
        """The document at a path, which must be there."""
        reply = await self.ask("GET", path, params=query)
        assert reply.status == 200, reply.raw
        return reply.json

    async def post(self, path: str, body: Any = None) -> Reply:
        """Ask for a change."""
        return await self.ask("POST", path, json=body)

    async def wire(self, request: bytes) -> bytes:
        """What the server says to these very bytes, until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        async with asyncio.timeout(10.0):
            said = await reader.read()
        writer.close()
        return said

    async def lead(self, **columns: Any) -> UUID:
        """A lead in conversation, where nothing happens by itself."""
        row = {"name": "Ann", "phone": "+15550001234", "stage": "AI_CONVERSATION"} | columns
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        found: UUID = await self.conn.fetchval(
            f"INSERT INTO leads ({names}) VALUES ({places}) RETURNING id", *row.values()
        )
        return found

    async def task(self, status: str, kind: str = "of-nobody", key: str | None = None) -> int:
        """A task that no worker takes."""
        lease = "gen_random_uuid()" if status == "running" else "NULL"
        found: int = await self.conn.fetchval(
            "INSERT INTO tasks (kind, key, status, lease_id, lease_expires_at)"
            f" VALUES ($1, $2, $3, {lease}, now() + '1 day') RETURNING id", kind, key, status,
        )  # fmt: skip
        return found

    async def quiet(self) -> None:
        """Nothing is due for the daemon."""
        sql = (
            "SELECT NOT EXISTS (SELECT FROM tasks WHERE kind NOT LIKE 'of-nobody%'"
            "                   AND (status = 'running' OR (status = 'available' AND run_at <= clock())))"
            " AND NOT EXISTS (SELECT FROM schedules WHERE next_slot IS NULL)"
        )
        await until(lambda: self.conn.fetchval(sql), 10.0, "a quiet queue")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def serving(
    dsn: str, *, direct: str | None = None, listen: str | None = None, bounds: Bounds | None = None,
    token: str | None = TOKEN, ready: bool = True, **overrides: str,
) -> AsyncIterator[Client]:  # fmt: skip
    """A daemon that works and serves until the block ends; `direct` is the tests' own way to the database."""
    configure("WARNING", "json")  # the default spends seconds on one traceback
    port = free_port()
    settings = load_settings({
        "DATABASE_URL": dsn, "ORCHESTRATOR_API__PORT": str(port), "ORCHESTRATOR_API__TOKEN": token or "",
        "ORCHESTRATOR_SHUTDOWN_GRACE_S": "0.2", **{f"ORCHESTRATOR_{k}": v for k, v in overrides.items()},
    })  # fmt: skip
    async with AsyncExitStack() as parts:
        conn = await connect(direct or dsn)
        parts.push_async_callback(conn.close)
        daemon = await parts.enter_async_context(Daemon(settings, dsn, listen or dsn).assembled())
        await daemon.open_database()
        running = asyncio.create_task(daemon.run((serve(daemon, bounds),)))
        parts.push_async_callback(_end, daemon, running)
        http = await parts.enter_async_context(aiohttp.ClientSession())
        client = Client(daemon, conn, http, port)
        await until(lambda: _answers(client, ready), 10.0, "the API answers")
        yield client


async def _answers(client: Client, ready: bool) -> bool:
    try:
        return (await client.ask("GET", "/readyz" if ready else "/healthz")).status == 200
    except aiohttp.ClientConnectionError:
        return False


async def _end(daemon: Daemon, running: "asyncio.Task[None]") -> None:
    daemon.stop()
    async with asyncio.timeout(10.0):
        await running
