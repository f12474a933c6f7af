"""Who may ask: the bearer of the token; without one, programs of this machine, but no web page in its browser."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import web

from daemon.api.problems import Problem
from daemon.settings import Settings

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="orchestrator"'}


def authorize(request: web.Request, settings: Settings) -> None:
    """Raise unless this request may go on."""
    token = settings.api.token
    if token is None:
        _refuse_web_pages(request, settings)
    elif not _bears(request.headers.get("Authorization", ""), token.get_secret_value()):
        raise Problem(401, "this needs the header Authorization: Bearer TOKEN", headers=CHALLENGE)


def _bears(header: str, token: str) -> bool:
    scheme, _, given = header.partition(" ")
    same = hmac.compare_digest(_octets(given.strip()), _octets(token))
    return same and scheme.lower() == "bearer"


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _refuse_web_pages(request: web.Request, settings: Settings) -> None:
    """A page from elsewhere reaches loopback through the browser: by a form, or by a name that resolves to it."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    public = urlsplit(settings.public_url)
    if host is not None and _name(f"//{host}") != public.hostname and not _is_loopback(_name(f"//{host}")):
        raise Problem(403, "without a token only this machine's own names are served")
    if origin is not None and origin not in (f"http://{host}", f"{public.scheme}://{public.netloc}"):
        raise Problem(403, "without a token other sites' pages may not ask")


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
