"""Engines and probes: settings under any name, and the engines that are there without one."""

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from daemon.settings.addresses import WebUrl
from daemon.settings.checks import Command, Count, Flag, Money, Seconds

AGENT_PROGRAM = "claude"
_PORTS = {
    "prospecting": 3010,
    "analysis": 3000,
    "outreach": 3001,
    "sms": 3002,
    "validator": 3003,
    "offers": 3004,
    "scout": 3005,
    "analyst": 3006,
    "writer": 3007,
    "tracker": 3008,
    "extraction": 3009,
    "places": 3011,
    "intelligence": 3012,
    "facebook": 3017,
    "phone_places": 3013,
    "phone_directory": 3014,
    "phone_website": 3015,
    "contacts": 3016,
}
ENGINE_URLS: Mapping[str, str | None] = {
    **{name: f"http://localhost:{port}" for name, port in _PORTS.items()},
    "sourcing": None,
    "classifier": None,
}
"""The engines of the shipped pipelines and campaigns; None: off until it has a URL or a command."""


class Group(BaseModel):
    """Settings that belong together; nothing may be misspelt or changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class EngineSettings(Group):
    """One engine: a URL, or a command that is run for each call (`claude_code_path` is that of all engines)."""

    name: str
    url: WebUrl | None = None
    token: SecretStr | None = None
    timeout_s: Seconds = 30.0
    max_concurrency: Count = 10
    rate_per_s: Seconds | None = None
    idempotent: Flag = False
    cost_per_call: Money = Decimal(0)
    daily_budget: Money | None = None
    command: Command | None = None
    claude_code_path: str = AGENT_PROGRAM

    @property
    def configured(self) -> bool:
        """Whether it can be called at all."""
        return self.url is not None or self.command is not None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.url and self.command:
            raise ValueError("__COMMAND: must not be set together with URL")
        if not self.configured and self.name not in ENGINE_URLS:
            raise ValueError(f"__URL: must be set, or COMMAND; nearest known engine: {nearest(self.name, ENGINE_URLS)}")
        return self


class ProbeSettings(Group):
    """One more line of the agents' health: a URL to GET, or a variable that must be set (`present`: it is)."""

    name: str
    url: WebUrl | None = None
    env: str | None = None
    present: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.url is None) == (self.env is None):
            raise ValueError("__URL: must be set, or ENV, but not both")
        return self


FILLED_IN = frozenset({"name", "present", "claude_code_path"})
"""The fields of an engine or a probe that no variable of its own sets."""


def with_shipped(given: Mapping[str, Any], agent_program: str) -> dict[str, Any]:
    """The given engines and the shipped ones, each ready to be checked."""
    return {name: _engine(name, given.get(name, {}), agent_program) for name in {**ENGINE_URLS, **given}}


def named(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given probes, each knowing its name."""
    return {name: {"name": name, **probe} if isinstance(probe, dict) else probe for name, probe in given.items()}


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant."""
    return difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)[0]


def _engine(
    name: str, given: EngineSettings | Mapping[str, Any], agent_program: str
) -> EngineSettings | dict[str, Any]:
    if isinstance(given, EngineSettings):
        return given
    shipped = {} if "command" in given else {"url": ENGINE_URLS.get(name)}
    return {"name": name, "claude_code_path": agent_program, **shipped, **given}
