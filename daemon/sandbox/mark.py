"""The mark of a sandbox's database: it was empty when a sandbox first started on it.

On any other one a sandbox may play, too: nobody real is ever contacted. But the leads there will be marked as contacted
though nobody was, so it says so; and it never drives the clock of a database that isn't its own.

The other way round, a daemon with real engines refuses a database in which leads are left that the sandbox has touched:
it would pay to reach people who don't exist, and follow up on what never reached those who do. Once they are gone the
database is its own, and no sandbox's any more.
"""

from collections.abc import Sequence
from typing import Any

from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError
from daemon.log import get_logger
from daemon.sandbox.happenings import short

SQL = Statements("daemon.sandbox", "mark.sql")
WARNING = "this database was in use before: its leads will be marked as contacted, though the sandbox contacts nobody"
REFUSAL = (
    "--speed is only for a database that was empty when a sandbox first started on it: this one is in use, and its "
    "clock would run ahead; give it an empty DATABASE_URL, or without one another ORCHESTRATOR_HOME"
)

LEFT = {
    "leads": "a sandbox has left {} leads in this database{others}, and now the engines are real: DELETE FROM "
    "orchestrator.leads (then put in anew whom you want to keep)",
    "runs": "a sandbox has left {} runs under way in this database, and now the engines are real: SELECT "
    "orchestrator.cancel_run(id) FROM orchestrator.campaign_runs WHERE status IN ('running', 'waiting', 'paused')",
    "ahead": "a sandbox has left the clock of this database {} ahead, and now the engines are real: SELECT "
    "orchestrator.shift_clock(-shift) FROM orchestrator.clock_shift",
}
OR_ELSE = ", or give another DATABASE_URL or ORCHESTRATOR_HOME, or run --sandbox"
OTHERS = ", {} of them yours, whom nothing has reached that is on record as sent ({})"
NAMED = 5
TAKEN_OVER = "a sandbox has played on this database: what is on record as sent until now reached nobody"

log = get_logger("sandbox")


async def take(conn: Connection, *, drives_clock: bool = False) -> None:
    """Mark an empty database, in the caller's transaction; say so, or refuse, if it isn't ours alone."""
    await conn.execute(SQL["take_turns"])
    state = await conn.fetchrow(SQL["state"])
    if state is None or state["marked"]:
        return
    if not state["used"]:
        await conn.execute(SQL["mark"])
    elif drives_clock:
        raise OrchestratorError(REFUSAL)
    else:
        log.warning(WARNING)


async def take_over(conn: Connection, *, dry_run: bool) -> None:
    """A marked database gets a daemon with real engines: refuse or, in a dry run, say what stands against it."""
    async with conn.transaction():
        await conn.execute(SQL["take_turns"])
        against = await standing_against(conn)
        if against and not dry_run:
            raise OrchestratorError(against)
        if not dry_run:
            await conn.execute(SQL["unmark"])
    log.warning(against or TAKEN_OVER)


async def standing_against(conn: Connection) -> str | None:
    """Why real engines may not work on what a sandbox has left, and what to do; None if it has left nothing."""
    left: Any = await conn.fetchrow(SQL["left"])
    others = _others(left["others"])
    return next((said.format(left[name], others=others) + OR_ELSE for name, said in LEFT.items() if left[name]), None)


def _others(names: Sequence[str]) -> str:
    more = [f"and {len(names) - NAMED} more"] if len(names) > NAMED else []
    return OTHERS.format(len(names), ", ".join([*(short(name, 40) for name in names[:NAMED]), *more])) if names else ""
