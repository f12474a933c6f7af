"""What a pipeline is: stages, moves, deadlines and handlers, declared once. Checked at import; it never runs."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from daemon.answers import Answer
from daemon.context import Context
from daemon.engines import Call, Skipped
from daemon.errors import DeclarationError
from daemon.outcome import Done, Outcome
from daemon.task import Policy, Task
from handlers.effects import Effect, Effects
from handlers.lead import Lead

CALLS_AN_ENGINE = Policy(concurrency=32)
SWEEP_STEPS = ("new_leads", "stalled_conversations", "validation_queue", "offer_timeouts", "retry_stages")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a handler: its task, and the way to the engines."""

    task: Task
    context: Context

    async def call(self, engine: str, operation: str, lead: Lead, body: Mapping[str, Any]) -> Answer | Skipped:
        """Call an engine for this lead's stage entry; its key names lead, entry and operation."""
        cause = f"lead:{lead.id}:{lead.stage_seq}:{operation}"
        return await self.context.engines.call(self.task, Call(engine, operation, body, cause, lead_id=lead.id))

    def failed(self, engine: str, answer: Any) -> Outcome[Effects]:
        """What an answer without a result means for the task; a dry run goes on without it."""
        if isinstance(answer, Skipped) and answer.until is None:
            return done(reason=answer.reason)
        return self.context.engines.as_outcome(engine, answer)


Handler = Callable[[Lead, Attempt], Awaitable[Outcome[Effects]]]
ReplyRule = Callable[[Lead, "Inbound"], "Routed | None"]
Compose = Callable[[Lead], tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Inbound:
    """A classified reply, as routing sees it. `category` None: nobody could tell."""

    id: UUID
    category: str | None
    body: str
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Routed:
    """What a pipeline does with a reply."""

    effects: tuple[Effect, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class GoTo:
    """A deadline that moves the lead."""

    stage: str
    reason: str
    event: str | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """A deadline that sends a message and leaves the lead where it is."""

    template: str


@dataclass(frozen=True, slots=True)
class FlagFor:
    """A deadline that asks for a person."""

    reason: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """What happens at that age of the stage entry, or of the lead's silence."""

    after: timedelta
    act: GoTo | Say | FlagFor


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `on_entry` owes an action at each entry; without a policy of its own it calls no engine."""

    name: str
    to: tuple[str, ...] = ()
    on_entry: Handler | None = None
    policy: Policy = field(default_factory=Policy)
    required: tuple[str, ...] = ()
    deadlines: tuple[Deadline, ...] = ()
    counts_silence: bool = False
    on_complete: str | None = None
    on_dead: str = "entry action failed"
    sweep_step: str = "stalled_conversations"

    @property
    def terminal(self) -> bool:
        return not self.to

    @property
    def timed_targets(self) -> list[str]:
        """Where its deadlines lead."""
        return [d.act.stage for d in self.deadlines if isinstance(d.act, GoTo)]


def after(hours: float, act: GoTo | Say | FlagFor) -> Deadline:
    """A deadline step, its age in hours."""
    return Deadline(timedelta(hours=hours), act)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A state machine for leads. `checked` names the keys of `data` that `check` reads."""

    name: str
    stages: tuple[Stage, ...]
    checked: tuple[str, ...] = ()
    check: Callable[[Lead], list[str]] = lambda lead: []
    on_reply: ReplyRule = lambda lead, reply: None
    refused: str | None = None  # where a lead goes that wants no more contact
    by_name: Mapping[str, Stage] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {s.name: s for s in self.stages})
        problems = list(self._problems())
        if problems:
            raise DeclarationError(f"pipeline {self.name}: " + "; ".join(problems))

    @property
    def initial(self) -> str:
        return self.stages[0].name

    @property
    def watched(self) -> tuple[str, ...]:
        """Every key of `data` whose change asks for a check."""
        required = {f for s in self.stages for f in s.required}
        return tuple(sorted(required | set(self.checked)))

    def entry_kind(self, stage: Stage) -> str | None:
        """The kind of task that an entry owes."""
        return f"{self.name}.{stage.name}" if stage.on_entry else None

    def _problems(self) -> Iterator[str]:
        if len(self.by_name) < len(self.stages):
            yield "a stage is declared twice"
        if self.refused and self.refused not in self.by_name:
            yield f"{self.refused} is not declared"
        for stage in self.stages:
            yield from self._problems_of(stage)

    def _problems_of(self, stage: Stage) -> Iterator[str]:
        targets = [*stage.to, *stage.timed_targets, *([stage.on_complete] if stage.on_complete else [])]
        for target in targets:
            if target not in self.by_name:
                yield f"{stage.name} leads to {target}, which is not declared"
            elif target not in stage.to:
                yield f"{stage.name} may not go to {target}"
        ages = [d.after for d in stage.deadlines]
        if ages != sorted(ages):
            yield f"the deadlines of {stage.name} are not in order"
        if stage.sweep_step not in SWEEP_STEPS:
            yield f"{stage.name} has no sweep step {stage.sweep_step}"


def mermaid(pipeline: Pipeline) -> str:
    """The pipeline as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {pipeline.initial}"]
    for stage in pipeline.stages:
        timed = {d.act.stage: _age(d.after) for d in stage.deadlines if isinstance(d.act, GoTo)}
        lines += [f"    {stage.name} --> {to}" + (f": {timed[to]}" if to in timed else "") for to in stage.to]
        if stage.terminal:
            lines.append(f"    {stage.name} --> [*]")
    return "\n".join(lines)


def _age(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    return f"{hours / 24:g} d" if hours >= 72 and hours % 24 == 0 else f"{hours:g} h"


def done(*effects: Effect, reason: str) -> Done[Effects]:
    """An outcome with these effects."""
    return Done(effects, reason)
