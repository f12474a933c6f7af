"""Backups: written whole or not at all, and put back in one transaction."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path

from daemon import schema
from daemon.commands import access, programs
from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError, SchemaMismatch

SQL = Statements("daemon.commands", "database.sql")
SCHEMA_ENTRY = " SCHEMA - orchestrator "


@dataclass(frozen=True, slots=True)
class Target:
    """A database that is to be written or read, as it is now."""

    dsn: str
    server: int
    has_schema: bool
    leads: int = 0
    daemons: int = 0


def _look(dsn: str) -> Target:
    host = access.primary(dsn)

    async def look(conn: Connection) -> Target:
        server = conn.get_server_version().major
        if not await schema.current_version(conn):
            return Target(host, server, has_schema=False)
        (row,) = await conn.fetch(SQL["occupied"])
        return Target(host, server, has_schema=True, leads=row["leads"], daemons=row["daemons"])

    return access.on_connection(host, look)


# -- writing


def new_name(home: Path) -> Path:
    """Where a backup goes that nobody gave a name."""
    return home / "backups" / f"orchestrator-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.dump"


def write(dsn: str, file: Path) -> Path:
    """Dump the schema with everything in it."""
    target = _look(dsn)
    if not target.has_schema:
        raise OrchestratorError(
            'the database has no schema, so there is nothing to back up: run "orchestrator db init"'
        )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pg_dump = programs.program("pg_dump", target.server)
    with _draft(file) as draft:
        argv: list[str | Path] = [
            pg_dump,
            "--format=custom",
            "--schema=orchestrator",
            "--no-password",
            f"--file={draft}",
        ]
        programs.call(argv, programs.environment(target.dsn))
    return file


@contextmanager
def _draft(file: Path) -> Iterator[Path]:
    """A private file beside it that takes its place once it is complete and on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    draft = Path(name)
    try:
        yield draft
        os.fsync(descriptor)
        draft.rename(file)
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)


# -- reading


def read(dsn: str, file: Path, *, replace: bool, privileges: bool) -> Sequence[str]:
    """Restore into an empty schema, or over a filled one if told so; what a person should know then."""
    target = _look(dsn)
    _require_free(target, replace)
    pg_restore = programs.program("pg_restore", target.server)
    if SCHEMA_ENTRY not in programs.call([pg_restore, "--list", file], os.environ):
        raise OrchestratorError(f"{file} is no backup of the schema orchestrator")
    options = ["--no-owner"] if privileges else ["--no-owner", "--no-privileges"]
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder, "dump.sql")
        programs.call([pg_restore, *options, f"--file={dump}", file], os.environ)
        _replay(dump, target)
    return [f"restored {file}", *access.on_connection(target.dsn, partial(_told, file=file))]


def _require_free(target: Target, replace: bool) -> None:
    if target.daemons:
        raise OrchestratorError("a daemon is connected to this database: stop it first")
    if target.leads and not replace:
        raise OrchestratorError(f"the database holds {target.leads} leads: --replace overwrites them")


def _replay(dump: Path, target: Target) -> None:
    """In one transaction: drop what is there, run the dump, stop sending, set messages aside."""
    options = ["-X", "-q", "-w", "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]
    with resources.as_file(resources.files("daemon.commands").joinpath("sql")) as folder:
        scripts = [folder / "before_restore.sql", dump, folder / "after_restore.sql"]
        files = [f"--file={script}" for script in scripts]
        argv: list[str | Path] = [programs.program("psql", target.server), *options, *files]
        programs.call(argv, programs.environment(target.dsn))


async def _told(conn: Connection, file: Path) -> Sequence[str]:
    await conn.execute(SQL["name_backup"], access.person(), str(file))
    (row,) = await conn.fetch(SQL["set_aside"])
    lines = [
        f"{row['awaiting']} messages await a decision, {row['unknown']} are of unknown outcome",
        'sending is stopped: "orchestrator resume-sending" lists what is overdue, and lets it go on',
    ]
    try:
        await schema.require_current(conn)
    except SchemaMismatch as mismatch:
        lines.append(str(mismatch))
    return lines
