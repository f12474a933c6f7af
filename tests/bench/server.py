"""The one server of a run, with default durability, and what its log tells about statements."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.support.postgres import Server, serve

SETTINGS = {
    "shared_buffers": "256MB",
    "log_line_prefix": "%d|",  # which database a statement was for
    "log_min_messages": "warning",
}
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
EXECUTED = re.compile(r"LOG: +duration: [\d.]+ ms +(?:statement:|execute )")
DURATION = re.compile(r"LOG: +duration: ([\d.]+) ms")
LOG_ALL = "log_min_duration_statement"


@asynccontextmanager
async def durable_server(home: Path) -> AsyncIterator[tuple[Server, dict[str, Any]]]:
    """A server that waits for its disk as any server does, and the settings that matter."""
    with serve(home, SETTINGS) as server:
        conn = await asyncpg.connect(server.dsn)
        try:
            found = {name: await conn.fetchval(f"SHOW {name}") for name in (*DURABLE, "server_version")}
        finally:
            await conn.close()
        assert {found[name] for name in DURABLE} == {"on"}, f"measured without durability: {found}"
        yield server, found


@dataclass(slots=True)
class StatementLog:
    """The statements of one database from some moment on; only those of sessions begun since `begin` are logged."""

    path: Path
    database: str
    offset: int = 0

    async def begin(self, conn: asyncpg.Connection) -> None:
        """Let the server log every statement of sessions that begin from now on."""
        await conn.execute(f"ALTER DATABASE {self.database} SET {LOG_ALL} = 0")

    async def end(self, conn: asyncpg.Connection) -> None:
        """No more of it, for sessions that begin from now on."""
        await conn.execute(f"ALTER DATABASE {self.database} RESET {LOG_ALL}")

    def mark(self) -> None:
        """From here on."""
        self.offset = self.path.stat().st_size

    def executed(self) -> int:
        """How many statements have been executed since the mark."""
        return sum(1 for line in self._lines() if EXECUTED.search(line))

    def database_ms(self) -> float:
        """The server's time in them: parse, plan and execution."""
        return sum(float(found[1]) for line in self._lines() if (found := DURATION.search(line)))

    def _lines(self) -> list[str]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            said = file.read().decode(errors="replace")
        return [line for line in said.splitlines() if line.startswith(f"{self.database}|")]
