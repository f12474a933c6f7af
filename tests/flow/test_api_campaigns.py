"""Campaigns over HTTP: a document goes in byte for byte, runs come out, and what is refused is told whole.

Mutants that these tests kill (each one line, tried by hand):
  catalogue: `delete` without `deleted_at`; `_raise` with 409 for the budget; `replace` without `work_out`
  runs.sql: `emails_sent` without own sends; endpoints: `placed` without the origin's port
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from campaigns import library
from tests.support.api import Client, Reply, serving
from tests.support.engines import Asked, Engines, Hangs, Refuses, Result
from tests.support.postgres import Server
from tests.support.processes import until

WEEKLY = library.shipped("weekly-restaurant") or b""
NAMES = ("prospecting", "analysis", "outreach", "contacts")
NOBODY = "00000000-0000-0000-0000-000000000000"
OVER = ("completed", "partial", "failed", "aborted", "cancelled")
RESULTS: Mapping[tuple[str, str], Result] = {
    ("prospecting", "/api/prospect"): {
        "found": 20, "verified": 18, "cost": 1.37, "timeMs": 41_000, "prospects": [{"id": "p1", "name": "Roma"}],
    },
    ("analysis", "/api/analyze"): {"analyzed": 18, "cost": 0.62},
    ("outreach", "/api/compose-batch"): {"composed": 15, "cost": 0.33},
    ("outreach", "/api/send-batch"): {"sent": 14, "failed": 1, "cost": 0.01},
}  # fmt: skip


class Suite(Engines):
    """The engines of campaigns, with results that look like real ones."""

    def _usual(self, asked: Asked) -> Result:
        return dict(RESULTS.get((asked.engine, asked.operation), {"cost": 0.05}))


@dataclass(frozen=True, slots=True)
class Campaigns:
    """A daemon that serves, and the engines that it calls."""

    api: Client
    engines: Suite

    async def create(self, document: Mapping[str, Any] | bytes) -> Any:
        """Post a document, which must be accepted; the campaign."""
        data = document if isinstance(document, bytes) else orjson.dumps(document)
        reply = await self.api.ask("POST", "/api/campaigns", data=data)
        assert reply.status == 201, reply.raw
        return reply.json["campaign"]

    async def run(self, campaign: str, **wish: Any) -> Any:
        """Start a run and wait for its end."""
        reply = await self.api.post(f"/api/campaigns/{campaign}/run", wish)
        assert reply.status == 202, reply.raw
        return await self.ended(reply.json["runId"])

    async def ended(self, run: str) -> Any:
        """The run, once it has ended."""

        async def over() -> Any:
            found = (await self.api.get(f"/api/runs/{run}"))["run"]
            return found if found["status"] in OVER else None

        return await until(over, 10.0, "the run's end")

    async def begun(self, campaign: str, engine: str, hangs: Hangs) -> str:
        """A run that has come to a call of this engine."""
        self.engines.on(engine, hangs)
        reply = await self.api.post(f"/api/campaigns/{campaign}/run")
        async with asyncio.timeout(10.0):
            await hangs.started.wait()
        run: str = reply.json["runId"]
        return run

    async def to(self, moment: str) -> None:
        """Business time goes on to that moment; it never goes back."""
        await self.api.conn.execute("SELECT shift_clock($1 - clock())", datetime.fromisoformat(moment).astimezone(UTC))


@asynccontextmanager
async def campaigns(dsn: str, **settings: str) -> AsyncIterator[Campaigns]:
    """A daemon with its engines."""
    async with Suite().serving() as engines:
        assert isinstance(engines, Suite)
        urls = {f"ENGINES__{name.upper()}__URL": engines.url(name) for name in NAMES}
        chosen: dict[str, Any] = {"WORKER__PULSE_S": "0.05", **urls, **settings}
        async with serving(dsn, **chosen) as api:
            yield Campaigns(api, engines)


@pytest.fixture(scope="module")
async def c(server: Server) -> AsyncIterator[Campaigns]:
    """One daemon for the tests that mind their own campaigns."""
    dsn = await server.clone()
    async with campaigns(dsn) as found:
        yield found
    await server.drop(dsn)


def small(name: str, **more: Any) -> dict[str, Any]:
    """A campaign of one step."""
    return {"name": name, "steps": [{"engine": "prospecting"}], **more}


# -- the path: a document, a run, four steps


async def test_the_weekly_document_is_taken_as_it_is_and_runs_through(dsn: str) -> None:
    async with campaigns(dsn) as c:
        await c.to("2026-12-01T12:00:00+00:00")
        made = await c.create(WEEKLY)
        assert made.keys() == {"id", "name", "status", "nextRun"}
        assert made["name"] == "Weekly Restaurant Outreach - Philadelphia"
        assert (made["status"], made["nextRun"]) == ("active", "2026-12-07T14:00:00+00:00")

        run = await c.run(made["id"])
        assert [(s["name"], s["status"], s["attempts"]) for s in run["steps"]] == [
            ("prospecting", "completed", 1), ("analysis", "completed", 1), ("outreach-compose", "completed", 1),
            ("send-emails", "completed", 1),
        ]  # fmt: skip
        assert [s["cost"] for s in run["steps"]] == [1.37, 0.62, 0.33, 0.01]
        document = orjson.loads(WEEKLY)
        assert [a.body for a in c.engines.asked] == [step["params"] for step in document["steps"]]
        assert [(a.engine, a.operation) for a in c.engines.asked] == list(RESULTS)

        (row,) = (await c.api.get(f"/api/campaigns/{made['id']}/runs"))["runs"]
        figures = ("prospects_generated", "leads_analyzed", "emails_sent", "total_cost")
        assert {name: row[name] for name in figures} == dict(zip(figures, (20, 18, 14, 2.33), strict=True))
        assert (row["status"], row["steps_completed"], row["steps_failed"], row["errors"]) == ("completed", 4, 0, [])
        assert isinstance(row["total_cost"], float)
        (listed,) = (await c.api.get("/api/campaigns"))["campaigns"]
        assert (listed["schedule"], listed["totalRuns"], listed["totalCost"]) == ("0 9 * * MON", 1, 2.33)
        assert listed["lastRun"] == row["started_at"]

        whole = (await c.api.get(f"/api/campaigns/{made['id']}"))["campaign"]
        assert whole["config"] == document
        assert (whole["schedule_timezone"], whole["description"]) == ("America/New_York", document["description"])


async def test_a_campaign_answers_to_its_name_as_to_its_id(dsn: str) -> None:
    """Mutant: CampaignId whose id is a UUID only."""
    async with campaigns(dsn) as c:
        made = await c.create(small("Café / 50 %"))
        other = await c.create(small(made["id"]))  # an id counts as one, whoever is called so
        one = "/api/campaigns/Caf%C3%A9%20%2F%2050%20%25"
        for path, found in ((one, made), (f"/api/campaigns/{made['id']}", made)):
            assert (await c.api.get(path))["campaign"]["id"] == found["id"]
        run = await c.api.post(f"{one}/run", {})
        assert run.status == 202
        await c.ended(run.json["runId"])
        assert [r["id"] for r in (await c.api.get(f"{one}/runs"))["runs"]] == [run.json["runId"]]
        for method, path in (("PUT", f"{one}/pause"), ("PUT", f"{one}/resume"), ("DELETE", one)):
            assert (await c.api.ask(method, path)).status == 200
        assert "Café" in (await c.api.ask("GET", one)).problem(404)["detail"]
        assert (await c.api.get(f"/api/campaigns/{other['id']}"))["campaign"]["name"] == made["id"]


async def test_the_next_run_is_monday_nine_in_new_york_over_a_clock_change(dsn: str) -> None:
    async with campaigns(dsn) as c:
        await c.to("2027-03-08T14:30:00+00:00")  # a Monday; the clocks go forward on the 14th
        made = await c.create(WEEKLY)
        assert made["nextRun"] == "2027-03-15T13:00:00+00:00"
        await c.to("2027-03-15T13:00:01+00:00")
        runs = await until(lambda: _runs(c, made["id"]), 10.0, "the slot fires")
        assert (runs[0]["trigger"], runs[0]["scheduled_for"]) == ("schedule", "2027-03-15T13:00:00+00:00")
        assert (await c.ended(runs[0]["id"]))["status"] == "completed"
        assert (await c.api.get(f"/api/campaigns/{made['id']}"))["campaign"]["nextRun"] == "2027-03-22T13:00:00+00:00"
        await c.to("2027-11-05T12:00:00+00:00")  # the clocks go back on the 7th
        again = await c.create(small("Autumn", schedule={"cron": "0 9 * * MON", "timezone": "America/New_York"}))
        assert again["nextRun"] == "2027-11-08T14:00:00+00:00"


async def _runs(c: Campaigns, campaign: str) -> Any:
    return (await c.api.get(f"/api/campaigns/{campaign}/runs"))["runs"]


async def test_what_a_run_sends_itself_counts_with_what_its_engines_say(dsn: str) -> None:
    async with campaigns(dsn) as c:
        made = await c.create(WEEKLY)
        run = await c.run(made["id"])
        lead = await c.api.lead(email="ann@leads.example")
        await c.api.conn.execute(
            """INSERT INTO messages (lead_id, run_id, channel, to_address, body, status)
               SELECT $1, $2, 'email', 'ann@leads.example', 'b', unnest('{sent,sent,failed}'::text[])""",
            lead, UUID(run["id"]),
        )  # fmt: skip
        assert (await _runs(c, made["id"]))[0]["emails_sent"] == 16


async def test_health_counts_campaigns_and_the_slots_of_a_day(dsn: str) -> None:
    async with campaigns(dsn) as c:
        await c.to("2026-12-01T12:00:00+00:00")
        await c.create(small("daily", schedule="0 9 * * *"))
        await c.create(small("by hand"))
        await c.create(WEEKLY)
        off = await c.create(small("off", schedule="0 9 * * *"))
        await c.api.ask("PUT", f"/api/campaigns/{off['id']}/pause")
        gone = await c.create(small("gone", schedule="0 9 * * *"))
        await c.api.ask("DELETE", f"/api/campaigns/{gone['id']}")

        async def told() -> bool:
            health = await c.api.get("/api/health")
            return (health["activeCampaigns"], health["scheduledRuns"]) == (3, 1)

        await until(told, 5.0, "the counts")


async def test_a_dry_run_calls_nobody(c: Campaigns) -> None:
    made, before = await c.create({**orjson.loads(WEEKLY), "name": "dry"}), len(c.engines.asked)
    run = await c.run(made["id"], dryRun=True)
    assert (run["status"], run["dry_run"], run["total_cost"]) == ("completed", True, 0)
    assert run["results"] == {step["name"]: {"dryRun": True} for step in run["steps"]}
    assert len(c.engines.asked) == before


async def test_inputs_are_checked_and_passed_on(c: Campaigns) -> None:
    inputs = {"industry": {"type": "string", "required": True}, "count": {"type": "integer", "default": 3}}
    steps = [{"engine": "prospecting", "params": {"what": {"$ref": "inputs.industry"}, "n": {"$ref": "inputs.count"}}}]
    made = await c.create({"name": "with inputs", "inputs": inputs, "steps": steps})
    reply = await c.api.post(f"/api/campaigns/{made['id']}/run", {"inputs": {"count": "two", "more": 1}})
    assert reply.problem(422)
    assert sorted(reply.places) == [["inputs", "count"], ["inputs", "industry"], ["inputs", "more"]]
    assert await _runs(c, made["id"]) == []
    run = await c.run(made["id"], inputs={"industry": "Retail"})
    assert run["inputs"] == {"industry": "Retail", "count": 3}
    assert c.engines.asked[-1].body == {"what": "Retail", "n": 3}


# -- what can't start now


async def test_a_run_that_is_going_on_keeps_others_out_forced_or_not(c: Campaigns) -> None:
    made, hangs = await c.create(small("slow")), Hangs()
    run = await c.begun(made["id"], "prospecting", hangs)
    for wish in ({}, {"force": True}):
        problem = (await c.api.post(f"/api/campaigns/{made['id']}/run", wish)).problem(409)
        assert "going on" in problem["detail"]
    hangs.release()
    assert (await c.ended(run))["status"] == "completed"
    c.engines.well("prospecting")


async def test_of_many_who_start_a_run_at_once_one_does(c: Campaigns) -> None:
    made, hangs = await c.create(small("contended")), Hangs()
    c.engines.on("prospecting", hangs)
    replies = await asyncio.gather(*(c.api.post(f"/api/campaigns/{made['id']}/run") for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [202] + [409] * 7
    hangs.release()
    (run,) = await _runs(c, made["id"])
    assert (await c.ended(run["id"]))["status"] == "completed"
    c.engines.well("prospecting")


async def test_a_person_pauses_and_forces_and_resumes(c: Campaigns) -> None:
    made = await c.create(small("paused", schedule="0 9 * * *"))
    one = f"/api/campaigns/{made['id']}"
    reply = await c.api.ask("PUT", f"{one}/pause", json={"reason": "holidays"})
    assert (reply.status, reply.json) == (200, {"success": True, "status": "paused"})
    shown = (await c.api.get(one))["campaign"]
    assert (shown["nextRun"], shown["resume_at"], shown["paused_reason"]) == (None, None, "by a person: holidays")
    problem = (await c.api.post(f"{one}/run")).problem(409)
    assert "by a person: holidays" in problem["detail"]
    assert (await c.run(made["id"], force=True))["status"] == "completed"
    assert (await c.api.get(one))["campaign"]["status"] == "paused"
    reply = await c.api.ask("PUT", f"{one}/resume")
    assert (reply.status, reply.json) == (200, {"success": True, "status": "active"})
    shown = (await c.api.get(one))["campaign"]
    assert (shown["nextRun"], shown["paused_reason"]) == (made["nextRun"], None)
    assert (await c.api.ask("PUT", f"{one}/resume")).status == 200


async def test_an_estimate_that_does_not_fit_is_402_also_when_forced_paused_or_busy(c: Campaigns) -> None:
    dear = small("dear", budget={"daily": 1}, steps=[{"engine": "prospecting", "cost": 1.5}])
    made = await c.create(dear)
    for wish in ({}, {"force": True}):
        assert "daily" in (await c.api.post(f"/api/campaigns/{made['id']}/run", wish)).problem(402)["detail"]
    await c.api.ask("PUT", f"/api/campaigns/{made['id']}/pause")
    (await c.api.post(f"/api/campaigns/{made['id']}/run")).problem(402)
    assert await _runs(c, made["id"]) == []
    assert (await c.run(made["id"], dryRun=True, force=True))["status"] == "completed"


async def test_a_spent_budget_pauses_with_another_reason_than_a_person(c: Campaigns) -> None:
    steps = [{"engine": "prospecting", "cost": 1.37}, {"engine": "analysis", "cost": 0.62}]
    made = await c.create({"name": "short of money", "budget": {"daily": 1.5}, "steps": steps})
    one = f"/api/campaigns/{made['id']}"
    run = await c.run(made["id"])
    assert (run["status"], run["total_cost"]) == ("aborted", 1.37)
    assert [s["status"] for s in run["steps"]] == ["completed", "cancelled"]
    shown = (await c.api.get(one))["campaign"]
    assert shown["status"] == "paused"
    assert "daily budget" in shown["paused_reason"]
    assert shown["resume_at"] is not None
    for wish in ({}, {"force": True}):
        problem = (await c.api.post(f"{one}/run", wish)).problem(402)
        assert "daily budget" in problem["detail"]
    # A person who pauses it, too, has the last word: it doesn't resume by itself any more.
    await c.api.ask("PUT", f"{one}/pause")
    shown = (await c.api.get(one))["campaign"]
    assert (shown["paused_reason"], shown["resume_at"]) == ("by a person", None)


# -- replace, delete


async def test_a_replaced_document_rules_the_next_run_only(c: Campaigns) -> None:
    made, hangs = await c.create(small("edited", schedule="0 9 * * *")), Hangs()
    one = f"/api/campaigns/{made['id']}"
    run = await c.begun(made["id"], "prospecting", hangs)
    new = {"name": "edited anew", "schedule": "0 0 1 1 *", "steps": [{"engine": "analysis"}]}
    reply = await c.api.ask("PUT", one, json=new)
    assert reply.status == 200
    january = f"{datetime.now(UTC).year + 1}-01-01T00:00:00+00:00"
    assert reply.json["campaign"] == {"id": made["id"], "name": "edited anew", "status": "active", "nextRun": january}
    hangs.release()
    assert [s["name"] for s in (await c.ended(run))["steps"]] == ["prospecting"]
    c.engines.well("prospecting")
    assert [s["name"] for s in (await c.run(made["id"]))["steps"]] == ["analysis"]
    assert (await c.api.get(one))["campaign"]["config"] == new


async def test_a_name_is_taken_once(c: Campaigns) -> None:
    first, second = await c.create(small("taken")), await c.create(small("free"))
    problem = (await c.api.ask("POST", "/api/campaigns", json=small("taken"))).problem(409)
    assert problem["id"] == first["id"]
    assert first["id"] in problem["detail"]
    problem = (await c.api.ask("PUT", f"/api/campaigns/{second['id']}", json=small("taken"))).problem(409)
    assert problem["id"] == first["id"]
    await c.api.ask("DELETE", f"/api/campaigns/{first['id']}")
    assert (await c.create(small("taken")))["id"] != first["id"]


async def test_a_deleted_campaign_has_a_past_and_no_future(c: Campaigns) -> None:
    made, hangs = await c.create(small("doomed", schedule="* * * * *")), Hangs()
    one = f"/api/campaigns/{made['id']}"
    run = await c.begun(made["id"], "prospecting", hangs)
    reply = await c.api.ask("DELETE", one)
    assert (reply.status, reply.json["success"]) == (200, True)
    assert run in reply.json["message"]
    hangs.release()
    assert (await c.ended(run))["status"] == "completed"
    c.engines.well("prospecting")
    for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/run"), ("PUT", f"{one}/pause")):
        (await c.api.ask(method, path)).problem(404)
    assert made["id"] not in {row["id"] for row in (await c.api.get("/api/campaigns", limit="200"))["campaigns"]}
    assert [row["id"] for row in await _runs(c, made["id"])] == [run]


async def test_what_is_not_there_is_not_found(c: Campaigns) -> None:
    one, run = f"/api/campaigns/{NOBODY}", f"/api/runs/{NOBODY}"
    for method, path in (
        ("GET", one), ("DELETE", one), ("POST", f"{one}/run"), ("PUT", f"{one}/pause"), ("PUT", f"{one}/resume"),
        ("GET", f"{one}/runs"), ("GET", run), ("POST", f"{run}/cancel"), ("POST", f"{run}/retry"),
    ):  # fmt: skip
        (await c.api.ask(method, path)).problem(404)
    (await c.api.ask("PUT", one, json=small("nobody's"))).problem(404)


# -- one run


async def test_a_run_is_paused_resumed_and_cancelled(c: Campaigns) -> None:
    made, hangs = await c.create({**orjson.loads(WEEKLY), "name": "handled"}), Hangs()
    run = await c.begun(made["id"], "prospecting", hangs)
    reply = await c.api.post(f"/api/runs/{run}/pause")
    assert (reply.status, reply.json["run"]["status"]) == (200, "paused")
    assert (await c.api.post(f"/api/runs/{run}/pause")).problem(409)["runStatus"] == "paused"
    hangs.release()
    c.engines.well("prospecting")
    await until(lambda: _step_is(c, run, 0, "completed"), 5.0, "the call's end")
    assert (await c.api.post(f"/api/runs/{run}/resume")).json["run"]["status"] == "running"
    assert (await c.ended(run))["status"] == "completed"
    for wish in ("pause", "resume", "cancel"):
        assert (await c.api.post(f"/api/runs/{run}/{wish}")).problem(409)["runStatus"] == "completed"


async def _step_is(c: Campaigns, run: str, position: int, status: str) -> bool:
    found: bool = (await c.api.get(f"/api/runs/{run}"))["run"]["steps"][position]["status"] == status
    return found


async def test_a_cancelled_run_is_retried_from_where_it_stood_or_from_a_step(c: Campaigns) -> None:
    made, hangs = await c.create({**orjson.loads(WEEKLY), "name": "retried"}), Hangs()
    run = await c.begun(made["id"], "analysis", hangs)
    assert (await c.api.post(f"/api/runs/{run}/retry")).problem(409)["runStatus"] == "running"
    assert (await c.api.post(f"/api/runs/{run}/cancel")).json["run"]["status"] == "cancelled"
    hangs.release()
    c.engines.well("analysis")
    reply = await c.api.post(f"/api/runs/{run}/retry", {"fromStep": "nowhere"})
    assert reply.problem(422)
    assert reply.places == [["fromStep"]]
    assert (await c.api.post(f"/api/runs/{run}/retry")).status == 200
    assert [s["status"] for s in (await c.ended(run))["steps"]] == ["completed"] * 4
    assert "fromStep" in (await c.api.post(f"/api/runs/{run}/retry")).problem(409)["detail"]
    assert (await c.api.post(f"/api/runs/{run}/retry", {"fromStep": "send-emails"})).status == 200
    assert (await c.ended(run))["status"] == "completed"


async def test_a_retry_beside_another_run_is_refused_with_its_name(c: Campaigns) -> None:
    made = await c.create(small("One at a time"))
    c.engines.on("prospecting", Refuses(400), times=1)
    failed = await c.run(made["id"])
    hangs = Hangs()
    other = await c.begun(made["id"], "prospecting", hangs)
    problem = (await c.api.post(f"/api/runs/{failed['id']}/retry")).problem(409)
    assert problem["detail"].endswith(f"can't be retried while run {other} of its campaign is going on")
    hangs.release()
    c.engines.well("prospecting")
    assert (await c.ended(other))["status"] == "completed"
    assert (await c.api.post(f"/api/runs/{failed['id']}/retry")).status == 200
    assert (await c.ended(failed["id"]))["status"] == "completed"


async def test_a_partial_run_tells_its_errors(c: Campaigns) -> None:
    c.engines.on("analysis", Refuses(400, detail="no such filter"))
    made = await c.create({**orjson.loads(WEEKLY), "name": "partial"})
    run = await c.run(made["id"])
    c.engines.well("analysis")
    (row,) = await _runs(c, made["id"])
    assert (row["status"], row["steps_completed"], row["steps_failed"]) == ("partial", 3, 1)
    assert [error["step"] for error in row["errors"]] == ["analysis"]
    assert "no such filter" in row["errors"][0]["error"]
    assert [s["status"] for s in run["steps"]] == ["completed", "failed", "completed", "completed"]


async def test_pages_show_every_run_and_campaign_once(dsn: str) -> None:
    async with campaigns(dsn) as c:
        made = [await c.create(small(f"c{n}")) for n in range(7)]
        await c.api.conn.execute(
            """INSERT INTO campaign_runs (campaign_id, status, started_at)
               SELECT $1, 'completed', '2026-01-01'::timestamptz + (n / 3) * interval '1 s'
               FROM generate_series(1, 7) n""",
            UUID(made[0]["id"]),
        )
        for path, name in (("/api/campaigns", "campaigns"), (f"/api/campaigns/{made[0]['id']}/runs", "runs")):
            seen: list[str] = []
            cursor: dict[str, str] = {}
            while True:
                page = await c.api.get(path, limit="3", **cursor)
                seen += [row["id"] for row in page[name]]
                if page["nextCursor"] is None:
                    break
                cursor = {"cursor": page["nextCursor"]}
            assert len(seen) == len(set(seen)) == 7


# -- documents that are refused


async def _refused(c: Campaigns, data: bytes) -> Reply:
    before = await c.api.conn.fetchval("SELECT count(*) FROM campaigns")
    reply = await c.api.ask("POST", "/api/campaigns", data=data)
    reply.problem(422)
    assert await c.api.conn.fetchval("SELECT count(*) FROM campaigns") == before
    return reply


async def test_everything_wrong_with_a_document_is_told_at_once_and_nothing_is_kept(c: Campaigns) -> None:
    document = {
        "name": "", "shedule": "0 9 * * MON", "schedule": {"cron": "0 0 31 2 *", "timezone": "Mars/Phobos"},
        "budget": {"daily": -1},
        "steps": [
            {"engine": "prospecting", "retry": {"attempts": 0}, "params": {"a": {"$ref": "inputs.nothing"}}},
            {"engine": "no-such-engine", "endpoint": "/api/x"},
            {"name": "prospecting", "engine": "analysis", "params": {"b": {"$ref": "steps.later.c"}}},
        ],
    }  # fmt: skip
    reply = await _refused(c, orjson.dumps(document))
    places = [tuple(place) for place in reply.places]
    assert {
        ("name",), ("shedule",), ("schedule", "cron"), ("schedule", "timezone"), ("budget", "daily"),
        ("steps", 0, "retry", "attempts"), ("steps", 0, "params", "a", "$ref"), ("steps", 1, "engine"),
        ("steps", 2, "name"), ("steps", 2, "params", "b", "$ref"),
    } <= set(places)  # fmt: skip
    assert len(places) == len(set(places))


@pytest.mark.parametrize("data", [b"{", b"", b"null", b"[]", b'{"name": "x"', b"\xff", b'{"name": NaN}'])
async def test_what_is_no_document_is_refused_with_its_place(c: Campaigns, data: bytes) -> None:
    reply = await _refused(c, data)
    assert reply.places == ([[]] if data else [["name"], ["steps"]])


async def test_names_given_twice_are_refused(c: Campaigns) -> None:
    reply = await _refused(c, b'{"name": "a", "name": "b", "steps": [{"engine": "prospecting"}]}')
    assert reply.places == [["name"]]


async def test_a_refused_replacement_changes_nothing(c: Campaigns) -> None:
    made = await c.create(small("stays"))
    one = f"/api/campaigns/{made['id']}"
    reply = await c.api.ask("PUT", one, data=b'{"name": "gone", "steps": []}')
    assert reply.problem(422)
    assert (await c.api.get(one))["campaign"]["config"] == small("stays")


# -- no way to anywhere but the engines


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://localhost:3010@evil.example/api/prospect",
        "http://localhost:3010.evil.example/api/prospect",
        "http://localhost:3011/api/prospect",  # another engine's
        "https://localhost:3010/api/prospect",
        "//evil.example/api",
        "/../admin\\x",
        "file:///etc/passwd",
        "http://[::1]:3010/api/prospect",
    ],
)
async def test_an_endpoint_elsewhere_is_refused_with_the_document(c: Campaigns, endpoint: str) -> None:
    document = {"name": "elsewhere", "steps": [{"engine": "prospecting", "endpoint": endpoint}]}
    reply = await _refused(c, orjson.dumps(document))
    assert reply.places == [["steps", 0, "endpoint"]]


async def test_a_redirect_is_not_followed(c: Campaigns) -> None:
    asked = len(c.engines.requests("analysis"))
    c.engines.on("prospecting", Redirects(f"{c.engines.url('analysis')}/api/analyze"))
    made = await c.create(small("redirected"))
    run = await c.run(made["id"])
    c.engines.well("prospecting")
    assert run["status"] == "failed"
    assert len(c.engines.requests("analysis")) == asked


@dataclass(frozen=True, slots=True)
class Redirects:
    """Sends the caller elsewhere."""

    to: str

    async def play(self, request: web.Request, effect: Any) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": self.to})


async def test_without_the_token_nothing_is_shown_or_done(c: Campaigns) -> None:
    made = await c.create(small("guarded"))
    one = f"/api/campaigns/{made['id']}"
    for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/run"), ("PUT", one), ("GET", f"{one}/runs")):
        (await c.api.ask(method, path, token=None)).problem(401)
    assert (await c.api.get(one))["campaign"]["status"] == "active"
