"""The kinds about runs: their steps, the children of a step that fans out, decisions at gates and their expiry."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from campaigns.decisions import FAILED, End
from campaigns.effects import Alert, Effects, Expired, ItemEnded, RunEnded, StepEnded, Writer
from campaigns.facts import Row, Run, Step, effect_key, lead_id_of
from campaigns.steps import DRY, Attempt, end, parked
from campaigns.steps.checkpoint import checkpoint, decided
from campaigns.steps.engine import cut_off, engine
from campaigns.steps.enrich import enrich, item
from campaigns.steps.leads import leads
from campaigns.steps.learnings import pinned
from campaigns.steps.messages import messages
from daemon import learnings
from daemon.answers import tidy
from daemon.context import Context
from daemon.db import Connection, Statements
from daemon.learnings import Learning
from daemon.metrics import Metrics
from daemon.outcome import Done, Outcome, Snooze
from daemon.task import Kind, Policy, Task

SQL = Statements("campaigns", "runs.sql")
CALLING = Policy(backoff_s=0.0, concurrency=64)  # a step says itself how long it waits before it is tried again
STEPS: Mapping[str, Callable[[Attempt], Awaitable[Outcome[Effects]]]] = {
    "engine": engine, "checkpoint": checkpoint, "leads": leads, "enrich": enrich, "messages": messages,
}  # fmt: skip


class Runs(Writer):
    """Tasks whose payload names a run, and mostly a step of it."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Run]:
        """Each task's run with all of its steps, and what that task needs besides."""
        ids = list({UUID(str(t.payload["run_id"])) for t in tasks})
        steps: dict[UUID, list[Row]] = {}
        for row in await conn.fetch(SQL["steps"], ids):
            steps.setdefault(row["run_id"], []).append(row)
        runs = {r["id"]: _run(r, steps.get(r["id"], ())) for r in await conn.fetch(SQL["load"], ids)}
        of = {t.id: runs[run_id] for t in tasks if (run_id := UUID(str(t.payload["run_id"]))) in runs}
        return await _completed(conn, {t.id: t for t in tasks if t.id in of}, of)

    def observe(self, metrics: Metrics, effects: Sequence[tuple[Task, Effects]]) -> None:
        """Nothing is counted here yet."""

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """A dead step ends its run; a dead enrichment is a failed one. A person is told."""
        run_id, alert = UUID(str(task.payload["run_id"])), _mourned(task, error)
        if "position" not in task.payload:
            return (alert,)
        position, of_round = int(task.payload["position"]), int(task.payload["round"])
        if task.kind == "run.item":
            return (_item_failed(task.payload, tidy(error)), alert)
        key = effect_key(run_id, position, of_round)
        status = "unknown" if unknown else "failed"
        ended = StepEnded(run_id, of_round, position, status, None, tidy(error), attempts=task.attempt, call=key)
        return (ended, RunEnded(run_id, of_round, FAILED.status, FAILED.event, FAILED.hears), alert)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """A run without its task would never end: it is cancelled. One enrichment is only that one.

        What belongs to an earlier round of the run, or to a request that nobody waits for, concerns it no more.
        """
        run_id, of_round = lead_id_of(payload.get("run_id")), payload.get("round", 0)
        if kind == "run.item":
            if await conn.fetchval(SQL["lock"], run_id, of_round):
                await self.write(conn, [(0, (_item_failed(payload, "its task was cancelled"),))])
        elif kind == "run.decided":
            await conn.execute(SQL["cancel_decided"], run_id, lead_id_of(payload.get("approval_id")))
        elif kind == "run.step":
            await conn.execute(SQL["cancel"], run_id, of_round)


def kinds() -> list[Kind[Effects]]:
    """Every kind of task about runs."""
    runs = Runs()
    return [
        Kind("run.decided", Policy(), runs, _decided),
        Kind("run.expiry", Policy(), runs, _expiry),
        Kind("run.step", CALLING, runs, _step),
        Kind("run.item", CALLING, runs, _item),
    ]


# -- what they do


async def _step(task: Task, run: Run | None, context: Context) -> Outcome[Effects]:
    over = _over(task, run)
    if over is not None or run is None:
        return await _stopped(task, run, context, over or "")
    step = run.at(task.payload["position"])
    if step is None:
        why = End("failed", "run_failed", "onFailure", "its definition has no steps")
        return Done((end(run, why, None),), why.reason)
    if step.status not in ("pending", "running"):
        return Done((), f"the step is {step.status}")
    if run.status == "paused":
        return parked(run)
    attempt = Attempt(run, step, task, context)
    if attempt.dry:
        return attempt.completed(DRY)
    if step.kind not in STEPS:
        return attempt.failed(f"there is no kind of step called {step.kind}")
    return await STEPS[step.kind](attempt)


async def _item(task: Task, run: Run | None, context: Context) -> Outcome[Effects]:
    over = _over(task, run)
    if over is not None or run is None:
        return await _stopped(task, run, context, over or "")
    step, own = run.at(task.payload["position"]), next(iter(run.items), None)
    if step is None or own is None or own["status"] != "pending":
        return Done((), "that enrichment has ended")
    if run.status == "paused":
        return parked(run)
    return await item(Attempt(run, step, task, context), own)


async def _decided(task: Task, run: Run | None, context: Context) -> Outcome[Effects]:
    if run is None or run.approval is None:
        return Done((), "the request is gone")
    step = run.named(run.approval["step"])
    if not run.live or step is None or step.status != "waiting":
        return Done((), f"nothing waits for it: the run is {run.status}")
    if run.approval["status"] == "pending":
        return Done((), "the request is pending")
    if run.status == "paused":
        return parked(run)
    return decided(Attempt(run, step, task, context), run.approval)


async def _expiry(task: Task, run: Run | None, context: Context) -> Outcome[Effects]:
    if run is None or run.approval is None or run.approval["status"] != "pending":
        return Done((), "it was decided in time")
    ends = run.approval["expires_at"]
    if ends is None:
        return Done((), "somebody lets it wait for ever")
    if ends > task.now:
        return Snooze(ends, "somebody lets it wait longer")
    return Done((Expired(run.approval["id"]),), "nobody decided in time")


async def _stopped(task: Task, run: Run | None, context: Context, why: str) -> Outcome[Effects]:
    """Nothing follows any more, but a call that an attempt before this one has made still counts."""
    step = run.at(task.payload.get("position")) if run and task.payload.get("round", 0) == run.round else None
    if run is None or step is None:
        return Done((), why)
    attempt = Attempt(run, step, task, context)
    if task.kind == "run.step":
        return await cut_off(attempt, step.row, why) if step.status == "cancelled" else Done((), why)
    pending = next((own for own in run.items if own["status"] == "pending"), None)
    return await cut_off(attempt, pending, why, pending["lead_id"]) if pending else Done((), why)


def _over(task: Task, run: Run | None) -> str | None:
    """Why the task is of no more use, if it isn't."""
    if run is None:
        return "the run is gone"
    if not run.live:
        return f"the run is {run.status}"
    return None if task.payload.get("round", 0) == run.round else "the run was begun anew"


# -- what they read


def _run(row: Row, steps: Sequence[Row]) -> Run:
    declared = row["definition"].get("steps") or []
    return Run(row, tuple(Step(s, declared[s["position"]] if s["position"] < len(declared) else {}) for s in steps))


async def _completed(conn: Connection, tasks: Mapping[int, Task], runs: Mapping[int, Run]) -> Mapping[int, Run]:
    """The runs with the items, leads and requests that their tasks are about."""
    at = {task_id: runs[task_id].at(task.payload.get("position")) for task_id, task in tasks.items()}
    joins = [t for t in tasks.values() if t.kind == "run.step" and _is(at[t.id], "enrich")]
    items = await _items(conn, joins, [t for t in tasks.values() if t.kind == "run.item"])
    about = {t.id: list(_lead_ids(t, runs[t.id], at[t.id])) for t in tasks.values()}
    leads_by_id = await _leads(conn, {lead_id for ids in about.values() for lead_id in ids})
    approvals = await _approvals(conn, [t for t in tasks.values() if "approval_id" in t.payload])
    said = await _learnings(conn, tasks, at)
    gated = any(_is(step, "checkpoint") for step in at.values())
    modes = {r["checkpoint"]: r["mode"] for r in await conn.fetch(SQL["modes"])} if gated else {}
    return {
        n: Run(
            run.row,
            run.steps,
            items.get(n, ()),
            {i: leads_by_id[i] for i in about[n] if i in leads_by_id},
            approvals.get(n),
            modes,
            said.get(n, ()),
        )
        for n, run in runs.items()
    }


def _is(step: Step | None, kind: str) -> bool:
    return step is not None and step.kind == kind


def _lead_ids(task: Task, run: Run, step: Step | None) -> Iterable[UUID]:
    """The leads whose rows the task needs."""
    if task.kind == "run.item":
        yield UUID(str(task.payload["lead_id"]))
    elif step is not None and step.kind == "messages" and step.declared.get("template"):
        yield from filter(None, map(lead_id_of, run.sources(step)))


async def _items(conn: Connection, joins: Sequence[Task], singles: Sequence[Task]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    if joins:
        places = [(UUID(str(t.payload["run_id"])), t.payload["position"]) for t in joins]
        rows = await conn.fetch(SQL["items"], *map(list, zip(*places, strict=True)))
        for task, place in zip(joins, places, strict=True):
            found[task.id] = [r for r in rows if (r["run_id"], r["position"]) == place]
    if singles:
        owns = [
            (UUID(str(t.payload["run_id"])), t.payload["position"], UUID(str(t.payload["lead_id"]))) for t in singles
        ]
        rows = await conn.fetch(SQL["item"], *map(list, zip(*owns, strict=True)))
        by_place = {(r["run_id"], r["position"], r["lead_id"]): r for r in rows}
        found |= {t.id: [by_place[own]] for t, own in zip(singles, owns, strict=True) if own in by_place}
    return found


async def _leads(conn: Connection, ids: set[UUID]) -> dict[UUID, Mapping[str, Any]]:
    return {r["id"]: r["lead"] for r in await conn.fetch(SQL["leads"], sorted(ids))} if ids else {}


async def _approvals(conn: Connection, tasks: Sequence[Task]) -> dict[int, Row]:
    ids = {t.id: UUID(str(t.payload["approval_id"])) for t in tasks}
    rows = {r["id"]: r for r in await conn.fetch(SQL["approvals"], list(set(ids.values())))} if ids else {}
    return {task_id: rows[i] for task_id, i in ids.items() if i in rows}


async def _learnings(
    conn: Connection, tasks: Mapping[int, Task], at: Mapping[int, Step | None]
) -> Mapping[int, Sequence[Learning]]:
    """What people have said to the engines that these tasks are about to call for the first time."""
    engines = {n: s.engine for n, s in at.items() if s is not None and _may_call(tasks[n], s)}
    said: dict[str, list[Learning]] = {}
    for learning in await learnings.read(conn, set(engines.values())):
        said.setdefault(learning.agent, []).append(learning)
    return {n: said.get(engine, ()) for n, engine in engines.items()}


def _may_call(task: Task, step: Step) -> bool:
    calls = task.kind == "run.item" or (task.kind == "run.step" and step.kind == "engine")
    return calls and pinned(task) is None


# -- what went wrong


def _mourned(task: Task, error: str) -> Alert:
    return Alert(
        "AGENT_FAILURE", tidy(f"{task.kind}: {error}"), "HIGH", f"run:{task.payload['run_id']}", {"kind": task.kind}
    )


def _item_failed(payload: Mapping[str, Any], error: str) -> ItemEnded:
    run_id, lead_id = UUID(str(payload["run_id"])), UUID(str(payload["lead_id"]))
    position, of_round = int(payload["position"]), int(payload["round"])
    key = effect_key(run_id, position, of_round, lead_id)
    return ItemEnded(run_id, of_round, position, lead_id, "failed", error=error, call=key)
