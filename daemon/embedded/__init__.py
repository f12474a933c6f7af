"""A real PostgreSQL server of our own: found, set up, started, watched and stopped.

Any number of processes share the server of one home. `start.lock` is held while one of them starts or stops it. Each
holds `users.lock` shared for as long as it needs the server; the kernel frees it on kill -9, and whoever can take it
exclusively was the last one and stops the server. The server's processes inherit `server.lock`, so two servers never
open one data folder, not even from two containers that can't see each other's processes.
"""

from daemon.embedded.programs import Installation, installations
from daemon.embedded.sharing import Embedded

__all__ = ["Embedded", "Installation", "installations"]
