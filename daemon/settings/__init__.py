"""Every setting: its name, default and check, read from the environment, `.env` and systemd credentials.

`checks` and `addresses` say what a value may be, `engines` and `groups` declare the settings, `names` knows their
variables, `sources` reads them, `showing` tells them without their secrets, `key_file` keeps the generated key.
"""

from daemon.settings.checks import Hours
from daemon.settings.engines import ENGINE_URLS, EngineSettings, ProbeSettings
from daemon.settings.groups import (
    ApiSettings,
    ClassifierSettings,
    HistorySettings,
    ImapSettings,
    JobSettings,
    LearningsSettings,
    ListenerSettings,
    LogSettings,
    NotifySettings,
    PoolSettings,
    ReplySettings,
    SendSettings,
    Settings,
    SmtpSettings,
    StuckSettings,
    SweepSettings,
    ValueSettings,
    WebhookSettings,
    WorkerSettings,
)
from daemon.settings.key_file import secret_key
from daemon.settings.names import ALIASES, PREFIX
from daemon.settings.showing import describe, secret_values
from daemon.settings.sources import load_settings, require_database

__all__ = [
    "ALIASES",
    "ENGINE_URLS",
    "PREFIX",
    "ApiSettings",
    "ClassifierSettings",
    "EngineSettings",
    "HistorySettings",
    "Hours",
    "ImapSettings",
    "JobSettings",
    "LearningsSettings",
    "ListenerSettings",
    "LogSettings",
    "NotifySettings",
    "PoolSettings",
    "ProbeSettings",
    "ReplySettings",
    "SendSettings",
    "Settings",
    "SmtpSettings",
    "StuckSettings",
    "SweepSettings",
    "ValueSettings",
    "WebhookSettings",
    "WorkerSettings",
    "describe",
    "load_settings",
    "require_database",
    "secret_key",
    "secret_values",
]
