"""`orchestrator db`: the schema's making and moving forward, a shell, backup and restore."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon import schema
from daemon.app import prepare
from daemon.commands import access, archive, programs
from daemon.commands.showing import AsJson, say_json
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError, SchemaMismatch

SQL = Statements("daemon.commands", "database.sql")
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="db", help="Schema and data.")


@group.command()
def init() -> None:
    """Make the schema in an empty database; in one that has it, nothing."""
    with access.database(access.read_settings()) as database:
        typer.echo(access.on_connection(database.dsn, _init))


async def _init(conn: Connection) -> str:
    new = await schema.create_schema(conn)
    await prepare(conn)
    return f"schema {'made' if new else 'is there'}, version {schema.VERSION}"


@group.command()
def migrate() -> None:
    """Move the schema forward to this program's version. Daemons have to be stopped first; a backup is wise."""
    with access.database(access.read_settings()) as database:
        typer.echo(access.on_connection(database.dsn, _migrate))


async def _migrate(conn: Connection) -> str:
    if 0 < await schema.current_version(conn) < schema.VERSION:
        await _require_alone(conn)
    applied = await schema.migrate(conn)
    await prepare(conn)
    return f"applied: {', '.join(map(str, applied))}" if applied else f"nothing to do, version {schema.VERSION}"


async def _require_alone(conn: Connection) -> None:
    """A daemon of the version before would go on with statements that don't fit any more."""
    (row,) = await conn.fetch(SQL["occupied"])
    if row["daemons"]:
        raise OrchestratorError("a daemon is connected to this database: stop it first")


@group.command()
def status(as_json: AsJson = False) -> None:
    """Where the database is, its schema's version, and what is in it."""
    settings = access.read_settings()
    with access.database(settings) as database:
        found = {"database": settings.database_label, **access.on_connection(database.dsn, _status)}
    if as_json:
        say_json({"status": found})
        return
    for line in _lines(found):
        typer.echo(line)


async def _status(conn: Connection) -> dict[str, Any]:
    found: dict[str, Any] = {"server": f"PostgreSQL {conn.get_server_version().major}"}
    found["version"] = await schema.current_version(conn)
    try:
        await schema.require_current(conn)
    except SchemaMismatch as mismatch:
        return {**found, "schema": str(mismatch)}
    (row,) = await conn.fetch(SQL["status"])
    tasks = {name: row[name] for name in ("available", "running", "dead")}
    return {**found, "schema": "current", "leads": row["leads"], "tasks": tasks, "daemons": row["daemons"]}


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"database   {found['database']}"
    yield f"server     {found['server']}"
    if "tasks" not in found:
        yield f"schema     {found['schema']}"
        return
    yield f"schema     version {found['version']}, {found['schema']}"
    yield f"leads      {found['leads']}"
    yield f"tasks      {', '.join(f'{n} {status}' for status, n in found['tasks'].items())}"
    yield f"daemons    {found['daemons']}"


@group.command()
def shell(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-- PSQL_ARGUMENTS]")] = None,
) -> None:
    """Open psql on the database."""
    with access.database(access.read_settings()) as database:
        dsn = access.primary(database.listen_dsn)  # psql's session has settings, which no pooler keeps
        env = {"PGOPTIONS": "-c search_path=orchestrator,public", **programs.environment(dsn)}
        psql = programs.best_program("psql", access.on_connection(dsn, _major))
        argv = [str(psql), *(arguments or [])]
        if database.embedded is None:
            os.execve(argv[0], argv, env)  # noqa: S606 - psql itself
        raise typer.Exit(_stay(argv, env))


async def _major(conn: Connection) -> int:
    return int(conn.get_server_version().major)


def _stay(argv: list[str], env: dict[str, str]) -> int:
    """Run it as a child: our own server lives only as long as somebody uses it. Ctrl-C is for psql."""
    signal.signal(signal.SIGINT, lambda *_: None)
    return subprocess.run(argv, env=env, check=False).returncode  # noqa: S603 - psql itself


@group.command()
def backup(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: a new one in backups/ of the home.")
    ] = None,
) -> None:
    """Write schema and data to a file that `db restore` reads, whole or not at all; prints its name."""
    settings = access.read_settings()
    with access.database(settings) as database:
        typer.echo(archive.write(database.listen_dsn, file or archive.new_name(settings.home)))


@group.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the leads that are there.")] = False,
    no_privileges: Annotated[bool, typer.Option("--no-privileges", help="Leave out the grants to roles.")] = False,
) -> None:
    """Put a backup into the database, in one transaction. Sending is stopped until `resume-sending`.

    The other side of a backup is that it doesn't know what was sent after it was made. So messages whose time has
    passed come back as awaiting_approval ("restored from a backup: decide again"), and those that were being sent as
    unknown: nobody is written to twice. Daemons have to be stopped first.
    """
    with access.database(access.read_settings()) as database:
        for line in archive.read(database.listen_dsn, file, replace=replace, privileges=not no_privileges):
            typer.echo(line)
