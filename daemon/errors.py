"""The one exception tree."""

from collections.abc import Sequence
from typing import Any, Protocol


class OrchestratorError(Exception):
    """Something a person can act on; the text says what to do."""


class SettingsError(OrchestratorError):
    """Bad usage or bad settings (exit 2)."""


class DatabaseUnavailable(OrchestratorError):
    """No writable Postgres answered in time (exit 1)."""


class SchemaMismatch(OrchestratorError):
    """The database's schema is not the one this version needs (exit 1)."""


class DeclarationError(OrchestratorError):
    """A pipeline's declaration contradicts itself or the live data."""


class LeaseLost(OrchestratorError):
    """This daemon may no longer speak for the task."""


class NotThere(OrchestratorError):
    """There is no such thing."""


class NotNow(OrchestratorError):
    """Its present state doesn't allow this; `members` say more to programs."""

    def __init__(self, text: str, **members: Any) -> None:
        super().__init__(text)
        self.members = members


class Unaffordable(OrchestratorError):
    """There is no money left for it."""


class Fault(Protocol):
    """One thing wrong with an input, and where."""

    @property
    def loc(self) -> tuple[str | int, ...]:
        """Its place; an empty one is the whole input."""

    @property
    def msg(self) -> str:
        """What is wrong there."""


class BadInput(OrchestratorError):
    """An input that is refused, with everything that is wrong with it."""

    def __init__(self, text: str, errors: Sequence[Fault]) -> None:
        super().__init__(text)
        self.errors = tuple(errors)
