"""What most fault tests begin with: daemons whose way to Postgres can misbehave, and an engine that remembers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from tests.support.load import SmsEngine, sms_engine
from tests.support.processes import Fleet, fleet, until
from tests.support.proxy import Proxy, proxy

Behind: TypeAlias = tuple[Proxy, SmsEngine, Fleet]


@asynccontextmanager
async def behind_network(
    dsn: str, *, honours_keys: bool, engine: dict[str, Any] | None = None, **settings: str
) -> AsyncIterator[Behind]:
    """A network, an engine and a fleet without daemons yet; `engine` is how the engine is made."""
    async with (
        proxy(dsn) as network,
        sms_engine(honours_keys=honours_keys, **engine or {}) as sms,
        fleet(network.dsn(dsn), **sms.settings(), **settings) as daemons,
    ):
        yield network, sms, daemons


async def grown(seen: Sequence[object], beyond: int, within: float = 10.0, pause: float = 0.01) -> None:
    """Wait until there are more of them: calls, as a rule."""

    async def more() -> bool:
        return len(seen) > beyond

    await until(more, within, f"more than {beyond} calls", pause=pause)


async def counted(network: Proxy, what: str, times: int, within: float = 10.0) -> None:
    """Wait until the network has done that so many times."""

    async def enough() -> bool:
        return network.counts[what] >= times

    await until(enough, within, f"{what}: {times}")
