"""`orchestrator campaigns`, the commands about runs: start one and wait for it, list them, cancel one."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from daemon.app import catalogue
from daemon.commands import ids
from daemon.commands.access import read_settings
from daemon.commands.showing import AsJson, Limit, Page, Row, asked, moment, plain, rows_of, say_json, watched
from daemon.commands.waiting import Waiting, figures, wait_for
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

RUNS = Statements("daemon.api", "runs.sql")
SQL = Statements("daemon.commands", "campaigns.sql")
Campaign = Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="Its name or its id.")]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", callback=ids.digits, help="Its id, or the first 6 or more characters of it.")
]
Inputs = Annotated[list[str] | None, typer.Option("--input", metavar="K=V", help="An input; may be repeated.")]


def add_to(group: typer.Typer) -> None:
    """Add the commands."""
    group.command("run")(run)
    group.command("runs")(runs)
    group.command("cancel")(cancel)


async def one_of(conn: Connection, statement: str, which: UUID) -> dict[str, Any]:
    """A campaign as a statement of the API's shows it."""
    row = await conn.fetchrow(statement, which)
    if row is None:
        raise OrchestratorError(f"there is no campaign {which}")
    found: dict[str, Any] = orjson.loads(row["shown"])
    return found


# -- run


def run(
    *,
    campaign: Annotated[str, typer.Argument(metavar="NAME_OR_ID", help="Its name or id; a shipped one's is imported.")],
    inputs: Inputs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Call nobody, write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while a person has paused it.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; at a terminal, watch it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a run; a daemon carries it out."""
    given = dict(_pair(text) for text in inputs or ())
    campaigns = catalogue(read_settings())

    async def start(conn: Connection) -> dict[str, Any]:
        which = await campaigns.wanted(conn, campaign)
        typed = _typed(given, await conn.fetchval(SQL["inputs"], which) or {})
        begun = await campaigns.run(conn, which, typed, dry_run=dry_run, force=force)
        return await (wait_for(conn, begun, Waiting(quiet=as_json)) if wait else _run(conn, begun))

    found = asked(start)
    if as_json:
        say_json({"run": found})
    _say_end(found, quiet=as_json) if wait else _say_begun(found, quiet=as_json)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} is not of the form K=V", param_hint="--input")
    return name, value


def _typed(given: Row, declared: Row) -> dict[str, Any]:
    """Texts as they are, everything else as JSON if it is any."""
    return {name: _value(text, (declared.get(name) or {}).get("type")) for name, text in given.items()}


def _value(text: str, kind: str | None) -> Any:
    if kind in (None, "string"):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # what is wrong with it is said with all the rest


def _say_begun(found: Row, *, quiet: bool) -> None:
    if not quiet:
        typer.echo(plain(f"run {found['id']} of {found['campaign']} has begun"))


def _say_end(found: Row, *, quiet: bool) -> None:
    """Its figures; a run that did not succeed is an error, half a success a warning."""
    failed = "; ".join(f"{e['step'] or 'run'}: {e['error']}" for e in found["errors"])
    if found["status"] not in ("completed", "partial"):
        raise OrchestratorError(plain(f"run {found['id']} is {found['status']}{failed and f': {failed}'}"))
    if not quiet:
        typer.echo(plain(f"run {found['id']} of {found['campaign']} is {found['status']}; {figures(found)}"))
    if failed:
        typer.echo(plain(f"warning: {failed}"), err=True)


# -- runs, cancel


def runs(campaign: Campaign, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Its runs, newest first."""
    campaigns = catalogue(read_settings())

    async def read(conn: Connection) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
        which = await campaigns.known(conn, campaign)
        found = rows_of(await conn.fetch(RUNS["runs"], which, None, None, limit))
        return found, await ids.short(conn, "run", [of["id"] for of in found])

    found, short = asked(read)
    if as_json:
        say_json({"runs": found})
        return
    columns = ("id", "started (UTC)", "ended (UTC)", "status", "prospects", "analyzed", "sent", "cost", "errors")
    lines = (_line(of, short if watched() else {}) for of in found)
    Page().list(columns, lines, "no runs", spare=("ended (UTC)", "analyzed", "prospects", "sent"))


def _line(of: Row, short: Mapping[str, str]) -> tuple[Any, ...]:
    errors = "; ".join(f"{e['step'] or 'run'}: {e['error']}" for e in of["errors"])
    numbers = (f"{of[name]:g}" for name in ("prospects_generated", "leads_analyzed", "emails_sent"))
    times = moment(of["started_at"]), moment(of["completed_at"])
    return (short.get(of["id"], of["id"]), *times, of["status"], *numbers, f"${of['total_cost']:.2f}", errors)


def cancel(beginning: RunId, as_json: AsJson = False) -> None:
    """Cancel a run: no further step; what is being called ends, and its cost counts."""

    async def end(conn: Connection) -> dict[str, Any]:
        run = await ids.one_id(conn, "run", beginning)
        granted = await conn.fetchval(RUNS["cancel"], run)
        found = await _run(conn, run)
        if not granted:
            raise OrchestratorError(f"run {run} is {found['status']}: it can't be cancelled")
        return found

    found = asked(end)
    if as_json:
        say_json({"run": found})
    else:
        typer.echo(plain(f"run {found['id']} of {found['campaign']} is {found['status']}"))


async def _run(conn: Connection, which: UUID) -> dict[str, Any]:
    row = await conn.fetchrow(RUNS["run"], which)
    if row is None:
        raise OrchestratorError(f"there is no run {which}")
    found: dict[str, Any] = orjson.loads(row["shown"])
    return found
