"""Reads the settings: credentials, then `.env`, then the environment; the later one wins."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from daemon.errors import SettingsError
from daemon.settings.checks import NO
from daemon.settings.groups import Settings
from daemon.settings.names import ALIASES, DRY_RUN, MAY_BE_EMPTY, PREFIX, is_known, path, unknown


def load_settings(
    environ: Mapping[str, str] | None = None, *, env_file: Path | None = None, **overrides: object
) -> Settings:
    """Read and check all settings; `overrides` (a command's options) win. Given `environ`, `.env` is left alone."""
    environment = os.environ if environ is None else environ
    dotenv = Path(".env") if environ is None and env_file is None else env_file
    levels: list[Mapping[str, str | None]] = [_credentials(environment), _env_file(dotenv), dict(environment)]
    variables = _Variables.merged([_named_as_declared(level) for level in levels])
    given = _merged(_with_presence(variables.nested(), variables.values), _chosen(overrides))
    problems = [unknown(name) for name in variables.values if not is_known(name)]
    try:
        settings = Settings.model_validate(given)
    except ValidationError as invalid:
        problems += [_problem(error, variables.origins) for error in invalid.errors(include_url=False)]
        raise SettingsError("\n".join(problems)) from None
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def require_database(settings: Settings, environ: Mapping[str, str] | None = None) -> None:
    """Refuse to run under systemd on an embedded database: state there belongs to a real server."""
    if settings.database_url is None and _is_unit(os.environ if environ is None else environ):
        raise SettingsError("DATABASE_URL: must be set when systemd runs the daemon")


def _is_unit(environ: Mapping[str, str]) -> bool:
    """Whether systemd started this very process; a desktop's terminals inherit INVOCATION_ID from their session."""
    main = environ.get("SYSTEMD_EXEC_PID")
    return bool(environ.get("INVOCATION_ID")) and main in (None, "", str(os.getpid()))


@dataclass(frozen=True, slots=True)
class _Variables:
    """All non-empty variables under their declared names, and the name that each was really given by."""

    values: Mapping[str, str]
    origins: Mapping[str, str]

    @classmethod
    def merged(cls, levels: Sequence[Mapping[str, str]]) -> Self:
        values: dict[str, str] = {}
        origins: dict[str, str] = {}
        for level in levels:
            for name in sorted(level, key=lambda name: name not in ALIASES):  # the full name beats its alias
                values[ALIASES.get(name, name)] = level[name]
                origins[ALIASES.get(name, name)] = name
        asked = [level[name] for level in levels for name in ("DRY_RUN", DRY_RUN) if name in level]
        if asked:  # the safe value wins, whoever gave it; one that can't be read is kept, to be refused
            values[DRY_RUN] = next((word for word in asked if word.strip().lower() not in NO), "false")
        return cls(values, origins)

    def nested(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name in filter(is_known, self.values):
            if name.startswith(PREFIX):
                *groups, leaf = path(name)
                branch = tree
                for group in groups:
                    branch = branch.setdefault(group, {})
                branch[leaf] = self.values[name]
        return tree


def _credentials(environ: Mapping[str, str]) -> dict[str, str | None]:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return {}
    import pydantic_settings as reader  # noqa: PLC0415 - 80 ms that most starts don't need

    try:
        files = reader.SecretsSettingsSource(reader.BaseSettings, secrets_dir=folder)
        source = reader.NestedSecretsSettingsSource(files, secrets_dir_missing="error")
    except (OSError, ValueError) as problem:
        raise SettingsError(f"CREDENTIALS_DIRECTORY: can't be read: {problem}") from None
    return {name.upper(): value for name, value in source.env_vars.items()}


def _env_file(path: Path | None) -> dict[str, str | None]:
    if path is None or not path.is_file():
        return {}
    import pydantic_settings as reader  # noqa: PLC0415 - as above

    try:
        return dict(reader.DotEnvSettingsSource(reader.BaseSettings, env_file=path, case_sensitive=True).env_vars)
    except (OSError, ValueError) as problem:
        raise SettingsError(f"{path}: can't be read: {problem}") from None


def _named_as_declared(level: Mapping[str, str | None]) -> dict[str, str]:
    named = {name.upper() if name.upper().startswith(PREFIX) else name: value for name, value in level.items()}
    return {
        name: value for name, value in named.items() if value is not None and (value.strip() or name == MAY_BE_EMPTY)
    }


def _with_presence(given: dict[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    for probe in given.get("probes", {}).values():
        probe["present"] = probe.get("env") in variables
    return given


def _chosen(overrides: Mapping[str, object]) -> dict[str, object]:
    """The options that say something: a dry run that wasn't asked for doesn't deny one."""
    return {
        name: value for name, value in overrides.items() if value is not None and (name, value) != ("dry_run", False)
    }


def _merged(given: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {**given, **over}
    return {k: _merged(given.get(k, {}), v) if isinstance(v, dict) and k in over else v for k, v in both.items()}


def _problem(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """One line that names the variable and never quotes its value, unless the check itself did."""
    name = PREFIX + "__".join(str(part) for part in error["loc"] if isinstance(part, str)).upper()
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        text = str(cause)
    else:
        text = {"missing": "must be set", "extra_forbidden": "is no setting"}.get(error["type"], error["msg"])
    return f"{origins.get(name, name)}{text if text.startswith('__') else f': {text}'}"
