"""Replies handed in over HTTP, and the addresses that are excluded."""

from base64 import b64encode, encodebytes
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from daemon.api.exclusions import Exclusion
from daemon.api.replies import Reply
from tests.support.api import Client, serving
from tests.support.postgres import Server
from tests.support.processes import until

MAIL = b"""From: "Vendor, Ann" <Ann@Mill.example>
To: us@our.example
Subject: =?utf-8?q?Caf=C3=A9?=
Message-ID: <m1@mill.example>
Date: Thu, 01 Jan 1970 00:00:00 +0000
Content-Type: text/plain; charset=utf-8

Please take me off your list.
"""
SMS = {"channel": "sms", "from": "+15550001234", "body": "Who is this?"}


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for all tests."""
    dsn = await server.clone()
    async with serving(dsn, DRY_RUN="true") as client:
        yield client
    await server.drop(dsn)


async def told(api: Client, **reply: Any) -> dict[str, Any]:
    """Hand in a reply; the row of it."""
    answer = await api.post("/api/replies", reply)
    assert answer.status == 202, answer.raw
    row: dict[str, Any] = answer.json["reply"]
    return row


# -- in


async def test_a_reply_is_matched_classified_and_routed(api: Client) -> None:
    lead = await api.lead(phone="+15550007777")
    row = await told(api, **SMS | {"from": "+1 555 000-7777", "body": "STOP", "to": "+15550000000", "externalId": "s1"})
    assert row.keys() == Reply.model_fields.keys()
    assert (row["channel"], row["to_address"], row["external_id"], row["status"]) == (
        "sms",
        "+15550000000",
        "s1",
        "received",
    )
    sql = "SELECT do_not_contact AND stage = 'DEAD_LEAD' FROM leads WHERE id = $1"
    await until(lambda: api.conn.fetchval(sql, lead), 10.0, "the opt-out")
    (found,) = (await api.get("/api/replies", lead_id=str(lead)))["replies"]
    assert (found["id"], found["category"], found["status"]) == (row["id"], "opt_out", "routed")


async def test_the_same_reply_is_taken_once(api: Client) -> None:
    first = await told(api, **SMS, externalId="twice")
    assert (await told(api, **SMS | {"body": "other"}, externalId="twice"))["id"] == first["id"]
    assert (await told(api, **SMS | {"channel": "email"}, externalId="twice"))["id"] != first["id"]
    assert (await told(api, **SMS))["id"] != (await told(api, **SMS))["id"]
    assert await api.conn.fetchval("SELECT count(*) FROM replies WHERE external_id = 'twice'") == 2


@pytest.mark.parametrize("encode", [b64encode, encodebytes], ids=["one line", "lines"])
async def test_a_whole_mail_is_read(api: Client, encode: Any) -> None:
    row = await told(api, raw=encode(MAIL).decode())
    assert (row["from_address"], row["to_address"], row["subject"]) == ("ann@mill.example", "us@our.example", "Café")
    assert (row["body"].strip(), row["external_id"]) == ("Please take me off your list.", "<m1@mill.example>")
    assert not row["received_at"].startswith("1970")
    assert await api.conn.fetchval("SELECT count(*) FROM replies WHERE external_id = '<m1@mill.example>'") == 1
    excluded = "SELECT count(*) = 1 FROM email_exclusions WHERE address = 'ann@mill.example'"
    await until(lambda: api.conn.fetchval(excluded), 10.0, "the opt-out")


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, [["channel"], ["from"], ["body"]]),
        (SMS | {"channel": "fax"}, [["channel"]]),
        (SMS | {"from": " "}, [["from"]]),
        (SMS | {"from": None}, [["from"]]),
        (SMS | {"body": 1}, [["body"]]),
        (SMS | {"externalId": ""}, [["externalId"]]),
        (SMS | {"external_id": "x"}, [["external_id"]]),
        (SMS | {"raw": "eA=="}, [["channel"], ["from"], ["body"]]),
        ({"raw": "%%%"}, [["raw"]]),
        ({"raw": "é"}, [["raw"]]),
        ({"raw": ""}, [["raw"]]),
    ],
)
async def test_what_is_no_reply_is_refused_with_its_place(api: Client, body: Any, places: list[list[str]]) -> None:
    count = await api.conn.fetchval("SELECT count(*) FROM replies")
    reply = await api.post("/api/replies", body)
    reply.problem(422)
    assert sorted(reply.places) == sorted(places)
    assert await api.conn.fetchval("SELECT count(*) FROM replies") == count


async def test_broken_mail_is_a_reply_all_the_same(api: Client) -> None:
    for raw in (b"\xff\xfe\x00", b"no headers at all", b"From: \x00\n\n\x00", b"Content-Type: multipart/mixed\n\n--"):
        assert (await told(api, raw=b64encode(raw).decode()))["channel"] == "email"


# -- list


async def test_replies_are_listed_by_what_became_of_them(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute(
            """INSERT INTO replies (channel, body, status, category, received_at) SELECT 'sms', i::text,
               CASE WHEN i % 2 = 0 THEN 'routed' ELSE 'ignored' END, CASE WHEN i < 4 THEN 'question' END,
               '2026-01-01'::timestamptz + (i / 3) * interval '1 second' FROM generate_series(1, 10) i"""
        )

        async def found(**query: str) -> set[int]:
            seen: list[int] = []
            page = await api.get("/api/replies", limit="3", **query)
            while True:
                seen += [int(row["body"]) for row in page["replies"]]
                if page["nextCursor"] is None:
                    assert len(seen) == len(set(seen))
                    return set(seen)
                page = await api.get("/api/replies", limit="3", cursor=page["nextCursor"], **query)

        assert await found() == set(range(1, 11))
        assert await found(status="routed") == {2, 4, 6, 8, 10}
        assert await found(status="ignored", category="question") == {1, 3}
        assert await found(lead_id=str(UUID(int=1))) == set()


async def test_strangers_see_and_say_nothing(api: Client) -> None:
    for path in ("/api/replies", "/api/exclusions"):
        for method in ("GET", "POST", *(["DELETE"] if "exclusions" in path else [])):
            (await api.ask(method, path, token=None)).problem(401)
    for path, place in (
        ("replies?status=x", "status"),
        ("replies?lead_id=1", "lead_id"),
        ("exclusions?reason=x", "reason"),
    ):
        reply = await api.ask("GET", f"/api/{path}")
        reply.problem(422)
        assert reply.places == [["query", place]]


# -- exclusions


async def test_an_address_is_excluded_once_however_it_is_spelt(api: Client) -> None:
    message = await api.conn.fetchval(
        "INSERT INTO messages (to_address, channel, status, send_at)"
        " VALUES ('bob@x.example', 'email', 'scheduled', clock() + '1 day') RETURNING id"
    )
    body = {"address": "Bob <BOB@X.example>", "reason": "complaint", "source": "by phone"}
    for status in (201, 200):
        reply = await api.post("/api/exclusions", body)
        assert reply.status == status
        row = reply.json["exclusion"]
        assert row.keys() == Exclusion.model_fields.keys()
        assert (row["address"], row["reason"], row["source"]) == ("bob@x.example", "complaint", "by phone")
    assert await api.conn.fetchval("SELECT status FROM messages WHERE id = $1", message) == "cancelled"
    reply = await api.post("/api/exclusions", {"address": "+1 (555) 000-8888"})
    assert reply.json["exclusion"]["address"] == "+15550008888"
    assert reply.json["exclusion"]["reason"] == "manual"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "address"),
        ({"address": "nobody"}, "address"),
        ({"address": "07700 900123"}, "address"),
        ({"address": "a b@c"}, "address"),
        ({"address": "a@x.example", "reason": "erased"}, "reason"),
        ({"address": "a@x.example", "created_at": "2030"}, "created_at"),
    ],
)
async def test_what_is_no_address_is_not_excluded(api: Client, body: Any, place: str) -> None:
    reply = await api.post("/api/exclusions", body)
    reply.problem(422)
    assert reply.places == [[place]]


@pytest.mark.parametrize("way", ["query", "body"])
async def test_an_exclusion_may_be_lifted(api: Client, way: str) -> None:
    await api.conn.execute("INSERT INTO email_exclusions (address) VALUES ('Lift@X.example')")
    asked: dict[str, Any] = (
        {"params": {"address": "lift@x.example"}} if way == "query" else {"json": {"address": "LIFT@x.example"}}
    )
    assert (await api.ask("DELETE", "/api/exclusions", **asked)).status == 200
    (await api.ask("DELETE", "/api/exclusions", **asked)).problem(404)
    both: dict[str, Any] = {"params": {"address": "a@x.example"}, "json": {"address": "b@x.example"}}
    for options in ({}, both):
        reply = await api.ask("DELETE", "/api/exclusions", **options)
        reply.problem(422)
        assert reply.places == [["address"]]


async def test_an_exclusion_says_whom_it_covers(api: Client) -> None:
    """Mutant: `lift` answers 404 to whoever is covered by another one's words."""
    await api.conn.execute("INSERT INTO email_exclusions (address) VALUES ('07700 900777'), ('+447700900778')")
    rows = {row["address"]: row["covers"] for row in (await api.get("/api/exclusions"))["exclusions"]}
    assert rows["07700 900777"] == "every number that ends in 0900777"
    assert rows["+447700900778"] == "this address"
    reply = await api.ask("DELETE", "/api/exclusions", json={"address": "+447700900777"})
    assert "the exclusion of 07700 900777: lift that one" in reply.problem(409)["detail"]
    assert (await api.post("/api/exclusions", {"address": "+447700900777"})).status == 201
    reply = await api.ask("DELETE", "/api/exclusions", json={"address": "+447700900777"})
    assert "but that of 07700 900777" in reply.json["message"]
    for spelt, status in (("+44 7700 900778", 200), ("07700 900777", 200), ("+447700900777", 404)):
        assert (await api.ask("DELETE", "/api/exclusions", json={"address": spelt})).status == status


async def test_who_was_erased_stays_excluded(api: Client) -> None:
    """Guarantee 10. Mutant: `lift` without its look at the reason."""
    await api.conn.execute(
        "INSERT INTO email_exclusions (address, reason) SELECT erased_hash('gone@x.example'), 'erased'"
    )
    (row,) = (await api.get("/api/exclusions", reason="erased"))["exclusions"]
    assert row["address"].startswith("erased:")
    for address in ("Gone@X.example", row["address"]):
        (await api.ask("DELETE", "/api/exclusions", json={"address": address})).problem(409)
    reply = await api.post("/api/exclusions", {"address": "gone@x.example"})
    assert (reply.status, reply.json["exclusion"]["address"]) == (200, row["address"])
    assert await api.conn.fetchval("SELECT count(*) FROM email_exclusions WHERE address LIKE 'gone%'") == 0


async def test_exclusions_are_listed_newest_first_page_by_page(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute(
            """INSERT INTO email_exclusions (address, reason, created_at) SELECT i || 'ü@x.example', 'bounce',
               '2026-01-01'::timestamptz + (i / 3) * interval '1 second' FROM generate_series(1, 10) i"""
        )
        seen: list[str] = []
        page = await api.get("/api/exclusions", limit="3", reason="bounce")
        while True:
            seen += [row["address"] for row in page["exclusions"]]
            if page["nextCursor"] is None:
                break
            page = await api.get("/api/exclusions", limit="3", cursor=page["nextCursor"], reason="bounce")
        wanted = await api.conn.fetch("SELECT address FROM email_exclusions ORDER BY created_at DESC, address")
        assert seen == [row["address"] for row in wanted]
        assert (await api.get("/api/exclusions", reason="manual"))["exclusions"] == []
