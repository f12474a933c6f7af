"""The declared pipelines and the monitor of their leads, over HTTP.

Mutants that the tests of what is stuck kill (each one line of stuck.sql, tried by hand):
  `unapproved` asks for `s.position <= a.position`, or for l.stage_entered_at alone; `unsent` leaves out send_at;
  `nothing_sent` says <= 7 for the weekday, UTC for $3, run_at < d.now + interval '1 day' or m.sent_at IS NOT NULL
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from daemon.api.leads import Event
from daemon.api.pipelines import Drawn
from tests.support.api import Client, serving
from tests.support.engines import Engines
from tests.support.postgres import Server

VENDOR = "/api/pipelines/vendor_acquisition"
PARTS = ("", "/counts", "/value", "/stuck", "/activity")


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for the tests that leave it as it is."""
    dsn = await server.clone()
    async with serving(dsn) as client:
        yield client
    await server.drop(dsn)


@pytest.mark.parametrize("part", PARTS)
async def test_no_pipeline_is_shown_to_strangers_and_none_is_made_up(api: Client, part: str) -> None:
    (await api.ask("GET", f"{VENDOR}{part}", token=None)).problem(401)
    (await api.ask("GET", f"/api/pipelines/no_such{part}")).problem(404)
    reply = await api.ask("GET", f"{VENDOR}{part}?limitt=1")
    reply.problem(422)
    assert reply.places == [["query", "limitt"]]


async def test_a_pipeline_is_shown_as_it_is_declared(api: Client) -> None:
    shown = (await api.get(VENDOR))["pipeline"]
    Drawn.model_validate(shown)
    stages = {stage["name"]: stage for stage in shown["stages"]}
    assert (shown["initial"], len(stages), shown["stages"][0]["name"]) == ("NEW_LEAD", 15, "NEW_LEAD")
    assert stages["RETRY_3"]["to"] == ["OFFER_ACCEPTED", "OFFER_REJECTED", "DEAD_LEAD"]
    assert stages["RETRY_3"]["deadlines"] == [72 * 3600.0]
    assert stages["AI_CONVERSATION"]["counts_silence"] is True
    assert stages["AI_CONVERSATION"]["on_complete"] == "DEAL_VALIDATION"
    assert "bedrooms" in stages["DEAL_VALIDATION"]["required"]
    assert stages["COMPLETED"]["terminal"] is True
    assert shown["mermaid"].startswith("stateDiagram-v2")


async def test_pipelines_are_listed_by_name(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute("INSERT INTO pipelines (name, initial) VALUES ('another', 'one'), ('zebra', 'one')")
        await api.conn.execute("INSERT INTO stages (pipeline, name, position) VALUES ('zebra', 'one', 0)")
        everyone = [p["name"] for p in (await api.get("/api/pipelines"))["pipelines"]]
        assert everyone == sorted(everyone)
        seen: list[str] = []
        page = await api.get("/api/pipelines", limit="1")
        while True:
            seen += [p["name"] for p in page["pipelines"]]
            if page["nextCursor"] is None:
                break
            page = await api.get("/api/pipelines", limit="1", cursor=page["nextCursor"])
        assert seen == everyone
        (await api.ask("GET", "/api/pipelines", token=None)).problem(401)
        (await api.ask("GET", "/api/pipelines?cursor=x")).problem(422)
        zebra = (await api.get("/api/pipelines/zebra"))["pipeline"]
        assert (zebra["mermaid"], [s["name"] for s in zebra["stages"]]) == (None, ["one"])


async def test_every_stage_is_counted_the_empty_ones_too(dsn: str) -> None:
    async with serving(dsn) as api:
        empty = await api.get(f"{VENDOR}/counts")
        assert (len(empty["counts"]), set(empty["counts"].values()), empty["total"]) == (15, {0}, 0)
        assert next(iter(empty["counts"])) == "NEW_LEAD"
        for stage in ("DUE_DILIGENCE", "DUE_DILIGENCE", "COMPLETED"):
            await api.lead(stage=stage)
        await api.conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE stage = 'DUE_DILIGENCE'")
        counts = await api.get(f"{VENDOR}/counts")
        assert {s: n for s, n in counts["counts"].items() if n} == {"COMPLETED": 1, "DEAD_LEAD": 2}
        assert counts["total"] == 3


async def test_offers_are_worth_what_is_open_and_what_was_completed(dsn: str) -> None:
    async with serving(dsn) as api:
        for stage, offer in (
            ("DUE_DILIGENCE", 100_000.5), ("OFFER_ACCEPTED", "50000"), ("COMPLETED", 70_000), ("DEAD_LEAD", 1),
            ("DUE_DILIGENCE", "a lot"), ("DUE_DILIGENCE", None), ("DUE_DILIGENCE", {"x": 1}), ("COMPLETED", 1e300),
        ):  # fmt: skip
            await api.lead(stage=stage, data={"offer_amount": offer})
        await api.lead(
            stage="DUE_DILIGENCE", tier="high", data={"savings_low": 100, "savings_mid": 200, "savings_high": 300}
        )
        await api.lead(stage="DUE_DILIGENCE", tier="low", data={"savings_mid": 1000})
        value = (await api.get(f"{VENDOR}/value"))["value"]
        assert (value["open"], value["completed"]) == (150_000.5, 70_000)
        assert value["savings"]["open"] == pytest.approx({"low": 24, "mid": 48, "high": 72})
        assert value["savings"]["contingency_fee"] == 0.24


async def test_what_has_happened_is_told_newest_first_page_by_page(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute("INSERT INTO pipelines (name, initial) VALUES ('other', 'one')")
        await api.conn.execute("INSERT INTO stages (pipeline, name, position) VALUES ('other', 'one', 0)")
        await api.lead(pipeline="other", stage="one")
        leads = [str(await api.lead(stage="DUE_DILIGENCE")) for _ in range(5)]
        await api.quiet()
        seen: list[dict[str, Any]] = []
        page = await api.get(f"{VENDOR}/activity", limit="2")
        while True:
            seen += page["events"]
            if page["nextCursor"] is None:
                break
            page = await api.get(f"{VENDOR}/activity", limit="2", cursor=page["nextCursor"])
        assert all(Event.model_validate(event) for event in seen)
        assert [e["lead_id"] for e in seen if e["event_type"] == "created"] == leads[::-1]
        assert len({e["id"] for e in seen}) == len(seen)


# -- stuck


async def found(api: Client) -> dict[str, Any]:
    return {one.pop("check"): one for one in (await api.get(f"{VENDOR}/stuck"))["stuck"]}


async def test_nothing_is_stuck_where_all_goes_well(api: Client) -> None:
    await api.lead(stage="DUE_DILIGENCE")
    assert await found(api) == {}


async def test_what_is_stuck_is_told_with_its_threshold(dsn: str) -> None:
    async with serving(dsn) as api:
        old = "clock() - interval '25 hours'"
        await api.lead(stage="DUE_DILIGENCE", needs_review=True)
        review = await api.lead(stage="DUE_DILIGENCE", needs_review=True)
        late = await api.lead(stage="DUE_DILIGENCE")
        entry = await api.lead(stage="DUE_DILIGENCE")
        await api.quiet()
        await api.task("dead", kind="vendor_acquisition.NEW_LEAD", key=f"lead:{entry}")
        await api.conn.execute("SET session_replication_role = replica")
        await api.conn.execute(f"UPDATE leads SET updated_at = {old} WHERE id = $1", review)
        await api.conn.execute("UPDATE leads SET deadline_at = clock() - interval '16 minutes' WHERE id = $1", late)
        await api.conn.execute("INSERT INTO tasks (kind, key, status) VALUES ('of-nobody', $1, 'dead')", f"lead:{late}")
        await api.conn.execute(
            f"UPDATE leads SET stage = 'NEW_LEAD', entry_pending = true, stage_entered_at = {old} WHERE id = $1", entry
        )
        await api.conn.execute("SET session_replication_role = origin")
        stuck = await found(api)
        assert {check: (one["count"], one["threshold"]) for check, one in stuck.items()} == {
            "new": (1, 24), "review": (1, 24), "entry_dead": (1, 0), "deadline": (1, 0.25)
        }  # fmt: skip
        assert stuck["new"]["message"] == "1 lead still in the first stage for more than 24 h"


async def test_the_thresholds_are_settings(dsn: str) -> None:
    async with serving(dsn, STUCK__REVIEW_H="0.25", STUCK__DEADLINE_MIN="90") as api:
        lead = await api.lead(stage="DUE_DILIGENCE", needs_review=True)
        await api.quiet()
        await api.conn.execute("SET session_replication_role = replica")
        await api.conn.execute("UPDATE leads SET updated_at = clock() - interval '16 minutes' WHERE id = $1", lead)
        assert {check: one["threshold"] for check, one in (await found(api)).items()} == {"review": 0.25}


async def shift(api: Client, **by: float) -> None:
    """Only the clock moves."""
    await api.conn.fetchval("SELECT shift_clock($1)", timedelta(**by))


async def at(api: Client, zone: str, **since_monday: float) -> None:
    """The clock moves to a time of next week, as its business counts it."""
    monday = "(date_trunc('week', clock() AT TIME ZONE $1) + interval '7 days' + $2) AT TIME ZONE $1"
    await api.conn.fetchval(f"SELECT shift_clock({monday} - clock())", zone, timedelta(**since_monday))


async def scheduled(api: Client, lead: UUID, status: str = "scheduled", due_in: timedelta = timedelta()) -> UUID:
    """An approved message."""
    made: UUID = await api.conn.fetchval(
        "INSERT INTO messages (lead_id, template, status, send_at) VALUES ($1, 'VIDEO', $2, clock() + $3) RETURNING id",
        lead, status, due_in,
    )  # fmt: skip
    await api.quiet()
    return made


async def test_a_lead_of_tier_high_is_stuck_once_it_has_waited_too_long_for_its_approval(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute("INSERT INTO pipelines (name, initial) VALUES ('asks', 'new')")
        stages = "INSERT INTO stages (pipeline, name, position) SELECT 'asks', * FROM unnest($1::text[], $2::int[])"
        await api.conn.execute(stages, ["new", "scored", "approved"], [0, 1, 2])
        of = {"pipeline": "asks", "stage": "scored"}
        await api.lead(**of, tier="high")
        longer_ago = await api.conn.fetchval("SELECT clock() - interval '1 hour'")
        await api.lead(**of, tier="high", scored_at=longer_ago)
        await api.lead(**of, tier="medium")
        await api.lead(**of, tier="high", approved_at=longer_ago)
        await api.lead(pipeline="asks", stage="approved", tier="high")
        await api.lead(stage="DUE_DILIGENCE", tier="high")

        async def stuck(name: str = "asks") -> list[tuple[str, int, float]]:
            path = f"/api/pipelines/{name}/stuck"
            return [(one["check"], one["count"], one["threshold"]) for one in (await api.get(path))["stuck"]]

        await shift(api, hours=46, minutes=59)
        assert await stuck() == []
        await shift(api, minutes=2)
        assert await stuck() == [("unapproved", 1, 48)]
        await shift(api, hours=1)
        assert await stuck() == [("unapproved", 2, 48)]
        assert await stuck("vendor_acquisition") == []


async def test_an_approved_message_is_stuck_once_it_should_have_gone_out_hours_ago(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.post("/api/sending/stop", {"by": "ann"})
        lead = await api.lead(stage="DUE_DILIGENCE")
        for status in ("scheduled", "draft", "awaiting_approval"):
            await scheduled(api, lead, status)
        await scheduled(api, lead, due_in=timedelta(hours=1))
        await shift(api, hours=5, minutes=59)
        assert "unsent" not in await found(api)
        await shift(api, minutes=2)
        stuck = (await found(api))["unsent"]
        assert (stuck["count"], stuck["threshold"]) == (1, 6)
        assert stuck["message"] == "1 message approved and not sent for more than 6 h"


ZONE = "America/New_York"


@asynccontextmanager
async def business(dsn: str) -> AsyncIterator[Client]:
    """Sending is stopped in a business on the east coast, where it is Monday, nine o'clock."""
    async with Engines().serving() as engines:
        url = engines.url("sms")
        async with serving(dsn, TIMEZONE=ZONE, ENGINES__SMS__URL=url, SEND__QUIET_HOURS="") as api:
            await api.post("/api/sending/stop", {"by": "ann"})
            await at(api, ZONE, hours=9)
            yield api


async def nothing_sent(api: Client) -> int | None:
    """How many messages were due on a day on which nothing has been sent."""
    told = (await found(api)).get("nothing_sent")
    return told["count"] if told else None


async def test_a_weekday_without_a_message_is_told_once_one_has_been_due_for_an_hour(dsn: str) -> None:
    async with business(dsn) as api:
        lead = await api.lead(stage="DUE_DILIGENCE")
        await scheduled(api, lead)
        await scheduled(api, lead, due_in=timedelta(hours=3))
        await shift(api, minutes=59)
        assert await nothing_sent(api) is None
        await shift(api, minutes=2)
        stuck = (await found(api))["nothing_sent"]
        assert (stuck["count"], stuck["threshold"]) == (1, 1)
        assert stuck["message"] == "1 message due for more than 1 h, and nothing sent today"
        await at(api, ZONE, days=-6, hours=0.9)
        assert await nothing_sent(api) is None, "Tuesday is young: since midnight it has been due for less than an hour"
        await at(api, ZONE, days=-6, hours=1.1)
        assert await nothing_sent(api) == 2
        await at(api, ZONE, days=-2, hours=1)
        assert await nothing_sent(api) is None, "it is Saturday, 01:00; in UTC, too, but earlier it was Friday"
        await at(api, ZONE, days=-1, hours=23.9)
        assert await nothing_sent(api) is None, "it is Sunday still, while UTC has had Monday for hours"


async def test_one_message_that_went_out_today_is_enough(dsn: str) -> None:
    async with business(dsn) as api:
        first = await scheduled(api, await api.lead(stage="DUE_DILIGENCE"))
        await shift(api, hours=2)
        assert await nothing_sent(api) == 1
        await api.post("/api/sending/resume")
        await api.quiet()
        assert await api.conn.fetchval("SELECT status FROM messages WHERE id = $1", first) == "sent"
        await api.post("/api/sending/stop", {"by": "ann"})
        await scheduled(api, await api.lead(stage="DUE_DILIGENCE", phone="+15550001235"))
        await shift(api, hours=2)
        assert await nothing_sent(api) is None
        await shift(api, days=1)
        assert await nothing_sent(api) == 1, "that was yesterday"


async def test_a_message_that_waits_for_a_time_later_today_is_not_due_yet(dsn: str) -> None:
    async with business(dsn) as api:
        await scheduled(api, await api.lead(stage="DUE_DILIGENCE"))
        await shift(api, hours=2)
        put_off = "UPDATE tasks SET run_at = clock() + $1 WHERE kind = 'message'"
        await api.conn.execute(put_off, timedelta(hours=10))
        assert await nothing_sent(api) is None
        await api.conn.execute(put_off, timedelta(hours=14))
        assert await nothing_sent(api) == 1, "that is tomorrow"


async def test_what_failed_today_was_due_as_well(dsn: str) -> None:
    async with business(dsn) as api:
        lead = await api.lead(stage="DUE_DILIGENCE")
        failed = await scheduled(api, lead, "failed")
        dead = "INSERT INTO tasks (kind, key, payload, status) VALUES ('message', $1, $2, 'dead')"
        await api.conn.execute(dead, f"lead:{lead}", {"message_id": str(failed), "lead_id": str(lead)})
        await api.conn.execute(dead, None, {"message_id": "no id at all"})
        await shift(api, hours=1.1)
        assert await nothing_sent(api) == 1
        await shift(api, days=1)
        assert await nothing_sent(api) is None
