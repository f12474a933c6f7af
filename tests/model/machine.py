"""What daemons, users, people and time do to the queue, as rules; what the guarantees allow, as checks.

Every rule is one call of `daemon.queue` (or of the functions beside it) on the connection of whoever makes it;
with `keep_open` its transaction stays open while the others go on. The tables are read after each rule, and the
rule compares them with what was there before. At the end all that is left is worked off: whatever was asked for
must have been seen by an attempt that was committed.
"""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from daemon import listener, queue
from daemon.db import Connection
from daemon.outcome import Done, Fail, Outcome, Snooze
from daemon.task import NewTask, Task
from tests.model.arena import KINDS, SUBJECT, Actor, Arena, Attempt, Note, Tables

HOUR: Final = timedelta(hours=1)
LATER: Final = 20 * HOUR
LEASE_S: Final = 600.0
RUN_OUT: Final = "UPDATE tasks SET lease_expires_at = now() - interval '1 second' WHERE worker = $1"


@dataclass(frozen=True, slots=True)
class Ask:
    """A task that a user wants."""

    key: str | None = "k1"
    dedup: str | None = None
    kind: str = "often"
    delay: int | None = None
    priority: int = 50


asks = st.builds(
    Ask,
    st.sampled_from(["k1", "k1", "k2", None]),
    st.sampled_from([None, None, "d1", "d2"]),
    st.sampled_from(["often", "often", "once"]),
    st.sampled_from([None, None, None, 2]),
    st.sampled_from([10, 50]),
)
outcomes = st.sampled_from(["done", "snooze", "fail", "fail later", "fatal"])
picks = st.lists(st.tuples(st.integers(0, 9), outcomes), min_size=1, max_size=4)
rarely = st.sampled_from([False, False, False, True])
anyone = st.integers(0, 2)


class QueueMachine(RuleBasedStateMachine):
    """`now` is what was committed after the last rule."""

    def __init__(self, arena: Arena) -> None:
        super().__init__()
        self.arena = arena
        arena.run(arena.clear())
        self.attempts: list[Attempt] = []
        self.causes: set[int] = set()
        self.gone: list[UUID] = []
        self.known: set[int] = set()
        self.asked = 0
        self.now: Tables = arena.run(arena.look())

    # -- transactions

    def _act(self, actor: Actor, call: Any, committed: Callable[[Any], None], *, keep_open: bool = False) -> None:
        """Make a call in a transaction of its own, unless somebody else's lock is in the way."""

        async def act() -> Any:
            actor.open = actor.conn.transaction()
            await actor.open.start()
            return await call(actor.conn)

        try:
            result = self.arena.run(act())
        except asyncpg.LockNotAvailableError:
            assert any(a.open for a in self.arena.actors if a is not actor), "nobody else holds a lock"
            self._finish(actor, commit=False)
            return
        actor.committed = lambda: committed(result)
        if not keep_open:
            self._finish(actor, commit=True)

    def _finish(self, actor: Actor, *, commit: bool) -> None:
        assert actor.open is not None
        transaction, committed = actor.open, actor.committed
        actor.open = actor.committed = None
        self.arena.run(transaction.commit() if commit else transaction.rollback())
        self._look()
        if commit and committed is not None:
            committed()

    def _look(self) -> None:
        self.now = self.arena.run(self.arena.look())
        self._check_always()

    @staticmethod
    def _free(actors: Sequence[Actor], which: int) -> Actor:
        free = [a for a in actors if a.open is None]
        return free[which % len(free)]

    @property
    def _open(self) -> list[Actor]:
        return [a for a in self.arena.actors if a.open is not None]

    def _a_user_is_free(self) -> bool:
        return any(a.open is None for a in self.arena.users)

    def _a_daemon_is_free(self) -> bool:
        return any(a.open is None for a in self.arena.daemons)

    @rule(which=anyone, commit=st.sampled_from([True, True, False]))
    @precondition(lambda self: self._open)
    def end(self, which: int, commit: bool) -> None:
        """Somebody's transaction ends."""
        self._finish(self._open[which % len(self._open)], commit=commit)

    # -- users

    @rule(which=anyone, wanted=st.lists(asks, min_size=1, max_size=4), keep_open=rarely)
    @precondition(_a_user_is_free)
    def enqueue(self, which: int, wanted: list[Ask], keep_open: bool) -> None:
        """Causes, each with its task, in one transaction."""
        if keep_open:
            self._enqueue(which, wanted, keep_open=True)
            return
        for ask in wanted:
            self._enqueue(which, [ask])

    def _enqueue(self, which: int, wanted: list[Ask], *, keep_open: bool = False) -> None:
        before, numbers = self.now, range(self.asked + 1, self.asked + 1 + len(wanted))
        self.asked += len(wanted)

        async def ask(conn: Connection) -> list[datetime | None]:
            return [await self._ask(conn, n, one) for n, one in zip(numbers, wanted, strict=True)]

        def asked(times: list[datetime | None]) -> None:
            self.causes.update(numbers)
            if not keep_open:
                self._check_enqueued(before, wanted[0].dedup, times[0])

        self._act(self._free(self.arena.users, which), ask, asked, keep_open=keep_open)

    async def _ask(self, conn: Connection, n: int, ask: Ask) -> datetime | None:
        subject = ask.dedup or f"n{n}"
        await conn.execute("INSERT INTO causes VALUES ($1, $2)", n, subject)
        at: datetime | None = await conn.fetchval("SELECT clock() + $1", ask.delay * HOUR) if ask.delay else None
        await queue.enqueue(conn, [NewTask(ask.kind, {"subject": subject}, ask.key, at, ask.priority, ask.dedup)])
        return at

    def _check_enqueued(self, before: Tables, dedup: str | None, at: datetime | None) -> None:
        """One more task, or the waiting one of the same dedup_key brought forward."""
        waiting = [r for r in before.tasks.values() if dedup and r["dedup_key"] == dedup and r["status"] == "available"]
        assert len(self.now.tasks.keys() - before.tasks.keys()) == (0 if waiting else 1)
        for was in waiting:
            row = self.now.tasks[was["id"]]
            assert row["due"] if at is None else row["run_at"] == min(was["run_at"], at)

    # -- daemons

    @rule(which=anyone, room=st.sampled_from([1, 9, 9]), keep_open=rarely)
    @precondition(lambda self: self.now.tasks and self._a_daemon_is_free())
    def claim(self, which: int, room: int, keep_open: bool) -> None:
        """Up to `room` of each kind."""
        self._claim(self._free(self.arena.daemons, which), room, keep_open=keep_open)

    @rule(which=anyone)
    @precondition(lambda self: self.now.claimable(lonely=True) and self._a_daemon_is_free())
    def claim_lonely(self, which: int) -> None:
        """One that was interrupted too often."""
        self._claim(self._free(self.arena.daemons, which), 1, lonely=True)

    def _claim(self, actor: Actor, room: int, *, lonely: bool = False, keep_open: bool = False) -> None:
        before, alone = self.now, not self._open

        async def claim(conn: Connection) -> list[Task]:
            if lonely:
                return await queue.claim_lonely(conn, KINDS, actor.id, LEASE_S)
            rooms = queue.Room(dict.fromkeys(KINDS, room), room * len(KINDS))
            return await queue.claim(conn, KINDS, rooms, worker=actor.id, lease_s=LEASE_S)

        def claimed(tasks: list[Task]) -> None:
            if alone:
                assert {t.id for t in tasks} == _next(before, room, lonely=lonely)
            assert {t.id for t in tasks} <= {r["id"] for r in before.claimable(lonely=lonely)}
            for task in tasks:
                self._check_claimed(before.tasks[task.id], task)
            seen = self.arena.run(SUBJECT.load(actor.conn, tasks))
            self.attempts += [Attempt(t, seen[t.id]) for t in tasks]

        self._act(actor, claim, claimed, keep_open=keep_open)

    def _check_claimed(self, was: asyncpg.Record, task: Task) -> None:
        row = self.now.tasks[task.id]
        assert (row["status"], row["lease_id"], row["dedup_key"]) == ("running", task.lease_id, None)
        assert task.attempt == row["attempt"] == was["attempt"] + 1
        assert task.interruptions == row["interruptions"] == was["interruptions"]

    @rule(which=anyone, how=picks, zombies=rarely, keep_open=rarely)
    @precondition(lambda self: self.attempts and self._a_daemon_is_free())
    def settle(self, which: int, how: list[tuple[int, str]], zombies: bool, keep_open: bool) -> None:
        """Outcomes of some attempts, the latest first; of zombies, too, or only of those whose lease holds."""
        among = [a for a in reversed(self.attempts) if zombies or self.now.held(a)]
        picked = {id(a): (a, said) for a, said in ((among[i % len(among)], said) for i, said in how if among)}
        self._settle(self._free(self.arena.daemons, which), list(picked.values()), keep_open=keep_open)

    def _settle(self, actor: Actor, picked: list[tuple[Attempt, str]], *, keep_open: bool = False) -> None:
        before = self.now
        held = [(a, how) for a, how in picked if before.held(a)]
        lost = {(a.task.id, a.task.lease_id) for a, _ in picked if not before.held(a)}
        attempts = [(a.task, _outcome(a, how)) for a, how in picked]

        def settled(written: queue.Written) -> None:
            assert {(task.id, task.lease_id) for task, _ in written.lost} == lost
            assert len(written.verdicts) == len(held)
            for attempt, how in held:
                self._check_settled(before.tasks[attempt.task.id], how)
            if not keep_open:
                assert before.unlike(self.now) == {a.task.id for a, _ in held}, "a lost lease wrote"

        self._act(actor, lambda conn: _write(conn, attempts), settled, keep_open=keep_open)

    def _check_settled(self, was: asyncpg.Record, how: str) -> None:
        if how == "done":
            assert self.now.ended[was["id"]] == "done"
            return
        row = self.now.tasks[was["id"]]
        dead = how == "fatal" or (how.startswith("fail") and was["attempt"] >= was["max_attempts"])
        assert row["status"] == ("dead" if dead else "available")
        assert row["attempt"] == was["attempt"] - (how == "snooze")
        assert row["interruptions"] == was["interruptions"]
        assert row["due"] or how in ("snooze", "fail later")

    @rule(which=anyone, zombies=rarely)
    @precondition(lambda self: self.attempts and self._a_daemon_is_free())
    def give_back(self, which: int, zombies: bool) -> None:
        """An orderly interruption, as if the claim had never been."""
        before = self.now
        among = [a for a in self.attempts if zombies or before.held(a)][-3:]
        ours = {a.task.id for a in among if before.held(a)}

        def given_back(count: int) -> None:
            assert (count, before.unlike(self.now)) == (len(ours), ours)
            for i in ours:
                self._check_freed(before.tasks[i], interrupted=False)

        actor = self._free(self.arena.daemons, which)
        self._act(actor, lambda conn: queue.give_back(conn, [a.task for a in among]), given_back)

    def _check_freed(self, was: asyncpg.Record, *, interrupted: bool) -> None:
        row = self.now.tasks[was["id"]]
        assert (row["status"], row["attempt"]) == ("available", was["attempt"] - 1)
        assert row["interruptions"] == was["interruptions"] + interrupted

    # -- faults

    @rule(which=anyone)
    @precondition(lambda self: any(r["worker"] for r in self.now.tasks.values()))
    def crash(self, which: int) -> None:
        """A daemon is gone; its attempts go on as zombies. Another one begins in its place."""
        self._crash(self.arena.daemons[which])

    def _crash(self, actor: Actor) -> None:
        if actor.open is not None:
            self._finish(actor, commit=False)
        self.gone.append(actor.id)
        self.arena.run(actor.conn.execute("SELECT pg_advisory_unlock_all()"))
        self.arena.run(self.arena.sign_on(actor))

    @rule(expired=st.booleans())
    @precondition(lambda self: self.gone)
    def rescue(self, expired: bool) -> None:
        """The peers of the one that is gone take over, or its leases run out."""
        self._rescue(expired=expired)

    def _rescue(self, *, expired: bool) -> None:
        gone, before, person = self.gone[-1], self.now, self.arena.observer
        its = {i for i, r in before.tasks.items() if r["worker"] == gone}
        free = (listener.SQL["free_expired"],) if expired else (listener.SQL["take_over"], gone)
        try:
            if expired:
                self.arena.run(person.execute(RUN_OUT, gone))
            freed = self.arena.run(person.fetchval(*free))
        except asyncpg.LockNotAvailableError:
            assert self._open
            return
        self.gone.pop()
        self._look()
        assert (freed, before.unlike(self.now)) == (len(its), its)
        for i in its:
            self._check_freed(before.tasks[i], interrupted=True)

    @rule(which=anyone)
    @precondition(lambda self: any(r["worker"] for r in self.now.tasks.values()))
    def suspect_the_living(self, which: int) -> None:
        """Whose lock is held is not taken over, and leases that have not run out stay."""
        before, person = self.now, self.arena.observer
        assert self.arena.run(person.fetchval(listener.SQL["take_over"], self.arena.daemons[which].id)) == 0
        assert self.arena.run(person.fetchval(listener.SQL["free_expired"])) == 0
        self._look()
        assert not before.unlike(self.now)

    @rule(which=anyone)
    @precondition(lambda self: any(r["worker"] for r in self.now.tasks.values()) and self._a_daemon_is_free())
    def renew(self, which: int) -> None:
        """A daemon renews its own leases, and no others; what somebody is just writing is left out."""
        actor, before = self._free(self.arena.daemons, which), self.now
        its = {i for i, r in before.tasks.items() if r["worker"] == actor.id}
        every = [a.task for a in self.attempts]

        all_of_them = not self._open

        def renewed(_: None) -> None:
            changed = before.unlike(self.now)
            assert changed == its if all_of_them else changed <= its

        self._act(actor, lambda conn: queue.renew(conn, actor.id, LEASE_S, every), renewed)

    # -- people and time

    @rule(hours=st.integers(1, 4))
    @precondition(lambda self: self.now.tasks)
    def time_passes(self, hours: int) -> None:
        """Business time."""
        self._shift(hours)

    def _shift(self, hours: int) -> None:
        self.arena.run(self.arena.observer.execute("SELECT shift_clock($1)", hours * HOUR))
        self._look()

    @rule(which=st.integers(0, 9), cancel=st.booleans())
    @precondition(lambda self: self.known)
    def decide(self, which: int, cancel: bool) -> None:
        """A person retries or cancels a task, perhaps one that has ended."""
        before, task = self.now, sorted(self.known)[-1 - which % len(self.known)]
        person, row = self.arena.observer, before.tasks.get(task)
        try:
            done = self.arena.run(queue.cancel(person, KINDS, task) if cancel else queue.retry(person, task))
        except asyncpg.LockNotAvailableError:
            assert self._open
            return
        self._look()
        assert done == (row is not None and row["status"] != "running")
        assert before.unlike(self.now) <= ({task} if done else set())
        if done:
            self._check_decided(before.tasks[task], cancel=cancel)

    def _check_decided(self, was: asyncpg.Record, *, cancel: bool) -> None:
        if cancel:
            assert self.now.ended[was["id"]] == "cancelled"
            return
        row = self.now.tasks[was["id"]]
        assert (row["status"], row["due"]) == ("available", True)
        kept = (0, 0) if was["status"] == "dead" else (was["attempt"], was["interruptions"])
        assert (row["attempt"], row["interruptions"]) == kept

    # -- always

    def _check_always(self) -> None:
        running = Counter(r["key"] for r in self.now.tasks.values() if r["status"] == "running" and r["key"])
        assert all(n == 1 for n in running.values()), "equal keys run together"
        attempts = Counter((e["task_id"], e["lease_id"]) for e in self.now.effects if e["lease_id"])
        assert all(n == 1 for n in attempts.values()), "an attempt's effects happen once"
        done = Counter(e["task_id"] for e in self.now.effects if e["status"] == "done")
        assert done == Counter(i for i, status in self.now.ended.items() if status == "done"), (
            "a task's effects happen once, with its end"
        )
        assert not self.now.tasks.keys() & self.now.ended.keys()
        assert self.known <= self.now.tasks.keys() | self.now.ended.keys(), "a task is lost"
        self.known |= self.now.tasks.keys()

    def teardown(self) -> None:
        """Work off all that is left; nothing that was asked for may have been overlooked."""
        try:
            if sys.exc_info()[1] is None:
                self._work_off()
        finally:
            self.arena.run(self.arena.end())

    def _work_off(self) -> None:
        self._finish_all()
        self._drain()
        assert not self.causes - {n for e in self.now.effects for n in e["causes"]}, "overlooked"

    def _finish_all(self) -> None:
        for actor in self._open:
            self._finish(actor, commit=True)
        for daemon in self.arena.daemons:
            if any(r["worker"] == daemon.id for r in self.now.tasks.values()):
                self._crash(daemon)
        while self.gone:
            self._rescue(expired=False)

    def _drain(self) -> None:
        for _ in range(60):
            if not self.now.tasks:
                return
            for task in [i for i, r in self.now.tasks.items() if r["status"] == "dead"]:
                self.arena.run(queue.retry(self.arena.observer, task))
            self._shift(8)
            daemon, lonely = self.arena.daemons[0], bool(self.now.claimable(lonely=True))
            self._claim(daemon, 50, lonely=lonely)
            self._settle(daemon, [(a, "done") for a in self.attempts if self.now.held(a)])
        raise AssertionError(f"never ends: {list(self.now.tasks.values())}")


async def _write(conn: Connection, attempts: Sequence[queue.Attempted]) -> queue.Written:
    """As the committer does: at once if that is possible."""
    trying = conn.transaction()
    await trying.start()
    written = await queue.write_at_once(conn, KINDS, attempts)
    await (trying.commit() if written else trying.rollback())
    return written or await queue.write(conn, KINDS, attempts)


def _outcome(attempt: Attempt, how: str) -> Outcome[Note]:
    match how:
        case "done":
            return Done(Note("done", attempt.seen))
        case "snooze":
            return Snooze(attempt.task.now + LATER, "later", Note("snoozed"))
        case "fail later":
            return Fail("busy", after_s=LATER.total_seconds())
        case _:
            return Fail("no", retryable=how == "fail")


def _next(before: Tables, room: int, *, lonely: bool) -> set[int]:
    """What a claim that nobody disturbs takes: the first of each kind, up to its room."""
    rows = sorted(before.claimable(lonely=lonely), key=lambda r: (0 if lonely else r["priority"], r["run_at"], r["id"]))
    kinds = [tuple(KINDS)] if lonely else [(name,) for name in KINDS]
    return {i for its in kinds for i in [r["id"] for r in rows if r["kind"] in its][:room]}
