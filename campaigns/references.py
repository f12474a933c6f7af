"""References such as `steps.prospecting.prospects[*].id`: read, found in params, and replaced by values. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, cast

Root = Literal["inputs", "steps", "lead"]
Loc = tuple[str | int, ...]
NAME = r"^[^\s.\[\]\x00-\x1f\x7f](?:[^.\[\]\x00-\x1f\x7f]*[^\s.\[\]\x00-\x1f\x7f])?$"
"""What a step or an input may be called, so that a reference can name it."""
DRY = {"dryRun": True}
"""The result of a dry step; references into it find nothing."""
_LONGEST = 500
_KEY = r"[^.\[\]]+(?:\[(?:\*|\d{1,6})\])*"
_PATH = re.compile(rf"{_KEY}(?:\.{_KEY})*")
_PART = re.compile(r"\[(\*|\d+)\]|([^.\[\]]+)")


class Every(Enum):
    """The `[*]` in a path."""

    ITEM = "*"


Path = tuple[str | int | Every, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a value comes from: an input, a step's result or the lead, and the path in it."""

    root: Root
    name: str
    path: Path


def parse(text: str) -> Reference:
    """Read `inputs.NAME…`, `steps.NAME…` or `lead.FIELD…`, or raise ValueError."""
    root, _, rest = text.partition(".")
    try:
        path = parse_path(rest)
    except ValueError:
        path = ()
    if root not in {"inputs", "steps", "lead"} or not path:
        raise ValueError("must be inputs.NAME, steps.NAME or lead.FIELD, then .field, [*] or [0], as often as needed")
    if root == "lead":
        return Reference("lead", "", path)
    return Reference(cast("Root", root), str(path[0]), path[1:])


def parse_path(text: str) -> Path:
    """Read a path inside a value, such as `owner.phones[0]`, or raise ValueError."""
    if len(text) > _LONGEST or not _PATH.fullmatch(text):
        raise ValueError("must be a path such as name, owner.email or phones[0]")
    return tuple(_part(*match.groups()) for match in _PART.finditer(text))


def references(params: object, place: Loc = ()) -> Iterator[tuple[Loc, object]]:
    """Every `$ref` in params, with its place; one that has company is told as None."""
    if isinstance(params, Mapping):
        if "$ref" in params:
            yield (*place, "$ref"), params["$ref"] if len(params) == 1 else None
        else:
            for name, value in params.items():
                yield from references(value, (*place, name))
    elif isinstance(params, list):
        for number, value in enumerate(params):
            yield from references(value, (*place, number))


def resolve(
    params: Any, inputs: Mapping[str, Any], results: Mapping[str, Any], lead: Mapping[str, Any] | None = None
) -> Any:
    """Params with every reference replaced by its value; what comes out of a result is never searched again."""
    match params:
        case {"$ref": str(text)}:
            return value_of(text, inputs, results, lead)
        case dict():
            return {name: resolve(value, inputs, results, lead) for name, value in params.items()}
        case list():
            return [resolve(value, inputs, results, lead) for value in params]
        case _:
            return params


def value_of(
    text: str, inputs: Mapping[str, Any], results: Mapping[str, Any], lead: Mapping[str, Any] | None = None
) -> Any:
    """The value of one reference; None if there is none, with `[*]` a list of all that there are."""
    reference = parse(text)
    start = (
        lead if reference.root == "lead" else (inputs if reference.root == "inputs" else results).get(reference.name)
    )
    return follow(None if start == DRY else start, reference.path)


def follow(value: Any, path: Path) -> Any:
    """What stands at a path: None if nothing does, with `[*]` a list."""
    found: Sequence[Any] = [value]
    for part in path:
        found = [child for one in found for child in _at(one, part)]
    if Every.ITEM in path:
        return list(found)
    return found[0] if found else None


def _at(value: Any, part: str | int | Every) -> Sequence[Any]:
    match part:
        case Every():
            return value if isinstance(value, list) else ()
        case int():
            return value[part : part + 1] if isinstance(value, list) else ()
        case _:
            return (value[part],) if isinstance(value, Mapping) and part in value else ()


def _part(inside: str | None, key: str | None) -> str | int | Every:
    if inside is None:
        return str(key)
    return Every.ITEM if inside == "*" else int(inside)
