"""A reply and its lead, and what is written about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from daemon import learnings
from daemon.db import Connection, Statements
from daemon.learnings import Learning
from daemon.task import URGENT, NewTask, Task
from handlers.addresses import normal_address
from handlers.effects import Alert, Effects, ReplyRead, Writer, id_in
from handlers.lead import Lead

SQL = Statements("handlers", "replies.sql")
CLASSIFIERS = ("classifier", "classification", "replies")
"""Under which names people have said something to whoever classifies: its own, and those of the gates behind it."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A reply and the lead it is from, if we know it."""

    row: Mapping[str, Any]
    lead: Lead | None
    learnings: Sequence[Learning] = ()  # for the classifier

    @property
    def id(self) -> UUID:
        return self.row["reply_id"]

    def document(self) -> dict[str, Any]:
        """The reply as engines get it; its text stands unchanged in `body`."""
        names = ("channel", "from_address", "to_address", "subject", "body", "received_at", "category")
        return {"id": str(self.id), **{n: self.row[n] for n in names}}


class Replies(Writer):
    """Tasks whose payload names a reply."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Mail]:
        """Each task's reply with its lead."""
        rows = await conn.fetch(SQL["load"], [t.payload["reply_id"] for t in tasks])
        said = await learnings.read(conn, CLASSIFIERS) if any(t.kind == "reply" for t in tasks) else ()
        mails: dict[str, Mail] = {}
        for row in rows:
            found = mails.get(str(row["reply_id"]))
            if found is None or found.lead is None:
                mails[str(row["reply_id"])] = Mail(row, _sender(row), said)
        return {t.id: mails[t.payload["reply_id"]] for t in tasks if t.payload["reply_id"] in mails}

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """A reply is never lost: without a classifier's word routing goes on, and without routing a person decides."""
        reply_id = UUID(task.payload["reply_id"])
        kind = "UNKNOWN_OUTCOME" if unknown else "AGENT_FAILURE"
        alert = Alert(kind, f"{task.kind}: {error}"[:500], "HIGH", f"reply:{reply_id}", {})
        if task.kind == "reply.classify":
            read = ReplyRead(reply_id, reason=f"classifier: {error}"[:500])
            return (read, alert, route_of(task.payload, task.payload.get("lead_id")))
        return (ReplyRead(reply_id, status="needs_person", reason=error[:500]), alert)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """A person doesn't want this reply handled."""
        await conn.execute(SQL["handled"], id_in(payload, "reply_id"))


def _sender(row: Mapping[str, Any]) -> Lead | None:
    """The lead of this row, if the reply is from it."""
    if row["lead"] is None:
        return None
    lead = Lead(row["lead"])
    return lead if row["spelt"] is None or _are_one(row["spelt"], row["from_address"], lead.row["country"]) else None


def _are_one(number: str, sender: str, country: str | None) -> bool:
    """Whether both, as they are written there, are one number."""
    plain = normal_address(number, "sms", country)
    return plain is not None and plain == normal_address(sender, "sms", country)


def route_of(payload: Mapping[str, Any], lead_id: Any) -> NewTask:
    """The task that routes a reply: under its lead's key, if it has a lead."""
    key = f"lead:{lead_id}" if lead_id else f"reply:{payload['reply_id']}"
    return NewTask("reply.route", {"reply_id": payload["reply_id"], "lead_id": lead_id}, key, priority=URGENT)
