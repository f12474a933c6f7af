"""JSON bodies of the sandbox's engines: read, answered, refused."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web


def read_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, an empty one counting as `{}`; None if it is none."""
    try:
        document = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def answer(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    body = orjson.dumps(document)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> web.Response:
    """A refusal."""
    body = orjson.dumps({"status": status, "title": "the sandbox says", "detail": detail, **members})
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)
