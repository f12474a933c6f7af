"""`orchestrator approvals`: what waits for a person's decision, and deciding it."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from daemon.commands import ids
from daemon.commands.access import person
from daemon.commands.showing import AsJson, Limit, Page, Row, asked, moment, plain, rows_of, say_json, watched
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError
from daemon.gates import Decision, decide

API = Statements("daemon.api", "approvals.sql")
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
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

    async def read(conn: Connection) -> tuple[list[dict[str, Any]], Mapping[str, str], Mapping[str, str]]:
        rows = await conn.fetch(API["approvals"], None, wanted, None, None, None, None, limit)
        found = rows_of(rows)
        short = await ids.short(conn, "request", [row["id"] for row in rows])
        return found, short, await ids.names(conn, [of["lead_id"] for of in found])

    found, short, names = asked(read)
    if as_json:
        say_json({"approvals": found})
        return
    columns = ("id", "checkpoint", "lead", "title", "status", "since (UTC)", "until (UTC)", "by")
    lines = (_line(of, short if watched() else {}, names) for of in found)
    spare = ("by", "until (UTC)", "since (UTC)", "status")
    Page().list(columns, lines, "nothing waits for a decision" if not every else "no requests", spare)


def _line(of: Row, short: Mapping[str, str], names: Mapping[str, str]) -> tuple[Any, ...]:
    shown, lead = short.get(of["id"], of["id"]), names.get(of["lead_id"])
    times = moment(of["created_at"]), moment(of["expires_at"])
    return (shown, of["checkpoint"], lead, of["title"], of["status"], *times, of["decided_by"])


@group.command()
def show(request: ids.Id, as_json: AsJson = False) -> None:
    """A request: what it is about."""

    async def read(conn: Connection) -> tuple[dict[str, Any], Mapping[str, str]]:
        found = await _row(conn, await ids.one_id(conn, "request", request))
        return found, await ids.names(conn, [found["lead_id"]])

    found, names = asked(read)
    if as_json:
        say_json({"approval": found})
        return
    rows = [
        (n, moment(v) if n.endswith("_at") else v) for n, v in found.items() if v not in (None, {}) and n != "payload"
    ]
    page = Page()
    page.table("", ("request", ""), rows)
    page.table("what it is about", ("", " "), [*_lead(found, names), *_about(found["payload"])])


def _lead(found: Row, names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    if found["lead_id"] in names:
        yield "lead", names[found["lead_id"]]


def _about(payload: Row) -> Iterator[tuple[str, Any]]:
    """What a payload says; of a reply, what a person reads."""
    reply = payload.get("reply")
    if isinstance(reply, dict):
        yield "from", reply.get("from_address")
        yield "received", moment(reply.get("received_at"))
        yield from [("subject", reply["subject"])] if reply.get("subject") else []
        yield "body", reply.get("body")
    yield from ((name, value) for name, value in payload.items() if value is not reply or not isinstance(reply, dict))


@group.command()
def approve(
    request: ids.Id,
    comment: Comment = None,
    code: Annotated[str | None, typer.Option(help="At extraction: the code that the provider has shown.")] = None,
    as_json: AsJson = False,
) -> None:
    """Approve: the run or lead that waits goes on."""
    _decide(request, Decision("approved", person(), comment, code), as_json)


@group.command()
def reject(
    request: ids.Id,
    comment: Annotated[str, typer.Option("--comment", help="Why: the agent hears it from its next request on.")],
    as_json: AsJson = False,
) -> None:
    """Reject: the run that waits is aborted."""
    if not comment.strip():
        raise typer.BadParameter("say why", param_hint="--comment")
    _decide(request, Decision("rejected", person(), comment.strip()), as_json)


def _decide(beginning: str, decision: Decision, as_json: bool) -> None:
    async def settle(conn: Connection) -> dict[str, Any]:
        request = await ids.one_id(conn, "request", beginning)
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
