"""Who has said no hears nothing more, however the no was spelt and whatever else was going on."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from daemon.app import explain
from daemon.db import Connection
from daemon.log import configure
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Hangs

HOLDS = pytest.mark.parametrize("holds", [
    "SELECT FROM leads WHERE id = $1 FOR UPDATE",
    "UPDATE leads SET city = 'Leeds' WHERE id = $1",
], ids=["a lock", "an update"])  # fmt: skip
ENDED = "SELECT count(*) = 0 FROM messages WHERE status IN ('scheduled', 'sending')"


@pytest.fixture(autouse=True)
def few_words() -> None:
    """The default log tells of every task."""
    configure("WARNING", "json")


async def later(t: Timeline, lead: UUID | None, **columns: str) -> UUID:
    """A message that is due in an hour."""
    row = {"lead_id": lead, "template": "NEWS", "status": "scheduled"} | columns
    names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
    found: UUID = await t.value(
        f"INSERT INTO messages ({names}, send_at) VALUES ({places}, clock() + '1 hour') RETURNING id", *row.values()
    )
    return found


async def talking(t: Timeline, **columns: Any) -> UUID:
    """A lead to whom nothing happens by itself for a day."""
    lead = await t.lead(stage="AI_CONVERSATION", **columns)
    await t.quiet()
    return lead


async def gate(t: Timeline, lead: UUID, name: str) -> str:
    """What `explain` says of one of its gates."""
    told = await explain(t.conn, lead)
    assert told is not None
    return next(str(gate["reason"]) for gate in told["gates"] if gate["name"] == name)


# Between the due time and the call


FORBID = {
    "do not contact": "UPDATE leads SET do_not_contact = true WHERE id = ANY ($1)",
    "excluded": "INSERT INTO email_exclusions (address) SELECT phone FROM leads WHERE id = ANY ($1)",
    "moved on": "UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = ANY ($1)",
}
MOST_RESERVED = """
CREATE TABLE most (reserved bigint);
CREATE FUNCTION note_most() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO most SELECT count(*) FROM engine_calls WHERE status = ''reserved''; RETURN NULL; END';
CREATE TRIGGER most AFTER INSERT OR UPDATE ON engine_calls FOR EACH STATEMENT EXECUTE FUNCTION note_most()"""


@pytest.mark.parametrize("forbid", FORBID.values(), ids=FORBID)
async def test_a_message_that_waits_for_its_turn_is_still_stopped(dsn: str, forbid: str) -> None:
    """Mutant: take the engine's slot after the reservation, and all forty are past their gate when the word comes."""
    async with scenario(dsn, ENGINES__SMS__MAX_CONCURRENCY="5") as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        await t.conn.execute(MOST_RESERVED)
        await t.sql("INSERT INTO leads (name, phone) SELECT 'Ann', '+1555012' || n FROM generate_series(1000, 1039) n")
        await t.eventually("SELECT count(*) = 40 FROM tasks WHERE kind = 'message' AND status = 'running'")
        await t.wait_for(lambda: asked(t, 5), "not five calls")
        under_way = [r["lead_id"] for r in await t.sql("SELECT lead_id FROM messages WHERE status = 'sending'")]
        assert len(under_way) == 5
        waiting = [r["id"] for r in await t.sql("SELECT id FROM leads WHERE id <> ALL ($1)", under_way)]
        await t.sql(forbid, waiting)
        slow.release()
        await t.eventually(ENDED)
        await t.quiet()
        assert {a.lead for a in t.engines.requests("sms")} == {str(lead) for lead in under_way}
        rows = await t.sql("SELECT lead_id, status FROM messages")
        assert {r["status"] for r in rows if r["lead_id"] in under_way} == {"sent"}
        assert {r["status"] for r in rows if r["lead_id"] in waiting} <= {"suppressed", "cancelled"}
        assert await t.value("SELECT max(reserved) FROM most") == 5


async def asked(t: Timeline, times: int) -> bool:
    return len(t.engines.requests("sms")) == times


async def test_no_more_calls_are_on_record_than_the_engine_has_places(dsn: str) -> None:
    async with scenario(dsn, ENGINES__SMS__MAX_CONCURRENCY="5") as t:
        await t.conn.execute(MOST_RESERVED)
        await t.sql("INSERT INTO leads (name, phone) SELECT 'Ann', '+1555012' || n FROM generate_series(1000, 1039) n")
        await t.quiet()
        assert await t.value("SELECT count(*) FROM messages WHERE status = 'sent'") == 40
        assert await t.value("SELECT max(reserved) FROM most") <= 5


# While somebody holds the lead


@HOLDS
async def test_an_opt_out_waits_for_nobody_who_holds_the_lead(dsn: str, holds: str) -> None:
    """Mutant: let the exclusion hold the lead's row, and it waits until somebody's transaction ends."""
    async with scenario(dsn) as t:
        namesake = await talking(t, phone="+15550123456")
        lead = await talking(t, phone="+15550123456", email="ann@x.com")
        for who, columns in ((lead, {}), (namesake, {}), (None, {"to_address": "+1 555 012-3456"})):
            await later(t, who, **columns)
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(holds, lead)
            await t.say(lead, "STOP")
            await t.eventually("SELECT count(*) = 2 FROM email_exclusions", within_s=1)
            await t.shift(hours=1)
            await t.eventually(ENDED)
            assert not await t.get(lead, "do_not_contact")
            await tx.commit()
        await t.until(lead, "DEAD_LEAD", within_s=3)
        assert await t.get(lead, "do_not_contact")
        await t.after(days=1)
        assert t.engines.requests("sms") == []
        rows = await t.sql("SELECT template, status FROM messages")
        assert {r["template"] for r in rows} == {"NEWS", "CONVERSATION_FOLLOW_UP"}
        assert {r["status"] for r in rows} <= {"suppressed", "cancelled"}


# A lead that is no more


async def test_a_deleted_lead_gets_nothing_even_at_an_address_that_its_message_knows(dsn: str) -> None:
    """Mutant: let the foreign key do its SET NULL without the trigger, and the message goes out to somebody erased."""
    async with scenario(dsn) as t:
        lead = await talking(t)
        for status in ("scheduled", "awaiting_approval", "draft"):
            await later(t, lead, to_address="+15550129999", status=status)
        await t.sql("DELETE FROM leads WHERE id = $1", lead)
        rows = await t.sql("SELECT status, reason FROM messages")
        assert [tuple(r) for r in rows] == [("cancelled", "the lead was deleted")] * 3
        await t.after(hours=2)
        await t.sweep()
        assert t.engines.requests("sms") == []
        assert await t.value("SELECT bool_and(status = 'cancelled') FROM messages")
        assert await t.value("SELECT count(*) FROM tasks") == 0


# However it is spelt


async def opted_out(t: Timeline, lead: UUID) -> None:
    """The lead is not to be contacted, and isn't."""
    await t.expect(lead, "DEAD_LEAD")
    assert await t.get(lead, "do_not_contact")
    asked_before = len(t.engines.requests("sms"))
    await t.sql("UPDATE leads SET do_not_contact = false WHERE id = $1", lead)
    await later(t, lead)
    await t.after(hours=1)
    assert len(t.engines.requests("sms")) == asked_before
    assert (await t.message(lead, "NEWS"))["status"] in ("suppressed", "cancelled")


@pytest.mark.parametrize("sender", ["+44 7700 900-123", "+447700900123"])
async def test_a_national_number_is_known_by_its_international_spelling(dsn: str, sender: str) -> None:
    """Mutant: match a reply by the leads' own columns only, and this no is nobody's."""
    async with scenario(dsn) as t:
        lead = await t.lead(phone="07700 900123", country="GB")
        other = await t.lead(phone="07700 900124", country="GB")
        await t.until(lead, "AI_CONVERSATION")
        await t.expect(other, "AI_CONVERSATION")
        assert {a.body["to"] for a in t.engines.requests("sms")} == {"+447700900123", "+447700900124"}
        await t.reply(lead, "STOP", from_address=sender)
        await opted_out(t, lead)
        await t.expect(other, "AI_CONVERSATION")


@pytest.mark.parametrize("sender", ["Ann <Ann@X.com>", '"Vendor, Ann" <ann@x.com>'])
async def test_an_email_address_is_known_however_its_sender_writes_it(dsn: str, sender: str) -> None:
    async with scenario(dsn) as t:
        lead, other = await talking(t, email="ann@x.com"), await talking(t, email="joann@x.com")
        await t.reply(lead, "Please unsubscribe me.", channel="email", from_address=sender)
        await opted_out(t, lead)
        await t.expect(other, "AI_CONVERSATION")
        assert await t.value("SELECT address FROM email_exclusions WHERE address LIKE '%@%'") == "ann@x.com"


# However the number is written


@pytest.mark.parametrize(("phone", "sender"), [
    ("07700 930124", "+447700930124"), ("+44 7700 930124", "07700930124"), ("0044 7700 930124", "+447700930124"),
])  # fmt: skip
async def test_a_number_in_another_spelling_is_known(dsn: str, phone: str, sender: str) -> None:
    """Mutant: have `_are_one` leave out the country, and the first of the three is nobody we know."""
    async with scenario(dsn) as t:
        lead = await talking(t, phone=phone, country="GB")
        reply = await t.reply(lead, "STOP", from_address=sender)
        await opted_out(t, lead)
        assert await t.value("SELECT lead_id FROM replies WHERE id = $1", reply) == lead
        assert await t.value("SELECT '+447700930124' IN (SELECT address FROM email_exclusions)")


async def test_a_contacts_number_is_known_by_its_leads_country(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await talking(t, country="DK")
        await t.sql("INSERT INTO contacts (lead_id, phone) VALUES ($1, '32 12 34 56')", lead)
        await t.reply(lead, "STOP", from_address="+4532123456")
        await opted_out(t, lead)


@pytest.mark.parametrize(("phone", "country"), [
    ("07700 930124", "IE"), ("07700 930124", None), ("+1 770 093 0124", "GB"), ("07711 930124", "GB"),
])  # fmt: skip
async def test_a_number_that_only_ends_alike_is_another_one(dsn: str, phone: str, country: str | None) -> None:
    """Mutant: have `_sender` take every lead of a row, and a stranger speaks for this one."""
    async with scenario(dsn) as t:
        lead = await talking(t, phone=phone, country=country)
        reply = await t.reply(lead, "STOP", from_address="+447700930124")
        await t.expect(lead, "AI_CONVERSATION")
        assert not await t.get(lead, "do_not_contact")
        assert await t.value("SELECT lead_id IS NULL AND status = 'needs_person' FROM replies WHERE id = $1", reply)


@pytest.mark.parametrize("days", [(1, 2), (2, 1)])
async def test_of_several_spellings_the_latest_contacted_is_meant(dsn: str, days: tuple[int, int]) -> None:
    """Mutant: order the rows of `load` by the reply alone, and it is always the one in another spelling."""
    alike, other, stranger = [datetime(2026, 1, day, tzinfo=UTC) for day in (*days, 3)]
    async with scenario(dsn) as t:
        leads = {
            alike: await talking(t, phone="+447700930124", last_outbound_at=alike),
            other: await talking(t, phone="07700 930124", country="GB", last_outbound_at=other),
            stranger: await talking(t, phone="+1 770 093 0124", last_outbound_at=stranger),
        }
        reply = await t.reply(leads[alike], "STOP")
        assert await t.value("SELECT lead_id FROM replies WHERE id = $1", reply) == leads[max(alike, other)]


async def test_an_exclusion_counts_as_it_is_written_too(dsn: str) -> None:
    """Mutant: `exclusions_of` without plain_address(written), and the number is written to as +447700930124."""
    async with scenario(dsn) as t:
        await t.sql("INSERT INTO email_exclusions (address) VALUES ('+4407700930124')")  # a digit too many, in both
        lead = await t.lead(phone="+44 07700 930124", country="GB")
        await t.quiet()
        hello = await t.message(lead, "INITIAL_CONTACT")
        assert (hello["status"], hello["reason"]) == ("suppressed", "excluded: manual")
        assert t.engines.requests("sms") == []


VAGUE = {
    "an exclusion in national form": ("07700 900123", "+447700900123", None),
    "with the other prefix": ("0044 7700 900123", "+447700900123", None),
    "with a digit too many": ("+44 (0)7700 900123", "+447700900123", None),
    "a lead in national form": ("+447700900123", "07700 900123", None),
    "both, spelt otherwise": ("7700900123", "(07700) 900-123", None),
    "a lead whose country is known": ("+447700900123", "07700 900123", "GB"),
}


@pytest.mark.parametrize(("excluded", "phone", "country"), VAGUE.values(), ids=VAGUE)
async def test_a_number_without_its_country_is_excluded_by_its_last_digits(
    dsn: str, excluded: str, phone: str, country: str | None
) -> None:
    """Guarantee 10. Mutants: `exclusions_of` without what follows UNION ALL; `lacks_country` without LIKE '%(0)%'."""
    async with scenario(dsn) as t:
        await t.sql("INSERT INTO email_exclusions (address) VALUES ($1)", excluded)
        lead = await t.lead(phone=phone, country=country)
        await t.quiet()
        hello = await t.message(lead, "INITIAL_CONTACT")
        assert (hello["status"], hello["reason"]) == ("suppressed", "excluded: manual")
        assert t.engines.requests("sms") == []
        assert excluded in await gate(t, lead, "exclusion")


@pytest.mark.parametrize("phone", ["+447700900124", "+15550900123", "07700 900123"])
async def test_a_number_with_its_country_excludes_no_other_one(dsn: str, phone: str) -> None:
    """Mutant: `exclusions_of` without lacks_country."""
    async with scenario(dsn) as t:
        await t.sql("INSERT INTO email_exclusions (address) VALUES ('+449990900123'), ('a0900123@x.example')")
        lead = await t.lead(phone=phone, country="GB")
        await t.quiet()
        assert (await t.message(lead, "INITIAL_CONTACT"))["status"] == "sent"


@pytest.mark.parametrize("to_address", [None, "+44 7700 930124"])
async def test_what_is_scheduled_to_a_number_is_cancelled_by_the_exclusion_of_its_last_digits(
    dsn: str, to_address: str | None
) -> None:
    """Mutant: `cancel_excluded` without lacks_country, in either place."""
    async with scenario(dsn) as t:
        lead, other = await talking(t, phone="+447700930124"), await talking(t, phone="+447700930125")
        given = {"to_address": to_address} if to_address else {}
        its, others = await later(t, lead, **given), await later(t, other)
        await t.sql("INSERT INTO email_exclusions (address) VALUES ('07700 930124')")
        statuses = [await t.value("SELECT status FROM messages WHERE id = $1", m) for m in (its, others)]
        assert statuses == ["cancelled", "scheduled"]


# What is no address


@pytest.mark.parametrize("sender", ["INFO", ""])
async def test_a_sender_without_a_number_is_nobody(dsn: str, sender: str) -> None:
    """Mutant: let plain_address of letters be '', and INFO speaks for everybody whose number is to be confirmed."""
    async with scenario(dsn) as t:
        leads = [await talking(t, phone=phone) for phone in ("tbc", "", "n/a", "+15550123456")]
        reply = await t.reply(leads[0], "STOP", from_address=sender)
        for lead in leads:
            await t.expect(lead, "AI_CONVERSATION")
            assert not await t.get(lead, "do_not_contact")
        assert await t.value("SELECT count(*) FROM email_exclusions") == 0
        assert await t.value("SELECT status FROM replies WHERE id = $1", reply) == "needs_person"
        assert await t.value("SELECT count(*) FROM tasks WHERE status = 'dead'") == 0


async def test_a_lead_without_a_number_may_say_no_for_itself_alone(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead, other = await talking(t, phone="tbc"), await talking(t, phone="tbc")
        await t.reply(lead, "STOP", lead_id=lead)
        await t.expect(lead, "DEAD_LEAD")
        assert await t.get(lead, "do_not_contact")
        assert not await t.get(other, "do_not_contact")


async def test_an_exclusion_of_no_address_is_refused(conn: Connection) -> None:
    for address in ("", "abc", "   ", "n/a"):
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute("INSERT INTO email_exclusions (address) VALUES ($1)", address)
