"""Every setting with its default, group by group. A setting that nobody reads has no place here."""

from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from daemon.settings.addresses import Address, DatabaseUrl, HttpHook, ImapUrl, SecretUrls, SmtpUrl, WebUrl, is_loopback
from daemon.settings.checks import (
    Amount,
    Characters,
    Count,
    CronText,
    DayPart,
    Flag,
    Hours,
    Limit,
    Lines,
    Port,
    Seconds,
    Share,
    Zone,
    one_of,
)
from daemon.settings.engines import AGENT_PROGRAM, EngineSettings, Group, ProbeSettings, named, with_shipped
from daemon.signatures import key_of


class ApiSettings(Group):
    """Where the HTTP API listens; without a token only on loopback."""

    host: str = "127.0.0.1"
    port: Port = 3020
    token: SecretStr | None = None

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"__TOKEN: must be set, because ORCHESTRATOR_API__HOST {self.host!r} is not loopback")
        return self


class LogSettings(Group):
    """Log level and format; no format: JSON, or columns on a terminal."""

    level: Annotated[str, one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")] = "INFO"
    format: Annotated[Literal["json", "console"], one_of("json", "console")] | None = None


class WorkerSettings(Group):
    """How tasks are claimed, leased and taken over."""

    concurrency: Count = 64
    batch: Count = 1000
    lease_s: Seconds = 30.0
    pulse_s: Seconds = 0.75
    takeover_s: Seconds = 1.0


class ListenerSettings(Group):
    """How the listening connection is watched; poll-only where NOTIFY can't arrive."""

    poll_only: Flag = False
    probe_timeout_s: Seconds = 2.0


class PoolSettings(Group):
    """Connections to the database."""

    size: Count = 8


class SweepSettings(Group):
    """When the sweep runs, until its row in `schedules` says otherwise."""

    cron: CronText = "*/15 * * * *"


class JobSettings(Group):
    """When the other jobs run, until their rows in `schedules` say otherwise."""

    daily: CronText = "0 2 * * *"


class HistorySettings(Group):
    """How long things stay."""

    retention_days: Count = 30
    dead_leads_archived_after_days: Count = 30


class ClassifierSettings(Group):
    """Below this confidence a person decides."""

    min_confidence: Share = 0.7


class LearningsSettings(Group):
    """How many of people's words on its work an agent's request carries, and how long they are in all."""

    most: Lines = 20
    characters: Characters = 4000


class ReplySettings(Group):
    """What follows from replies."""

    nurture_days: Count = 90


class SendSettings(Group):
    """Limits, windows and brakes of every message to a person."""

    daily_limit: Limit = 10_000
    hourly_limit: Limit = 1_000
    per_mailbox_daily: Limit | None = None
    per_domain_hourly: Limit | None = None
    window: DayPart = None
    quiet_hours: DayPart = Hours(time(21), time(8))
    default_timezone: Zone | None = None
    ramp_up: Flag = False
    hold_company_mates: Flag = False
    auto_pause: Flag = True


class SmtpSettings(Group):
    """Mail out."""

    url: SmtpUrl | None = None
    sender: Annotated[Address, Field(alias="from")] = "orchestrator@localhost"


class ImapSettings(Group):
    """Mail in."""

    url: ImapUrl | None = None
    poll_s: Seconds = 60.0


class NotifySettings(Group):
    """Where notices to the admin go, how many alerts of one type within an hour, and whether anybody is told at all."""

    admin_email: Address | None = None
    slack_webhook_url: HttpHook | None = None
    urls: SecretUrls = ()
    alerts_per_hour: Count = 10
    muted: Flag = False


class WebhookSettings(Group):
    """Secrets of the webhooks in; unset: that route answers 404."""

    twilio_auth_token: SecretStr | None = None
    facebook_app_secret: SecretStr | None = None
    facebook_verify_token: SecretStr | None = None
    signing_secret: SecretStr | None = None

    @field_validator("signing_secret", mode="after")
    @classmethod
    def _usable(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            key_of(secret.get_secret_value())
        return secret


class StuckSettings(Group):
    """After how long a lead counts as stuck: in its first stage, unapproved, past its deadline, flagged for a person.

    And a message: approved and not sent, or due on a weekday on which nothing is sent.
    """

    new_h: Amount = 24.0
    unapproved_h: Amount = 48.0
    unsent_h: Amount = 6.0
    nothing_sent_h: Amount = 1.0
    deadline_min: Amount = 15.0
    review_h: Amount = 24.0


class ValueSettings(Group):
    """How a pipeline's value is computed."""

    contingency_fee: Share = 0.24


class Settings(Group):
    """All settings; `load_settings` reads them."""

    database_url: DatabaseUrl | None = None
    listen_url: DatabaseUrl | None = None
    home: Path = Path(".orchestrator")
    timezone: Zone = "UTC"
    secret_key: SecretStr | None = None
    public_url: WebUrl = "http://127.0.0.1:3020"
    dry_run: Flag = False
    shutdown_grace_s: Amount = 25.0
    claude_code_path: str = AGENT_PROGRAM
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()
    worker: WorkerSettings = WorkerSettings()
    listener: ListenerSettings = ListenerSettings()
    pool: PoolSettings = PoolSettings()
    sweep: SweepSettings = SweepSettings()
    jobs: JobSettings = JobSettings()
    history: HistorySettings = HistorySettings()
    classifier: ClassifierSettings = ClassifierSettings()
    learnings: LearningsSettings = LearningsSettings()
    replies: ReplySettings = ReplySettings()
    send: SendSettings = SendSettings()
    smtp: SmtpSettings = SmtpSettings()
    imap: ImapSettings = ImapSettings()
    notify: NotifySettings = NotifySettings()
    webhooks: WebhookSettings = WebhookSettings()
    stuck: StuckSettings = StuckSettings()
    value: ValueSettings = ValueSettings()
    engines: Mapping[str, EngineSettings] = Field(default_factory=dict, validate_default=True)
    probes: Mapping[str, ProbeSettings] = {}

    @field_validator("home", mode="after")
    @classmethod
    def _expanded(cls, home: Path) -> Path:
        return home.expanduser()

    @field_validator("engines", mode="before")
    @classmethod
    def _with_shipped(cls, given: Mapping[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return with_shipped(given, info.data.get("claude_code_path", AGENT_PROGRAM))

    @field_validator("probes", mode="before")
    @classmethod
    def _named(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return named(given)

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
