"""What happens to the leads, each event once and in a few words.

It follows `pipeline_events` by id. Ids become visible out of order, so each look reads a window of old ones again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol

from daemon.db import Connection, Statements

SQL = Statements("daemon.sandbox", "happenings.sql")
WINDOW = 500
AT_ONCE = 5_000
LINES_AT_ONCE = 30
TOGETHER = 5  # so many new leads within one look are told in one line
LONGEST_QUOTE = 70
RECALLED = 5
GOING_ON = "going on from {:%H:%M}: insert a lead, or wait"

COLOURS = {
    "stage_change": "green", "reply_received": "cyan", "flagged": "yellow", "data_issue": "yellow", "dnc": "red",
    "invalid_transition_attempt": "red", "offer_accepted": "bold green", "completed": "bold green",
}  # fmt: skip


class Row(Protocol):
    """A row of the statement `events`."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Happening:
    """An event as it is told; `brief` where there is little room."""

    at: datetime
    who: str
    what: str
    brief: str
    style: str = ""


class Source(Protocol):
    """Something else that things happen to."""

    async def news(self, conn: Connection, *, silently: bool) -> list[Happening]:
        """What has happened since the last look; the first one may keep to itself what it finds."""


@dataclass(slots=True)
class Follower:
    """What has been told so far; `last` None: from the last few on. `also`: what else there is to tell of."""

    last: int | None = None
    zone: tzinfo = UTC
    also: Sequence[Source] = ()
    _seen: set[int] | None = None

    async def news(self, conn: Connection) -> list[Happening]:
        """What has happened since the last look, but not a line for each lead of a crowd."""
        silently = self.last is None
        told = await self._recall(conn) if self.last is None else []
        told += tell(await self._unseen(conn, self.last or 0))
        for source in self.also:
            told += await source.news(conn, silently=silently)
        return sorted(told, key=lambda happening: happening.at) if self.also else told

    async def _recall(self, conn: Connection) -> list[Happening]:
        """The last of what happened before; nothing new may come for days."""
        newest: Any = await conn.fetchrow(SQL["last_event"])
        self.last, now = newest["id"], newest["now"]
        before = tell((await conn.fetch(SQL["events"], self.last - WINDOW, WINDOW))[-LINES_AT_ONCE:])[-RECALLED:]
        return [*before, _note(now, GOING_ON.format(now.astimezone(self.zone)), "bold")] if before else []

    async def _unseen(self, conn: Connection, last: int) -> Sequence[Row]:
        rows = await conn.fetch(SQL["events"], last - WINDOW, AT_ONCE)
        old = {row["id"] for row in rows if row["id"] <= last} if self._seen is None else self._seen
        unseen = [row for row in rows if row["id"] not in old]
        self.last = latest = max([last, *(row["id"] for row in unseen)])
        self._seen = {n for n in (*old, *(row["id"] for row in unseen)) if n > latest - WINDOW}
        return unseen


async def last_event(conn: Connection) -> int:
    """The newest event there is."""
    newest: int = await conn.fetchval(SQL["last_event"])
    return newest


def tell(rows: Sequence[Row]) -> list[Happening]:
    """A line per event that is worth one; what many have in common goes into one line."""
    told = []
    arrivals = [row for row in rows if row["event_type"] == "created"]
    if len(arrivals) > TOGETHER:
        told.append(_note(arrivals[0]["created_at"], f"{len(arrivals)} leads have come in", "bold"))
        rows = [row for row in rows if row["event_type"] != "created"]
    rows = [row for row in rows if _worth_telling(row["event_type"], row["metadata"])]
    told += [_told(row) for row in rows[:LINES_AT_ONCE]]
    if len(rows) > LINES_AT_ONCE:
        told.append(_note(rows[-1]["created_at"], f"... and {len(rows) - LINES_AT_ONCE} more events", "dim"))
    return told


def _note(at: datetime, what: str, style: str) -> Happening:
    return Happening(at, "", what, what, style)


def _told(row: Row) -> Happening:
    what = story(row)
    brief = what.removeprefix(f"{row['from_stage']} ") if row["event_type"] == "stage_change" else what
    return Happening(row["created_at"], row["who"], what, brief, COLOURS.get(row["event_type"], ""))


def story(row: Row) -> str:
    """An event in a few words."""
    kind, about = row["event_type"], row["metadata"]
    words = _STORIES.get(kind)
    return words(row, about) if words else " ".join([kind.replace("_", " "), str(about.get("reason") or "")]).strip()


def short(text: str, most: int) -> str:
    """The text on one line, cut to so many characters."""
    return clip(" ".join(text.split()), most)


def clip(line: str, most: int) -> str:
    """The line cut to so many characters, between words if that leaves half of it."""
    if len(line) <= most:
        return line
    cut = line[: most - 1]
    words = cut if line[most - 1] == " " else cut.rpartition(" ")[0]
    return (words if len(words) > most // 2 else cut).rstrip() + "…"


def _worth_telling(kind: str, about: Mapping[str, Any]) -> bool:
    """Not what the line beside it says anyway."""
    if kind == "message_sent":
        return about.get("template") not in ("INITIAL_CONTACT", "OFFER")
    return kind not in ("offer_timeout", "offer_rejected") and about.get("category") != "unclear"


def _moved(row: Row, about: Mapping[str, Any]) -> str:
    first = about.get("reason") == "message sent" and row["to_stage"] == "AI_CONVERSATION"
    why = "first message sent" if first else about.get("reason") or ""
    return f"{row['from_stage']} → {row['to_stage']}   {why}".rstrip()


def _said(row: Row, about: Mapping[str, Any]) -> str:
    return f"says “{short(row['body'] or '', LONGEST_QUOTE)}”"


def _money(amount: Any) -> str:
    return f"{amount:,.0f}" if isinstance(amount, int | float) else str(amount)


_STORIES: Mapping[str, Any] = {
    "created": lambda row, about: f"comes in at {row['to_stage']}",
    "stage_change": _moved,
    "message_sent": lambda row, about: f"{about.get('template')} sent",
    "message_skipped": lambda row, about: f"{about.get('template')} not sent: {about.get('reason')}",
    "reply_received": _said,
    "reply_classified": lambda row, about: f"understood as {about.get('category')}",
    "offer_made": lambda row, about: f"is offered {_money(about.get('offer_amount'))}",
    "offer_accepted": lambda row, about: f"has accepted: {about.get('deal_id')}",
    "missing_fields": lambda row, about: f"still to be told: {', '.join(map(str, about.get('missing') or ()))}",
    "data_issue": lambda row, about: f"something is wrong: {str(about.get('issue')).replace('_', ' ')}",
    "flagged": lambda row, about: f"needs a person: {short(str(about.get('reason')), LONGEST_QUOTE)}",
    "dnc": lambda row, about: "will never be contacted again",
}
