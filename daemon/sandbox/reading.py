"""How the sandbox's agents read: what a seller's text says about the home, and what kind of reply it is."""

import re
from typing import Any

_STREET = (
    r"Street|St|Road|Rd|Lane|Avenue|Ave|Drive|Close|Way|Court|Hill|Row|Terrace|Place|Gardens|Crescent|Square|Boulevard"
)
_ADDRESS = re.compile(
    rf"\b\d{{1,5}}[A-Za-z]? (?:[A-Z][\w'-]*\.? ){{1,3}}(?:{_STREET})\b\.?(?:, [A-Z][\w'-]*(?: [A-Z][\w'-]*)*)?"
)
_POSTCODE = re.compile(r"\b([A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2})\b|(?i:zip|post ?code)\D{0,12}(\d{5})\b")
_PRICE = re.compile(
    r"(?:\b(?:asking|price|want|wanted|looking for|sell(?:ing)? for)\D{0,20}?|[£$€]\s*)"
    r"(\d[\d,]*(?:\.\d+)?)\s*(k\b)?",
    re.IGNORECASE,
)
_BEDROOMS = re.compile(r"\b(\d{1,2}|one|two|three|four|five|six)[ -]*bed", re.IGNORECASE)
_NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_TYPES = (
    (r"studio", "studio"),
    (r"semi[ -]detached", "semi-detached house"),
    (r"detached", "detached house"),
    (r"terraced?\b(?! road)", "terraced house"),
    (r"bungalow", "bungalow"),
    (r"flat|apartment|maisonette|condo", "flat"),
    (r"cottage|house", "terraced house"),
)
_STATE = r"excellent|good|fair|poor"
_CONDITION = re.compile(rf"\bcondition\W+(?:is |it's |very )*({_STATE})\b|\b({_STATE}) condition\b", re.IGNORECASE)
_NEEDS_WORK = re.compile(r"\bneeds? (?:\w+ ){0,3}(?:work|repair|renovat|refurbish|moderni)", re.IGNORECASE)

_KINDS = (  # the first that fits; the rules that need no agent have taken opt-outs and machines before
    ("hard_pass", r"not interested|leave me alone|never (?:contact|text|call)|go away|wrong number"),
    ("counter", r"(?:could|can|would|will) you (?:do|go|pay|offer|make|raise)\D{0,30}\d|how about\D{0,12}\d"),
    ("counter", r"(?:make it|meet me|at least|not less than|i(?:'d| would| could) (?:take|accept|do))\D{0,15}\d"),
    (
        "rejection",
        r"\bno,? thank|too low|(?:not|n't|cannot) (?:accept|sell|for me)|\breject|\bdecline|\binsult|^\W*no\W*$",
    ),
    ("soft_pass", r"not (?:right )?now|maybe later|next year|in a few months|another time|changed my mind for now"),
    ("referral", r"(?:speak|talk|write) to my|my (?:brother|sister|wife|husband|solicitor|agent) (?:handles|deals)"),
    ("pricing", r"how much (?:do you charge|is your fee|does it cost)|your fees?\b|price list|pricing"),
    ("question", r"\?\s*$|^\W*(?:how|what|when|why|who|where|which|is it|are you|do i|does|can i)\b"),
    ("acceptance", r"\baccept|\bagree|\bdeal\b|\byes\b|i'll take it|go ahead|sounds good to me|\bok(?:ay)?\b"),
    ("interested", r"interest|tell me more|more about|call me|happy to talk|sounds good"),
)
SURE, UNSURE = 0.92, 0.35


def learn(text: str) -> dict[str, Any]:
    """The fields of a home that a text tells, as a conversational agent would note them."""
    found = {
        "property_address": _address(text),
        "property_postcode": _postcode(text),
        "asking_price": _price(text),
        "property_type": _type(text),
        "bedrooms": _bedrooms(text),
        "condition": _condition(text),
    }
    return {field: value for field, value in found.items() if value is not None}


def classify(text: str) -> tuple[str, float, str]:
    """Category, confidence and reason, by the words alone."""
    plain = text.replace("\u2019", "'").strip()
    for category, words in _KINDS:
        if found := re.search(words, plain, re.IGNORECASE):
            return category, SURE, f"says {found[0].strip()!r}"
    return "unclear", UNSURE, "no word that tells"


def _address(text: str) -> str | None:
    found = _ADDRESS.search(text)
    return found[0].rstrip(".,") if found else None


def _postcode(text: str) -> str | None:
    found = _POSTCODE.search(text)
    return (found[1] or found[2]) if found else None


def _price(text: str) -> int | None:
    found = _PRICE.search(text)
    if not found:
        return None
    amount = float(found[1].replace(",", "")) * (1000 if found[2] else 1)
    return int(amount) if amount >= 1000 else None


def _type(text: str) -> str | None:
    without_address = _ADDRESS.sub(" ", text)
    return next((kind for words, kind in _TYPES if re.search(rf"(?i)\b(?:{words})", without_address)), None)


def _bedrooms(text: str) -> int | None:
    found = _BEDROOMS.search(text)
    if found:
        return _NUMBERS.get(found[1].lower()) or int(found[1])
    return 0 if re.search(r"(?i)\bstudio\b", text) else None


def _condition(text: str) -> str | None:
    found = _CONDITION.search(text)
    if found:
        return str(found[1] or found[2]).lower()
    return "poor" if _NEEDS_WORK.search(text) else None
