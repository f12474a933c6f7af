"""Runs that somebody or something starts: what is refused, in which order, and that one at a time is one.

Mutants that these tests kill (each one line, tried by hand):
  starting.sql: `hold` without FOR NO KEY UPDATE
  starting.py: `_start` asks whether a run is going on before it asks for the money; an event is refused as busy
  criteria.py: what can't start now isn't queued again; storing.py: a shipped campaign keeps its schedule
"""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from campaigns.starting import NotStarted, Started, start
from tests.support.campaigns import Campaigns, at, campaigns
from tests.support.engines import Hangs

INPUTS = {"industry": {"type": "string", "required": True}, "count": {"type": "integer", "default": 20}}


async def criteria(c: Campaigns, campaign: str, **of: Any) -> UUID:
    """Somebody inserts a row."""
    sql = "INSERT INTO search_criteria (campaign, criteria) VALUES ($1, $2) RETURNING id"
    found: UUID = await c.r.t.value(sql, campaign, of)
    return found


async def run_of(c: Campaigns, row: UUID) -> UUID | None:
    """The run that came of it."""
    found: UUID | None = await c.r.t.value("SELECT run_id FROM search_criteria WHERE id = $1", row)
    return found


async def trouble(c: Campaigns, row: UUID) -> str:
    """What people are told about criteria without a run."""
    await c.r.t.eventually("SELECT EXISTS (SELECT FROM alerts WHERE subject = 'criteria:' || $1::uuid)", row)
    assert await run_of(c, row) is None
    said: str = await c.r.t.value("SELECT message FROM alerts WHERE subject = 'criteria:' || $1::uuid", row)
    return said


# -- by hand


async def test_a_run_pins_the_document_and_its_inputs_with_their_defaults(dsn: str) -> None:
    async with campaigns(dsn) as c:
        step = {"engine": "prospecting", "params": {"industry": {"$ref": "inputs.industry"}}}
        ours = await c.campaign(step, inputs=INPUTS)
        run = await c.started(ours, inputs={"industry": "Retail"})
        row = await c.r.ended(run, "completed")
        assert (row["trigger"], row["inputs"]) == ("manual", {"industry": "Retail", "count": 20})
        assert row["definition"]["steps"][0]["endpoint"] == "/api/prospect"
        assert c.r.engines.asked[0].body == {"industry": "Retail"}


async def test_wrong_inputs_are_refused_with_their_places(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign(inputs=INPUTS)
        no = await c.refused(ours, inputs={"industry": 5, "colour": "red"})
        assert no.why == "inputs"
        assert {flaw.loc for flaw in no.errors} == {("inputs", "industry"), ("inputs", "colour")}
        assert await c.runs(ours) == []


async def test_a_document_that_is_no_longer_valid_is_refused_and_stops_its_campaign(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign()
        await c.edit(ours, config={"name": "Ours", "steps": [{"engine": "gone"}]})
        no = await c.refused(ours)
        assert (no.why, next(flaw.loc for flaw in no.errors)) == ("invalid", ("steps", 0, "engine"))
        assert (await c.row(ours))["status"] == "error"
        assert await c.alerts(ours) == ["CAMPAIGN_INVALID"]
        await c.edit(ours, config={"name": "Ours", "steps": [{"engine": "prospecting"}]})
        await c.started(ours)
        assert ((await c.row(ours))["status"], await c.alerts(ours)) == ("active", [])


async def test_nothing_starts_beside_a_run_that_is_going_on_not_even_by_force(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.on("prospecting", Hangs())
        ours = await c.campaign()
        await c.started(ours)
        assert (await c.refused(ours)).why == "busy"
        assert (await c.refused(ours, force=True)).why == "busy"


async def test_a_paused_campaign_starts_by_force_only_and_stays_paused(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign()
        await c.edit(ours, status="paused", paused_reason="holiday")
        no = await c.refused(ours)
        assert (no.why, no.message) == ("paused", "the campaign is paused: holiday")
        await c.r.ended(await c.started(ours, force=True), "completed")
        assert (await c.row(ours))["status"] == "paused"


async def test_what_is_deleted_or_never_was_is_unknown(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign()
        await c.edit(ours, deleted_at=at("2026-03-02 12:00"))
        assert (await c.refused(ours)).why == "unknown"
        assert (await c.refused(UUID(int=0))).why == "unknown"


async def test_money_is_asked_for_before_anything_that_will_pass(dsn: str) -> None:
    """402 before 409: spent, a run going on, and paused, all at once."""
    async with campaigns(dsn) as c:
        c.r.engines.on("prospecting", Hangs())
        ours = await c.campaign({"engine": "prospecting", "cost": 3}, budget={"daily": 5})
        await c.started(ours)
        await c.r.t.eventually("SELECT reserved = 3 FROM budget_counters")
        await c.edit(ours, status="paused")
        for force in (False, True):
            no = await c.refused(ours, force=force)
            assert (no.why, no.message) == ("budget", "the daily budget of the campaign is spent")
            assert no.until == at("2026-03-03 00:00")
        await c.edit(ours, paused_reason="spent", resume_at=at("2026-03-02 20:00"), config={
            "name": "Ours", "steps": [{"engine": "prospecting"}], "budget": {"daily": 5}})  # fmt: skip
        no = await c.refused(ours, force=True)
        assert (no.why, no.message, no.until) == ("budget", "spent", at("2026-03-02 20:00"))
        await c.edit(ours, resume_at=None)
        assert (await c.refused(ours, force=True)).why == "busy"


async def test_a_dry_run_needs_no_money(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign({"engine": "prospecting", "cost": 6}, budget={"daily": 5})
        assert (await c.refused(ours)).why == "budget"
        row = await c.r.ended(await c.started(ours, dry_run=True), "completed")
        assert (row["dry_run"], c.r.engines.asked) == (True, [])


async def test_of_many_who_start_one_campaign_at_once_one_does(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.on("prospecting", Hangs())
        ours = await c.campaign()

        async def one() -> Started | NotStarted:
            async with c.r.t.session() as own:
                return await start(own, ours, trigger="manual", inputs={}, world=c.world)

        came = await asyncio.gather(*(one() for _ in range(12)))
        assert sum(isinstance(each, Started) for each in came) == 1
        assert {each.why for each in came if isinstance(each, NotStarted)} == {"busy"}


# -- by an event


async def test_criteria_start_a_run_of_the_campaign_that_they_name(dsn: str) -> None:
    async with campaigns(dsn) as c:
        step = {"engine": "prospecting", "params": {"industry": {"$ref": "inputs.industry"}}}
        ours = await c.campaign(step, inputs=INPUTS, trigger={"table": "search_criteria"})
        rows = [await criteria(c, "Ours", industry=industry) for industry in ("Retail", "Food")]
        await c.settled()
        await c.over(ours)
        runs = {r["id"]: r for r in await c.runs(ours)}
        assert [runs[await run_of(c, row)]["inputs"]["industry"] for row in rows] == ["Retail", "Food"]
        assert {r["trigger"] for r in runs.values()} == {"event"}


async def test_an_event_waits_for_no_other_run(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.on("prospecting", Hangs())
        ours = await c.campaign()
        rows = [await criteria(c, "Ours") for _ in range(3)]
        await c.r.t.eventually("SELECT count(*) = 3 FROM campaign_runs WHERE status = 'running'")
        assert len({await run_of(c, row) for row in rows} - {None}) == 3
        assert (await c.refused(ours)).why == "busy"


async def test_a_campaign_may_be_given_all_of_the_criteria_as_one_input(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign(inputs={"criteria": {"type": "object"}})
        await criteria(c, "Ours", city="Berlin", size=[1, 2])
        await c.settled()
        assert [r["inputs"] for r in await c.runs(ours)] == [{"criteria": {"city": "Berlin", "size": [1, 2]}}]


async def test_a_shipped_campaign_is_imported_once_its_schedule_off(dsn: str) -> None:
    async with campaigns(dsn) as c:
        rows = [await criteria(c, "weekly-restaurant") for _ in range(2)]
        await c.settled()
        [campaign] = await c.r.t.sql("SELECT * FROM campaigns")
        assert campaign["name"] == "Weekly Restaurant Outreach - Philadelphia"
        assert (campaign["schedule_enabled"], campaign["config"]["schedule"]["enabled"]) == (False, False)
        assert (campaign["next_run_at"], campaign["schedule_cron"]) == (None, "0 9 * * MON")
        assert None not in {await run_of(c, row) for row in rows}


async def test_an_unknown_campaign_is_an_alert_that_says_so_and_can_be_tried_again(dsn: str) -> None:
    async with campaigns(dsn) as c:
        row = await criteria(c, "weekly-resturant")
        said = await trouble(c, row)
        assert "there is no campaign called 'weekly-resturant'; shipped are: " in said
        assert "weekly-restaurant" in said
        await c.campaign(name="weekly-resturant")
        await c.r.t.retry(await c.r.t.value("SELECT id FROM tasks WHERE status = 'dead'"))
        assert await run_of(c, row) is not None


async def test_criteria_that_are_no_inputs_are_an_alert(dsn: str) -> None:
    async with campaigns(dsn) as c:
        await c.campaign(inputs=INPUTS)
        assert "inputs.industry: is missing" in await trouble(c, await criteria(c, "Ours", count=3))


async def test_criteria_for_a_broken_campaign_stop_it_and_are_an_alert(dsn: str) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign()
        await c.edit(ours, config={"name": "Ours", "steps": [{"engine": "gone"}]})
        assert "'gone' is not configured" in await trouble(c, await criteria(c, "Ours"))
        assert (await c.row(ours))["status"] == "error"


@pytest.mark.parametrize("resume_at", [None, at("2026-03-03 00:00")], ids=["by a person", "by its budget"])
async def test_criteria_for_a_paused_campaign_wait_until_it_goes_on(dsn: str, resume_at: Any) -> None:
    async with campaigns(dsn) as c:
        ours = await c.campaign()
        await c.edit(ours, status="paused", resume_at=resume_at)
        row = await criteria(c, "Ours")
        await c.settled()
        await c.until("2026-03-02 18:00")
        assert await run_of(c, row) is None
        if resume_at is None:
            await c.edit(ours, status="active")
        await c.until("2026-03-03 00:01")
        assert await run_of(c, row) is not None
        assert await c.r.t.value("SELECT count(*) FROM alerts") == 0


async def test_an_event_that_cannot_pay_its_first_call_waits_for_the_next_day(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 4}
        ours = await c.campaign({"engine": "prospecting", "cost": 3}, budget={"daily": 5})
        rows = [await criteria(c, "Ours")]
        await c.settled()
        rows.append(await criteria(c, "Ours"))
        await c.settled()
        assert await run_of(c, rows[1]) is None
        await c.until("2026-03-03 00:00")
        assert await run_of(c, rows[1]) is not None
        assert [r["status"] for r in await c.runs(ours)] == ["completed", "completed"]
