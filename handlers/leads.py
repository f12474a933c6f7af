"""The kinds about a lead: its entry actions, its deadlines, its checks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from daemon.context import Context
from daemon.db import Connection, Statements
from daemon.errors import DeclarationError
from daemon.outcome import Done, Outcome
from daemon.task import Kind, Policy, Task
from daemon.together import Step
from handlers.addresses import no_text_to
from handlers.effects import AddressMended, Alert, Change, Effect, Effects, Event, Move, Send, Writer, id_in
from handlers.lead import Lead
from handlers.pipeline import Attempt, Deadline, FlagFor, GoTo, Handler, Pipeline, Say, Stage, done

SQL = Statements("handlers", "leads.sql")
Pipelines = Mapping[str, Pipeline]
BEING_CHANGED = (
    "an open transaction has changed a declared pipeline or the clock: end it, then start again"
    " (SELECT pid, query FROM pg_stat_activity WHERE state = 'idle in transaction')"
)


class Leads(Writer):
    """Tasks whose payload names a lead (and mostly the stage entry they belong to)."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._why = {p.entry_kind(s): s.on_dead for p in pipelines.values() for s in p.stages}

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Lead]:
        """Each task's lead."""
        rows = await conn.fetch(SQL["load"], list({t.payload["lead_id"] for t in tasks}))
        leads = {str(row["id"]): Lead(row) for row in rows}
        return {t.id: leads[t.payload["lead_id"]] for t in tasks if t.payload["lead_id"] in leads}

    def steps(self, effects: Sequence[tuple[Task, Effects]]) -> Sequence[Step] | None:
        """Not with deadlines: whether they are still due is asked first."""
        return None if any(task.kind == "lead.deadline" for task, _ in effects) else super().steps(effects)

    async def commit(self, conn: Connection, effects: Sequence[tuple[Task, Effects]]) -> None:
        """A deadline that was put off while its step was being decided does nothing: the column alone decides."""
        steps = {task.payload["lead_id"]: task.id for task, _ in effects if task.kind == "lead.deadline"}
        if steps:
            due = {str(r["id"]) for r in await conn.fetch(SQL["still_due"], list(steps))}
            put_off = {task_id for lead_id, task_id in steps.items() if lead_id not in due}
            effects = [(task, its) for task, its in effects if task.id not in put_off]
        await super().commit(conn, effects)

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """The lead is flagged, and its deadline waits for a person (fire_deadlines sees the dead task)."""
        why = self._why.get(task.kind, task.kind)
        return mourn(UUID(task.payload["lead_id"]), task, f"{why}: {error}", unknown)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """A person doesn't want this action: it is owed no more."""
        if kind in self._why:
            await conn.execute(SQL["entry_cancelled"], id_in(payload, "lead_id"), payload.get("stage_seq"))


def mourn(lead_id: UUID, task: Task, why: str, unknown: bool) -> Effects:
    """What every dead letter about a lead leaves behind."""
    kind = "UNKNOWN_OUTCOME" if unknown else "AGENT_FAILURE"
    return (
        Change(lead_id, flag=why[:500]),
        Event(lead_id, "flagged", {"reason": why[:500], "kind": task.kind}),
        Alert(kind, f"{task.kind}: {why}"[:500], "HIGH", f"lead:{lead_id}", {"kind": task.kind}),
    )


def kinds(pipelines: Pipelines) -> list[Kind[Effects]]:
    """One kind per entry action, one for all deadlines, one for all checks."""
    subject = Leads(pipelines)
    entries = [
        Kind(f"{p.name}.{s.name}", s.policy, subject, _enter(s, s.on_entry))
        for p in pipelines.values()
        for s in p.stages
        if s.on_entry
    ]
    return [
        Kind("lead.deadline", Policy(), subject, _deadline(pipelines)),
        *entries,
        Kind("lead.check", Policy(), subject, _check(pipelines)),
    ]


def _enter(stage: Stage, handler: Handler) -> Any:
    async def enter(task: Task, lead: Lead | None, context: Context) -> Outcome[Effects]:
        if lead is None:
            return done(reason="the lead is gone")
        if lead.stage_seq != task.payload["stage_seq"] or not lead.entry_pending:
            return done(reason=f"the lead has left {stage.name}, or its entry action was done before")
        outcome = await handler(lead, Attempt(task, context))
        if not isinstance(outcome, Done):
            return outcome
        effects = _with_entry_done(lead, outcome.effects)
        return outcome if effects is outcome.effects else Done(effects, outcome.reason)

    return enter


def _with_entry_done(lead: Lead, effects: Effects) -> Effects:
    """What the entry owed is done with these: a move ends the entry, a message says so itself."""
    own = None
    for effect in effects:
        if isinstance(effect, Move):
            return effects
        if own is None and isinstance(effect, Send) and effect.stage_seq == lead.stage_seq:
            own = effect
    if own is None:
        return (*effects, Change(lead.id, lead.stage_seq, entry_done=True))
    return tuple(replace(e, entry_done=True) if e is own else e for e in effects)


# -- deadlines


def _deadline(pipelines: Pipelines) -> Any:
    async def deadline(task: Task, lead: Lead | None, _: Context) -> Outcome[Effects]:
        if lead is None or lead.stage_seq != task.payload["stage_seq"]:
            return done(reason="the lead has left that stage")
        if lead.deadline_at is None or lead.deadline_at > task.now:
            return done(reason="the deadline was put off")
        pipeline = pipelines[lead.pipeline]
        return Done(*_due(pipeline, pipeline.by_name[lead.stage], lead, task))

    return deadline


def _due(pipeline: Pipeline, stage: Stage, lead: Lead, task: Task) -> tuple[Effects, str]:
    nurtured = lead.row["nurture_until"]
    if nurtured is not None and nurtured == lead.deadline_at and stage.deadlines:
        return _ask_again(stage, lead, task), "nurtured long enough"
    if lead.deadline_step >= len(stage.deadlines):
        return (Change(lead.id, lead.stage_seq, set_deadline=True),), "no deadline step is left"
    step = stage.deadlines[lead.deadline_step]
    match step.act:
        case GoTo(target, reason, event):
            return _go(pipeline, lead, target, reason, event), reason
        case Say(template):
            return (_next_step(stage, lead, step, task), _follow_up(lead, template, lead.deadline_step)), template
        case FlagFor(reason):
            flag = Change(lead.id, flag=reason)
            return (_next_step(stage, lead, step, task), flag, Event(lead.id, "flagged", {"reason": reason})), reason


def _ask_again(stage: Stage, lead: Lead, task: Task) -> Effects:
    """After the soft pass: one follow-up, then the stage's deadlines (in a conversation that was the first of them)."""
    said = 1 if stage.counts_silence and len(stage.deadlines) > 1 else 0
    wait = stage.deadlines[said].after - (stage.deadlines[0].after if said else timedelta())
    again = Change(
        lead.id, lead.stage_seq, set_deadline=True, deadline_at=task.now + wait, deadline_step=said, nurtured=True
    )
    return again, _follow_up(lead, "CONVERSATION_FOLLOW_UP", "nurture")


def _go(pipeline: Pipeline, lead: Lead, target: str, reason: str, event: str | None) -> Effects:
    facts = {"dead_reason": reason} if target == pipeline.refused else None
    move = Move.of(lead, target, reason, facts)
    return (Event(lead.id, event, {"reason": reason}), move) if event else (move,)


def _next_step(stage: Stage, lead: Lead, step: Deadline, task: Task) -> Change:
    """The next step keeps its distance from this one: on time if it still can be, else from now."""
    following = lead.deadline_step + 1
    at = None
    if following < len(stage.deadlines) and lead.deadline_at is not None:
        gap = stage.deadlines[following].after - step.after
        at = lead.deadline_at + gap if lead.deadline_at + gap > task.now else task.now + gap
    return Change(lead.id, lead.stage_seq, set_deadline=True, deadline_at=at, deadline_step=following)


def _follow_up(lead: Lead, template: str, step: int | str) -> Effect:
    """Its key names the silence it belongs to: each word of the lead begins a new one."""
    said = lead.row["last_inbound_at"]
    silence = f":{said.timestamp():.0f}" if said else ""
    return Send(
        lead.id, template, f"lead:{lead.id}:{lead.stage_seq}:{step}{silence}:{template}", stage_seq=lead.stage_seq
    )


# -- checks


def _check(pipelines: Pipelines) -> Any:
    async def check(task: Task, lead: Lead | None, _: Context) -> Outcome[Effects]:
        if lead is None:
            return done(reason="the lead is gone")
        pipeline = pipelines[lead.pipeline]
        stage = pipeline.by_name[lead.stage]
        if stage.terminal:
            return done(reason=f"{lead.stage} is terminal")
        target = pipeline.by_name.get(stage.on_complete or "")
        missing = lead.missing(target.required) if target else []
        if target and not missing:
            return done(Move.of(lead, target.name, "the data is complete"), reason="complete")
        issues = [*_contact_issues(lead), *pipeline.check(lead), *task.payload.get("issues", ())]
        return Done(
            tuple(_issue_effects(lead, issues, [f"missing:{f}" for f in missing])), ", ".join(issues) or "checked"
        )

    return check


def _contact_issues(lead: Lead) -> Iterable[str]:
    if not lead.text("phone"):
        yield "missing_phone"
    if not lead.text("name"):
        yield "missing_name"


def _issue_effects(lead: Lead, issues: Sequence[str], missing: Sequence[str]) -> Iterable[Effect]:
    """Each issue is told once; one that was mended is forgotten, so that it may be told again."""
    known = set(lead.row["known_issues"])
    new = [issue for issue in issues if issue not in known]
    for issue in new:
        yield Event(lead.id, "data_issue", {"issue": issue})
    fields = [m.removeprefix("missing:") for m in missing]
    if missing and set(missing) != {k for k in known if k.startswith("missing:")}:
        yield Event(lead.id, "missing_fields", {"missing": fields})
    now_known = sorted({*issues, *missing})
    if now_known != sorted(known) or new:
        yield Change(lead.id, issues={"known": now_known}, flag="data: " + ", ".join(new) if new else None)
    if lead.row["needs_review"] and lead.text("phone"):
        yield AddressMended(lead.id, lead.stage_seq, no_text_to(lead.text("phone"), lead.row["country"]))


# -- the declarations in the database


async def sync(conn: Connection, pipelines: Iterable[Pipeline]) -> None:
    """Write the declared pipelines; refuse to go on while live leads sit in stages that are declared no more."""
    try:
        async with conn.transaction():
            await conn.execute(SQL["lock_declarations"])
            for pipeline in pipelines:
                await _sync_one(conn, pipeline)
            strangers = await conn.fetch(SQL["strangers"])
            if strangers:
                where = ", ".join(f"{r['n']} in {r['pipeline']}.{r['stage']}" for r in strangers)
                raise DeclarationError(
                    f"live leads in undeclared stages ({where}): move them, or declare the stages again"
                )
    except asyncpg.LockNotAvailableError as error:
        raise DeclarationError(BEING_CHANGED) from error


async def _sync_one(conn: Connection, pipeline: Pipeline) -> None:
    stages = pipeline.stages
    await conn.execute(SQL["sync_pipeline"], pipeline.name, pipeline.initial, list(pipeline.watched))
    await conn.execute(SQL["drop_stages"], pipeline.name, [s.name for s in stages])
    rows = [
        (s.name, n, s.terminal, pipeline.entry_kind(s), _lists(s), s.counts_silence, s.on_complete, s.sweep_step)
        for n, s in enumerate(stages)
    ]
    await conn.execute(SQL["sync_stages"], pipeline.name, *map(list, zip(*rows, strict=True)))
    moves = [(s.name, to) for s in stages for to in s.to]
    await conn.execute(SQL["sync_transitions"], pipeline.name, [m[0] for m in moves], [m[1] for m in moves])


def _lists(stage: Stage) -> Mapping[str, list[str]]:
    ages = [f"{d.after.total_seconds():.3f} seconds" for d in stage.deadlines]
    return {"required": list(stage.required), "deadlines": ages}
