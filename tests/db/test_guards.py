"""What the database itself refuses, fills in and sets going, whoever writes to it by plain SQL."""

import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from daemon.db import Connection, connect
from handlers.vendor_acquisition import NEEDED, VENDOR
from tests.support.postgres import Server

Lead = asyncpg.Record


@pytest.fixture(scope="module")
async def database(server: Server) -> AsyncIterator[Connection]:
    """One database for all: none of the tests commits."""
    dsn = await server.clone()
    connection = await connect(dsn)
    yield connection
    await connection.close()
    await server.drop(dsn)


@pytest.fixture
async def conn(database: Connection) -> AsyncIterator[Connection]:
    """A transaction for this test."""
    transaction = database.transaction()
    await transaction.start()
    yield database
    await transaction.rollback()


PHONE: Final = "+15550001234"
FIELDS: Final = dict.fromkeys(NEEDED, "1")
HOUR: Final = timedelta(hours=1)


async def insert(conn: Connection, **columns: Any) -> Lead:
    """A lead with a name and a phone number, if nothing else is said."""
    columns = {"name": "Ann", "phone": PHONE, **columns}
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    sql = f"INSERT INTO leads ({', '.join(columns)}) VALUES ({places}) RETURNING *"
    row = await conn.fetchrow(sql, *columns.values())
    assert row is not None
    return row


async def update(conn: Connection, lead: UUID, **columns: Any) -> Lead:
    """The lead after an UPDATE of these columns."""
    changes = ", ".join(f"{name} = ${n}" for n, name in enumerate(columns, start=2))
    row = await conn.fetchrow(f"UPDATE leads SET {changes} WHERE id = $1 RETURNING *", lead, *columns.values())
    assert row is not None
    return row


async def at(conn: Connection, stage: str, **columns: Any) -> Lead:
    """A lead in that stage, with nothing left to do for it."""
    lead = await insert(conn, stage=stage, **columns)
    await conn.execute("DELETE FROM tasks")
    return lead


async def queued(conn: Connection) -> list[str]:
    """The kinds of the tasks that wait."""
    return [r["kind"] for r in await conn.fetch("SELECT kind FROM tasks ORDER BY id")]


async def refused(conn: Connection, code: str, sql: str, *arguments: Any) -> str:
    """The hint of the error, which must have that code and say what would be right."""
    with pytest.raises(asyncpg.PostgresError) as raised:
        async with conn.transaction():
            await conn.execute(sql, *arguments)
    assert raised.value.sqlstate == code
    assert raised.value.hint
    return raised.value.hint


# -- leads that come in


async def test_an_unknown_pipeline_or_stage_is_refused_with_the_known_ones(conn: Connection) -> None:
    hint = await refused(conn, "PO001", "INSERT INTO leads (pipeline) VALUES ('nowhere')")
    assert "vendor_acquisition" in hint
    hint = await refused(conn, "PO001", "INSERT INTO leads (stage) VALUES ('NOWHERE')")
    assert all(s.name in hint for s in VENDOR.stages)


async def test_a_lead_keeps_its_pipeline(conn: Connection) -> None:
    lead = await insert(conn)
    await refused(conn, "PO001", "UPDATE leads SET pipeline = 'company_outreach' WHERE id = $1", lead["id"])
    await refused(conn, "PO001", "UPDATE leads SET id = $2 WHERE id = $1", lead["id"], uuid4())


async def test_a_lead_without_a_stage_begins_at_the_first_and_owes_its_entry_action(conn: Connection) -> None:
    lead = await insert(conn)
    assert (lead["stage"], lead["stage_seq"], lead["version"]) == ("NEW_LEAD", 1, 1)
    assert lead["entry_pending"]
    assert await queued(conn) == ["vendor_acquisition.NEW_LEAD"]


@pytest.mark.parametrize("stage", VENDOR.stages[1:], ids=lambda s: s.name)
async def test_a_lead_may_be_imported_at_any_declared_stage(conn: Connection, stage: Any) -> None:
    lead = await insert(conn, stage=stage.name)
    assert (lead["stage"], lead["entry_pending"]) == (stage.name, False)
    assert set(await queued(conn)) <= {"lead.check"}
    expected = lead["stage_entered_at"] + stage.deadlines[0].after if stage.deadlines else None
    assert lead["deadline_at"] == expected


async def test_an_import_keeps_the_times_it_brings(conn: Connection) -> None:
    now = await conn.fetchval("SELECT clock()")
    lead = await insert(conn, stage="OFFER_MADE", stage_entered_at=now - 40 * HOUR, created_at=now - 90 * HOUR)
    assert lead["deadline_at"] == now + 8 * HOUR
    assert lead["created_at"] == now - 90 * HOUR
    talking = await insert(conn, stage="AI_CONVERSATION", stage_entered_at=now - 9 * HOUR, last_inbound_at=now - HOUR)
    assert talking["deadline_at"] == now + 23 * HOUR
    assert talking["conversation_started_at"] == now - 9 * HOUR
    given = await insert(conn, stage="OFFER_MADE", deadline_at=now)
    assert given["deadline_at"] == now


async def test_what_belongs_to_the_triggers_cannot_be_written_on_insert(conn: Connection) -> None:
    lead = await insert(
        conn, stage_seq=9, version=9, left_stage="COMPLETED", entry_pending=False, touched=7, deadline_step=3
    )
    assert (lead["stage_seq"], lead["version"], lead["left_stage"], lead["deadline_step"]) == (1, 1, None, 0)
    assert lead["entry_pending"]
    assert await queued(conn) == ["vendor_acquisition.NEW_LEAD"]


# -- time zones

ZONES: Final = {
    "leads": ("INSERT INTO leads (timezone) VALUES ($1)", "UPDATE leads SET timezone = $1"),
    "campaigns": (
        "INSERT INTO campaigns (name, schedule_timezone) VALUES (gen_random_uuid(), $1)",
        "UPDATE campaigns SET schedule_timezone = $1",
    ),
    "schedules": (
        "INSERT INTO schedules (name, cron, timezone) VALUES (gen_random_uuid(), '@daily', $1)",
        "UPDATE schedules SET timezone = $1",
    ),
}


@pytest.mark.parametrize("table", ZONES)
async def test_an_unknown_time_zone_is_refused_with_those_that_are_like_it(conn: Connection, table: str) -> None:
    """Mutants: drop any of the six triggers whose name ends in _zone."""
    for sql in ZONES[table]:
        for zone in ("Europe/London", "UTC", "America/Port_of_Spain", "Etc/GMT+5"):
            await conn.execute(sql, zone)
        assert "Europe/Lisbon, Europe/Ljubljana, Europe/London" in await refused(conn, "PO006", sql, "Europe/Lodon")
        for zone in ("europe/london", "BST", "Foo5", "+02:00", "Mars/Base", " UTC"):
            await refused(conn, "PO006", sql, zone)
    assert await conn.fetchval("SHOW timezone") == "UTC"


async def test_a_time_zone_that_was_stored_before_holds_up_no_other_change(conn: Connection) -> None:
    """Mutant: `fill_in` without known_zone."""
    lead, target = await insert(conn, timezone=""), await insert(conn)
    await conn.execute("SET LOCAL session_replication_role = replica")
    await conn.execute("UPDATE leads SET timezone = 'Europe/Lodon' WHERE id = $1", lead["id"])
    await conn.execute("SET LOCAL session_replication_role = DEFAULT")
    await update(conn, lead["id"], city="Leeds", timezone="Europe/Lodon")
    await conn.execute("DELETE FROM tasks")
    await conn.execute("SELECT merge_leads($1, $2, 'me')", lead["id"], target["id"])
    assert await conn.fetchval("SELECT timezone FROM leads WHERE id = $1", target["id"]) is None


# -- what is no value of a column

UNFIT: Final = {
    "tier is high, medium or low": "INSERT INTO leads (tier) VALUES ('hot')",
    "data is a JSON object": "INSERT INTO leads (data) VALUES ('[]')",
    "channel is email or sms": "INSERT INTO replies (channel) VALUES ('fax')",
    "category is a known one": "INSERT INTO replies (channel, category) VALUES ('sms', 'angry')",
    "reason is bounce, opt_out,": "INSERT INTO email_exclusions (address, reason) VALUES ('a@x.example', 'rude')",
    "address is an email address or a phone number": "INSERT INTO email_exclusions (address) VALUES ('nobody')",
    "channel is email, sms or offer": "INSERT INTO messages (channel) VALUES ('fax')",
    "status is one of a message": "INSERT INTO messages (status) VALUES ('ready')",
    "priority is 10, 50 or 90": "INSERT INTO tasks (kind, priority) VALUES ('k', 1)",
    "mode is plan or auto": "UPDATE checkpoint_settings SET mode = 'off'",
    "grace_s is 0 or more": "INSERT INTO schedules (name, cron, grace_s) VALUES ('mine', '@daily', -1)",
    "status is active, paused,": "INSERT INTO campaigns (name, status) VALUES ('Mine', 'on')",
}
UNNAMED: Final = """
SELECT conrelid::regclass::text || ': ' || conname FROM pg_constraint
WHERE contype = 'c' AND conname NOT LIKE '% %' AND conname NOT LIKE '%\\_is\\_%' AND conname NOT LIKE '%\\_needs\\_%'
  AND conrelid = ANY ($1::text[]::regclass[])"""
WRITTEN: Final = (
    "leads", "replies", "email_exclusions", "search_criteria", "messages", "approval_queue", "campaigns", "schedules",
    "checkpoint_settings", "tasks",
)  # fmt: skip


@pytest.mark.parametrize(("rule", "sql"), UNFIT.items(), ids=UNFIT)
async def test_what_a_column_does_not_take_is_refused_in_words(conn: Connection, rule: str, sql: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await conn.execute(sql)


async def test_every_check_that_a_user_may_meet_is_named_as_its_rule(conn: Connection) -> None:
    """Mutant: any CHECK of these tables without its CONSTRAINT name."""
    assert await conn.fetch(UNNAMED, WRITTEN) == []


# -- moves


async def test_an_illegal_move_is_refused_with_the_legal_targets(conn: Connection) -> None:
    lead = await insert(conn)
    for stage in ("COMPLETED", "NOWHERE", None):
        hint = await refused(conn, "PO001", "UPDATE leads SET stage = $2 WHERE id = $1", lead["id"], stage)
        assert hint == "legal targets: AI_CONVERSATION, DEAD_LEAD"
    nowhere = "UPDATE leads SET stage = 'NOWHERE' WHERE id = $1"
    override = "SELECT override_stage($1, 'NOWHERE', 'ann', 'why')"
    for statement in (nowhere, override):  # mutant: `IF false` in refuse_move
        with pytest.raises(asyncpg.PostgresError, match="pipeline vendor_acquisition has no stage NOWHERE"):
            async with conn.transaction():
                await conn.execute(statement, lead["id"])
    terminal = await at(conn, "DEAD_LEAD")
    hint = await refused(conn, "PO001", "UPDATE leads SET stage = 'NEW_LEAD' WHERE id = $1", terminal["id"])
    assert "terminal" in hint


async def test_a_missing_required_field_is_refused_by_name(conn: Connection) -> None:
    lead = await at(conn, "AI_CONVERSATION", data={**FIELDS, "bedrooms": 0, "condition": " "})
    with pytest.raises(asyncpg.PostgresError, match="condition") as raised:
        async with conn.transaction():
            await conn.execute("UPDATE leads SET stage = 'DEAL_VALIDATION' WHERE id = $1", lead["id"])
    assert (raised.value.sqlstate, raised.value.column_name) == ("PO002", "condition")
    assert "bedrooms" not in str(raised.value)
    moved = await update(conn, lead["id"], stage="DEAL_VALIDATION", data={**FIELDS, "bedrooms": 0})
    assert moved["stage"] == "DEAL_VALIDATION"


async def test_a_move_sets_all_that_belongs_to_the_new_entry(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE", deadline_step=1)
    await update(conn, lead["id"], deadline_step=1)
    moved = await update(conn, lead["id"], stage="VIDEO_SENT")
    assert (moved["stage_seq"], moved["deadline_step"], moved["entry_pending"]) == (2, 0, True)
    assert moved["stage_entered_at"] > lead["stage_entered_at"]
    assert moved["deadline_at"] == moved["stage_entered_at"] + 48 * HOUR
    assert moved["moved_by"] == await conn.fetchval("SELECT session_user")
    assert await queued(conn) == ["vendor_acquisition.VIDEO_SENT"]


async def test_a_move_that_brings_its_own_deadline_keeps_it(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    tomorrow = lead["created_at"] + 24 * HOUR
    assert (await update(conn, lead["id"], stage="VIDEO_SENT", deadline_at=tomorrow))["deadline_at"] == tomorrow
    dead = await update(conn, lead["id"], stage="DEAD_LEAD")
    assert dead["deadline_at"] is None


async def test_a_conversation_begins_with_its_stage(conn: Connection) -> None:
    lead = await insert(conn)
    moved = await update(conn, lead["id"], stage="AI_CONVERSATION")
    assert lead["conversation_started_at"] is None
    assert moved["conversation_started_at"] == moved["stage_entered_at"]


async def test_an_update_to_the_same_stage_is_no_move(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    same = await update(conn, lead["id"], stage="OFFER_MADE", stage_seq=7, left_stage="NEW_LEAD", touched=7)
    assert (same["stage_seq"], same["left_stage"], same["version"]) == (1, None, 2)
    assert await queued(conn) == []


# -- deadlines


async def test_the_leads_word_begins_its_silence_anew(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    await update(conn, lead["id"], deadline_step=1)
    word = lead["created_at"] + 5 * HOUR
    heard = await update(conn, lead["id"], last_inbound_at=word)
    assert (heard["deadline_at"], heard["deadline_step"]) == (word + 48 * HOUR, 0)
    older = await update(conn, lead["id"], last_inbound_at=word - HOUR, deadline_step=1)
    assert (older["deadline_at"], older["deadline_step"]) == (word + 48 * HOUR, 1)
    mine = await update(conn, lead["id"], last_inbound_at=word + HOUR, deadline_at=word)
    assert mine["deadline_at"] == word


async def test_a_deadline_fires_once_and_not_while_a_dead_task_waits_for_a_person(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    assert await conn.fetchval("SELECT fire_deadlines(10)") == 0
    await conn.execute("SELECT shift_clock('48 hours')")
    assert await conn.fetchval("SELECT fire_deadlines(10)") == 1
    assert await conn.fetchval("SELECT fire_deadlines(10)") == 0
    task = await conn.fetchrow("SELECT * FROM tasks")
    assert task is not None
    assert (task["kind"], task["key"]) == ("lead.deadline", f"lead:{lead['id']}")
    assert task["payload"] == {"lead_id": str(lead["id"]), "stage_seq": 1}
    await conn.execute("UPDATE tasks SET status = 'dead', dedup_key = NULL")
    assert await conn.fetchval("SELECT fire_deadlines(10)") == 0
    await conn.execute("DELETE FROM tasks")
    await update(conn, lead["id"], archived_at=lead["created_at"])
    assert await conn.fetchval("SELECT fire_deadlines(10)") == 0


# -- what asks for a check


@pytest.mark.parametrize(
    ("column", "value", "asks"),
    [
        ("phone", "+15550009999", True),
        ("name", None, True),
        ("email", "ann@example.com", True),
        ("data", {"asking_price": 1}, True),
        ("data", {"bmv_score": -1}, True),
        ("data", {"a note": 1}, False),
        ("city", "Leeds", False),
        ("score", 1, False),
        ("needs_review", True, False),
        ("last_outbound_at", datetime.fromisoformat("2030-01-01T00:00:00+00:00"), False),
    ],
)
async def test_only_what_a_check_reads_asks_for_one(conn: Connection, column: str, value: Any, asks: bool) -> None:
    lead = await at(conn, "OFFER_MADE")
    await update(conn, lead["id"], **{column: value})
    await update(conn, lead["id"], **{column: value})
    assert await queued(conn) == (["lead.check"] if asks else [])


async def test_two_changes_ask_for_one_check_and_a_third_while_it_runs_for_another(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    await update(conn, lead["id"], name="Bob")
    await update(conn, lead["id"], name="Eve")
    assert await queued(conn) == ["lead.check"]
    await conn.execute(
        "UPDATE tasks SET status = 'running', dedup_key = NULL, lease_id = gen_random_uuid(), lease_expires_at = now()"
    )
    await update(conn, lead["id"], name="Ann")
    assert await queued(conn) == ["lead.check", "lead.check"]


# -- who must not be contacted


async def _scheduled(conn: Connection, to: str = PHONE, **columns: Any) -> UUID:
    columns = {"channel": "sms", "to_address": to, "status": "scheduled", **columns}
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    sql = f"INSERT INTO messages ({', '.join(columns)}) VALUES ({places}) RETURNING id"
    message: UUID = await conn.fetchval(sql, *columns.values())
    return message


async def _status(conn: Connection, message: UUID) -> str:
    status: str = await conn.fetchval("SELECT status FROM messages WHERE id = $1", message)
    return status


async def test_do_not_contact_cancels_what_is_scheduled_and_says_so(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    message = await _scheduled(conn, lead_id=lead["id"])
    sent = await _scheduled(conn, lead_id=lead["id"], status="sent")
    await update(conn, lead["id"], do_not_contact=True)
    await update(conn, lead["id"], do_not_contact=True)
    assert (await _status(conn, message), await _status(conn, sent)) == ("cancelled", "sent")
    assert await conn.fetchval("SELECT count(*) FROM pipeline_events WHERE event_type = 'dnc'") == 1


async def test_an_exclusion_cancels_what_is_scheduled_to_it_however_it_is_spelt(conn: Connection) -> None:
    theirs = [await _scheduled(conn, "Ann@Example.com", channel="email"), await _scheduled(conn, "+1 (555) 000-1234")]
    other = await _scheduled(conn, "bob@example.com", channel="email")
    await conn.execute("INSERT INTO email_exclusions (address) VALUES (' ann@EXAMPLE.com'), ($1)", PHONE)
    assert [await _status(conn, m) for m in (*theirs, other)] == ["cancelled", "cancelled", "scheduled"]
    with pytest.raises(asyncpg.UniqueViolationError):
        await conn.execute("INSERT INTO email_exclusions (address) VALUES ('ANN@example.com')")


async def test_addresses_are_compared_in_one_spelling(conn: Connection) -> None:
    for spelt, plain in ((" Ann@Example.COM ", "ann@example.com"), ("+44 (0)20 7946-0018", "+4402079460018")):
        assert await conn.fetchval("SELECT plain_address($1)", spelt) == plain


# -- messages, replies, approvals, schedules


async def test_a_scheduled_message_gets_its_task_at_its_time(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    later = lead["created_at"] + HOUR
    message = await _scheduled(conn, lead_id=lead["id"], send_at=later)
    draft = await _scheduled(conn, lead_id=lead["id"], status="draft")
    task = await conn.fetchrow("SELECT * FROM tasks")
    assert task is not None
    assert (task["kind"], task["key"], task["run_at"]) == ("message", f"lead:{lead['id']}", later)
    await conn.execute("UPDATE messages SET send_at = $2 WHERE id = $1", message, later + HOUR)
    assert await conn.fetchval("SELECT run_at FROM tasks") == later + HOUR
    await conn.execute("UPDATE messages SET status = 'scheduled' WHERE id = $1", draft)
    assert await queued(conn) == ["message", "message"]
    keys = await conn.fetchval("SELECT count(DISTINCT idempotency_key) FROM messages")
    assert keys == 2


async def test_a_reply_is_queued_before_everything_else_and_under_its_own_key(conn: Connection) -> None:
    lead = await at(conn, "OFFER_MADE")
    reply = await conn.fetchval(
        "INSERT INTO replies (lead_id, channel, body) VALUES ($1, 'sms', 'STOP') RETURNING id", lead["id"]
    )
    task = await conn.fetchrow("SELECT kind, key, priority FROM tasks")
    assert task is not None
    assert tuple(task) == ("reply", f"reply:{reply}", 10)


async def test_an_approval_is_decided_once(conn: Connection) -> None:
    asked = await conn.fetchval(
        "INSERT INTO approval_queue (checkpoint, title) VALUES ('replies', 'Look') RETURNING id"
    )
    await conn.execute("UPDATE approval_queue SET status = 'approved' WHERE id = $1", asked)
    row = await conn.fetchrow("SELECT decided_by, decided_at FROM approval_queue")
    assert row is not None
    assert row["decided_by"] == await conn.fetchval("SELECT session_user")
    assert row["decided_at"] is not None
    assert await queued(conn) == ["notification", "approval"]
    await refused(conn, "PO003", "UPDATE approval_queue SET status = 'rejected' WHERE id = $1", asked)
    await conn.execute("UPDATE approval_queue SET status = 'approved', comment = 'fine' WHERE id = $1", asked)
    assert await queued(conn) == ["notification", "approval"]


async def test_an_edited_schedule_works_out_its_next_slot_anew(conn: Connection) -> None:
    await conn.execute("INSERT INTO schedules (name, cron, next_slot) VALUES ('mine', '0 9 * * *', now())")
    for change, kept in (("grace_s = 5", True), ("cron = '0 9 * * *'", True), ("timezone = 'Asia/Tokyo'", False)):
        await conn.execute(f"UPDATE schedules SET {change} WHERE name = 'mine'")
        assert (await conn.fetchval("SELECT next_slot FROM schedules WHERE name = 'mine'") is not None) == kept
    for change in ("enabled = false", "cron = '0 8 * * *'"):
        await conn.execute("UPDATE schedules SET next_slot = now() WHERE name = 'mine'")
        await conn.execute(f"UPDATE schedules SET {change} WHERE name = 'mine'")
        assert await conn.fetchval("SELECT next_slot FROM schedules WHERE name = 'mine'") is None


# -- clock and queue


async def test_the_clock_is_shifted_and_leases_are_not(conn: Connection) -> None:
    before = await conn.fetchval("SELECT clock() - now()")
    await conn.execute("SELECT shift_clock('3 days')")
    await conn.execute("SELECT shift_clock('-1 day')")
    assert abs(await conn.fetchval("SELECT clock() - now()") - before - timedelta(days=2)) < timedelta(seconds=5)
    assert await conn.fetchval("SELECT provolatile FROM pg_proc WHERE oid = 'orchestrator.clock'::regproc") == b"s"
    lead = await insert(conn)
    assert lead["created_at"] > await conn.fetchval("SELECT now() + interval '1 day'")


async def test_what_the_guard_reads_follows_the_transitions_and_the_clock(conn: Connection) -> None:
    lead = await insert(conn)
    of = "WHERE pipeline = 'vendor_acquisition' AND from_stage = 'NEW_LEAD'"
    await conn.execute(f"UPDATE transitions SET to_stage = 'OFFER_MADE' {of} AND to_stage = 'AI_CONVERSATION'")
    assert "DEAD_LEAD" in await refused(
        conn, "PO001", "UPDATE leads SET stage = 'AI_CONVERSATION' WHERE id = $1", lead["id"]
    )
    await conn.execute(f"DELETE FROM transitions {of}")
    for stage in ("DEAD_LEAD", "OFFER_MADE"):
        assert "none" in await refused(conn, "PO001", "UPDATE leads SET stage = $2 WHERE id = $1", lead["id"], stage)
    await conn.execute("SELECT shift_clock('2 days')")
    await conn.execute("INSERT INTO transitions VALUES ('vendor_acquisition', 'NEW_LEAD', 'DEAD_LEAD')")
    moved = await update(conn, lead["id"], stage="DEAD_LEAD")
    assert moved["stage_entered_at"] > await conn.fetchval("SELECT now() + interval '1 day'")
    await conn.execute("INSERT INTO pipelines VALUES ('late', 'FIRST')")
    await conn.execute("INSERT INTO stages (pipeline, name, position) VALUES ('late', 'FIRST', 0)")
    assert (await insert(conn, pipeline="late"))["created_at"] > moved["stage_entered_at"]


async def test_a_lead_begins_where_its_pipeline_says_also_if_that_is_changed(conn: Connection) -> None:
    """Mutant: `copy_to_stages` without `initial`."""
    await conn.execute("INSERT INTO pipelines (name, initial) VALUES ('late', 'B')")
    await conn.execute(
        "INSERT INTO stages (pipeline, name, position, entry_kind) VALUES ('late', 'A', 0, 'k'), ('late', 'B', 1, 'k')"
    )
    begun = "INSERT INTO leads (name, pipeline) VALUES ('Ann', 'late') RETURNING stage, entry_pending"
    assert tuple(await conn.fetchrow(begun) or ()) == ("B", True)
    await conn.execute("UPDATE pipelines SET initial = 'A' WHERE name = 'late'")
    assert tuple(await conn.fetchrow(begun) or ()) == ("A", True)
    await conn.execute("UPDATE pipelines SET initial = 'C' WHERE name = 'late'")
    with pytest.raises(asyncpg.PostgresError, match=r"no stage \(the initial one\)"):
        await conn.execute(begun)


async def test_enqueue_queues_a_task_of_any_kind(conn: Connection) -> None:
    now = await conn.fetchval("SELECT enqueue('mine', '{\"a\": 1}', 'k')")
    later = await conn.fetchval("SELECT enqueue('mine', NULL, NULL, clock() + interval '1 hour')")
    rows = {r["id"]: r for r in await conn.fetch("SELECT *, run_at <= clock() AS due FROM tasks")}
    assert (rows[now]["payload"], rows[now]["key"], rows[now]["due"]) == ({"a": 1}, "k", True)
    assert (rows[later]["payload"], rows[later]["key"], rows[later]["due"]) == ({}, None, False)


# -- bulk


async def test_one_small_update_does_not_spoil_the_plan_of_a_big_one(conn: Connection) -> None:
    await conn.execute("SET orchestrator.quiet = 'on'")
    await conn.execute(
        "INSERT INTO leads (name, phone, stage) SELECT 'Ann', $1, 'OFFER_MADE' FROM generate_series(1, 20000)", PHONE
    )
    await conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = (SELECT id FROM leads LIMIT 1)")
    await conn.execute(
        "UPDATE leads SET name = 'Bob' WHERE id = (SELECT id FROM leads WHERE stage <> 'DEAD_LEAD' LIMIT 1)"
    )
    began = time.perf_counter()
    await conn.execute("UPDATE leads SET stage = 'VIDEO_SENT', name = 'Eve' WHERE stage = 'OFFER_MADE'")
    assert time.perf_counter() - began < 10
    assert await conn.fetchval("SELECT count(*) FROM pipeline_events WHERE to_stage = 'VIDEO_SENT'") == 19_999
    kinds = await conn.fetch("SELECT kind, count(*) AS n FROM tasks GROUP BY kind ORDER BY kind")
    assert {r["kind"]: r["n"] for r in kinds} == {"lead.check": 19_999, "vendor_acquisition.VIDEO_SENT": 19_999}
