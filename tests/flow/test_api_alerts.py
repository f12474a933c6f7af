"""Alerts over HTTP."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from daemon.api.alerts import Alert
from tests.support.api import Client, serving
from tests.support.postgres import Server

NOWHERE = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for all tests."""
    dsn = await server.clone()
    async with serving(dsn, NOTIFY__MUTED="true") as client:
        yield client
    await server.drop(dsn)


async def raised(api: Client, kind: str, **columns: Any) -> UUID:
    row = {"type": kind, "message": "Look", "severity": "HIGH"} | columns
    names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
    found: UUID = await api.conn.fetchval(f"INSERT INTO alerts ({names}) VALUES ({places}) RETURNING id", *row.values())
    return found


async def test_alerts_are_found_by_what_they_are(api: Client) -> None:
    one = await raised(api, "A", severity="LOW", subject="lead:1", metadata={"n": 1})
    two = await raised(api, "A", subject="lead:2")
    await api.conn.execute("UPDATE alerts SET resolved_at = clock(), acknowledged = true WHERE id = $1", two)

    async def found(**query: str) -> list[str]:
        return [row["id"] for row in (await api.get("/api/alerts", type="A", **query))["alerts"]]

    assert await found() == [str(two), str(one)]
    assert await found(severity="LOW") == await found(open="true") == await found(acknowledged="false") == [str(one)]
    assert await found(open="false") == await found(acknowledged="true") == [str(two)]
    assert (await api.get("/api/alerts", type="no such"))["alerts"] == []
    (row,) = (await api.get("/api/alerts", type="A", severity="LOW"))["alerts"]
    assert row.keys() == Alert.model_fields.keys()
    assert (row["metadata"], row["subject"], row["acknowledged"]) == ({"n": 1}, "lead:1", False)


async def test_pages_show_every_alert_once(api: Client) -> None:
    await api.conn.execute(
        """INSERT INTO alerts (type, message, severity, subject, created_at) SELECT 'page', 'm', 'LOW', i::text,
           '2026-01-01'::timestamptz + (i / 3) * interval '1 second' FROM generate_series(1, 10) i"""
    )
    seen: list[str] = []
    page = await api.get("/api/alerts", type="page", limit="4")
    while True:
        seen += [row["subject"] for row in page["alerts"]]
        if page["nextCursor"] is None:
            break
        page = await api.get("/api/alerts", type="page", limit="4", cursor=page["nextCursor"])
    assert sorted(map(int, seen)) == list(range(1, 11))


async def test_whoever_sees_to_it_first_stays_on_record(api: Client) -> None:
    alert = await raised(api, "B")
    for by in ("ann", "bob"):
        reply = await api.post(f"/api/alerts/{alert}/acknowledge", {"by": by})
        row = reply.json["alert"]
        assert (reply.status, row["acknowledged"], row["acknowledged_by"]) == (200, True, "ann")
        assert row["resolved_at"] is None


async def test_what_is_wrong_is_refused_with_its_place(api: Client) -> None:
    path = f"/api/alerts/{await raised(api, 'C')}/acknowledge"
    for body, loc in (({}, "by"), ({"by": " "}, "by"), ({"by": 1}, "by"), ({"by": "a", "at": 1}, "at")):
        reply = await api.post(path, body)
        reply.problem(422)
        assert reply.places == [[loc]]
    for query, loc in (("severity=high", "severity"), ("open=perhaps", "open"), ("cursor=MQ", "cursor")):
        reply = await api.ask("GET", f"/api/alerts?{query}")
        reply.problem(422)
        assert reply.places == [["query", loc]]
    (await api.post(f"/api/alerts/{NOWHERE}/acknowledge", {"by": "ann"})).problem(404)
    (await api.ask("GET", "/api/alerts", token=None)).problem(401)
    (await api.ask("POST", path, json={"by": "ann"}, token=None)).problem(401)
    assert await api.conn.fetchval("SELECT acknowledged FROM alerts WHERE type = 'C'") is False
