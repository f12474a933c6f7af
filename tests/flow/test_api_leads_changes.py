"""Leads that people create, change, review, merge and erase over HTTP, beside a daemon that works."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from daemon.api.leads import Lead
from handlers.erasure import erase
from tests.support.api import Client, serving
from tests.support.daemon import scenario
from tests.support.postgres import Server
from tests.support.processes import until

NOWHERE = "00000000-0000-0000-0000-000000000000"
LATER = {"stage": "DUE_DILIGENCE", "name": "Ann", "phone": "+15550001234"}


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for all; each test has leads of its own."""
    dsn = await server.clone()
    async with serving(dsn, DRY_RUN="true") as client:
        yield client
    await server.drop(dsn)


async def made(api: Client, **fields: Any) -> dict[str, Any]:
    """A lead where nothing happens by itself."""
    reply = await api.post("/api/leads", LATER | fields)
    assert reply.status == 201, reply.raw
    lead: dict[str, Any] = reply.json["lead"]
    return lead


async def patch(api: Client, lead: str, **fields: Any) -> dict[str, Any]:
    reply = await api.ask("PATCH", f"/api/leads/{lead}", json=fields)
    assert reply.status == 200, reply.raw
    row: dict[str, Any] = reply.json["lead"]
    return row


async def events(api: Client, lead: str) -> list[str]:
    return [e["event_type"] for e in (await api.get(f"/api/leads/{lead}/events"))["events"]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/leads"),
        ("PATCH", f"/api/leads/{NOWHERE}"),
        ("DELETE", f"/api/leads/{NOWHERE}"),
        ("POST", f"/api/leads/{NOWHERE}/review"),
        ("POST", f"/api/leads/{NOWHERE}/dnc"),
        ("POST", f"/api/leads/{NOWHERE}/merge"),
    ],
)
async def test_no_change_without_the_token_and_none_of_nobody(api: Client, method: str, path: str) -> None:
    bodies: dict[str, dict[str, str]] = {"review": {"resolution": "called"}, "merge": {"into": str(uuid4())}}
    body = bodies.get(path.rpartition("/")[2], {})
    (await api.ask(method, path, json=body, token=None)).problem(401)
    if path != "/api/leads":
        (await api.ask(method, path, json=body)).problem(404)


# -- create


async def test_a_lead_is_created_at_the_first_stage_and_its_action_follows(api: Client) -> None:
    reply = await api.post(
        "/api/leads", {"name": " Ann ", "phone": "07700 900123", "country": "gb", "data": {"bedrooms": 0}}
    )
    row = reply.json["lead"]
    Lead.model_validate(row)
    assert (reply.status, row["stage"], row["pipeline"]) == (201, "NEW_LEAD", "vendor_acquisition")
    assert (row["name"], row["country"], row["data"], row["do_not_contact"]) == ("Ann", "GB", {"bedrooms": 0}, False)
    sql = "SELECT stage = 'AI_CONVERSATION' FROM leads WHERE id = $1"
    await until(lambda: api.conn.fetchval(sql, UUID(row["id"])), 10.0, "its first action")


async def test_every_column_that_people_set_may_be_given(api: Client) -> None:
    given = {
        "company": "Mill & Sons", "email": "Ann@Mill.example", "city": "Leeds", "region": "Yorkshire", "country": "GB",
        "timezone": "Europe/London", "source": "crm", "external_id": "all", "tier": "high", "score": 87.5,
        "do_not_contact": True, "data": {"asking_price": 180000.55, "deep": [{"x": None}]},
    }  # fmt: skip
    times = {"nurture_until": "2030-01-02T03:04:05Z", "deadline_at": "2031-01-02T03:04:05+02:00"}
    row = await made(api, **given, **times, actor="ann")
    assert given.items() <= row.items()
    assert (row["nurture_until"], row["deadline_at"]) == ("2030-01-02T03:04:05+00:00", "2031-01-02T01:04:05+00:00")
    event = (await api.get(f"/api/leads/{row['id']}/events"))["events"][-1]
    assert (event["event_type"], event["actor"]) == ("created", "ann")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phone", "+44 12"),
        ("phone", "07700 900123"),
        ("phone", "call me"),
        ("email", "nobody"),
        ("email", "a b@c"),
        ("tier", "highest"),
        ("country", "ZZ"),
        ("country", "United Kingdom"),
        ("timezone", "Mars/Base"),
        ("timezone", "../../etc/passwd"),
        ("score", "12"),
        ("score", 1e13),
        ("data", []),
        ("data", None),
        ("deadline_at", "2030-01-01"),
        ("deadline_at", "2030-01-01T00:00:00"),
        ("deadline_at", "9999-12-31T23:59:59-14:00"),
        ("do_not_contact", "yes"),
        ("do_not_contact", None),
        ("pipeline", "no_such"),
        ("stage", "NO_SUCH"),
        ("stage_seq", 7),
        ("approved_at", "2030-01-01T00:00:00Z"),
        ("name", "x" * 501),
    ],
)
async def test_what_is_no_value_is_refused_with_its_place(api: Client, field: str, value: object) -> None:
    count = await api.conn.fetchval("SELECT count(*) FROM leads")
    reply = await api.post("/api/leads", {field: value})
    reply.problem(422)
    assert reply.places == [[field]]
    assert await api.conn.fetchval("SELECT count(*) FROM leads") == count


async def test_the_stages_of_a_pipeline_are_told_to_who_names_another(api: Client) -> None:
    problem = (await api.post("/api/leads", {"stage": "won"})).problem(422)
    assert "NEW_LEAD, AI_CONVERSATION" in problem["errors"][0]["msg"]
    problem = (await api.post("/api/leads", {"pipeline": "x"})).problem(422)
    assert "vendor_acquisition" in problem["errors"][0]["msg"]


@pytest.mark.parametrize("source", ["crm", None])
async def test_what_was_imported_before_is_refused_with_the_lead_that_has_it(api: Client, source: str | None) -> None:
    first = await made(api, source=source, external_id="twice")
    reply = await api.post("/api/leads", LATER | {"source": source, "external_id": "twice"})
    problem = reply.problem(409)
    assert (problem["id"], reply.places) == (first["id"], [["external_id"]])
    assert (await made(api, source=f"not {source}", external_id="twice"))["id"] != first["id"]


# -- change


async def test_a_change_touches_what_it_names_and_merges_data(api: Client) -> None:
    lead = await made(api, city="Leeds", data={"bedrooms": 3, "condition": "fair"}, tier="low", score=1)
    row = await patch(api, lead["id"], city=None, tier="high", data={"bedrooms": 0, "condition": None, "extra": [1]})
    assert (row["city"], row["tier"], row["score"], row["name"]) == (None, "high", 1, "Ann")
    assert row["data"] == {"bedrooms": 0, "extra": [1]}
    assert row["version"] == lead["version"] + 1


async def test_a_change_of_nothing_changes_nothing(api: Client) -> None:
    lead = await made(api)
    await api.quiet()
    before = await api.get(f"/api/leads/{lead['id']}")
    assert await patch(api, lead["id"]) == before["lead"]


async def test_a_deadline_may_be_put_off_or_taken_away(api: Client) -> None:
    lead = await made(api)
    assert lead["deadline_at"] is not None
    assert (await patch(api, lead["id"], deadline_at="2040-01-01T00:00:00Z"))["deadline_at"].startswith("2040")
    assert (await patch(api, lead["id"], deadline_at=None))["deadline_at"] is None


async def test_a_number_is_read_in_the_country_that_the_lead_will_have(api: Client) -> None:
    lead = await made(api)
    reply = await api.ask("PATCH", f"/api/leads/{lead['id']}", json={"phone": "07700 900123"})
    reply.problem(422)
    assert reply.places == [["phone"]]
    assert (await patch(api, lead["id"], phone="07700 900123", country="GB"))["phone"] == "07700 900123"
    assert (await patch(api, lead["id"], phone="07700 900124"))["phone"] == "07700 900124"


async def test_stages_and_the_daemons_own_columns_are_not_patched(api: Client) -> None:
    lead = await made(api)
    for field in ("stage", "pipeline", "needs_review", "version", "id", "actor"):
        reply = await api.ask("PATCH", f"/api/leads/{lead['id']}", json={field: "x"})
        reply.problem(422)
        assert reply.places == [[field]]


async def test_another_leads_external_id_can_not_be_taken(api: Client) -> None:
    first, second = (
        await made(api, source="crm", external_id="mine"),
        await made(api, source="crm", external_id="yours"),
    )
    problem = (await api.ask("PATCH", f"/api/leads/{second['id']}", json={"external_id": "mine"})).problem(409)
    assert problem["id"] == first["id"]
    assert (await patch(api, first["id"], external_id="mine"))["external_id"] == "mine"


async def test_consent_is_withdrawn_and_never_given_back(api: Client) -> None:
    """Guarantee 10. Mutant: _require_sound without its look at do_not_contact."""
    lead = await made(api)
    assert (await patch(api, lead["id"], do_not_contact=False))["do_not_contact"] is False
    assert (await patch(api, lead["id"], do_not_contact=True))["do_not_contact"] is True
    reply = await api.ask("PATCH", f"/api/leads/{lead['id']}", json={"do_not_contact": False, "city": "York"})
    reply.problem(409)
    assert reply.places == [["do_not_contact"]]
    row = await patch(api, lead["id"], name="Ann B.")
    assert (row["do_not_contact"], row["city"]) == (True, None)


async def test_do_not_contact_may_be_said_twice(api: Client) -> None:
    lead = await made(api)
    await api.conn.execute(
        "INSERT INTO messages (lead_id, status, send_at) VALUES ($1, 'scheduled', clock() + '1 day')", UUID(lead["id"])
    )
    for _ in range(2):
        reply = await api.post(f"/api/leads/{lead['id']}/dnc")
        assert (reply.status, reply.json["lead"]["do_not_contact"]) == (200, True)
    assert (await events(api, lead["id"])).count("dnc") == 1
    assert await api.conn.fetchval("SELECT status FROM messages WHERE lead_id = $1", UUID(lead["id"])) == "cancelled"


# -- review


async def test_a_flag_goes_once_a_person_says_what_was_done(api: Client) -> None:
    lead = await api.lead(needs_review=True, review_reason="odd")
    reply = await api.post(f"/api/leads/{lead}/review", {"resolution": "called her", "actor": "ann"})
    row = reply.json["lead"]
    assert (reply.status, row["needs_review"], row["review_reason"]) == (200, False, None)
    event = (await api.get(f"/api/leads/{lead}/events"))["events"][0]
    assert (event["event_type"], event["actor"]) == ("review_resolved", "ann")
    assert event["metadata"] == {"resolution": "called her", "reason": "odd"}
    (await api.post(f"/api/leads/{lead}/review", {"resolution": "again"})).problem(409)
    reply = await api.post(f"/api/leads/{lead}/review")
    reply.problem(422)
    assert reply.places == [["resolution"]]


# -- merge


async def test_merging_answers_the_lead_that_is_left(api: Client) -> None:
    lead, target = await made(api, city="Leeds", do_not_contact=True), await made(api, name="Ann B.")
    reply = await api.post(f"/api/leads/{lead['id']}/merge", {"into": target["id"], "actor": "ann"})
    row = reply.json["lead"]
    assert (reply.status, row["id"], row["name"], row["city"]) == (200, target["id"], "Ann B.", "Leeds")
    assert row["do_not_contact"] is True
    (await api.ask("GET", f"/api/leads/{lead['id']}")).problem(404)
    assert "merged" in await events(api, target["id"])


async def test_what_can_not_be_merged_is_left_as_it_is(api: Client) -> None:
    lead, target = await made(api), await made(api)
    reply = await api.post(f"/api/leads/{lead['id']}/merge", {"into": lead["id"]})
    reply.problem(422)
    assert reply.places == [["into"]]
    (await api.post(f"/api/leads/{lead['id']}/merge", {"into": NOWHERE})).problem(404)
    await api.task("running", key=f"lead:{lead['id']}")
    problem = (await api.post(f"/api/leads/{lead['id']}/merge", {"into": target["id"]})).problem(409)
    assert "is running" in problem["detail"]
    (await api.ask("DELETE", f"/api/leads/{lead['id']}")).problem(409)
    assert (await api.get(f"/api/leads/{lead['id']}"))["lead"]["id"] == lead["id"]


async def test_a_no_from_a_merged_number_is_the_other_leads_no(dsn: str) -> None:
    """Mutant: replies matched by the leads' own columns only, and the no of the merged number is nobody's."""
    async with scenario(dsn) as t:
        lead, target = await t.lead(stage="AI_CONVERSATION"), await t.lead(stage="AI_CONVERSATION")
        number = await t.get(lead, "phone")
        await t.quiet()
        await t.sql("SELECT merge_leads($1, $2, 'ann')", lead, target)
        await t.reply(target, "STOP", from_address=number)
        await t.expect(target, "DEAD_LEAD")
        assert await t.get(target, "do_not_contact")


# -- erase


async def test_an_erased_lead_is_gone_and_its_history_says_so(api: Client) -> None:
    lead = await made(api, phone="+447700900999", email="gone@x.example")
    other = await made(api, phone="+44 7700 900 999")
    await api.quiet()
    reply = await api.ask("DELETE", f"/api/leads/{lead['id']}")
    assert (reply.status, reply.json["others"]) == (200, [other["id"]])
    (await api.ask("GET", f"/api/leads/{lead['id']}")).problem(404)
    (await api.ask("DELETE", f"/api/leads/{lead['id']}")).problem(404)
    history = (await api.get(f"/api/leads/{lead['id']}/events"))["events"]
    assert history[0]["event_type"] == "erased"
    assert all(event["metadata"] == {} for event in history)
    gates = (await api.get(f"/api/leads/{other['id']}/explain"))["explanation"]["gates"]
    (gate,) = [g for g in gates if g["name"] == "exclusion"]
    assert gate["open"] is False
    assert "(erased)" in gate["reason"]
    assert "900" not in gate["reason"].replace(gate["reason"].split("erased:")[1].split()[0], "")


@pytest.mark.parametrize("again", ["+44 7700 900123", "07700900123"])
async def test_who_was_erased_hears_nothing_imported_anew_or_not(dsn: str, again: str) -> None:
    """Guarantee 10. Mutant: `admit` without erased_hash."""
    async with scenario(dsn) as t:
        lead = await t.lead(stage="AI_CONVERSATION", phone="07700 900123", country="GB")
        await t.quiet()
        await erase(t.conn, lead, "ann")
        anew = await t.lead(phone=again, country="GB")
        await t.eventually("SELECT count(*) > 0 FROM messages WHERE lead_id = $1 AND status = 'suppressed'", anew)
        assert t.engines.requests("sms") == []
        assert (await t.message(anew, "INITIAL_CONTACT"))["reason"] == "excluded: erased"
