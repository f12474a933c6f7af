"""The mark of a sandbox's database: it was empty when a sandbox first started on it.

On any other one a sandbox may play, too: nobody real is ever contacted. But the leads there will be marked as contacted
though nobody was, so it says so; and it never drives the clock of a database that isn't its own.
"""

from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError
from daemon.log import get_logger

SQL = Statements("daemon.sandbox", "mark.sql")
WARNING = "this database was in use before: its leads will be marked as contacted, though the sandbox contacts nobody"
REFUSAL = (
    "--speed is only for a database that was empty when a sandbox first started on it: this one is in use, and its "
    "clock would run ahead; give it an empty DATABASE_URL, or without one another ORCHESTRATOR_HOME"
)

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
