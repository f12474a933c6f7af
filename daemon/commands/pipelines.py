"""`orchestrator pipelines`: the declared state machines, as a diagram, JSON, or their rows in the database."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer

from daemon.app import Pipeline, mermaid, registry
from daemon.commands.showing import AsJson, Page, say_json
from daemon.db import Statements
from daemon.settings import load_settings

SQL = Statements("daemon.commands", "pipelines.sql")
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


class Format(StrEnum):
    """How a pipeline is shown."""

    MERMAID = "mermaid"
    JSON = "json"
    SQL = "sql"


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="pipelines", help="Declared state machines.")


@group.command("list")
def list_(as_json: AsJson = False) -> None:
    """All pipelines: name, number of stages, where a lead begins and where it ends."""
    load_settings()
    if as_json:
        say_json({"pipelines": [document(pipeline) for pipeline in registry.PIPELINES]})
    else:
        Page().list(("name", "stages", "begins", "ends"), map(_line, registry.PIPELINES), "no pipelines")


def _line(pipeline: Pipeline) -> tuple[Any, ...]:
    ends = ", ".join(stage.name for stage in pipeline.stages if stage.terminal)
    return (pipeline.name, len(pipeline.stages), pipeline.initial, ends)


@group.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    as_: Annotated[Format, typer.Option("--format", help="A Mermaid diagram, JSON, or SQL.")] = Format.MERMAID,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """One pipeline."""
    load_settings()
    wanted = Format.JSON if as_json else as_
    typer.echo({Format.MERMAID: mermaid, Format.JSON: in_json, Format.SQL: as_sql}[wanted](_named(name)))


def _named(name: str) -> Pipeline:
    known = registry.by_name(registry.PIPELINES)
    if name not in known:
        raise typer.BadParameter(f"no pipeline {name!r}; there are: {', '.join(known)}", param_hint="NAME")
    return known[name]


def in_json(pipeline: Pipeline) -> str:
    """Its stages with their moves, required fields and deadlines."""
    return orjson.dumps(document(pipeline), option=orjson.OPT_INDENT_2).decode()


def document(pipeline: Pipeline) -> Mapping[str, Any]:
    """The declaration, as JSON values."""
    stages = [
        {
            "name": stage.name,
            "to": stage.to,
            "terminal": stage.terminal,
            "entry_kind": pipeline.entry_kind(stage),
            "required": stage.required,
            "deadlines": [
                {"after_s": d.after.total_seconds(), type(d.act).__name__: asdict(d.act)} for d in stage.deadlines
            ],
            "counts_silence": stage.counts_silence,
            "on_complete": stage.on_complete,
        }
        for stage in pipeline.stages
    ]
    return {"name": pipeline.name, "initial": pipeline.initial, "checked": pipeline.watched, "stages": stages}


def as_sql(pipeline: Pipeline) -> str:
    """The rows from which the database's guard reads it."""
    return "\n".join(_rows(pipeline))


def _rows(pipeline: Pipeline) -> Iterator[str]:
    yield _filled("pipeline", pipeline.name, pipeline.initial, pipeline.watched)
    for position, stage in enumerate(pipeline.stages):
        yield _filled(
            "stage", pipeline.name, stage.name, position, stage.terminal, pipeline.entry_kind(stage), stage.required,
            tuple(step.after for step in stage.deadlines), stage.counts_silence, stage.on_complete, stage.sweep_step,
        )  # fmt: skip
    for stage in pipeline.stages:
        for target in stage.to:
            yield _filled("transition", pipeline.name, stage.name, target)


def _filled(statement: str, *values: object) -> str:
    return re.sub(r"\$(\d+)", lambda place: _literal(values[int(place[1]) - 1]), SQL[statement]) + ";"


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bool() | int():
            return str(value).lower()
        case timedelta():
            return f"'{value.total_seconds():.3f} seconds'"
        case tuple():
            return f"ARRAY[{', '.join(map(_literal, value))}]"
        case _:
            return "'" + str(value).replace("'", "''") + "'"
