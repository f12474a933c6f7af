"""The sweep beside its repairs: the figures that it keeps, and the alerts that have had their day."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

import pytest

from daemon.budgets import tell_overruns
from daemon.db import Connection
from daemon.sweep import strange_kinds
from handlers import daily_checks, leads, sweep
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Answers, Refuses
from tests.support.processes import until

NEXT = "SELECT next_slot FROM schedules WHERE name = 'sweep'"
OPEN = "SELECT subject FROM alerts WHERE resolved_at IS NULL ORDER BY subject"


def sizes(t: Timeline) -> Mapping[str, float]:
    """The metric orchestrator_leads."""
    [gauge] = t.running[0].daemon.metrics.leads.collect()
    return {s.labels["stage"]: s.value for s in gauge.samples if s.labels["pipeline"] == "vendor_acquisition"}


# -- its slots


async def test_a_slot_set_by_hand_runs_the_job_once_and_then_cron_goes_on(dsn: str) -> None:
    """Mutant: `due_slots` takes none but cron's slots."""
    async with scenario(dsn, SWEEP__CRON="0 0 1 1 *", WORKER__PULSE_S="0.75") as t:
        await t.eventually("SELECT next_slot IS NOT NULL FROM schedules WHERE name = 'sweep'")
        await t.quiet()
        before, planned = await _last(t), await t.value(NEXT)
        [row] = await t.sql("UPDATE schedules SET next_slot = clock() WHERE name = 'sweep' RETURNING next_slot")
        await t.eventually("SELECT last_slot = $1 FROM schedules WHERE name = 'sweep'", row["next_slot"])
        await until(lambda: _later(t, before), 10.0, "a sweep")
        assert await t.value(NEXT) == planned


async def _last(t: Timeline) -> datetime:
    """When the sweep last ended that a start brings with it."""
    await until(lambda: _later(t, None), 10.0, "the first sweep")
    last = t.running[0].daemon.sweep.last
    assert last is not None
    return last


async def _later(t: Timeline, than: datetime | None) -> bool:
    return t.running[0].daemon.sweep.last != than


# -- leads per stage


async def test_the_metric_follows_moves_overrides_and_deletes(dsn: str) -> None:
    async with scenario(dsn) as t:
        first, second, third = [await t.lead() for _ in range(3)]
        for lead in (first, second, third):
            await t.expect(lead, "AI_CONVERSATION")
        await t.sweep()
        assert sizes(t)["AI_CONVERSATION"] == 3
        assert len(sizes(t)) == 15
        await t.sql("SELECT override_stage($1, 'COMPLETED', 'Ann', 'sold by phone')", first)
        await t.sql("DELETE FROM leads WHERE id = $1", second)
        await t.sweep()
        assert {stage: n for stage, n in sizes(t).items() if n} == {"AI_CONVERSATION": 1, "COMPLETED": 1}
        await t.sql("DELETE FROM leads WHERE id = $1", third)
        await t.sweep()
        assert sizes(t)["AI_CONVERSATION"] == 0


# -- alerts that a dead task has raised


async def _refused(t: Timeline) -> tuple[UUID, int]:
    t.engines.on("sms", Refuses(400))
    lead = await t.lead()
    await t.quiet()
    [dead] = await t.dead(lead)
    assert await t.alerts(lead) == ["AGENT_FAILURE"]
    return lead, dead["id"]


async def test_an_alert_stands_as_long_as_its_task_is_dead(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, task = await _refused(t)
        await t.sweep()
        assert await t.alerts(lead) == ["AGENT_FAILURE"]
        await t.retry(task)
        await t.sweep()
        assert await t.alerts(lead) == ["AGENT_FAILURE"], "the retry has failed, too"


async def test_a_retry_that_succeeds_resolves_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, task = await _refused(t)
        t.engines.well("sms")
        await t.retry(task)
        await t.sweep()
        assert await t.alerts(lead) == []
        assert await t.value("SELECT resolved_at IS NOT NULL AND NOT acknowledged FROM alerts")


async def test_a_retry_under_way_does_not_yet(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, task = await _refused(t)
        await t.sql("UPDATE tasks SET status = 'available', run_at = clock() + '1 day' WHERE id = $1", task)
        await t.sweep()
        assert await t.alerts(lead) == ["AGENT_FAILURE"]


async def test_cancelling_the_task_resolves_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, task = await _refused(t)
        await t.sql("DELETE FROM tasks WHERE id = $1", task)
        await t.sweep()
        assert await t.alerts(lead) == []


async def test_an_archived_lead_says_so(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="DEAD_LEAD")
        await t.after(days=31)
        await t.sweep()
        assert await t.get(lead, "archived_at") is not None
        assert len(await t.events(lead, "archived")) == 1


async def test_erasing_the_lead_resolves_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, _ = await _refused(t)
        await t.sql("DELETE FROM leads WHERE id = $1", lead)
        await t.sweep()
        assert await t.alerts(lead) == []


async def test_another_dead_task_of_the_lead_keeps_it(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, task = await _refused(t)
        await t.sql(
            "INSERT INTO tasks (kind, key, status) VALUES ('lead.check', 'lead:' || $1::text, 'dead')", str(lead)
        )
        t.engines.well("sms")
        await t.retry(task)
        await t.sweep()
        assert await t.alerts(lead) == ["AGENT_FAILURE"]


DEAD_ROUTE = """
INSERT INTO tasks (kind, key, payload, status)
VALUES ('reply.route', 'lead:' || $1::text, jsonb_build_object('reply_id', $2::text), 'dead') RETURNING id"""


async def test_a_reply_is_dead_under_its_leads_key(conn: Connection) -> None:
    lead = await conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")
    reply = await conn.fetchval("INSERT INTO replies (channel, lead_id) VALUES ('sms', $1) RETURNING id", lead)
    task = await conn.fetchval(DEAD_ROUTE, str(lead), str(reply))
    await _raise(conn, f"reply:{reply}", {"task_id": 0})
    await conn.execute(sweep.SQL["resolve"])
    assert [r["subject"] for r in await conn.fetch(OPEN)] == [f"reply:{reply}"]
    await conn.execute("DELETE FROM tasks WHERE id = $1", task)
    await conn.execute(sweep.SQL["resolve"])
    assert await conn.fetch(OPEN) == []


@pytest.mark.parametrize(
    ("kind", "subject", "metadata"),
    [
        ("LOW_CONVERSION", "", {}),
        ("BUDGET_OVERRUN", "engine:sms", {}),
        ("UNKNOWN_OUTCOME", "run:00000000-0000-4000-8000-000000000001", {"step": "send"}),
    ],
)
async def test_alerts_of_other_causes_are_left_alone(
    conn: Connection, kind: str, subject: str, metadata: dict[str, Any]
) -> None:
    await _raise(conn, subject, metadata, kind)
    await conn.execute(sweep.SQL["resolve"])
    assert len(await conn.fetch(OPEN)) == 1


async def test_an_overrun_is_over_when_a_later_period_has_its_counter(conn: Connection) -> None:
    await conn.execute("INSERT INTO budget_counters (scope, period) VALUES ('engine:sms', '2026-03-02')")
    for scope in ("engine:sms", "engine:offers"):
        await _raise(conn, scope, {"period": "2026-03-02"}, "BUDGET_OVERRUN")
    await conn.execute(sweep.SQL["outlived"])
    assert len(await conn.fetch(OPEN)) == 2
    await conn.execute("INSERT INTO budget_counters (scope, period) VALUES ('engine:sms', '2026-03-10')")
    await conn.execute(sweep.SQL["outlived"])
    assert [r["subject"] for r in await conn.fetch(OPEN)] == ["engine:offers"]


@pytest.mark.parametrize("metadata", [{}, {"period": None}, {"period": 7}, {"period": "soon"}])
async def test_an_overrun_of_no_known_period_is_a_persons(conn: Connection, metadata: dict[str, Any]) -> None:
    await conn.execute("INSERT INTO budget_counters (scope, period) VALUES ('engine:sms', '2026-03-10')")
    await _raise(conn, "engine:sms", metadata, "BUDGET_OVERRUN")
    await conn.execute(sweep.SQL["outlived"])
    assert len(await conn.fetch(OPEN)) == 1


async def test_an_overrun_is_told_once_a_period_also_if_no_sweep_came_between(conn: Connection) -> None:
    days = [date(2026, 3, 2), date(2026, 3, 3)]
    for day in days:
        sql = "INSERT INTO budget_counters (scope, period, settled, most) VALUES ('engine:sms', $1, 7, 5)"
        await conn.execute(sql, day)
        for _ in range(2):
            await tell_overruns(conn, [("engine:sms", day)])
    await tell_overruns(conn, [("engine:sms", days[0])])  # a late bill of yesterday's
    told = await conn.fetch("SELECT metadata ->> 'period' AS period, resolved_at FROM alerts ORDER BY created_at")
    assert [(r["period"], r["resolved_at"] is None) for r in told] == [("2026-03-02", False), ("2026-03-03", True)]


async def test_the_overrun_of_an_engine_is_swept_away_once_it_is_called_again(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__COST_PER_CALL="0.01", ENGINES__SMS__DAILY_BUDGET="5") as t:
        t.engines.on("sms", Answers({"cost": 7}), times=1)
        await t.expect(await t.lead(), "AI_CONVERSATION")
        await t.sweep()
        assert [r["subject"] for r in await t.sql(OPEN)] == ["engine:sms"]
        await t.shift(hours=24)
        await t.expect(await t.lead(), "AI_CONVERSATION")
        await t.sweep()
        assert await t.sql(OPEN) == []


@pytest.mark.parametrize("subject", ["", "lead:", "lead:not-an-id", "reply:0", f"lead:{'-' * 36}"])
async def test_a_strange_subject_does_no_harm(conn: Connection, subject: str) -> None:
    await _raise(conn, subject, {"task_id": "seven"})
    await conn.execute(sweep.SQL["resolve"])
    assert await conn.fetch(OPEN) == []


async def _raise(conn: Connection, subject: str, metadata: dict[str, Any], kind: str = "AGENT_FAILURE") -> None:
    sql = "INSERT INTO alerts (type, message, severity, subject, metadata) VALUES ($1, 'x', 'HIGH', $2, $3)"
    await conn.execute(sql, kind, subject, metadata)


# -- the daily checks


CHECKED = "SELECT count(DISTINCT key) FROM task_log WHERE kind = 'lead.check' AND id > $1"
MANY = "INSERT INTO leads (stage, name, phone) SELECT $1, 'Ann', '+15550001234' FROM generate_series(1, $2)"
ARCHIVE_ONE = """
UPDATE leads SET archived_at = clock() WHERE id IN (SELECT id FROM leads WHERE stage = 'DUE_DILIGENCE' LIMIT 1)"""
GO_ON_AFTER = """
SELECT enqueue('lead.check_all', jsonb_build_object('stale_days', 30, 'after', $1::text), 'lead.check_all')"""
LAST = "SELECT coalesce(max(id), 0) FROM task_log"


async def _check_all(t: Timeline) -> int:
    """How many leads were looked at."""
    before = await t.value(LAST)
    await sweep.daily(t.conn, 30)
    await t.quiet()
    checked: int = await t.value(CHECKED, before)
    return checked


async def test_every_lead_under_way_is_checked_in_bites(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_checks, "BITE", 7)
    async with scenario(dsn) as t:
        await t.sql(MANY, "AI_CONVERSATION", 14)
        await t.sql(MANY, "DEAD_LEAD", 10)
        await t.sql(MANY, "DUE_DILIGENCE", 11)
        await t.sql(ARCHIVE_ONE)
        await t.quiet()
        assert await _check_all(t) == 24
        bites = await t.value("SELECT count(*) FROM task_log WHERE kind = 'lead.check_all'")
        assert bites == 6, "35 leads: five full bites, and one that finds no more"


async def test_it_goes_on_where_a_daemon_broke_off(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daily_checks, "BITE", 5)
    async with scenario(dsn) as t:
        await t.sql(MANY, "AI_CONVERSATION", 12)
        await t.quiet()
        await t.stop()
        before = await t.value(LAST)
        third = await t.value("SELECT id::text FROM leads ORDER BY id OFFSET 2 LIMIT 1")
        await t.sql(GO_ON_AFTER, third)
        await t.start()
        await t.quiet()
        assert await t.value(CHECKED, before) == 9


async def test_a_check_that_waits_is_not_queued_again(conn: Connection) -> None:
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234')")
    await conn.execute("UPDATE leads SET name = 'Bob'")
    bite = leads.SQL["in_order"], daily_checks.FIRST, 30, 10
    assert [r["to_check"] for r in await conn.fetch(*bite)] == [False]
    await conn.execute("DELETE FROM tasks WHERE kind = 'lead.check'")
    assert [r["to_check"] for r in await conn.fetch(*bite)] == [True]


# -- tasks of kinds that nobody knows

STRANGE = "SELECT id, run_at, error FROM tasks WHERE kind = 'of-tomorrow'"
WAITING = "SELECT EXISTS (SELECT FROM tasks WHERE status = 'available' AND run_at <= clock())"


async def _strange(conn: Connection, key: str | None = None, late: str = "2 minutes") -> int:
    sql = "SELECT enqueue('of-tomorrow', '{}', $1, clock() - $2::text::interval)"
    task: int = await conn.fetchval(sql, key, late)
    return task


async def test_a_kind_that_nobody_knows_holds_nobody_back(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="AI_CONVERSATION")
        await t.quiet()
        await _strange(t.conn, f"lead:{lead}")
        check = await t.value("SELECT enqueue('lead.check', $1, $2)", {"lead_id": str(lead)}, f"lead:{lead}")
        assert await t.value(WAITING)
        assert await t.running[0].daemon.sweep.run() == 0, "nothing was missing"
        await t.eventually("SELECT EXISTS (SELECT FROM task_log WHERE id = $1)", check)
        assert not await t.value(WAITING)
        [task] = await t.sql(STRANGE)
        assert "no daemon knows this kind" in task["error"]


async def test_who_knows_it_later_finds_it_as_it_was(conn: Connection) -> None:
    await _strange(conn)
    [before] = await conn.fetch(STRANGE)
    await strange_kinds(["lead.check"]).run(conn)
    assert await conn.fetchval("SELECT run_at > clock() + interval '50 years' FROM tasks")
    await strange_kinds(["lead.check"]).run(conn)
    assert await conn.fetchval("SELECT run_at < clock() + interval '101 years' FROM tasks"), "once is enough"
    await strange_kinds(["lead.check", "of-tomorrow"]).run(conn)
    assert await conn.fetch(STRANGE) == [before]


async def test_it_waits_a_minute_for_a_daemon_that_knows_it(conn: Connection) -> None:
    await _strange(conn, late="30 seconds")
    await strange_kinds([]).run(conn)
    assert await conn.fetchval(WAITING)


async def test_as_long_as_daemons_of_two_versions_run_nothing_is_set_aside(conn: Connection) -> None:
    await _strange(conn)
    await conn.execute("INSERT INTO workers (id, host, pid, version) VALUES (gen_random_uuid(), 'h', 1, 'newer')")
    await strange_kinds([]).run(conn)
    assert await conn.fetchval(WAITING)


async def test_what_is_planned_for_the_far_future_stays_there(conn: Connection) -> None:
    await conn.execute("SELECT enqueue('lead.check', '{}', NULL, clock() + interval '60 years')")
    await strange_kinds(["lead.check"]).run(conn)
    assert await conn.fetchval("SELECT run_at > clock() + interval '59 years' FROM tasks")
