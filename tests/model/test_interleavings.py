"""Interleavings that random load never shows, built by hand with open transactions; and orders of locks.

Where a safeguard is what saves the day, the same test runs once more without it and must fail.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from daemon import listener, queue
from daemon.db import DAEMON_SESSION, Connection, connect
from daemon.outcome import Done, Fail, Outcome, Snooze
from daemon.task import NewTask, Task
from handlers import registry
from handlers.effects import Alert, Change, Effect, Exclude, Move
from tests.model import mutants
from tests.model.arena import KINDS, SIDE_TABLES, SUBJECT, Causes, Note
from tests.support.processes import until

WITHIN_S: Final = 5.0
LEASE_S: Final = 30.0
DONE: Final = Done(Note("done"))
LEAD_KINDS: Final = registry.kinds(registry.by_name(registry.PIPELINES))

Hand = Connection


class Hands:
    """As many connections as a test needs, all sessions of daemons, and what they do most."""

    def __init__(self, dsn: str, stack: AsyncExitStack) -> None:
        self._dsn, self._stack = dsn, stack

    async def hand(self) -> Hand:
        """One more connection."""
        conn = await connect(self._dsn, session={**DAEMON_SESSION, "lock_timeout": "10s"})
        self._stack.push_async_callback(conn.close)
        return conn

    async def hands(self, number: int) -> list[Hand]:
        """A few more."""
        return [await self.hand() for _ in range(number)]

    @asynccontextmanager
    async def waiting_for(self, waiter: Hand, call: Any) -> AsyncIterator["asyncio.Task[Any]"]:
        """A call that waits for somebody's lock while the block runs, and has ended when it is left."""
        running = asyncio.ensure_future(call)
        observer = await self.hand()
        await until(lambda: _is_blocked(observer, waiter), WITHIN_S, "the call to wait for a lock")
        try:
            yield running
        finally:
            async with asyncio.timeout(WITHIN_S):
                await asyncio.wait([running])


async def _is_blocked(observer: Hand, waiter: Hand) -> bool:
    pid = waiter.get_server_pid()
    return bool(await observer.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid))


@pytest.fixture
async def with_(dsn: str) -> AsyncIterator[Hands]:
    """Connections for one test."""
    async with AsyncExitStack() as stack:
        hands = Hands(dsn, stack)
        await (await hands.hand()).execute(SIDE_TABLES)
        yield hands


async def ask(conn: Hand, key: str, *, dedup: str | None = None, cause: int | None = None) -> None:
    """Queue a task; with its cause, if a subject is to see it."""
    if cause is not None:
        await conn.execute("INSERT INTO causes VALUES ($1, $2)", cause, dedup or key)
    await queue.enqueue(conn, [NewTask("often", {"subject": dedup or key}, key, dedup_key=dedup)])


async def claim(conn: Hand, worker: UUID | None = None, kinds: queue.Kinds = KINDS) -> list[Task]:
    """All that can be claimed."""
    room = queue.Room(dict.fromkeys(kinds, 500), 500)
    return await queue.claim(conn, kinds, room, worker=worker or uuid4(), lease_s=LEASE_S)


async def write(conn: Hand, *attempts: tuple[Task, Outcome[Any]], kinds: queue.Kinds = KINDS) -> queue.Written:
    """One batch of outcomes, one transaction."""
    async with conn.transaction():
        return await queue.write(conn, kinds, attempts)


def keys(tasks: Sequence[Task]) -> list[str | None]:
    return sorted((t.key for t in tasks), key=str)


# -- equal keys


async def _lower_id_commits_later(with_: Hands) -> tuple[list[Task], list[Task]]:
    """What two daemons claim, the first one's claim being open when the lower id appears."""
    late, early, first, second = await with_.hands(4)
    user, daemon = late.transaction(), first.transaction()
    await user.start()
    await ask(late, "k")
    await ask(early, "k")
    await daemon.start()
    higher = await claim(first)
    await user.commit()
    await ask(early, "free")
    if await early.fetchval("SELECT to_regclass('tasks_running_key') IS NULL"):
        lower = await claim(second)
        await daemon.commit()
        return higher, lower
    async with with_.waiting_for(second, claim(second)) as claiming:
        await daemon.commit()
    return higher, claiming.result()


async def test_a_lower_id_that_commits_later_waits_and_the_claim_that_met_it_is_repeated(with_: Hands) -> None:
    higher, others = await _lower_id_commits_later(with_)
    assert (keys(higher), keys(others)) == (["k"], ["free"])
    settler = await with_.hand()
    await write(settler, (higher[0], DONE))
    (lower,) = await claim(settler)
    assert (lower.key, lower.id < higher[0].id) == ("k", True)


async def test_without_the_index_on_running_keys_they_would_overlap(with_: Hands) -> None:
    async with mutants.NO_INDEX_ON_RUNNING_KEYS.applied(await with_.hand()):
        higher, others = await _lower_id_commits_later(with_)
        assert (keys(higher), keys(others)) == (["k"], ["free", "k"])


async def test_a_claim_that_is_rolled_back_lets_the_waiting_one_have_the_lower_id(with_: Hands) -> None:
    late, early, first, second = await with_.hands(4)
    user, daemon = late.transaction(), first.transaction()
    await user.start()
    await ask(late, "k")
    await ask(early, "k")
    await daemon.start()
    await claim(first)
    await user.commit()
    async with with_.waiting_for(second, claim(second)) as claiming:
        await daemon.rollback()
    (lower,) = claiming.result()
    assert lower.id == await early.fetchval("SELECT min(id) FROM tasks")


async def test_several_daemons_and_feeders_on_a_few_keys_never_overlap_and_keep_the_order(with_: Hands) -> None:
    feeders, daemons = await with_.hands(2), await with_.hands(3)

    async def feed(conn: Hand) -> None:
        for n in range(40):
            await queue.enqueue(conn, [NewTask("often", {"subject": "s"}, f"k{(n + i) % 12}") for i in range(5)])

    async def work(conn: Hand) -> None:
        while await conn.fetchval("SELECT count(*) < 400 FROM task_log"):
            if tasks := await claim(conn):
                written = await write(conn, *((t, DONE) for t in tasks))
                assert len(written.verdicts) == len(tasks)

    async with asyncio.timeout(30):
        await asyncio.gather(*map(feed, feeders), *map(work, daemons))
    rows = await feeders[0].fetch("SELECT id, key, started_at, finished_at FROM task_log ORDER BY key, started_at")
    assert len(rows) == 400
    for before, after in pairwise(rows):
        if before["key"] == after["key"]:
            assert before["finished_at"] <= after["started_at"]
    doubles = await feeders[0].fetchval("SELECT count(*) - count(DISTINCT task_id) FROM effects")
    assert doubles == 0


# -- deduplication


async def _asked_while_its_claim_is_open(with_: Hands) -> tuple[list[Task], list[Task]]:
    """The change is enqueued while an uncommitted claim holds the waiting row."""
    user, daemon, other = await with_.hands(3)
    await ask(user, "k", dedup="check")
    claiming = daemon.transaction()
    await claiming.start()
    first = await claim(daemon)
    async with with_.waiting_for(user, ask(user, "k", dedup="check")) as asked:
        await claiming.commit()
    asked.result()
    await write(daemon, (first[0], DONE))
    return first, await claim(other)


async def test_a_change_that_meets_a_claim_in_flight_gets_a_task_of_its_own(with_: Hands) -> None:
    first, again = await _asked_while_its_claim_is_open(with_)
    assert (len(first), len(again)) == (1, 1)
    assert again[0].id > first[0].id


async def _seen_of_an_open_change(with_: Hands) -> Causes:
    """What attempts see whose task is claimed as soon as possible, the change being in an open transaction."""
    user, daemon = await with_.hands(2)
    await ask(user, "k", dedup="check", cause=1)
    changing = user.transaction()
    await changing.start()
    await ask(user, "k", dedup="check", cause=2)
    seen: set[int] = set()
    for commit in (True, False):
        tasks = await claim(daemon)
        for causes in (await SUBJECT.load(daemon, tasks)).values():
            seen.update(causes)
        await write(daemon, *((t, DONE) for t in tasks))
        if commit:
            await changing.commit()
    return tuple(sorted(seen))


async def test_the_waiting_task_of_an_open_change_is_not_claimed_before_its_commit(with_: Hands) -> None:
    assert await _seen_of_an_open_change(with_) == (1, 2)


async def test_with_do_nothing_the_handler_sees_old_data_and_nobody_looks_again(with_: Hands) -> None:
    async with mutants.ENQUEUE_DOES_NOTHING.applied(await with_.hand()):
        assert await _seen_of_an_open_change(with_) == (1,)


@pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])
async def test_two_changes_while_their_task_runs_become_one_task(with_: Hands, commit: bool) -> None:
    one, two, daemon = await with_.hands(3)
    await ask(one, "k", dedup="check")
    (running,) = await claim(daemon)
    changing = one.transaction()
    await changing.start()
    await ask(one, "k", dedup="check")
    async with with_.waiting_for(two, ask(two, "k", dedup="check")) as asked:
        await (changing.commit() if commit else changing.rollback())
    asked.result()
    assert await two.fetchval("SELECT count(*) FROM tasks WHERE status = 'available'") == 1
    await write(daemon, (running, Fail("again")))
    assert await two.fetchval("SELECT count(*) FROM tasks WHERE status = 'available'") == 2


async def test_two_of_one_dedup_key_in_one_call_are_one_task(with_: Hands) -> None:
    conn = await with_.hand()
    twice = [NewTask("often", {"subject": "s"}, "k", dedup_key="check") for _ in range(2)]
    await queue.enqueue(conn, twice)
    assert await conn.fetchval("SELECT count(*) FROM tasks") == 1


async def test_a_person_cannot_cancel_what_a_claim_in_flight_takes(with_: Hands) -> None:
    person, daemon = await with_.hands(2)
    await ask(person, "k")
    claiming = daemon.transaction()
    await claiming.start()
    (task,) = await claim(daemon)
    async with with_.waiting_for(person, queue.cancel(person, KINDS, task.id)) as cancelling:
        await claiming.commit()
    assert cancelling.result() is False
    assert await queue.retry(person, task.id) is False
    assert len((await write(daemon, (task, DONE))).verdicts) == 1


# -- leads: users' transactions beside commits


async def _new_leads(conn: Hand, number: int) -> list[UUID]:
    insert = "INSERT INTO leads (name, phone) SELECT 'Ann', '+15550001234' FROM generate_series(1, $1) RETURNING id"
    return [r["id"] for r in await conn.fetch(insert, number)]


async def _claimed_entries(conn: Hand) -> dict[UUID, Task]:
    return {UUID(t.payload["lead_id"]): t for t in await claim(conn, kinds=LEAD_KINDS)}


def _done(*effects: Effect) -> Done[Any]:
    return Done(effects)


async def test_a_user_with_two_leads_and_a_batch_with_both_never_deadlock(with_: Hands) -> None:
    user, daemon = await with_.hands(2)
    leads = await _new_leads(user, 30)
    tasks = await _claimed_entries(daemon)
    editing = user.transaction()
    await editing.start()
    await user.execute("UPDATE leads SET city = 'Leeds' WHERE id = $1", leads[0])
    batch = [(task, _done(Change(lead, 1, data={"seen": True}))) for lead, task in tasks.items()]
    async with daemon.transaction():
        written = await queue.write(daemon, LEAD_KINDS, batch)
        assert [task.payload["lead_id"] for task, _ in written.locked] == [str(leads[0])]
        editing_on = asyncio.ensure_future(user.execute("UPDATE leads SET city = 'York' WHERE id = ANY ($1)", leads))
        await until(lambda: _is_blocked(daemon, user), WITHIN_S, "the user to wait for the batch")
    await editing_on
    await editing.commit()
    assert len((await write(daemon, *written.locked, kinds=LEAD_KINDS)).verdicts) == 1


async def test_a_move_that_a_user_made_meanwhile_is_kept(with_: Hands) -> None:
    user, daemon = await with_.hands(2)
    (lead,) = await _new_leads(user, 1)
    task = (await _claimed_entries(daemon))[lead]
    editing = user.transaction()
    await editing.start()
    await user.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE id = $1", lead)
    attempt = (task, _done(Move(lead, 1, "AI_CONVERSATION", "message sent")))
    assert (await write(daemon, attempt, kinds=LEAD_KINDS)).locked == [attempt]
    await editing.commit()
    assert len((await write(daemon, attempt, kinds=LEAD_KINDS)).verdicts) == 1
    assert await user.fetchval("SELECT stage FROM leads WHERE id = $1", lead) == "DEAD_LEAD"
    dropped = "SELECT count(*) FROM pipeline_events WHERE lead_id = $1 AND event_type = 'move_dropped'"
    assert await user.fetchval(dropped, lead) == 1


async def test_an_outcome_for_a_lead_that_was_deleted_meanwhile_does_not_wait_for_ever(with_: Hands) -> None:
    user, daemon = await with_.hands(2)
    (lead,) = await _new_leads(user, 1)
    task = (await _claimed_entries(daemon))[lead]
    await user.execute("DELETE FROM leads WHERE id = $1", lead)
    written = await write(daemon, (task, _done(Change(lead, 1, entry_done=True))), kinds=LEAD_KINDS)
    assert (written.locked, len(written.verdicts)) == ([], 1)


async def test_two_committers_with_the_same_addresses_and_subjects_never_deadlock(with_: Hands) -> None:
    """Rows of one statement are written in one order, whatever the order of the outcomes."""
    committers = await with_.hands(2)
    names = [f"n{i:03d}" for i in range(300)]
    for _ in range(8):
        tasks = []
        for conn in committers:
            await ask(conn, f"k{conn.get_server_pid()}")
            tasks += await claim(conn)
        batches = [_forbid_and_tell(names), _forbid_and_tell(names[::-1])]
        await asyncio.gather(*(
            write(conn, (task, effects), kinds=dict.fromkeys(KINDS, LEAD_KINDS["lead.check"]))
            for conn, task, effects in zip(committers, tasks, batches, strict=True)
        ))  # fmt: skip
        await committers[0].execute("DELETE FROM email_exclusions; DELETE FROM alerts")


def _forbid_and_tell(names: Sequence[str]) -> Done[Any]:
    never = [Exclude(f"{n}@example.com", "opt_out", "test") for n in names]
    return _done(*never, *(Alert("TEST", "seen", "LOW", n, {}) for n in names))


# -- the orders in which tasks are locked


@asynccontextmanager
async def _in_the_middle_of_a_batch(with_: Hands, worker: UUID) -> AsyncIterator[list[Task]]:
    """A daemon is writing: its second task is settled, its first one is about to be postponed."""
    daemon = await with_.hand()
    await ask(daemon, "a")
    await ask(daemon, "b")
    first, second = sorted(await claim(daemon, worker), key=lambda t: t.id)
    async with daemon.transaction():
        settled = await queue.write(daemon, KINDS, [(second, DONE)])
        yield [first, second]
        postponed = await queue.write(daemon, KINDS, [(first, Snooze(first.now, "later"))])
    assert (len(settled.verdicts), len(postponed.verdicts) + len(postponed.lost)) == (1, 1)


async def _let_go_of_or_done(running: "asyncio.Task[Any]", observer: Hand, waiter: Hand) -> bool:
    return running.done() or await _is_blocked(observer, waiter)


async def test_renewing_leases_never_deadlocks_with_a_commit_of_the_same_daemon(with_: Hands) -> None:
    me = uuid4()
    renewer, observer = await with_.hands(2)
    async with _in_the_middle_of_a_batch(with_, me) as tasks:
        renewing = asyncio.ensure_future(queue.renew(renewer, me, LEASE_S, tasks))
        await until(lambda: _let_go_of_or_done(renewing, observer, renewer), WITHIN_S, "the renewal to get on")
    await renewing


async def test_a_takeover_never_deadlocks_with_a_zombies_commit(with_: Hands) -> None:
    gone = uuid4()
    peer, observer = await with_.hands(2)
    await peer.execute(listener.SQL["register"], gone, "host", 1, "test", True)
    async with _in_the_middle_of_a_batch(with_, gone):
        taking = asyncio.ensure_future(peer.fetchval(listener.SQL["take_over"], gone))
        await until(lambda: _let_go_of_or_done(taking, observer, peer), WITHIN_S, "the takeover to get on")
    await taking
    while await peer.fetchval("SELECT count(*) FROM workers"):  # what was locked is taken over at the next beat
        await peer.fetchval(listener.SQL["take_over"], gone)
    assert await peer.fetchval("SELECT count(*) FROM tasks WHERE status = 'running'") == 0


async def test_a_retry_and_a_takeover_of_one_task_take_turns(with_: Hands) -> None:
    gone = uuid4()
    person, peer, daemon = await with_.hands(3)
    await peer.execute(listener.SQL["register"], gone, "host", 1, "test", True)
    await ask(person, "k")
    (task,) = await claim(daemon, gone)
    async with peer.transaction():
        assert await peer.fetchval(listener.SQL["take_over"], gone) == 1
        assert await queue.retry(person, task.id) is False  # it still runs, for all that others can see
    async with person.transaction():
        assert await queue.retry(person, task.id) is True
        assert await claim(daemon) == []
    assert [t.id for t in await claim(daemon)] == [task.id]


async def test_two_peers_that_take_over_the_same_daemon_free_its_tasks_once(with_: Hands) -> None:
    gone = uuid4()
    one, two, daemon = await with_.hands(3)
    await one.execute(listener.SQL["register"], gone, "host", 1, "test", True)
    await ask(daemon, "k")
    await claim(daemon, gone)
    async with one.transaction():
        freed = [await conn.fetchval(listener.SQL["take_over"], gone) for conn in (one, two)]
    assert freed == [1, 0]
    assert await two.fetchval("SELECT interruptions FROM tasks") == 1


async def test_the_lock_of_a_living_daemon_forbids_its_takeover(with_: Hands) -> None:
    alive = uuid4()
    daemon, peer = await with_.hands(2)
    number = await daemon.fetchval(listener.SQL["register"], alive, "host", 1, "test", True)
    assert await daemon.fetchval(listener.SQL["try_lock"], number)
    await ask(daemon, "k")
    await claim(daemon, alive)
    assert await peer.fetchval(listener.SQL["take_over"], alive) == 0
    await daemon.close()
    await until(lambda: peer.fetchval(listener.SQL["take_over"], alive), WITHIN_S, "the lock to fall")


async def test_claims_that_wait_for_each_others_keys_are_told_so(with_: Hands) -> None:
    """The worst that two claims can do to each other is an error that the worker knows how to repeat."""
    user, late, first, second = await with_.hands(4)
    open_ = late.transaction()
    await open_.start()
    await ask(late, "k")
    await ask(user, "k")
    claiming = first.transaction()
    await claiming.start()
    await claim(first)
    await open_.commit()
    with pytest.raises(asyncpg.LockNotAvailableError):
        await claim(second)
    await claiming.commit()
    assert await claim(second) == []
