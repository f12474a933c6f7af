"""Waits for a run's end: at a terminal a live picture of its steps and its money, else not a word."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import typer

from daemon.commands.showing import Row, plain
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

RUNS = Statements("daemon.api", "runs.sql")
SQL = Statements("daemon.commands", "campaigns.sql")
OVER = ("completed", "partial", "failed", "aborted", "cancelled", "skipped", "missed")
LOOK_S = 0.25
PATIENCE_S = 10.0
STYLES = {"running": "cyan", "waiting": "yellow", "completed": "green", "failed": "red", "unknown": "red"}


@dataclass(slots=True)
class Waiting:
    """One wait: whether it may draw, what has been said, and since when nobody has taken the run."""

    quiet: bool = False
    told: set[str] = field(default_factory=set)
    untaken_since: float | None = None

    def say(self, text: str) -> None:
        """One line on stderr, once."""
        if text not in self.told and not self.quiet:
            self.told.add(text)
            typer.echo(plain(text), err=True)


async def wait_for(conn: Connection, run: UUID, waiting: Waiting) -> dict[str, Any]:
    """The run once it has ended; OrchestratorError if there is nobody to carry it out."""
    with _picture(quiet=waiting.quiet) as live:
        while True:
            found = orjson.loads(await conn.fetchval(RUNS["run"], run))
            if live is not None:
                live.update(picture(found, await _spent(conn, found)), refresh=True)
            if found["status"] in OVER:
                return dict(found)
            await _require_taken(conn, run, waiting)
            if found["status"] == "waiting":
                await _say_request(conn, run, waiting)
            await asyncio.sleep(LOOK_S)


def _picture(*, quiet: bool) -> AbstractContextManager["Live | None"]:
    if quiet or not sys.stdout.isatty():
        return nullcontext()
    from rich.live import Live  # noqa: PLC0415 - only who watches needs it

    return Live(auto_refresh=False)


async def _require_taken(conn: Connection, run: UUID, waiting: Waiting) -> None:
    """Nobody at work on it for ten seconds: it is said, and without any daemon there is nothing to wait for."""
    if await conn.fetchval(SQL["taken"], run):
        waiting.untaken_since = None
        return
    waiting.untaken_since = waiting.untaken_since or time.monotonic()
    if time.monotonic() - waiting.untaken_since > PATIENCE_S:
        if not await conn.fetchval(SQL["daemons"]):
            raise OrchestratorError(f"no daemon is running: run {run} waits for one; start it with `orchestrator run`")
        waiting.say(f"no daemon has taken the run for {PATIENCE_S:g} s: they are busy, or can't")


async def _say_request(conn: Connection, run: UUID, waiting: Waiting) -> None:
    for row in await conn.fetch(SQL["requests"], run):
        waiting.say(f"waits for a person at {row['checkpoint']}: orchestrator approvals approve {row['id']}")


async def _spent(conn: Connection, found: Row) -> Mapping[str, Any]:
    zone = (found["definition"].get("schedule") or {}).get("timezone") or "UTC"
    rows = await conn.fetch(SQL["spent"], UUID(found["campaign_id"]), zone)
    return {row["word"]: row["spent"] for row in rows}


# -- what is shown


def figures(found: Row) -> str:
    """What a run has come to."""
    names = {"prospects_generated": "prospects", "leads_analyzed": "analyzed", "emails_sent": "sent"}
    counts = (f"{word} {found[name]:g}" for name, word in names.items())
    return f"{', '.join(counts)}, cost ${found['total_cost']:.2f}"


def picture(found: Row, spent: Mapping[str, Any]) -> "Group":
    """The run as a picture: its steps, its figures, its money."""
    from rich import box  # noqa: PLC0415 - as above
    from rich.console import Group  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("step", "status", "tries", "seconds", "cost", ""):
        table.add_column(column, no_wrap=column != "", overflow="ellipsis")
    for one in found["steps"]:
        table.add_row(*(Text(plain(cell), style=STYLES.get(one["status"], "")) for cell in _step(one)))
    title = Text(plain(f"{found['campaign']}: {found['status']}"), style="bold")
    return Group(title, table, Text(figures(found)), *(Text(line) for line in _money(found, spent)))


def _step(of: Row) -> Sequence[Any]:
    cost = f"${of['cost']:.2f}" if of["cost"] else ""
    return (of["name"], of["status"], of["attempts"] or "", _seconds(of), cost, (of["error"] or "")[:200])


def _seconds(of: Row) -> str:
    if of["started_at"] is None:
        return ""
    ended = datetime.fromisoformat(of["completed_at"]) if of["completed_at"] else datetime.now(UTC)
    return f"{max((ended - datetime.fromisoformat(of['started_at'])).total_seconds(), 0):.0f}"


def _money(found: Row, spent: Mapping[str, Any]) -> list[str]:
    limits = found["definition"].get("budget") or {}
    known = [(word, limits[word]) for word in ("daily", "weekly", "monthly") if limits.get(word) is not None]
    return [f"{word} budget ${spent.get(word, 0):.2f} of ${limit:.2f}" for word, limit in known]
