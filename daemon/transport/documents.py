"""JSON as engines get it and as they may give it."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

import orjson

_DEPTH_WORTH_CHECKING = 200
_ESCAPED_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_NOT_STRICT = (orjson.JSONDecodeError, orjson.JSONEncodeError)


def read_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, fit for a jsonb column (no NUL, bounded depth), or None if it is none.

    What many programs write for JSON is mended: NaN and infinities are null, half a surrogate pair is U+FFFD.
    """
    try:
        value = _read(body)
    except _NOT_STRICT:
        value = _read_mended(body)
    return value if isinstance(value, dict) else None


def as_json(value: Any) -> bytes:
    """The value as JSON; raises orjson.JSONEncodeError for one that can't be."""
    return orjson.dumps(value, default=_plain)


def as_query(body: Mapping[str, Any]) -> dict[str, str]:
    """The members of an object as a query's parameters: text as it is, everything else as JSON."""
    return {name: value if isinstance(value, str) else as_json(value).decode() for name, value in body.items()}


def _read(body: bytes) -> Any:
    value = orjson.loads(_ESCAPED_NUL.sub(rb"\1\\ufffd", body))
    if body.count(b"{") + body.count(b"[") > _DEPTH_WORTH_CHECKING:
        orjson.dumps([[value]])  # loads allows four times the depth that dumps does
    return value


def _read_mended(body: bytes) -> Any:
    try:
        text = body.decode("utf-8", "surrogatepass")
        value = json.loads(text, parse_constant=_null, parse_float=_finite)
        return _read(_HALF_A_PAIR.sub("\ufffd", json.dumps(value, ensure_ascii=False)).encode())
    except (*_NOT_STRICT, ValueError, RecursionError):
        return None


def _null(_: str) -> None:
    """What NaN and the infinities are."""


def _finite(number: str) -> float | None:
    return value if isfinite(value := float(number)) else None


def _plain(value: object) -> Any:
    """Numbers of the database keep every digit; other mappings are objects; asyncpg has a UUID of its own."""
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(str(value))
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError
