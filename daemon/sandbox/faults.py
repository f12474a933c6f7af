"""Faults on demand: what may go wrong with a call to the sandbox's engines, which calls it strikes, what came of it.

A fault is survived when the call that it struck, known by its key, has its whole answer after all.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from random import Random
from typing import Any

REMEMBERED = 20_000
EVERY = "*"
Struck = tuple[str, str, str]
"""A call: engine, path, Idempotency-Key."""


class Fault(StrEnum):
    """What can go wrong."""

    LATENCY = "latency"
    ERROR = "500"
    BUSY = "503"
    LIMITED = "429"
    POLL = "poll"
    DROPPED = "dropped"
    LOST_ANSWER = "lost_answer"
    CUT_STREAM = "cut_stream"
    GARBAGE = "garbage"
    NEGATIVE_COST = "negative_cost"
    MISSING_COST = "missing_cost"
    HUGE_COST = "huge_cost"


MEANING: Mapping[Fault, str] = {
    Fault.LATENCY: "the answer takes `seconds` longer (2)",
    Fault.ERROR: "HTTP 500; nothing has happened",
    Fault.BUSY: "HTTP 503 with Retry-After `seconds` (1); nothing has happened",
    Fault.LIMITED: "HTTP 429 with Retry-After `seconds` (1); nothing has happened",
    Fault.POLL: "HTTP 202: the result is to be fetched, and there after `seconds` (1)",
    Fault.DROPPED: "the connection breaks; nothing has happened",
    Fault.LOST_ANSWER: "it has happened, but the connection breaks before the answer",
    Fault.CUT_STREAM: "it has happened, but the stream of events is cut",
    Fault.GARBAGE: "it has happened, but the answer is no JSON",
    Fault.NEGATIVE_COST: "the engine names a cost below zero",
    Fault.MISSING_COST: "the engine names no cost",
    Fault.HUGE_COST: "the engine names a hundred times its cost",
}
USUAL_S: Mapping[Fault, float] = {Fault.LATENCY: 2.0, Fault.BUSY: 1.0, Fault.LIMITED: 1.0, Fault.POLL: 1.0}
"""The faults that `seconds` means something to, and what it is if nobody says."""


class Weather(StrEnum):
    """How the engines behave from the start."""

    CALM = "calm"
    USUAL = "usual"
    STORMY = "stormy"


FORECAST: Mapping[Weather, Mapping[Fault, float]] = {
    Weather.CALM: {},
    Weather.USUAL: {Fault.BUSY: 0.04, Fault.LATENCY: 0.02},
    Weather.STORMY: {
        Fault.LATENCY: 0.04, Fault.ERROR: 0.06, Fault.BUSY: 0.06, Fault.LIMITED: 0.04, Fault.POLL: 0.05,
        Fault.DROPPED: 0.06, Fault.LOST_ANSWER: 0.06, Fault.CUT_STREAM: 0.05, Fault.GARBAGE: 0.05,
        Fault.NEGATIVE_COST: 0.02, Fault.MISSING_COST: 0.02, Fault.HUGE_COST: 0.02,
    },
}  # fmt: skip
"""The share of all calls that each fault strikes, each call once at most."""


@dataclass(slots=True)
class Rule:
    """Which calls a fault strikes: a share of them, or so many as are left. `once`: only those never struck before."""

    id: int
    fault: Fault
    engine: str = EVERY
    operation: str | None = None
    share: float = 1.0
    left: int | None = None
    seconds: float = 0.0
    once: bool = False
    fired: int = 0
    survived: int = 0

    def covers(self, engine: str, path: str) -> bool:
        """Whether it is about this operation."""
        return self.engine in (EVERY, engine) and self.operation in (None, path) and self.left != 0

    def fire(self) -> None:
        """It has struck once more."""
        self.fired += 1
        if self.left is not None:
            self.left -= 1

    def document(self) -> dict[str, Any]:
        """The rule as JSON."""
        told: dict[str, Any] = {"id": self.id, "fault": self.fault, "engine": self.engine, "operation": self.operation}
        told |= {"share": self.share} if self.left is None else {"left": self.left}
        told |= {"seconds": self.seconds} if self.fault in USUAL_S else {}
        return {**told, "once": self.once, "fired": self.fired, "survived": self.survived}


@dataclass(slots=True)
class Faults:
    """The rules in force, and the count of what they did; the counts outlive their rules."""

    rules: list[Rule] = field(default_factory=list)
    fired: Counter[Fault] = field(default_factory=Counter)
    survived: Counter[Fault] = field(default_factory=Counter)
    _open: dict[Struck, list[Rule]] = field(default_factory=dict)
    _struck: dict[Struck, None] = field(default_factory=dict)
    _ids: "count[int]" = field(default_factory=lambda: count(1))
    _chance: Random = field(default_factory=Random)

    def add(self, fault: Fault, engine: str = EVERY, *, seconds: float | None = None, **more: Any) -> Rule:
        """Put a rule in force; the older ones have the first stroke."""
        wait_s = USUAL_S.get(fault, 0.0) if seconds is None else seconds
        self.rules.append(Rule(next(self._ids), fault, engine, seconds=wait_s, **more))
        return self.rules[-1]

    def forecast(self, weather: Weather) -> None:
        """Put the rules of this weather in force."""
        for fault, share in FORECAST[weather].items():
            self.add(fault, share=share, once=True)

    def clear(self) -> int:
        """Take every rule out of force; how many there were."""
        cleared = len(self.rules)
        self.rules.clear()
        return cleared

    def strike(self, call: Struck) -> Rule | None:
        """The rule that strikes this call, if one does."""
        rule = next((rule for rule in self.rules if self._strikes(rule, call)), None)
        if rule is not None:
            rule.fire()
            self.fired[rule.fault] += 1
            self._open.setdefault(call, []).append(rule)
            self._remember(call)
        return rule

    def answered(self, call: Struck) -> None:
        """The call has its whole answer: whatever struck it is survived."""
        for rule in self._open.pop(call, ()):
            rule.survived += 1
            self.survived[rule.fault] += 1

    def _strikes(self, rule: Rule, call: Struck) -> bool:
        engine, path, key = call
        if not rule.covers(engine, path) or (rule.once and (not key or call in self._struck)):
            return False
        return self._chance.random() < rule.share

    def _remember(self, call: Struck) -> None:
        self._struck[call] = None
        for memory in (self._struck, self._open):
            if len(memory) > REMEMBERED:
                del memory[next(iter(memory))]
