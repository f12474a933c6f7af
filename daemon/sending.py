"""The kill switch: stops all sending, lets it go on, and is the gate of calls that choose their recipients themselves.

Messages ask it in their own gate, with everything else that may hold them. Mails to the admin are outside of it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from daemon.db import Connection, Statements
from daemon.ledger import Gate, Refused
from daemon.together import Step

SQL = Statements("daemon", "sending.sql")
UNTIL_RESUMED = datetime(9999, 1, 1, tzinfo=UTC)
"""When a task is due that waits for sending; resuming brings it forward."""
REACHES_PEOPLE = ("/api/send", "/api/send-batch", "/api/offers")
State = Mapping[str, Any]


async def stop(conn: Connection, by: str, reason: str | None) -> State:
    """Nothing is sent from now on, but for what is being sent at this moment."""
    await conn.execute(SQL["stop"], by, reason)
    return await state(conn)


async def resume(conn: Connection) -> State:
    """Whatever waited for it is tried again at once."""
    await conn.execute(SQL["resume"])
    return await state(conn)


async def state(conn: Connection) -> State:
    """Whether it is stopped, since when, by whom and why, and how many messages are overdue."""
    (row,) = await conn.fetch(SQL["state"])
    return dict(row)


class KillSwitch:
    """Asked inside the reservation of a call that reaches people."""

    def step(self, items: Sequence[Any]) -> Step:
        """All of them, or none."""
        return Step(SQL["admit"], (len(items),), len(items))

    async def admit(self, conn: Connection, items: Sequence[Any]) -> Sequence[Refused | None]:
        """The same for all: None, or why nothing is sent now."""
        reason = await conn.fetchval(SQL["refusal"])
        return [None if reason is None else Refused(reason, UNTIL_RESUMED)] * len(items)


KILL_SWITCH = KillSwitch()


def gate_of(endpoint: str) -> Gate | None:
    """The gate of an engine's operation, if that reaches people."""
    return KILL_SWITCH if endpoint.partition("?")[0].rstrip("/").endswith(REACHES_PEOPLE) else None
