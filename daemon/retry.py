"""How long to wait before the next try, and when to give up. Pure: the caller brings attempt, clock and randomness."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

BASE_S = 2.0
CAP_S = 600.0
LONGEST_RETRY_AFTER_S = 365 * 86_400.0

_MOST_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Dead:
    """Give up; `reason` says why."""

    reason: str


def backoff(attempt: int, base_s: float = BASE_S, cap_s: float = CAP_S, *, random: float) -> float:
    """Full jitter: anywhere (`random`, 0..1) between nothing and base, 2 x base, 4 x base, ... up to the cap."""
    doublings = min(max(attempt - 1, 0), _MOST_DOUBLINGS)
    return float(random * min(cap_s, base_s * 2**doublings))


def after_failure(
    attempt: int,
    max_attempts: int,
    retryable: bool,
    retry_after_s: float | None,
    random: float,
    *,
    base_s: float = BASE_S,
    cap_s: float = CAP_S,
) -> Retry | Dead:
    """Whether attempt number `attempt` (from 1) is followed by another one, never earlier than Retry-After says."""
    if not retryable:
        return Dead("not worth a retry")
    if attempt >= max_attempts:
        return Dead(f"failed {attempt} of {max_attempts} times")
    return Retry(max(backoff(attempt, base_s, cap_s, random=random), retry_after_s or 0.0))


def parse_retry_after(header: str, now: datetime) -> float | None:
    """Seconds from `now` that a Retry-After header (seconds or an HTTP date) asks for; None if it says neither."""
    text = header.strip()
    seconds = float(text) if text.isascii() and text.isdigit() else _seconds_until(text, now)
    return None if seconds is None else min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S)


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        at = parsedate_to_datetime(text)
        aware = at if at.tzinfo else at.replace(tzinfo=UTC)
        return (aware - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
