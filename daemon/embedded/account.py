"""Whom the server and its programs run as."""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from daemon.errors import DatabaseUnavailable


class Identity(TypedDict, total=False):
    """What `subprocess` has to be told."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the server runs as: ourselves, or somebody unprivileged if we are root, whom PostgreSQL refuses."""

    uid: int
    gid: int

    @classmethod
    def owning(cls, *places: Path) -> "Account":
        """Who owns the first existing place; if only root does, `postgres` or `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid())
        owners = [place.stat().st_uid for place in places if place.exists()]
        entries = pwd.getpwall()
        wanted = [entry for uid in owners for entry in entries if entry.pw_uid == uid != 0]
        wanted += [entry for name in ("postgres", "nobody") for entry in entries if entry.pw_name == name]
        if not wanted:
            raise DatabaseUnavailable("PostgreSQL refuses to run as root, and there is no account `nobody` for it")
        return cls(wanted[0].pw_uid, wanted[0].pw_gid)

    def identity(self) -> Identity:
        """How `subprocess` becomes this account."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def run(self, argv: Sequence[str | Path], given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program to its end, out of reach of the terminal's Ctrl-C."""
        return subprocess.run(
            argv,
            **self.identity(),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd="/",
            env=environment(),
            start_new_session=True,
        )

    def reaches(self, folder: Path) -> bool:
        """May it enter the folder, through every parent?"""
        return self.run(["/bin/sh", "-c", 'cd "$1"', "sh", folder]).returncode == 0

    def own(self, path: Path) -> None:
        """Hand a path of ours over."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)


def environment(**extra: str) -> dict[str, str]:
    """Ours, without what would make PostgreSQL behave otherwise than set up."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "TZ": "UTC", **extra}
