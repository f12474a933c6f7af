"""`orchestrator check`: whether everything is as the daemon needs it, a line each."""

import asyncio
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import orjson
import typer

from daemon import notify, schema
from daemon.app import Pipeline, Report, check_campaign, kinds_of, registry
from daemon.commands import access
from daemon.commands.showing import AsJson, say_json
from daemon.db import Connection, Statements, is_direct
from daemon.errors import DatabaseUnavailable, OrchestratorError, SchemaMismatch, SettingsError
from daemon.listener import NO_EARS
from daemon.settings import EngineSettings, Settings, describe
from daemon.transport import health, open_session

SQL = Statements("daemon.commands", "check.sql")
ENGINE_S = 2.0
LONG_QUEUE = 1000
LEVELS = ("ok", "warning", "error")


@dataclass(frozen=True, slots=True)
class Line:
    """One finding."""

    level: Literal["ok", "warning", "error"]
    subject: str
    finding: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.subject}: {self.finding}"


PLAYED = Line("ok", "engines", "the sandbox plays them: none is asked whether it is there")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(as_json: AsJson = False) -> None:
    """Settings, database, schema, pipelines, campaigns, tasks, engines and notices: each ok, warning or error."""
    settings = access.read_settings()
    lines = [*_settings(settings), *_database(settings)]
    if PLAYED not in lines:
        lines += asyncio.run(_engines(settings.engines.values()))
    lines += [asyncio.run(_smtp(settings)), _notices(settings)]
    lines.sort(key=lambda line: LEVELS.index(line.level))  # what is seen is what comes last
    if as_json:
        say_json({"checks": [asdict(line) for line in lines]})
    else:
        for line in lines:
            typer.echo(line)
    _refuse_errors(lines)
    if not as_json:
        warnings = sum(line.level == "warning" for line in lines)
        typer.echo(Line("ok", "in all", f"in order, with {warnings} warnings"))


def _refuse_errors(lines: Sequence[Line]) -> None:
    errors = [line for line in lines if line.level == "error"]
    if errors:
        raise OrchestratorError(f"not in order: {', '.join(line.subject for line in errors)}")


def _settings(settings: Settings) -> Iterator[Line]:
    for name, value, is_default in describe(settings):
        yield Line("ok", name, f"{value} (default)" if is_default else value)


# -- the database


def _database(settings: Settings) -> Sequence[Line]:
    try:
        with access.database(settings) as database:
            found = access.on_connection(database.dsn, partial(_look_into, settings=settings))
            found.append(_listener(settings, database))
    except (DatabaseUnavailable, SettingsError) as error:
        return [Line("error", "database", str(error))]
    return [Line("ok", "database", settings.database_label), *found]


def _listener(settings: Settings, database: access.Database) -> Line:
    """Whether the daemon will be able to listen, which a pooler prevents."""
    if settings.listener.poll_only:
        return Line("ok", "listener", "poll-only: a dead daemon's work is taken over when its leases end")
    try:
        direct = access.on_connection(database.listen_dsn, _is_direct)
    except (DatabaseUnavailable, SettingsError) as error:
        return Line("error", "listener", str(error))
    return Line("ok", "listener", "on a direct connection") if direct else Line("error", "listener", NO_EARS)


async def _is_direct(conn: Connection) -> bool:
    return is_direct(conn)


async def _look_into(conn: Connection, settings: Settings) -> list[Line]:
    version = await schema.current_version(conn)
    if version == 0:
        return [Line("warning", "schema", 'none yet: "orchestrator run" or "orchestrator db init" makes it')]
    try:
        await schema.require_current(conn)
    except SchemaMismatch as mismatch:
        return [Line("error", "schema", str(mismatch))]
    found = [
        *await _pipelines(conn),
        *await _campaigns(conn, settings),
        *await _tasks(conn, settings),
        *await _sending(conn),
        *await _sandbox(conn),
    ]
    return [Line("ok", "schema", f"version {version}"), *found]


async def _pipelines(conn: Connection) -> list[Line]:
    stages = await conn.fetch(SQL["stages"])
    moves = await conn.fetch(SQL["transitions"])
    lines = []
    for pipeline in registry.PIPELINES:
        stored = [tuple(row)[1:] for row in stages if row["pipeline"] == pipeline.name]
        allowed = {tuple(row)[1:] for row in moves if row["pipeline"] == pipeline.name}
        same = stored == _stages(pipeline) and allowed == {(s.name, to) for s in pipeline.stages for to in s.to}
        lines.append(_compared(pipeline, same))
    return [*lines, *[_stranger(row) for row in await conn.fetch(SQL["strangers"], _declared())]]


def _stages(pipeline: Pipeline) -> list[tuple[object, ...]]:
    """Its rows of `stages`, in the columns of the statement."""
    return [
        (stage.name, stage.terminal, pipeline.entry_kind(stage), list(stage.required),
         [deadline.after for deadline in stage.deadlines], stage.counts_silence, stage.on_complete, stage.sweep_step)
        for stage in pipeline.stages
    ]  # fmt: skip


def _compared(pipeline: Pipeline, same: bool) -> Line:
    if same:
        return Line("ok", f"pipeline {pipeline.name}", f"{len(pipeline.stages)} stages, as declared")
    return Line(
        "warning", f"pipeline {pipeline.name}", "the database has another version; the next start writes this one"
    )


def _declared() -> list[str]:
    return [f"{pipeline.name}.{stage.name}" for pipeline in registry.PIPELINES for stage in pipeline.stages]


def _stranger(row: Mapping[str, object]) -> Line:
    finding = f"{row['n']} leads sit here, but it is declared nowhere: move them, or declare it again"
    return Line("error", f"stage {row['place']}", finding)


async def _campaigns(conn: Connection, settings: Settings) -> list[Line]:
    """Whether each stored document is still valid."""
    return [
        _checked(row, check_campaign(orjson.dumps(row["config"]), settings))
        for row in await conn.fetch(SQL["campaigns"])
    ]


def _checked(row: Mapping[str, object], report: Report) -> Line:
    if report.errors:
        return Line("error", f"campaign {row['name']}", "; ".join(map(str, report.errors)))
    if row["status"] == "error":
        return Line(
            "warning", f"campaign {row['name']}", f"valid again: resume it (orchestrator campaigns resume {row['id']})"
        )
    return Line("ok", f"campaign {row['name']}", f"valid, {row['status']}")


async def _tasks(conn: Connection, settings: Settings) -> list[Line]:
    known = [*kinds_of(settings), *notify.KINDS]
    unknown = [
        Line("warning", f"tasks of kind {row['kind']}", f"{row['n']} that this program doesn't know and never claims")
        for row in await conn.fetch(SQL["unknown_kinds"], known)
    ]
    long = [
        Line("warning", f"tasks of key {row['key']}", f"{row['n']} wait for one another")
        for row in await conn.fetch(SQL["long_queues"], LONG_QUEUE)
    ]
    return [*unknown, *long] or [Line("ok", "tasks", "all of known kinds, no key with a long queue")]


async def _sending(conn: Connection) -> list[Line]:
    stop = await conn.fetchrow(SQL["stopped"])
    if stop is None:
        return []
    said = f"stopped by {stop['stopped_by']}: {stop['reason']}; no message goes out until orchestrator resume-sending"
    return [Line("warning", "sending", said)]


async def _sandbox(conn: Connection) -> list[Line]:
    """Whether a sandbox has played here; what it has left stands in the way of real engines."""
    if not await conn.fetchval(SQL["sandboxed"]):
        return []
    from daemon.sandbox import mark  # noqa: PLC0415 - most databases are no sandbox's

    against = await mark.standing_against(conn)
    if against is None:
        return [Line("warning", "sandbox", "has played here: what it sent reached nobody")]
    return [Line("warning", "sandbox", f"a run with real engines is refused: {against}"), PLAYED]


# -- the engines


async def _engines(engines: Iterable[EngineSettings]) -> Sequence[Line]:
    async with open_session() as session:

        async def ask(engine: EngineSettings) -> Line:
            subject = f"engine {engine.name}"
            if engine.url is None:
                return _command(subject, engine.command)
            found = await health(session, engine.url, timeout_s=ENGINE_S)
            return Line("ok" if found.ok else "warning", subject, f"{engine.url}: {found.message}")

        return await asyncio.gather(*map(ask, engines))


def _command(subject: str, command: Sequence[str] | None) -> Line:
    if command is None:
        return Line("ok", subject, "off: neither URL nor COMMAND is set")
    if shutil.which(command[0]) is None:
        return Line("warning", subject, f"there is no executable {command[0]}")
    return Line("ok", subject, f"runs {command[0]}")


# -- people


async def _smtp(settings: Settings) -> Line:
    from daemon.transport.mail import probe_mail  # noqa: PLC0415 - rarely used

    if settings.smtp.url is None:
        return Line("ok", "smtp", "off: mail goes by the outreach engine")
    found = await probe_mail(settings.smtp.url.get_secret_value(), timeout_s=ENGINE_S)
    return Line("ok" if found.ok else "warning", "smtp", found.message)


def _notices(settings: Settings) -> Line:
    """Who is told of alerts and requests."""
    told = settings.notify
    roads = [
        *([f"mail to {told.admin_email}"] if told.admin_email else []),
        *(["Slack"] if told.slack_webhook_url else []),
        *([f"{len(told.urls)} Apprise URLs"] if told.urls else []),
    ]
    if told.muted or settings.dry_run:
        return Line("ok", "notices", "off: muted, or a dry run")
    return Line("ok", "notices", ", ".join(roads) or "off: nobody is told of alerts and requests")
