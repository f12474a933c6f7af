"""JSON as engines get it and as they may give it."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

_DEPTH_WORTH_CHECKING = 200
_ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, fit for a jsonb column (no NUL, bounded depth), or None if it is none."""
    try:
        value = orjson.loads(_ESCAPED_NUL.sub(rb"\1\\ufffd", body))
        if body.count(b"{") + body.count(b"[") > _DEPTH_WORTH_CHECKING:
            orjson.dumps([[value]])  # loads allows four times the depth that dumps does
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return value if isinstance(value, dict) else None


def as_json(value: Any) -> bytes:
    """The value as JSON; raises orjson.JSONEncodeError for one that can't be."""
    return orjson.dumps(value, default=_plain)


def as_query(body: Mapping[str, Any]) -> dict[str, str]:
    """The members of an object as a query's parameters: text as it is, everything else as JSON."""
    return {name: value if isinstance(value, str) else as_json(value).decode() for name, value in body.items()}


def _plain(value: object) -> Any:
    """Numbers of the database keep every digit; other mappings are objects; asyncpg has a UUID of its own."""
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError
