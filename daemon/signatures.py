"""Standard Webhooks: signs a message, and tells whether one is signed. Pure; times are seconds since 1970.

The signature is an HMAC-SHA256 over `id.timestamp.body`, in Base64 after `v1,`; a header may list several, so that
secrets can be changed. A timestamp far from now is refused, or an old message could be played again.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

TOLERANCE_S = 300
PREFIX, VERSION = "whsec_", "v1"


@dataclass(frozen=True, slots=True)
class Signed:
    """The headers `webhook-id`, `webhook-timestamp` and `webhook-signature`."""

    id: str
    timestamp: str
    signature: str


def key_of(secret: str) -> bytes:
    """The key in a secret: Base64 after `whsec_`, else its own bytes. ValueError if it is neither."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError(f"must be {PREFIX} and then Base64, or any other text")
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of one message."""
    content = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return f"{VERSION},{base64.b64encode(hmac.digest(key_of(secret), content, hashlib.sha256)).decode()}"


def fault_of(secret: str, signed: Signed, body: bytes, now: float) -> str | None:
    """Why this message is not to be trusted, or None if it is."""
    if not (signed.id and signed.timestamp and signed.signature):
        return "webhook-id, webhook-timestamp and webhook-signature are needed"
    if not (signed.timestamp.isascii() and signed.timestamp.isdigit() and len(signed.timestamp) <= 12):
        return "webhook-timestamp is no number of seconds"
    if abs(now - int(signed.timestamp)) > TOLERANCE_S:
        return "webhook-timestamp is too far from now"
    expected = sign(secret, signed.id, int(signed.timestamp), body).encode()
    given = signed.signature.encode("utf-8", "surrogateescape").split()
    matches = [hmac.compare_digest(one, expected) for one in given]
    return None if any(matches) else "no webhook-signature matches"
