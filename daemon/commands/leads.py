"""`orchestrator leads`: list, show, explain, move, erase."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import typer

from daemon.app import erase as erased_by
from daemon.app import explain as explanation_of
from daemon.commands import ids
from daemon.commands.access import person
from daemon.commands.showing import SQL, AsJson, Limit, Page, Row, asked, moment, plain, rows_of, say_json, watched
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

API = Statements("daemon.api", "leads.sql")
LATEST = 100
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _said(wanted: str) -> str:
    if not wanted.strip():
        raise typer.BadParameter("say which lead")
    return wanted.strip()


Wanted = Annotated[
    str,
    typer.Argument(
        metavar="LEAD",
        callback=_said,
        help="Its id or the first 6 or more characters of it; or its whole name, phone number or email address.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="leads", help="Leads.")


# -- list


@group.command("list")
def list_(
    pipeline: Annotated[str | None, typer.Option(help="Only those of this pipeline.")] = None,
    stage: Annotated[str | None, typer.Option(help="Only those in this stage.")] = None,
    needs_review: Annotated[bool, typer.Option("--needs-review", help="Only those flagged for a person.")] = False,
    limit: Limit = 50,
    as_json: AsJson = False,
) -> None:
    """Leads, newest first."""
    flagged = needs_review or None

    async def read(conn: Connection) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
        await _require_known(conn, pipeline, stage)
        rows = await conn.fetch(API["leads"], None, pipeline, stage, flagged, None, None, None, None, limit)
        return rows_of(rows), await ids.short(conn, "lead", [row["id"] for row in rows])

    leads, short = asked(read)
    if as_json:
        say_json({"leads": leads})
        return
    columns = ("id", "stage", "name", "address", "deadline (UTC)", "review")
    lines = (_line(lead, short if watched() else {}) for lead in leads)
    Page().list(columns, lines, "no leads", spare=("deadline (UTC)", "address"))


async def _require_known(conn: Connection, pipeline: str | None, stage: str | None) -> None:
    (known,) = await conn.fetch(API["known_places"], pipeline)
    if pipeline is not None and pipeline not in known["pipelines"]:
        there = ", ".join(known["pipelines"])
        raise typer.BadParameter(f"there is no pipeline {pipeline!r}; there are: {there}", param_hint="--pipeline")
    if stage is not None and stage not in known["stages"]:
        there = ", ".join(known["stages"])
        raise typer.BadParameter(f"there is no stage {stage!r}; there are: {there}", param_hint="--stage")


def _line(lead: Row, short: Mapping[str, str]) -> tuple[Any, ...]:
    review = (lead["review_reason"] or "yes") if lead["needs_review"] else ""
    address = lead["phone"] or lead["email"]
    shown = short.get(lead["id"], lead["id"])
    return (shown, lead["stage"], lead["name"], address, moment(lead["deadline_at"]), review)


# -- one


@group.command()
def show(lead: Wanted, as_json: AsJson = False) -> None:
    """A lead: its row, its history, its messages."""
    found = asked(lambda conn: _read(conn, lead))
    if as_json:
        say_json(found)
        return
    page = Page()
    page.table("", ("lead", ""), ((name, _cell(name, value)) for name, value in found["lead"].items() if value))
    page.table(f"history (the latest {LATEST} at most)", ("at", "event", "from", "to", "by", "more"),
               map(_event, found["events"]))  # fmt: skip
    page.table("messages", ("at", "template", "channel", "status", "reason"), map(_message, found["messages"]))


async def _read(conn: Connection, wanted: str) -> dict[str, Any]:
    lead = await _id_of(conn, wanted)
    events = rows_of(await conn.fetch(API["events"], lead, None, LATEST))
    messages = rows_of(await conn.fetch(SQL["messages"], lead, LATEST))
    return {"lead": await _row(conn, lead), "events": events[::-1], "messages": messages[::-1]}


async def _row(conn: Connection, lead: UUID) -> dict[str, Any]:
    rows = rows_of(await conn.fetch(API["leads"], lead, None, None, None, None, None, None, None, 1))
    if not rows:
        raise OrchestratorError(f"there is no lead {lead}")
    return rows[0]


def _cell(name: str, value: Any) -> Any:
    return moment(value) if name.endswith(("_at", "_until")) else value


def _event(event: Row) -> tuple[Any, ...]:
    stages = event["from_stage"], event["to_stage"]
    return (moment(event["created_at"]), event["event_type"], *stages, event["actor"], event["metadata"])


def _message(message: Row) -> tuple[Any, ...]:
    at = moment(message["sent_at"] or message["send_at"])
    return (at, message["template"], message["channel"], message["status"], message["reason"])


@group.command()
def explain(
    lead: Wanted,
    every: Annotated[bool, typer.Option("--all", help="Open gates, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Why nothing (more) happens with a lead, what happens next, and what a person can do."""
    found = asked(lambda conn: _explained(conn, lead))
    if as_json:
        say_json(found)
        return
    page = Page()
    page.line(found["summary"], "bold")
    page.table("next", ("when (UTC)", "what", "why"), ((moment(s["when"]), s["what"], s["why"]) for s in found["next"]))
    if others := found["waiting_for"][1:]:  # the summary is the first one
        page.table("also waiting for", ("what", "to do"), ((w["what"], w["do"]) for w in others))
    gates = [
        (g["name"], "open" if g["open"] else "closed", g["reason"]) for g in found["gates"] if every or not g["open"]
    ]
    page.table("gates", ("gate", "", "reason"), gates, "all are open")


async def _explained(conn: Connection, wanted: str) -> dict[str, Any]:
    lead = await _id_of(conn, wanted)
    found = await explanation_of(conn, lead)
    if found is None:
        raise OrchestratorError(f"there is no lead {lead}")
    return found


# -- move


@group.command()
def move(
    lead: Wanted,
    stage: Annotated[str, typer.Argument(metavar="STAGE")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the lead's history.")],
    override: Annotated[bool, typer.Option("--override", help="Past the table and the required fields.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move a lead to another stage; its entry action follows."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    moved = asked(lambda conn: _moved(conn, lead, stage, reason, override))
    if as_json:
        say_json({"lead": moved})
    else:
        typer.echo(f"lead {moved['id']} is in {moved['stage']}")


async def _moved(conn: Connection, wanted: str, stage: str, reason: str, override: bool) -> dict[str, Any]:
    lead = await _id_of(conn, wanted)
    wish = (lead, stage, person(), reason)
    await _require_declared(conn, lead, stage)
    if override:
        await conn.execute(API["override_stage"], *wish)
    elif not await conn.fetchval(API["request_transition"], *wish):
        raise _refused(dict(await conn.fetchrow(API["why_refused"], lead, stage) or {}), stage)
    return await _row(conn, lead)


async def _require_declared(conn: Connection, lead: UUID, stage: str) -> None:
    """A typo is no wish to move, which would be on record and flag the lead."""
    why = await conn.fetchrow(API["why_refused"], lead, stage)
    if why is None:
        raise OrchestratorError(f"there is no lead {lead}")
    if stage not in why["stages"]:
        there = ", ".join(why["stages"])
        raise OrchestratorError(f"pipeline {why['pipeline']} has no stage {stage!r}; it has: {there}")


def _refused(why: Mapping[str, Any], stage: str) -> OrchestratorError:
    if why["legal"]:
        return OrchestratorError(f"a lead enters {stage} only with: {', '.join(why['missing'])}; set these in its data")
    legal = ", ".join(why["targets"]) or "none, its stage is terminal"
    return OrchestratorError(f"a lead may not go from {why['stage']} to {stage}; legal targets: {legal}")


# -- erase


@group.command()
def erase(
    lead: ids.Id,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase a person's data for good; the addresses stay excluded, as keyed hashes."""
    found = asked(lambda conn: _row_of(conn, lead))
    if not yes:
        _confirm(found)
    others = asked(lambda conn: erased_by(conn, UUID(found["id"]), person()))
    if as_json:
        say_json({"erased": found["id"], "others": others})
        return
    typer.echo(f"lead {found['id']} is erased")
    if others:
        typer.echo(f"left, but not contacted either, for they share an address: {', '.join(map(str, others))}")


async def _row_of(conn: Connection, beginning: str) -> dict[str, Any]:
    return await _row(conn, await ids.one_id(conn, "lead", beginning))


def _confirm(lead: Mapping[str, Any]) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on; this can't be undone, so say it", param_hint="--yes")
    named = plain(" ".join(filter(None, (lead["name"], lead["company"], lead["email"], lead["phone"]))))
    typer.confirm(f"Erase {named or 'lead'} ({lead['id']}) for good?", abort=True)


# -- which one


async def _id_of(conn: Connection, wanted: str) -> UUID:
    """The one lead of that id, beginning of an id, name, phone number or email address."""
    found = await ids.beginning_so(conn, "lead", wanted) if ids.is_beginning(wanted) else []
    found = found or [row["id"] for row in await conn.fetch(ids.SQL["called"], wanted)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise OrchestratorError(plain(f"there is no lead {wanted!r}; find it: orchestrator leads list"))
    several = ", ".join((await ids.short(conn, "lead", found)).values())
    raise OrchestratorError(plain(f"several leads are {wanted!r}; name one by its id: {several}"))
