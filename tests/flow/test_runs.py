"""Runs of engine steps: what each step comes to, what follows from it, and what it costs.

Mutants that these tests kill (each one line, tried by hand):
  decisions: `after_failure` without `tries >= attempts(retry)`; `too_dear` never says anything
  effects.sql: `run_ended` doesn't skip what did not run
"""

from decimal import Decimal
from typing import Any

import pytest

from daemon.db import Connection
from tests.support.engines import Accepts, Drops, Hangs, Refuses, Streams, nowhere
from tests.support.runs import Running, document, running, step

THRICE = {"attempts": 3, "delay": 5000}
BAD = Refuses(400)


async def test_a_run_goes_through_its_steps_in_order(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers |= {"prospecting": {"found": 20, "cost": 0.5}, "analysis": {"analyzed": 18, "cost": 0.25}}
        run = await r.start(step("prospecting", params={"count": 20}), step("analysis"), step("outreach"))
        row = await r.ended(run, "completed")
        assert [a.engine for a in r.engines.asked] == ["prospecting", "analysis", "outreach"]
        assert r.engines.asked[0].body == {"count": 20}
        assert [a.key for a in r.engines.asked] == [f"run:{run}:{n}" for n in range(3)]
        assert await r.steps(run) == {"prospecting": "completed", "analysis": "completed", "outreach": "completed"}
        assert (row["steps_completed"], row["steps_failed"], row["errors"]) == (3, 0, [])
        assert row["results"]["analysis"] == {"analyzed": 18, "cost": 0.25}
        assert await r.balanced(run) == Decimal("1.0")


async def test_params_refer_to_inputs_and_to_earlier_results(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"prospects": [{"id": "a"}, {"id": "b"}], "cost": 0}
        params = {
            "industry": {"$ref": "inputs.industry"},
            "ids": {"$ref": "steps.prospecting.prospects[*].id"},
            "nothing": {"$ref": "steps.prospecting.no.such"},
            "none": {"$ref": "steps.prospecting.no[*].such"},
        }
        run = await r.start(step("prospecting"), step("analysis", params=params), inputs={"industry": "Retail"})
        await r.ended(run, "completed")
        assert r.engines.asked[1].body == {"industry": "Retail", "ids": ["a", "b"], "nothing": None, "none": []}


async def test_an_end_counts_for_the_campaign_and_is_told(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers |= {
            "prospecting": {"found": 20, "cost": 0.5},
            "outreach": {"sent": 7, "failed": 1, "cost": 0.1},
        }
        heard = {"onComplete": {"email": "ann@example.com", "slack": None}}
        run = await r.start(step("prospecting"), step("outreach"), notifications=heard)
        await r.ended(run, "completed")
        [campaign] = await r.t.sql("SELECT total_runs, total_cost, last_run_at FROM campaigns")
        assert (campaign["total_runs"], campaign["total_cost"]) == (1, Decimal("0.6"))
        assert campaign["last_run_at"] is not None
        [told] = await r.notices("run_completed")
        assert told["to"] == heard["onComplete"]
        facts = {"name": "Weekly", "run_id": str(run), "prospects": 20, "analyzed": 0, "sent": 7, "cost": 0.6}
        assert facts.items() <= told["facts"].items()


async def test_streams_and_accepted_calls_are_results_like_any(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Streams())
        r.engines.on("analysis", Accepts())
        run = await r.start(step("prospecting"), step("analysis"))
        await r.ended(run, "completed")
        assert await r.balanced(run) == Decimal("0.5")


# -- tries


async def test_a_failed_call_is_made_again_under_its_key_after_its_delay(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(503), times=2)
        run = await r.start(step("prospecting", retry=THRICE))
        for attempt in (1, 2):
            task = await r.retries(run, attempt)
            assert 3 < task["wait_s"] <= 5
            assert len(r.engines.asked) == attempt
            await r.t.shift(seconds=5)
        await r.ended(run, "completed")
        assert {a.key for a in r.engines.asked} == {f"run:{run}:0"}
        assert (await r.step(run, "prospecting"))["attempts"] == 3
        assert await r.balanced(run) == Decimal("0.25")


async def test_the_last_try_that_fails_is_the_steps_end(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(500))
        run = await r.start(step("prospecting", retry={"attempts": 2}), step("analysis"))
        row = await r.ended(run, "failed")
        assert len(r.engines.asked) == 2
        assert await r.steps(run) == {"prospecting": "failed", "analysis": "skipped"}
        assert [e["step"] for e in row["errors"]] == ["prospecting"]
        assert "HTTP 500" in row["errors"][0]["error"]
        assert await r.t.value("SELECT count(*) FROM tasks WHERE status = 'dead'") == 0
        [told] = await r.notices("run_failed")
        assert "HTTP 500" in told["facts"]["error"]


async def test_a_retry_comes_no_sooner_than_the_engine_asks(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(429, retry_after_s=120), times=1)
        run = await r.start(step("prospecting", retry=THRICE))
        assert 100 < (await r.retries(run, 1))["wait_s"] <= 120
        await r.t.shift(seconds=120)
        await r.ended(run, "completed")


@pytest.mark.parametrize(("status", "calls"), [(400, 1), (404, 1), (422, 1), (408, 2), (425, 2), (429, 2), (502, 2)])
async def test_what_an_engine_refuses_for_good_is_not_asked_again(dsn: str, status: int, calls: int) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(status))
        run = await r.start(step("prospecting", retry={"attempts": 2}))
        await r.ended(run, "failed")
        assert len(r.engines.asked) == calls


async def test_each_call_has_the_whole_time_limit_and_one_too_slow_is_of_unknown_outcome(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Hangs())
        run = await r.start(step("prospecting", timeout=200, retry=THRICE))
        await r.ended(run, "failed")
        assert (await r.step(run, "prospecting"))["status"] == "unknown"
        assert len(r.engines.asked) == 1


async def test_an_engine_that_honours_keys_is_asked_again_after_a_lost_answer(dsn: str) -> None:
    async with running(dsn, ENGINES__PROSPECTING__IDEMPOTENT="true") as r:
        r.engines.honours_keys = True
        r.engines.on("prospecting", Drops(after_effect=True), times=1)
        run = await r.start(step("prospecting", retry={"attempts": 2}))
        await r.ended(run, "completed")
        assert len(r.engines.asked) == 2
        assert r.engines.effects == {f"run:{run}:0": 1}
        assert await r.balanced(run) == Decimal("0.25")


async def test_a_lost_answer_leaves_the_step_unknown_and_a_person_is_told(dsn: str) -> None:
    async with running(dsn, ENGINES__OUTREACH__COST_PER_CALL="0.4") as r:
        r.engines.on("outreach", Drops(after_effect=True))
        run = await r.start(step("outreach"), step("analysis"))
        row = await r.ended(run, "failed")
        assert await r.steps(run) == {"outreach": "unknown", "analysis": "skipped"}
        assert (row["steps_failed"], len(r.engines.asked)) == (1, 1)
        assert await r.alerts(run) == ["UNKNOWN_OUTCOME"]
        assert await r.balanced(run) == Decimal("0.4")


@pytest.mark.parametrize("told", [{"cost": 0.9}, {"cost": 0.1}, None], ids=["dearer", "cheaper", "failed"])
async def test_a_late_answer_corrects_what_the_run_and_its_campaign_have_booked(dsn: str, told: Any) -> None:
    """Mutant: `_settle` without _book."""
    async with running(dsn, ENGINES__OUTREACH__COST_PER_CALL="0.4") as r:
        r.engines.on("outreach", Drops(after_effect=True))
        run = await r.start(step("outreach"))
        await r.ended(run, "failed")
        report = {"status": "completed", "result": told} if told else {"status": "failed", "result": "no"}
        assert await r.t.running[0].daemon.engines.settle_accepted("outreach", f"run:{run}:0", report)
        cost = Decimal(str(told["cost"])) if told else Decimal(0)
        assert await r.balanced(run) == cost
        assert await r.t.value("SELECT total_cost FROM campaigns") == cost


async def test_what_a_task_has_still_to_book_is_not_booked_before(conn: Connection) -> None:
    """Mutant: `book_late` without its look at tasks."""
    campaign = await conn.fetchval("INSERT INTO campaigns (name) VALUES ('Weekly') RETURNING id")
    start = "INSERT INTO campaign_runs (campaign_id, definition) VALUES ($1, $2) RETURNING id"
    run = await conn.fetchval(start, campaign, document([step("outreach")]))
    call = await conn.fetchval(
        "INSERT INTO engine_calls (engine, operation, task_id, run_id, idempotency_key, status)"
        " SELECT 'outreach', '/', id, $1, 'run:' || $1::uuid || ':0', 'unknown' FROM tasks RETURNING id",
        run,
    )
    for alone, booked in ((False, 0), (True, 2)):
        await conn.execute("DELETE FROM tasks WHERE $1", alone)
        await conn.execute("SELECT book_late($1, 2)", call)
        assert await conn.fetchval("SELECT total_cost FROM campaign_runs") == booked


# -- what follows from an end


AFTER_FAILURE = {
    "abort": ("failed", "skipped", "run_failed"),
    "continue": ("partial", "completed", "run_partial"),
    "log": ("completed", "completed", "run_completed"),
}


@pytest.mark.parametrize("on_failure", AFTER_FAILURE)
@pytest.mark.parametrize("lost", [False, True], ids=["failed", "unknown"])
async def test_on_failure_says_what_follows(dsn: str, on_failure: str, lost: bool) -> None:
    status, second, event = AFTER_FAILURE[on_failure]
    async with running(dsn) as r:
        r.engines.on("prospecting", Drops(after_effect=False) if lost else BAD)
        run = await r.start(step("prospecting", onFailure=on_failure), step("analysis"))
        row = await r.ended(run, status)
        assert await r.steps(run) == {"prospecting": "unknown" if lost else "failed", "analysis": second}
        assert (row["steps_failed"], len(row["errors"])) == (1, 1)
        assert len(await r.notices(event)) == 1


@pytest.mark.parametrize("on_failure", ["abort", "continue", "log"])
async def test_on_success_abort_ends_the_run_early(dsn: str, on_failure: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("prospecting", onSuccess="abort", onFailure=on_failure), step("analysis"))
        await r.ended(run, "completed")
        assert await r.steps(run) == {"prospecting": "completed", "analysis": "skipped"}
        r.engines.on("prospecting", BAD)
        again = await r.start(step("prospecting", onSuccess="abort", onFailure=on_failure), step("analysis"))
        await r.ended(again, {"abort": "failed", "continue": "partial", "log": "completed"}[on_failure])
        assert (await r.steps(again))["analysis"] == ("skipped" if on_failure == "abort" else "completed")


async def test_a_prospect_that_has_become_too_dear_ends_the_run_and_pauses_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers |= {"prospecting": {"found": 10, "cost": 1.0}, "analysis": {"analyzed": 10, "cost": 1.5}}
        run = await r.start(step("prospecting"), step("analysis"), step("outreach"), budget={"perLead": 0.2})
        row = await r.ended(run, "aborted")
        assert await r.steps(run) == {"prospecting": "completed", "analysis": "completed", "outreach": "skipped"}
        assert row["errors"][0]["step"] == "analysis"
        assert "0.25" in row["errors"][0]["error"]
        assert await r.t.value("SELECT status FROM campaigns") == "active"
        assert len(await r.notices("run_failed")) == 1


# -- money


@pytest.mark.parametrize("said", [None, -1, "much", True])
async def test_an_answer_without_a_usable_cost_is_charged_as_estimated(dsn: str, said: Any) -> None:
    async with running(dsn, ENGINES__ANALYSIS__COST_PER_CALL="0.07") as r:
        r.engines.answers |= {"prospecting": {"cost": said}, "analysis": {"cost": said}}
        run = await r.start(step("prospecting", cost=0.31), step("analysis"))
        await r.ended(run, "completed")
        assert await r.balanced(run) == Decimal("0.38")


async def test_many_small_costs_add_up_to_the_cent(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"cost": 0.1}
        run = await r.start(*[step(f"step {n}", engine="prospecting") for n in range(10)])
        await r.ended(run, "completed")
        assert await r.balanced(run) == Decimal("1.0")


# -- engines that are not there


async def test_an_engine_that_is_no_longer_configured_fails_the_step_clearly(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("gone"))
        row = await r.ended(run, "failed")
        assert row["errors"] == [{"step": "gone", "error": "engine gone is not configured"}]


async def test_a_refused_connection_is_a_failure_that_is_tried_again(dsn: str) -> None:
    async with running(dsn, ENGINES__PROSPECTING__URL=nowhere()) as r:
        run = await r.start(step("prospecting", retry={"attempts": 2}))
        await r.ended(run, "failed")
        assert (await r.step(run, "prospecting"))["status"] == "failed"


async def test_an_endpoint_may_be_a_url_but_only_at_its_engines_origin(dsn: str) -> None:
    async with running(dsn) as r:
        there = await r.start(step("prospecting", endpoint=f"{r.engines.url('prospecting')}/api/other"))
        await r.ended(there, "completed")
        assert r.engines.asked[-1].operation == "/api/other"
        elsewhere = await r.start(step("prospecting", endpoint=nowhere() + "/api/other"))
        row = await r.ended(elsewhere, "failed")
        assert "origin" in row["errors"][0]["error"]


# -- dry runs and many at once


async def test_a_dry_run_calls_nobody(dsn: str) -> None:
    async with running(dsn) as r:
        reference = {"x": {"$ref": "steps.prospecting.prospects"}}
        steps = (step("prospecting"), step("gate", "checkpoint"), step("outreach", params=reference))
        run = await r.start(*steps, dry_run=True)
        row = await r.ended(run, "completed")
        assert row["results"] == {s: {"dryRun": True} for s in ("prospecting", "gate", "outreach")}
        assert r.engines.asked == []
        assert await r.balanced(run) == 0


async def test_a_daemon_in_dry_run_calls_nobody(dsn: str) -> None:
    async with running(dsn, DRY_RUN="true") as r:
        run = await r.start(step("prospecting"))
        assert (await r.ended(run, "completed"))["results"] == {"prospecting": {"dryRun": True}}
        assert r.engines.asked == []


async def test_many_runs_at_once_end_each_on_its_own(dsn: str) -> None:
    async with running(dsn, ENGINES__PROSPECTING__MAX_CONCURRENCY="64") as r:
        await r.t.start()  # a second daemon beside the first
        runs = [await _three_steps(r) for _ in range(60)]
        for run in runs:
            await r.ended(run, "completed")
        assert sorted(a.key for a in r.engines.asked) == sorted(f"run:{run}:{n}" for run in runs for n in range(3))
        assert await r.t.value("SELECT total_runs FROM campaigns") == 60
        assert await r.t.value("SELECT total_cost FROM campaigns") == 60 * 3 * Decimal("0.25")


async def _three_steps(r: Running) -> Any:
    return await r.start(*[step(f"step {n}", engine="prospecting") for n in range(3)])


async def test_a_definition_without_steps_fails_its_run(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start()
        row = await r.ended(run, "failed")
        assert row["errors"] == [{"step": None, "error": "its definition has no steps"}]
