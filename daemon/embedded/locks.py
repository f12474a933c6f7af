"""Locks on files, which the kernel frees when their holders die."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with this file, after waiting for whoever has it."""
    lock = open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def open_lock(path: Path) -> int:
    """The file's descriptor, made if it isn't there; closing the last copy of it frees the lock."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def share_lock(lock: int) -> None:
    """Hold it together with others."""
    fcntl.flock(lock, fcntl.LOCK_SH)


def try_lock(lock: int) -> bool:
    """Hold it alone, unless somebody else holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
