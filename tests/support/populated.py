"""A database with something of everything in it, and the paths to what is there."""

import re
from collections.abc import Mapping
from typing import Any

from daemon.api.docs import example
from daemon.api.openapi import Document, tag_of
from daemon.api.route import Route
from daemon.db import Connection
from tests.support.api import Client

CONTENTS = (
    """INSERT INTO leads (pipeline, stage, name) SELECT pipeline, name, 'bare ' || name FROM stages""",
    """INSERT INTO leads (pipeline, stage, name, company, email, phone, city, region, country, timezone,
                          source, external_id, tier, score, scored_at, approved_at, approved_by, data, needs_review,
                          review_reason, nurture_until, last_inbound_at, deadline_at, moved_by, move_reason)
       SELECT pipeline, name, 'Ann Ünal', 'Mill & Sons', name || '@leads.example',
              '+44161555' || 1000 + row_number() OVER (), 'Leeds', 'Yorkshire', 'GB', 'Europe/London',
              'import', name, 'high', 87.5, now(), now(), 'ann',
              '{"asking_price": 180000.55, "notes": [{"deep": null}], "bmv_score": 1e-3}', true,
              'look at it', now() + '1 day', now(), now() + '1 day', 'ann', 'imported'
       FROM stages""",
    """INSERT INTO tasks (kind, key, payload, status, run_at, lease_id, lease_expires_at)
       SELECT 'of-nobody', 'k' || n, '{"n": [1, 2.5, null]}', status, now() + '1 day',
              CASE status WHEN 'running' THEN gen_random_uuid() END, now() + '1 day'
       FROM unnest('{available,running,dead}'::text[]) status, generate_series(1, 3) n""",
    """INSERT INTO task_log (id, kind, payload, priority, status, run_at, attempt, round, interruptions,
                             created_at, finished_at, result)
       SELECT nextval(pg_get_serial_sequence('tasks', 'id')), 'of-nobody', '{}', 50, status, now(), 1, 0, 0, now(),
              now(), '{}'
       FROM unnest('{done,cancelled}'::text[]) status""",
    """INSERT INTO alerts (type, message, severity, subject, metadata, acknowledged, resolved_at)
       SELECT 'of_tests', 'Something is ' || severity, severity, severity || state, '{"n": 1}', state <> 'open',
              CASE state WHEN 'resolved' THEN now() END
       FROM unnest('{LOW,MEDIUM,HIGH}'::text[]) severity, unnest('{open,acknowledged,resolved}'::text[]) state""",
    """INSERT INTO messages (lead_id, channel, template, to_address, subject, body, status, send_at, cost)
       SELECT l.id, channel, 'T', l.phone, 's', 'b', status, now() + '1 day', 0.015
       FROM unnest('{draft,awaiting_approval,scheduled,sent,failed,suppressed,cancelled,unknown}'::text[]) status,
            unnest('{sms,email}'::text[]) channel, (SELECT id, phone FROM leads WHERE phone IS NOT NULL LIMIT 1) l""",
    """INSERT INTO replies (lead_id, channel, from_address, body, external_id, category, confidence, status)
       SELECT l.id, channel, '+441615550999', 'Ja — ж 🙂', status, 'question', 0.75, status
       FROM unnest('{routed,needs_person,ignored}'::text[]) status, unnest('{sms,email}'::text[]) channel,
            (SELECT id FROM leads WHERE phone IS NOT NULL LIMIT 1) l""",
    """INSERT INTO email_exclusions (address, reason, source)
       SELECT reason || '@out.example', reason, 'tests'
       FROM unnest('{bounce,opt_out,complaint,manual}'::text[]) reason""",
    """INSERT INTO approval_queue (checkpoint, title, payload, lead_id, status)
       SELECT 'of-tests', 'Look', '{"a": 1}', l.id, status
       FROM unnest('{pending,approved,rejected,expired,superseded}'::text[]) status,
            (SELECT id FROM leads WHERE phone IS NOT NULL LIMIT 1) l""",
    """INSERT INTO engine_calls (engine, operation, lead_id, idempotency_key, status, reserved_cost, cost)
       SELECT 'sms', '/api/send', l.id, 'of-tests-' || status, status, 0.5, 0.25
       FROM unnest('{ok,failed,unknown}'::text[]) status, (SELECT id FROM leads WHERE phone IS NOT NULL LIMIT 1) l""",
    """INSERT INTO campaigns (name, description, config, schedule_cron, schedule_enabled, status, paused_reason,
                              total_cost)
       SELECT 'campaign ' || status, 'd', '{"name": "x", "steps": [{"engine": "prospecting"}]}', '0 9 * * 1', false,
              status, 'by a person', 1.25
       FROM unnest('{active,paused,completed}'::text[]) status""",
    """INSERT INTO campaign_runs (campaign_id, trigger, inputs, definition, status, completed_at, results, total_cost,
                                  errors)
       SELECT c.id, 'event', '{"a": null}', '{"name": "x", "steps": [{"name": "prospecting"}]}', status, now(),
              '{"prospecting": {"found": 20, "analyzed": 1.5}}', 0.75,
              '[{"step": "prospecting", "error": "e"}, {"step": null, "error": "f"}]'
       FROM (SELECT id FROM campaigns LIMIT 1) c,
            unnest('{completed,partial,failed,aborted,cancelled,skipped,missed}'::text[]) status""",
    """INSERT INTO campaign_run_steps (run_id, position, name, kind, status, result, error, cost)
       SELECT id, 0, 'prospecting', 'engine', 'failed', '{"found": 20}', 'e', 0.75 FROM campaign_runs""",
    """INSERT INTO agent_feedback (agent, feedback, effect, created_by)
       VALUES ('scout', 'Too narrow', '89 → 234', 'ann')""",
)

TABLES = {
    "approvals": "approval_queue",
    "runs": "campaign_runs",
    "exclusions": "email_exclusions",
    "feedback": "agent_feedback",
}
"""Resources whose table has another name than theirs."""


async def populate(api: Client) -> None:
    """Something of everything; returns when the daemon has seen it."""
    for statement in CONTENTS:
        await api.conn.execute(statement)
    await api.quiet()


async def values(conn: Connection, route: Route, parameter: str) -> list[Any]:
    """What is there to put into the path of a route: ids, or whatever its parameter is called."""
    table = TABLES.get(tag_of(route), tag_of(route))
    column = await conn.fetchval(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'orchestrator' AND table_name = $1"
        " AND column_name IN ($2, 'id', 'name') ORDER BY column_name = $2 DESC LIMIT 1", table, parameter,
    )  # fmt: skip
    if column is None:
        return []
    return [row[0] for row in await conn.fetch(f"SELECT {column} FROM {table} ORDER BY {column} DESC LIMIT 8")]


async def path_to(conn: Connection, route: Route, document: Document) -> tuple[str, bool]:
    """The route's path with something that is there in it, and whether it is."""
    path, there = route.path, True
    for parameter, schema in path_parameters(document, route).items():
        known = await values(conn, route, parameter)
        there = there and bool(known)
        value = known[0] if known else example(schema, document["components"]["schemas"], parameter)
        path = path.replace(f"{{{parameter}}}", str(value))
    assert not re.search("[{}]", path), path
    return path, there


def path_parameters(document: Document, route: Route) -> Mapping[str, Any]:
    """The schemas of a route's path parameters."""
    given = document["paths"][route.path][route.method.lower()].get("parameters", ())
    return {parameter["name"]: parameter["schema"] for parameter in given if parameter["in"] == "path"}
