"""What each engine of the contract answers in the sandbox: one small function per operation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from daemon.sandbox.homes import BELOW_MARKET_PCT, below_market_pct, draws, number, offer_for, worth
from daemon.sandbox.reading import classify, learn

Body = Mapping[str, Any]
Operation = Callable[[Body], dict[str, Any]]

NAMES = ("Ann Archer", "Ben Booth", "Cara Cole", "Dan Drew", "Eve Ellis", "Finn Ford", "Gail Grant", "Hugh Hart")
COMPANIES = ("Blue Door Cafe", "Copper Kettle", "Harbour Grill", "Green Leaf Deli", "Old Oak Bakery", "Red Lantern")
TIERS = ((70, "high"), (45, "medium"), (0, "low"))


@dataclass(frozen=True, slots=True)
class Made:
    """A call that was made, and its result."""

    engine: str
    path: str
    key: str
    request: Body
    result: Body


def part(body: Any, *path: str) -> Any:
    """What stands at that path of nested objects; None if there is nothing."""
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body


def _items(body: Body, name: str) -> list[Any]:
    found = body.get(name)
    return found if isinstance(found, list) else []


def _count(body: Body, usual: int) -> int:
    asked = number(body.get("count"))
    return usual if asked is None else int(min(max(asked, 0), 200))


def _fitting(body: Body, usual: int) -> int:
    """How many of those that the engine keeps itself fit the filters."""
    limit = number(part(body, "filters", "limit"))
    return _count(body, usual if limit is None else int(min(max(limit, 0), usual)))


# -- vendors


def _send_sms(body: Body) -> dict[str, Any]:
    if body.get("dry_run"):
        return {"message_id": None, "cost": 0}
    sent: dict[str, Any] = {"message_id": f"sms-{uuid4().hex[:12]}", "cost": 0.0079}
    if body.get("template") == "CONVERSATION":
        sent["fields"] = learn(str(part(body, "context", "reply", "body") or ""))
    return sent


def _validate(body: Body) -> dict[str, Any]:
    data = part(body, "lead", "data") or {}
    score = below_market_pct(data)
    passed = score >= BELOW_MARKET_PCT
    side = "below" if score >= 0 else "above"
    return {
        "passed": passed,
        "reason": f"asking price is {abs(score):g} % {side} market value" + ("" if passed else ": too dear"),
        "bmv_score": score,
        "estimated_market_value": worth(data),
        "cost": 0.02,
    }


def _offer(body: Body) -> dict[str, Any]:
    data = part(body, "lead", "data") or {}
    return {"offer_amount": offer_for(data), "message_id": f"offer-{uuid4().hex[:12]}", "cost": 0.05}


def _deal(body: Body) -> dict[str, Any]:
    return {"deal_id": f"DEAL-{draws('deal', part(body, 'lead', 'id')).randint(10000, 99999)}", "cost": 0.01}


def _classify(body: Body) -> dict[str, Any]:
    category, confidence, reason = classify(str(part(body, "reply", "body") or ""))
    return {"category": category, "confidence": confidence, "reason": reason, "cost": 0.001}


# -- companies


def _company(*seed: object) -> dict[str, Any]:
    chance = draws(*seed)
    company, ref = chance.choice(COMPANIES), chance.randint(1000, 9999)
    host = f"{company.lower().replace(' ', '-')}-{ref}.example"
    return {
        "id": f"prospect-{ref}",
        "name": f"{company} {ref}",
        "company": f"{company} {ref}",
        "website": f"https://{host}",
        "email": f"hello@{host}",
        "phone": f"+1202555{chance.randint(100, 199):04d}",
    }


def _prospect(body: Body) -> dict[str, Any]:
    where = part(body, "location") or part(body, "city") or part(body, "brief", "geo", "city")
    found = [{**_company("prospect", body, n), "city": where} for n in range(_count(body, 5))]
    return {
        "found": len(found),
        "verified": len(found) * 4 // 5,
        "cost": round(0.02 * len(found), 4),
        "timeMs": 40 * len(found),
        "prospects": found,
    }


def _analyze(body: Body) -> dict[str, Any]:
    many = len(_items(body, "prospects") or _items(body, "leads")) or _fitting(body, 18)
    return {"analyzed": many, "cost": round(0.01 * many, 4)}


def _compose(body: Body) -> dict[str, Any]:
    to = _items(body, "prospects") or _items(body, "leads")
    drafts = [_draft(lead) for lead in to]
    many = len(drafts) or _fitting(body, 15)
    return {"composed": many, "cost": round(0.005 * many, 4), "drafts": drafts}


def _send_batch(body: Body) -> dict[str, Any]:
    many = len(_items(body, "drafts") or _items(body, "recipients") or _items(body, "prospects")) or _fitting(body, 14)
    return {"sent": many, "failed": 0, "cost": round(0.001 * many, 4)}


def _send_email(body: Body) -> dict[str, Any]:
    return {"message_id": f"<{uuid4().hex}@sandbox.example>", "cost": 0.0004}


def _scout(body: Body) -> dict[str, Any]:
    place = {"industry": body.get("industry"), "region": body.get("location")}
    return {"companies": [{**_company("scout", body, n), **place} for n in range(_count(body, 5))], "cost": 0.03}


def _score(body: Body) -> dict[str, Any]:
    return {"scores": [_scored(lead) for lead in _items(body, "leads")], "cost": 0.01}


def _scored(lead: Any) -> dict[str, Any]:
    chance = draws("score", part(lead, "id"))
    score, low = chance.randint(20, 98), chance.randint(4, 40) * 1000
    tier = next(name for least, name in TIERS if score >= least)
    savings = {"savings_low": low, "savings_mid": low * 2, "savings_high": low * 3}
    return {"lead_id": part(lead, "id"), "score": score, "tier": tier, **savings}


def _write(body: Body) -> dict[str, Any]:
    return {"drafts": [_draft(lead, body.get("step")) for lead in _items(body, "leads")], "cost": 0.01}


def _draft(lead: Any, step: Any = None) -> dict[str, Any]:
    who = part(lead, "company") or part(lead, "name") or "your company"
    subject = f"An idea for {who}" if not step else f"Re: An idea for {who} ({step})"
    return {
        "lead_id": part(lead, "id"),
        "subject": subject,
        "body": f"Hello,\n\nwe may save {who} money.\n\nThe sandbox",
    }


def _track(body: Body) -> dict[str, Any]:
    return {"events": [], "cost": 0}


def _source(body: Body) -> dict[str, Any]:
    return {"payloads": [{"query": body.get("criteria"), "page": n} for n in (1, 2)], "cost": 0.02}


def _extract_contacts(body: Body) -> dict[str, Any]:
    return {"contacts": [_contact("extract", p) for p in _items(body, "payloads")], "cost": 0.02}


# -- search and enrichment


def _places(body: Body) -> dict[str, Any]:
    seed = ("place", body.get("keyword"), body.get("location"))
    found = [_company(*seed, n) for n in range(6)]
    return {"places": [{**c, "place_id": c["id"], "city": body.get("location")} for c in found], "cost": 0.017}


def _place(body: Body) -> dict[str, Any]:
    place_id = body.get("place_id")
    return {"place": {**_company("details", place_id), "place_id": place_id}, "cost": 0.017}


def _intelligence(body: Body) -> dict[str, Any]:
    who = part(body, "target", "name") or "the business"
    return {"intelligence": {"summary": f"{who} is well liked and hard to find online.", "score": 71}, "cost": 0.04}


def _extract_fields(body: Body) -> dict[str, Any]:
    return {"fields": {"industry": "Hospitality", "website": part(body, "place", "website")}, "cost": 0.01}


def _facebook(body: Body) -> dict[str, Any]:
    contact = _contact("facebook", body.get("leadgen_id"))
    return {"name": contact["name"], "phone": contact["phone"], "email": contact["email"], "fields": {}, "cost": 0}


def _phone(body: Body) -> dict[str, Any]:
    chance = draws("phone", body.get("name"), body.get("city"))
    found = {"phone": f"+1202555{chance.randint(100, 199):04d}"} if chance.random() < 0.6 else {}
    return {**found, "cost": 0.005}


def _contacts(body: Body) -> dict[str, Any]:
    return {"contacts": [_contact("contacts", body.get("company"))], "cost": 0.02}


def _contact(*seed: object) -> dict[str, Any]:
    chance = draws(*seed)
    name = chance.choice(NAMES)
    mailbox = f"{name.lower().replace(' ', '.')}.{chance.randint(10, 99)}@company.example"
    return {"name": name, "title": "Owner", "email": mailbox, "phone": f"+1202555{chance.randint(100, 199):04d}"}


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("sms", "/api/send"): _send_sms,
    ("validator", "/api/validate"): _validate,
    ("offers", "/api/offers"): _offer,
    ("offers", "/api/deals"): _deal,
    ("classifier", "/api/classify"): _classify,
    ("prospecting", "/api/prospect"): _prospect,
    ("analysis", "/api/analyze"): _analyze,
    ("outreach", "/api/compose-batch"): _compose,
    ("outreach", "/api/send-batch"): _send_batch,
    ("outreach", "/api/send"): _send_email,
    ("scout", "/api/scout"): _scout,
    ("analyst", "/api/score"): _score,
    ("writer", "/api/write"): _write,
    ("tracker", "/api/track"): _track,
    ("sourcing", "/api/source"): _source,
    ("extraction", "/api/extract"): _extract_contacts,
    ("places", "/api/search"): _places,
    ("places", "/api/details"): _place,
    ("intelligence", "/api/analyze"): _intelligence,
    ("intelligence", "/api/extract"): _extract_fields,
    ("facebook", "/api/lead"): _facebook,
    ("phone_places", "/api/lookup"): _phone,
    ("phone_directory", "/api/lookup"): _phone,
    ("phone_website", "/api/lookup"): _phone,
    ("contacts", "/api/contacts"): _contacts,
}
ENGINES = frozenset(engine for engine, _ in OPERATIONS)


def operation(engine: str, path: str) -> Operation | None:
    """What answers there; an engine that only its user knows says yes to everything."""
    if engine not in ENGINES:
        return lambda body: {"ok": True, "cost": 0}
    return OPERATIONS.get((engine, path))
