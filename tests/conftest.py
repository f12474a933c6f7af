"""What every test may ask for: a database of its own, a connection to it, a folder for a home."""

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from daemon.db import connect
from tests.support import postgres

RUN_FOLDER = "TEST_RUN_FOLDER"


def pytest_configure(config: pytest.Config) -> None:
    """The controller makes the run's folder, and no test sees the settings of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("ORCHESTRATOR_") or name == "DATABASE_URL"]:
        del os.environ[name]
    if not hasattr(config, "workerinput"):
        postgres.remove_dead_runs()
        os.environ[RUN_FOLDER] = str(postgres.make_run_folder())


def pytest_unconfigure(config: pytest.Config) -> None:
    """The controller removes what is left of it."""
    if not hasattr(config, "workerinput"):
        postgres.remove_run_folder(Path(os.environ.pop(RUN_FOLDER)))


@pytest.fixture
def home() -> Path:
    """An empty folder that the account of an embedded server can reach, unlike `tmp_path`."""
    place = Path(tempfile.mkdtemp(prefix="home-", dir=os.environ[RUN_FOLDER]))
    place.chmod(0o755)
    return place


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[postgres.Server]:
    """The server that all tests and xdist workers share; never kill it."""
    with postgres.serve(Path(os.environ[RUN_FOLDER], "shared")) as shared:
        await shared.prepare()
        yield shared


@pytest.fixture
async def own_server(home: Path) -> AsyncIterator[postgres.Server]:
    """A server for this test alone, to be killed, stopped and mistreated."""
    with postgres.serve(home) as alone:
        await alone.prepare()
        yield alone


@pytest.fixture
async def dsn(server: postgres.Server) -> AsyncIterator[str]:
    """A fresh database with the schema, for this test alone."""
    fresh = await server.clone()
    yield fresh
    await server.drop(fresh)


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this test's database, as the daemon would open it."""
    connection = await connect(dsn)
    yield connection
    await connection.close()
