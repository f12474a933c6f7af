"""What people have said of an engine's work goes with a step's requests.

One Idempotency-Key, one body: what the first request of a task carries is pinned to that task before it goes out, and
every later one carries the same, whatever people say or take back meanwhile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from campaigns.effects import Effects, Pinned
from campaigns.steps import Attempt
from daemon import learnings
from daemon.outcome import Snooze
from daemon.task import Task

NAMED = ("sourcing",)  # their protocol has the field, with or without anything in it


def pinned(task: Task) -> Sequence[str] | None:
    """What the requests of this task carry, if that is settled."""
    lines = task.payload.get("learnings")
    return [str(line) for line in lines] if isinstance(lines, list) else None


def for_call(attempt: Attempt, calls_before: int) -> Sequence[str] | Snooze[Effects]:
    """What this call carries; or the task comes again at once, with that pinned to it."""
    settled = pinned(attempt.task)
    if settled is not None:
        return settled
    if calls_before:
        return ()  # there was nothing to be learnt when the first one went out
    lines = learnings.bounded(attempt.run.learnings, attempt.context.settings.learnings)
    return Snooze(attempt.task.now, "what it has to learn is pinned", (Pinned({"learnings": lines}),)) if lines else ()


def taught(body: Mapping[str, Any], engine: str, lines: Sequence[str]) -> dict[str, Any]:
    """The request with what the engine has to learn."""
    if lines:
        return {**body, "learnings": list(lines)}
    return {"learnings": [], **body} if engine in NAMED else dict(body)
