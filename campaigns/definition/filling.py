"""Completes each step with what follows from its other fields, the steps before it and the configured engines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from campaigns.definition.endpoints import placed, require_known
from campaigns.definition.flaws import Flaw, quoted
from campaigns.definition.model import MOST_STEPS
from campaigns.definition.world import OPERATIONS, World
from daemon.settings.engines import nearest

ENRICHER = "contacts"
PIPELINES = ("company_outreach", "vendor_acquisition")
"""Where leads go that a step sends nowhere in particular: the first of these that there is."""


@dataclass(slots=True)
class Draft:
    """A step on its way to completeness: of any shape, with the completed ones before it."""

    step: dict[str, Any]
    before: Sequence[object]
    world: World
    flaws: list[Flaw] = field(default_factory=list)

    def text(self, name: str) -> str | None:
        """A field, if it is a text."""
        value = self.step.get(name)
        return value if isinstance(value, str) and value else None

    def fill(self, name: str, value: str | None) -> None:
        """Set a field that was left out."""
        if value is not None:
            self.step.setdefault(name, value)

    def refuse(self, name: str, msg: str) -> None:
        """Say what is wrong with a field."""
        self.flaws.append(Flaw((name,), msg))


Rule = Callable[[Draft], None]


def fill(document: Mapping[str, Any], world: World) -> tuple[dict[str, Any], list[Flaw]]:
    """The document completed as far as it can be, and what can't be."""
    steps = document.get("steps")
    if not isinstance(steps, list) or len(steps) > MOST_STEPS:
        return dict(document), []
    flaws: list[Flaw] = []
    filled: list[object] = []
    for position, step in enumerate(steps):
        if isinstance(step, dict):
            draft = Draft(dict(step), tuple(filled), world)
            _complete(draft)
            flaws += [flaw.within("steps", position) for flaw in draft.flaws]
            filled.append(draft.step)
        else:
            filled.append(step)
    return {**document, "steps": filled}, flaws


def _complete(draft: Draft) -> None:
    kind = draft.step.get("kind", "engine")
    for rule in RULES.get(kind, (_name,)) if isinstance(kind, str) else (_name,):
        rule(draft)


# -- the rules


def _name(draft: Draft) -> None:
    draft.fill("name", draft.text("engine") or draft.text("checkpoint") or draft.text("kind"))


def _called(draft: Draft) -> None:
    draft.fill("name", draft.text("engine"))


def _checkpoint(draft: Draft) -> None:
    draft.fill("checkpoint", draft.text("name"))
    draft.fill("name", draft.text("checkpoint"))
    if "checkpoint" not in draft.step:
        draft.refuse("checkpoint", "is missing: say which one, or name the step")


def _enricher(draft: Draft) -> None:
    draft.fill("engine", ENRICHER)


def _engine(draft: Draft) -> None:
    """Whose operation is called: a known engine's, at its own place."""
    if (written := draft.text("engine")) is None:
        return
    engine = draft.step["engine"] = draft.world.meant(written)
    if engine not in draft.world.engines:
        draft.refuse("engine", f"{quoted(written)} is not configured{_guess(engine, draft.world)}")
    if "endpoint" not in draft.step:
        _first_operation(draft, written)
    elif endpoint := draft.text("endpoint"):
        _endpoint(draft, endpoint, engine)


def _first_operation(draft: Draft, engine: str) -> None:
    known = OPERATIONS.get(engine)
    draft.fill("endpoint", known[0] if known else None)
    if not known and engine in draft.world.engines:
        draft.refuse("endpoint", f"is missing: engine {quoted(engine)} has no usual operation")


def _endpoint(draft: Draft, endpoint: str, engine: str) -> None:
    configured = draft.world.engines
    try:
        if engine in configured:
            draft.step["endpoint"] = placed(endpoint, configured[engine])
        else:
            require_known(endpoint, configured.values())
    except ValueError as error:
        draft.refuse("endpoint", "is no URL" if isinstance(error, UnicodeError) else str(error))


def _pipeline(draft: Draft) -> None:
    known = draft.world.pipelines
    draft.fill("pipeline", next((name for name in PIPELINES if name in known), PIPELINES[-1]))
    if (pipeline := draft.text("pipeline")) and pipeline not in known:
        draft.refuse("pipeline", f"{quoted(pipeline)} is not declared; there are: {', '.join(sorted(known))}")


def _own_leads(draft: Draft) -> None:
    """Where the leads come from: the latest step before that stores some."""
    if "from" in draft.step:
        return
    stored = (step for step in reversed(draft.before) if isinstance(step, dict) and step.get("kind") == "leads")
    name = next(stored, {}).get("name")
    if isinstance(name, str):
        draft.fill("from", f"steps.{name}.leads")
    else:
        draft.refuse("from", "is missing, and no step of kind leads comes before")


def _drafts(draft: Draft) -> None:
    """Drafts come from a named source; only a template needs no more than leads."""
    if draft.step.get("template") is not None:
        _own_leads(draft)
    elif "from" not in draft.step:
        draft.refuse("from", "is missing: the drafts to send, or else a template")


RULES: Mapping[str, Sequence[Rule]] = {
    "engine": (_called, _engine),
    "checkpoint": (_checkpoint,),
    "leads": (_name, _pipeline),
    "enrich": (_enricher, _called, _engine, _own_leads),
    "messages": (_name, _drafts),
}


def _guess(engine: str, world: World) -> str:
    return f"; nearest: {nearest(engine, world.engines)}" if world.engines else ""
