"""Text out of bytes and encoded headers, however wrongly they are labelled."""

import re
from email.errors import HeaderParseError
from email.header import decode_header


def decoded(value: str) -> str:
    """A header's value as people read it."""
    flat = re.sub(r"\s*\n\s*", " ", value[:4000])
    try:
        parts = decode_header(flat)
        text = "".join(p if isinstance(p, str) else in_charset(p, c or "ascii") for p, c in parts)
    except (HeaderParseError, ValueError, LookupError):
        text = flat
    return storable(text).strip()


def in_charset(content: bytes, charset: str) -> str:
    """Bytes as text; by UTF-8 if the charset is unknown or wrong."""
    try:
        return content.decode(charset)
    except (LookupError, ValueError):
        return content.decode("utf-8", "replace")


def storable(text: str) -> str:
    """Without what Postgres refuses: NUL and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
