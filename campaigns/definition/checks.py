"""What no part of a document can know alone: names that meet twice, references to nothing, inputs that nobody gives."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from campaigns import references
from campaigns.definition.flaws import Flaw, Loc, quoted


def cross_checks(document: Mapping[str, Any]) -> Iterator[Flaw]:
    """Every flaw between the parts of a completed document, whatever shape they are of."""
    inputs = document.get("inputs")
    declared = inputs if isinstance(inputs, Mapping) else {}
    yield from _ungiven(document, declared)
    steps = document.get("steps")
    if isinstance(steps, list):
        names = [_name(step) for step in steps]
        yield from _duplicates(names)
        for position, step in enumerate(steps):
            for loc, text, of_lead in _references(step):
                if said := _fault(text, names, position, declared, of_lead):
                    yield Flaw(("steps", position, *loc), said)


def _ungiven(document: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[Flaw]:
    """Inputs that nobody gives a run which its schedule starts."""
    schedule = document.get("schedule")
    enabled = schedule.get("enabled") is not False if isinstance(schedule, Mapping) else isinstance(schedule, str)
    for name, declared in inputs.items() if enabled else ():
        if isinstance(declared, Mapping) and declared.get("required") is True and declared.get("default") is None:
            yield Flaw(("inputs", name), "needs a default: a run that the schedule starts is given nothing")


def _name(step: object) -> str | None:
    name = step.get("name") if isinstance(step, Mapping) else None
    return name if isinstance(name, str) else None


def _duplicates(names: Sequence[str | None]) -> Iterator[Flaw]:
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name is not None and first.setdefault(name, position) != position:
            yield Flaw(
                ("steps", position, "name"),
                f"{quoted(name)} is also the name of step {first[name]}: set `name` to tell them apart",
            )


def _references(step: object) -> Iterator[tuple[Loc, object, bool]]:
    """Every reference of a step, its place, and whether it may speak of a lead."""
    if not isinstance(step, Mapping):
        return
    for loc, text in references.references(step.get("params"), ("params",)):
        yield loc, text, step.get("kind") == "enrich"
    source = step.get("from")
    if isinstance(source, str):
        yield ("from",), source, False
    for loc, text in references.references(source, ("from",)):
        yield loc, text, False


def _fault(
    text: object, names: Sequence[str | None], position: int, inputs: Mapping[str, Any], of_lead: bool
) -> str | None:
    if not isinstance(text, str):
        return "must be a text, the only member of its object"
    try:
        reference = references.parse(text)
    except ValueError as error:
        return str(error)
    match reference.root:
        case "inputs":
            return None if reference.name in inputs else f"there is no input {quoted(reference.name)}"
        case "steps":
            return _step_fault(reference.name, names, position)
        case "lead":
            return None if of_lead else "a lead is known only in the params of a step of kind enrich"


def _step_fault(name: str, names: Sequence[str | None], position: int) -> str | None:
    if name in names[:position]:
        return None
    if name == names[position]:
        return "a step can't refer to itself"
    later = name in names[position:]
    return f"step {quoted(name)} comes later" if later else f"there is no step {quoted(name)}"
