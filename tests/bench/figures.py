"""What was measured and what it has to reach; a ratio is only ever taken within one pass."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

OURS = "orchestrator"


@dataclass(frozen=True, slots=True)
class Aim:
    """The floor and the goal of our figure or, with `over`, of its ratio to another's figure in the same pass."""

    floor: float | None = None
    goal: float | None = None
    over: str | None = None
    at_most: bool = False

    def met(self, value: float, limit: float | None) -> bool | None:
        """Whether the value is on the right side of a limit, if there is one."""
        if limit is None:
            return None
        return value <= limit if self.at_most else value >= limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim and what was reached; `value` None: it could not be compared."""

    aim: Aim
    value: float | None

    @property
    def floor_met(self) -> bool | None:
        """Whether the floor is reached; None if there is none, or nothing to judge by."""
        return None if self.value is None else self.aim.met(self.value, self.aim.floor)

    @property
    def goal_met(self) -> bool | None:
        """As `floor_met`."""
        return None if self.value is None else self.aim.met(self.value, self.aim.goal)

    @property
    def unjudged(self) -> bool:
        """Whether there is a floor, but the other's figure is missing."""
        return self.value is None and self.aim.floor is not None


@dataclass(slots=True)
class Row:
    """One figure of all contenders, pass by pass; `of_passes` makes one of many."""

    group: str
    what: str
    unit: str
    aims: Sequence[Aim] = ()
    of_passes: Callable[[Iterable[float]], float] = median
    passes: list[dict[str, float]] = field(default_factory=list)
    note: str = ""

    def add(self, figures: Mapping[str, float]) -> None:
        """What one pass has measured."""
        self.passes.append(dict(figures))

    @property
    def names(self) -> list[str]:
        """Who was measured."""
        return list(dict.fromkeys(name for one in self.passes for name in one))

    def figure(self, name: str) -> float | None:
        """Somebody's figure of all passes."""
        found = [one[name] for one in self.passes if name in one]
        return self.of_passes(found) if found else None

    def ratio(self, over: str) -> float | None:
        """How many times theirs is ours."""
        both = [(one[OURS], one[over]) for one in self.passes if OURS in one and over in one]
        return self.of_passes([_quotient(ours, theirs) for ours, theirs in both]) if both else None

    def verdicts(self) -> list[Verdict]:
        """Every aim with what was reached."""
        return [Verdict(aim, self.ratio(aim.over) if aim.over else self.figure(OURS)) for aim in self.aims]


def _quotient(ours: float, theirs: float) -> float:
    if math.isinf(theirs):
        return 0.0 if not math.isinf(ours) else 1.0
    return ours / theirs if theirs else math.inf


def share(values: Sequence[float], part: float) -> float:
    """The value below which that part of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
