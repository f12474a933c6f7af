"""The variables' names: what each setting is called, which names are none, and which one was meant."""

import re
from collections.abc import Iterator, Mapping
from functools import cache

from pydantic import BaseModel

from daemon.settings.engines import ENGINE_URLS, FILLED_IN, EngineSettings, ProbeSettings, nearest
from daemon.settings.groups import Settings

PREFIX = "ORCHESTRATOR_"
DRY_RUN = "ORCHESTRATOR_DRY_RUN"
MAY_BE_EMPTY = "ORCHESTRATOR_SEND__QUIET_HOURS"
ALIASES = {
    "DATABASE_URL": "ORCHESTRATOR_DATABASE_URL",
    "DRY_RUN": DRY_RUN,
    "ALERT_EMAIL": "ORCHESTRATOR_NOTIFY__ADMIN_EMAIL",
    "CLAUDE_CODE_PATH": "ORCHESTRATOR_CLAUDE_CODE_PATH",
}
_OPEN: Mapping[str, type[BaseModel]] = {"ENGINES": EngineSettings, "PROBES": ProbeSettings}
_OPEN_NAME = re.compile(r"ORCHESTRATOR_(ENGINES|PROBES)__([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__([A-Z_]+)")


def path(name: str) -> list[str]:
    """The way to a setting, from the outermost group in."""
    return name.removeprefix(PREFIX).lower().split("__")


def is_known(name: str) -> bool:
    """Whether it is a setting's name, or none of our business."""
    if not name.startswith(PREFIX) or name in _declared_names():
        return True
    match = _OPEN_NAME.fullmatch(name)
    return match is not None and match[3] in _open_fields(match[1])


def unknown(name: str) -> str:
    """What to say about a name that is none."""
    engines = {
        f"{PREFIX}ENGINES__{engine.upper()}__{field}" for engine in ENGINE_URLS for field in _open_fields("ENGINES")
    }
    match = re.match(r"ORCHESTRATOR_(ENGINES|PROBES)__(.+?)__", name)
    fields = {match[0] + field for field in _open_fields(match[1])} if match else set()
    return f"{name}: is no setting; nearest: {nearest(name, fields or _declared_names() | engines)}"


@cache
def _declared_names() -> frozenset[str]:
    return frozenset(_leaf_names(Settings, PREFIX))


def _leaf_names(group: type[BaseModel], prefix: str) -> Iterator[str]:
    for field, info in group.model_fields.items():
        name = f"{prefix}{info.alias or field}".upper()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _leaf_names(info.annotation, f"{name}__")
        elif name.removeprefix(PREFIX) not in _OPEN:
            yield name


def _open_fields(kind: str) -> set[str]:
    return {field.upper() for field in _OPEN[kind].model_fields.keys() - FILLED_IN}
