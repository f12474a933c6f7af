"""A network between the daemon and Postgres that can misbehave: TCP in front, the server's Unix socket behind.

It reads the server's side of the protocol, so that it can lose one particular answer or every notification.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

NOTIFICATION, COMPLETE, READY = b"A", b"C", b"Z"
FIELDS = b"SFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
GOODBYE = b"E" + (len(FIELDS) + 4).to_bytes(4, "big") + FIELDS
GOODBYE_TAKES_S = 0.3
LOST = (ConnectionError, asyncio.IncompleteReadError)


def server_socket(dsn: str) -> str:
    """The Unix socket of an embedded server."""
    query = parse_qs(urlsplit(dsn).query)
    return f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"


@dataclass(slots=True, eq=False)
class Wire:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    silent: asyncio.Event = field(default_factory=asyncio.Event)
    doomed: bool = False

    def cut(self) -> None:
        """Both sides see it break."""
        for side in (self.client, self.server):
            side.transport.abort()


@dataclass(slots=True)
class Proxy:
    """All connections through one port; what it did to them is counted."""

    behind: str
    port: int = 0
    delay_s: float = 0.0
    silent: bool = False
    mute: bool = False
    losing: bytes = b""
    losses: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("muted", "lost", "cut", "refused", "delayed"), 0)
    )
    wires: set[Wire] = field(default_factory=set)
    _listening: asyncio.Server | None = None
    _pumps: set["asyncio.Task[None]"] = field(default_factory=set)

    def dsn(self, direct: str) -> str:
        """The way through the proxy to the same database."""
        parts = urlsplit(direct)
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"
        return urlunsplit(parts._replace(netloc=netloc, query=urlencode({"sslmode": "disable"})))

    # -- faults

    def go_silent(self, *, new_ones_too: bool = False) -> int:
        """From now on nothing passes, neither bytes nor the end of a connection; how many connections that meets."""
        self.silent = new_ones_too
        for wire in self.wires:
            wire.silent.set()
        return len(self.wires)

    def cut(self) -> int:
        """Break every connection; how many."""
        wires = len(self.wires)
        for wire in tuple(self.wires):
            wire.cut()
        self.counts["cut"] += wires
        return wires

    def say_goodbye(self) -> int:
        """Every client hears that the server is shutting down, some time before its connection ends; how many."""
        loop, wires = asyncio.get_running_loop(), tuple(self.wires)
        for wire in wires:
            wire.client.write(GOODBYE)
            wire.silent.set()
            loop.call_later(GOODBYE_TAKES_S, wire.cut)
        self.wires.clear()
        return len(wires)

    async def refuse(self) -> None:
        """Let nobody in any more."""
        assert self._listening
        self._listening.close()
        self._listening = None

    async def admit(self) -> None:
        """Listen (again, at the same port)."""
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    def lose(self, tag: bytes, times: int) -> None:
        """The next answers to statements with this command tag are lost, and their connections with them."""
        self.losing, self.losses = tag, times

    # -- service

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.behind)
        except OSError:
            self.counts["refused"] += 1
            writer.transport.abort()
            return
        wire = Wire(writer, server_writer)
        if self.silent:
            wire.silent.set()
        self.wires.add(wire)
        for pump in (self._from_client(wire, reader), self._from_server(wire, server_reader)):
            task = asyncio.create_task(self._until_the_end(wire, pump))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _until_the_end(self, wire: Wire, pump: Coroutine[object, object, None]) -> None:
        with suppress(*LOST):
            await pump
        if wire.silent.is_set():  # a silent network tells nobody that the other side has gone
            return
        wire.cut()
        self.wires.discard(wire)

    async def _from_client(self, wire: Wire, reader: asyncio.StreamReader) -> None:
        while said := await reader.read(65536):
            if self.delay_s:
                self.counts["delayed"] += 1
                await asyncio.sleep(self.delay_s)
            await self._pass(wire, wire.server, said)

    async def _from_server(self, wire: Wire, reader: asyncio.StreamReader) -> None:
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
            if self._swallows(wire, head[:1], body):
                continue
            await self._pass(wire, wire.client, head + body)

    def _swallows(self, wire: Wire, kind: bytes, body: bytes) -> bool:
        if kind == NOTIFICATION and self.mute:
            self.counts["muted"] += 1
            return True
        if kind == COMPLETE and self.losses > 0 and body.startswith(self.losing) and not body.endswith(b" 0\x00"):
            self.losses -= 1
            wire.doomed = True
        if kind == READY and wire.doomed:  # only now is it committed
            self.counts["lost"] += 1
            wire.cut()
        return wire.doomed

    async def _pass(self, wire: Wire, to: asyncio.StreamWriter, said: bytes) -> None:
        if not wire.silent.is_set():
            to.write(said)
            await to.drain()

    async def close(self) -> None:
        """End everything."""
        if self._listening:
            self._listening.close()
        for wire in tuple(self.wires):
            wire.cut()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@asynccontextmanager
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy in front of an embedded server."""
    between = Proxy(server_socket(dsn))
    await between.admit()
    try:
        yield between
    finally:
        await between.close()
