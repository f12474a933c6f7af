"""Pipelines: the declared state machines, and a monitor of the leads in them."""

from typing import Annotated, Any

import orjson
from pydantic import BaseModel, Field, PlainValidator, TypeAdapter, WithJsonSchema

from daemon.api.leads import Event, EventsQuery, shown
from daemon.api.paging import LONGEST_CURSOR, Page, decode, page_of
from daemon.api.problems import Problem
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text
from daemon.db import Connection, Statements

SQL = Statements("daemon.api", "pipelines.sql")
NAME: TypeAdapter[str] = TypeAdapter(str)
NameCursor = Annotated[
    str,
    PlainValidator(lambda given: decode(str(given)[:LONGEST_CURSOR], NAME)),
    WithJsonSchema({"type": "string", "maxLength": LONGEST_CURSOR}),
]


class PipelineName(Input):
    """Which pipeline."""

    name: Text


class PipelinesQuery(Page):
    """Which part of the list."""

    cursor: NameCursor | None = None


class Stage(BaseModel):
    """A stage; `deadlines` are ages in seconds, of its entry or of the lead's silence."""

    name: str
    position: int
    terminal: bool
    to: list[str]
    entry_kind: str | None
    required: list[str]
    deadlines: list[float]
    counts_silence: bool
    on_complete: str | None


class Pipeline(BaseModel):
    """A pipeline; `checked` are the keys of `data` that its checks read."""

    name: str
    initial: str
    checked: list[str]
    stages: list[Stage]


class Drawn(Pipeline):
    """A pipeline with its diagram, which only a daemon that declares it can draw."""

    mermaid: str | None


class ManyPipelines(Success):
    """A page of pipelines."""

    pipelines: list[Pipeline]
    nextCursor: str | None  # noqa: N815 - public name


class OnePipeline(Success):
    """A pipeline."""

    pipeline: Drawn


class Counts(Success):
    """How many leads each stage holds, in the stages' order."""

    counts: dict[str, int]
    total: int


class Savings(BaseModel):
    """What leads of tier high would save, times our fee."""

    low: float
    mid: float
    high: float


class SavingsValue(BaseModel):
    """Savings of leads under way, and of those that were won."""

    open: Savings
    won: Savings
    contingency_fee: Annotated[float, Field(ge=0)]


class Value(BaseModel):
    """The sum of the offers to leads under way, and to completed ones; what others would save."""

    open: float
    completed: float
    savings: SavingsValue


class OneValue(Success):
    """What a pipeline is worth."""

    value: Value


class ManyEvents(Success):
    """A page of a pipeline's history."""

    events: list[Event]
    nextCursor: str | None  # noqa: N815 - public name


async def list_pipelines(api: Api, given: Given[Nothing, PipelinesQuery, Nothing]) -> Answer:
    """Pipelines, by name."""
    query = given.query
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["pipelines"], None, query.cursor, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: row["name"])
    return Answer({"success": True, "pipelines": shown(page), "nextCursor": following})


async def show_pipeline(api: Api, given: Given[PipelineName, Nothing, Nothing]) -> Answer:
    """One pipeline, with a diagram in Mermaid."""
    name = given.path.name
    async with api.reading() as conn:
        row = await conn.fetchrow(SQL["pipelines"], name, None, 1)
    if row is None:
        raise _unknown(name)
    return Answer({"success": True, "pipeline": {**orjson.loads(row["shown"]), "mermaid": api.daemon.diagram(name)}})


async def count_leads(api: Api, given: Given[PipelineName, Nothing, Nothing]) -> Answer:
    """How many leads each stage holds."""
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["counts"], given.path.name)
    if not rows:
        raise _unknown(given.path.name)
    counts = {row["stage"]: row["n"] for row in rows}
    return Answer({"success": True, "counts": counts, "total": sum(counts.values())})


async def show_value(api: Api, given: Given[PipelineName, Nothing, Nothing]) -> Answer:
    """What a pipeline is worth."""
    fee = api.daemon.settings.value.contingency_fee
    async with api.reading() as conn:
        await require_pipeline(conn, given.path.name)
        (row,) = await conn.fetch(SQL["value"], given.path.name, fee)
    return Answer({"success": True, "value": _value(dict(row), fee)})


def _value(row: dict[str, Any], fee: float) -> dict[str, Any]:
    savings = {part: {size: row[f"{part}_{size}"] for size in ("low", "mid", "high")} for part in ("open", "won")}
    return {"open": row["open"], "completed": row["completed"], "savings": {**savings, "contingency_fee": fee}}


async def list_activity(api: Api, given: Given[PipelineName, EventsQuery, Nothing]) -> Answer:
    """What has happened to the leads of a pipeline, newest first."""
    query = given.query
    async with api.reading() as conn:
        await require_pipeline(conn, given.path.name)
        rows = await conn.fetch(SQL["activity"], given.path.name, query.cursor, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: row["id"])
    return Answer({"success": True, "events": shown(page), "nextCursor": following})


async def require_pipeline(conn: Connection, name: str) -> None:
    """Refuse a name that no pipeline has."""
    if not await conn.fetchval(SQL["known"], name):
        raise _unknown(name)


def _unknown(name: str) -> Problem:
    return Problem(404, f"there is no pipeline {name[:80]}")


_ONE = "/api/pipelines/{name}"
ROUTES = (
    Route("GET", "/api/pipelines", list_pipelines, {200: ManyPipelines}, query=PipelinesQuery),
    Route("GET", _ONE, show_pipeline, {200: OnePipeline}, PipelineName, problems=(404,)),
    Route("GET", f"{_ONE}/counts", count_leads, {200: Counts}, PipelineName, problems=(404,)),
    Route("GET", f"{_ONE}/value", show_value, {200: OneValue}, PipelineName, problems=(404,)),
    Route("GET", f"{_ONE}/activity", list_activity, {200: ManyEvents}, PipelineName, EventsQuery, problems=(404,)),
)
