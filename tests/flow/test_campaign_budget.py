"""Money of campaigns: what doesn't fit isn't called, what was spent too much stops everything, and people are told.

Mutants that these tests kill (each one line, tried by hand):
  budgets.py: `_fit_one` without `+ want.cost`; `fit` doesn't carry over what it has just let through
  budget.py: `over` is never true; `budgets_of` with the shortest window first; budget.sql: `warn` without NOT b.warned
  engine.py: a spent campaign budget snoozes the step; effects.sql: `campaign_paused` without resume_at
"""

from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.flow.test_api_webhooks import SECRET, Takes
from tests.flow.test_ledger import UNBALANCED
from tests.support.campaigns import Campaigns, at, campaigns
from tests.support.engines import Drops, Hangs

WATCH = """
CREATE TABLE watched (n bigint GENERATED ALWAYS AS IDENTITY, scope text, period date, held numeric);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator AS $$
BEGIN
    INSERT INTO watched (scope, period, held) VALUES (NEW.scope, NEW.period, NEW.reserved + NEW.settled);
    RETURN NULL;
END $$;
CREATE TRIGGER watching AFTER UPDATE OF reserved, settled ON budget_counters FOR EACH ROW EXECUTE FUNCTION watch()"""
LEDGER = """
SELECT c.started_at AS begins, c.started_at + c.duration_ms * interval '1 millisecond' AS ends, c.reserved_cost, c.cost
FROM engine_calls c, jsonb_each_text(c.budgets) AS b"""


def costing(cost: float, **of: Any) -> dict[str, Any]:
    """A step whose call is thought to cost that much."""
    return {"engine": "prospecting", "cost": cost, **of}


async def spent(c: Campaigns, *, window: str = "daily") -> tuple[float, float]:
    """What that window's counters hold: reserved and settled; the books agree with them."""
    assert await c.r.t.sql(UNBALANCED) == []
    sums = "coalesce(sum(reserved), 0) AS r, coalesce(sum(settled), 0) AS s"
    [row] = await c.r.t.sql(f"SELECT {sums} FROM budget_counters WHERE scope LIKE $1", f"%:{window}")
    return float(row["r"]), float(row["s"])


# -- at a limit


async def test_a_call_that_does_not_fit_ends_the_run_and_pauses_the_campaign_until_the_window_renews(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 3}
        heard = {"onBudget": {"email": "ann@example.com"}}
        steps = (costing(3), costing(3, name="second"), costing(1, name="third"))
        ours = await c.campaign(*steps, budget={"daily": 5}, notifications=heard, schedule="0 13 * * *")
        await c.until("2026-03-02 13:00")
        [run] = await c.runs(ours)
        assert run["status"] == "aborted"
        assert await c.r.steps(run["id"]) == {"prospecting": "completed", "second": "cancelled", "third": "skipped"}
        assert run["errors"] == [{"step": "second", "error": "the daily budget of the campaign is spent"}]
        assert run["results"] == {"prospecting": {"cost": 3}}
        row = await c.row(ours)
        assert (row["status"], row["paused_reason"]) == ("paused", "the daily budget of the campaign is spent")
        assert (row["resume_at"], row["next_run_at"]) == (at("2026-03-03 00:00"), None)
        [told] = await c.r.notices("budget")
        assert told["to"]["email"] == "ann@example.com"
        assert {"name": "Ours", "window": "daily", "run_id": str(run["id"])}.items() <= told["facts"].items()
        assert (await c.alerts(ours), await c.r.notices("run_failed")) == (["BUDGET_REACHED"], [])
        assert (len(c.r.engines.requests("prospecting")), await spent(c)) == (1, (0, 3))


async def test_a_campaign_goes_on_by_itself_when_its_budget_renews_in_its_own_zone(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 3}
        zone = {"cron": "0 9 * * *", "timezone": "America/New_York"}
        ours = await c.campaign(costing(3), costing(3, name="second"), budget={"daily": 5}, schedule=zone)
        await c.until("2026-03-02 14:00")
        assert (await c.row(ours))["resume_at"] == at("2026-03-03 05:00")
        await c.until("2026-03-03 04:59:50")
        assert (await c.row(ours))["status"] == "paused"
        await c.until("2026-03-03 05:00")
        row = await c.row(ours)
        assert (row["status"], row["paused_reason"], row["resume_at"]) == ("active", None, None)
        assert (row["next_run_at"], await c.alerts(ours)) == (at("2026-03-03 14:00"), [])
        await c.until("2026-03-03 14:00")
        assert await c.slots(ours) == ["2026-03-02 14:00 aborted", "2026-03-03 14:00 aborted"]


@pytest.mark.parametrize(
    ("budget", "until"),
    [
        ({"weekly": 5, "daily": 5}, "2026-03-09 00:00"),
        ({"monthly": 5, "weekly": 5, "daily": 5}, "2026-04-01 00:00"),
        ({"daily": 5, "monthly": 80}, "2026-03-05 00:00"),
    ],
)
async def test_of_several_spent_windows_the_longest_is_waited_for(
    dsn: str, budget: dict[str, float], until: str
) -> None:
    async with campaigns(dsn, "2026-03-04 12:00") as c:
        c.r.engines.answers["prospecting"] = {"cost": 3}
        ours = await c.campaign(costing(3), costing(3, name="second"), budget=budget)
        await c.r.ended(await c.started(ours), "aborted")
        assert (await c.row(ours))["resume_at"] == at(until)
        no = await c.refused(ours, force=True)
        assert (no.why, no.until) == ("budget", at(until))


async def test_a_campaign_that_a_person_paused_stays_so_and_people_are_told_all_the_same(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 3}
        ours = await c.campaign(costing(3), costing(3, name="second"), budget={"daily": 5})
        await c.edit(ours, status="paused", paused_reason="holiday")
        await c.r.ended(await c.started(ours, force=True), "aborted")
        row = await c.row(ours)
        assert (row["status"], row["paused_reason"], row["resume_at"]) == ("paused", "holiday", None)
        assert len(await c.r.notices("budget")) == 1


async def test_a_free_call_is_made_although_the_budget_is_spent_to_the_cent(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers |= {"prospecting": {"cost": 5}, "analysis": {"cost": 0}}
        ours = await c.campaign(costing(5), {"engine": "analysis"}, budget={"daily": 5})
        await c.r.ended(await c.started(ours), "completed")
        assert await spent(c) == (0, 5)


async def test_a_run_retried_after_its_budget_renewed_begins_where_it_was_stopped(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 3}
        ours = await c.campaign(costing(3), costing(3, name="second"), budget={"daily": 5})
        run = await c.started(ours)
        await c.r.ended(run, "aborted")
        await c.until("2026-03-03 00:00")
        assert await c.r.do("retry_run", run, None)
        await c.r.ended(run, "completed")
        assert len(c.r.engines.asked) == 2


# -- beyond a limit


async def test_an_answer_that_cost_too_much_is_kept_and_nothing_follows_it(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"found": 4, "cost": 6}
        ours = await c.campaign(costing(1), {"kind": "checkpoint", "name": "campaign"}, budget={"daily": 5})
        run = await c.started(ours)
        row = await c.r.ended(run, "aborted")
        assert await c.r.steps(run) == {"prospecting": "completed", "campaign": "skipped"}
        assert row["results"] == {"prospecting": {"found": 4, "cost": 6}}
        assert await c.r.balanced(run) == 6
        assert row["errors"] == [
            {"step": "prospecting", "error": "the daily budget of the campaign is overspent: 6 of 5"}
        ]
        campaign = await c.row(ours)
        assert (campaign["status"], campaign["resume_at"]) == ("paused", at("2026-03-03 00:00"))
        assert await c.alerts(ours) == ["BUDGET_OVERRUN", "BUDGET_REACHED"]
        assert (len(await c.r.notices("budget")), await c.r.notices("run_failed")) == (1, [])
        assert await c.r.t.value("SELECT count(*) FROM approval_queue") == 0
        await c.until("2026-03-03 00:00")
        assert ((await c.row(ours))["status"], await c.alerts(ours)) == ("active", [])


async def test_an_overrun_in_the_last_step_ends_the_run_as_it_was_and_pauses_the_campaign(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 6}
        ours = await c.campaign(costing(1), budget={"weekly": 5})
        await c.r.ended(await c.started(ours), "completed")
        await c.settled()
        row = await c.row(ours)
        assert (row["status"], row["resume_at"]) == ("paused", at("2026-03-09 00:00"))
        assert (len(await c.r.notices("budget")), len(await c.r.notices("run_completed"))) == (1, 1)
        assert (await c.refused(ours)).why == "budget"


@pytest.mark.parametrize("late", [False, True], ids=["waited for", "late"])
async def test_an_overrun_that_a_webhook_tells_is_booked_alerted_and_blocks_the_next_call(dsn: str, late: bool) -> None:
    """Mutant: `_above_estimate` looks at counters of engines only."""
    async with campaigns(dsn, WEBHOOKS__SIGNING_SECRET=SECRET) as c:
        c.r.engines.on("prospecting", Takes(located=False), times=1)
        ours = await c.campaign(costing(1, timeout=300 if late else 60_000), budget={"daily": 5, "monthly": 50})
        run = await c.started(ours)
        status = "SELECT EXISTS (SELECT FROM engine_calls WHERE status = $1)"
        await c.r.t.eventually(status, "unknown" if late else "reserved")
        if late:
            await c.r.ended(run, "failed")
        report = {"status": "completed", "result": {"cost": 6}}
        assert await c.r.t.running[0].daemon.engines.settle_accepted("prospecting", f"run:{run}:0", report)
        await c.settled()
        assert await spent(c) == (0, 6)
        assert await c.alerts(ours) == ["BUDGET_OVERRUN", "BUDGET_REACHED"][: 1 if late else 2]
        assert await c.r.t.value("SELECT subject FROM alerts WHERE type = 'BUDGET_OVERRUN'") == f"campaign:{ours}:daily"
        assert (await c.refused(ours)).why == "budget"


async def test_a_limit_that_was_raised_is_the_one_that_counts(dsn: str) -> None:
    """Mutant: `_locked` without limit_counters."""
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 4}
        ours = await c.campaign(costing(1), budget={"daily": 5})
        await c.r.ended(await c.started(ours), "completed")
        await c.edit(ours, config={"name": "Ours", "steps": [costing(1)], "budget": {"daily": 9}})
        await c.r.ended(await c.started(ours), "completed")
        assert (await spent(c), await c.alerts(ours)) == ((0, 8), [])
        await c.r.ended(await c.started(ours), "completed")
        assert await c.alerts(ours) == ["BUDGET_OVERRUN", "BUDGET_REACHED"]


async def test_a_lost_answer_is_charged_as_estimated(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.on("prospecting", Drops(after_effect=True))
        ours = await c.campaign(costing(4), budget={"daily": 5})
        await c.r.ended(await c.started(ours), "failed")
        assert await spent(c) == (0, 4)
        assert (await c.refused(ours)).why == "budget"


# -- near a limit


async def test_people_are_warned_once_a_window_when_four_fifths_are_spent(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 1}
        ours = await c.campaign(costing(1), budget={"daily": 10, "weekly": 11})
        for _ in range(7):
            await c.r.ended(await c.started(ours), "completed")
        assert await c.r.notices("budget_warning") == []
        for _ in range(3):
            await c.r.ended(await c.started(ours), "completed")
        told = await c.r.notices("budget_warning")
        facts = [(t["facts"]["window"], t["facts"]["spent"], t["facts"]["limit"]) for t in told]
        assert facts == [("daily", 8, 10), ("weekly", 9, 11)]
        await c.until("2026-03-09 00:00")
        for _ in range(9):
            await c.r.ended(await c.started(ours), "completed")
        assert len(await c.r.notices("budget_warning")) == 4


async def test_who_is_past_the_limit_is_not_told_that_it_is_near(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers["prospecting"] = {"cost": 6}
        await c.r.ended(await c.started(await c.campaign(costing(1), budget={"daily": 5})), "completed")
        assert (await c.r.notices("budget_warning"), len(await c.r.notices("budget"))) == ([], 1)


# -- for each prospect


async def test_too_much_for_each_prospect_ends_the_run_and_pauses_nothing(dsn: str) -> None:
    async with campaigns(dsn) as c:
        c.r.engines.answers |= {"prospecting": {"found": 10, "cost": 1}, "analysis": {"cost": 1.5}}
        steps = (costing(1), {"engine": "analysis"}, costing(1, name="third"))
        ours = await c.campaign(*steps, budget={"perLead": 0.2, "daily": 50})
        run = await c.started(ours)
        row = await c.r.ended(run, "aborted")
        assert await c.r.steps(run) == {"prospecting": "completed", "analysis": "completed", "third": "skipped"}
        assert "0.2500 dollars per lead" in row["errors"][0]["error"]
        assert ((await c.row(ours))["status"], await c.r.notices("budget")) == ("active", [])


# -- in parallel


async def test_ten_campaigns_at_once_never_pass_the_daily_budget_of_their_engine(dsn: str) -> None:
    wide = {"ENGINES__PROSPECTING__MAX_CONCURRENCY": "64", "ENGINES__PROSPECTING__DAILY_BUDGET": "12.5"}
    async with campaigns(dsn, **wide) as c:
        c.r.engines.answers["prospecting"] = {"cost": 1}
        await c.r.t.conn.execute(WATCH)
        await c.r.t.start()
        ours = [await c.campaign(*_steps(3), name=f"Campaign {n}") for n in range(10)]
        runs = [await c.started(campaign) for campaign in ours]
        await c.settled()
        assert len(c.r.engines.asked) == 12
        assert {r["status"] for campaign in ours for r in await c.runs(campaign)} <= {"running", "completed"}
        await never_too_much(c, Decimal("12.5"))
        for day in (3, 4):
            await c.until(f"2026-03-{day:02} 00:00")
        for run in runs:
            await c.r.ended(run, "completed")
        assert len({a.key for a in c.r.engines.asked}) == len(c.r.engines.asked) == 30
        await never_too_much(c, Decimal("12.5"))


def _steps(count: int) -> list[dict[str, Any]]:
    return [costing(1, name=f"step {n}") for n in range(count)]


@pytest.mark.parametrize("cost", [1, 0.4], ids=["as estimated", "cheaper"])
async def test_parallel_runs_and_enrichments_of_a_campaign_never_pass_its_budget(dsn: str, cost: float) -> None:
    wide = {"ENGINES__CONTACTS__MAX_CONCURRENCY": "64", "ENGINES__SCOUT__MAX_CONCURRENCY": "64"}
    async with campaigns(dsn, **wide) as c:
        c.r.engines.answers |= {"contacts": {"fields": {}, "cost": cost}, "scout": {"cost": 0}}
        c.r.engines.answers["scout"] |= {"companies": [{"id": f"c{n}", "name": f"Company {n}"} for n in range(30)]}
        await c.r.t.conn.execute(WATCH)
        steps = ({"engine": "scout"}, {"kind": "leads", "from": "steps.scout.companies"}, {"kind": "enrich", "cost": 1})
        ours = await c.campaign(*steps, budget={"daily": 8.5, "weekly": 100})
        begun = await _events(c, 4)
        await c.over(ours)
        await c.settled()
        await never_too_much(c, Decimal("8.5"))
        asked = [a for a in c.r.engines.asked if a.engine == "contacts"]
        assert len({a.key for a in asked}) == len(asked)
        assert (await spent(c))[0] == 0
        assert (await spent(c))[1] == pytest.approx(len(asked) * cost)
        assert {(await c.r.row(run))["status"] for run in begun} == {"aborted"}
        assert (await c.row(ours))["status"] == "paused"
        assert len(await c.r.notices("budget")) == 1


async def _events(c: Campaigns, count: int) -> list[UUID]:
    """Runs side by side, begun before any of them has spent anything; a second daemon shares them."""
    async with c.r.t.session() as own, own.transaction():
        insert = "INSERT INTO search_criteria (campaign) SELECT 'Ours' FROM generate_series(1, $1)"
        await own.execute(insert, count)
    await c.r.t.start()
    await c.r.t.eventually("SELECT bool_and(run_id IS NOT NULL) FROM search_criteria")
    return [row["run_id"] for row in await c.r.t.sql("SELECT run_id FROM search_criteria")]


async def test_what_is_being_called_when_the_budget_ends_is_booked_and_kept(dsn: str) -> None:
    async with campaigns(dsn, ENGINES__CONTACTS__MAX_CONCURRENCY="64") as c:
        slow = Hangs()
        c.r.engines.answers |= {"contacts": {"fields": {"website": "https://example.com"}, "cost": 1}}
        c.r.engines.answers["scout"] = {"cost": 0, "companies": [{"id": f"c{n}", "name": f"Co {n}"} for n in range(6)]}
        c.r.engines.on("contacts", slow)
        steps = ({"engine": "scout"}, {"kind": "leads", "from": "steps.scout.companies"}, {"kind": "enrich", "cost": 1})
        ours = await c.campaign(*steps, budget={"daily": 3})
        run = await c.started(ours)
        await c.r.ended(run, "aborted")
        assert await spent(c) == (3, 0)
        slow.release()
        await c.settled()
        assert await spent(c) == (0, 3)
        assert await c.r.balanced(run) == 3
        assert await c.r.t.value("SELECT count(*) FROM leads WHERE data ->> 'website' IS NOT NULL") == 3
        assert (await c.row(ours))["total_cost"] == 3


async def never_too_much(c: Campaigns, most: Decimal) -> None:
    """No counter was ever above it, neither in the order of its versions nor in that of the ledger's times."""
    assert await c.r.t.sql(UNBALANCED) == []
    limited = [v for v in await c.r.t.sql("SELECT * FROM watched ORDER BY n") if not v["scope"].endswith(":weekly")]
    assert limited
    assert max(v["held"] for v in limited) <= most
    for scope, period in {(v["scope"], v["period"]) for v in limited}:
        assert _peak(await c.r.t.sql(f"{LEDGER} WHERE b.key = $1 AND b.value::date = $2", scope, period)) <= most


def _peak(calls: list[asyncpg.Record]) -> Decimal:
    """The most that was reserved or spent at any instant, told from when each call began and ended.

    A reservation that waited for its turn looks older than it is; what has ended meanwhile is not held against it.
    """
    changes = [(call["begins"], call["reserved_cost"] if call["cost"] is None else call["cost"]) for call in calls]
    total, peak = Decimal(0), Decimal(0)
    for _, change in sorted(changes):
        total += change
        peak = max(peak, total)
    return peak
