"""PostgreSQL's own client programs: which one to run, and how it learns whom to connect to (never by its arguments)."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from daemon.embedded import installations
from daemon.errors import OrchestratorError

VARIABLES = {"user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE", "connect_timeout": "PGCONNECT_TIMEOUT"}


def environment(dsn: str) -> dict[str, str]:
    """Our environment and, for libpq, the DSN of one host."""
    parts = urlsplit(dsn)
    host = parts.hostname if parts.hostname is None else unquote(parts.hostname)
    said = {
        "PGHOST": host,
        "PGPORT": str(parts.port) if parts.port else None,
        "PGUSER": parts.username and unquote(parts.username),
        "PGPASSWORD": parts.password and unquote(parts.password),
        "PGDATABASE": unquote(parts.path.lstrip("/")),
    }
    asked = {_variable(name): value for name, value in parse_qsl(parts.query)}
    return {**os.environ, **{name: value for name, value in said.items() if value}, **asked}


def _variable(parameter: str) -> str:
    return VARIABLES.get(parameter, f"PG{parameter.replace('_', '').upper()}")


def program(name: str, server: int) -> Path:
    """The program of the server's major version, else of the next newer one: an older one can't read the server."""
    found = {major: place for place in reversed(list(_candidates(name))) if (major := _major(place)) >= server}
    if not found:
        raise OrchestratorError(f"no {name} of PostgreSQL {server} or newer here: install postgresql-client-{server}")
    return found[min(found)]


def best_program(name: str, server: int) -> Path:
    """The same, else whichever comes first: one that will do mostly."""
    try:
        return program(name, server)
    except OrchestratorError:
        for place in _candidates(name):
            return place
        raise


def _candidates(name: str) -> Iterator[Path]:
    on_path = shutil.which(name)
    if on_path:
        yield Path(on_path)
    for installation in installations():
        if (installation.bin / name).is_file():
            yield installation.bin / name


def _major(place: Path) -> int:
    said = subprocess.run([place, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - PostgreSQL's own
    version = re.search(r"\) (\d+)", said)
    return int(version[1]) if version else 0


def complaint(said: str) -> str:
    """The line in which a program says what went wrong."""
    lines = [line for line in said.splitlines() if line.strip()]
    grave = [line for line in lines if re.search(r"\b(ERROR|FATAL|error|fatal):", line)]
    return (grave or lines or ["it said nothing"])[0].strip()


def call(argv: Sequence[str | Path], env: Mapping[str, str]) -> str:
    """Run a program to its end; what it printed."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # noqa: S603 - PostgreSQL's own
    if done.returncode != 0:
        raise OrchestratorError(f"{Path(argv[0]).name} failed: {complaint(done.stderr)}")
    return done.stdout
