"""Several statements in one: one round trip, one transaction, and all of it comes out as expected or nothing happens.

Whoever writes so needs another way for the times when it doesn't. The statements see the same snapshot: none may touch
a row that another one touches, and none waits for more than a moment, because what it decides on would be old by then.
Each has its common table expressions, if any, before a line that is `)`, under names of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import asyncpg

from daemon.db import Connection

OTHER_WAY = {"PO005", "55P03", "40P01"}
"""Not as expected, somebody's lock is in the way, a deadlock."""

QUICKLY = "quickly AS MATERIALIZED (SELECT set_config('lock_timeout', '10ms', true))"


@dataclass(frozen=True, slots=True)
class Step:
    """A statement; `answers` how many rows it must answer, None: it may not answer any."""

    sql: str
    arguments: Sequence[Any]
    answers: int | None = None


async def together(conn: Connection, steps: Sequence[Step]) -> bool:
    """Whether all of it is written; if not, nothing is."""
    expected = [1, *(step.answers for step in steps if step.answers is not None)]
    arguments = [argument for step in steps for argument in step.arguments]
    text = _compose(tuple((step.sql, len(step.arguments), step.answers is not None) for step in steps))
    try:
        await conn.execute(text, *arguments, expected)
    except asyncpg.PostgresError as error:
        if error.sqlstate not in OTHER_WAY:
            raise
        return False
    return True


@cache
def _compose(steps: tuple[tuple[str, int, bool], ...]) -> str:
    expressions, counts, offset = [QUICKLY], ["(SELECT count(*) FROM quickly)"], 0
    for number, (sql, arguments, counted) in enumerate(steps):
        own, main = _split(_renumber(_without_comment(sql), offset))
        expressions += [*own, f"step_{number} AS (\n{main}\n)"]
        counts += [f"(SELECT count(*) FROM step_{number})"] if counted else []  # noqa: S608  # a number of our own
        offset += arguments
    every = ",\n".join(expressions)
    return f"WITH {every}\nSELECT unnest(orchestrator.expect(ARRAY[{', '.join(counts)}], ${offset + 1}::bigint[]))"


def _without_comment(sql: str) -> str:
    return re.sub(r"\A(--.*\n)+", "", sql)


def _renumber(sql: str, by: int) -> str:
    return re.sub(r"\$(\d+)", lambda found: f"${int(found[1]) + by}", sql)


def _split(text: str) -> tuple[list[str], str]:
    """The common table expressions before the statement proper, and that."""
    if not text.startswith("WITH "):
        return [], text
    own, main = text.removeprefix("WITH ").split("\n)\n", 1)
    return [own + "\n)"], main
