"""The queues that we are compared with live in an environment of their own, made on first use."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("requirements.lock")
PLACE = ROOT / ".venv" / "peers"
PYTHON = PLACE / "bin" / "python"
PATIENCE_S = 600.0


def python() -> Path | None:
    """Their interpreter; None, said loudly, if their packages can't be had."""
    stamp = PLACE / ".installed"
    wanted = f"{sys.version} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"
    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return PYTHON
    print(f"\nmaking {PLACE.relative_to(ROOT)} for the queues that we are compared with", flush=True)
    problem = _make()
    if problem is not None:
        print(f"!!! PEERS NOT INSTALLED, every comparison with them is SKIPPED:\n{problem}", flush=True)
        return None
    stamp.write_text(wanted)
    return PYTHON


def _make() -> str | None:
    """Install what is locked, by hash; what went wrong, or None."""
    shutil.rmtree(PLACE, ignore_errors=True)
    install = ("pip", "install", "--quiet", "--require-hashes")
    uv = (sys.executable, "-m", "uv")
    return (
        _failed(*uv, "venv", "--quiet", "--python", sys.executable, str(PLACE))
        or _failed(*uv, *install, "--python", str(PYTHON), "-r", str(LOCK))
        or _failed(str(PYTHON), "-c", "import asyncpg, pgqueuer, procrastinate, psycopg_pool, uvloop")
    )


def _failed(*command: str) -> str | None:
    environ = {**os.environ, "PYTHONPATH": ""}
    try:
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{' '.join(command[:5])} took more than {PATIENCE_S:.0f} s"
    return None if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")
