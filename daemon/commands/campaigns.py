"""`orchestrator campaigns`: documents and what is done with them; `campaign_runs` adds the commands about runs."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from daemon.app import campaign_schema, catalogue, check_campaign
from daemon.commands import campaign_runs
from daemon.commands.access import read_settings
from daemon.commands.campaign_runs import Campaign, one_of
from daemon.commands.showing import AsJson, Limit, Page, Row, asked, moment, plain, rows_of, say_json
from daemon.db import Connection, Statements
from daemon.errors import BadInput, OrchestratorError
from daemon.settings import load_settings

API = Statements("daemon.api", "campaigns.sql")
READ_AT_MOST = 2**21  # no document may be as large
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Replace = Annotated[bool, typer.Option("--replace", help="If there is one of that name, give it this document.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="campaigns", help="Campaigns.")
    campaign_runs.add_to(group)


# -- validate, import


@group.command()
def validate(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="A campaign document.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of such documents.")] = False,
    as_json: AsJson = False,
) -> None:
    """Whether a campaign document is valid; if not, everything that is wrong with it."""
    settings = load_settings()
    if schema:
        say_json(campaign_schema())
        return
    if file is None:
        raise typer.BadParameter("say which file, or --schema", param_hint="FILE")
    report = check_campaign(_read(file), settings)
    if as_json:
        say_json(report.document())
    else:
        for line in report.lines():
            typer.echo(plain(line))
    if report.errors:
        raise OrchestratorError(f"{file} is not valid: {len(report.errors)} to correct")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as document:
            return document.read(READ_AT_MOST)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OrchestratorError(f"can't read {file}: {why}") from None


@group.command("import")
def import_(
    source: Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="A document, or the name of a shipped one.")],
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Put a campaign on record; a shipped one's schedule is off at first."""
    campaigns = catalogue(read_settings())
    file = Path(source)
    by_name = campaigns.shipped(source) and not file.is_file()
    text = b"" if by_name else _read(file)

    async def put(conn: Connection) -> tuple[UUID, str]:
        if by_name:
            made, new = await campaigns.imported(conn, source)
            return made, "imported, its schedule off" if new else "on record already"
        if replace:
            made, new = await campaigns.put(conn, text)
            return made, "imported" if new else "replaced"
        return await campaigns.create(conn, text), "imported"

    try:
        found, done = asked(lambda conn: _with_summary(conn, put))
    except BadInput as error:
        for fault in error.errors:
            typer.echo(plain(str(fault)), err=True)
        raise OrchestratorError(f"{source} is not valid: {len(error.errors)} to correct") from None
    if as_json:
        say_json({"campaign": found})
    else:
        typer.echo(plain(f"campaign {found['name']} ({found['id']}) is {done}{_upcoming(found)}"))


async def _with_summary(
    conn: Connection, put: Callable[[Connection], Awaitable[tuple[UUID, str]]]
) -> tuple[dict[str, Any], str]:
    campaign, done = await put(conn)
    return await one_of(conn, API["summary"], campaign), done


def _upcoming(campaign: Row) -> str:
    return f"; next run {moment(campaign['nextRun'])} UTC" if campaign["nextRun"] else ""


# -- list, show


@group.command("list")
def list_(limit: Limit = 50, as_json: AsJson = False) -> None:
    """Campaigns, newest first."""

    async def read(conn: Connection) -> list[dict[str, Any]]:
        return rows_of(await conn.fetch(API["campaigns"], None, None, None, limit))

    campaigns = asked(read)
    if as_json:
        say_json({"campaigns": campaigns})
    else:
        columns = ("id", "name", "schedule", "status", "next run (UTC)", "last run (UTC)", "runs", "cost")
        spare = ("id", "last run (UTC)", "runs", "next run (UTC)")
        Page().list(columns, map(_line, campaigns), "no campaigns", spare)


def _line(campaign: Row) -> tuple[Any, ...]:
    c = campaign
    status = c["status"] if not c["paused_reason"] else f"{c['status']}: {c['paused_reason']}"
    schedule = " ".join(filter(None, (c["schedule"], c["schedule"] and c["schedule_timezone"]))) or "by hand"
    off = "" if c["schedule_enabled"] or not c["schedule"] else " (off)"
    cost = f"${c['totalCost']:.2f}"
    return (
        c["id"],
        c["name"],
        schedule + off,
        status,
        moment(c["nextRun"]),
        moment(c["lastRun"]),
        c["totalRuns"],
        cost,
    )


@group.command()
def show(campaign: Campaign, as_json: AsJson = False) -> None:
    """A campaign: its row and its document."""
    campaigns = catalogue(read_settings())

    async def read(conn: Connection) -> dict[str, Any]:
        return await one_of(conn, API["campaign"], await campaigns.known(conn, campaign))

    found = asked(read)
    if as_json:
        say_json({"campaign": found})
        return
    page, document = Page(), found.pop("config")
    times = ("lastRun", "nextRun", "resume_at", "created_at", "updated_at")
    page.table("", ("campaign", ""), ((n, moment(v) if n in times else v) for n, v in found.items() if v is not None))
    steps = ((n, s.get("name") or s.get("engine"), s.get("kind", "engine"), s.get("endpoint"))
             for n, s in enumerate(document.get("steps") or (), start=1))  # fmt: skip
    page.table("steps", ("", "name", "kind", "endpoint"), steps)


# -- pause, resume, delete


@group.command()
def pause(
    campaign: Campaign,
    reason: Annotated[str | None, typer.Option(help="Why; it is told to whoever wants to run it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start no run of it until somebody resumes it; what is going on goes on."""
    campaigns = catalogue(read_settings())
    _turn(campaign, lambda conn, which: campaigns.pause(conn, which, reason), as_json)


@group.command()
def resume(campaign: Campaign, as_json: AsJson = False) -> None:
    """Let its runs start again, whether a person or its budget had paused it."""
    _turn(campaign, catalogue(read_settings()).resume, as_json)


def _turn(campaign: str, wish: Callable[[Connection, UUID], Awaitable[None]], as_json: bool) -> None:
    campaigns = catalogue(read_settings())

    async def turn(conn: Connection) -> dict[str, Any]:
        which = await campaigns.known(conn, campaign)
        await wish(conn, which)
        return await one_of(conn, API["summary"], which)

    found = asked(turn)
    if as_json:
        say_json({"campaign": found})
    else:
        typer.echo(plain(f"campaign {found['name']} is {found['status']}{_upcoming(found)}"))


@group.command()
def delete(campaign: Campaign, as_json: AsJson = False) -> None:
    """No future runs; its history is kept, and what is going on goes on."""
    campaigns = catalogue(read_settings())

    async def remove(conn: Connection) -> str:
        return await campaigns.delete(conn, await campaigns.known(conn, campaign))

    said = asked(remove)
    if as_json:
        say_json({"message": said})
    else:
        typer.echo(plain(said))
