"""The homes of the sandbox's sellers and what they are worth: plausible figures, the same at each asking."""

from collections.abc import Mapping
from random import Random
from typing import Any
from zlib import crc32

FIELDS = ("property_address", "property_postcode", "asking_price", "property_type", "bedrooms", "condition")
BELOW_MARKET_PCT = 10.0
"""A home passes validation if its price is at least that far below its value."""

WORTH = {
    "studio": 110_000,
    "flat": 150_000,
    "terraced house": 180_000,
    "semi-detached house": 230_000,
    "bungalow": 240_000,
    "detached house": 340_000,
}
CONDITIONS = {"poor": 0.75, "fair": 0.9, "good": 1.0, "excellent": 1.1}
STREETS = ("Mill Lane", "Church Road", "Station Road", "Orchard Close", "Victoria Street", "Park Avenue", "Hill Drive")
POSTCODES = {"Leeds": "LS6", "Manchester": "M14", "Bristol": "BS5", "Cardiff": "CF24", "Hull": "HU3", "York": "YO10"}
_PER_BEDROOM = 22_000
_USUAL = 180_000


def draws(*parts: object) -> Random:
    """A source of chances that is the same for the same parts."""
    return Random(crc32("|".join(map(str, parts)).encode()))


def number(value: Any) -> float | None:
    """A figure, also one written as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(str(value).replace(",", "").strip())
    except ValueError:
        return None


def home_of(seller: str, city: str | None, country: str | None) -> dict[str, Any]:
    """The home that this seller offers, somewhat below its value."""
    chance = draws("home", seller)
    town = city or "Leeds"
    home: dict[str, Any] = {
        "property_address": f"{chance.randint(1, 98)} {chance.choice(STREETS)}, {town}",
        "property_postcode": _postcode(chance, town, country),
        "property_type": chance.choice(list(WORTH)),
        "condition": chance.choice(list(CONDITIONS)),
    }
    home["bedrooms"] = 0 if home["property_type"] == "studio" else chance.randint(1, 4)
    home["asking_price"] = int(worth(home) * chance.uniform(0.68, 0.86) // 1000 * 1000)
    return home


def worth(data: Mapping[str, Any]) -> int:
    """The market value: the one that is known, else by type, bedrooms and condition."""
    known = number(data.get("estimated_market_value"))
    if known is not None and known > 0:
        return int(known)
    base = WORTH.get(str(data.get("property_type", "")).lower(), _USUAL)
    rooms = min(max(number(data.get("bedrooms")) or 0, 0), 20)
    state = CONDITIONS.get(str(data.get("condition", "")).lower(), 0.9)
    return int((base + _PER_BEDROOM * rooms) * state // 1000 * 1000)


def below_market_pct(data: Mapping[str, Any]) -> float:
    """How far the asking price is below the value, in per cent; negative if it is above."""
    value, asking = worth(data), number(data.get("asking_price")) or 0.0
    return round((value - asking) / value * 100, 1)


def offer_for(data: Mapping[str, Any]) -> int:
    """What a buyer offers: somewhat less than asked, and never near the value."""
    asking = number(data.get("asking_price")) or worth(data)
    return int(min(asking * 0.96, worth(data) * 0.88) // 100 * 100)


def _postcode(chance: Random, town: str, country: str | None) -> str:
    if (country or "GB").upper() == "US":
        return f"{chance.randint(20001, 20599)}"
    return f"{POSTCODES.get(town, 'LS1')} {chance.randint(1, 9)}{chance.choice('ABDEFGHJ')}{chance.choice('LNPQRSTU')}"
