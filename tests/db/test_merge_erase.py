"""Two leads become one, and a lead becomes nobody: consent only tightens, and nothing of an erased person is left."""

import asyncio
import re
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from daemon.app import prepare
from daemon.db import Connection, connect
from handlers.erasure import erase
from tests.support.processes import until

MAIL, PHONE, NATIONAL = "Ann.O'Hara@x.example", "+44 7700 900-123", "07700 900123"
LEFT = """
UPDATE leads SET needs_review = true, review_reason = 'Ann O''Hara' WHERE id = ':lead';
INSERT INTO contacts (lead_id, name, email) VALUES (':lead', 'Ann O''Hara', ':mail');
INSERT INTO messages (lead_id, to_address, body, status, context, idempotency_key, send_at) VALUES
    (':lead', '+447700900123', 'Dear Ann O''Hara', 'sent', '{"reply": {"body": "I am O''Hara"}}', 'to :mail', now()),
    (':lead', ':mail', 'O''Hara', 'scheduled', '{}', 'k1', now() + '1 day'),
    (NULL, ':mail', 'O''Hara', 'failed', '{}', 'k2', now());
INSERT INTO replies (lead_id, channel, from_address, subject, body, headers, external_id, reason) VALUES
    (':lead', 'email', '"O''Hara" <:mail>', 'O''Hara', 'O''Hara', '{"from": "O''Hara"}', 'm1', 'O''Hara'),
    (NULL, 'sms', '+44 7700 900-123', NULL, 'O''Hara', '{}', NULL, NULL);
INSERT INTO pipeline_events (lead_id, event_type, metadata) VALUES (':lead', 'flagged', '{"to": ":mail"}');
INSERT INTO approval_queue (checkpoint, title, payload, lead_id) VALUES
    ('replies', 'Reply from :mail', '{"reply": ":mail"}', ':lead'),
    ('emails', 'Three', '{"drafts": [{"lead_id": ":lead", "body": "O''Hara"}, {"body": "Dear Bob"}]}', NULL);
INSERT INTO alerts (type, message, severity, subject) VALUES
    ('AGENT_FAILURE', ':mail: O''Hara', 'HIGH', 'lead::lead'), ('X', 'call +44 (7700) 900 123.', 'LOW', '');
INSERT INTO engine_calls (engine, operation, lead_id, idempotency_key, status, result, error) VALUES
    ('sms', '/', ':lead', 'k1', 'ok', '{"said": "O''Hara"}', ':mail'),
    ('writer', '/', NULL, 'k2', 'ok', '{"to": ["Bob@x.example", ":mail"], "sent": 2,
     "drafts": [{"lead_id": ":lead", "body": "Dear O''Hara"}, {"lead_id": "another", "body": "Dear Bob"}]}', NULL);
INSERT INTO tasks (kind, key, payload, error) VALUES
    ('lead.check', 'lead::lead', '{"lead_id": ":lead", "x": ":mail"}', ':mail'),
    ('run.item', 'lead::lead', '{"lead_id": ":lead"}', NULL);
INSERT INTO task_log (id, kind, key, payload, priority, status, run_at, attempt, round, interruptions, created_at,
                      finished_at, result, error) VALUES
    (-1, 'k', 'lead::lead', '{"x": "O''Hara"}', 50, 'done', now(), 1, 0, 0, now(), now(), '"O''Hara"', ':mail');
INSERT INTO email_exclusions (address, reason) VALUES (':mail', 'bounce');
"""
TRACES = ("ann.o'hara@x.example", "7700 900", "7700900123", "O'Hara", "7700-900")


@pytest.fixture
async def db(conn: Connection) -> Connection:
    """A database that knows the pipelines."""
    await prepare(conn)
    return conn


async def lead_of(conn: Connection, **columns: Any) -> UUID:
    row = {"stage": "AI_CONVERSATION"} | columns
    names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
    found: UUID = await conn.fetchval(f"INSERT INTO leads ({names}) VALUES ({places}) RETURNING id", *row.values())
    return found


async def merge(conn: Connection, lead: UUID, target: UUID) -> None:
    await conn.execute("SELECT merge_leads($1, $2, 'ann')", lead, target)


async def row_of(conn: Connection, lead: UUID) -> asyncpg.Record:
    row = await conn.fetchrow("SELECT * FROM leads WHERE id = $1", lead)
    assert row is not None
    return row


# -- merging


async def test_the_other_lead_gets_what_it_lacks_and_keeps_what_it_has(db: Connection) -> None:
    lead = await lead_of(db, name="Ann", email=MAIL, city="Leeds", data={"bedrooms": 3, "condition": "fair"})
    target = await lead_of(db, name="Ann O.", phone=PHONE, email="", data={"bedrooms": 0, "condition": None})
    await merge(db, lead, target)
    row = await row_of(db, target)
    assert (row["name"], row["email"], row["phone"], row["city"]) == ("Ann O.", MAIL, PHONE, "Leeds")
    assert row["data"] == {"bedrooms": 0, "condition": "fair"}
    assert await db.fetchval("SELECT count(*) FROM leads") == 1


@pytest.mark.parametrize("which", ["lead", "target", "both", "neither"])
async def test_the_strictest_consent_wins(db: Connection, which: str) -> None:
    """Guarantee 10. Mutant: do_not_contact = l.do_not_contact in fill_in."""
    lead = await lead_of(db, name="a", do_not_contact=which in ("lead", "both"))
    target = await lead_of(db, name="b", do_not_contact=which in ("target", "both"))
    await db.execute("UPDATE leads SET nurture_until = '2030-01-01' WHERE id = $1", lead)
    await merge(db, lead, target)
    row = await row_of(db, target)
    assert row["do_not_contact"] is (which != "neither")
    assert row["nurture_until"].year == 2030


async def test_a_no_that_is_merged_cancels_what_is_scheduled(db: Connection) -> None:
    lead, target = await lead_of(db, name="a", do_not_contact=True), await lead_of(db, name="b", phone=PHONE)
    for of in (lead, target):
        await db.execute(
            "INSERT INTO messages (lead_id, status, send_at) VALUES ($1, 'scheduled', now() + '1 day')", of
        )
    await merge(db, lead, target)
    rows = await db.fetch("SELECT lead_id, status FROM messages")
    assert [tuple(r) for r in rows] == [(target, "cancelled")] * 2


async def test_what_was_said_moves_over_and_what_was_to_be_done_is_cancelled(db: Connection) -> None:
    lead, target = await lead_of(db, name="a", phone=PHONE), await lead_of(db, name="b", phone="+15550001234")
    reply = await db.fetchval(
        "INSERT INTO replies (lead_id, channel, body) VALUES ($1, 'sms', 'Yes') RETURNING id", lead
    )
    await db.execute("INSERT INTO contacts (lead_id, name) VALUES ($1, 'Bob')", lead)
    await db.execute("INSERT INTO messages (lead_id, status, template) VALUES ($1, 'sent', 'VIDEO')", lead)
    await db.execute("INSERT INTO approval_queue (checkpoint, title, lead_id) VALUES ('replies', 'Look', $1)", lead)
    route = {"reply_id": str(reply), "lead_id": str(lead)}
    await db.execute("INSERT INTO tasks (kind, key, payload) VALUES ('reply.route', $1, $2)", f"lead:{lead}", route)
    await merge(db, lead, target)
    for table in ("replies", "messages", "approval_queue", "engine_calls"):
        assert await db.fetchval(f"SELECT count(*) FROM {table} WHERE lead_id = $1", lead) == 0
    assert await db.fetchval("SELECT lead_id FROM replies") == target
    assert {r["phone"] for r in await db.fetch("SELECT phone FROM contacts WHERE lead_id = $1", target)} == {
        None,
        PHONE,
    }
    assert [r["kind"] for r in await db.fetch("SELECT kind FROM tasks WHERE key = $1", f"lead:{lead}")] == []
    (moved,) = await db.fetch("SELECT key, payload FROM tasks WHERE kind = 'reply.route'")
    assert (moved["key"], moved["payload"]["lead_id"]) == (f"lead:{target}", str(target))
    assert await db.fetchval("SELECT bool_and(status = 'cancelled') FROM task_log WHERE key = $1", f"lead:{lead}")


async def test_two_histories_stay_a_path_each(db: Connection) -> None:
    """Guarantee 15. Mutant: move the events under their own types."""
    lead, target = await lead_of(db, name="a"), await lead_of(db, name="b")
    await db.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
    await merge(db, lead, target)
    events = await db.fetch(
        "SELECT event_type, metadata, actor FROM pipeline_events WHERE lead_id = $1 ORDER BY id", target
    )
    assert [e["event_type"] for e in events] == ["merged_created", "created", "merged_stage_change", "merged"]
    assert events[0]["metadata"] == {"merged_from": str(lead)}
    assert (events[-1]["metadata"], events[-1]["actor"]) == ({"merged": str(lead)}, "ann")


async def test_what_was_merged_is_not_imported_again(db: Connection) -> None:
    """Guarantee 10. Mutant: no look at merged_leads in the guard, and the no that was merged is forgotten."""
    lead = await lead_of(db, name="a", source="crm", external_id="7", do_not_contact=True)
    target = await lead_of(db, name="b", source="crm", external_id="8")
    await merge(db, lead, target)
    sql = "INSERT INTO leads (name, source, external_id) VALUES ('a', 'crm', '7') ON CONFLICT DO NOTHING"
    assert await db.execute(sql) == "INSERT 0 0"
    last = await lead_of(db, name="c")
    await merge(db, target, last)
    assert await db.execute(sql) == "INSERT 0 0"
    assert (await row_of(db, last))["do_not_contact"]


async def test_what_can_not_be_merged_is_refused(db: Connection) -> None:
    lead, target = await lead_of(db, name="a"), await lead_of(db, name="b")
    await db.execute("INSERT INTO pipelines (name, initial) VALUES ('other', 'one')")
    await db.execute("INSERT INTO stages (pipeline, name, position) VALUES ('other', 'one', 0)")
    other = await lead_of(db, pipeline="other", stage="one")
    for two, state in (
        ((lead, lead), "22023"),
        ((lead, other), "PO004"),
        ((lead, uuid4()), "P0002"),
        ((uuid4(), lead), "P0002"),
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await merge(db, *two)
        assert refused.value.sqlstate == state
    await db.execute(
        "INSERT INTO tasks (kind, key, status, lease_id) VALUES ('k', $1, 'running', gen_random_uuid())", f"lead:{lead}"
    )
    with pytest.raises(asyncpg.PostgresError, match="is running"):
        await merge(db, lead, target)
    assert await db.fetchval("SELECT count(*) FROM leads") == 3
    assert await db.fetchval("SELECT count(*) FROM tasks WHERE status = 'available' AND key = $1", f"lead:{lead}") == 1


async def test_merges_of_the_same_two_never_deadlock(db: Connection, dsn: str) -> None:
    """Mutant: lock `lead` first, then `target`."""
    low, high = sorted([await lead_of(db, name="a"), await lead_of(db, name="b")])
    others = [await connect(dsn) for _ in range(2)]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    try:
        merges = []
        async with db.transaction():
            await db.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", low)
            for number, (conn, pair) in enumerate(zip(others, ((low, high), (high, low)), strict=True), start=1):
                merges.append(asyncio.create_task(merge(conn, *pair)))
                await until(partial(reached, db, waiting, number), 10.0, "both wait")
        ended = await asyncio.gather(*merges, return_exceptions=True)
        assert [getattr(e, "sqlstate", None) for e in ended] == [None, "P0002"]
    finally:
        for conn in others:
            await conn.close()


async def reached(conn: Connection, sql: str, number: int) -> bool:
    return bool(await conn.fetchval(sql) == number)


# -- erasing


async def everything(conn: Connection) -> dict[str, str]:
    """All that the tables say, but for the key of the hashes."""
    tables = await conn.fetch(
        "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'orchestrator' AND tablename <> 'erasure_key'"
    )
    sql = "SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {} t"
    return {row["name"]: await conn.fetchval(sql.format(row["name"])) for row in tables}


async def somebody(conn: Connection) -> UUID:
    """A lead that has left its traces wherever one can."""
    lead = await lead_of(conn, name="Ann O'Hara", email=MAIL, phone=NATIONAL, country="GB", data={"note": MAIL})
    await conn.execute(f"DELETE FROM tasks; {LEFT.replace(':lead', str(lead)).replace(':mail', quoted(MAIL))}")
    return lead


def quoted(text: str) -> str:
    return text.replace("'", "''")


async def test_nothing_of_an_erased_person_is_left_anywhere(db: Connection) -> None:
    """Mutant: leave out any line of blank_lead, or the call of forget_mentions."""
    lead = await somebody(db)
    before = await everything(db)
    assert all(any(trace.lower() in text.lower() for text in before.values()) for trace in TRACES[:3])
    assert await erase(db, lead, "ann") == []
    for table, text in (await everything(db)).items():
        found = [trace for trace in TRACES if trace.lower() in text.lower()]
        assert not found, f"{table}: {found} in {text}"
        assert not re.search(r"7700\W*900\W*123", text), f"{table}: {text}"


async def test_what_is_not_theirs_stays(db: Connection) -> None:
    lead = await somebody(db)
    joann = await lead_of(db, name="Joann", email="Joann.O'Hara@x.example", phone="+447700900124")
    await db.execute("INSERT INTO messages (lead_id, to_address, status) VALUES ($1, $2, 'sent')", joann, f"Jo{MAIL}")
    await erase(db, lead, "ann")
    result = await db.fetchval("SELECT result FROM engine_calls WHERE engine = 'writer'")
    assert result == {"drafts": [{"lead_id": "another", "body": "Dear Bob"}], "to": ["Bob@x.example"], "sent": 2}
    assert (await row_of(db, joann))["email"] == "Joann.O'Hara@x.example"
    assert await db.fetchval("SELECT to_address FROM messages WHERE lead_id = $1", joann) == f"Jo{MAIL}"
    assert await db.fetchval("SELECT payload ->> 'lead_id' FROM tasks WHERE kind = 'run.item'") == str(lead)
    assert await db.fetchval("SELECT sum(n) FROM (SELECT count(*) AS n FROM messages WHERE status = 'sent') c") == 2


async def test_the_history_says_that_somebody_was_erased_and_nothing_more(db: Connection) -> None:
    lead = await somebody(db)
    await erase(db, lead, "ann")
    events = await db.fetch(
        "SELECT event_type, metadata, actor FROM pipeline_events WHERE lead_id = $1 ORDER BY id", lead
    )
    assert (events[-1]["event_type"], events[-1]["actor"]) == ("erased", "ann")
    assert all(e["metadata"] == {} for e in events)
    assert await db.fetchval("SELECT count(*) FROM tasks WHERE kind = 'lead.check'") == 0
    assert await db.fetchval("SELECT count(*) FROM alerts WHERE resolved_at IS NULL AND subject <> ''") == 0


async def test_every_spelling_of_an_erased_address_stays_excluded(db: Connection) -> None:
    """Guarantee 10. Mutant: erase without the numbers as messages go to them."""
    lead = await somebody(db)
    await db.execute("DELETE FROM messages")
    await db.execute("DELETE FROM replies")
    await erase(db, lead, "ann")
    rows = await db.fetch("SELECT address, reason FROM email_exclusions")
    assert {r["reason"] for r in rows} == {"erased"}
    hashes = {
        await db.fetchval("SELECT erased_hash($1)", a) for a in (MAIL.upper(), PHONE, NATIONAL, "ann.o'hara@X.example")
    }
    assert {r["address"] for r in rows} == hashes
    assert len(hashes) == 3
    assert await db.fetchval("SELECT erased_hash('')") is None


async def test_an_erased_address_is_not_written_down_again(db: Connection) -> None:
    """Mutant: without the trigger a bounce after the erasure puts the address back."""
    await erase(db, await lead_of(db, email=MAIL), "ann")
    assert (
        await db.execute("INSERT INTO email_exclusions (address, reason) VALUES ($1, 'bounce')", MAIL) == "INSERT 0 0"
    )
    assert await db.execute("INSERT INTO email_exclusions (address) VALUES ('bob@x.example')") == "INSERT 0 1"


async def test_another_lead_of_the_same_address_is_told_of_and_hears_nothing(db: Connection) -> None:
    lead, other = await lead_of(db, phone=PHONE), await lead_of(db, phone="+447700900123")
    await db.execute("INSERT INTO messages (lead_id, status, send_at) VALUES ($1, 'scheduled', now() + '1 day')", other)
    assert await erase(db, lead, "ann") == [other]
    assert await db.fetchval("SELECT status FROM messages WHERE lead_id = $1", other) == "cancelled"


async def test_a_lead_without_any_address_is_erased_like_others(db: Connection) -> None:
    lead, other = await lead_of(db, name="Ann", phone="tbc"), await lead_of(db, name="Bob", phone="n/a")
    await db.execute("INSERT INTO alerts (type, message, severity) VALUES ('X', 'nothing to do with it', 'LOW')")
    assert await erase(db, lead, "ann") == []
    assert await db.fetchval("SELECT message FROM alerts") == "nothing to do with it"
    assert [r["id"] for r in await db.fetch("SELECT id FROM leads")] == [other]
    assert await db.fetchval("SELECT count(*) FROM email_exclusions") == 0


async def test_nobody_is_erased_in_the_middle_of_something(db: Connection) -> None:
    lead = await somebody(db)
    await db.execute(
        "INSERT INTO tasks (kind, key, status, lease_id) VALUES ('k', $1, 'running', gen_random_uuid())", f"lead:{lead}"
    )
    with pytest.raises(asyncpg.PostgresError, match="is running"):
        await erase(db, lead, "ann")
    assert (await row_of(db, lead))["email"] == MAIL
    with pytest.raises(asyncpg.PostgresError) as refused:
        await erase(db, uuid4(), "ann")
    assert refused.value.sqlstate == "P0002"
