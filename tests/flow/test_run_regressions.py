"""What once went wrong with runs: each of these was seen to fail before it was mended."""

import random
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.support.daemon import Timeline
from tests.support.engines import Answers, Drops, Hangs
from tests.support.runs import Document, Running, running, step

STORE = step("store", "leads", from_="steps.prospecting.prospects")
ENRICH = step("enrich", "enrich", from_="steps.store.leads")
WRITE = step("write", "messages", from_="steps.writer.drafts")
FOUND: list[Document] = [{"id": "p1", "name": "Ann"}, {"id": "p2", "name": "Bob"}]
LONG = "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9FFF), k=9000)))
"""Longer than an index can hold, however it is compressed."""


async def in_a_call(r: Running, engine: str) -> Hangs:
    """From now on the engine keeps one request waiting."""
    call = Hangs()
    r.engines.on(engine, call, times=1)
    return call


async def begun(t: Timeline, call: Hangs) -> None:
    """The request is there."""

    async def there() -> bool:
        return call.started.is_set()

    await t.wait_for(there, "nobody called")


async def died_of_its_daemons(r: Running, run: UUID, call: Hangs) -> int:
    """The task of a run that failed because its daemon ended again and again."""
    await begun(r.t, call)
    await r.t.running.pop().discard()
    await r.t.sql("UPDATE tasks SET interruptions = 20 WHERE kind = 'run.step'")
    await r.t.start()
    await r.ended(run, "failed")
    dead: int = await r.t.value("SELECT id FROM tasks WHERE kind = 'run.step' AND status = 'dead'")
    return dead


# -- dead tasks that somebody clears away later


async def test_clearing_away_a_dead_task_of_an_earlier_round_leaves_the_run_alone(dsn: str) -> None:
    async with running(dsn) as r:
        call = await in_a_call(r, "prospecting")
        run = await r.start(step("prospecting"))
        dead = await died_of_its_daemons(r, run, call)
        again = await in_a_call(r, "prospecting")
        assert await r.do("retry_run", run)
        await begun(r.t, again)
        await r.cancel_task(dead)
        again.release()
        await r.ended(run, "completed")


async def test_clearing_away_a_dead_enrichment_books_its_cost_no_second_time(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"prospects": FOUND, "cost": 0.5}
        await r.t.sql("ALTER TABLE leads ADD CONSTRAINT plain CHECK (NOT data ? 'odd')")
        r.engines.on("contacts", Answers({"fields": {"odd": 1}, "cost": 0.25}), times=1)
        run = await r.start(step("prospecting"), STORE, ENRICH)
        await r.ended(run, "completed")
        cost = await r.balanced(run)
        await r.cancel_task(await r.t.value("SELECT id FROM tasks WHERE kind = 'run.item' AND status = 'dead'"))
        assert await r.balanced(run) == cost


async def test_clearing_away_an_old_decision_leaves_the_new_request_waiting(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("gate", "checkpoint"))
        await r.waits(run, "waiting")
        await r.do("pause_run", run)
        await r.t.sql("UPDATE approval_queue SET status = 'approved' WHERE run_id = $1", run)
        parked = "SELECT id FROM tasks WHERE kind = 'run.decided' AND status = 'available' AND run_at > clock()"
        await r.t.eventually(f"SELECT EXISTS ({parked})")
        task = await r.t.value(parked)
        await r.t.sql("UPDATE tasks SET status = 'dead' WHERE id = $1", task)
        await r.do("cancel_run", run)
        assert await r.do("retry_run", run)
        await r.waits(run, "waiting")
        await r.cancel_task(task)
        await r.t.sql("UPDATE approval_queue SET status = 'approved' WHERE run_id = $1 AND status = 'pending'", run)
        await r.ended(run, "completed")


async def test_cancelling_the_decision_that_a_run_waits_for_cancels_the_run(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("gate", "checkpoint"))
        await r.waits(run, "waiting")
        await r.do("pause_run", run)
        await r.t.sql("UPDATE approval_queue SET status = 'approved' WHERE run_id = $1", run)
        parked = "SELECT id FROM tasks WHERE kind = 'run.decided' AND status = 'available' AND run_at > clock()"
        await r.t.eventually(f"SELECT EXISTS ({parked})")
        await r.cancel_task(await r.t.value(parked))
        await r.ended(run, "cancelled")


# -- leads that go, and things that are odd


async def test_a_lead_that_is_erased_after_its_enrichment_costs_the_others_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"prospects": FOUND, "cost": 0.5}
        call = await in_a_call(r, "contacts")
        run = await r.start(step("prospecting"), STORE, ENRICH)
        done = "SELECT lead_id FROM campaign_run_items WHERE status = 'done'"
        await r.t.eventually(f"SELECT EXISTS ({done})")
        await r.t.sql("SELECT erase_lead($1, 'ann')", await r.t.value(done))
        call.release()
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], result["failed"]) == (2, 0)


@pytest.mark.parametrize(
    "odd", [{"id": LONG}, {"id": "p3", "email": f"{LONG}@x.example"}, {"id": "p3", "phone": LONG}, {"website": LONG}]
)
async def test_nothing_is_too_long_to_be_stored(dsn: str, odd: dict[str, Any]) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"prospects": [*FOUND, {"name": "Cy", **odd}], "cost": 0}
        run = await r.start(step("prospecting"), {**STORE, "params": {"source": LONG}})
        assert (await r.ended(run, "completed"))["results"]["store"]["created"] == 3
        assert await r.t.value("SELECT count(*) FROM leads WHERE email IS NULL AND phone IS NULL") == 3
        assert await r.do("retry_run", run, "store")
        assert (await r.ended(run, "completed"))["results"]["store"]["updated"] == 3


async def test_thousands_of_prospects_are_no_more_work_each_than_a_few(dsn: str) -> None:
    async with running(dsn) as r:
        found = [{"id": f"p{n}", "name": f"Prospect {n}"} for n in range(10_000)]
        r.engines.answers["prospecting"] = {"prospects": found, "cost": 0}
        run = await r.start(step("prospecting"), STORE)
        stored = (await r.ended(run, "completed"))["results"]["store"]
        assert (stored["created"], stored["updated"], stored["leads"][-1]["external_id"]) == (10_000, 0, "p9999")


async def test_a_draft_to_what_is_no_address_is_skipped_and_the_others_are_not(dsn: str) -> None:
    async with running(dsn) as r:
        ann, bob = await r.t.lead(email="ann@example.com"), await r.t.lead(email="bob@example.com")
        drafts = [{"lead_id": str(ann), "body": "Dear Ann", "to": LONG}, {"lead_id": str(bob), "body": "Dear Bob"}]
        r.engines.answers["writer"] = {"drafts": drafts, "cost": 0}
        run = await r.start(step("writer"), WRITE)
        assert (await r.ended(run, "completed"))["results"]["write"] == {"scheduled": 1, "skipped": 1}


async def test_an_operation_may_name_a_url_in_its_query(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("prospecting", endpoint="/api/do?back=http://elsewhere.example/"))
        await r.ended(run, "completed")
        assert [a.operation for a in r.engines.asked] == ["/api/do"]


# -- gates


async def test_a_request_whose_time_was_extended_waits_for_it(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("gate", "checkpoint", expiresAfter=3_600_000))
        await r.waits(run, "waiting")
        await r.t.sql("UPDATE approval_queue SET expires_at = expires_at + interval '1 day' WHERE run_id = $1", run)
        await r.t.shift(hours=2)
        await r.at_rest()
        assert (await r.row(run))["status"] == "waiting"
        await r.t.shift(hours=24)
        await r.ended(run, "aborted")


async def test_a_request_tells_its_cost_as_a_number(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("prospecting"), step("gate", "checkpoint"))
        await r.waits(run, "waiting")
        assert await r.t.value("SELECT payload -> 'cost' FROM approval_queue WHERE run_id = $1", run) == 0.25


# -- money


async def test_a_call_that_its_daemon_left_behind_counts_in_a_run_that_was_cancelled_meanwhile(dsn: str) -> None:
    async with running(dsn) as r:
        call = await in_a_call(r, "prospecting")
        run = await r.start(step("prospecting", cost=0.5), step("analysis"), budget={"daily": 5})
        await begun(r.t, call)
        await r.t.running.pop().discard()
        assert await r.do("cancel_run", run)
        await r.t.start()
        await r.t.eventually("SELECT count(*) = 0 FROM tasks WHERE kind = 'run.step'")
        assert await r.balanced(run) == Decimal("0.5")
        [counter] = await r.t.sql("SELECT reserved, settled FROM budget_counters WHERE scope LIKE 'campaign:%'")
        assert tuple(counter) == (0, Decimal("0.5"))
        assert await r.t.value("SELECT total_cost FROM campaigns") == Decimal("0.5")
        assert await r.alerts(run) == ["UNKNOWN_OUTCOME"]


async def test_a_lost_answer_counts_in_a_run_that_is_cancelled_before_it_asks_again(dsn: str) -> None:
    async with running(dsn, ENGINES__PROSPECTING__IDEMPOTENT="true") as r:
        r.engines.on("prospecting", Drops(after_effect=True), times=1)
        run = await r.start(step("prospecting", cost=0.5, retry={"attempts": 2, "delay": 3_600_000}))
        await r.retries(run, 1)
        assert await r.do("cancel_run", run)
        await r.t.eventually("SELECT count(*) = 0 FROM tasks WHERE kind = 'run.step'")
        assert await r.balanced(run) == Decimal("0.5")
        assert await r.t.value("SELECT total_cost FROM campaigns") == Decimal("0.5")
