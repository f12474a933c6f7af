"""Reads a request into models, or says everything that is wrong with it."""

import asyncio
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, NoReturn, TypeVar

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import MultiMapping
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.route import Bounds, Given, Input, Nothing, Route
from daemon.settings.engines import nearest

DEEPEST = 64
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
Loc = tuple[str | int, ...]
M = TypeVar("M", bound=Input)


async def read(request: web.Request, route: Route, bounds: Bounds) -> Given[Any, Any, Any]:
    """Path, query and body of a request to this route; a body that GET may carry is left alone."""
    flaws: list[Flaw] = []
    path = _from_texts(route.params, request.match_info, ("path",), flaws)
    query = _from_texts(route.query, _single(request.query, flaws), ("query",), flaws)
    raw = b"" if route.method == "GET" else await _read_raw(request, bounds)
    left = route.signed or route.unread
    body = _from_json(Nothing if left else route.body, b"" if left else raw, flaws)
    if flaws:
        raise unfit(flaws)
    return Given(path, query, body, raw, request)


def parse(model: type[M], raw: bytes) -> M:
    """A body that was left alone until its signature was checked."""
    flaws: list[Flaw] = []
    body = _from_json(model, raw, flaws)
    if body is None:
        raise unfit(flaws)
    return body


# -- path and query


def _single(query: MultiMapping[str], flaws: list[Flaw]) -> Mapping[str, str]:
    repeated = sorted({name for name in query if len(query.getall(name)) > 1})
    flaws += [Flaw(("query", name), "is given more than once") for name in repeated]
    return dict(query)


def _from_texts(model: type[Input], texts: Mapping[str, str], place: Loc, flaws: list[Flaw]) -> Input | None:
    """The model from texts; an empty one counts as not given."""
    declared = _declared(model)
    given = {name: text for name, text in texts.items() if text or name not in declared}
    found = list(_unstorable(given, place))
    if found:
        flaws += found
        return None
    try:
        return model.model_validate_strings(given)
    except ValidationError as invalid:
        flaws += _flaws_of(invalid, place, declared)
        return None


# -- body


async def _read_raw(request: web.Request, bounds: Bounds) -> bytes:
    too_large = Problem(413, f"a body may have {bounds.body_bytes} bytes at most", close=True)
    if (request.content_length or 0) > bounds.body_bytes:
        raise too_large
    try:
        async with asyncio.timeout(bounds.body_s):
            await _ask_for_it(request)
            return await request.read()
    except TimeoutError:
        raise Problem(408, "the body took too long to arrive", close=True) from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise Problem(400, "the body can't be read as its headers describe it", close=True) from None


async def _ask_for_it(request: web.Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer hasn't begun


def _from_json(model: type[M], raw: bytes, flaws: list[Flaw]) -> M | None:
    """The model from JSON, its types taken strictly; a missing body is {}."""
    text = raw if raw.strip() else b"{}"
    found = list(_unstorable(_parse(text), ()))
    if found:
        flaws += found
        return None
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as invalid:
        flaws += _flaws_of(invalid, (), _declared(model))
        return None


def _parse(text: bytes) -> object:
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise unfit([Flaw((), "the body is not UTF-8")], 400) from None
    except RecursionError:
        raise unfit([Flaw((), "the body is nested too deeply")], 400) from None
    except ValueError as error:
        raise unfit([Flaw((), f"the body is not JSON: {error}")], 400) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _unstorable(value: object, place: Loc) -> Iterator[Flaw]:
    """Every value that JSON can spell and the database can't keep."""
    left: list[tuple[Loc, object]] = [(place, value)]
    while left:
        loc, item = left.pop()
        if len(loc) > DEEPEST:
            yield Flaw(loc, "is nested too deeply")
            continue
        if isinstance(item, dict):
            left += [((*loc, key), part) for key, part in item.items()]
            yield from (Flaw((*loc, key), f"as a name {said}") for key in item if (said := _fault(key)))
        elif isinstance(item, list):
            left += [((*loc, number), part) for number, part in enumerate(item)]
        elif said := _fault(item):
            yield Flaw(loc, said)


def _fault(item: object) -> str | None:
    if isinstance(item, str) and _UNSTORABLE.search(item):
        return "has a character that can't be stored"
    if isinstance(item, int) and not -(2**63) <= item < 2**63:
        return "must fit into 64 bits"
    if isinstance(item, float) and not isfinite(item):
        return "must be a finite number"
    return None


# -- what pydantic says


def _declared(model: type[Input]) -> frozenset[str]:
    return frozenset(info.alias or name for name, info in model.model_fields.items())


def _flaws_of(invalid: ValidationError, place: Loc, declared: Collection[str]) -> Iterable[Flaw]:
    for error in invalid.errors(include_url=False, include_context=False):
        yield Flaw((*place, *error["loc"]), _worded(error, declared))


def _worded(error: ErrorDetails, declared: Collection[str]) -> str:
    match error["type"], error["loc"]:
        case "uuid_parsing" | "uuid_type", _:
            return f"{repr(error['input'])[:80]} is no id"
        case "extra_forbidden", (str(name),) if declared:
            return f"unknown field {name[:80]}; nearest: {nearest(name[:80], declared)}"
        case "extra_forbidden", (*_, name):
            return f"unknown field {str(name)[:80]}"
        case _:
            return error["msg"].removeprefix("Value error, ")
