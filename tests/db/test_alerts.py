"""Of an alert's type and subject one is open, and it is the latest."""

from daemon.db import Connection
from handlers.effects import Alert, write

OPEN = "SELECT array_agg(message ORDER BY message) FROM alerts WHERE resolved_at IS NULL"
TOLD = "SELECT count(*) FROM tasks WHERE kind = 'notification'"


def _failed(message: str, subject: str = "lead:1") -> Alert:
    return Alert("AGENT_FAILURE", message, "HIGH", subject, {})


async def _alert(conn: Connection, *alerts: Alert) -> list[str]:
    await write(conn, Alert, [(n, alert) for n, alert in enumerate(alerts)])
    found: list[str] = await conn.fetchval(OPEN)
    return found


async def test_another_failure_is_told_and_the_same_one_is_not(conn: Connection) -> None:
    assert await _alert(conn, _failed("no phone"), _failed("no email", "lead:2")) == ["no email", "no phone"]
    assert await _alert(conn, _failed("no phone")) == ["no email", "no phone"]
    assert await conn.fetchval(TOLD) == 2
    assert await _alert(conn, _failed("refused by the validator")) == ["no email", "refused by the validator"]
    assert await conn.fetchval(TOLD) == 3
    assert await conn.fetchval("SELECT message FROM alerts WHERE resolved_at IS NOT NULL") == "no phone"
