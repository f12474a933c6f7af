"""What is wrong with a document, and where."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from daemon.errors import BadInput

Loc = tuple[str | int, ...]
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong, and its JSON path; an empty one means the whole document."""

    loc: Loc
    msg: str

    def within(self, *place: str | int) -> "Flaw":
        """The same flaw, seen from further outside."""
        return Flaw((*place, *self.loc), self.msg)

    def document(self) -> dict[str, Any]:
        """The flaw as JSON."""
        return {"loc": list(self.loc), "msg": self.msg}

    def __str__(self) -> str:
        return f"{_path(self.loc) or 'document'}: {self.msg}"


class Invalid(BadInput):
    """A document that is refused, with every reason."""

    errors: tuple[Flaw, ...]

    def __init__(self, flaws: Iterable[Flaw]) -> None:
        every = tuple(flaws)
        super().__init__("the campaign is not valid: " + "; ".join(map(str, every[:3])), every)


def quoted(text: str) -> str:
    """Somebody's text inside a message: cut short and printable."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _path(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
