"""The kind that starts a run for a row of `search_criteria`; a shipped campaign is imported if it isn't there.

A campaign that is paused, or can't afford its first call, makes the row wait; whatever else is wrong is a dead task
with an alert that says what, so that a person can correct it and have it tried again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from campaigns import library
from campaigns.definition import Campaign, Invalid, World, check_inputs, validate
from campaigns.effects import Alert, Writer
from campaigns.starting import NotStarted, Started, start
from campaigns.storing import find
from daemon import queue
from daemon.answers import tidy
from daemon.context import Context
from daemon.db import Connection, Statements
from daemon.metrics import Metrics
from daemon.outcome import Done, Fail, Outcome
from daemon.task import Kind, NewTask, Policy, Task

SQL = Statements("campaigns", "criteria.sql")
KIND = "campaign.start"
WHOLE = "criteria"
"""An input of this name is given all of the criteria; without one, each of them is an input."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """A row, and the campaign that it names: its document and status (None: it is only shipped, or unknown)."""

    id: UUID
    campaign: str
    criteria: Mapping[str, Any]
    run_id: UUID | None
    config: Mapping[str, Any] | None
    status: str | None


@dataclass(frozen=True, slots=True)
class RunWanted:
    """A run for a row of criteria."""

    criteria_id: UUID
    campaign: str
    inputs: Mapping[str, Any]


Effects = tuple[RunWanted | Alert, ...]
Of = Sequence[tuple[Task, Effects]]


@dataclass(frozen=True, slots=True, eq=False)  # the queue groups effects by their subject
class Searches:
    """Tasks whose payload names a row of criteria."""

    world: World

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Criteria]:
        """Each task's criteria, and their campaign if it is there."""
        ids = {t.id: criteria_id for t in tasks if (criteria_id := _id(t)) is not None}
        rows = {r["id"]: r for r in await conn.fetch(SQL["load"], list(set(ids.values())))}
        names = {name for r in rows.values() for name in _names(r["campaign"])}
        documents = {r["name"]: r for r in await conn.fetch(SQL["documents"], sorted(names))} if names else {}
        return {n: _criteria(rows[i], documents) for n, i in ids.items() if i in rows}

    def steps(self, effects: Of) -> None:
        """A run is started in many statements."""

    async def hold(self, conn: Connection, effects: Of) -> Collection[UUID]:
        """Those whose row and whose campaign nobody else holds."""
        wanted = {task.lease_id: [e for e in its if isinstance(e, RunWanted)] for task, its in effects}
        ids = sorted({e.criteria_id for its in wanted.values() for e in its})
        names = sorted({name for its in wanted.values() for e in its for name in _names(e.campaign)})
        rows = {r["id"] for r in await conn.fetch(SQL["hold"], ids)} if ids else set()
        free = {r["name"] for r in await conn.fetch(SQL["hold_campaigns"], names)} if names else set()
        return [
            lease
            for lease, its in wanted.items()
            if all(e.criteria_id in rows and free.issuperset(_names(e.campaign)) for e in its)
        ]

    async def commit(self, conn: Connection, effects: Of) -> None:
        """Start the runs; what can't start now is tried again later."""
        alerts: list[tuple[int, tuple[Alert]]] = []
        for task, its in effects:
            for effect in its:
                if isinstance(effect, RunWanted):
                    await self._start(conn, effect)
                else:
                    alerts.append((task.id, (effect,)))
        await Writer().write(conn, alerts)

    def observe(self, metrics: Metrics, effects: Of) -> None:
        """Nothing is counted here."""

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """A search that nobody makes needs a person."""
        criteria_id = task.payload.get("criteria_id")
        said = tidy(f"no run for the search criteria: {error}")
        return (Alert("AGENT_FAILURE", said, "HIGH", f"criteria:{criteria_id}", {"criteria_id": criteria_id}),)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """The row stays; there is no run."""

    async def _start(self, conn: Connection, wanted: RunWanted) -> None:
        if not await conn.fetchval(SQL["going"], wanted.criteria_id):
            return
        campaign_id = await find(conn, wanted.campaign, self.world)
        came: Started | NotStarted = NotStarted("unknown", "it is gone")
        if campaign_id is not None:
            came = await start(conn, campaign_id, trigger="event", inputs=wanted.inputs, world=self.world)
        if isinstance(came, Started):
            await conn.execute(SQL["begun"], wanted.criteria_id, came.run_id)
        else:  # what won't mend itself is a failure of the next attempt
            await queue.enqueue(conn, [await _again(conn, wanted, came)])


def kinds(world: World) -> list[Kind[Any]]:
    """The one kind of searches."""
    searches = Searches(world)

    async def begin(task: Task, criteria: Criteria | None, context: Context) -> Outcome[Effects]:
        return _wanted(criteria, world)

    return [Kind(KIND, Policy(), searches, begin)]


def _wanted(criteria: Criteria | None, world: World) -> Outcome[Effects]:
    if criteria is None:
        return Done((), "the criteria are gone")
    if criteria.run_id is not None:
        return Done((), f"its run is {criteria.run_id}")
    document = criteria.config if criteria.config is not None else _shipped(criteria.campaign)
    if document is None:
        known = ", ".join(library.names())
        return Fail(f"there is no campaign called {criteria.campaign!r}; shipped are: {known}", retryable=False)
    wanted = RunWanted(criteria.id, criteria.campaign, {})
    try:
        campaign = validate(document, world)
    except Invalid as invalid:  # to start it is to stop it; then the next attempt fails
        return Done((wanted,)) if criteria.status == "active" else Fail(tidy(str(invalid)), retryable=False)
    try:
        return Done((replace(wanted, inputs=inputs_of(campaign, criteria.criteria)),))
    except Invalid as invalid:
        return Fail(tidy(str(invalid)), retryable=False)


def inputs_of(campaign: Campaign, criteria: Mapping[str, Any]) -> Mapping[str, Any]:
    """Criteria as the inputs of a run, or Invalid."""
    given = {WHOLE: criteria} if WHOLE in campaign.inputs and WHOLE not in criteria else criteria
    return check_inputs(campaign, given)


async def _again(conn: Connection, wanted: RunWanted, came: NotStarted) -> NewTask:
    """Soon if it is going to fail, else when it may be possible."""
    at = await conn.fetchval(SQL["again_at"], came.until) if came.why in ("budget", "paused") else None
    return NewTask(KIND, {"criteria_id": str(wanted.criteria_id)}, key=f"criteria:{wanted.criteria_id}", run_at=at)


# -- names


def _names(campaign: str) -> Iterable[str]:
    """What the campaign may be called in the database: as the row says, or as what is shipped calls itself."""
    document = _shipped(campaign)
    return (campaign,) if document is None else (campaign, document["name"])


def _shipped(campaign: str) -> Mapping[str, Any] | None:
    document: Any = library.document(campaign) if campaign in library.names() else None
    return document


def _criteria(row: Mapping[str, Any], documents: Mapping[str, Mapping[str, Any]]) -> Criteria:
    its = next((documents[name] for name in _names(row["campaign"]) if name in documents), None)
    config, status = (its["config"], its["status"]) if its else (None, None)
    return Criteria(row["id"], row["campaign"], row["criteria"], row["run_id"], config, status)


def _id(task: Task) -> UUID | None:
    try:
        return UUID(str(task.payload.get("criteria_id")))
    except ValueError:
        return None
