"""The queue keeps its promises under random schedules, and each broken safeguard makes that test fail."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model import mutants
from tests.model.arena import Arena
from tests.model.machine import Ask, QueueMachine
from tests.support.postgres import Server

SHORT: Final = settings(
    max_examples=40,
    stateful_step_count=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a failure of twenty steps can be read; making it smaller takes minutes
    suppress_health_check=list(HealthCheck),
)
BROKEN: Final = (AssertionError, asyncpg.PostgresError, ExceptionGroup)


@pytest.fixture(scope="module")
async def database(server: Server) -> AsyncIterator[str]:
    """One database for all schedules: each begins by emptying it."""
    dsn = await server.clone()
    yield dsn
    await server.drop(dsn)


@pytest.fixture(scope="module")
def arena(database: str) -> Iterator[Arena]:
    """Actors with their connections."""
    made = Arena(database)
    yield made
    made.close()


@contextmanager
def broken(arena: Arena, mutant: mutants.Mutant) -> Iterator[None]:
    """The queue without one of its safeguards."""
    applied = mutant.applied(arena.observer)
    arena.run(applied.__aenter__())
    try:
        yield
    finally:
        arena.run(applied.__aexit__(None, None, None))


def _search(arena: Arena, how: settings) -> None:
    """Random schedules until one of them breaks a promise."""

    class Machine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(arena)

    run_state_machine_as_test(Machine, settings=how)


def test_the_queue_keeps_its_promises_under_random_schedules(arena: Arena) -> None:
    _search(arena, SHORT)


@pytest.mark.soak
def test_the_queue_keeps_its_promises_under_many_random_schedules(arena: Arena) -> None:
    deep = settings(SHORT, max_examples=3000, stateful_step_count=60, phases=[Phase.generate, Phase.shrink])
    _search(arena, deep)


# -- the shortest schedules that show each broken safeguard


def _a_zombie_settles(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.settle(0, [(0, "snooze")], False, False)
    queue.settle(0, [(0, "done")], True, False)


def _claimed_again(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.settle(0, [(0, "fail")], False, False)
    queue.claim(1, 9, False)


def _a_zombie_snoozes(queue: QueueMachine) -> None:
    _claimed_again(queue)
    queue.settle(0, [(1, "snooze")], True, False)


def _a_zombie_fails(queue: QueueMachine) -> None:
    _claimed_again(queue)
    queue.settle(0, [(1, "fatal")], True, False)


def _a_zombie_settles_beside_its_successor(queue: QueueMachine) -> None:
    _claimed_again(queue)
    queue.settle(0, [(0, "done"), (1, "done")], True, False)


def _a_zombie_gives_back(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.settle(0, [(0, "snooze")], False, False)
    queue.give_back(0, True)


def _a_key_runs(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask("k1")], False)
    queue.claim(0, 9, False)
    queue.enqueue(0, [Ask("k1"), Ask("k2")], False)
    queue.claim(1, 9, False)


def _two_wait(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask("k1"), Ask("k1")], False)
    queue.claim(0, 9, False)


def _the_first_waits_for_its_time(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask("k1", delay=2), Ask("k1")], False)
    queue.claim(0, 9, False)


def _asked_twice(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask(dedup="d1", delay=2), Ask(dedup="d1")], False)


def _asked_again_while_it_runs(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask(dedup="d1")], False)
    queue.claim(0, 9, False)
    queue.enqueue(0, [Ask(dedup="d1")], False)
    queue.settle(0, [(0, "fail")], False, False)


def _three_daemons_die(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    for _ in range(3):
        queue.claim(0, 9, False)
        queue.crash(0)
        queue.rescue(False)
    queue.claim(0, 9, False)
    queue.claim_lonely(0)


def _a_lower_id_commits_later(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask("k1")], True)
    queue.enqueue(1, [Ask("k1")], False)
    queue.claim(0, 9, True)
    queue.end(1, True)
    queue.claim(0, 9, False)
    queue.end(0, True)


def _snoozed(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.settle(0, [(0, "snooze")], False, False)


def _cancelled_in_mid_run(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.decide(0, True)


def _retried_in_mid_run(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.decide(0, False)


def _a_daemon_dies(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.crash(0)
    queue.rescue(False)


def _a_daemon_lives(queue: QueueMachine) -> None:
    queue.enqueue(0, [Ask()], False)
    queue.claim(0, 9, False)
    queue.suspect_the_living(0)


Schedule = Callable[[QueueMachine], None]
SCHEDULES: Final[dict[mutants.Mutant, Schedule]] = {
    mutants.SETTLED_WITHOUT_ITS_LEASE: _a_zombie_settles,
    mutants.POSTPONED_WITHOUT_ITS_LEASE: _a_zombie_snoozes,
    mutants.KILLED_WITHOUT_ITS_LEASE: _a_zombie_fails,
    mutants.GIVEN_BACK_WITHOUT_ITS_LEASE: _a_zombie_gives_back,
    mutants.CLAIMED_BESIDE_A_RUNNING_ONE: _a_key_runs,
    mutants.CLAIMED_OUT_OF_ORDER: _two_wait,
    mutants.CLAIMED_BEFORE_ITS_TIME: _the_first_waits_for_its_time,
    mutants.HELD_BACK_BY_A_LATER_ONE: _the_first_waits_for_its_time,
    mutants.CLAIMED_WITH_ITS_DEDUP_KEY: _asked_again_while_it_runs,
    mutants.TIRED_ONES_RUN_WITH_OTHERS: _three_daemons_die,
    mutants.ENQUEUE_DOES_NOTHING: _asked_twice,
    mutants.SNOOZE_COSTS_A_TRY: _snoozed,
    mutants.RUNNING_ONE_CANCELLED: _cancelled_in_mid_run,
    mutants.NO_INDEX_ON_RUNNING_KEYS: _a_lower_id_commits_later,
    mutants.LIVING_DAEMON_TAKEN_OVER: _a_daemon_lives,
    mutants.TAKEOVER_COSTS_A_TRY: _a_daemon_dies,
    mutants.LIVING_LEASES_FREED: _a_daemon_lives,
    mutants.RETRY_REACHES_RUNNING_ONES: _retried_in_mid_run,
}
EVERY: Final = sorted({*SCHEDULES.values(), _a_zombie_settles_beside_its_successor}, key=lambda s: s.__name__)


def _play(arena: Arena, schedule: Schedule) -> None:
    queue = QueueMachine(arena)
    try:
        schedule(queue)
    finally:
        queue.teardown()


@pytest.mark.parametrize("schedule", EVERY, ids=lambda s: s.__name__.strip("_").replace("_", "-"))
def test_a_schedule_that_once_was_dangerous_is_harmless(arena: Arena, schedule: Schedule) -> None:
    _play(arena, schedule)


@pytest.mark.parametrize("mutant", SCHEDULES, ids=lambda m: m.name.replace(" ", "-"))
def test_a_queue_broken_on_purpose_fails(arena: Arena, mutant: mutants.Mutant) -> None:
    with broken(arena, mutant), pytest.raises(BROKEN):
        _play(arena, SCHEDULES[mutant])


@pytest.mark.soak
@pytest.mark.parametrize("mutant", mutants.FOR_THE_MACHINE, ids=lambda m: m.name.replace(" ", "-"))
def test_a_queue_broken_on_purpose_is_found_by_random_schedules(arena: Arena, mutant: mutants.Mutant) -> None:
    search = settings(SHORT, max_examples=1500, stateful_step_count=40)
    with broken(arena, mutant), pytest.raises(BROKEN):
        _search(arena, search)
