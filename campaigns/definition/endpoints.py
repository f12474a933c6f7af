"""Where a step's call may go: below its engine's URL, or at least to its origin."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from yarl import URL

from daemon.settings import ENGINE_URLS, EngineSettings

_LONGEST = 2000
_UNCLEAR = re.compile(r"[\s\\#\x00-\x1f\x7f]")
"""What one reader of URLs skips and another obeys."""


def placed(endpoint: str, engine: EngineSettings) -> str:
    """The operation of that engine (a path below its URL), or else the URL at its origin; ValueError for any other.

    A URL at the engine's *default* place means the same operation where the engine really is, so that a shipped
    document needs no change when the engine moves.
    """
    if (operation := _as_operation(endpoint)) is not None:
        return operation
    url = _as_url(endpoint)
    for own in _own(engine):
        if _origin(url) == _origin(own):
            return _below(url, own)
    where = engine.url or ("a command" if engine.command else "nowhere yet")
    raise ValueError(f"is not at the origin of engine {engine.name}, which is {where}")


def require_known(endpoint: str, engines: Iterable[EngineSettings]) -> None:
    """Raise ValueError for what is no operation, nor a URL at the origin of some engine."""
    if _as_operation(endpoint) is None:
        origin = _origin(_as_url(endpoint))
        if all(origin != _origin(own) for engine in engines for own in _own(engine)):
            raise ValueError("is not at the origin of a configured engine")


def _own(engine: EngineSettings) -> list[URL]:
    return [URL(own) for own in (engine.url, ENGINE_URLS.get(engine.name)) if own]


def _as_operation(endpoint: str) -> str | None:
    """The endpoint if it is a path, without any way upwards."""
    if len(endpoint) > _LONGEST or _UNCLEAR.search(endpoint) or not endpoint.isprintable():
        raise ValueError("must be a path or URL without spaces, backslashes and fragment")
    if endpoint.startswith("//"):
        raise ValueError("must say http: or https: before //, or begin with a single slash")
    return _one_slash(URL(f"http://engine{endpoint}").raw_path_qs) if endpoint.startswith("/") else None


def _as_url(endpoint: str) -> URL:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a path that begins with a slash, or an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("must be a URL without user and password")
    return URL(endpoint)


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port; a port that goes without saying is the same said (to yarl it isn't)."""
    return url.scheme, url.raw_host, url.port


def _below(url: URL, own: URL) -> str:
    base = own.raw_path.rstrip("/")
    if url.raw_path == base or url.raw_path.startswith(f"{base}/"):
        return _one_slash(url.raw_path_qs[len(base) :])
    return str(url)


def _one_slash(path: str) -> str:
    return "/" + path.lstrip("/")
