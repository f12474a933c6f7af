"""What an engine's answer means: values and pure decisions.

An answered error is a failure; an answer that is lost, cut or no JSON object is of unknown outcome, for the
effect may have happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

ERROR_LENGTH = 500
_TEXT_FIELDS = ("detail", "error", "message", "msg", "reason", "title")
_NESTED_PROBLEMS = 3


@dataclass(frozen=True, slots=True)
class Answered:
    """The engine did it, and this is what came of it."""

    result: dict[str, Any]
    http_status: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing happened: the engine said so, or the request never went out."""

    error: str
    retryable: bool
    retry_after_s: float | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It may have happened; nobody may repeat it by himself unless the engine honours the key."""

    error: str
    http_status: int | None = None


Answer = Answered | Failed | Unknown


@dataclass(frozen=True, slots=True)
class Charge:
    """Dollars to book; `trusted` if the engine named them."""

    cost: Decimal
    trusted: bool


def charge(result: Mapping[str, Any], estimate: Decimal) -> Charge:
    """The result's `cost` as it is, or the estimate if there is no usable number."""
    cost = result.get("cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float | Decimal):
        return Charge(estimate, trusted=False)
    exact = Decimal(str(cost))
    usable = exact.is_finite() and exact >= 0
    return Charge(exact, trusted=True) if usable else Charge(estimate, trusted=False)


def retryable_status(status: int) -> bool:
    """Whether the same request may fare better later."""
    return status in (408, 425, 429) or status >= 500


def read_result(result: object, status: int) -> Answered | Unknown:
    """The result of a call that the engine calls a success."""
    if isinstance(result, dict):
        return Answered(result, status)
    return Unknown("the engine reported success, but its result is no JSON object", status)


def read_refusal(status: int, problem: Mapping[str, Any] | None, text: str, wait_s: float | None) -> Failed:
    """What a status of 300 or above amounts to, in the words of its problem document or else of its `text`."""
    if status < 400:
        return Failed(f"HTTP {status}: redirects are not followed", retryable=False, http_status=status)
    said = text if problem is None else _said(problem)
    error = f"HTTP {status}: {said}" if said.strip() else f"HTTP {status}"
    return Failed(error, retryable_status(status), wait_s, status)


def read_event(kind: str, document: dict[str, Any] | None, text: str) -> Answer | None:
    """What an event of a stream settles; None for progress and for kinds we do not know."""
    if kind == "complete":
        return read_result(document, 200)
    if kind == "error":
        return _reported({"detail": text} if document is None else document)
    return None


def read_report(report: Mapping[str, Any], status: int) -> Answer | None:
    """What the report on an accepted call settles; None as long as it is not over."""
    if report.get("status") == "completed":
        return read_result(report.get("result"), status)
    if report.get("status") == "failed":
        nested = report.get("result")
        reported = nested if isinstance(nested, dict) else {"detail": nested}
        return _reported(reported | {name: report[name] for name in report if name not in ("status", "result")})
    return None


def tidy(text: str) -> str:
    """An error text fit for a row and a log line: printable, on one line, bounded."""
    printable = "".join(c if c.isprintable() else " " for c in text[: 8 * ERROR_LENGTH])
    line = " ".join(printable.split())
    return line if len(line) <= ERROR_LENGTH else line[: ERROR_LENGTH - 1] + "…"


def _reported(problem: Mapping[str, Any]) -> Failed:
    """A failure told inside a success: retried, unless it says otherwise."""
    status, retryable = problem.get("status"), problem.get("retryable")
    if not isinstance(retryable, bool):
        retryable = not isinstance(status, int) or retryable_status(status)
    return Failed(_said(problem) or "the engine reported an error", retryable, http_status=200)


def _said(value: Any, depth: int = 0) -> str:
    """The words in a problem, whatever its dialect calls them."""
    if isinstance(value, str) or depth > _NESTED_PROBLEMS:
        return value if isinstance(value, str) else ""
    parts: list[Any] = value[:3] if isinstance(value, list) else []
    if isinstance(value, Mapping):
        parts = [value[name] for name in _TEXT_FIELDS if value.get(name)][:1]
    return "; ".join(said for part in parts if (said := _said(part, depth + 1)))
