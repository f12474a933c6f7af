"""The steps of the sweep: each finds causes whose task is missing, or keeps the figures or the books."""

from typing import Any

from daemon import ledger
from daemon.db import Connection, Statements
from daemon.metrics import Metrics
from daemon.settings import Settings
from daemon.sweep import Step, changed
from handlers import daily_checks
from handlers.pipeline import SWEEP_STEPS

SQL = Statements("handlers", "sweep.sql")


def steps(settings: Settings, metrics: Metrics) -> list[Step]:
    """In the order in which they run."""
    repairs = [Step(name, _repair(name)) for name in SWEEP_STEPS]
    archive = Step("dead_lead_archive", _archive(settings.history.dead_leads_archived_after_days), repair=False)
    calls = Step("calls", _calls, repair=False)
    return [*repairs, archive, calls, Step("metrics", _measure(metrics)), Step("alerts", _alerts)]


def _repair(name: str) -> Any:
    async def repair(conn: Connection) -> int:
        found = changed(await conn.execute(SQL["entries"], name))
        if name == "new_leads":
            found += changed(await conn.execute(SQL["messages"])) + changed(await conn.execute(SQL["replies"]))
        if name == "stalled_conversations":
            found += await conn.fetchval(SQL["deadlines"])
        return found

    return repair


def _archive(days: int) -> Any:
    async def archive(conn: Connection) -> int:
        return changed(await conn.execute(SQL["archive"], days))

    return archive


def _measure(metrics: Metrics) -> Any:
    async def measure(conn: Connection) -> int:
        await conn.execute(SQL["fold"])
        for row in await conn.fetch(SQL["sizes"]):
            metrics.leads.labels(row["pipeline"], row["stage"]).set(row["n"])
        return 0

    return measure


async def _calls(conn: Connection) -> int:
    """Calls that may have been made and that nobody will ask for are of unknown outcome: a person is told."""
    doubted = await ledger.doubt_abandoned(conn)
    if doubted:
        await conn.execute(SQL["doubted_messages"], [r["task_id"] for r in doubted])
        await conn.execute(SQL["doubted_leads"], [r["lead_id"] for r in doubted if r["lead_id"] is not None])
    return len(doubted)


async def _alerts(conn: Connection) -> int:
    await conn.execute(SQL["resolve"])
    await conn.execute(SQL["outlived"])
    return 0


async def daily(conn: Connection, stale_days: int) -> None:
    """What the daily job does about leads: all are counted anew, and those under way are going to be checked."""
    await conn.execute(SQL["recount"])
    await daily_checks.begin(conn, stale_days)
