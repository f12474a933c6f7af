"""Checkpoints: who decides at each, a person (plan) or nobody (auto)."""

from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, PlainValidator, TypeAdapter, WithJsonSchema

from daemon.api.leads import shown
from daemon.api.paging import LONGEST_CURSOR, Page, decode, page_of
from daemon.api.problems import Flaw, Problem
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text
from daemon.db import Statements

SQL = Statements("daemon.api", "checkpoints.sql")
NAME: TypeAdapter[str] = TypeAdapter(str)
NameCursor = Annotated[
    str,
    PlainValidator(lambda given: decode(str(given)[:LONGEST_CURSOR], NAME)),
    WithJsonSchema({"type": "string", "maxLength": LONGEST_CURSOR}),
]
Mode = Literal["plan", "auto"]
NEVER = {
    ("extraction", "auto"): "extraction can never be auto: a person has to complete a second factor at the provider",
    ("classification", "plan"): "classification is always auto: what nobody is sure of goes to a person anyway",
}


class CheckpointName(Input):
    """Which checkpoint."""

    name: Text


class CheckpointsQuery(Page):
    """Which part of the list."""

    cursor: NameCursor | None = None


class Setting(Input):
    """Who decides from now on."""

    mode: Mode


class Checkpoint(BaseModel):
    """A checkpoint; `promotable`: auto may be proposed, after enough approvals in a row."""

    checkpoint: str
    mode: Mode
    promotable: bool
    approvals_in_a_row: int


class OneCheckpoint(Success):
    """A checkpoint."""

    checkpoint: Checkpoint


class ManyCheckpoints(Success):
    """A page of checkpoints."""

    checkpoints: list[Checkpoint]
    nextCursor: str | None  # noqa: N815 - public name


async def list_checkpoints(api: Api, given: Given[Nothing, CheckpointsQuery, Nothing]) -> Answer:
    """Checkpoints by name; one that isn't listed is in plan."""
    query = given.query
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["checkpoints"], None, query.cursor, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: row["checkpoint"])
    return Answer({"success": True, "checkpoints": shown(page), "nextCursor": following})


async def set_checkpoint(api: Api, given: Given[CheckpointName, Nothing, Setting]) -> Answer:
    """Say who decides at a checkpoint from now on; what waits already still waits."""
    name, mode = given.path.name, given.body.mode
    if said := NEVER.get((name, mode)):
        raise Problem(409, said, [Flaw(("mode",), said)])
    async with api.writing() as conn:
        await conn.execute(SQL["set_mode"], name, mode)
        row = await conn.fetchrow(SQL["checkpoints"], name, None, 1)
    if row is None:
        raise Problem(404, f"nobody was ever asked at a checkpoint {name}")
    return Answer({"success": True, "checkpoint": orjson.Fragment(row["shown"])})


ROUTES = (
    Route("GET", "/api/checkpoints", list_checkpoints, {200: ManyCheckpoints}, query=CheckpointsQuery),
    Route(
        "PUT", "/api/checkpoints/{name}", set_checkpoint, {200: OneCheckpoint}, CheckpointName, body=Setting,
        problems=(404, 409),
    ),
)  # fmt: skip
