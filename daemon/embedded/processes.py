"""Processes that may be servers: those we started, and whether a noted one still is one."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.005

_children: set[subprocess.Popen[bytes]] = set()  # the servers that this process started, whoever uses them


def adopt(child: subprocess.Popen[bytes]) -> None:
    """Remember a server of ours until it has ended."""
    _children.add(child)


def bury() -> None:
    """Let go of the servers of ours that have ended: they would stay zombies."""
    _children.difference_update([child for child in tuple(_children) if child.poll() is not None])


def runs_in(pid: int, folder: Path) -> bool:
    """Is this a live server of the folder? A zombie isn't, nor is a stranger who got the pid."""
    if not Path("/proc/self").exists():
        return _runs_in_elsewhere(pid, folder)
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return False
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except PermissionError:  # root in a container may not look at others' folders, but at their arguments
        return os.fsencode(folder) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def until(condition: Callable[[], bool], patience: float) -> bool:
    """Wait for the condition; False if it didn't come true in so many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _runs_in_elsewhere(pid: int, folder: Path) -> bool:
    import psutil  # noqa: PLC0415 - only where there is no /proc

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).samefile(folder)
    except (psutil.Error, OSError):
        return False
