"""Decides a request at a gate: for the API, the signed link and the command line alike. SQL does the same by itself."""

from dataclasses import dataclass
from typing import Literal, NoReturn
from uuid import UUID

from daemon.db import Connection, Statements
from daemon.errors import BadInput, NotNow, NotThere

SQL = Statements("daemon", "gates.sql")
SECOND_FACTOR = "extraction"
"""The checkpoint at which approving takes the code that the provider has shown."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decides, and why; `code` is passed on to the engine."""

    status: Literal["approved", "rejected"]
    by: str
    comment: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Lacking:
    """A part of a decision that is needed."""

    loc: tuple[str | int, ...]
    msg: str


async def decide(conn: Connection, request: UUID, decision: Decision) -> None:
    """Decide it, once; NotThere, BadInput, or NotNow if somebody or its time was quicker."""
    row = await conn.fetchrow(SQL["stand"], request)
    if row is None:
        raise NotThere(f"there is no request {request}")
    if row["status"] == "pending" and row["checkpoint"] == SECOND_FACTOR and decision.status == "approved":
        _require_code(decision)
    done = await conn.fetchval(
        SQL["decide"], request, decision.status, decision.by, decision.comment or None, decision.code
    )
    if not done:
        await _refuse(conn, request)


def _require_code(decision: Decision) -> None:
    if not decision.code:
        lacking = Lacking(("code",), "is needed: the code that the data provider has shown after the second factor")
        raise BadInput(f"approving at {SECOND_FACTOR} takes the code of the second factor", [lacking])


async def _refuse(conn: Connection, request: UUID) -> NoReturn:
    row = await conn.fetchrow(SQL["stand"], request)
    status = row["status"] if row else "gone"
    if row is None or status == "pending":
        raise NotNow("its time is up: it counts as rejected", approvalStatus=status)
    by = f" by {row['decided_by']}" if row["decided_by"] else ""
    raise NotNow(f"it is {status} already{by}", approvalStatus=status)
