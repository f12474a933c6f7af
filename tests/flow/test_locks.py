"""Somebody sits in psql on a row that the daemon needs: only that lead waits."""

import asyncio
import time
from contextlib import AsyncExitStack
from uuid import UUID

import pytest

from daemon import worker
from tests.support.daemon import COMPLETE, Timeline, scenario
from tests.support.engines import Hangs, Refuses

HOLDS = pytest.mark.parametrize("holds", [
    "SELECT FROM leads WHERE id = $1 FOR UPDATE",
    "UPDATE leads SET city = 'Leeds' WHERE id = $1",
], ids=["a lock", "an update"])  # fmt: skip


async def all_in(t: Timeline, leads: list[UUID], stage: str) -> bool:
    return bool(await t.value("SELECT bool_and(stage = $2) FROM leads WHERE id = ANY ($1)", leads, stage))


@HOLDS
async def test_an_idle_transaction_on_one_lead_delays_that_lead_only(dsn: str, holds: str) -> None:
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on("validator", slow)
        leads = [await t.lead(data=dict(COMPLETE)) for _ in range(30)]
        await t.wait_for(lambda: all_in(t, leads, "DEAL_VALIDATION"), "not all got to the validator")
        locked, *others = leads
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(holds, locked)
            began = time.monotonic()
            slow.release()
            await t.wait_for(lambda: all_in(t, others, "OFFER_MADE"), "the others waited", within_s=2)
            fresh = await t.lead()
            await t.until(fresh, "AI_CONVERSATION", within_s=2)
            assert time.monotonic() - began < 4
            assert await t.get(locked, "stage") == "DEAL_VALIDATION"
            await tx.commit()
        await t.until(locked, "OFFER_MADE", within_s=2)
        await t.expect_sent(locked, "OFFER")
        assert len(t.engines.requests("validator", lead=locked)) == 1
        assert len(t.engines.requests("offers", lead=locked)) == 1


async def test_what_comes_while_a_batch_is_written_is_claimed_together(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GATHER_S", 5.0)
    async with scenario(dsn) as t:
        async with t.session() as psql, psql.transaction():
            await psql.execute("LOCK TABLE messages IN SHARE MODE")
            first = await t.lead()
            await t.eventually("SELECT count(*) = 1 FROM tasks WHERE status = 'running'")
            five = "INSERT INTO leads (phone) SELECT '+155501234' || n FROM generate_series(11, 15) n RETURNING id"
            later = await t.sql(five)
        for lead in (first, *(row["id"] for row in later)):
            await t.until(lead, "AI_CONVERSATION")
        # The first half of a lease names its claim.
        claims = """
            SELECT array_agg(n ORDER BY n) FROM (
                SELECT count(*) AS n FROM task_log
                WHERE kind = 'vendor_acquisition.NEW_LEAD' GROUP BY left(lease_id::text, 18)) AS of"""
        assert await t.value(claims) == [1, 5]


CHECK = """
SELECT enqueue('lead.check', jsonb_build_object('lead_id', id, 'issues', jsonb_build_array('x')), 'lead:' || id)
FROM unnest($1::uuid[]) WITH ORDINALITY AS u(id, n) ORDER BY n"""


async def offers(t: Timeline, count: int) -> list[UUID]:
    """Leads that nothing is to be done for, nor for a while."""
    leads = [await t.lead(stage="OFFER_MADE") for _ in range(count)]
    await t.quiet()
    return leads


async def test_a_refused_outcome_makes_nobody_wait_for_the_held_leads_of_its_batch(dsn: str) -> None:
    """Mutant: `_write_one` writes at once, too, and `together` without QUICKLY."""
    async with scenario(dsn) as t:
        held = await offers(t, 40)
        await t.sql("DELETE FROM transitions WHERE from_stage = 'AI_CONVERSATION' AND to_stage = 'DEAL_VALIDATION'")
        async with t.session() as psql, psql.transaction():
            await psql.execute("SELECT FROM leads FOR UPDATE")
            async with t.conn.transaction():
                await t.sql(CHECK, held)
                await t.lead(stage="AI_CONVERSATION", data=dict(COMPLETE))  # its move will be refused
            began = time.monotonic()
            fresh = await t.lead()
            await t.until(fresh, "AI_CONVERSATION", within_s=20)
            assert time.monotonic() - began < 2


async def test_a_chain_of_locks_holds_back_nobody_else(dsn: str) -> None:
    """Each lock is given back just when the next would be waited for. Mutant: `together` without QUICKLY."""
    async with scenario(dsn) as t, AsyncExitStack() as sessions:
        *held, other = await offers(t, 21)
        chain = []
        for lead in held:
            psql = await sessions.enter_async_context(t.session())
            tx = psql.transaction()
            await tx.start()
            await psql.execute("SELECT FROM leads WHERE id = $1 FOR UPDATE", lead)
            chain.append(tx)

        async def one_after_the_other() -> None:
            for tx in chain:
                await asyncio.sleep(0.2)  # less than the session's lock_timeout
                await tx.rollback()

        released = asyncio.create_task(one_after_the_other())
        began = time.monotonic()
        await t.sql(CHECK, [*held, other])
        fresh = await t.lead()
        await t.until(fresh, "AI_CONVERSATION", within_s=20)
        await t.eventually("SELECT 'x' = ANY (known_issues) FROM leads WHERE id = $1", other)
        assert time.monotonic() - began < 2
        assert not released.done(), "nothing was held any more"
        await released


@HOLDS
async def test_a_send_whose_lead_is_locked_is_made_once_and_recorded_after_the_commit(dsn: str, holds: str) -> None:
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on("sms", slow)
        lead = await t.lead()
        await slow.started.wait()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(holds, lead)
            slow.release()
            await t.eventually("SELECT count(*) = 1 FROM engine_calls WHERE status = 'ok'")
            other = await t.lead()
            await t.until(other, "AI_CONVERSATION", within_s=2)
            await tx.commit()
        await t.until(lead, "AI_CONVERSATION", within_s=2)
        await t.expect_sent(lead, "INITIAL_CONTACT")


async def test_a_rollback_frees_the_lead_as_well(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="OFFER_MADE")
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
            await t.shift(hours=48)
            await t.eventually("SELECT count(*) = 1 FROM tasks WHERE kind = 'lead.deadline'")
            await tx.rollback()
        await t.expect(lead, "VIDEO_SENT")
        await t.expect_sent(lead, "VIDEO")


async def test_a_move_by_hand_wins_over_the_outcome_that_waited_for_it(dsn: str) -> None:
    """Mutant: guard Move by version or by nothing instead of stage_seq, and the dead lead gets an offer."""
    async with scenario(dsn) as t:
        slow = Hangs()
        t.engines.on("validator", slow)
        lead = await t.lead(data=dict(COMPLETE))
        await slow.started.wait()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
            slow.release()
            await t.eventually("SELECT count(*) = 1 FROM engine_calls WHERE engine = 'validator' AND status = 'ok'")
            await tx.commit()
        await t.expect(lead, "DEAD_LEAD")
        assert t.engines.requests("offers") == []
        assert len(t.engines.requests("validator")) == 1
        assert len(await t.events(lead, "move_dropped")) == 1


@HOLDS
async def test_replies_of_others_are_read_while_one_lead_is_locked(dsn: str, holds: str) -> None:
    """A delivery notice writes nothing to its lead, but refers to it."""
    async with scenario(dsn) as t:
        locked, other = [await t.lead(stage="OFFER_MADE") for _ in range(2)]
        await t.quiet()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(holds, locked)
            began = time.monotonic()
            for category in ("auto_reply", "opt_out"):
                await t.say(locked, "An automatic answer", category=category)
            await t.say(other, "STOP")
            await t.until(other, "DEAD_LEAD", within_s=2)
            assert time.monotonic() - began < 2
            await tx.commit()
        await t.until(locked, "DEAD_LEAD", within_s=2)
        await t.quiet()
        assert await t.value("SELECT count(*) = 0 FROM replies WHERE status = 'received'")


@HOLDS
async def test_a_dead_letter_of_a_locked_lead_holds_up_nobody(dsn: str, holds: str) -> None:
    async with scenario(dsn) as t:
        slow = Hangs(then=Refuses(400))
        locked = await t.lead(stage="OFFER_MADE")
        t.engines.on("sms", slow, lead=locked)
        await t.sql("UPDATE leads SET stage = 'VIDEO_SENT' WHERE id = $1", locked)
        await slow.started.wait()
        async with t.session() as psql:
            tx = psql.transaction()
            await tx.start()
            await psql.execute(holds, locked)
            slow.release()
            await t.eventually("SELECT count(*) = 1 FROM engine_calls WHERE status = 'failed'")
            for _ in range(3):
                await t.until(await t.lead(), "AI_CONVERSATION", within_s=2)
            await tx.commit()
        await t.quiet()
        assert len(await t.dead(locked)) == 1
        assert await t.get(locked, "needs_review")
        assert len(t.engines.requests("sms", lead=locked)) == 1
