"""Reception: a rule's verdict at once, else the classifier is asked, else routing."""

from daemon.context import Context
from daemon.learnings import bounded
from daemon.outcome import Done, Outcome
from daemon.task import URGENT, NewTask, Task
from handlers.effects import Change, Effect, Effects, Event, ReplyRead
from handlers.pipeline import done
from handlers.replies.judging import judged
from handlers.replies.mail import Mail, route_of
from handlers.reply_rules import InboundReply, Verdict, classify_by_rules


async def receive(task: Task, mail: Mail | None, context: Context) -> Outcome[Effects]:
    """What the rules say of a new reply, or who is asked next."""
    if mail is None or mail.row["status"] != "received":
        return done(reason="the reply is gone or was handled")
    verdict = _given(mail) or classify_by_rules(_inbound(mail))
    lead_id = mail.lead.id if mail.lead else None
    effects: list[Effect] = []
    if mail.lead is not None:
        effects.append(
            Event(mail.lead.id, "reply_received", {"reply_id": str(mail.id), "channel": mail.row["channel"]})
        )
    if verdict is not None:
        return Done((*effects, *judged(mail, verdict, "rules", task)), f"{verdict.category}: {verdict.reason}")
    if mail.lead is not None:
        effects.append(Change(mail.lead.id, last_inbound_at=mail.row["received_at"]))
    effects.append(ReplyRead(mail.id, lead_id))
    payload = {"reply_id": str(mail.id), "lead_id": str(lead_id) if lead_id else None}
    if mail.lead is not None and context.engines.known("classifier"):
        # Pinned here: however often the classifier is asked about this reply, it is told the same.
        lines = bounded(mail.learnings, context.settings.learnings)
        asked = payload | {"learnings": lines} if lines else payload
        effects.append(NewTask("reply.classify", asked, f"reply:{mail.id}", priority=URGENT))
    else:
        effects.append(route_of(payload, payload["lead_id"]))
    return Done(tuple(effects), "no rule knows")


def _given(mail: Mail) -> Verdict | None:
    """Whoever inserted the reply may have classified it already."""
    category = mail.row["category"]
    return Verdict(category, mail.row["confidence"] or 1.0, "given with the reply") if category else None


def _inbound(mail: Mail) -> InboundReply:
    row = mail.row
    headers = {str(k): str(v) for k, v in row["headers"].items()}
    known = {name: row[name] or "" for name in ("from_address", "to_address", "subject")}
    return InboundReply(
        channel=row["channel"], body=row["body"], headers=headers, received_at=row["received_at"], **known
    )
