"""What a category means at once; what moves the lead is left to routing."""

from datetime import UTC, date, datetime, timedelta

from daemon.task import Task
from handlers.effects import Change, Effect, Event, Exclude, ReplyRead
from handlers.lead import Lead
from handlers.replies.farewell import never_again
from handlers.replies.mail import Mail, route_of
from handlers.reply_rules import Verdict

AUTOMATIC = ("bounce", "complaint", "delivery_notice", "auto_reply", "out_of_office")
GOODBYES = ("opt_out", "hard_pass")


def judged(mail: Mail, verdict: Verdict, by: str, task: Task) -> list[Effect]:
    """What a category means at once; what moves the lead is left to routing."""
    lead, category = mail.lead, verdict.category
    exclude: list[Effect] = [
        Exclude(a, verdict.suppress_reason or "manual", f"reply:{mail.id}") for a in verdict.suppress
    ]
    told: list[Effect] = []
    if lead is not None:
        told = [Event(lead.id, "reply_classified", {"reply_id": str(mail.id), "category": category, "by": by})]
    if category in GOODBYES:
        return [_read(mail, verdict, by, None, named=False), *exclude, *never_again(mail, category), *told]
    effects = [_read(mail, verdict, by, _status_at_once(category)), *exclude, *told]
    if category == "out_of_office":
        return effects + _wait_for_return(lead, verdict.return_date, task.now)
    if category in AUTOMATIC:
        return effects
    if lead is not None:
        effects.append(Change(lead.id, last_inbound_at=mail.row["received_at"]))
    return [*effects, route_of({"reply_id": str(mail.id)}, str(lead.id) if lead else None)]


def _status_at_once(category: str) -> str | None:
    if category in ("delivery_notice", "auto_reply"):
        return "ignored"
    return "routed" if category in AUTOMATIC else None


def _read(mail: Mail, verdict: Verdict, by: str, status: str | None, *, named: bool = True) -> ReplyRead:
    lead_id = mail.lead.id if mail.lead and named else None
    by = mail.row["classified_by"] or by
    return ReplyRead(mail.id, lead_id, verdict.category, verdict.confidence, by, status, verdict.reason)


def _wait_for_return(lead: Lead | None, back: date | None, now: datetime) -> list[Effect]:
    if lead is None or back is None or lead.deadline_at is None:
        return []
    at = datetime.combine(back, datetime.min.time(), UTC) + timedelta(hours=9)
    return (
        [Change(lead.id, lead.stage_seq, set_deadline=True, deadline_at=at)] if at > max(now, lead.deadline_at) else []
    )
