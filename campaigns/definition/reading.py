"""JSON as its writer gave it, and what in it can't be kept: repeated names, endless nesting, numbers that are none."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from math import inf, isfinite
from typing import Any, NoReturn

import orjson

from campaigns.definition.flaws import Flaw, Invalid, Loc

MOST_BYTES = 2**20
DEEPEST = 50
_LONGEST_INTEGER = 400
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_SIZE = f"is larger than {MOST_BYTES} bytes"
_DEPTH = f"is nested deeper than {DEEPEST} levels"


class Repeating(dict[str, Any]):
    """An object that gave some names more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        times = Counter(name for name, _ in pairs)
        self.repeated = [name for name, n in times.items() if n > 1]


def parse(text: bytes | str) -> object:
    """The value of a JSON text, or Invalid with its one error."""
    if len(text) > MOST_BYTES:
        raise Invalid([Flaw((), _SIZE)])
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8-sig")
        return json.loads(plain, object_pairs_hook=_object, parse_int=_integer, parse_constant=_refuse)
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    except RecursionError:
        problem = _DEPTH
    except ValueError as error:
        problem = f"is not JSON: {error}"
    raise Invalid([Flaw((), problem)])


def unfit(document: object) -> list[Flaw]:
    """Everything in a value that no document may hold, whatever it means there."""
    flaws = list(_unfit(document))
    if not flaws and len(orjson.dumps(document)) > MOST_BYTES:
        return [Flaw((), _SIZE)]
    return flaws


def bottomless(flaws: list[Flaw]) -> bool:
    """Whether these are of a size or depth at which looking any further is of no use."""
    return any(flaw.msg in {_SIZE, _DEPTH} for flaw in flaws)


def _unfit(document: object) -> Iterator[Flaw]:
    left: list[tuple[Loc, object]] = [((), document)]
    while left:
        loc, value = left.pop()
        if len(loc) >= DEEPEST and isinstance(value, dict | list):
            yield Flaw(loc, _DEPTH)
        elif isinstance(value, dict):
            yield from _unfit_names(loc, value)
            left += [((*loc, name), part) for name, part in value.items() if isinstance(name, str)]
        elif isinstance(value, list):
            left += [((*loc, number), part) for number, part in enumerate(value)]
        elif said := _fault(value):
            yield Flaw(loc, said)


def _unfit_names(loc: Loc, value: dict[Any, Any]) -> Iterator[Flaw]:
    for name in value.repeated if isinstance(value, Repeating) else ():
        yield Flaw((*loc, name), "is given more than once")
    for name in value:
        if not isinstance(name, str):
            yield Flaw(loc, "has a name that is no text")
        elif _UNSTORABLE.search(name):
            yield Flaw((*loc, name), "as a name has a character that can't be stored")


def _fault(value: object) -> str | None:
    match value:
        case None | bool():
            return None
        case str():
            return "has a character that can't be stored" if _UNSTORABLE.search(value) else None
        case int():
            return None if -(2**63) <= value < 2**63 else "must fit into 64 bits"
        case float():
            return None if isfinite(value) else "must be a finite number"
        case _:
            return "is no JSON value"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeating(pairs)


def _integer(digits: str) -> int | float:
    """Python refuses to read integers of thousands of digits; one too many is enough for us."""
    return int(digits) if len(digits) <= _LONGEST_INTEGER else inf


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
