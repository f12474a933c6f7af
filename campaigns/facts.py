"""A run and its steps as a handler sees them: snapshots of their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from campaigns.decisions import LIVE, total
from campaigns.references import resolve
from daemon.learnings import Learning

Row = Mapping[str, Any]
LONGEST_ADDRESS = 320
PRIORITIES: Mapping[str, int] = {"high": 10, "normal": 50, "low": 90}


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its row, and what the pinned definition says of it."""

    row: Row
    declared: Mapping[str, Any]

    @property
    def position(self) -> int:
        return self.row["position"]

    @property
    def name(self) -> str:
        return self.row["name"]

    @property
    def kind(self) -> str:
        return self.row["kind"]

    @property
    def status(self) -> str:
        return self.row["status"]

    @property
    def engine(self) -> str:
        """The engine that it calls, if it calls one."""
        return self.declared.get("engine") or self.name

    @property
    def retry(self) -> Mapping[str, Any]:
        return self.declared.get("retry") or {}

    @property
    def estimate(self) -> Decimal | None:
        """What a call is expected to cost, if the document says."""
        cost = self.declared.get("cost")
        return None if cost is None else Decimal(str(cost))

    @property
    def timeout_s(self) -> float:
        """The limit of each call."""
        return float(self.declared.get("timeout") or 300_000) / 1000

    @property
    def priority(self) -> int:
        return PRIORITIES.get(self.declared.get("priority") or "normal", 50)


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its campaign's name, its steps, and what some of its tasks need besides."""

    row: Row
    steps: tuple[Step, ...]
    items: Sequence[Row] = ()
    leads: Mapping[UUID, Mapping[str, Any]] = field(default_factory=dict)
    approval: Row | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    learnings: Sequence[Learning] = ()  # for the engine that the task calls

    @property
    def id(self) -> UUID:
        return self.row["id"]

    @property
    def round(self) -> int:
        return self.row["round"]

    @property
    def status(self) -> str:
        return self.row["status"]

    @property
    def live(self) -> bool:
        return self.status in LIVE

    @property
    def campaign(self) -> str:
        return self.row["campaign_name"]

    @property
    def document(self) -> Mapping[str, Any]:
        return self.row["definition"]

    @property
    def results(self) -> Mapping[str, Any]:
        return self.row["results"]

    @property
    def found(self) -> Decimal:
        return total(self.results, "found")

    def at(self, position: object) -> Step | None:
        """The step at that position, if there is one."""
        return next((s for s in self.steps if s.position == position), None)

    def named(self, name: str | None) -> Step | None:
        """The step of that name, if there is one."""
        return next((s for s in self.steps if s.name == name), None)

    def before(self, step: Step, kind: str) -> Step | None:
        """The latest step of that kind before this one."""
        return next((s for s in reversed(self.steps[: step.position]) if s.kind == kind), None)

    def resolved(self, params: Any, lead: Mapping[str, Any] | None = None) -> Any:
        """Params with their references replaced by values."""
        return resolve(params, self.row["inputs"], self.results, lead)

    def sources(self, step: Step) -> list[Any]:
        """The list that a step works on: what its `from` refers to, else the leads that were stored last."""
        declared = step.declared.get("from")
        if declared is None:
            stored = self.before(step, "leads")
            declared = f"steps.{stored.name}.leads" if stored else []
        found = self.resolved({"$ref": declared} if isinstance(declared, str) else declared)
        return found if isinstance(found, list) else []


def effect_key(run_id: object, position: object, of_round: int, *more: object) -> str:
    """What names a call of a step, in one round of its run: the cause of its Idempotency-Key."""
    parts = ":".join(map(str, ("run", run_id, position, *more)))
    return f"{parts}#{of_round}" if of_round else parts


def address_of(value: Any) -> str | None:
    """An email address or a phone number, if it can be one; what is too long isn't cut to somebody else's."""
    text = value.strip() if isinstance(value, str) else ""
    return text if 0 < len(text) <= LONGEST_ADDRESS else None


def lead_id_of(item: Any) -> UUID | None:
    """The lead that an item of a list is, or is about."""
    named = (item.get("lead_id") or item.get("id")) if isinstance(item, Mapping) else item
    try:
        return UUID(str(named))
    except ValueError:
        return None
