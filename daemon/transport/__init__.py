"""Carries one call to an engine, over HTTP or to a command, and says what became of it.

A call ends as a value: `Answered`, `Failed` (nothing happened) or `Unknown` (something may have). The line between
the last two is whether the request had begun to go out. Only cancellation is raised.
"""

from daemon.transport.documents import read_object
from daemon.transport.engine import Engine
from daemon.transport.request import Health
from daemon.transport.session import health, open_session, probe

__all__ = ["Engine", "Health", "health", "open_session", "probe", "read_object"]
