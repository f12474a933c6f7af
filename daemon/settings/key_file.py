"""The key that signs links, kept in a private file under home unless it is set."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from pydantic import SecretStr

from daemon.errors import SettingsError
from daemon.settings.groups import Settings


def secret_key(settings: Settings) -> SecretStr:
    """The key that signs links: the one set, else the one kept under home, made once."""
    if settings.secret_key is not None:
        return settings.secret_key
    path = settings.home / "secret_key"
    try:
        if not path.exists():
            _keep_once(path, secrets.token_urlsafe(48))
        kept = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(f"ORCHESTRATOR_SECRET_KEY: can't be kept in {path}: {problem}") from None
    if not kept:
        raise SettingsError(f"ORCHESTRATOR_SECRET_KEY: {path} is empty; remove it or set the variable")
    return SecretStr(kept)


def _keep_once(path: Path, text: str) -> None:
    """Write a private file whole; of several writers at once the first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
