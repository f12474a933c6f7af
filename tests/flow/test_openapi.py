"""The OpenAPI document is valid and whole, what it says is what the API answers, and the page about it is safe."""

import json
import re
import warnings
from base64 import b64encode
from collections.abc import AsyncIterator
from copy import deepcopy
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import aiohttp
import jsonschema_rs
import pytest

from daemon.api.application import ROUTES
from daemon.api.campaigns import CampaignDocument
from daemon.api.docs import example, notes, page_of
from daemon.api.openapi import Document, document_of, problems_of
from daemon.api.route import Nothing, Route
from daemon.app import campaign_schema
from tests.support.api import TOKEN, Client, Reply, serving
from tests.support.populated import path_to, populate, values
from tests.support.postgres import Server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    import openapi_spec_validator

DOCUMENT = document_of(ROUTES, {CampaignDocument: campaign_schema})
SCHEMAS = DOCUMENT["components"]["schemas"]
NOBODY = "00000000-0000-0000-0000-000000000000"
VOID = {"meta", "input", "br", "link"}


def name(route: Route) -> str:
    """How pytest shows a route."""
    return f"{route.method} {route.path}"


def operation_of(route: Route) -> Document:
    """What the document says about a route."""
    found: Document = DOCUMENT["paths"][route.path][route.method.lower()]
    return found


def body_of(route: Route) -> Any:
    """The body in the route's example."""
    if route.body is Nothing:
        return None
    return example(operation_of(route)["requestBody"]["content"]["application/json"]["schema"], SCHEMAS, "body")


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon with something of everything; it calls nobody."""
    dsn = await server.clone()
    async with serving(dsn, DRY_RUN="true") as client:
        await populate(client)
        yield client
    await server.drop(dsn)


# -- the document


def test_the_document_is_valid() -> None:
    openapi_spec_validator.validate(DOCUMENT)


async def test_it_is_served_as_it_is_made(api: Client) -> None:
    assert await api.get("/api/openapi.json") == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1")


def test_every_route_is_in_it_and_nothing_else() -> None:
    told = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]
    assert sorted(told) == sorted((route.path, route.method.lower()) for route in ROUTES)


def test_every_operation_has_its_own_name_a_summary_and_a_known_tag() -> None:
    operations = [operation_of(route) for route in ROUTES]
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)
    assert all(operation["summary"] for operation in operations)
    assert {operation["tags"][0] for operation in operations} == {tag["name"] for tag in DOCUMENT["tags"]}
    assert all(tag["description"] for tag in DOCUMENT["tags"])


@pytest.mark.parametrize("route", ROUTES, ids=name)
def test_an_operation_tells_all_that_its_route_reads_and_answers(route: Route) -> None:
    operation = operation_of(route)
    told = {(given["in"], given["name"]) for given in operation.get("parameters", ())}
    wanted = {("path", field) for field in re.findall(r"{(\w+)}", route.path)}
    wanted |= {("query", info.alias or field) for field, info in route.query.model_fields.items()}
    assert told == wanted
    assert ("requestBody" in operation) == (route.body is not Nothing)
    assert operation["responses"].keys() == {str(status) for status in (*route.answers, *problems_of(route))}
    assert (operation.get("security") == []) == route.open


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body is not Nothing], ids=name)
def test_the_example_of_a_body_is_accepted(route: Route) -> None:
    """Where a schema can't say what fits, its field or model has `examples`."""
    route.body.model_validate_json(json.dumps(body_of(route)), strict=True)


def test_nothing_is_kept_that_nobody_refers_to() -> None:
    named = set(re.findall(r'"#/components/(?:schemas|responses)/([^"]+)"', json.dumps(DOCUMENT)))
    assert named == {*SCHEMAS, *DOCUMENT["components"]["responses"]}


def untitled(node: dict[str, Any]) -> dict[str, Any]:
    """An object of a schema without the title that was made of its name."""
    return {key: value for key, value in node.items() if key != "title" or isinstance(value, dict)}


def test_a_campaign_is_described_whole() -> None:
    text = json.dumps(campaign_schema()).replace('"#/$defs/', '"#/components/schemas/Campaign')
    whole = json.loads(text, object_hook=untitled)
    parts = whole.pop("$defs")
    assert {part: SCHEMAS[f"Campaign{part}"] for part in parts} == parts
    told, wanted = dict(SCHEMAS["CampaignDocument"]), whole
    words = [told.pop("description"), told.pop("examples"), wanted.pop("description"), wanted.pop("$schema")]
    assert all(words)
    assert told == wanted


@pytest.mark.parametrize("schedule", ["0 9 * * MON", {"cron": "0 9 * * MON", "timezone": "Europe/Berlin"}, None])
def test_a_schedule_is_described_in_each_of_its_forms(schedule: Any) -> None:
    named = {"name": "Weekly", "steps": [{"engine": "prospecting"}]}
    check({"$ref": "#/components/schemas/CampaignDocument"}, {**named, "schedule": schedule})
    for wrong in ({"timezone": "Europe/Berlin"}, {"cron": 5}, 5, {"cron": "0 9 * * MON", "more": 1}):
        with pytest.raises(jsonschema_rs.ValidationError):
            check({"$ref": "#/components/schemas/CampaignDocument"}, {**named, "schedule": wrong})


def test_a_decision_is_a_form_or_json() -> None:
    body = DOCUMENT["paths"]["/approve/{id}"]["post"]["requestBody"]
    assert body["content"].keys() == {"application/x-www-form-urlencoded", "application/json"}
    assert SCHEMAS["Form"]["properties"].keys() == {"decision", "by", "comment", "code"}
    assert SCHEMAS["Form"]["required"] == ["decision", "by"]


# -- what it says is what is answered


def strict(node: Any) -> Any:
    """A schema that allows no field of which it doesn't tell."""
    if isinstance(node, list):
        return [strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    closed = {key: strict(part) for key, part in node.items()}
    return {"additionalProperties": False, **closed} if isinstance(node.get("properties"), dict) else closed


def check(schema: Document, value: Any) -> None:
    """Raise unless the value is what the schema says, and nothing besides."""
    whole = {**strict(deepcopy(schema)), "components": {"schemas": strict(SCHEMAS)}}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(value)


def check_reply(route: Route, reply: Reply) -> None:
    """Raise unless the document foresees this reply."""
    told = operation_of(route)["responses"].get(str(reply.status))
    assert told is not None, f"{reply.status} is not documented: {reply.raw!r}"
    if "$ref" in told:
        told = DOCUMENT["components"]["responses"][told["$ref"].rpartition("/")[2]]
        assert told.get("headers", {}).keys() <= reply.headers.keys()
    media = reply.headers.get("Content-Type", "").partition(";")[0]
    assert media in told.get("content", {"": None}), f"{media} is not documented"
    if media.endswith("json"):
        check(told["content"][media]["schema"], reply.json)


async def ask(api: Client, route: Route, path: str, body: Any = None) -> Reply:
    """Ask a route; of a stream, only how it begins."""
    if route.timeout_s is not None:
        return await api.ask(route.method, path, json=body)
    url, headers = f"http://127.0.0.1:{api.port}{path}", {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as alone, alone.request(route.method, url, headers=headers) as response:
        return Reply(response.status, dict(response.headers), b"")


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "GET"], ids=name)
async def test_what_is_there_is_shown_as_documented(api: Client, route: Route) -> None:
    """Mutant: any field more, or less, in any model of an answer."""
    path, there = await path_to(api.conn, route, DOCUMENT)
    reply = await ask(api, route, path)
    check_reply(route, reply)
    assert reply.status == 200 or not there, reply.raw


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method != "GET"], ids=name)
async def test_the_example_of_a_change_is_answered_as_documented(api: Client, route: Route) -> None:
    path, _ = await path_to(api.conn, route, DOCUMENT)
    _, other, *_ = [*map(str, await values(api.conn, route, "id")), NOBODY, NOBODY]
    body = json.loads(json.dumps(body_of(route)).replace(NOBODY, other))
    reply = await ask(api, route, path, body)
    check_reply(route, reply)
    assert reply.status not in (400, 422), reply.raw


@pytest.mark.parametrize("route", ROUTES, ids=name)
async def test_refusals_are_as_documented(api: Client, route: Route) -> None:
    path, _ = await path_to(api.conn, route, DOCUMENT)
    check_reply(route, await api.ask(route.method, path, params={"no such": "1"}))
    if not route.open:
        check_reply(route, await api.ask(route.method, path, token=None))
    if route.method != "GET":
        check_reply(route, await api.ask(route.method, path, data=b"{"))
        check_reply(route, await api.ask(route.method, path, data=b" " * (1024 * 1024 + 1)))


def test_the_check_itself_notices_what_is_wrong() -> None:
    """A test that can't fail proves nothing."""
    schema = {"$ref": "#/components/schemas/FlawDocument"}
    check(schema, {"loc": ["a", 1], "msg": "m"})
    for wrong in ({"loc": ["a"]}, {"loc": ["a"], "msg": "m", "more": 1}, {"loc": [None], "msg": "m"}):
        with pytest.raises(jsonschema_rs.ValidationError):
            check(schema, wrong)


# -- the page


class Page(HTMLParser):
    """What a page is made of; raises if its elements aren't nested properly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.add(tag)
        self.attributes |= {key for key, _ in attrs}
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.links += [value or "" for key, value in attrs if key == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It ends what began last."""
        assert self.open.pop() == tag, self.getpos()


async def test_the_page_shows_every_route(api: Client) -> None:
    reply = await api.ask("GET", "/api/docs")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    html = reply.raw.decode()
    page = Page(html)
    assert all(operation_of(route)["operationId"] in page.ids for route in ROUTES)
    assert all(f"</span> {route.path}</code>" in html for route in ROUTES)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


async def test_the_page_loads_nothing_and_its_policy_allows_no_more(api: Client) -> None:
    """Mutant: one character more in a style or a script than was hashed."""
    reply = await api.ask("GET", "/api/docs")
    html, policy = reply.raw.decode(), reply.headers["Content-Security-Policy"]
    page = Page(html)
    assert not page.tags & {"link", "img", "iframe", "object", "base"}
    assert not {key for key in page.attributes if key in ("src", "style", "srcset") or key.startswith("on")}
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        assert f"{kind}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy


def test_texts_stay_texts() -> None:
    document = deepcopy(DOCUMENT)
    document["paths"]["/healthz"]["get"]["summary"] = "<script>alert(1)</script> & `code <i>`"
    html = page_of(document, "http://h")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; <code>code &lt;i&gt;</code>" in html


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 200, "default": 50}, "from 1, to 200, default 50"),
        ({"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}], "default": None}, "9 characters at most"),
        ({"type": "string", "minLength": 1}, ""),
        ({"type": "string", "minLength": 2}, "2 characters at least"),
        ({"type": "boolean", "default": False}, "default false"),
        ({"type": "array", "maxItems": 3}, "3 items at most"),
    ],
)
def test_limits_are_told_in_words(schema: Document, words: str) -> None:
    assert notes(schema) == words


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "examples": ["AI_CONVERSATION"]}, "AI_CONVERSATION"),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": False}, False),
        ({"type": "integer", "minimum": 7}, 7),
        ({"type": "boolean"}, True),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, 1),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, [1]),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "string"}, "given"),
    ],
)
def test_an_example_fits_its_schema(schema: Document, value: Any) -> None:
    assert example(schema, {}, "given") == value
    jsonschema_rs.Draft202012Validator(schema).validate(value)
