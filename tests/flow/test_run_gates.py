"""Gates: a run waits for a person, costs nothing meanwhile, and goes on or ends as that person says."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.runs import Running, running, step

GATED = (step("prospecting"), step("gate", "checkpoint", checkpoint="leads"), step("outreach"))
DAY_MS = 86_400_000


async def request(r: Running, run: UUID) -> asyncpg.Record:
    """The request that waits."""
    [row] = await r.t.sql("SELECT * FROM approval_queue WHERE run_id = $1 AND status = 'pending'", run)
    return row


async def decide(r: Running, run: UUID, status: str, comment: str | None = None) -> None:
    """A person decides by SQL."""
    which = "WHERE run_id = $1 AND status = 'pending'"
    said = "SET status = $2, decided_by = 'ann', comment = $3"
    await r.t.sql(f"UPDATE approval_queue {said} {which}", run, status, comment)


async def at_the_gate(r: Running, **of: Any) -> UUID:
    """A run that has come to its gate."""
    run = await r.start(*(GATED[0], {**GATED[1], **of}, GATED[2]))
    await r.waits(run, "waiting")
    return run


async def test_a_gate_waits_and_an_approval_lets_the_run_go_on(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"found": 2, "prospects": [{"id": "a"}, {"id": "b"}], "cost": 0.5}
        run = await at_the_gate(r)
        assert await r.steps(run) == {"prospecting": "completed", "gate": "waiting", "outreach": "pending"}
        asked = await request(r, run)
        assert (asked["checkpoint"], asked["step"], asked["title"]) == ("leads", "gate", "Weekly: gate")
        assert asked["payload"]["before"]["result"]["found"] == 2
        await r.at_rest()
        assert await r.t.value("SELECT count(*) FROM tasks WHERE kind LIKE 'run.%'") == 0
        await decide(r, run, "approved", "go")
        row = await r.ended(run, "completed")
        assert row["results"]["gate"] == {"approval_id": str(asked["id"]), "approved_by": "ann", "comment": "go"}
        assert [a.engine for a in r.engines.asked] == ["prospecting", "outreach"]


async def test_it_may_wait_for_weeks_and_through_restarts(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r)
        await r.t.stop()
        await r.t.shift(days=30)
        await decide(r, run, "approved")
        await r.t.start()
        await r.ended(run, "completed")
        assert [a.engine for a in r.engines.asked] == ["prospecting", "outreach"]


async def test_a_rejection_ends_the_run_and_its_comment_is_remembered_for_the_agent_before(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r)
        await decide(r, run, "rejected", "Too narrow, add OC")
        row = await r.ended(run, "aborted")
        assert await r.steps(run) == {"prospecting": "completed", "gate": "failed", "outreach": "skipped"}
        assert row["errors"] == [{"step": "gate", "error": "rejected by ann: Too narrow, add OC"}]
        [learnt] = await r.t.sql("SELECT agent, feedback, created_by, active FROM agent_feedback")
        assert tuple(learnt) == ("prospecting", "Too narrow, add OC", "ann", True)
        assert len(await r.notices("run_failed")) == 1


async def test_a_rejection_before_any_agent_is_remembered_under_the_checkpoint(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("gate", "checkpoint", checkpoint="campaign"), step("prospecting"))
        await r.waits(run, "waiting")
        await decide(r, run, "rejected", "not now")
        await r.ended(run, "aborted")
        assert await r.t.value("SELECT agent FROM agent_feedback") == "campaign"


async def test_a_rejection_without_a_word_teaches_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r)
        await decide(r, run, "rejected", "  ")
        await r.ended(run, "aborted")
        assert await r.t.value("SELECT count(*) FROM agent_feedback") == 0


async def test_what_nobody_decides_in_time_expires_and_ends_the_run(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r, expiresAfter=3 * DAY_MS)
        asked = await request(r, run)
        assert asked["expires_at"] - asked["created_at"] <= timedelta(days=3)
        await r.t.shift(days=2, hours=23)
        await r.at_rest()
        assert (await r.row(run))["status"] == "waiting"
        await r.t.shift(hours=2)
        row = await r.ended(run, "aborted")
        assert row["errors"] == [{"step": "gate", "error": "nobody decided in time"}]
        assert await r.t.value("SELECT status FROM approval_queue WHERE run_id = $1", run) == "expired"


async def test_a_request_that_somebody_supersedes_ends_the_run(dsn: str) -> None:
    """Mutant: `decide_approval` without the look at the run, and it waits for ever."""
    async with running(dsn) as r:
        run = await at_the_gate(r)
        await decide(r, run, "superseded")
        row = await r.ended(run, "aborted")
        assert row["errors"] == [{"step": "gate", "error": "its request was superseded by ann"}]
        assert await r.steps(run) == {"prospecting": "completed", "gate": "failed", "outreach": "skipped"}
        assert len(await r.notices("run_failed")) == 1


async def test_a_request_that_a_run_waits_for_is_not_deleted(dsn: str) -> None:
    """Mutant: drop the trigger approvals_a_awaited."""
    async with running(dsn) as r:
        run = await at_the_gate(r)
        with pytest.raises(asyncpg.PostgresError, match="waits for request") as refused:
            await r.t.sql("DELETE FROM approval_queue WHERE run_id = $1", run)
        assert refused.value.sqlstate == "PO003"
        assert str(run) in (refused.value.hint or "")
        await decide(r, run, "approved")
        await r.ended(run, "completed")
        await r.t.sql("DELETE FROM approval_queue WHERE run_id = $1", run)


async def test_extraction_is_not_approved_without_its_code_by_sql_either(dsn: str) -> None:
    """Mutant: `decide_approval` without its look at payload."""
    async with running(dsn) as r:
        run = await r.start(step("gate", "checkpoint", checkpoint="extraction"), step("prospecting"))
        await r.waits(run, "waiting")
        for code in ("{}", '{"code": " "}'):
            with pytest.raises(asyncpg.PostgresError, match="takes the code") as refused:
                await r.t.sql(f"UPDATE approval_queue SET status = 'approved', payload = payload || '{code}'")
            assert (refused.value.sqlstate, refused.value.column_name) == ("PO002", "payload")
        assert (await r.row(run))["status"] == "waiting"
        await r.t.sql("""UPDATE approval_queue SET status = 'approved', payload = payload || '{"code": "123"}'""")
        assert (await r.ended(run, "completed"))["results"]["gate"]["code"] == "123"


async def test_an_expiry_after_the_decision_does_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r, expiresAfter=DAY_MS)
        await decide(r, run, "approved")
        await r.ended(run, "completed")
        await r.t.shift(days=2)
        await r.at_rest()
        assert await r.t.value("SELECT status FROM approval_queue WHERE run_id = $1", run) == "approved"
        assert (await r.row(run))["status"] == "completed"


async def test_in_auto_nobody_is_asked_and_that_is_recorded(dsn: str) -> None:
    async with running(dsn) as r:
        await r.t.sql("UPDATE checkpoint_settings SET mode = 'auto' WHERE checkpoint = 'leads'")
        run = await r.start(*GATED)
        row = await r.ended(run, "completed")
        [asked] = await r.t.sql("SELECT status, decided_by, decided_at FROM approval_queue WHERE run_id = $1", run)
        assert (asked["status"], asked["decided_by"]) == ("approved", "system (auto)")
        assert asked["decided_at"] is not None
        assert row["results"]["gate"]["approved_by"] == "system (auto)"
        assert await r.notices("approval") == []


async def test_a_decision_stands(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r)
        await decide(r, run, "approved")
        with pytest.raises(asyncpg.PostgresError, match="already approved"):
            await r.t.sql("UPDATE approval_queue SET status = 'rejected' WHERE run_id = $1", run)
        await r.ended(run, "completed")


async def test_two_people_deciding_at_once_are_one_decision(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r)
        async with r.t.session() as ann, r.t.session() as bob:
            mine = ann.transaction()
            await mine.start()
            await ann.execute(
                "UPDATE approval_queue SET status = 'approved', decided_by = 'ann' WHERE run_id = $1", run
            )
            await bob.execute("SET lock_timeout = '100ms'")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await bob.execute("UPDATE approval_queue SET status = 'rejected' WHERE run_id = $1", run)
            await mine.commit()
        await r.ended(run, "completed")


async def test_approvals_in_a_row_are_counted_and_one_rejection_ends_the_row(dsn: str) -> None:
    async with running(dsn) as r:
        in_a_row = "SELECT approvals_in_a_row FROM checkpoint_settings WHERE checkpoint = 'leads'"
        for n in (1, 2):
            run = await at_the_gate(r)
            await decide(r, run, "approved")
            await r.ended(run, "completed")
            assert await r.t.value(in_a_row) == n
        run = await at_the_gate(r)
        await decide(r, run, "rejected")
        await r.ended(run, "aborted")
        assert await r.t.value(in_a_row) == 0


@pytest.mark.parametrize(("checkpoint", "never"), [("extraction", "auto"), ("classification", "plan")])
async def test_some_gates_are_what_they_are(conn: asyncpg.Connection, checkpoint: str, never: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute("UPDATE checkpoint_settings SET mode = $2 WHERE checkpoint = $1", checkpoint, never)


async def test_a_person_who_holds_the_request_delays_its_expiry_and_nothing_else(dsn: str) -> None:
    async with running(dsn) as r:
        run = await at_the_gate(r, expiresAfter=1000)
        async with r.t.session() as other:
            looking = other.transaction()
            await looking.start()
            await other.execute("SELECT FROM approval_queue WHERE run_id = $1 FOR UPDATE", run)
            await r.t.shift(seconds=2)
            beside = await r.start(step("prospecting"))
            await r.ended(beside, "completed")
            assert (await r.row(run))["status"] == "waiting"
            await looking.rollback()
        await r.ended(run, "aborted")
