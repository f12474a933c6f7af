"""From a document to a campaign, or to everything that is wrong with it; and back to a document."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from campaigns.definition.checks import cross_checks
from campaigns.definition.filling import fill
from campaigns.definition.flaws import Flaw, Invalid, Loc
from campaigns.definition.model import NAMES, Campaign
from campaigns.definition.reading import bottomless, parse, unfit
from campaigns.definition.steps import KINDS
from campaigns.definition.world import World

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SAID = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length}",
    "too_long": "may have at most {max_length}",
    "string_too_short": "must not be empty",
    "string_too_long": "may have at most {max_length} characters",
    "string_pattern_mismatch": "must be a word or a line of words, without . [ ] where others refer to it",
    "literal_error": "must be {expected}",
}


def load(text: bytes | str, world: World) -> Campaign:
    """The campaign of a JSON text, or Invalid."""
    return validate(parse(text), world)


def validate(document: object, world: World) -> Campaign:
    """The campaign of a JSON value, or Invalid with everything that is wrong with it."""
    flaws = unfit(document)
    if bottomless(flaws):
        raise Invalid(_tidy(flaws))
    if not isinstance(document, dict):
        raise Invalid(flaws or [Flaw((), "must be an object")])
    filled, found = fill(document, world)
    flaws += [*found, *cross_checks(filled)]
    try:
        campaign = Campaign.model_validate(filled)
    except ValidationError as invalid:
        raise Invalid(_tidy([*flaws, *_shape(invalid, filled)])) from None
    if flaws:
        raise Invalid(_tidy(flaws))
    return campaign


def normalised(campaign: Campaign) -> dict[str, Any]:
    """The document with every default spelled out: what a run pins."""
    return campaign.model_dump(mode="json", by_alias=True)


def pinned(document: Mapping[str, Any]) -> Campaign:
    """The campaign of a normalised document, whatever has become of engines and pipelines since."""
    return Campaign.model_validate(dict(document))


def json_schema() -> dict[str, Any]:
    """The shape of a document as JSON Schema 2020-12."""
    return {"$schema": _DIALECT, **Campaign.model_json_schema()}


# -- what pydantic says


def _shape(invalid: ValidationError, document: Mapping[str, Any]) -> Iterator[Flaw]:
    for error in invalid.errors(include_url=False, include_input=False):
        loc = _place(error["loc"], document)
        if not _of_unknown_kind(loc, error, document) and not _of_broken_items(error, document):
            yield Flaw(loc, _message(loc, error))


def _place(loc: Loc, document: Mapping[str, Any]) -> Loc:
    """The place in the document: without the names of kinds, of keys, and of what a short form stands for."""
    plain = loc[:-1] if loc[-1:] == ("[key]",) else loc
    if plain[:1] == ("steps",) and len(plain) > 2:
        plain = (*plain[:2], *plain[3:])
    short = plain[:1] == ("schedule",) and isinstance(document["schedule"], str)
    return plain[:1] if short else (*plain, "$ref") if _of_reference(plain, document) else plain


def _of_reference(loc: Loc, document: Mapping[str, Any]) -> bool:
    """Whether a source that is written as in params stands there."""
    if loc[:1] != ("steps",) or loc[2:] != ("from",):
        return False
    source = document["steps"][loc[1]].get("from")
    return isinstance(source, dict) and "$ref" in source


def _at(document: Any, loc: Loc) -> Any:
    for part in loc:
        document = document[part]
    return document


def _of_unknown_kind(loc: Loc, error: ErrorDetails, document: Mapping[str, Any]) -> bool:
    """Whether it only says that a step of unknown kind is not of the kind it was read as."""
    if len(loc) != 3 or loc[0] != "steps" or error["type"] not in {"missing", "extra_forbidden"}:
        return False
    kind = _at(document, loc[:2]).get("kind", "engine")
    known = isinstance(kind, str) and kind in KINDS
    return not known and (error["type"] == "missing" or loc[2] in NAMES)


def _of_broken_items(error: ErrorDetails, document: Mapping[str, Any]) -> bool:
    """Whether a list is only too short without its broken items, which are told anyway."""
    return error["type"] == "too_short" and bool(_at(document, error["loc"]))


def _message(loc: Loc, error: ErrorDetails) -> str:
    if loc[:1] == ("steps",) and loc[2:] == ("kind",):
        return f"must be one of {', '.join(KINDS)}"
    template = _SAID.get(error["type"])
    said = template.format_map(error.get("ctx", {})) if template else error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden" and (meant := _meant(loc[-1])):
        return f"{said}; is {meant} meant?"
    return said


def _meant(name: str | int) -> str | None:
    found: Sequence[str] = difflib.get_close_matches(str(name)[:40], NAMES - {name}, n=1, cutoff=0.75)
    return None if name in NAMES or not found else found[0]


def _tidy(flaws: Sequence[Flaw]) -> list[Flaw]:
    """One flaw for each place, in the order of places."""
    first: dict[Loc, Flaw] = {}
    for flaw in flaws:
        first.setdefault(flaw.loc, flaw)
    return sorted(first.values(), key=_order)


def _order(flaw: Flaw) -> list[tuple[int, str]]:
    return [(part, "") if isinstance(part, int) else (-1, str(part)) for part in flaw.loc]
