"""A sandbox on a database that isn't its own: it may play there, but never drives its clock."""

import pytest

from daemon.db import Connection
from daemon.errors import OrchestratorError
from daemon.sandbox import mark


async def is_marked(conn: Connection) -> bool:
    state = await conn.fetchrow(mark.SQL["state"])
    return bool(state and state["marked"])


async def test_an_empty_database_is_marked_for_good(conn: Connection) -> None:
    await mark.take(conn, drives_clock=True)
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900101')")
    await mark.take(conn, drives_clock=True)
    assert await is_marked(conn)


async def test_a_used_database_is_played_on_but_not_marked(conn: Connection) -> None:
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900101')")
    await mark.take(conn)
    assert not await is_marked(conn)


async def test_the_clock_of_a_used_database_is_left_alone(conn: Connection) -> None:
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+447700900101')")
    with pytest.raises(OrchestratorError, match="--speed is only for a database that was empty"):
        await mark.take(conn, drives_clock=True)
