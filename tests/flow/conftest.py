"""What the flow tests share."""

from collections.abc import AsyncIterator

import pytest

from tests.support.api import Client, serving
from tests.support.postgres import Server


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for the tests that leave it as it is."""
    dsn = await server.clone()
    async with serving(dsn) as client:
        yield client
    await server.drop(dsn)
