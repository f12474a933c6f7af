"""What a person asks for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `sure` if nothing else can be meant, `whole` if it is all that the message says."""

    sure: bool
    whole: bool
    reason: str
