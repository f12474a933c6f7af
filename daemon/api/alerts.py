"""Alerts: what people should know; list, and say that one is seen to."""

from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel

from daemon.api.leads import shown
from daemon.api.paging import NewestCursor, Page, page_of
from daemon.api.problems import Problem
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text, Words
from daemon.db import Statements

SQL = Statements("daemon.api", "alerts.sql")
Severity = Literal["LOW", "MEDIUM", "HIGH"]


class AlertId(Input):
    """Which alert."""

    id: UUID


class AlertsQuery(Page):
    """Which alerts; open ones are not resolved."""

    acknowledged: bool | None = None
    severity: Severity | None = None
    type: Text | None = None
    open: bool | None = None
    cursor: NewestCursor | None = None


class Acknowledgement(Input):
    """Who sees to it."""

    by: Words


class Alert(BaseModel):
    """Something that a person should know; resolved by itself once it is no longer so."""

    id: UUID
    type: str
    message: str
    severity: Severity
    subject: str
    metadata: dict[str, Any]
    acknowledged: bool
    acknowledged_by: str | None
    created_at: AwareDatetime
    resolved_at: AwareDatetime | None


class OneAlert(Success):
    """An alert."""

    alert: Alert


class ManyAlerts(Success):
    """A page of alerts."""

    alerts: list[Alert]
    nextCursor: str | None  # noqa: N815 - public name


async def list_alerts(api: Api, given: Given[Nothing, AlertsQuery, Nothing]) -> Answer:
    """Alerts, newest first."""
    query = given.query
    created_at, seen = query.cursor or (None, None)
    filters = (query.acknowledged, query.severity, query.type, query.open)
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["alerts"], None, *filters, created_at, seen, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: (row["created_at"], str(row["id"])))
    return Answer({"success": True, "alerts": shown(page), "nextCursor": following})


async def acknowledge_alert(api: Api, given: Given[AlertId, Nothing, Acknowledgement]) -> Answer:
    """Say that somebody sees to an alert; whoever said so first stays on record."""
    alert = given.path.id
    async with api.writing() as conn:
        await conn.execute(SQL["acknowledge"], alert, given.body.by)
        row = await conn.fetchrow(SQL["alerts"], alert, None, None, None, None, None, None, 1)
    if row is None:
        raise Problem(404, f"there is no alert {alert}")
    return Answer({"success": True, "alert": orjson.Fragment(row["shown"])})


ROUTES = (
    Route("GET", "/api/alerts", list_alerts, {200: ManyAlerts}, query=AlertsQuery),
    Route(
        "POST", "/api/alerts/{id}/acknowledge", acknowledge_alert, {200: OneAlert}, AlertId, body=Acknowledgement,
        problems=(404,),
    ),
)  # fmt: skip
