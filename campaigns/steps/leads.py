"""Steps that store results as leads."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from typing import Any

from campaigns.effects import Effects, LeadFound
from campaigns.facts import address_of
from campaigns.references import follow, parse_path
from campaigns.steps import Attempt
from daemon.outcome import Outcome

PIPELINE = "vendor_acquisition"
TEXTS = ("name", "company", "email", "phone", "city", "region", "country", "timezone")
ADDRESSES = ("email", "phone")
TIERS = ("high", "medium", "low")
NAMES = ("external_id", "id", "place_id")
"""Where an item says what it is called where it comes from."""
KNOWN = frozenset({*TEXTS, *NAMES, "tier", "score", "do_not_contact", "data"})
LONGEST, LONGEST_NAME = 2000, 200
"""Characters of a text, and of what a lead is told by: an index holds no more of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """An item as a lead: its name at its source, and its columns."""

    external_id: str
    columns: Mapping[str, Any]


async def leads(attempt: Attempt) -> Outcome[Effects]:
    """One lead per item, whoever found it twice; the statement adds their ids to the result."""
    run, step = attempt.run, attempt.step
    items = run.sources(step)
    params = run.resolved(step.declared.get("params") or {})
    source = params.get("source") if isinstance(params, Mapping) else None
    found = [as_lead(item, step.declared.get("map") or {}) for item in items]
    unique = {lead.external_id: lead for lead in reversed(found) if lead is not None}
    stored = [
        LeadFound(
            run.id, run.round, step.position, n, step.declared.get("pipeline") or PIPELINE,
            _shortened(str(source or run.campaign)), lead.external_id, lead.columns,
        )
        for n, lead in enumerate(reversed(unique.values()))
    ]  # fmt: skip
    result = {"created": 0, "updated": 0, "leads": [], "skipped": len(items) - len(stored)}
    if not run.found:  # an engine that counted its finds has counted these
        result["found"] = len(stored)
    return attempt.completed(result, *stored)


def as_lead(item: Any, mapped: Mapping[str, str]) -> Found | None:
    """The item as a lead; without a map all that it says is kept. None for one that says nothing to tell it by."""
    if not isinstance(item, Mapping):
        return None
    given = {to: follow(item, parse_path(path)) for to, path in mapped.items()}
    fields = {name: item[name] for name in KNOWN if name in item} | given
    columns = {name: text for name in TEXTS if (text := _text(fields.get(name)))}
    columns |= {name: address_of(columns[name]) for name in ADDRESSES if name in columns} | _judged(fields)
    name = next((text for name in NAMES if (text := _text(fields.get(name)))), None) or _told_by(columns, item)
    if name is None:
        return None
    return Found(_shortened(name), columns | {"data": _data(item, fields, mapped)})


def _judged(fields: Mapping[str, Any]) -> dict[str, Any]:
    judged: dict[str, Any] = {}
    if str(fields.get("tier")).lower() in TIERS:
        judged["tier"] = str(fields["tier"]).lower()
    score = fields.get("score")
    if isinstance(score, int | float) and not isinstance(score, bool) and isfinite(score):
        judged["score"] = score
    if fields.get("do_not_contact") in (True, "true", 1):
        judged["do_not_contact"] = True
    return judged


def _data(item: Mapping[str, Any], fields: Mapping[str, Any], mapped: Mapping[str, str]) -> dict[str, Any]:
    """The pipeline's own fields: those that are mapped, or all that no column takes."""
    own = item.get("data")
    data = dict(own) if isinstance(own, Mapping) else {}
    if not mapped:
        data |= {name: value for name, value in item.items() if name not in KNOWN}
    return data | {to.removeprefix("data."): value for to, value in fields.items() if to.startswith("data.")}


def _told_by(columns: Mapping[str, Any], item: Mapping[str, Any]) -> str | None:
    """What tells it from others if its source gives it no name."""
    for field in ADDRESSES:
        if columns.get(field):
            return f"{field}:{columns[field].lower()}"
    if website := _text(item.get("website")):
        return f"website:{website.lower()}"
    called = columns.get("company") or columns.get("name")
    return f"name:{called.lower()}|{columns.get('city', '').lower()}" if called else None


def _shortened(name: str) -> str:
    """The name, or what stands for one that is too long to be looked up."""
    return name if len(name) <= LONGEST_NAME else f"sha256:{sha256(name.encode()).hexdigest()}"


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).strip()[:LONGEST]
