"""`orchestrator tasks`: list, show, a person's retry and cancelling."""

import re
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from daemon import queue
from daemon.app import kinds_of
from daemon.commands import access, ids
from daemon.commands.showing import AsJson, Limit, Page, Row, asked, moment, rows_of, say_json
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

API = Statements("daemon.api", "tasks.sql")
SQL = Statements("daemon.commands", "tasks.sql")
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

TaskId = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**63 - 1)]


class Status(StrEnum):
    """Where a task stands; done and cancelled ones have ended."""

    AVAILABLE = "available"
    RUNNING = "running"
    DEAD = "dead"
    DONE = "done"
    CANCELLED = "cancelled"


OPEN = (Status.AVAILABLE, Status.RUNNING, Status.DEAD)
ENDED = (Status.DONE, Status.CANCELLED)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="tasks", help="The queue.")


@group.command("list")
def list_(
    status: Annotated[Status | None, typer.Option(help="Only those that stand there.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only those of this kind.")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Tasks, newest first: those in the queue, dead ones too, then those that have ended."""

    async def read(conn: Connection) -> tuple[list[dict[str, Any]], int, Mapping[str, str]]:
        tasks = await _some(conn, status, kind, limit)
        every = len(tasks) if len(tasks) < limit else await conn.fetchval(SQL["how_many"], status, kind)
        return tasks, every - len(tasks), await ids.names(conn, filter(None, map(_lead_of, tasks)))

    tasks, more, names = asked(read)
    if as_json:
        say_json({"tasks": tasks})
        return
    columns = ("id", "kind", "status", "due (UTC)", "tries", "lead", "key", "error")
    lines = (_line(task, names.get(_lead_of(task) or "")) for task in tasks)
    Page().list(columns, lines, "no tasks", spare=("key", "due (UTC)", "tries"))
    if more > 0:
        typer.echo(f"{more} more: --limit", err=True)


async def _some(conn: Connection, status: Status | None, kind: str | None, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for group in [(status,)] if status else [OPEN, ENDED]:
        some = [row for one in group for row in await conn.fetch(API["tasks"], None, one, kind, None, limit)]
        found += rows_of(sorted(some, key=lambda row: row["id"], reverse=True))
    return found[:limit]


def _lead_of(task: Row) -> str | None:
    found = re.fullmatch(r"lead:([0-9a-f-]{36})", task["key"] or "")
    return found and found[1]


def _line(task: Row, lead: str | None) -> tuple[Any, ...]:
    tries = f"{task['attempt']}/{task['max_attempts'] or '-'}"
    return (task["id"], task["kind"], task["status"], moment(task["run_at"]), tries, lead, task["key"], task["error"])


@group.command()
def show(task: TaskId, as_json: AsJson = False) -> None:
    """A task: all that is known about it."""
    found = asked(lambda conn: _row(conn, task))
    if as_json:
        say_json({"task": found})
        return
    rows = ((n, moment(v) if n.endswith("_at") else v) for n, v in found.items() if v not in (None, {}))
    Page().table("", ("task", ""), rows)


async def _row(conn: Connection, task: int) -> dict[str, Any]:
    rows = rows_of(await conn.fetch(API["tasks"], task, None, None, None, 1))
    if not rows:
        raise OrchestratorError(f"there is no task {task}")
    return rows[0]


@group.command()
def retry(task: TaskId, as_json: AsJson = False) -> None:
    """Start a dead task anew, or a waiting one at once."""
    _change(task, queue.retry, "retried", as_json)


@group.command()
def cancel(task: TaskId, as_json: AsJson = False) -> None:
    """Cancel a task that is not running; what it was about learns of it."""
    _change(task, _cancel, "cancelled", as_json)


async def _cancel(conn: Connection, task: int) -> bool:
    return await queue.cancel(conn, kinds_of(access.read_settings()), task)


def _change(task: int, wish: Callable[[Connection, int], Awaitable[bool]], done: str, as_json: bool) -> None:
    async def change(conn: Connection) -> dict[str, Any]:
        granted = await wish(conn, task)
        row = await _row(conn, task)
        if not granted:
            raise OrchestratorError(f"task {task} is {row['status']}: it can't be {done}")
        return row

    row = asked(change)
    if as_json:
        say_json({"task": row})
    else:
        typer.echo(f"task {task} ({row['kind']}) is {row['status']}")
