"""Runs paused, resumed, cancelled, and begun anew from a step, at any moment of their lives.

Mutants that these tests kill (each one line, tried by hand):
  effects.sql: `parked` does nothing; `live` without its condition on the status; `spent` leaves out the campaign;
  `step_ended` books `d.cost` instead of the ledger's
  schema.sql: `retry_run` leaves the round as it is, or doesn't lock the campaign; `cancel_run` doesn't stir its tasks
"""

import asyncio
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from tests.support.engines import Answers, Drops, Hangs, Refuses
from tests.support.runs import Running, running, step

TWO = (step("prospecting"), step("analysis"))
THREE = (*TWO, step("outreach"))
GATED = (step("prospecting"), step("gate", "checkpoint", checkpoint="leads"), step("outreach"))


async def in_a_call(r: Running, *steps: object) -> tuple[UUID, Hangs]:
    """A run whose first call hangs."""
    hangs = Hangs()
    r.engines.on("prospecting", hangs, times=1)
    run = await r.start(*steps or TWO)  # type: ignore[arg-type]  # steps all
    await hangs.started.wait()
    return run, hangs


# -- pause


async def test_a_paused_run_ends_its_call_and_begins_no_other(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r)
        assert await r.do("pause_run", run)
        call.release()
        await r.comes_to(run, "prospecting", "completed")
        await r.at_rest()
        assert [a.engine for a in r.engines.asked] == ["prospecting"]
        assert (await r.row(run))["status"] == "paused"
        assert await r.do("resume_run", run)
        await r.ended(run, "completed")
        assert [a.engine for a in r.engines.asked] == ["prospecting", "analysis"]


async def test_a_paused_run_whose_last_call_ends_is_over(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r, step("prospecting"))
        assert await r.do("pause_run", run)
        call.release()
        await r.ended(run, "completed")


async def test_a_pause_between_two_tries_costs_none_of_them(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(503), times=2)
        run = await r.start(step("prospecting", retry={"attempts": 3, "delay": 60_000}))
        await r.retries(run, 1)
        assert await r.do("pause_run", run)
        await r.t.shift(seconds=61)
        await r.at_rest()
        assert len(r.engines.asked) == 1
        assert await r.do("resume_run", run)
        await r.retries(run, 2)
        await r.t.shift(seconds=61)
        await r.ended(run, "completed")
        assert (await r.step(run, "prospecting"))["attempts"] == 3


async def test_a_resume_before_the_pause_was_noticed_changes_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r)
        assert await r.do("pause_run", run)
        assert await r.do("resume_run", run)
        call.release()
        await r.ended(run, "completed")
        assert [a.engine for a in r.engines.asked] == ["prospecting", "analysis"]


async def test_a_task_parked_while_its_run_was_being_resumed_is_due_at_once(dsn: str) -> None:
    """The handler saw the pause; the resume came before its outcome was written, and found nothing to bring forward."""
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(503), times=1)
        run = await r.start(step("prospecting", retry={"attempts": 2, "delay": 60_000}))
        await r.retries(run, 1)
        await r.do("pause_run", run)
        async with r.t.session() as other:
            holding = other.transaction()
            await holding.start()
            await other.execute("SELECT FROM campaign_runs WHERE id = $1 FOR UPDATE", run)
            await r.t.shift(seconds=61)
            await r.t.wait_for(r.outcome_waits, "no outcome waits for the lock")
            assert await other.fetchval("SELECT resume_run($1)", run)
            await holding.commit()
        await r.ended(run, "completed")


async def test_a_decision_during_a_pause_counts_when_the_run_is_resumed(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(*GATED)
        await r.waits(run, "waiting")
        assert await r.do("pause_run", run)
        await r.t.sql("UPDATE approval_queue SET status = 'approved' WHERE run_id = $1", run)
        await r.at_rest()
        assert (await r.row(run))["status"] == "paused"
        assert await r.do("resume_run", run)
        await r.ended(run, "completed")


async def test_a_gate_that_was_paused_waits_again_when_resumed(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(*GATED)
        await r.waits(run, "waiting")
        assert await r.do("pause_run", run)
        assert await r.do("resume_run", run)
        assert (await r.row(run))["status"] == "waiting"
        await r.t.sql("UPDATE approval_queue SET status = 'approved' WHERE run_id = $1", run)
        await r.ended(run, "completed")


# -- cancel


async def test_a_cancelled_run_skips_the_rest_and_still_pays_for_the_call_in_flight(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r, *THREE)
        assert await r.do("cancel_run", run)
        assert await r.steps(run) == {"prospecting": "cancelled", "analysis": "skipped", "outreach": "skipped"}
        call.release()
        await r.t.eventually("SELECT total_cost > 0 FROM campaign_runs WHERE id = $1", run)
        await r.at_rest()
        assert (await r.row(run))["status"] == "cancelled"
        assert await r.steps(run) == {"prospecting": "cancelled", "analysis": "skipped", "outreach": "skipped"}
        assert len(r.engines.asked) == 1
        assert await r.balanced(run) == Decimal("0.25")
        [campaign] = await r.t.sql("SELECT total_runs, total_cost FROM campaigns")
        assert tuple(campaign) == (1, Decimal("0.25"))


async def test_a_cancelled_gate_asks_nobody_any_more(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(*GATED)
        await r.waits(run, "waiting")
        assert await r.do("cancel_run", run)
        assert await r.t.value("SELECT status FROM approval_queue WHERE run_id = $1", run) == "superseded"
        await r.at_rest()
        assert await r.steps(run) == {"prospecting": "completed", "gate": "cancelled", "outreach": "skipped"}


@pytest.mark.parametrize("first", ["pause", "retry"])
async def test_a_cancelled_run_leaves_no_task_behind(dsn: str, first: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(503))
        run = await r.start(step("prospecting", retry={"attempts": 3, "delay": 3_600_000}))
        await r.retries(run, 1)
        if first == "pause":
            await r.do("pause_run", run)
            await r.t.shift(hours=2)
            await r.at_rest()
        assert await r.do("cancel_run", run)
        await r.t.eventually("SELECT count(*) = 0 FROM tasks WHERE kind LIKE 'run.%'")
        assert len(r.engines.asked) == 1


async def test_cancelling_a_runs_task_cancels_the_run(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(503))
        run = await r.start(step("prospecting", retry={"attempts": 3, "delay": 3_600_000}))
        task = await r.retries(run, 1)
        await r.cancel_task(task["id"])
        await r.ended(run, "cancelled")


# -- retry


async def test_a_failed_run_is_begun_anew_at_its_failed_step(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("analysis", Refuses(400), times=1)
        run = await r.start(*THREE)
        await r.ended(run, "failed")
        assert await r.do("retry_run", run)
        row = await r.ended(run, "completed")
        assert [a.key for a in r.engines.asked] == [f"run:{run}:{n}" for n in ("0", "1", "1#1", "2#1")]
        assert (row["errors"], row["steps_completed"], row["steps_failed"]) == ([], 3, 0)
        assert await r.balanced(run) == Decimal("0.75")
        [campaign] = await r.t.sql("SELECT total_runs, total_cost FROM campaigns")
        assert tuple(campaign) == (1, Decimal("0.75"))


async def test_an_unknown_outcome_is_tried_again_under_a_new_key(dsn: str) -> None:
    async with running(dsn, ENGINES__OUTREACH__COST_PER_CALL="0.4") as r:
        r.engines.on("outreach", Drops(after_effect=True), times=1)
        run = await r.start(step("outreach"))
        await r.ended(run, "failed")
        assert await r.do("retry_run", run)
        await r.ended(run, "completed")
        assert [a.key for a in r.engines.asked] == [f"run:{run}:0", f"run:{run}:0#1"]
        assert await r.balanced(run) == Decimal("0.65")  # the unknown one's estimate, too


async def test_a_run_is_begun_anew_at_the_step_that_is_named(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("analysis", Answers({"analyzed": 1}), times=1)
        run = await r.start(*THREE)
        await r.ended(run, "completed")
        r.engines.answers["analysis"] = {"analyzed": 2, "cost": 0}
        assert await r.do("retry_run", run, "analysis")
        row = await r.ended(run, "completed")
        assert [a.engine for a in r.engines.asked] == ["prospecting", "analysis", "outreach", "analysis", "outreach"]
        assert row["results"]["analysis"] == {"analyzed": 2, "cost": 0}
        assert len({a.key for a in r.engines.asked}) == 5


async def test_a_retry_asks_anew_at_a_gate_that_was_refused(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(*GATED)
        await r.waits(run, "waiting")
        await r.t.sql("UPDATE approval_queue SET status = 'rejected' WHERE run_id = $1", run)
        await r.ended(run, "aborted")
        assert await r.do("retry_run", run)
        await r.waits(run, "waiting")
        assert await r.t.value("SELECT count(*) FROM approval_queue WHERE run_id = $1", run) == 2
        await r.t.sql("UPDATE approval_queue SET status = 'approved' WHERE run_id = $1 AND status = 'pending'", run)
        await r.ended(run, "completed")


async def test_a_call_of_the_round_before_is_paid_for_and_nothing_else(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r)
        assert await r.do("cancel_run", run)
        assert await r.do("retry_run", run)
        assert [a.key for a in r.engines.asked] == [f"run:{run}:0"]  # one after the other: they have the same key
        call.release()
        await r.ended(run, "completed")
        assert [a.key for a in r.engines.asked] == [f"run:{run}:0", f"run:{run}:0#1", f"run:{run}:1#1"]
        assert await r.balanced(run) == Decimal("0.75")
        assert await r.t.value("SELECT total_cost FROM campaigns") == Decimal("0.75")


async def test_no_retry_goes_beside_another_run_of_its_campaign(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(400), times=1)
        failed = await r.start(*TWO)
        await r.ended(failed, "failed")
        other, call = await in_a_call(r)
        assert not await r.do("retry_run", failed)
        await r.do("pause_run", other)
        assert not await r.do("retry_run", failed)
        assert (await r.row(failed))["round"] == 0
        await r.t.sql("UPDATE campaign_runs SET trigger = 'event' WHERE id = $1", failed)
        assert await r.do("retry_run", failed)
        await r.do("resume_run", other)
        call.release()
        for run in (failed, other):
            await r.ended(run, "completed")
        assert (await r.row(failed))["former_ends"] == ["failed"]


async def test_another_campaigns_run_keeps_no_retry_back(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(400), times=1)
        failed = await r.start(*TWO)
        await r.ended(failed, "failed")
        another = await r.t.value("INSERT INTO campaigns (name) VALUES ('Monthly') RETURNING id")
        other, call = await in_a_call(r)
        await r.t.sql("UPDATE campaign_runs SET campaign_id = $2 WHERE id = $1", other, another)
        assert await r.do("retry_run", failed)
        call.release()
        await r.ended(failed, "completed")


async def test_of_two_retried_at_once_one_is(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("prospecting", Refuses(400), times=2)
        failed = [await r.start(*TWO) for _ in range(2)]
        for run in failed:
            await r.ended(run, "failed")
        async with r.t.session() as one, r.t.session() as two:
            first = one.transaction()
            await first.start()
            assert await one.fetchval("SELECT retry_run($1)", failed[0])
            second = asyncio.create_task(two.fetchval("SELECT retry_run($1)", failed[1]))
            pid = two.get_server_pid()
            await r.t.eventually("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", pid)
            await first.commit()
            assert await second is False
        await r.ended(failed[0], "completed")


# -- what can't be done


async def test_what_makes_no_sense_is_answered_false(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r)
        assert not await r.do("resume_run", run)
        assert not await r.do("retry_run", run)
        call.release()
        await r.ended(run, "completed")
        for function in ("pause_run", "resume_run", "cancel_run", "retry_run"):
            assert not await r.do(function, run), function
            assert not await r.do(function, uuid4()), function
        assert not await r.do("retry_run", run, "no such step")
        assert (await r.row(run))["round"] == 0


async def test_slots_that_did_not_run_have_no_steps_and_no_task(dsn: str) -> None:
    async with running(dsn) as r:
        for status in ("skipped", "missed"):
            run = await r.t.value(
                "INSERT INTO campaign_runs (campaign_id, status) VALUES ($1, $2) RETURNING id", r.campaign, status
            )
            assert await r.steps(run) == {}
            assert not await r.do("retry_run", run)
        assert await r.t.value("SELECT count(*) FROM tasks WHERE kind = 'run.step'") == 0


# -- what ends a run from outside


async def test_a_task_that_keeps_ending_its_daemon_fails_its_run_which_pays_for_the_call_all_the_same(dsn: str) -> None:
    async with running(dsn) as r:
        run, call = await in_a_call(r)
        async with r.t.session() as other:
            holding = other.transaction()
            await holding.start()
            await other.execute("SELECT FROM campaign_runs WHERE id = $1 FOR UPDATE", run)
            call.release()
            await r.t.wait_for(r.outcome_waits, "no outcome waits for the lock")
            await r.t.running.pop().discard()  # answered, settled in the ledger, and never committed
            await holding.rollback()
        await r.t.sql("UPDATE tasks SET interruptions = 20 WHERE kind = 'run.step'")
        await r.t.start()
        row = await r.ended(run, "failed")
        assert "interrupted" in row["errors"][0]["error"]
        assert await r.alerts(run) == ["AGENT_FAILURE"]
        assert await r.balanced(run) == Decimal("0.25")


# -- somebody's locks


async def test_a_run_that_somebody_holds_delays_no_other(dsn: str) -> None:
    async with running(dsn) as r:
        hangs = Hangs()
        r.engines.on("prospecting", hangs, times=1)
        held = await r.start(*TWO)
        await hangs.started.wait()
        async with r.t.session() as other:
            looking = other.transaction()
            await looking.start()
            await other.execute("SELECT FROM campaign_runs WHERE id = $1 FOR UPDATE", held)
            hangs.release()
            beside = [await r.start(*TWO) for _ in range(5)]
            for run in beside:
                await r.ended(run, "completed")
            assert (await r.row(held))["status"] == "running"
            await looking.rollback()
        await r.ended(held, "completed")
        assert len({a.key for a in r.engines.asked}) == len(r.engines.asked) == 12
