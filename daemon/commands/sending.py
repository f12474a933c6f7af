"""`orchestrator stop-sending` and `resume-sending`: the kill switch."""

import sys
from typing import Annotated, Any

import typer

from daemon import sending
from daemon.commands.access import person
from daemon.commands.showing import Page, Row, asked, moment, plain, rows_of
from daemon.db import Connection, Statements

SQL = Statements("daemon.commands", "sending.sql")
SHOWN = 50


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("stop-sending")(stop_sending)
    app.command("resume-sending")(resume_sending)


def stop_sending(reason: Annotated[str | None, typer.Option("--reason", help="Why.")] = None) -> None:
    """Let no message go out until sending is resumed; what is being sent at this moment ends."""
    typer.echo(_stopped(asked(lambda conn: sending.stop(conn, person(), reason))))


def resume_sending(yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False) -> None:
    """List what is overdue, then let it and everything else go out."""
    state, late = asked(_look)
    if not state["stopped"]:
        typer.echo("sending is not stopped")
        return
    typer.echo(_stopped(state))
    _show(late)
    if not yes:
        _confirm()
    typer.echo(f"sending goes on; messages that were overdue: {asked(sending.resume)['overdue']}")


async def _look(conn: Connection) -> tuple[sending.State, list[Row]]:
    return await sending.state(conn), list(await conn.fetch(SQL["overdue"], SHOWN))


def _stopped(state: sending.State) -> str:
    since = f"{state['stopped_at']:%Y-%m-%d %H:%M:%S} UTC"
    return plain(f"sending is stopped since {since} by {state['stopped_by']}: {state['reason']}")


def _show(late: list[Row]) -> None:
    columns = ("due (UTC)", "what", "for whom", "status", "id")
    page = Page()
    page.table("overdue", columns, map(_line, rows_of(late)), "nothing")
    if late and late[0]["n"] > SHOWN:
        page.line(f"and {late[0]['n'] - SHOWN} more")


def _line(of: Row) -> tuple[Any, ...]:
    return (moment(of["due_at"]), of["what"], of["whom"], of["status"], of["id"])


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on: say it", param_hint="--yes")
    typer.confirm("Let all that is scheduled go out?", abort=True)
