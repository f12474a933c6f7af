"""A real PgBouncer before a test's database: it pools by transaction, and is else as it is by itself."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import pytest

from daemon.embedded.account import Account
from tests.support.commands import free_port

START_S = 10.0
ABSENT = "!!! NOT TESTED: no PgBouncer here; as root: apt-get install pgbouncer"
INI = """[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
logfile = {folder}/log
{more}
"""


@dataclass(slots=True)
class PgBouncer:
    """One before this database; `dsn` is the way through it."""

    program: str
    direct: str
    port: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def dsn(self) -> str:
        """The way through it to the same database."""
        parts = urlsplit(self.direct)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.port}", query=""))

    def start(self) -> None:
        """Start it, as whoever owns the database's socket: it refuses to run as root."""
        account = Account.owning(_socket_folder(self.direct))
        for place in (self.folder, *self.folder.iterdir()):
            account.own(place)
        argv = [self.program, "-q", str(self.folder / "pgbouncer.ini")]
        self.process = subprocess.Popen(argv, **account.identity(), cwd="/", stderr=subprocess.DEVNULL)
        _await_port(self.port)

    def kill(self) -> None:
        """Every connection through it breaks, and new ones are refused."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def pgbouncer(dsn: str, **settings: str) -> Iterator[PgBouncer]:
    """A running one; without the program the test is skipped."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(ABSENT)
    folder = Path(mkdtemp(prefix="pgbouncer-", dir=os.environ["TEST_RUN_FOLDER"]))
    bouncer = PgBouncer(program, dsn, free_port(), folder)
    _configure(bouncer, {"pool_mode": "transaction", **settings})
    bouncer.start()
    try:
        yield bouncer
    finally:
        bouncer.kill()
        print(f"--- PgBouncer\n{(folder / 'log').read_text()[-2000:]}")


def _configure(bouncer: PgBouncer, settings: dict[str, str]) -> None:
    parts, folder = urlsplit(bouncer.direct), bouncer.folder
    more = "\n".join(f"{name} = {value}" for name, value in settings.items())
    (folder / "pgbouncer.ini").write_text(
        INI.format(
            host=_socket_folder(bouncer.direct), port=parse_qs(parts.query)["port"][0],
            listen=bouncer.port, folder=folder, more=more,
        )
    )  # fmt: skip
    (folder / "users.txt").write_text(f'"{parts.username}" "{unquote(parts.password or "")}"\n')
    (folder / "log").touch()


def _socket_folder(dsn: str) -> Path:
    """Where an embedded server listens."""
    return Path(parse_qs(urlsplit(dsn).query)["host"][0])


def _await_port(port: int) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)
    raise AssertionError("PgBouncer didn't start")
