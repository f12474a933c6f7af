"""`orchestrator run --sandbox` as a person starts it: where it may, with which options, at a terminal."""

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, nan
from pathlib import Path

import pytest
import typer

from daemon.commands.run import Play, checked
from daemon.db import Connection
from daemon.sandbox import open_sandbox
from daemon.settings import load_settings
from tests.support.commands import environment, orchestrator
from tests.support.processes import until

AT_WORK = "INSERT INTO leads (name, phone) VALUES ('Real Person', '+447700900001')"


async def test_it_plays_on_a_database_in_use_without_samples_and_says_so(
    home: Path, dsn: str, conn: Connection
) -> None:
    await conn.execute(AT_WORK)
    ended = await orchestrator(home, "run", "--sandbox", "--once", DATABASE_URL=dsn)
    assert ended.code == 0
    assert "this database was in use before" in ended.err
    assert await conn.fetchval("SELECT count(*) FROM leads") == 1
    assert await conn.fetchval("SELECT stage FROM leads") == "AI_CONVERSATION"


async def test_it_comes_back_to_its_own_whoever_was_put_in(conn: Connection) -> None:
    async with open_sandbox(load_settings({})) as first:
        assert await first.enter(conn) > 0
    await conn.execute(AT_WORK)
    async with open_sandbox(load_settings({})) as second:
        assert await second.enter(conn) == 0
        await conn.execute("DELETE FROM leads")
        assert await second.enter(conn) > 0


async def test_what_else_is_said_of_the_schema_stays(conn: Connection) -> None:
    await conn.execute("COMMENT ON SCHEMA orchestrator IS 'Ann''s'")
    async with open_sandbox(load_settings({})) as sandbox:
        await sandbox.enter(conn)
        await sandbox.enter(conn)
    said = await conn.fetchval("SELECT obj_description('orchestrator'::regnamespace, 'pg_namespace')")
    assert said.startswith("Ann's\n")
    assert said.count("orchestrator sandbox") == 1


async def test_options_mean_nothing_without_a_sandbox(home: Path) -> None:
    ended = await orchestrator(home, "run", "--speed", "2", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert ended.code == 2
    assert "only together with --sandbox" in ended.err


@pytest.mark.parametrize(
    ("play", "once"),
    [
        (Play(speed=0.5), False),
        (Play(speed=nan), False),
        (Play(speed=inf), False),
        (Play(speed=2), True),
        (Play(faults="foggy"), False),
    ],
)
def test_options_that_make_no_sense_are_refused(play: Play, once: bool) -> None:
    with pytest.raises(typer.BadParameter):
        checked(play, sandbox=True, once=once)


@contextmanager
def at_terminal(home: Path, *options: str, **settings: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The command at a terminal of 80 columns and 24 rows."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {**environment(home, **settings), "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", *options], cwd=home, env=environ, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    os.set_blocking(mine, False)
    try:
        yield process, mine
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(mine)


async def test_ctrl_c_leaves_a_clean_terminal_and_a_summary(home: Path, dsn: str) -> None:
    said = bytearray()

    with at_terminal(home, "run", "--sandbox", DATABASE_URL=dsn) as (process, terminal):

        async def heard(words: bytes) -> bool:
            try:
                said.extend(os.read(terminal, 1 << 16))
            except (BlockingIOError, OSError):
                await asyncio.sleep(0)
            return words in said

        await until(lambda: heard(b"AI_CONVERSATION"), 30.0, "the picture")
        await until(lambda: heard(b"says "), 30.0, "an answer")
        process.send_signal(signal.SIGINT)
        await until(lambda: heard(b"The sandbox has ended"), 15.0, "the summary")
        assert await asyncio.to_thread(process.wait, 15.0) == 0
    shown, _, left = said.partition(b"\x1b[?1049l")
    assert b"\x1b[?25h" in shown[-40:] + left[:40], "the cursor is gone"
    assert b"The sandbox has ended" in left
    log = (home / "home" / "sandbox.log").read_text()
    assert '"ready"' in log
    assert '"ready"' not in shown.decode(errors="replace")
