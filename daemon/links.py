"""Signed links: they let somebody without an account see one thing and decide about it. Pure; times in s since 1970.

A token is `EXPIRES.SIGNATURE`, the latter an HMAC-SHA256 over what the link is for, the thing's id and the expiry, so
that no link opens another thing, or the same one for something else.
"""

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256

LASTS_S = 60 * 86_400
"""A link is good for so long; a request may wait for weeks."""
_LONGEST = 200


def token_of(key: str, purpose: str, thing: object, expires_at: int) -> str:
    """The token of a link to this thing."""
    content = f"{purpose}\n{thing}\n{expires_at}".encode()
    signature = urlsafe_b64encode(hmac.digest(key.encode(), content, sha256)).rstrip(b"=").decode()
    return f"{expires_at}.{signature}"


def link_to(base: str, purpose: str, thing: object, key: str, now: float) -> str:
    """The link at which a person finds this thing."""
    return f"{base.rstrip('/')}/{purpose}/{thing}?token={token_of(key, purpose, thing, int(now) + LASTS_S)}"


def fault_of(key: str, purpose: str, thing: object, token: str, now: float) -> str | None:
    """Why the token does not open this thing, or None if it does."""
    expires, _, _ = token.partition(".")
    if len(token) > _LONGEST or not (expires.isascii() and expires.isdigit()):
        return "the link is not whole"
    expected = token_of(key, purpose, thing, int(expires))
    if not hmac.compare_digest(expected.encode(), token.encode("utf-8", "surrogateescape")):
        return "the link is not valid: it was changed, or signed with another key"
    return "the link has expired" if now >= int(expires) else None
