"""Routing, under the lead's key: by category and stage, else to a person."""

from datetime import timedelta
from typing import Any

from daemon.context import Context
from daemon.outcome import Done, Outcome
from daemon.task import Task
from handlers.effects import AskPerson, Change, Effect, Effects, Event, Move, ReplyRead
from handlers.lead import Lead
from handlers.leads import Pipelines
from handlers.pipeline import Inbound, Pipeline, done
from handlers.replies.judging import GOODBYES
from handlers.replies.mail import Mail


def routing(pipelines: Pipelines) -> Any:
    """The handler that moves leads, or asks a person."""

    async def route(task: Task, mail: Mail | None, context: Context) -> Outcome[Effects]:
        if mail is None or mail.row["status"] != "received":
            return done(reason="the reply is gone or was handled")
        if mail.lead is None:
            return Done(tuple(to_person(mail, "nobody we know by that address")), "unknown sender")
        pipeline = pipelines[mail.lead.pipeline]
        return Done(*_routed(mail, mail.lead, pipeline, task, context))

    return route


def _routed(mail: Mail, lead: Lead, pipeline: Pipeline, task: Task, context: Context) -> tuple[Effects, str]:
    category = mail.row["category"]
    read = ReplyRead(mail.id, status="routed", category=_unheard(mail))
    if category in GOODBYES:
        return (read, *_farewell(lead, pipeline, category)), category
    if pipeline.by_name[lead.stage].terminal:
        return tuple(to_person(mail, f"{category or 'a reply'} from a lead in {lead.stage}")), "late reply"
    if category == "soft_pass":
        until = task.now + timedelta(days=context.settings.replies.nurture_days)
        return (
            read,
            Change(lead.id, lead.stage_seq, nurture_until=until, set_deadline=True, deadline_at=until),
        ), "nurture"
    routed = pipeline.on_reply(lead, Inbound(mail.id, category, mail.row["body"], mail.document()))
    if routed is None:
        return tuple(to_person(mail, f"{category or 'unclassified'} at {lead.stage}")), "a person decides"
    return (read, *routed.effects), routed.reason


def _farewell(lead: Lead, pipeline: Pipeline, category: str) -> Effects:
    """To the stage of those who want no more, where that is a legal move."""
    target = pipeline.refused
    if target is None or target not in pipeline.by_name[lead.stage].to:
        return ()
    return (Move.of(lead, target, category, {"dead_reason": category}),)


def _unheard(mail: Mail) -> str | None:
    """What a reply is that neither rule nor agent has spoken of."""
    return None if mail.row["category"] else "unclear"


def to_person(mail: Mail, why: str) -> list[Effect]:
    title = f"Reply from {mail.row['from_address'] or 'unknown'}: {why}"[:200]
    payload = {"reply": mail.document(), "reason": why}
    effects: list[Effect] = [
        ReplyRead(mail.id, status="needs_person", reason=why, category=_unheard(mail)),
        AskPerson("replies", title, payload, mail.lead.id if mail.lead else None),
    ]
    if mail.lead is not None:
        effects += [
            Change(mail.lead.id, flag=why),
            Event(mail.lead.id, "flagged", {"reason": why, "reply_id": str(mail.id)}),
        ]
    return effects
