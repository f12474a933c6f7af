"""Kinds of task that misbehave on purpose, for the daemon under test only."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.db import Connection
from daemon.outcome import Done, Outcome
from daemon.task import Kind, Policy, Task
from handlers.effects import Effects, Writer

ERRORS: Mapping[str, Exception] = {
    "value": ValueError("no such thing"),
    "timeout": TimeoutError(),
    "nul": ValueError("a \x00 in the text"),
    "surrogate": ValueError("half a \ud800 character"),
}


class Nothing(Writer):
    """A subject about which nothing is known and nothing is written."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Any]:
        return {}

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        return ()

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        return None


async def die(task: Task, snapshot: Any, context: Any) -> Outcome[Any]:
    """Take the whole daemon down."""
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()
    return Done(())


async def fail(task: Task, snapshot: Any, context: Any) -> Outcome[Any]:
    """Raise what the payload names."""
    raise ERRORS[task.payload["error"]]


async def linger(task: Task, snapshot: Any, context: Any) -> Outcome[Any]:
    """Take as long as the payload says."""
    await asyncio.sleep(task.payload["seconds"])
    return Done(())


async def decide(task: Task, snapshot: Any, context: Any) -> Outcome[Any]:
    """Decide at once."""
    return Done((), "decided")


def kinds() -> dict[str, Kind[Any]]:
    """All of them; those that call run in slots, the others in batches."""
    nothing = Nothing()
    quick, slotted = Policy(max_attempts=1), Policy(max_attempts=1, concurrency=64)
    every = (
        Kind("strange.die", Policy(concurrency=64), nothing, die),
        Kind("strange.fail", quick, nothing, fail),
        Kind("strange.fail_calling", slotted, nothing, fail),
        Kind("strange.linger", slotted, nothing, linger),
        Kind("strange.decide", quick, nothing, decide),
    )
    return {kind.name: kind for kind in every}
