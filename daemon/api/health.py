"""Is it alive, is it ready, how is it: the routes for probes, and the metrics."""

from datetime import datetime
from typing import Any, Literal

from prometheus_client.exposition import choose_encoder

from daemon import __version__
from daemon.api.problems import RETRY, Problem
from daemon.api.readings import SQL, Counts
from daemon.api.route import Answer, Api, Given, Nothing, Route, Success
from daemon.db import UNREACHABLE
from daemon.metrics import Metrics

READY_S = 1.0
Plain = Given[Nothing, Nothing, Nothing]


class Alive(Success):
    """Liveness, readiness."""

    status: Literal["ok"]


class Health(Success):
    """How the daemon is; what the database alone knows is null while it is away."""

    status: Literal["healthy", "degraded"]
    service: Literal["pipeline-orchestrator"]
    activeCampaigns: int | None  # noqa: N815 - public name, as those below
    scheduledRuns: int | None  # noqa: N815
    listener: bool
    queueDepth: int | None  # noqa: N815
    oldestTaskAgeSeconds: float | None  # noqa: N815
    lastSweep: datetime | None  # noqa: N815
    version: str
    database: str


async def healthz(_api: Api, _given: Plain) -> Answer:
    """Whether the process answers."""
    return Answer({"success": True, "status": "ok"})


async def readyz(api: Api, _given: Plain) -> Answer:
    """Whether it can work: the listener proves that it listens, and the database answers."""
    if not api.daemon.listener.healthy:
        raise Problem(503, "the listener is not connected to the database", headers=RETRY)
    try:
        async with api.reading(READY_S) as conn:
            await conn.fetchval(SQL["ready"])
    except UNREACHABLE as error:
        raise Problem(503, "the database does not answer", headers=RETRY) from error
    return Answer({"success": True, "status": "ok"})


async def show_health(api: Api, _given: Plain) -> Answer:
    """How the daemon is, at a glance; answers while the database is away, too."""
    daemon, queue = api.daemon, await api.readings.queue.get()
    healthy = daemon.listener.healthy and queue is not None
    state: dict[str, Any] = {
        "success": True,
        "status": "healthy" if healthy else "degraded",
        "service": "pipeline-orchestrator",
        "activeCampaigns": queue and queue.active_campaigns,
        "scheduledRuns": queue and queue.slots_today,
        "listener": daemon.listener.healthy,
        "queueDepth": queue and queue.available,
        "oldestTaskAgeSeconds": queue and queue.oldest_age_s,
        "lastSweep": daemon.sweep.last,
        "version": __version__,
        "database": daemon.settings.database_label,
    }
    return Answer(state)


async def show_metrics(api: Api, given: Plain) -> Answer:
    """All metrics as Prometheus text."""
    _set_gauges(api.daemon.metrics, await api.readings.counts.get())
    encode, media = choose_encoder(given.request.headers.get("Accept", ""))
    return Answer(encode(api.daemon.metrics.registry), media=media)


def _set_gauges(metrics: Metrics, counts: Counts | None) -> None:
    """Show the counts; while they can't be had, show none rather than old ones."""
    metrics.queue_tasks.clear()
    metrics.leads.clear()
    metrics.approvals_pending.clear()
    metrics.alerts_active.clear()
    metrics.budget_used.clear()
    metrics.transitions.show(counts.transitions if counts else {})
    metrics.invalid_transitions.show(counts.invalid_transitions if counts else {})
    metrics.campaign_runs.show(counts.runs if counts else {})
    metrics.approvals.show(counts.approvals if counts else {})
    metrics.queue_oldest_age.set(counts.queue.oldest_age_s if counts else float("nan"))
    if counts:
        for status in ("available", "running", "dead"):
            metrics.queue_tasks.labels(status).set(getattr(counts.queue, status))
        for of_stage, number in counts.leads.items():
            metrics.leads.labels(*of_stage).set(number)
        for of_checkpoint, number in counts.pending.items():
            metrics.approvals_pending.labels(*of_checkpoint).set(number)
        for of_alert, number in counts.alerts.items():
            metrics.alerts_active.labels(*of_alert).set(number)
        for of_campaign, share in counts.budgets.items():
            metrics.budget_used.labels(*of_campaign).set(share)


ROUTES = (
    Route("GET", "/healthz", healthz, {200: Alive}, open=True, early=True),
    Route("GET", "/readyz", readyz, {200: Alive}, problems=(503,), open=True, timeout_s=2 * READY_S),
    Route("GET", "/api/health", show_health, {200: Health}, open=True, early=True),
    Route(
        "GET", "/metrics", show_metrics, {200: None}, media=("text/plain", "application/openmetrics-text"), early=True
    ),
)
