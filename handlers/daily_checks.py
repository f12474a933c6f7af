"""The daily look at every lead that is under way, in bites: each is a task that queues the checks and the next bite.

So it survives anything, and no transaction grows with the number of leads.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from daemon import queue
from daemon.context import Context
from daemon.db import Connection
from daemon.outcome import Done, Outcome
from daemon.task import LOW, Kind, NewTask, Policy, Task
from handlers import leads
from handlers.effects import Alert, Effects, Writer
from handlers.pipeline import done

KIND = "lead.check_all"
BITE = 2000
FIRST = UUID(int=0)
NEVER_STALE = 36_500

Bite = Sequence[Mapping[str, Any]]
"""Leads by their ids: `to_check`, and whether their data has grown `stale`."""


class LeadsInOrder(Writer):
    """Tasks whose payload names the last lead of the bite before."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Bite]:
        """Each task's bite."""
        return {t.id: await self._bite(conn, t.payload) for t in tasks}

    async def _bite(self, conn: Connection, payload: Mapping[str, Any]) -> Bite:
        bite: Bite = await conn.fetch(leads.SQL["in_order"], payload.get("after", FIRST), _stale_days(payload), BITE)
        return bite

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """A person is told; the next day begins anew."""
        return (Alert("AGENT_FAILURE", f"{task.kind}: {error}"[:500], "HIGH", KIND, {}),)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """The rest is not checked today."""


def kinds() -> list[Kind[Effects]]:
    """The one kind of a bite."""
    return [Kind(KIND, Policy(), LeadsInOrder(), _check_some)]


async def begin(conn: Connection, stale_days: int) -> None:
    """Queue the first bite."""
    await queue.enqueue(conn, [_bite_after(None, stale_days)])


def _stale_days(payload: Mapping[str, Any]) -> int:
    """Whoever queues it by hand may leave this out."""
    days: int = payload.get("stale_days", NEVER_STALE)
    return days


def _bite_after(last: UUID | None, stale_days: int) -> NewTask:
    place = {"after": str(last)} if last else {}
    return NewTask(KIND, {"stale_days": stale_days, **place}, KIND, priority=LOW, dedup_key=KIND)


async def _check_some(task: Task, bite: Bite | None, _: Context) -> Outcome[Effects]:
    if not bite:
        return done(reason="no lead is left")
    checks = [_check(row["id"], stale=row["stale"]) for row in bite if row["to_check"]]
    following = [_bite_after(bite[-1]["id"], _stale_days(task.payload))] if len(bite) == BITE else []
    return Done((*checks, *following), f"{len(checks)} checks")


def _check(lead_id: UUID, *, stale: bool) -> NewTask:
    payload = {"lead_id": str(lead_id), "issues": ["no_update"] if stale else []}
    return NewTask("lead.check", payload, f"lead:{lead_id}", priority=LOW, dedup_key=f"check:{lead_id}")
