"""The mark of a sandbox's database: it was empty when a sandbox first started on it.

A sandbox would mark people as contacted whom nobody contacted, so it stays away from any other database.
"""

from daemon.db import Connection, Statements
from daemon.errors import OrchestratorError

SQL = Statements("daemon.sandbox", "mark.sql")
REFUSAL = (
    "--sandbox is only for a database that was empty when a sandbox first started on it: this one is in use, and its "
    "leads would be marked as contacted; give it an empty DATABASE_URL, or without one another ORCHESTRATOR_HOME"
)


async def take(conn: Connection) -> None:
    """Mark an empty database, in the caller's transaction; OrchestratorError if it isn't ours to play with."""
    await conn.execute(SQL["take_turns"])
    state = await conn.fetchrow(SQL["state"])
    if state is None or state["marked"]:
        return
    if state["used"]:
        raise OrchestratorError(REFUSAL)
    await conn.execute(SQL["mark"])
