"""What people are told, and whom: values and pure decisions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Self, cast, get_args
from uuid import UUID

from pydantic import SecretStr

from daemon.settings import NotifySettings

Channel = Literal["email", "slack", "apprise"]
CHANNELS: tuple[str, ...] = get_args(Channel)

_RUN = {"name": "", "run_id": None, "status": "", "prospects": 0, "analyzed": 0, "sent": 0, "cost": 0,
        "steps_failed": 0, "error": "", "errors": ()}  # fmt: skip
_MONEY = {"name": "", "window": "", "spent": None, "limit": None, "reason": "", "resume_at": None, "run_id": None}
EVENTS: Mapping[str, Mapping[str, Any]] = {
    "run_completed": _RUN,
    "run_partial": _RUN,
    "run_failed": _RUN,
    "budget": _MONEY,
    "budget_warning": _MONEY,
    "approval": {"id": None, "checkpoint": "", "title": "", "expires_at": None, "link": None},
    "alert": {"id": None, "type": "", "severity": "MEDIUM", "message": "", "subject": "", "last": False},
}
"""Each event with its facts and their defaults: what a template may name."""
STORED = ("alert", "approval")
"""Events whose facts are a row's, named by `facts.id`."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one channel. `setting` is the fingerprint of an address that is a secret of the settings."""

    channel: Channel
    address: str = ""
    setting: str = ""

    @property
    def label(self) -> str:
        """What it may be called in a row or a log line."""
        return (
            f"{self.channel}:{self.address if self.channel == 'email' else self.setting or fingerprint(self.address)}"
        )

    def document(self) -> dict[str, str]:
        """As a payload holds it."""
        return {"channel": self.channel, "address": self.address, "setting": self.setting}

    @classmethod
    def of(cls, document: object) -> Self:
        """Read back from a payload."""
        if not isinstance(document, Mapping) or document.get("channel") not in CHANNELS:
            raise ValueError(f"target.channel must be one of {', '.join(CHANNELS)}")
        return cls(
            cast("Channel", document["channel"]), str(document.get("address") or ""), str(document.get("setting") or "")
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell; `to` None or empty is the admin."""

    event: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    to: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Read from a payload that anybody may have written."""
        event, facts, to = payload.get("event"), payload.get("facts") or {}, payload.get("to") or {}
        if not isinstance(event, str) or event not in EVENTS:
            raise ValueError(f"event must be one of {', '.join(EVENTS)}")
        if not isinstance(facts, Mapping) or not isinstance(to, Mapping):
            raise ValueError("facts and to must be objects")
        return cls(event, facts, to)

    @property
    def row_id(self) -> UUID | None:
        """The alert or request that it is about, if it names one."""
        if self.event not in STORED:
            return None
        try:
            return UUID(str(self.facts.get("id")))
        except ValueError:
            return None


def fingerprint(secret: str) -> str:
    """Tells one secret from another, and nothing about it."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def targets(notice: Notice, settings: NotifySettings) -> tuple[Target, ...]:
    """Everybody to be told, each once."""
    found = _named(notice.to, settings) if any(notice.to.get(name) for name in ("email", "slack", "urls")) else ()
    return tuple(dict.fromkeys(found or _admin(notice, settings)))


def address_of(target: Target, settings: NotifySettings) -> str | None:
    """The address itself; None if it was a setting that is no more."""
    if not target.setting:
        return target.address
    return next((s for s in _secrets(settings) if fingerprint(s) == target.setting), None)


def _admin(notice: Notice, settings: NotifySettings) -> Iterator[Target]:
    """The admin's own; mail about an alert only if it is HIGH."""
    if settings.admin_email and (notice.event != "alert" or notice.facts.get("severity") == "HIGH"):
        yield Target("email", settings.admin_email)
    yield from _of_setting("slack", settings.slack_webhook_url)
    for url in settings.urls:
        yield from _of_setting("apprise", url)


def _named(to: Mapping[str, Any], settings: NotifySettings) -> list[Target]:
    found = [Target("email", address) for address in _texts("email", to.get("email"))]
    slack = to.get("slack")
    if slack is True:
        found += _of_setting("slack", settings.slack_webhook_url)
    else:
        found += [Target("slack", url) for url in _texts("slack", slack)]
    return found + [Target("apprise", url) for url in _texts("urls", to.get("urls"))]


def _texts(name: str, value: object) -> list[str]:
    every = value if isinstance(value, list) else [value] if value else []
    texts = [one.strip() for one in every if isinstance(one, str)]
    if len(texts) < len(every):
        raise ValueError(f"to.{name} must be text or a list of texts")
    return [text for text in texts if text]


def _of_setting(channel: Channel, secret: SecretStr | None) -> list[Target]:
    return [Target(channel, setting=fingerprint(secret.get_secret_value()))] if secret else []


def _secrets(settings: NotifySettings) -> list[str]:
    return [s.get_secret_value() for s in (settings.slack_webhook_url, *settings.urls) if s is not None]
