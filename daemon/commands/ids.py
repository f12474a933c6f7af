"""Ids as people write them: the first characters are enough, as long as they are those of one only."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal
from uuid import UUID

import typer

from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

SQL = Statements("daemon.commands", "ids.sql")
Things = Literal["lead", "request", "run"]
SHOWN = 8
"""A short id has as many characters at least: fewer are easily those of a word."""


def digits(wanted: str) -> str:
    """The digits of an id or of its beginning."""
    found = wanted.lower().replace("-", "")
    if not is_beginning(wanted):
        raise typer.BadParameter(f"{wanted!r} is no id, nor the first 6 or more characters of one")
    return found


def is_beginning(wanted: str) -> bool:
    """Whether it may be an id, or the beginning of one."""
    return re.fullmatch(r"[0-9a-f]{6,32}", wanted.lower().replace("-", "")) is not None


Id = Annotated[
    str, typer.Argument(metavar="ID", callback=digits, help="Its id, or the first 6 or more characters of it.")
]


async def one_id(conn: Connection, things: Things, beginning: str) -> UUID:
    """The one id that begins so."""
    found = await beginning_so(conn, things, beginning)
    if len(found) == 1:
        return found[0]
    if not found:
        raise OrchestratorError(f"there is no {things} {beginning}")
    raise OrchestratorError(f"several {things}s begin so: {', '.join((await short(conn, things, found)).values())}")


async def beginning_so(conn: Connection, things: Things, beginning: str) -> list[UUID]:
    """The ids that begin so, ten at most."""
    found = beginning.lower().replace("-", "")
    rows = await conn.fetch(SQL[f"{things}_between"], UUID(found.ljust(32, "0")), UUID(found.ljust(32, "f")))
    return [row["id"] for row in rows]


async def short(conn: Connection, things: Things, ids: Iterable[UUID | str]) -> Mapping[str, str]:
    """The beginnings of these ids that no other one has."""
    rows = await conn.fetch(SQL[f"{things}_beside"], [UUID(str(one)) for one in ids])
    return {str(row["id"]): shortest(str(row["id"]), [str(row["before"]), str(row["after"])]) for row in rows}


async def names(conn: Connection, leads: Iterable[UUID | str | None]) -> Mapping[str, str]:
    """What these leads are called, as far as they are there."""
    rows = await conn.fetch(SQL["names"], [UUID(str(lead)) for lead in leads if lead is not None])
    return {str(row["id"]): row["name"] or "" for row in rows}


def shortest(whole: str, others: Iterable[str]) -> str:
    """The beginning that tells it from the others."""
    alike = max((_shared(whole, other) for other in others), default=0)
    return whole[: max(SHOWN, alike + 1 + (whole[alike : alike + 1] == "-"))]


def _shared(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
