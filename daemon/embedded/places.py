"""Where one home's server keeps its things, and whose they are."""

import hashlib
import os
import secrets
import stat
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO

import structlog

from daemon.embedded.account import Account
from daemon.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

ELSEWHERE = Path("/var/lib/pipeline-orchestrator")
SOCKET_LIMIT = 103 if sys.platform == "darwin" else 107
LOG_LIMIT = 8_000_000


class Places:
    """The folders and files of one home's server."""

    def __init__(self, home: Path) -> None:
        self.home = home.absolute()

    @cached_property
    def folder(self) -> Path:
        """Where everything lies: in the home, unless the account that runs the server can't get there."""
        folder = self.home / "postgres"
        if not folder.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            self._make_folder(folder)
        folder = folder.resolve()
        if not Account.owning(folder / "data", self.home).reaches(folder):
            raise DatabaseUnavailable(f"the account that has to run PostgreSQL can't enter {folder}")
        return folder

    @cached_property
    def data(self) -> Path:
        """PostgreSQL's own folder."""
        return self.folder / "data"

    @cached_property
    def account(self) -> Account:
        """Whom the server runs as."""
        return Account.owning(self.data, self.home)

    @cached_property
    def sockets(self) -> Path:
        """Beside the data, or in a private folder if that path is too long or, by a comma, reads as two hosts."""
        place = self.folder / "run"
        if len(os.fsencode(place / ".s.PGSQL.5432")) > SOCKET_LIMIT or "," in str(place):
            place = Path("/tmp", f"orchestrator-{hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]}")  # noqa: S108 - verified below
        return place

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.folder / "server.log"

    def make_sockets(self) -> None:
        """Make the sockets' folder, and make sure that nobody else made it."""
        with suppress(FileExistsError):
            self.sockets.mkdir(mode=0o700)
            self.account.own(self.sockets)
        found = self.sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != self.account.uid or found.st_mode & 0o077:
            raise DatabaseUnavailable(f"{self.sockets} is not a private folder of the account that runs PostgreSQL")

    def remove_sockets(self) -> None:
        """Leave no folder outside."""
        if self.sockets.parent != self.folder:
            with suppress(OSError):
                self.sockets.rmdir()

    def password(self) -> str:
        """The password of our role."""
        try:
            return (self.folder / "password").read_text()
        except OSError as error:
            raise DatabaseUnavailable(f"the embedded PostgreSQL's password can't be read: {error}") from error

    def make_password(self) -> Path:
        """The private file that holds the password, made once."""
        path = self.folder / "password"
        if not path.exists():
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(secrets.token_urlsafe(24))
            self.account.own(new)
            new.rename(path)
        return path

    def open_log(self) -> IO[bytes]:
        """The private log to write on; a full one is put aside."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.rename(self.log.with_suffix(".log.1"))
        out = self.log.open("ab")
        self.log.chmod(0o600)
        self.account.own(self.log)
        return out

    def _make_folder(self, folder: Path) -> None:
        place = folder
        if not Account.owning(self.home).reaches(self.home):
            place = ELSEWHERE / hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
            log.warning("embedded_postgres_elsewhere", unreachable=str(self.home), folder=str(place))
            with suppress(FileExistsError):
                folder.symlink_to(place)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(0o711 if os.geteuid() == 0 else 0o700)  # what lies in root's is closed one by one
