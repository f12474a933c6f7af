"""What outcomes of runs may write, one type and one set-based statement per kind of effect.

An effect's fields are the columns of its statement, in order, after the task's id. Whatever is about a run holds that
run's row first and waits for nobody; what comes too late for its run books its cost, and nothing else.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from campaigns import budget
from campaigns.budget import Charged, Overspent
from daemon import queue
from daemon.db import Connection, Statements
from daemon.task import NewTask, Task

SQL = Statements("campaigns", "effects.sql")
HOLD = {"leads": SQL["hold_leads"], "approval_queue": SQL["hold_approvals"]}
Json = Mapping[str, Any]
NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Spent:
    """Money of a step that is of no more interest to its run."""

    statement: ClassVar[str] = "spent"
    run_id: UUID
    position: int
    cost: Decimal
    call: str | None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """What a step came to. `call` is the ledger's key of its call, which knows best what that has cost."""

    statement: ClassVar[str] = "step_ended"
    run_id: UUID
    round: int
    position: int
    status: str
    result: Json | None = None
    error: str | None = None
    cost: Decimal = NOTHING
    attempts: int = 1
    call: str | None = None


@dataclass(frozen=True, slots=True)
class StepBegun:
    """The run goes on with that step."""

    statement: ClassVar[str] = "step_begun"
    run_id: UUID
    round: int
    position: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run is over; `event` is told to those whom `hears` names in its definition."""

    statement: ClassVar[str] = "run_ended"
    run_id: UUID
    round: int
    status: str
    event: str
    hears: str
    step: str | None = None  # with `error`, one more line of its errors
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CampaignPaused:
    """No run starts until then; people who changed its status meanwhile are right."""

    statement: ClassVar[str] = "campaign_paused"
    run_id: UUID
    reason: str
    window: str
    resume_at: datetime | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request at a checkpoint: pending, or recorded as decided."""

    statement: ClassVar[str] = "asked"
    run_id: UUID
    round: int
    position: int
    approval_id: UUID
    checkpoint: str
    title: str
    payload: Json
    step: str
    status: str
    decided_by: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody decided in time; what follows is queued by the row's trigger."""

    statement: ClassVar[str] = "expired"
    approval_id: UUID


@dataclass(frozen=True, slots=True)
class Feedback:
    """A person's words for an agent."""

    statement: ClassVar[str] = "feedback"
    agent: str
    feedback: str
    approval_id: UUID
    created_by: str


@dataclass(frozen=True, slots=True)
class LeadFound:
    """One result of a step that becomes a lead, or completes one; `n` is its place among them."""

    statement: ClassVar[str] = "lead_found"
    run_id: UUID
    round: int
    position: int
    n: int
    pipeline: str
    source: str
    external_id: str
    columns: Json


@dataclass(frozen=True, slots=True)
class ItemWanted:
    """One enrichment of a step; one that failed before is wanted again."""

    statement: ClassVar[str] = "item_wanted"
    run_id: UUID
    round: int
    position: int
    n: int
    lead_id: UUID


@dataclass(frozen=True, slots=True)
class ItemEnded:
    """What an enrichment came to."""

    statement: ClassVar[str] = "item_ended"
    run_id: UUID
    round: int
    position: int
    lead_id: UUID
    status: str
    result: Json | None = None
    error: str | None = None
    cost: Decimal = NOTHING
    call: str | None = None


@dataclass(frozen=True, slots=True)
class LeadEnriched:
    """What was learnt about a lead; a phone and an email that it has stay."""

    statement: ClassVar[str] = "lead_enriched"
    lead_id: UUID
    data: Json
    phone: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class MessagePlanned:
    """A message to a lead, at most one per step of a run."""

    statement: ClassVar[str] = "message_planned"
    run_id: UUID
    round: int
    position: int
    key: str
    lead_id: UUID
    step: str
    channel: str
    template: str | None
    to_address: str | None
    subject: str | None
    body: str | None


@dataclass(frozen=True, slots=True)
class Parked:
    """The task waits for its run to be resumed; if that has happened meanwhile, it is due at once."""

    statement: ClassVar[str] = "parked"
    run_id: UUID


@dataclass(frozen=True, slots=True)
class Pinned:
    """Facts that the task keeps in its payload, whatever changes until its next attempt."""

    statement: ClassVar[str] = "pinned"
    facts: Json


@dataclass(frozen=True, slots=True)
class AwaitSending:
    """The task waits until sending resumes; if that has happened meanwhile, its gate is asked again."""

    statement: ClassVar[str] = "await_sending"


@dataclass(frozen=True, slots=True)
class Alert:
    """One open alert per type and subject."""

    statement: ClassVar[str] = "alert"
    type: str
    message: str
    severity: str
    subject: str
    metadata: Json


OfRound = StepEnded | StepBegun | RunEnded | Asked | LeadFound | ItemWanted | ItemEnded | MessagePlanned
Written = OfRound | Spent | CampaignPaused | Expired | Feedback | LeadEnriched | Parked | Pinned | AwaitSending | Alert
Effect = Written | NewTask | Charged
Effects = tuple[Effect, ...]

STATEMENTS: tuple[type[Written], ...] = (
    *(Spent, StepEnded, LeadFound, ItemWanted, ItemEnded, LeadEnriched, MessagePlanned),
    *(Asked, StepBegun, RunEnded, CampaignPaused, Expired, Feedback, Alert, Parked, Pinned, AwaitSending),
)
SHARED = (Alert, LeadFound, MessagePlanned)  # two batches may write the same rows, and must do so in the same order
OF_LEADS = (ItemEnded, LeadEnriched, MessagePlanned)  # they write the lead, or refer to its row
FOLLOW_ROUND = (StepEnded, StepBegun, RunEnded, Asked, LeadFound, ItemWanted, ItemEnded, MessagePlanned)
OF_RUNS = (*FOLLOW_ROUND, Spent, CampaignPaused, Parked)
EVEN_LATE = (LeadEnriched, Expired, Parked, Alert, Charged)
COLUMNS = {kind: [f.name for f in fields(kind)] for kind in STATEMENTS}
Of = Sequence[tuple[Task, Effects]]


class Writer:
    """Holds and writes effects; what the tasks are about is the subclass's."""

    def steps(self, effects: Of) -> None:
        """What a round's effects may still do is decided under the lock of its run."""

    async def hold(self, conn: Connection, effects: Of) -> Collection[UUID]:
        """The attempts whose rows could all be locked at once, without waiting; what is gone needs no lock."""
        wanted = {task.lease_id: set(_rows(its)) for task, its in effects}
        runs = await _hold_runs(conn, effects)
        free = {("runs", run_id) for run_id in runs}
        free |= {("campaigns", run_id) for run_id in await _hold_campaigns(conn, effects, runs)}
        for table, statement in HOLD.items():
            ids = sorted({row_id for rows in wanted.values() for of, row_id in rows if of == table})
            free |= {(table, r["id"]) for r in await conn.fetch(statement, ids)} if ids else set()
        stored = await _hold_stored(conn, effects)
        return [
            lease
            for (task, its), (lease, rows) in zip(effects, wanted.items(), strict=True)
            if rows | _late(its, runs) <= free and all(_place(e) in stored for e in its if isinstance(e, LeadFound))
        ]

    async def commit(self, conn: Connection, effects: Of) -> None:
        """One statement per kind of effect; of what comes too late for its run only the cost counts."""
        await self.write(conn, [(task.id, its) for task, its in effects])

    async def write(self, conn: Connection, effects: Sequence[tuple[int, Effects]]) -> None:
        """As `commit`, by the tasks' ids."""
        live = await _live(conn, effects)
        by_type: dict[type[Effect], list[tuple[int, Effect]]] = {}
        for task_id, its in effects:
            for effect in its if _current(its, live) else _booked(its):
                by_type.setdefault(type(effect), []).append((task_id, effect))
        for over in await budget.look(conn, [e for _, e in by_type.get(Charged, []) if isinstance(e, Charged)]):
            _stop(by_type, over, going_on=live.get(over.charged.run_id) == over.charged.round)
        for kind in STATEMENTS:
            await _write(conn, kind, by_type.get(kind, []))
            if kind is LeadFound:
                await _tell_of_leads(conn, [e for _, e in by_type.get(LeadFound, []) if isinstance(e, LeadFound)])
            if kind is ItemEnded:
                await _go_on_with_items(conn, [e for of in (ItemWanted, ItemEnded) for _, e in by_type.get(of, [])])
        await queue.enqueue(conn, [e for _, e in by_type.get(NewTask, []) if isinstance(e, NewTask)])


def _stop(by_type: dict[type[Effect], list[tuple[int, Effect]]], over: Overspent, *, going_on: bool) -> None:
    """What has spent too much begins nothing more: its campaign is paused, and its run ends unless it ends anyway."""
    of, reason = over.charged, over.reason
    task_id = next(n for n, e in by_type[Charged] if isinstance(e, Charged) and e.run_id == of.run_id)
    paused = CampaignPaused(of.run_id, reason, over.window, over.until)
    by_type.setdefault(CampaignPaused, []).append((task_id, paused))
    ended = by_type.setdefault(RunEnded, [])
    if going_on and all(e.run_id != of.run_id for _, e in ended if isinstance(e, RunEnded)):
        ended.append((task_id, RunEnded(of.run_id, of.round, "aborted", "budget", "onBudget", of.step, reason)))
        begun = by_type.get(StepBegun, [])
        begun[:] = [(n, e) for n, e in begun if not (isinstance(e, StepBegun) and e.run_id == of.run_id)]


async def _write(conn: Connection, kind: type[Written], rows: Sequence[tuple[int, Effect]]) -> None:
    if rows:
        if kind in SHARED:
            rows = sorted(rows, key=lambda row: repr(row[1]))
        columns = [[getattr(effect, name) for _, effect in rows] for name in COLUMNS[kind]]
        await conn.execute(SQL[kind.statement], [task_id for task_id, _ in rows], *columns)


async def _tell_of_leads(conn: Connection, found: Sequence[LeadFound]) -> None:
    """Their ids are known only once they are stored."""
    if found:
        rows = ((e.run_id, e.position, e.n, *_place(e)) for e in found)
        await conn.execute(SQL["leads_told"], *map(list, zip(*rows, strict=True)))


async def _go_on_with_items(conn: Connection, items: Iterable[Any]) -> None:
    """Of the steps that these belong to: so many at once, and after the last one the step itself."""
    steps = sorted({(e.run_id, e.position) for e in items})
    if steps:
        columns = [run_id for run_id, _ in steps], [position for _, position in steps]
        await conn.execute(SQL["count_children"], *columns)
        await conn.execute(SQL["more_items"], *columns)


# -- holding


async def _hold_runs(conn: Connection, effects: Of) -> dict[UUID, tuple[str | None, int | None]]:
    """The runs that could be locked, with status and round."""
    ids = sorted({e.run_id for _, its in effects for e in its if isinstance(e, OF_RUNS)})
    rows = await conn.fetch(SQL["hold_runs"], ids) if ids else []
    return {r["id"]: (r["status"], r["round"]) for r in rows}


async def _hold_campaigns(conn: Connection, effects: Of, runs: Mapping[UUID, Any]) -> set[UUID]:
    """The runs whose campaign's figures may be written."""
    ids = {row_id for _, its in effects for of, row_id in (*_rows(its), *_late(its, runs)) if of == "campaigns"}
    return {r["id"] for r in await conn.fetch(SQL["hold_campaigns"], sorted(ids))} if ids else set()


async def _hold_stored(conn: Connection, effects: Of) -> set[tuple[str, str, str]]:
    """The places of leads that are nobody else's: not there yet, or locked by us."""
    places = sorted({_place(e) for _, its in effects for e in its if isinstance(e, LeadFound)})
    if not places:
        return set()
    rows = await conn.fetch(SQL["hold_stored"], *map(list, zip(*places, strict=True)))
    return {(r["pipeline"], r["source"], r["external_id"]) for r in rows}


def _place(lead: LeadFound) -> tuple[str, str, str]:
    return lead.pipeline, lead.source, lead.external_id


def _rows(effects: Effects) -> Iterable[tuple[str, UUID]]:
    """The rows that these effects write or refer to."""
    for effect in effects:
        if isinstance(effect, OF_RUNS):
            yield "runs", effect.run_id
        if isinstance(effect, RunEnded | CampaignPaused | Charged):
            yield "campaigns", effect.run_id
        if isinstance(effect, OF_LEADS):
            yield "leads", effect.lead_id
        if isinstance(effect, Expired):
            yield "approval_queue", effect.approval_id


def _late(effects: Effects, runs: Mapping[UUID, tuple[str | None, int | None]]) -> set[tuple[str, UUID]]:
    """A cost that comes after its run's end is one of its campaign, too."""
    return {
        ("campaigns", e.run_id)
        for e in effects
        if isinstance(e, StepEnded | ItemEnded | Spent)
        and runs.get(e.run_id, ("", 0))[0] not in ("running", "waiting", "paused")
    }


# -- what still counts


async def _live(conn: Connection, effects: Sequence[tuple[int, Effects]]) -> dict[UUID, int]:
    """The rounds of the runs that are going on; we hold their rows."""
    ids = {e.run_id for _, its in effects for e in its if isinstance(e, FOLLOW_ROUND)}
    return {r["id"]: r["round"] for r in await conn.fetch(SQL["live"], sorted(ids))} if ids else {}


def _current(effects: Effects, live: Mapping[UUID, int]) -> bool:
    return all(live.get(e.run_id) == e.round for e in effects if isinstance(e, FOLLOW_ROUND))


def _booked(effects: Effects) -> Effects:
    """What remains of effects whose run was cancelled or begun anew."""
    costs = [Spent(e.run_id, e.position, e.cost, e.call) for e in effects if isinstance(e, StepEnded | ItemEnded)]
    return (*costs, *(e for e in effects if isinstance(e, EVEN_LATE)))
