"""Every setting: its name, default and check, read from the environment, `.env` and systemd credentials."""

import difflib
import ipaddress
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from email.utils import getaddresses
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from daemon.cron import Cron, time_zone
from daemon.errors import SettingsError

PREFIX = "ORCHESTRATOR_"
ALIASES = {
    "DATABASE_URL": "ORCHESTRATOR_DATABASE_URL",
    "DRY_RUN": "ORCHESTRATOR_DRY_RUN",
    "ALERT_EMAIL": "ORCHESTRATOR_NOTIFY__ADMIN_EMAIL",
    "CLAUDE_CODE_PATH": "ORCHESTRATOR_CLAUDE_CODE_PATH",
}
_ENGINE_PORTS = {
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
    **{name: f"http://localhost:{port}" for name, port in _ENGINE_PORTS.items()},
    "sourcing": None,
    "classifier": None,
}
"""The engines of the shipped pipelines and campaigns; None: off until it has a URL or a command."""

_DRY_RUN = "ORCHESTRATOR_DRY_RUN"
_MAY_BE_EMPTY = "ORCHESTRATOR_SEND__QUIET_HOURS"
_OPEN_NAME = re.compile(r"ORCHESTRATOR_(ENGINES|PROBES)__([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)__([A-Z_]+)")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:\[\]]*)(?::(\d{1,5}))?")
_YES, _NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
N = TypeVar("N", int, float, Decimal)


# --- checks: each returns the value or raises ValueError("must be ..."); those of secrets never quote the value


def _number(
    of: Callable[[str], N], low: float, high: float = inf, *, above: bool = False, word: str = "number"
) -> BeforeValidator:
    range_ = f"of at least {low:g}" if high == inf else f"between {low:g} and {high:g}"
    text = f"must be a {word} {f'above {low:g}' if above else range_}"

    def read(value: object) -> N:
        try:
            number = of(str(value).strip())
        except (ValueError, ArithmeticError):
            raise ValueError(f"{text}, not {str(value)!r}") from None
        if not isfinite(number) or not low <= number <= high or (above and number == low):
            raise ValueError(f"{text}, not {str(value)!r}")
        return number

    return BeforeValidator(read)


def _flag(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError(f"must be true or false, not {str(value)!r}")
    return word in _YES


def _one_of(*words: str) -> BeforeValidator:
    def read(value: object) -> str:
        for word in words:
            if str(value).strip().lower() == word.lower():
                return word
        raise ValueError(f"must be one of {', '.join(words)}, not {str(value)!r}")

    return BeforeValidator(read)


def _cron(value: object) -> str:
    return Cron.parse(str(value)).expression


def _zone(value: object) -> str:
    return time_zone(str(value).strip()).key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _address(value: object) -> str:
    text = str(value).strip()
    found = [address for _, address in getaddresses([text])]
    if len(found) != 1 or not re.fullmatch(r"[^\s@<>,]+@[^\s@<>,]+", found[0]) or not text.isprintable():
        raise ValueError(f"must be one email address, not {text!r}")
    return text


def _has_host(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _has_database_hosts(text: str) -> bool:
    """Whether it names PostgreSQL, and every host (or none: a socket) may have that port."""
    try:
        parts = urlsplit(text)
    except ValueError:  # its text may quote the password
        return False
    hosts = [_HOST_AND_PORT.fullmatch(host) for host in parts.netloc.rpartition("@")[2].split(",")]
    ports_fit = all(host and 0 < int(host[1] or 5432) < 65536 for host in hosts)
    return parts.scheme in {"postgres", "postgresql"} and ports_fit and text.isprintable()


def _web_url(value: object) -> str:
    text = str(value).strip().rstrip("/")
    if not _has_host(text, ("http", "https")):
        raise ValueError("must be an http:// or https:// URL")
    if "@" in urlsplit(text).netloc:
        raise ValueError("must be a URL without user and password")
    return text


def _secret_url(*schemes: str) -> BeforeValidator:
    def read(value: object) -> SecretStr:
        text = _plain(value).strip()
        if not _has_host(text, schemes):
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return SecretStr(text)

    return BeforeValidator(read)


def _database_url(value: object) -> SecretStr:
    text = _plain(value).strip()
    if not _has_database_hosts(text):
        raise ValueError("must be postgresql://user:password@host:port/name (several hosts: host1:port,host2:port)")
    return SecretStr(text)


def _listed(value: object) -> list[object]:
    """A JSON list, or words with commas or spaces between them."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, list | tuple) else [value]
    if not value.strip().startswith("["):
        return list(re.split(r"[\s,]+", value.strip(" ,\n")))
    try:
        return list(orjson.loads(value))
    except orjson.JSONDecodeError:
        raise ValueError("must be a JSON list or a list with commas") from None


def _secret_urls(value: object) -> tuple[SecretStr, ...]:
    urls = [_plain(item) for item in _listed(value)]
    if not all("://" in url for url in urls):
        raise ValueError("must be Apprise URLs (name://...) with commas between them")
    return tuple(map(SecretStr, urls))


def _command(value: object) -> tuple[str, ...]:
    words = _listed(value) if not isinstance(value, str) or value.strip().startswith("[") else []
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError('must be a JSON list of the program and its arguments, such as ["agent", "--json"]')
    return tuple(map(str, words))


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of the day, from `start` until just before `end`; it may cross midnight."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HH:MM-HH:MM`."""
        match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", text.strip())
        if not match or match[0][:5] == match[0][6:]:
            raise ValueError(f"must be two different times as HH:MM-HH:MM, not {text!r}")
        hour, minute, end_hour, end_minute = map(int, match.groups())
        return cls(time(hour, minute), time(end_hour, end_minute))

    def contains(self, moment: time) -> bool:
        """Whether that time of day lies in these hours."""
        if self.start < self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


def _hours(value: object) -> Hours | None:
    if value is None or isinstance(value, Hours):
        return value
    return Hours.parse(str(value)) if str(value).strip() else None


Port = Annotated[int, _number(int, 1, 65535)]
Count = Annotated[int, _number(int, 1, word="whole number")]
Limit = Annotated[int, _number(int, 0, word="whole number")]
Seconds = Annotated[float, _number(float, 0, above=True)]
Amount = Annotated[float, _number(float, 0)]
Share = Annotated[float, _number(float, 0, 1)]
Money = Annotated[Decimal, _number(Decimal, 0)]
Flag = Annotated[bool, BeforeValidator(_flag)]
CronText = Annotated[str, BeforeValidator(_cron)]
Zone = Annotated[str, BeforeValidator(_zone)]
Address = Annotated[str, BeforeValidator(_address)]
WebUrl = Annotated[str, BeforeValidator(_web_url)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(_database_url)]
DayPart = Annotated[Hours | None, BeforeValidator(_hours)]


# --- declarations


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ApiSettings(_Group):
    """Where the HTTP API listens; without a token only on loopback."""

    host: str = "127.0.0.1"
    port: Port = 3020
    token: SecretStr | None = None

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token is None and not _is_loopback(self.host):
            raise ValueError(f"__TOKEN: must be set, because ORCHESTRATOR_API__HOST {self.host!r} is not loopback")
        return self


class LogSettings(_Group):
    """Log level and format; no format: JSON, or columns on a terminal."""

    level: Annotated[str, _one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")] = "INFO"
    format: Annotated[Literal["json", "console"], _one_of("json", "console")] | None = None


class WorkerSettings(_Group):
    """How tasks are claimed, leased, tried and taken over."""

    concurrency: Count = 64
    batch: Count = 500
    lease_s: Seconds = 30.0
    pulse_s: Seconds = 0.75
    takeover_s: Seconds = 1.0
    max_attempts: Count = 3
    backoff_s: Seconds = 2.0
    backoff_cap_s: Seconds = 600.0
    task_timeout_s: Seconds = 60.0
    alone_after_interruptions: Count = 3
    dead_after_interruptions: Count = 20


class ListenerSettings(_Group):
    """How the listening connection is watched; poll-only where NOTIFY can't arrive."""

    poll_only: Flag = False
    poll_s: Seconds = 1.0
    probe_s: Seconds = 5.0
    probe_timeout_s: Seconds = 2.0


class PoolSettings(_Group):
    """Connections to the database."""

    size: Count = 8
    connect_timeout_s: Seconds = 3.0
    statement_timeout_s: Seconds = 30.0


class SweepSettings(_Group):
    """When the sweep runs, until its row in `schedules` says otherwise."""

    cron: CronText = "*/15 * * * *"


class JobSettings(_Group):
    """When the other jobs run, until their rows in `schedules` say otherwise."""

    hourly: CronText = "0 * * * *"
    daily: CronText = "0 2 * * *"
    weekly: CronText = "0 3 * * 0"
    grace_s: Amount = 3600.0


class HistorySettings(_Group):
    """How long things stay."""

    retention_days: Count = 30
    dead_leads_archived_after_days: Count = 30
    backups_kept: Count = 7


class CampaignSettings(_Group):
    """Defaults for campaigns and searches."""

    grace_s: Amount = 3600.0
    budget_warning: Share = 0.8
    search_reuse_s: Amount = 86_400.0


class ClassifierSettings(_Group):
    """Below this confidence a person decides."""

    min_confidence: Share = 0.7


class ReplySettings(_Group):
    """What follows from replies."""

    nurture_days: Count = 90


class ApprovalSettings(_Group):
    """Gates: after so many approvals in a row `auto` is proposed; learnings are bounded."""

    in_a_row: Count = 10
    learnings_chars: Count = 4000


class EnrichmentSettings(_Group):
    """How many items are enriched at once, and the pause between batches."""

    concurrency: Count = 10
    pause_s: Amount = 1.0


class SendSettings(_Group):
    """Limits, windows and brakes of every message to a person."""

    daily_limit: Limit = 10_000
    hourly_limit: Limit = 1_000
    per_mailbox_daily: Limit | None = None
    per_domain_hourly: Limit | None = None
    window: DayPart = None
    quiet_hours: DayPart = Hours(time(21), time(8))
    default_timezone: Zone | None = None
    ramp_up: Flag = False
    ramp_up_first_day: Count = 20
    ramp_up_per_day: Count = 10
    hold_company_mates: Flag = False
    auto_pause: Flag = True
    max_bounce_share: Share = 0.05
    max_complaint_share: Share = 0.001
    share_after_sends: Count = 50
    share_days: Count = 7


class SmtpSettings(_Group):
    """Mail out."""

    url: Annotated[SecretStr, _secret_url("smtp", "smtps")] | None = None
    sender: Annotated[Address, Field(alias="from")] = "orchestrator@localhost"


class ImapSettings(_Group):
    """Mail in."""

    url: Annotated[SecretStr, _secret_url("imap", "imaps")] | None = None
    poll_s: Seconds = 60.0


class NotifySettings(_Group):
    """Where notices to the admin go."""

    admin_email: Address | None = None
    slack_webhook_url: Annotated[SecretStr, _secret_url("http", "https")] | None = None
    urls: Annotated[tuple[SecretStr, ...], BeforeValidator(_secret_urls)] = ()


class WebhookSettings(_Group):
    """Secrets of the webhooks in; unset: that route answers 404."""

    twilio_auth_token: SecretStr | None = None
    facebook_app_secret: SecretStr | None = None
    facebook_verify_token: SecretStr | None = None
    signing_secret: SecretStr | None = None


class ValueSettings(_Group):
    """How a pipeline's value is computed."""

    contingency_fee: Share = 0.24


class MonitorSettings(_Group):
    """When something counts as stuck or ill."""

    new_for_h: Amount = 24.0
    unapproved_for_h: Amount = 48.0
    unsent_for_h: Amount = 6.0
    unchanged_for_days: Count = 30
    probe_timeout_s: Seconds = 5.0
    probe_cache_s: Amount = 15.0


class AlertSettings(_Group):
    """Thresholds of the alerts."""

    low_conversion: Share = 0.05
    low_conversion_min_leads: Count = 50
    stalled_leads: Limit = 50
    failures_per_hour: Limit = 10
    missing_data_leads: Limit = 5
    api_calls_per_day: Limit = 500


class SloSettings(_Group):
    """Service levels."""

    throughput_per_day: Limit = 100
    failed_share: Share = 0.01
    overdue_share: Share = 0.05
    overdue_after_s: Seconds = 900.0
    settled_p95_s: Seconds = 5.0
    resolved_p95_s: Seconds = 600.0


class EngineSettings(_Group):
    """One engine: a URL, or a command that is run for each call."""

    name: str
    url: WebUrl | None = None
    token: SecretStr | None = None
    timeout_s: Seconds = 30.0
    max_concurrency: Count = 10
    rate_per_s: Seconds | None = None
    idempotent: Flag = False
    cost_per_call: Money = Decimal(0)
    daily_budget: Money | None = None
    command: Annotated[tuple[str, ...], BeforeValidator(_command)] | None = None

    @property
    def configured(self) -> bool:
        """Whether it can be called at all."""
        return self.url is not None or self.command is not None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.url and self.command:
            raise ValueError("__COMMAND: must not be set together with URL")
        if not self.configured and self.name not in ENGINE_URLS:
            raise ValueError(
                f"__URL: must be set, or COMMAND; nearest known engine: {_nearest(self.name, ENGINE_URLS)}"
            )
        return self


class ProbeSettings(_Group):
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


class Settings(_Group):
    """All settings; `load_settings` reads them."""

    database_url: DatabaseUrl | None = None
    listen_url: DatabaseUrl | None = None
    home: Path = Path(".orchestrator")
    timezone: Zone = "UTC"
    secret_key: SecretStr | None = None
    public_url: WebUrl = "http://127.0.0.1:3020"
    dry_run: Flag = False
    shutdown_grace_s: Amount = 25.0
    claude_code_path: str = "claude"
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()
    worker: WorkerSettings = WorkerSettings()
    listener: ListenerSettings = ListenerSettings()
    pool: PoolSettings = PoolSettings()
    sweep: SweepSettings = SweepSettings()
    jobs: JobSettings = JobSettings()
    history: HistorySettings = HistorySettings()
    campaigns: CampaignSettings = CampaignSettings()
    classifier: ClassifierSettings = ClassifierSettings()
    replies: ReplySettings = ReplySettings()
    approvals: ApprovalSettings = ApprovalSettings()
    enrichment: EnrichmentSettings = EnrichmentSettings()
    send: SendSettings = SendSettings()
    smtp: SmtpSettings = SmtpSettings()
    imap: ImapSettings = ImapSettings()
    notify: NotifySettings = NotifySettings()
    webhooks: WebhookSettings = WebhookSettings()
    value: ValueSettings = ValueSettings()
    monitor: MonitorSettings = MonitorSettings()
    alerts: AlertSettings = AlertSettings()
    slo: SloSettings = SloSettings()
    engines: Mapping[str, EngineSettings] = Field(default_factory=dict, validate_default=True)
    probes: Mapping[str, ProbeSettings] = {}

    @field_validator("home", mode="after")
    @classmethod
    def _expanded(cls, home: Path) -> Path:
        return home.expanduser()

    @field_validator("engines", mode="before")
    @classmethod
    def _with_shipped(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _engine(name, given.get(name, {})) for name in {**ENGINE_URLS, **given}}

    @field_validator("probes", mode="before")
    @classmethod
    def _named(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: {"name": name, **probe} if isinstance(probe, dict) else probe for name, probe in given.items()}

    @property
    def dsn(self) -> str | None:
        """The database URL in plain text; None: the embedded Postgres."""
        return self.database_url.get_secret_value() if self.database_url else None

    @property
    def listen_dsn(self) -> str | None:
        """The URL of the direct connection for LISTEN."""
        return self.listen_url.get_secret_value() if self.listen_url else self.dsn

    @property
    def database_label(self) -> str:
        """The database's hosts and name, without user and password."""
        if self.dsn is None:
            return f"embedded under {self.home}"
        parts = urlsplit(self.dsn)
        return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


# --- reading: credentials, then `.env`, then the environment; the later one wins


def load_settings(
    environ: Mapping[str, str] | None = None, *, env_file: Path | None = None, **overrides: object
) -> Settings:
    """Read and check all settings; `overrides` (a command's options) win. Given `environ`, `.env` is left alone."""
    environment = os.environ if environ is None else environ
    dotenv = Path(".env") if environ is None and env_file is None else env_file
    levels: list[Mapping[str, str | None]] = [_credentials(environment), _env_file(dotenv), dict(environment)]
    variables = _Variables.merged([_named_as_declared(level) for level in levels])
    unknown = [_unknown(name) for name in variables.values if not _is_known(name)]
    chosen = {
        name: value for name, value in overrides.items() if value is not None and (name, value) != ("dry_run", False)
    }
    given = _merged(_with_presence(variables.nested(), variables.values), chosen)
    try:
        settings = Settings.model_validate(given)
    except ValidationError as invalid:
        problems = [_problem(error, variables.origins) for error in invalid.errors(include_url=False)]
        raise SettingsError("\n".join(unknown + problems)) from None
    if unknown:
        raise SettingsError("\n".join(unknown))
    return settings


def require_database(settings: Settings, environ: Mapping[str, str] | None = None) -> None:
    """Refuse to run under systemd on an embedded database: state there belongs to a real server."""
    if settings.database_url is None and (os.environ if environ is None else environ).get("INVOCATION_ID"):
        raise SettingsError("DATABASE_URL: must be set when systemd runs the daemon")


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
        asked = [level[name] for level in levels for name in ("DRY_RUN", _DRY_RUN) if name in level]
        if asked:  # the safe value wins, whoever gave it; one that can't be read is kept, to be refused
            values[_DRY_RUN] = next((word for word in asked if word.strip().lower() not in _NO), "false")
        return cls(values, origins)

    def nested(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name in filter(_is_known, self.values):
            if name.startswith(PREFIX):
                *groups, leaf = _path(name)
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
        name: value for name, value in named.items() if value is not None and (value.strip() or name == _MAY_BE_EMPTY)
    }


def _with_presence(given: dict[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    for probe in given.get("probes", {}).values():
        probe["present"] = probe.get("env") in variables
    return given


def _merged(given: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {**given, **over}
    return {k: _merged(given.get(k, {}), v) if isinstance(v, dict) and k in over else v for k, v in both.items()}


def _engine(name: str, given: EngineSettings | Mapping[str, Any]) -> EngineSettings | dict[str, Any]:
    if isinstance(given, EngineSettings):
        return given
    shipped = {} if "command" in given else {"url": ENGINE_URLS.get(name)}
    return {"name": name, **shipped, **given}


# --- names and problems


def _path(name: str) -> list[str]:
    return name.removeprefix(PREFIX).lower().split("__")


@cache
def _declared_names() -> frozenset[str]:
    return frozenset(_leaf_names(Settings, PREFIX))


def _leaf_names(group: type[BaseModel], prefix: str) -> Iterator[str]:
    for field, info in group.model_fields.items():
        name = f"{prefix}{info.alias or field}".upper()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _leaf_names(info.annotation, f"{name}__")
        elif name not in _OPEN:
            yield name


def _open_fields(kind: str) -> set[str]:
    declared = _OPEN[f"{PREFIX}{kind}"].model_fields
    return {field.upper() for field in declared} - {"NAME", "PRESENT"}


def _is_known(name: str) -> bool:
    if not name.startswith(PREFIX) or name in _declared_names():
        return True
    match = _OPEN_NAME.fullmatch(name)
    return match is not None and match[3] in _open_fields(match[1])


def _unknown(name: str) -> str:
    engines = {
        f"{PREFIX}ENGINES__{engine.upper()}__{field}" for engine in ENGINE_URLS for field in _open_fields("ENGINES")
    }
    match = re.match(r"ORCHESTRATOR_(ENGINES|PROBES)__(.+?)__", name)
    named = {match[0] + field for field in _open_fields(match[1])} if match else set()
    return f"{name}: is no setting; nearest: {_nearest(name, named or _declared_names() | engines)}"


def _nearest(name: str, names: Iterable[str]) -> str:
    return difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)[0]


def _problem(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    """One line that names the variable and never quotes its value, unless the check itself did."""
    name = PREFIX + "__".join(str(part) for part in error["loc"] if isinstance(part, str)).upper()
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, ValueError):
        text = str(cause)
    else:
        text = {"missing": "must be set", "extra_forbidden": "is no setting"}.get(error["type"], error["msg"])
    return f"{origins.get(name, name)}{text if text.startswith('__') else f': {text}'}"


# --- showing, and the secrets


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


def _leaves(group: BaseModel, prefix: str) -> Iterator[tuple[str, Any, Any]]:
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
        usual = ENGINE_URLS.get(item.name) if name.endswith("__URL") else default
        shown = name.endswith("__URL") or value != usual
        if shown and not name.endswith(("__NAME", "__PRESENT")):
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


_OPEN: Mapping[str, type[BaseModel]] = {f"{PREFIX}ENGINES": EngineSettings, f"{PREFIX}PROBES": ProbeSettings}
