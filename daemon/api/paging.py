"""Pages of a list, newest first: a cursor is the sort key of the last row shown, opaque to its bearer."""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
from pydantic import AwareDatetime, Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from daemon.api.route import Input, RowId

MOST, USUAL = 200, 50
LONGEST_CURSOR = 512
K = TypeVar("K")
R = TypeVar("R")


class Page(Input):
    """How much of a list; each list adds the cursor of its own sort key."""

    limit: Annotated[int, Field(ge=1, le=MOST)] = USUAL


def encode(key: Any) -> str:
    """The cursor for a sort key."""
    return urlsafe_b64encode(orjson.dumps(key, default=str)).rstrip(b"=").decode()


def decode(text: str, adapter: TypeAdapter[K]) -> K:
    """The sort key in a cursor; ValueError if it is none of this list."""
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        return adapter.validate_json(b64decode(padded, altchars=b"-_", validate=True), strict=True)
    except (ValidationError, ValueError):
        raise ValueError("is no cursor of this list") from None


def _cursor_of(adapter: TypeAdapter[K]) -> Callable[[object], K]:
    def read(given: object) -> K:
        text = str(given)
        return decode(text if len(text) <= LONGEST_CURSOR else "", adapter)

    return read


_SCHEMA = WithJsonSchema({"type": "string", "maxLength": LONGEST_CURSOR})
NEWEST: TypeAdapter[tuple[AwareDatetime, UUID]] = TypeAdapter(tuple[AwareDatetime, UUID])
ID: TypeAdapter[int] = TypeAdapter(RowId)

NewestCursor = Annotated[tuple[AwareDatetime, UUID], PlainValidator(_cursor_of(NEWEST)), _SCHEMA]
IdCursor = Annotated[int, PlainValidator(_cursor_of(ID)), _SCHEMA]


def page_of(rows: Sequence[R], limit: int, key: Callable[[R], Any]) -> tuple[Sequence[R], str | None]:
    """The page and the cursor of the next one, from rows of which one more than `limit` was asked for."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode(key(rows[limit - 1]))
