"""The OpenAPI 3.1 document, made of the route table and of the models that its routes read and answer."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel, JsonValue
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, models_json_schema

from daemon import __version__
from daemon.api import problems
from daemon.api.route import Answer, Api, Given, Nothing, Route

Document = dict[str, Any]
Key = tuple[type[BaseModel], JsonSchemaMode]
Wholes = Mapping[type[BaseModel], Callable[[], Document]]
"""The JSON Schemas of bodies of which their model tells less than is checked."""

ABOUT = """\
Send `Authorization: Bearer TOKEN` with everything but the routes that are open. Without a token set, the API serves
this machine only and asks for none.

What goes wrong is an `application/problem+json` document (RFC 9457); for bad input its `errors` name each place and
reason. A missing body is `{}`, an empty parameter is one not given; unknown ones are refused, as are unknown keys.
Bodies have 1 MiB at most.

Lists take `limit` and `cursor`; `nextCursor` is the cursor of the next page, null on the last one. Money is a number.
HEAD is possible wherever GET is; any other method of a known path answers 405 and names those that are possible."""

WHY = {
    400: "The request can't be read.",
    401: "The token is missing or wrong.",
    402: "There is no money left for it.",
    403: "Without a token set: this was asked from elsewhere. Else: the signature is wrong.",
    404: "There is no such thing.",
    408: "The body took too long to arrive.",
    409: "Its present state doesn't allow this.",
    413: "The body is too large.",
    422: "The input is not valid; `errors` says where and why.",
    500: "Something unforeseen happened; the log says more.",
    503: "The database can't be reached, or is busy; try again.",
}
HEADERS = {401: "WWW-Authenticate", 503: "Retry-After"}
ANY, WITH_BODY, GUARDED = (400, 422, 500, 503), (408, 413), (401, 403)
"""What any route may answer; what those may that read a body; what those may that need the token."""


class OpenApi(BaseModel):
    """An OpenAPI 3.1 document."""

    openapi: str
    info: dict[str, JsonValue]
    servers: list[JsonValue]
    security: list[JsonValue]
    tags: list[JsonValue]
    paths: dict[str, JsonValue]
    components: dict[str, JsonValue]


class Described:
    """A route table, and its document as soon as somebody asks for it."""

    def __init__(self, routes: Sequence[Route], wholes: Wholes) -> None:
        self._routes, self._wholes = routes, wholes

    @cached_property
    def document(self) -> Document:
        """The OpenAPI document."""
        return document_of(self._routes, self._wholes)


DESCRIBED = web.AppKey("described", Described)


async def show_openapi(_api: Api, given: Given[Nothing, Nothing, Nothing]) -> Answer:
    """This API as an OpenAPI 3.1 document."""
    return Answer(given.request.app[DESCRIBED].document)


ROUTES = (Route("GET", "/api/openapi.json", show_openapi, {200: OpenApi}),)


# -- the document


def document_of(routes: Sequence[Route], wholes: Wholes) -> Document:
    """The OpenAPI document of these routes."""
    schemas = _Schemas(routes, wholes)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pipeline orchestrator", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": _tags(routes),
        "paths": _paths(routes, schemas),
        "components": {
            "schemas": schemas.components,
            "responses": {f"Problem{status}": _problem(status, schemas) for status in sorted(_statuses(routes))},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def tag_of(route: Route) -> str:
    """The resource that a route belongs to."""
    first, *rest = route.path.strip("/").split("/")
    return rest[0].partition(".")[0] if first == "api" and rest else route.handler.__module__.rpartition(".")[2]


def _tags(routes: Sequence[Route]) -> list[Document]:
    modules = {tag_of(route): route.handler.__module__ for route in reversed(routes)}
    own = {tag: f"{module.rpartition('.')[0]}.{tag}" for tag, module in modules.items()}
    return [
        {"name": tag, "description": _lines(sys.modules.get(own[tag], sys.modules[modules[tag]]))[0]}
        for tag in dict.fromkeys(map(tag_of, routes))
    ]


def _lines(described: object) -> tuple[str, str]:
    """The first line of a docstring, and the rest."""
    first, _, rest = (inspect.getdoc(described) or "").partition("\n")
    return first.removesuffix("."), rest.strip()


def _paths(routes: Sequence[Route], schemas: "_Schemas") -> Document:
    names = Counter(_name(route) for route in routes)
    paths: Document = {}
    for route in routes:
        name = _name(route) if names[_name(route)] == 1 else f"{_name(route)}_{route.method.lower()}_{_slug(route)}"
        paths.setdefault(route.path, {})[route.method.lower()] = {"operationId": name, **_operation(route, schemas)}
    return paths


def _name(route: Route) -> str:
    return str(getattr(route.handler, "__name__", type(route.handler).__name__))


def _slug(route: Route) -> str:
    return "_".join(part.strip("{}") for part in route.path.strip("/").split("/"))


def _operation(route: Route, schemas: "_Schemas") -> Document:
    summary, more = _lines(route.handler)
    asked = "" if route.query is Nothing else inspect.getdoc(route.query) or ""
    description = "\n\n".join(filter(None, (more, asked)))
    parameters = [*schemas.parameters(route.params, "path"), *schemas.parameters(route.query, "query")]
    return {
        "tags": [tag_of(route)],
        "summary": summary,
        **({"description": description} if description else {}),
        **({"security": []} if route.open else {}),
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": schemas.body(route)} if route.body is not Nothing else {}),
        "responses": {
            **{str(status): _answer(status, model, route, schemas) for status, model in route.answers.items()},
            **{str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in problems_of(route)},
        },
    }


def _answer(status: int, model: type[BaseModel] | None, route: Route, schemas: "_Schemas") -> Document:
    content: Document = {media: {"schema": {"type": "string"}} for media in route.media}
    if model is not None:
        content = {"application/json": {"schema": schemas.refs[model, "serialization"]}, **content}
    said = _lines(model)[0] if model else HTTPStatus(status).phrase
    return {"description": f"{said}.", **({"content": content} if content else {})}


# -- problems


def problems_of(route: Route) -> list[int]:
    """Every status of a problem that a route may answer."""
    reads_body, guarded = route.method != "GET", not route.open
    return sorted({*ANY, *(WITH_BODY if reads_body else ()), *(GUARDED if guarded else ()), *route.problems})


def _statuses(routes: Sequence[Route]) -> set[int]:
    return {status for route in routes for status in problems_of(route)}


def _problem(status: int, schemas: "_Schemas") -> Document:
    schema = schemas.refs[problems.ProblemDocument, "serialization"]
    found = {HEADERS[status]: {"required": True, "schema": {"type": "string"}}} if status in HEADERS else {}
    return {
        "description": WHY.get(status, f"{HTTPStatus(status).phrase}."),
        **({"headers": found} if found else {}),
        "content": {problems.MEDIA: {"schema": schema}},
    }


# -- schemas


class _Generator(GenerateJsonSchema):
    """No titles made of names; an answer has all its fields, whether or not they have a default."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)


class _Schemas:
    """The schemas of all models of a route table; `refs` says how each is referred to."""

    def __init__(self, routes: Sequence[Route], wholes: Wholes) -> None:
        self.refs, defined = models_json_schema(
            list(dict.fromkeys(_models(routes))),
            ref_template="#/components/schemas/{model}",
            schema_generator=_Generator,
        )
        self._all: Document = defined["$defs"]
        for model, whole in wholes.items():
            self._all |= _spread(self._called(model), self._all[self._called(model)], whole())
        bodies = {route.body for route in routes}
        spread = {model for route in routes for model in (route.params, route.query)} - bodies | {Nothing}
        hidden = {self._called(model) for model in spread}
        self.components = {name: schema for name, schema in self._all.items() if name not in hidden}

    def _called(self, model: type[BaseModel]) -> str:
        return _last(self.refs[model, "validation"]["$ref"])

    def parameters(self, model: type[BaseModel], place: str) -> Iterator[Document]:
        """The fields of a model that is spread over path or query."""
        schema = self._all[self._called(model)]
        for name, field in schema.get("properties", {}).items():
            said = {"description": field["description"]} if "description" in field else {}
            required = name in schema.get("required", ())
            empty = {"allowEmptyValue": True} if place == "query" and not required else {}
            yield {"name": name, "in": place, "required": required, **empty, **said, "schema": _in_a_url(field)}

    def body(self, route: Route) -> Document:
        """The body; it may be missing if `{}` will do."""
        schema = self._all[self._called(route.body)]
        content = {media: {"schema": self.refs[route.body, "validation"]} for media in route.takes}
        return {"required": bool(schema.get("required")), "content": content}


def _spread(name: str, told: Document, whole: Document) -> Document:
    """A JSON Schema and its definitions as components; the words and examples of what was told before stay."""
    places = {part: f"{name.removesuffix('Document')}{part}" for part in whole.get("$defs", {})}
    parts = {places[part]: _moved(schema, places) for part, schema in whole.get("$defs", {}).items()}
    root = _moved({key: value for key, value in whole.items() if key not in ("$schema", "$defs")}, places)
    return {name: {**root, **{key: told[key] for key in ("description", "examples") if key in told}}, **parts}


def _moved(node: Any, places: Mapping[str, str]) -> Any:
    """A part of a schema that refers to components, without titles made of names."""
    if isinstance(node, list):
        return [_moved(part, places) for part in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _moved(part, places) for key, part in node.items() if key != "title" or isinstance(part, dict)}
    if isinstance(node.get("$ref"), str):  # else it is a field of that name
        kept["$ref"] = f"#/components/schemas/{places[_last(node['$ref'])]}"
    return kept


def _last(reference: str) -> str:
    return reference.rpartition("/")[2]


def _models(routes: Sequence[Route]) -> Iterator[Key]:
    yield problems.ProblemDocument, "serialization"
    yield Nothing, "validation"
    for route in routes:
        yield from ((model, "validation") for model in (route.params, route.query, route.body))
        yield from ((model, "serialization") for model in route.answers.values() if model)


def _in_a_url(field: Mapping[str, Any]) -> Document:
    """The schema of a parameter, which may be missing but is never null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {key: value for key, value in field.items() if key not in ("anyOf", "description") and value is not None}
    if len(kinds) == 1:
        return {**kinds[0], **rest}
    return {"anyOf": kinds, **rest} if kinds else rest
