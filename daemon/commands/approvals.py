"""`orchestrator approvals`: what waits for a person's decision, and deciding it."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from daemon.commands.access import person
from daemon.commands.showing import AsJson, Limit, Page, Row, asked, moment, plain, rows_of, say_json
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError
from daemon.gates import Decision, decide

API = Statements("daemon.api", "approvals.sql")
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
RequestId = Annotated[UUID, typer.Argument(metavar="ID")]
Comment = Annotated[str | None, typer.Option("--comment", help="Why.")]


class Status(StrEnum):
    """Where a request stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="approvals", help="What waits for a person's decision.")


@group.command("list")
def list_(
    status: Annotated[Status, typer.Option(help="Only those that stand there.")] = Status.PENDING,
    every: Annotated[bool, typer.Option("--all", help="Decided ones, too.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Requests, newest first; those that wait, unless told otherwise."""
    wanted = None if every else status.value

    async def read(conn: Connection) -> list[dict[str, Any]]:
        return rows_of(await conn.fetch(API["approvals"], None, wanted, None, None, None, None, limit))

    found = asked(read)
    if as_json:
        say_json({"approvals": found})
    else:
        columns = ("id", "checkpoint", "title", "status", "since (UTC)", "until (UTC)", "by")
        Page().table("", columns, map(_line, found), "nothing waits for a decision" if not every else "no requests")


def _line(of: Row) -> tuple[Any, ...]:
    times = moment(of["created_at"]), moment(of["expires_at"])
    return (of["id"], of["checkpoint"], of["title"], of["status"], *times, of["decided_by"])


@group.command()
def show(request: RequestId, as_json: AsJson = False) -> None:
    """A request: what it is about."""
    found = asked(lambda conn: _row(conn, request))
    if as_json:
        say_json({"approval": found})
        return
    rows = [
        (n, moment(v) if n.endswith("_at") else v) for n, v in found.items() if v not in (None, {}) and n != "payload"
    ]
    page = Page()
    page.table("", ("request", ""), rows)
    page.table("what it is about", ("", " "), found["payload"].items())


@group.command()
def approve(
    request: RequestId,
    comment: Comment = None,
    code: Annotated[str | None, typer.Option(help="At extraction: the code that the provider has shown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Approve: the run or lead that waits goes on."""
    _decide(request, Decision("approved", person(), comment, code), as_json)


@group.command()
def reject(
    request: RequestId,
    comment: Annotated[str, typer.Option("--comment", help="Why: the agent hears it from its next request on.")],
    as_json: AsJson = False,
) -> None:
    """Reject: the run that waits is aborted."""
    if not comment.strip():
        raise typer.BadParameter("say why", param_hint="--comment")
    _decide(request, Decision("rejected", person(), comment.strip()), as_json)


def _decide(request: UUID, decision: Decision, as_json: bool) -> None:
    async def settle(conn: Connection) -> dict[str, Any]:
        await decide(conn, request, decision)
        return await _row(conn, request)

    found = asked(settle)
    if as_json:
        say_json({"approval": found})
    else:
        typer.echo(plain(f"{found['title']} is {found['status']} by {found['decided_by']}"))


async def _row(conn: Connection, request: UUID) -> dict[str, Any]:
    rows = rows_of(await conn.fetch(API["approvals"], request, None, None, None, None, None, 1))
    if not rows:
        raise OrchestratorError(f"there is no request {request}")
    return rows[0]
