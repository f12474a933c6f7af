"""Who wants no more: do-not-contact on every channel, as soon as the lead's row is free."""

from daemon.context import Context
from daemon.outcome import Outcome
from daemon.task import URGENT, NewTask, Task
from handlers.addresses import normal_address
from handlers.effects import CancelMessages, Change, Effect, Effects, Exclude, ReplyRead
from handlers.pipeline import done
from handlers.replies.mail import Mail, route_of


def never_again(mail: Mail, category: str) -> list[Effect]:
    """Every address we know is excluded at once, whoever holds the row of the lead, which follows when it is free."""
    known = [(mail.row["from_address"], mail.row["channel"])]
    country = mail.lead.row["country"] if mail.lead else None
    if mail.lead is not None:
        known += [(mail.lead.text("email"), "email"), (mail.lead.text("phone"), "sms")]
    addresses = {normal_address(text, channel, country) or text for text, channel in known if text and text.strip()}
    farewell = NewTask("reply.farewell", {"reply_id": str(mail.id)}, f"reply:{mail.id}", priority=URGENT)
    return [*(Exclude(a, category, f"reply:{mail.id}") for a in sorted(addresses)), farewell]


async def part(task: Task, mail: Mail | None, context: Context) -> Outcome[Effects]:
    """Do-not-contact on every channel; then routing moves the lead."""
    if mail is None or mail.row["status"] != "received":
        return done(reason="the reply is gone or was handled")
    if mail.lead is None:
        return done(route_of({"reply_id": str(mail.id)}, None), reason="nobody we know by that address")
    lead, category = mail.lead, mail.row["category"]
    return done(
        ReplyRead(mail.id, lead.id),
        Change(lead.id, do_not_contact=True, last_inbound_at=mail.row["received_at"]),
        CancelMessages(lead.id, category),
        route_of({"reply_id": str(mail.id)}, str(lead.id)),
        reason=category,
    )
