"""Tells on the terminal what happens to the leads, one short line each, and how they stand every few seconds.

It follows `pipeline_events` by id. Ids become visible out of order, so each look reads a window of old ones again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from daemon.db import Connection, Statements
from daemon.sandbox.session import stay_connected

SQL = Statements("daemon.sandbox", "narrator.sql")
LOOK_S = 0.5
SUMMARY_S = 10.0
WINDOW = 500
AT_ONCE = 5_000
LINES_AT_ONCE = 30
TOGETHER = 5  # so many new leads within one look are told in one line
LONGEST_QUOTE = 70

COLOURS = {
    "stage_change": "green", "reply_received": "cyan", "flagged": "yellow", "data_issue": "yellow", "dnc": "red",
    "invalid_transition_attempt": "red", "offer_accepted": "bold green", "completed": "bold green",
}  # fmt: skip

INTRODUCTION = """\
This is the sandbox: a real daemon on a real database, but every external service is played here, on loopback.
Nobody is contacted. Sample leads are on their way through the pipeline, and their people answer by themselves.

API       {api}
Database  orchestrator db shell    (from another terminal; there you can paste what follows)
"""
TO_TRY = {
    "Insert a lead": "INSERT INTO orchestrator.leads (name, phone) VALUES ('Zoe Zander', '+447700900199');",
    "Answer as a lead": """\
INSERT INTO orchestrator.replies (lead_id, channel, body) SELECT id, 'sms', 'Yes, I accept'
FROM orchestrator.leads WHERE stage IN ('OFFER_MADE', 'VIDEO_SENT', 'RETRY_1') ORDER BY updated_at DESC LIMIT 1;""",
    "Move a lead on": """\
UPDATE orchestrator.leads SET stage = 'RETRY_1'
WHERE id = (SELECT id FROM orchestrator.leads WHERE stage = 'VIDEO_SENT' LIMIT 1);""",
}


class Row(Protocol):
    """A row of the statement `events`."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(slots=True)
class Narrator:
    """What has been told so far; `last` None: from now on."""

    console: Console
    last: int | None = None
    _seen: set[int] | None = None
    _summary: str = ""
    _summary_due: float = 0.0

    def introduce(self, api: str) -> None:
        """Say what this is and what to try; the statements stand on lines of their own, to be copied."""
        self.console.rule("pipeline orchestrator: sandbox")
        self.console.print(Text(INTRODUCTION.format(api=api)))
        for number, (title, statement) in enumerate(TO_TRY.items(), start=1):
            self.console.print(Text(f"{number}. {title}", style="bold"))
            self.console.print(Text(statement), soft_wrap=True)
        self.console.rule()

    async def run(self, dsn: str) -> None:
        """Tell until cancelled, whatever the database does."""
        await stay_connected(dsn, self.follow)

    async def follow(self, conn: Connection) -> None:
        """Look again and again."""
        if self.last is None:
            self.last = await conn.fetchval(SQL["last_event"])
        while True:
            self.tell(await self._news(conn))
            await self._sum_up(conn)
            await asyncio.sleep(LOOK_S)

    async def _news(self, conn: Connection) -> Sequence[Row]:
        last = self.last or 0
        rows = await conn.fetch(SQL["events"], last - WINDOW, AT_ONCE)
        old = {row["id"] for row in rows if row["id"] <= last} if self._seen is None else self._seen
        news = [row for row in rows if row["id"] not in old]
        self.last = max([last, *(row["id"] for row in news)])
        self._seen = {n for n in (*old, *(row["id"] for row in news)) if n > self.last - WINDOW}
        return news

    def tell(self, news: Sequence[Row]) -> None:
        """A line per event, but not for each lead of a crowd."""
        arrivals = [row for row in news if row["event_type"] == "created"]
        if len(arrivals) > TOGETHER:
            self._say(arrivals[0]["created_at"], "", f"{len(arrivals)} leads have come in", "bold")
            news = [row for row in news if row["event_type"] != "created"]
        news = [row for row in news if _worth_telling(row["event_type"], row["metadata"])]
        for row in news[:LINES_AT_ONCE]:
            self._say(row["created_at"], row["who"], story(row), COLOURS.get(row["event_type"], ""))
        if len(news) > LINES_AT_ONCE:
            self._say(news[-1]["created_at"], "", f"... and {len(news) - LINES_AT_ONCE} more events", "dim")

    def _say(self, at: datetime, who: str, what: str, style: str) -> None:
        line = Text.assemble(
            (f"{at.astimezone():%H:%M:%S}  ", "dim"), (f"{_short(who, 16):<16}  ", "bold"), (what, style)
        )
        self.console.print(line, soft_wrap=True)

    async def _sum_up(self, conn: Connection) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._summary_due:
            return
        self._summary_due = now + SUMMARY_S
        text = summary(await conn.fetch(SQL["stages"]), await conn.fetchrow(SQL["totals"]))
        if text != self._summary:  # nothing new is no news
            self._summary = text
            self.console.print(Text(f"          {text}", style="magenta"), soft_wrap=True)


def story(row: Row) -> str:
    """An event in a few words."""
    kind, about = row["event_type"], row["metadata"]
    tell = _STORIES.get(kind)
    return tell(row, about) if tell else " ".join([kind.replace("_", " "), str(about.get("reason") or "")]).strip()


def summary(stages: Sequence[Row], totals: Any) -> str:
    """How the leads stand, in one line."""
    where = ", ".join(f"{row['stage']} {row['n']}" for row in stages) or "no leads"
    return (
        f"{where} | sent {totals['sent']}, replies {totals['replies']}, needs review {totals['review']}, "
        f"dead tasks {totals['dead']}"
    )


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
    return f"says “{_short(row['body'] or '', LONGEST_QUOTE)}”"


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
    "flagged": lambda row, about: f"needs a person: {_short(str(about.get('reason')), LONGEST_QUOTE)}",
    "dnc": lambda row, about: "will never be contacted again",
}


def _money(amount: Any) -> str:
    return f"{amount:,.0f}" if isinstance(amount, int | float) else str(amount)


def _short(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
