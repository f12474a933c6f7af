"""What an attempt may come to. The queue reads these; only the kind reads `effects`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Done(Generic[E_co]):
    """Finished: settle the task and write `effects` in the same transaction."""

    effects: E_co
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snooze(Generic[E_co]):
    """Not now: the task waits until `until` (business time) and the attempt costs nothing."""

    until: datetime
    reason: str
    effects: E_co | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """The attempt failed; `after_s` is the engine's Retry-After, `unknown` an effect that may have happened.

    `effects` are written if it is tried again; what a death means, the subject says.
    """

    error: str
    retryable: bool = True
    after_s: float | None = None
    unknown: bool = False
    effects: Any = None


Outcome = Done[E_co] | Snooze[E_co] | Fail
