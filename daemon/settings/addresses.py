"""What an email address, a URL or a host may be: checks as in `checks`; those of secrets never quote the value."""

import ipaddress
import re
from email.utils import getaddresses
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, SecretStr

from daemon.settings.checks import listed

_HOST_AND_PORT = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:\[\]]*)(?::(\d{1,5}))?")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def email_address(value: object) -> str:
    """One address, with or without a name."""
    text = str(value).strip()
    found = [address for _, address in getaddresses([text])]
    if len(found) != 1 or not re.fullmatch(r"[^\s@<>,]+@[^\s@<>,]+", found[0]) or not text.isprintable():
        raise ValueError(f"must be one email address, not {text!r}")
    return text


def web_url(value: object) -> str:
    """An HTTP URL without user and password, without a slash at its end."""
    text = str(value).strip().rstrip("/")
    if not _has_host(text, ("http", "https")):
        raise ValueError("must be an http:// or https:// URL")
    if "@" in urlsplit(text).netloc:
        raise ValueError("must be a URL without user and password")
    return text


def secret_url(*schemes: str) -> BeforeValidator:
    """A URL of one of these schemes, kept secret."""

    def read(value: object) -> SecretStr:
        text = _plain(value).strip()
        if not _has_host(text, schemes):
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return SecretStr(text)

    return BeforeValidator(read)


def secret_urls(value: object) -> tuple[SecretStr, ...]:
    """Any number of Apprise URLs, kept secret."""
    urls = [_plain(item) for item in listed(value)]
    if not all("://" in url for url in urls):
        raise ValueError("must be Apprise URLs (name://...) with commas between them")
    return tuple(map(SecretStr, urls))


def database_url(value: object) -> SecretStr:
    """The URL of a PostgreSQL database on one or several hosts, kept secret."""
    text = _plain(value).strip()
    if not _has_database_hosts(text):
        raise ValueError("must be postgresql://user:password@host:port/name (several hosts: host1:port,host2:port)")
    return SecretStr(text)


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


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


Address = Annotated[str, BeforeValidator(email_address)]
WebUrl = Annotated[str, BeforeValidator(web_url)]
HttpHook = Annotated[SecretStr, secret_url("http", "https")]
SmtpUrl = Annotated[SecretStr, secret_url("smtp", "smtps")]
ImapUrl = Annotated[SecretStr, secret_url("imap", "imaps")]
SecretUrls = Annotated[tuple[SecretStr, ...], BeforeValidator(secret_urls)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(database_url)]
