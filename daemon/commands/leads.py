"""`orchestrator leads`: list, show, explain, move, erase."""

import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import typer

from daemon.app import erase as erased_by
from daemon.app import explain as explanation_of
from daemon.commands.access import person
from daemon.commands.showing import SQL, AsJson, Limit, Page, Row, asked, moment, plain, rows_of, say_json
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

API = Statements("daemon.api", "leads.sql")
LATEST = 100
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _digits(wanted: str) -> str:
    digits = wanted.lower().replace("-", "")
    if not re.fullmatch(r"[0-9a-f]{6,32}", digits):
        raise typer.BadParameter(f"{wanted!r} is no id, nor the first 6 or more characters of one")
    return digits


LeadId = Annotated[
    str, typer.Argument(metavar="ID", callback=_digits, help="Its id, or the first 6 or more characters of it.")
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

    async def read(conn: Connection) -> list[dict[str, Any]]:
        return rows_of(await conn.fetch(API["leads"], None, pipeline, stage, flagged, None, None, None, None, limit))

    leads = asked(read)
    if as_json:
        say_json({"leads": leads})
    else:
        columns = ("id", "stage", "name", "address", "deadline (UTC)", "review")
        Page().table("", columns, map(_line, leads), "no leads")


def _line(lead: Row) -> tuple[Any, ...]:
    review = (lead["review_reason"] or "yes") if lead["needs_review"] else ""
    address = lead["phone"] or lead["email"]
    return (lead["id"], lead["stage"], lead["name"], address, moment(lead["deadline_at"]), review)


# -- one


@group.command()
def show(lead: LeadId, as_json: AsJson = False) -> None:
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
def explain(lead: LeadId, as_json: AsJson = False) -> None:
    """Why nothing (more) happens with a lead, what happens next, and what a person can do."""
    found = asked(lambda conn: _explained(conn, lead))
    if as_json:
        say_json(found)
        return
    page = Page()
    page.line(found["summary"], "bold")
    page.table("next", ("when (UTC)", "what", "why"), ((moment(s["when"]), s["what"], s["why"]) for s in found["next"]))
    page.table("waiting for", ("what", "to do"), ((w["what"], w["do"]) for w in found["waiting_for"]))
    gates = ((g["name"], "open" if g["open"] else "closed", g["reason"]) for g in found["gates"])
    page.table("gates", ("gate", "", "reason"), gates)


async def _explained(conn: Connection, wanted: str) -> dict[str, Any]:
    lead = await _id_of(conn, wanted)
    found = await explanation_of(conn, lead)
    if found is None:
        raise OrchestratorError(f"there is no lead {lead}")
    return found


# -- move


@group.command()
def move(
    lead: LeadId,
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
    await _row(conn, lead)
    if override:
        await conn.execute(API["override_stage"], *wish)
    elif not await conn.fetchval(API["request_transition"], *wish):
        raise _refused(dict(await conn.fetchrow(API["why_refused"], lead, stage) or {}), stage)
    return await _row(conn, lead)


def _refused(why: Mapping[str, Any], stage: str) -> OrchestratorError:
    if why["legal"]:
        return OrchestratorError(f"a lead enters {stage} only with: {', '.join(why['missing'])}; set these in its data")
    legal = ", ".join(why["targets"]) or "none, its stage is terminal"
    return OrchestratorError(f"a lead may not go from {why['stage']} to {stage}; legal targets: {legal}")


# -- erase


@group.command()
def erase(
    lead: LeadId,
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


async def _row_of(conn: Connection, wanted: str) -> dict[str, Any]:
    return await _row(conn, await _id_of(conn, wanted))


def _confirm(lead: Mapping[str, Any]) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on; this can't be undone, so say it", param_hint="--yes")
    named = plain(" ".join(filter(None, (lead["name"], lead["company"], lead["email"], lead["phone"]))))
    typer.confirm(f"Erase {named or 'lead'} ({lead['id']}) for good?", abort=True)


# -- ids


async def _id_of(conn: Connection, digits: str) -> UUID:
    """The lead's id, from its first digits if they are those of one lead only."""
    found = await conn.fetch(SQL["known_by"], UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
    if len(found) == 1:
        return found[0]["id"]
    several = ", ".join(str(row["id"]) for row in found)
    raise OrchestratorError(f"several leads begin so: {several}" if several else f"there is no lead {digits}")
