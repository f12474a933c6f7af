"""`orchestrator leads erase` as a person runs it."""

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from daemon.app import prepare
from daemon.db import Connection
from tests.support.commands import environment, orchestrator


@pytest.fixture
async def lead(conn: Connection) -> UUID:
    """Somebody to erase."""
    await prepare(conn)
    found: UUID = await conn.fetchval(
        "INSERT INTO leads (stage, name, email, phone, country)"
        " VALUES ('AI_CONVERSATION', 'Ann', 'ann@x.example', '07700 900123', 'GB') RETURNING id"
    )
    return found


async def left(conn: Connection) -> int:
    """How many leads there are."""
    number: int = await conn.fetchval("SELECT count(*) FROM leads")
    return number


async def test_a_lead_is_erased_by_whoever_says_so(home: Path, dsn: str, conn: Connection, lead: UUID) -> None:
    other = await conn.fetchval("INSERT INTO leads (stage, email) VALUES ('DEAD_LEAD', 'Ann@X.example') RETURNING id")
    ended = await orchestrator(home, "leads", "erase", str(lead), "--yes", "--json", DATABASE_URL=dsn)
    assert ended.code == 0, ended.err
    assert orjson.loads(ended.out) == {"erased": str(lead), "others": [str(other)]}
    assert await left(conn) == 1
    hashes = {r["address"] for r in await conn.fetch("SELECT address FROM email_exclusions")}
    assert await conn.fetchval("SELECT erased_hash('+447700900123')") in hashes
    ended = await orchestrator(home, "leads", "erase", str(lead), "--yes", DATABASE_URL=dsn)
    assert (ended.code, ended.err.strip()) == (1, f"there is no lead {lead.hex}")


async def test_without_a_terminal_it_has_to_be_said(home: Path, dsn: str, conn: Connection, lead: UUID) -> None:
    ended = await orchestrator(home, "leads", "erase", str(lead), DATABASE_URL=dsn)
    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err
    assert await left(conn) == 1


@pytest.mark.parametrize("word", ["n", "y"])
async def test_on_a_terminal_it_asks(home: Path, dsn: str, conn: Connection, lead: UUID, word: str) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{word}\n".encode())
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "daemon", "leads", "erase", str(lead)], cwd=home, stdin=theirs,
        env=environment(home, DATABASE_URL=dsn), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == (word != "y"), ended.stderr
    assert "Erase Ann ann@x.example 07700 900123" in ended.stdout + ended.stderr
    assert await left(conn) == (word != "y")
