"""The kinds of people behind the sample leads, and what each says to a message.

An answer follows from the message alone, so nothing about a person needs to be kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from daemon.sandbox.homes import FIELDS, draws, home_of, number, offer_for
from daemon.sandbox.operations import Made, part

TALKS = ("INITIAL_CONTACT", "CONVERSATION", "CONVERSATION_FOLLOW_UP")
OFFERS = ("OFFER", "VIDEO", "RETRY_1", "RETRY_2", "RETRY_3")


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that reached a lead, the lead as the sender knows it by now, and the business time of it."""

    lead_id: UUID
    template: str
    key: str
    lead: Mapping[str, Any]
    data: Mapping[str, Any]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def offer(self) -> int:
        return int(number(self.data.get("offer_amount")) or offer_for(self.data))


def overheard(call: Made, at: datetime) -> "Heard | None":
    """The message in an engine's call; None: it reached nobody."""
    if (call.engine, call.path) == ("sms", "/api/send") and not call.request.get("dry_run"):
        lead, template = part(call.request, "context", "lead"), str(call.request.get("template"))
        learnt = call.result.get("fields") or {}
    elif (call.engine, call.path) == ("offers", "/api/offers"):
        lead, template, learnt = call.request.get("lead"), "OFFER", {"offer_amount": call.result["offer_amount"]}
    else:
        return None
    if not isinstance(lead, Mapping) or not isinstance(lead.get("data"), Mapping):
        return None
    try:
        return Heard(UUID(str(lead.get("id"))), template, call.key, lead, {**lead["data"], **learnt}, at)
    except ValueError:
        return None


# -- what each kind of person says


def _tell(heard: Heard) -> str | None:
    """The next few facts about the home that were not told yet."""
    missing = [f for f in FIELDS if str(heard.data.get(f) if heard.data.get(f) is not None else "").strip() == ""]
    if not missing:
        return None
    home = home_of(str(heard.lead_id), heard.lead.get("city"), heard.lead.get("country"))
    at_once = draws("tells", heard.lead_id).choice((2, 3))
    told = [_SENTENCES[f].format(home[f]) for f in missing[:at_once]]
    return "Hi, " + ", and ".join(told) + "."


_SENTENCES = {
    "property_address": "the address is {}",
    "property_postcode": "the postcode is {}",
    "asking_price": "I am asking {:,}",
    "property_type": "it is a {}",
    "bedrooms": "it is {}-bed",
    "condition": "the condition is {}",
}


def _talker(heard: Heard) -> str | None:
    if heard.template in TALKS:
        return _tell(heard)
    return "That sounds interesting, tell me more about it." if heard.template in OFFERS else None


def _accepter(heard: Heard) -> str | None:
    if heard.template in TALKS:
        return _tell(heard)
    return "Yes, I accept your offer." if heard.template in (*OFFERS, "COUNTER", "QUESTION") else None


def _haggler(heard: Heard) -> str | None:
    if heard.template in OFFERS:
        return f"Could you do {round(heard.offer * 1.03, -2):,.0f}?"
    return "All right, deal. I accept." if heard.template == "COUNTER" else _accepter(heard)


def _asker(heard: Heard) -> str | None:
    if heard.template == "INITIAL_CONTACT":
        return "Who is this, and where did you get my number?"
    if heard.template in OFFERS:
        return "How long would the sale take?"
    return "Thanks, that is clear. I accept." if heard.template == "QUESTION" else _tell_if_asked(heard)


def _tell_if_asked(heard: Heard) -> str | None:
    return _tell(heard) if heard.template in TALKS else None


def _refuser(heard: Heard) -> str | None:
    return "No thanks, that is too low." if heard.template in OFFERS else _tell_if_asked(heard)


def _stopper(heard: Heard) -> str | None:
    return "STOP"


def _silent(heard: Heard) -> str | None:
    return None


def _out_of_office(heard: Heard) -> str | None:
    back = heard.at + timedelta(days=9)
    return f"Out of office: I am away until {back:%-d %B %Y} and will answer your message when I am back."


PERSONAS: Mapping[str, Callable[[Heard], str | None]] = {
    "talker": _talker,
    "accepter": _accepter,
    "haggler": _haggler,
    "asker": _asker,
    "refuser": _refuser,
    "stopper": _stopper,
    "silent": _silent,
    "out_of_office": _out_of_office,
}
_CROWD = (
    ("accepter",) * 4 + ("haggler",) * 3 + ("asker", "talker", "refuser", "silent") * 2 + ("stopper", "out_of_office")
)


def persona_of(lead_id: UUID, data: Mapping[str, Any]) -> str:
    """The kind that `data.persona` names, else one that the lead's id decides."""
    named = data.get("persona")
    return named if isinstance(named, str) and named in PERSONAS else draws("persona", lead_id).choice(_CROWD)


def answer(heard: Heard) -> str | None:
    """What this person says to that, if anything."""
    return PERSONAS[persona_of(heard.lead_id, heard.data)](heard)
