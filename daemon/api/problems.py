"""What goes wrong, as RFC 9457 problem documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from daemon.db import UNREACHABLE
from daemon.errors import BadInput, NotNow, NotThere, OrchestratorError, Unaffordable
from daemon.log import get_logger

log = get_logger("api")

MOST_FLAWS = 100
MEDIA = "application/problem+json"
RETRY = {"Retry-After": "1"}
_BY_SQLSTATE = {
    "PO001": 409,  # an illegal stage
    "PO002": 409,  # a missing field
    "PO003": 409,  # decided already
    "PO004": 409,  # work that is going on, or two that can't become one
    "PO006": 422,  # an unknown time zone
    "P0002": 404,  # no such row
    "23503": 409,
    "23505": 409,
}
_REFUSED, _BUSY = ("22", "23"), ("40", "53", "55", "57")
"""Classes of SQLSTATE: the input's fault; nobody's fault, and worth another try."""


class FlawDocument(BaseModel):
    """One thing wrong with the input, and where: inside the body, or after `query` or `path`."""

    loc: list[str | int]
    msg: str


class ProblemDocument(BaseModel):
    """A refusal (RFC 9457); bad input has its `errors`, and some refusals have members of their own."""

    model_config = ConfigDict(extra="allow")

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    success: Literal[False]
    errors: Annotated[list[FlawDocument], Field(exclude_if=lambda errors: not errors, max_length=MOST_FLAWS)] = []


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with the input, and where: inside the body, or after `query` or `path`."""

    loc: tuple[str | int, ...]
    msg: str

    def document(self) -> dict[str, Any]:
        """The flaw as JSON; its place is in the asker's own words, cut short and made printable."""
        return {"loc": [_printable(part) if isinstance(part, str) else part for part in self.loc], "msg": self.msg}

    def __str__(self) -> str:
        place = ".".join(_printable(str(part)) for part in self.loc)
        return f"{place}: {self.msg}" if place else self.msg


class Problem(OrchestratorError):
    """An answer that is a refusal; `close` if the connection can't be used any further."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Flaw] = (),
        *,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors = status, detail, errors
        self.headers, self.close, self.members = headers or {}, close, members

    def document(self) -> dict[str, Any]:
        """The problem as JSON."""
        errors = [flaw.document() for flaw in self.errors[:MOST_FLAWS]]
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "success": False,
            **({"errors": errors} if errors else {}),
            **self.members,
        }


def unfit(errors: Sequence[Flaw], status: int = 422) -> Problem:
    """The refusal of bad input."""
    return Problem(status, "the request is not valid: " + "; ".join(map(str, errors[:3])), errors)


def _printable(text: str) -> str:
    return text[:200].encode("utf-8", "backslashreplace").decode()


def problem_of(error: Exception) -> Problem:
    """The answer to an exception: the database's refusals by their SQLSTATE, its absence, and what nobody foresaw."""
    if isinstance(error, Problem):
        return error
    if refused := _refused(error):
        return refused
    state = getattr(error, "sqlstate", None)  # asyncpg's errors, without importing the driver here
    if isinstance(state, str) and (status := _status_of(state)):
        return _refusal(error, status)
    if isinstance(error, UNREACHABLE):
        log.info("request failed", error=str(error) or type(error).__name__)
        return Problem(503, "the database can't be reached; try again", headers=RETRY)
    log.error("request failed unexpectedly", exc_info=error)
    return Problem(500, "something unforeseen happened; the log says more")


def _refused(error: Exception) -> Problem | None:
    """What the parts of the daemon refuse, which know no statuses."""
    match error:
        case BadInput():
            return Problem(422, str(error), [Flaw(fault.loc, fault.msg) for fault in error.errors])
        case NotThere():
            return Problem(404, str(error))
        case NotNow():
            return Problem(409, str(error), **error.members)
        case Unaffordable():
            return Problem(402, str(error))
    return None


def _status_of(state: str) -> int | None:
    if state.startswith(_BUSY):
        return 503
    return _BY_SQLSTATE.get(state) or (422 if state.startswith(_REFUSED) else None)


def _refusal(error: Exception, status: int) -> Problem:
    if status == 503:
        log.info("request failed", error=str(error))
        return Problem(503, "the database is busy; try again", headers=RETRY)
    said, hint = getattr(error, "message", None) or str(error), getattr(error, "hint", None)
    return Problem(status, f"{said}; {hint}" if hint else said)
