"""Runs one daemon as a process of its own, as `python -m daemon run` does, with what only tests need.

Its metrics are told on a Unix socket (TEST_METRICS); with TEST_KINDS=1 it knows the strange kinds, too.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import prometheus_client
import uvloop

from daemon.app import Daemon
from daemon.log import configure
from daemon.settings import load_settings
from handlers import registry
from tests.support import strange_kinds


async def tell(daemon: Daemon, path: str) -> None:
    """Answer every connection with the metrics."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(prometheus_client.generate_latest(daemon.metrics.registry))
        writer.close()

    async with await asyncio.start_unix_server(answer, path) as server:
        await server.serve_forever()


async def run(environ: Mapping[str, str]) -> None:
    """One daemon, until it is told to stop."""
    settings = load_settings({k: v for k, v in environ.items() if not k.startswith("TEST_")})
    configure(settings.log.level, settings.log.format)
    dsn = settings.dsn
    assert dsn
    async with Daemon(settings, dsn, settings.listen_dsn or dsn).assembled() as daemon:
        await daemon.open_database()
        await daemon.run((tell(daemon, environ["TEST_METRICS"]),))


def add_strange_kinds() -> None:
    """Let this process know the kinds that no real daemon has."""
    real = registry.kinds

    def both(pipelines: Any) -> dict[str, Any]:
        return {**real(pipelines), **strange_kinds.kinds()}

    registry.kinds = both


if __name__ == "__main__":
    if os.environ.get("TEST_KINDS"):
        add_strange_kinds()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(run(os.environ))
