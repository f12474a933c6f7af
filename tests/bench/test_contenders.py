"""Nothing is measured here: every contender still does its work, each lead once."""

import pytest

from tests.bench.driver import ALL, WARM_UP, Bench

pytestmark = [pytest.mark.bench, pytest.mark.timeout(120)]


@pytest.mark.parametrize("name", ALL)
async def test_a_contender_handles_every_lead_once(bench: Bench, name: str) -> None:
    if name not in bench.here:
        pytest.skip(f"!!! {name} could not be installed")
    async with bench.arena(name) as arena:
        await arena.insert(100, batch=10)
        await arena.warm()
        await arena.events(100 + WARM_UP)
        assert set((await arena.times_handled()).values()) == {1}
