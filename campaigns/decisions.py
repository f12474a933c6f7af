"""What follows from what a step came to. Pure: the caller brings the facts, the clock and the randomness."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any

from daemon.answers import Failed, Unknown

LIVE = ("running", "waiting", "paused")
UNFINISHED = ("pending", "running", "waiting")
UNSUCCESSFUL = ("failed", "unknown")
LONGEST_DELAY_S = 86_400.0
_MOST_DOUBLINGS = 30

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Next:
    """The run goes on with that step."""

    position: int


@dataclass(frozen=True, slots=True)
class End:
    """The run ends; `hears` is the part of `notifications` whose people are told."""

    status: str
    event: str
    hears: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Again:
    """The call failed and is made again after so many seconds."""

    error: str
    after_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """No further call: `failed`, or `unknown` if it may have had its effect."""

    status: str
    error: str


def follows(document: Document, statuses: Sequence[str], position: int, found: Decimal, cost: Decimal) -> Next | End:
    """What a run does after the step at `position`; `statuses` are those of all its steps, that one's included."""
    step, failed = document["steps"][position], statuses[position] in UNSUCCESSFUL
    if failed and on_failure(step) == "abort":
        return FAILED
    dear = too_dear(document, found, cost)
    if dear:
        return End("aborted", "run_failed", "onFailure", dear)
    if (step.get("onSuccess") == "abort" and not failed) or position + 1 == len(statuses):
        return ending(document, statuses)
    return Next(position + 1)


FAILED = End("failed", "run_failed", "onFailure")


def ending(document: Document, statuses: Sequence[str]) -> End:
    """How a run that came to its end ends: one `continue` that was needed makes it partial."""
    steps = document["steps"][: len(statuses)]
    if any(
        status in UNSUCCESSFUL and on_failure(step) == "continue" for step, status in zip(steps, statuses, strict=True)
    ):
        return End("partial", "run_partial", "onComplete")
    return End("completed", "run_completed", "onComplete")


def on_failure(step: Document) -> str:
    """What the step's author wants if it fails."""
    return step.get("onFailure") or "abort"


def too_dear(document: Document, found: Decimal, cost: Decimal) -> str:
    """Why the run has become too dear per prospect, or ''."""
    limit = (document.get("budget") or {}).get("perLead")
    if limit is None or found <= 0 or cost / found <= Decimal(str(limit)):
        return ""
    return f"{cost / found:.4f} dollars per lead are more than the {limit} that its budget allows"


def total(results: Mapping[str, Any], field: str) -> Decimal:
    """The sum of a number over all results."""
    values = [result.get(field) for result in results.values() if isinstance(result, Mapping)]
    return sum((Decimal(str(v)) for v in values if _is_number(v)), Decimal(0))


def after_failure(
    answer: Failed | Unknown, tries: int, retry: Mapping[str, Any], *, honours_keys: bool, random: float
) -> Again | GivenUp:
    """Whether try number `tries` is followed by another; after an unknown outcome only if the engine honours keys."""
    unknown = isinstance(answer, Unknown)
    worth_it = honours_keys if isinstance(answer, Unknown) else answer.retryable
    if not worth_it or tries >= attempts(retry):
        return GivenUp("unknown" if unknown else "failed", answer.error)
    asked_s = 0.0 if isinstance(answer, Unknown) else answer.retry_after_s or 0.0
    return Again(answer.error, max(asked_s, delay_s(retry, tries, random)))


def attempts(retry: Mapping[str, Any]) -> int:
    """How many calls in all."""
    return int(retry.get("attempts") or 1)


def delay_s(retry: Mapping[str, Any], tries: int, random: float) -> float:
    """The pause after so many tries: always the same, or doubling, of which at least half."""
    seconds = float(retry.get("delay") or 0) / 1000
    if retry.get("backoff") != "exponential":
        return seconds
    return min(seconds * 2.0 ** min(tries - 1, _MOST_DOUBLINGS), LONGEST_DELAY_S) * (0.5 + random / 2)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
