"""One bad task never stops the others, nor the daemon for good.

Mutants that these tests kill (each one line, tried by hand):
  alone: `claim` in queue.sql without `AND t.interruptions < 3`
  dead after 20: `Worker._execute` without its question for MOST_INTERRUPTIONS
  one by one: `Committer._commit` refuses the whole batch instead of committing one by one
"""

import pytest

from daemon.db import Connection
from tests.support.load import insert_leads, sms_engine
from tests.support.processes import DaemonProcess, Fleet, fleet, until
from tests.support.strange_kinds import ERRORS

QUICK = {"worker__pulse_s": "0.1", "worker__takeover_s": "0.1"}
STRANGE = {"TEST_KINDS": "1"}


async def enqueue(conn: Connection, kind: str, payload: dict[str, object], count: int = 1) -> list[int]:
    """Tasks of one kind."""
    rows = await conn.fetch("SELECT enqueue($1, $2) AS id FROM generate_series(1, $3)", kind, payload, count)
    return [row["id"] for row in rows]


async def done(conn: Connection, tasks: list[int]) -> bool:
    return bool(await conn.fetchval("SELECT count(*) = $2 FROM task_log WHERE id = ANY ($1)", tasks, len(tasks)))


async def run_until_killed(conn: Connection, fleet: Fleet, task: int) -> tuple[int, bool]:
    """One life of a daemon beside the killer: how many tasks ran when it died, and whether the killer is dead now."""
    daemon = await fleet.start(**STRANGE)

    async def over() -> bool:
        return not daemon.alive or await status(conn, task) == "dead"

    await until(over, 15.0, f"the daemon's or the task's death:\n{daemon.said()}")
    if daemon.alive:
        return 0, True
    assert daemon.process.returncode == -9, daemon.said()
    beside = "SELECT count(*) FROM tasks t JOIN workers w ON w.id = t.worker WHERE t.status = 'running' AND w.pid = $1"
    return await conn.fetchval(beside, daemon.pid), False


async def status(conn: Connection, task: int) -> str | None:
    found: str | None = await conn.fetchval("SELECT status FROM tasks WHERE id = $1", task)
    return found


async def test_a_task_that_kills_its_daemon_runs_alone_and_then_dies(dsn: str, conn: Connection) -> None:
    ran: list[int] = []
    async with fleet(dsn, **QUICK) as daemons:
        lingering = await enqueue(conn, "strange.linger", {"seconds": 2.0}, 5)
        killer = (await enqueue(conn, "strange.die", {}))[0]
        others = await enqueue(conn, "strange.decide", {}, 200)
        for _ in range(5):
            running, _ = await run_until_killed(conn, daemons, killer)
            ran.append(running)
        await until(lambda: done(conn, others), 1.0, "the innocent, long since")
        assert max(ran[:3]) > 1, f"it never ran beside others: {ran}"
        assert ran[3:] == [1, 1], f"it was to run alone: {ran}"
        await conn.execute("UPDATE tasks SET interruptions = 18 WHERE id = $1", killer)  # its daemon's end adds one
        assert (await run_until_killed(conn, daemons, killer))[0] == 1
        assert (await run_until_killed(conn, daemons, killer))[1], "it lives on after twenty interruptions"
        await until(lambda: done(conn, lingering), 20.0, "those that were interrupted with it")
    assert "interrupted 20 times" in await conn.fetchval("SELECT error FROM tasks WHERE id = $1", killer)


@pytest.mark.parametrize("kind", ["strange.fail", "strange.fail_calling"])
async def test_handlers_that_raise_fail_alone(dsn: str, conn: Connection, kind: str) -> None:
    async with fleet(dsn) as daemons:
        daemon = await daemons.start(**STRANGE)
        async with conn.transaction():
            first = await enqueue(conn, "strange.decide", {}, 20)
            bad = [task for error in ERRORS for task in await enqueue(conn, kind, {"error": error})]
            last = await enqueue(conn, "strange.decide", {}, 20)
        await until(lambda: done(conn, first + last), 5.0, f"the others:\n{daemon.said()}")
        await until(lambda: _dead(conn, bad), 5.0, f"the death of the bad one:\n{daemon.said()}")
        await still_works(conn, daemon)


async def test_many_that_have_to_run_alone_do_not_take_a_beat_each(dsn: str, conn: Connection) -> None:
    """After a bad hour (somebody's kill -9, four times) hundreds may be under suspicion."""
    async with fleet(dsn) as daemons:
        await daemons.start(**STRANGE)
        async with conn.transaction():
            suspects = await enqueue(conn, "strange.linger", {"seconds": 0.001}, 60)
            await conn.execute("UPDATE tasks SET interruptions = 3")
        await until(lambda: done(conn, suspects), 15.0, "sixty lonely tasks")


async def _dead(conn: Connection, tasks: list[int]) -> bool:
    found = await conn.fetchval("SELECT count(*) FROM tasks WHERE id = ANY ($1) AND status = 'dead'", tasks)
    return bool(found == len(tasks))


async def still_works(conn: Connection, daemon: DaemonProcess) -> None:
    """It is the same process, and handles what comes."""
    tasks = await enqueue(conn, "strange.decide", {}, 5)
    await until(lambda: done(conn, tasks), 5.0, f"later tasks:\n{daemon.said()}")
    assert daemon.alive


SENSELESS: tuple[tuple[str, dict[str, object]], ...] = (
    ("lead.check", {}),
    ("lead.check", {"lead_id": "nonsense"}),
    ("lead.check", {"lead_id": None}),
    ("lead.deadline", {"lead_id": 7}),
    ("message", {}),
    ("message", {"message_id": 7}),
    ("reply", {"reply_id": "nonsense"}),
    ("vendor_acquisition.NEW_LEAD", {"lead_id": "00000000-0000-0000-0000-000000000000"}),
    ("no such kind", {}),
)


async def test_tasks_that_make_no_sense_fail_alone(dsn: str, conn: Connection) -> None:
    async with sms_engine(honours_keys=False) as engine, fleet(dsn, **engine.settings()) as daemons:
        daemon = await daemons.start(**STRANGE)
        async with conn.transaction():
            bad = [task for kind, payload in SENSELESS for task in await enqueue(conn, kind, payload)]
            leads = await insert_leads(conn, 5)
        await until(lambda: _talking(conn, leads), 10.0, f"the others:\n{daemon.said()}")
        await until(lambda: _over(conn, bad[:-1]), 10.0, f"the end of the bad ones:\n{daemon.said()}")
        assert await status(conn, bad[-1]) == "available", "some other daemon may know that kind"
        await still_works(conn, daemon)


async def _over(conn: Connection, tasks: list[int]) -> bool:
    """Each has ended, or has failed at least once."""
    waiting = "SELECT EXISTS (SELECT FROM tasks WHERE id = ANY ($1) AND error IS NULL)"
    return not await conn.fetchval(waiting, tasks)


async def _talking(conn: Connection, leads: list[str]) -> bool:
    there = "SELECT count(*) FROM leads WHERE id = ANY ($1::uuid[]) AND stage = 'AI_CONVERSATION'"
    return bool(await conn.fetchval(there, leads) == len(leads))


REFUSALS = {
    "its message is refused": "ALTER TABLE messages ADD CHECK (lead_id <> '{lead}')",
    "its lead can't be written at all": """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = '{lead}' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON leads FOR EACH ROW EXECUTE FUNCTION refuse()""",
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
async def test_an_outcome_that_the_database_refuses_fails_alone(dsn: str, conn: Connection, refusal: str) -> None:
    async with sms_engine(honours_keys=False) as engine, fleet(dsn, **engine.settings()) as daemons:
        daemon = await daemons.start(**STRANGE)
        async with conn.transaction():
            leads = await insert_leads(conn, 50)
            await conn.execute("UPDATE tasks SET max_attempts = 1")
            await conn.execute(refusal.format(lead=leads[25]))
        others = [lead for lead in leads if lead != leads[25]]
        await until(lambda: _talking(conn, others), 10.0, f"the others:\n{daemon.said()}")
        task = "SELECT EXISTS (SELECT FROM tasks WHERE key = 'lead:' || $1 AND (status = 'dead' OR error IS NOT NULL))"
        await until(lambda: conn.fetchval(task, leads[25]), 10.0, f"the failure of the refused one:\n{daemon.said()}")
        assert set(engine.effects.values()) == {1}
        await still_works(conn, daemon)
