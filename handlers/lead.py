"""A lead as handlers see it: a snapshot of its row."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

OWN = frozenset({"left_stage", "touched", "entry_pending", "known_issues"})
"""Columns that are the daemon's own business and no engine's."""


@dataclass(frozen=True, slots=True)
class Lead:
    """Attributes are read from the row when asked for: most handlers need few of its forty columns."""

    row: Mapping[str, Any]

    @property
    def id(self) -> UUID:
        return self.row["id"]

    @property
    def pipeline(self) -> str:
        return self.row["pipeline"]

    @property
    def stage(self) -> str:
        return self.row["stage"]

    @property
    def stage_seq(self) -> int:
        return self.row["stage_seq"]

    @property
    def data(self) -> Mapping[str, Any]:
        return self.row["data"]

    @property
    def deadline_at(self) -> datetime | None:
        return self.row["deadline_at"]

    @property
    def deadline_step(self) -> int:
        return self.row["deadline_step"]

    @property
    def entry_pending(self) -> bool:
        return self.row["entry_pending"]

    @property
    def do_not_contact(self) -> bool:
        return self.row["do_not_contact"]

    def text(self, column: str) -> str:
        """A text column, '' for null."""
        return (self.row[column] or "").strip()

    def missing(self, fields: tuple[str, ...]) -> list[str]:
        """Which of these keys of `data` have no value; 0 and false are values."""
        return [f for f in fields if str(self.data.get(f) if self.data.get(f) is not None else "").strip() == ""]

    def document(self) -> dict[str, Any]:
        """The lead as engines get it: its row by the names of the table, `id` first, `data` nested."""
        return {name: value for name, value in self.row.items() if name not in OWN}
