"""The server of one home: created, started, known by its pid file, stopped. Who calls holds `start.lock`."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from daemon.embedded.account import environment
from daemon.embedded.locks import open_lock, try_lock
from daemon.embedded.places import Places
from daemon.embedded.processes import adopt, bury, runs_in, until
from daemon.embedded.programs import Installation, fitting, last_words, made_with, within_reach
from daemon.errors import DatabaseUnavailable

NAME = "orchestrator"  # of the role and of its database
START_S = 300.0  # recovery after a crash may read gigabytes of WAL
STOPS = ((signal.SIGINT, 60.0), (signal.SIGQUIT, 10.0))
RETRY_S = 0.1
OLD_PROCESSES = "pre-existing shared memory block"
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # it only names the socket
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "jit": "off",
}


class Server:
    """One server process and the data it serves."""

    def __init__(self, places: Places, settings: Mapping[str, str]) -> None:
        self._places = places
        self._settings = {**SETTINGS, **settings}

    @property
    def dsn(self) -> str:
        """How its users reach it."""
        secret, sockets = quote(self._places.password()), quote(str(self._places.sockets))
        return f"postgresql://{NAME}:{secret}@/{NAME}?host={sockets}&port={self._settings['port']}"

    @cached_property
    def installation(self) -> Installation:
        """The programs that fit its data."""
        return fitting(self._places.data)

    @cached_property
    def programs(self) -> Path:
        """The same programs, where its account can execute them."""
        return within_reach(self.installation, self._places.account, self._places.folder)

    def serve(self) -> None:
        """Make sure that it runs and is ready."""
        if made_with(self._places.data) is None:
            self._create()
        self._places.make_sockets()
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f"PostgreSQL isn't ready after {START_S:.0f} s: see {self._places.log}")
            if self.pid() is not None or not self._launch(deadline):
                time.sleep(RETRY_S)

    def halt(self) -> None:
        """Stop it if it runs."""
        pid = self.pid()
        if pid is not None:
            self._end(pid)
        self._places.remove_sockets()

    # What it says about itself

    def pid(self) -> int | None:
        """The live server's process."""
        bury()
        noted = self._noted("pid")
        return int(noted) if noted.isdigit() and runs_in(int(noted), self._places.data) else None

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        return self._noted("status") == "ready" and self.pid() is not None

    def _noted(self, what: str) -> str:
        """A line of its pid file, which may be half-written or left over."""
        try:
            lines = (self._places.data / "postmaster.pid").read_text().splitlines()
            return lines[{"pid": 0, "status": 7}[what]].strip()
        except (FileNotFoundError, IndexError):
            return ""

    # Creating

    def _create(self) -> None:
        """Build the data aside and move it into place whole; a kill in the middle leaves only rubbish."""
        folder = self._places.folder
        for rubbish in folder.glob("new-*"):
            shutil.rmtree(rubbish, ignore_errors=True)
        password = self._places.make_password()
        new = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
        self._places.account.own(new)
        self._initialize(new, password)
        new.rename(self._places.data)
        _sync(folder)

    def _initialize(self, data: Path, password: Path) -> None:
        builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        locale = builtin if int(self.installation.major) >= 17 else ("--locale=C", "--lc-ctype=C.UTF-8")
        access = ("--username", NAME, "--auth=scram-sha-256", f"--pwfile={password}")
        self._run("initdb", "--pgdata", data, "--encoding=UTF8", "--data-checksums", *locale, *access)
        self._run("postgres", "--single", "-D", data, "template1", given=f"CREATE DATABASE {NAME};\n")

    def _run(self, program: str, *arguments: str | Path, given: str = "") -> None:
        done = self._places.account.run([self.programs / program, *arguments], given)
        if done.returncode != 0 or "ERROR:" in done.stdout:
            raise DatabaseUnavailable(f"PostgreSQL's {program} failed: {last_words(done.stdout)}")

    # Starting and stopping

    def _launch(self, deadline: float) -> bool:
        """One try to start it; False while processes of a killed server are still around."""
        lock = open_lock(self._places.folder / "server.lock")
        try:
            if not try_lock(lock):
                return False
            child, log_start = self._spawn(lock)
        finally:
            os.close(lock)
        until(lambda: child.poll() is not None or self.is_ready(), deadline - time.monotonic())
        if child.poll() is None:
            return True
        said = self._places.log.read_bytes()[log_start:].decode(errors="replace")
        if OLD_PROCESSES not in said:
            raise DatabaseUnavailable(f"PostgreSQL didn't start: {last_words(said)} (see {self._places.log})")
        return False

    def _spawn(self, lock: int) -> tuple[subprocess.Popen[bytes], int]:
        options = {**self._settings, "unix_socket_directories": str(self._places.sockets)}
        stale = self._noted("pid")
        with self._places.open_log() as out:
            log_start = out.tell()  # before the child, which writes by the same position
            child = subprocess.Popen(
                [self.programs / "postgres", "-D", self._places.data, *(f"--{k}={v}" for k, v in options.items())],
                **self._places.account.identity(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=environment(**({"PG_GRANDPARENT_PID": stale} if stale else {})),
                start_new_session=True,
                pass_fds=(lock,),
            )
            adopt(child)
            return child, log_start

    def _end(self, pid: int) -> None:
        for how, patience in STOPS:
            with suppress(ProcessLookupError):
                os.kill(pid, how)
            if until(lambda: self.pid() is None and not runs_in(pid, self._places.data), patience):
                return
        raise DatabaseUnavailable(f"PostgreSQL, process {pid}, doesn't stop: see {self._places.log}")


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
