"""The API's documentation: one page, made here from the OpenAPI document, that loads nothing and calls nobody."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from importlib import resources
from shlex import quote
from typing import TYPE_CHECKING, Any

from aiohttp import web

from daemon.api.openapi import Described, Document
from daemon.api.route import Answer, Api, Given, Nothing, Route

if TYPE_CHECKING:
    from markupsafe import Markup

METHODS = ("get", "post", "put", "patch", "delete")
_KEPT = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_EXAMPLES: Mapping[str, Any] = {
    "uuid": "00000000-0000-0000-0000-000000000000",
    "date-time": "2026-01-31T09:00:00Z",
    "date": "2026-01-31",
    "email": "ann@example.com",
    "uri": "https://example.com/",
    "integer": 1,
    "number": 1,
    "boolean": True,
    "object": {},
    "array": [],
}


class Page:
    """The page about a route table, made when somebody asks for it."""

    def __init__(self, described: Described, url: str) -> None:
        self._described, self._url = described, url.rstrip("/")

    @cached_property
    def html(self) -> str:
        """The page."""
        return page_of(self._described.document, self._url)

    @cached_property
    def policy(self) -> str:
        """What the browser lets the page do: nothing but its own style and script, known by their hashes."""
        allowed = "; ".join(f"{kind}-src '{_hash_of(text)}'" for kind, text in _KEPT.findall(self.html))
        return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


PAGE = web.AppKey("page", Page)


async def show_docs(_api: Api, given: Given[Nothing, Nothing, Nothing]) -> Answer:
    """This API as a page to read and search."""
    page = given.request.app[PAGE]
    html = await asyncio.to_thread(lambda: page.html)
    headers = {"Content-Security-Policy": page.policy, "Referrer-Policy": "no-referrer"}
    return Answer(html.encode(), media="text/html; charset=utf-8", headers=headers)


ROUTES = (Route("GET", "/api/docs", show_docs, {200: None}, media=("text/html",)),)


async def to_docs(_api: Api, _given: Given[Nothing, Nothing, Nothing]) -> Answer:
    """The way to this page for who comes without a path."""
    return Answer(b"", 303, "text/plain", {"Location": "/api/docs"})


FRONT_DOOR = Route("GET", "/", to_docs, {303: None})
"""For people, so no part of the documented API."""


def _hash_of(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def page_of(document: Document, url: str) -> str:
    """The page about a document, with examples that ask at this URL."""
    from jinja2 import Environment  # noqa: PLC0415 - 15 MB that only this page needs

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": _code, "notes": notes}
    text = resources.files("daemon.api").joinpath("docs.html").read_text(encoding="utf-8")
    schemas = document["components"]["schemas"]
    return environment.from_string(text).render(
        document=document,
        operations=[
            {**operation, "path": path, "method": method, "curl": curl(path, method, operation, schemas, url)}
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ],
    )


def _code(text: str) -> "Markup":
    """Text in which backticks mark code, as HTML."""
    from markupsafe import Markup, escape  # noqa: PLC0415 - as jinja2

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def notes(schema: Mapping[str, Any]) -> str:
    """The limits and the default of a value, in words."""
    inner: Mapping[str, Any] = next((kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}), {})
    found = {**inner, **schema}
    said = [
        f"{words} {found[key]}"
        for key, words in (("minimum", "from"), ("maximum", "to"), ("exclusiveMinimum", "above"))
        if key in found
    ]
    said += [f"{found['minLength']} characters at least"] if found.get("minLength", 0) > 1 else []
    said += [f"{found['maxLength']} characters at most"] if "maxLength" in found else []
    said += [f"{found['maxItems']} items at most"] if "maxItems" in found else []
    said += [f"default {json.dumps(found['default'])}"] if found.get("default") is not None else []
    return ", ".join(said)


# -- examples


def curl(path: str, method: str, operation: Document, schemas: Document, url: str) -> str:
    """A command that asks this."""
    asked = []
    for parameter in operation.get("parameters", ()):
        value = str(example(parameter["schema"], schemas, parameter["name"]))
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", value)
        elif parameter["required"]:
            asked.append(f"{parameter['name']}={value}")
    whole = quote(f"{url}{path}{'?' * bool(asked)}{'&'.join(asked)}")
    parts = [f"curl {whole}" if method == "get" else f"curl -X {method.upper()} {whole}"]
    parts += [] if operation.get("security") == [] else ['-H "Authorization: Bearer $TOKEN"']
    if "requestBody" in operation:
        body = example(operation["requestBody"]["content"]["application/json"]["schema"], schemas, "body")
        parts += ["-H 'Content-Type: application/json'", f"-d {quote(json.dumps(body, ensure_ascii=False))}"]
    return " \\\n  ".join(parts)


def example(schema: Mapping[str, Any], schemas: Document, name: str) -> Any:
    """A value that fits a schema: its own example, or what it requires."""
    if "$ref" in schema:
        return example(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    given = [*schema.get("examples", ()), *(schema[key] for key in ("const", "default") if schema.get(key) is not None)]
    if given or "enum" in schema:
        return given[0] if given else schema["enum"][0]
    if "anyOf" in schema or "oneOf" in schema:
        return example((schema.get("anyOf") or schema["oneOf"])[0], schemas, name)
    if schema.get("properties"):
        return _object(schema, schemas)
    if schema.get("type") == "array" and schema.get("minItems"):
        return [example(schema.get("items", {}), schemas, name)] * schema["minItems"]
    return schema.get("minimum") or _EXAMPLES.get(schema.get("format") or schema.get("type", ""), name)


def _object(schema: Mapping[str, Any], schemas: Document) -> Document:
    wanted = schema.get("required") or list(schema["properties"])[:1]
    return {name: example(schema["properties"][name], schemas, name) for name in wanted}
