"""Tells the settings: each with its value as it may be shown, and the secrets that no log may show."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic import BaseModel, SecretStr

from daemon.settings.engines import ENGINE_URLS, FILLED_IN, EngineSettings, ProbeSettings
from daemon.settings.groups import Settings
from daemon.settings.names import ALIASES, PREFIX


def describe(settings: Settings) -> list[tuple[str, str, bool]]:
    """Each setting's variable, its value as it may be shown, and whether it is the default."""
    usual = {ALIASES[alias]: alias for alias in ("DATABASE_URL", "CLAUDE_CODE_PATH")}
    return [
        (usual.get(name, name), _shown(value), value == default) for name, value, default in _leaves(settings, PREFIX)
    ]


def secret_values(settings: Settings) -> list[str]:
    """All secrets in plain text, and the passwords inside URLs, so that logs can hide them."""
    leaves = [value for _, value, _ in _leaves(settings, PREFIX)]
    plain = [item.get_secret_value() for value in leaves for item in _each(value) if isinstance(item, SecretStr)]
    passwords = [match[1] for text in plain if (match := re.match(r"[\w+.-]+://[^:/@]*:(.+)@", text))]
    return [*plain, *passwords, *map(unquote, passwords)]


def _leaves(group: BaseModel, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of every setting in the group."""
    for field, info in type(group).model_fields.items():
        name, value = f"{prefix}{info.alias or field}".upper(), getattr(group, field)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{name}__")
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from _open_leaves(item, f"{name}__{key.upper()}__")
        else:
            yield name, value, info.get_default(call_default_factory=True)


def _open_leaves(item: EngineSettings | ProbeSettings, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """Of an engine or probe only what it is called by and what was changed."""
    for name, value, default in _leaves(item, prefix):
        field = name.removeprefix(prefix).lower()
        usual = ENGINE_URLS.get(item.name) if field == "url" else default
        if field not in FILLED_IN and (field == "url" or value != usual):
            yield name, value, usual


def _each(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(value: object) -> str:
    if value is None or value == ():
        return "unset"
    if any(isinstance(item, SecretStr) for item in _each(value)):
        return "********"
    if isinstance(value, bool):
        return str(value).lower()
    return orjson.dumps(value).decode() if isinstance(value, tuple) else str(value)
