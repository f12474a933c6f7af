"""Probes, metrics, outages, and the server itself."""

import asyncio
import time

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from daemon.api.server import serve
from daemon.app import Daemon
from daemon.db import Connection, connect
from daemon.errors import OrchestratorError
from daemon.settings import load_settings
from tests.support.api import TOKEN, Client, free_port, serving
from tests.support.processes import until
from tests.support.proxy import proxy

# -- health


async def test_health_has_the_keys_of_the_contract(api: Client) -> None:
    health = await api.get("/api/health")
    assert health["status"] == "healthy"
    assert health["service"] == "pipeline-orchestrator"
    assert health["listener"] is True
    assert health["activeCampaigns"] == 0
    assert health.keys() >= {"scheduledRuns", "queueDepth", "oldestTaskAgeSeconds", "lastSweep", "version", "database"}
    assert health["queueDepth"] >= 0
    assert "@" not in health["database"]


async def test_ready_only_while_the_listener_is(dsn: str) -> None:
    """The database answers, but the way that LISTEN needs is closed."""
    async with proxy(dsn) as way, serving(dsn, listen=way.dsn(dsn), WORKER__PULSE_S="0.05") as api:
        await way.refuse()
        assert way.cut() >= 1
        await until(lambda: _status(api, "/readyz", 503), 5.0, "not ready")
        (await api.ask("GET", "/readyz")).problem(503)
        assert (await api.ask("GET", "/healthz")).status == 200
        health = await api.get("/api/health")
        assert (health["status"], health["listener"], health["queueDepth"] is None) == ("degraded", False, False)
        await way.admit()
        await until(lambda: _status(api, "/readyz", 200), 10.0, "ready again")


async def _status(api: Client, path: str, status: int) -> bool:
    return (await api.ask("GET", path)).status == status


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_while_postgres_is_away_every_answer_comes_at_once(dsn: str, how: str) -> None:
    async with (
        proxy(dsn) as way,
        serving(way.dsn(dsn), direct=dsn, WORKER__PULSE_S="0.05", LISTENER__PROBE_TIMEOUT_S="0.3") as api,
    ):
        assert (await api.ask("GET", "/api/leads")).status == 200  # a connection is open
        assert b"orchestrator_leads{" in (await api.ask("GET", "/metrics")).raw
        if how == "refused":
            await way.refuse()
            assert way.cut() >= 1
        else:
            assert way.go_silent(new_ones_too=True) >= 1
        began = time.monotonic()
        (await api.ask("GET", "/readyz")).problem(503)
        assert time.monotonic() - began < 2.5
        await until(lambda: _degraded(api), 5.0, "degraded")
        began = time.monotonic()
        health = await api.get("/api/health")
        assert (health["status"], health["queueDepth"], health["scheduledRuns"]) == ("degraded", None, None)
        assert (await api.ask("GET", "/healthz")).status == 200
        assert time.monotonic() - began < 1.5
        problem = (await api.ask("GET", "/api/leads")).problem(503)
        assert "postgres" not in problem["detail"].lower()
        await until(lambda: _no_stale_counts(api), 10.0, "counts that can't be had are not shown")
        way.silent = False
        way.cut()
        if how == "refused":
            await way.admit()
        await until(lambda: _status(api, "/readyz", 200), 15.0, "ready again")
        await until(lambda: _status(api, "/api/leads", 200), 10.0, "leads again")


async def _no_stale_counts(api: Client) -> bool:
    metrics = await api.ask("GET", "/metrics")
    assert metrics.status == 200
    return b"orchestrator_leads{" not in metrics.raw


async def _degraded(api: Client) -> bool:
    return bool((await api.get("/api/health"))["queueDepth"] is None)


async def test_a_locked_lead_is_no_reason_to_hang(api: Client) -> None:
    lead = await api.lead()
    other = await connect(api.daemon.dsn)
    try:
        async with other.transaction():
            await other.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", lead)
            reply = await api.post(f"/api/leads/{lead}/transition", {"to": "DEAD_LEAD", "reason": "r"})
            reply.problem(503)
            assert reply.headers["Retry-After"]
    finally:
        await other.close()


# -- metrics


async def test_metrics_count_what_is_there(dsn: str, conn: Connection) -> None:
    await conn.execute(
        "INSERT INTO leads (name, phone, stage) SELECT 'n', '+1', 'DEAD_LEAD' FROM generate_series(1, 3)"
    )
    await conn.execute("INSERT INTO tasks (kind, run_at) VALUES ('of-nobody', clock() - interval '30 seconds')")
    async with serving(dsn) as api:
        reply = await api.ask("GET", "/metrics")
        assert reply.headers["Content-Type"].startswith("text/plain; version=")
        families = {f.name: f for f in text_string_to_metric_families(reply.raw.decode())}
        stages = {s.labels["stage"]: s.value for s in families["orchestrator_leads"].samples}
        assert (stages["DEAD_LEAD"], stages["NEW_LEAD"]) == (3, 0)
        queue = {s.labels["status"]: s.value for s in families["orchestrator_queue_tasks"].samples}
        assert queue.keys() == {"available", "running", "dead"}
        assert queue["available"] >= 1
        (age,) = families["orchestrator_queue_oldest_age_seconds"].samples
        assert 30 <= age.value < 60


CAMPAIGNS = """
INSERT INTO campaigns (name, config, deleted_at)
VALUES ('Weekly', '{"budget": {"daily": 5, "weekly": 20, "monthly": 0}, "schedule": {"timezone": "Asia/Tokyo"}}', NULL),
       ('Short', '{"budget": {"daily": 5}, "schedule": "@daily"}', NULL), ('Free', '{"budget": null}', NULL),
       ('Odd', '{"budget": {"daily": "lots"}}', NULL),
       ('Lost', '{"budget": {"daily": 1}, "schedule": {"timezone": "Mars/X"}}', NULL),
       ('Gone', '{"budget": {"daily": 1}}', clock());
INSERT INTO budget_counters (scope, period, reserved, settled)
SELECT 'campaign:' || id || ':daily', (clock() AT TIME ZONE 'Asia/Tokyo')::date - d.days, 1, d.settled
FROM campaigns CROSS JOIN (VALUES (0, 2), (1, 4)) AS d(days, settled) WHERE name = 'Weekly';
INSERT INTO campaign_runs (campaign_id, status, round, former_ends)
SELECT c.id, r.status, r.round, r.ends::text[]
FROM campaigns c CROSS JOIN (VALUES ('completed', 0, '{}'), ('completed', 2, '{failed,failed}'), ('failed', 0, '{}'),
                                    ('missed', 0, '{}'), ('paused', 1, '{aborted}')) AS r(status, round, ends)
WHERE c.name = 'Weekly';
INSERT INTO approval_queue (checkpoint, title, status)
VALUES ('leads', 't', 'approved'), ('leads', 't', 'approved'), ('leads', 't', 'pending'), ('emails', 't', 'expired');
"""


async def test_metrics_show_what_became_of_runs_budgets_and_requests(dsn: str, conn: Connection) -> None:
    await conn.execute(CAMPAIGNS)
    async with serving(dsn) as api:
        text = (await api.ask("GET", "/metrics")).raw.decode()
    shown = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}

    def of(name: str) -> dict[tuple[str, ...], float]:
        return {tuple(labels): value for (family, *labels), value in shown.items() if family == f"orchestrator_{name}"}

    assert of("campaign_runs_total") == {
        ("Weekly", "completed"): 2, ("Weekly", "failed"): 3, ("Weekly", "missed"): 1, ("Weekly", "aborted"): 1,
    }  # fmt: skip
    assert of("campaign_budget_used_ratio") == {
        ("Weekly", "daily"): 0.6, ("Weekly", "weekly"): 0, ("Weekly", "monthly"): 1, ("Short", "daily"): 0,
    }  # fmt: skip
    assert of("approvals_total") == {("leads", "approved"): 2, ("emails", "expired"): 1}
    assert "# TYPE orchestrator_campaign_runs_total counter" in text


async def test_moves_and_refusals_are_counted_whoever_made_them(dsn: str, conn: Connection) -> None:
    """Mutant: have `request_transition` write no row into stage_deltas, and the last line is 0 of 3."""
    moved, asked, forced = [
        await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")
        for _ in range(3)
    ]
    await conn.execute("UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", moved)
    await conn.execute("SELECT fold_stage_counts()")
    assert await conn.fetchval("SELECT request_transition($1, 'AI_CONVERSATION', 'Ann', 'r')", asked)
    await conn.execute("SELECT override_stage($1, 'COMPLETED', 'Ann', 'r')", forced)
    for _ in range(2):
        assert not await conn.fetchval("SELECT request_transition($1, 'OFFER_MADE', 'Ann', 'r')", forced)
    await conn.execute("DELETE FROM tasks")
    async with serving(dsn) as api:
        (await api.post(f"/api/leads/{asked}/transition", {"to": "COMPLETED", "reason": "r"})).problem(409)
        await conn.execute("DELETE FROM leads WHERE id = $1", forced)
        text = (await api.ask("GET", "/metrics")).raw.decode()
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    moves = {
        (s.labels["from_stage"], s.labels["to_stage"]): s.value
        for s in samples
        if s.name == "orchestrator_transitions_total" and s.labels["pipeline"] == "vendor_acquisition"
    }
    refused = {s.labels["pipeline"]: s.value for s in samples if s.name == "orchestrator_invalid_transitions_total"}
    assert moves == {("NEW_LEAD", "AI_CONVERSATION"): 2, ("NEW_LEAD", "COMPLETED"): 1}
    assert refused == {"vendor_acquisition": 3}


ALERTS = """
INSERT INTO alerts (type, message, severity, resolved_at)
VALUES ('STUCK', 'm', 'HIGH', NULL), ('OVER', 'm', 'LOW', clock())
"""


async def test_metrics_show_alerts_and_requests_as_they_are_without_a_sweep(dsn: str, conn: Connection) -> None:
    """Mutant: `_set_gauges` doesn't set alerts_active."""
    async with serving(dsn) as api:
        await until(lambda: _truth(api.daemon.sweep.last), 10.0, "the sweep that a start brings with it")
        await conn.execute(CAMPAIGNS)
        await conn.execute(ALERTS)
        text = (await api.ask("GET", "/metrics")).raw.decode()
    assert [line for line in text.splitlines() if line.startswith("orchestrator_alerts_active{")] == [
        'orchestrator_alerts_active{severity="HIGH",type="STUCK"} 1.0'
    ]
    assert 'orchestrator_approvals_pending{checkpoint="leads"} 1.0' in text


async def _truth(value: object) -> bool:
    return bool(value)


async def test_scraping_in_a_loop_reads_the_database_once(dsn: str, conn: Connection) -> None:
    async with serving(dsn) as api:
        first = (await api.ask("GET", "/metrics")).raw
        await conn.execute("INSERT INTO leads (name, phone, stage) VALUES ('n', '+1', 'DEAD_LEAD')")
        rest = await asyncio.gather(*[api.ask("GET", "/metrics") for _ in range(20)])

    def leads(raw: bytes) -> list[bytes]:
        return [line for line in raw.splitlines() if line.startswith(b"orchestrator_leads{")]

    assert all(leads(reply.raw) == leads(first) for reply in rest)


# -- the server


async def test_a_port_in_use_is_one_clear_line(dsn: str) -> None:
    port = free_port()
    holder = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    try:
        daemon = Daemon(load_settings({"DATABASE_URL": dsn, "ORCHESTRATOR_API__PORT": str(port)}), dsn, dsn)
        with pytest.raises(OrchestratorError, match="ORCHESTRATOR_API__PORT") as failed:
            await serve(daemon)
        assert "\n" not in str(failed.value)
    finally:
        holder.close()


async def test_an_address_of_elsewhere_is_one_clear_line(dsn: str) -> None:
    given = {"DATABASE_URL": dsn, "ORCHESTRATOR_API__HOST": "192.0.2.1", "ORCHESTRATOR_API__TOKEN": "t" * 20}
    with pytest.raises(OrchestratorError, match="ORCHESTRATOR_API__HOST"):
        await serve(Daemon(load_settings(given), dsn, dsn))


async def test_what_nobody_foresaw_is_a_problem_without_details(dsn: str, conn: Connection) -> None:
    async with serving(dsn) as api:
        await conn.execute("ALTER TABLE leads RENAME COLUMN city TO town")
        with capture_logs() as logged:
            problem = (await api.ask("GET", "/api/leads")).problem(500)
    assert "city" not in orjson.dumps(problem).decode()
    assert any(line["log_level"] == "error" and "city" in str(line.get("exc_info")) for line in logged)


async def test_a_client_that_stays_does_not_hold_up_the_end(dsn: str) -> None:
    async with serving(dsn) as api:
        _reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(
            b"POST /api/tasks/1/retry HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
            + TOKEN.encode()
            + b"\r\nContent-Length: 9\r\n\r\n{"
        )
        await writer.drain()
        began = time.monotonic()
    assert time.monotonic() - began < 0.2 + 2.0
    writer.close()
