"""The people behind the sample leads: each hears the messages sent to them and answers as their kind does.

An answer follows from the message alone, so nothing about a person needs to be kept. They write into `replies`
by plain SQL, as any system outside would.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from daemon.db import Connection, Statements
from daemon.sandbox.homes import FIELDS, draws, home_of, number, offer_for
from daemon.sandbox.operations import part
from daemon.sandbox.session import stay_connected

SQL = Statements("daemon.sandbox", "people.sql")
DELAY_S = (0.5, 6.0)
LOOK_S = 0.05
TALKS = ("INITIAL_CONTACT", "CONVERSATION", "CONVERSATION_FOLLOW_UP")
OFFERS = ("OFFER", "VIDEO", "RETRY_1", "RETRY_2", "RETRY_3")


@dataclass(frozen=True, slots=True)
class Heard:
    """A message that reached a lead, and the lead as the sender knows it by now."""

    lead_id: UUID
    template: str
    key: str
    lead: Mapping[str, Any]
    data: Mapping[str, Any]

    @property
    def offer(self) -> int:
        return int(number(self.data.get("offer_amount")) or offer_for(self.data))


def overheard(
    engine: str, path: str, key: str, request: Mapping[str, Any], result: Mapping[str, Any]
) -> "Heard | None":
    """The message in an engine's call; None: it reached nobody."""
    if (engine, path) == ("sms", "/api/send") and not request.get("dry_run"):
        lead, template = part(request, "context", "lead"), str(request.get("template"))
        learnt = result.get("fields") or {}
    elif (engine, path) == ("offers", "/api/offers"):
        lead, template, learnt = request.get("lead"), "OFFER", {"offer_amount": result["offer_amount"]}
    else:
        return None
    if not isinstance(lead, Mapping) or not isinstance(lead.get("data"), Mapping):
        return None
    try:
        return Heard(UUID(str(lead.get("id"))), template, key, lead, {**lead["data"], **learnt})
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
    back = datetime.now(UTC) + timedelta(days=9)
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


# -- saying it


@dataclass(frozen=True, slots=True)
class Words:
    """An answer that will be given."""

    due: float
    text: str
    cause: str


@dataclass(slots=True)
class People:
    """Everybody who has something to say; who hears another message first answers that one instead."""

    pace: float = 1.0
    _pending: dict[UUID, Words] = field(default_factory=dict)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _chance: Random = field(default_factory=Random)

    def hear(self, heard: Heard) -> None:
        """A message has reached somebody."""
        text = answer(heard)
        if text is None:
            self._pending.pop(heard.lead_id, None)
            return
        due = asyncio.get_running_loop().time() + self.pace * self._chance.uniform(*DELAY_S)
        self._pending[heard.lead_id] = Words(due, text, heard.key)
        self._wanted.set()

    async def speak(self, conn: Connection) -> None:
        """Insert each answer when its time has come."""
        while True:
            await self._wanted.wait()
            await self._say_due(conn)
            if not self._pending:
                self._wanted.clear()
            await asyncio.sleep(LOOK_S)

    async def _say_due(self, conn: Connection) -> None:
        now = asyncio.get_running_loop().time()
        due = {lead_id: words for lead_id, words in self._pending.items() if words.due <= now}
        if not due:
            return
        texts, causes = [w.text for w in due.values()], [f"sandbox:{w.cause}" for w in due.values()]
        await conn.execute(SQL["say"], list(due), texts, causes)
        self._forget(due)

    def _forget(self, said: Mapping[UUID, Words]) -> None:
        for lead_id, words in said.items():
            if self._pending.get(lead_id) is words:
                del self._pending[lead_id]

    async def run(self, dsn: str) -> None:
        """Speak until cancelled, whatever the database does."""
        await stay_connected(dsn, self.speak)
