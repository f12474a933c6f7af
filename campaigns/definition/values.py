"""The kinds of value in a document: strict, bounded, and the same in the model and in its JSON Schema."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from campaigns.references import NAME, parse_path
from daemon.cron import Cron, time_zone
from daemon.settings.addresses import email_address, web_url

DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS
MOST_MONEY = 1_000_000_000
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\S[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"


class Part(BaseModel):
    """A part of a document: nothing in it may be misspelt or changed."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True, alias_generator=to_camel, hide_input_in_errors=True
    )


def _whole(value: object) -> object:
    """Some writers of JSON spell 5000 as 5000.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _money(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError("must be a number of dollars")
    if not -MOST_MONEY <= value <= MOST_MONEY or value < 0:  # NaN fits nowhere
        raise ValueError(f"must be between 0 and {MOST_MONEY} dollars")
    return Decimal(str(value))


def _as_number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def _cron(value: str) -> str:
    Cron.parse(value)
    return value.strip()


def _zone(value: str) -> str:
    return time_zone(value).key


def _mapped(value: str) -> str:
    """A column of `leads` that a result may fill, or a field of its `data`."""
    if value not in COLUMNS and not re.fullmatch(r"data\.[^.\[\]]+", value):
        raise ValueError(f"must be data.FIELD or one of {', '.join(COLUMNS)}")
    return value


def _path(value: str) -> str:
    parse_path(value)
    return value


def _apprise(value: str) -> str:
    if "://" not in value:
        raise ValueError("must be an Apprise URL (name://...)")
    return value


def fits(type_: "InputType", value: object) -> bool:
    """Whether an input's value is of its declared type, as JSON means it."""
    match type_:
        case "integer":
            return isinstance(_whole(value), int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case _:
            return isinstance(value, _TYPES[type_])


def blank(kind: Any) -> BeforeValidator:
    """An explicit null says the same as nothing at all."""
    return BeforeValidator(lambda value: {} if value is None else value, json_schema_input_type=kind | None)


InputType = Literal["string", "number", "integer", "boolean", "array", "object"]
_TYPES: Mapping[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict}
COLUMNS = (
    *("name", "company", "email", "phone", "city", "region", "country", "timezone", "external_id", "tier", "score"),
    "do_not_contact",
)

Text = Annotated[str, Field(strict=True, min_length=1, max_length=2000)]
Title = Annotated[str, Field(strict=True, max_length=200, pattern=_PLAIN)]
Name = Annotated[str, Field(strict=True, max_length=100, pattern=NAME)]
Template = Annotated[str, Field(strict=True, max_length=100, pattern=r"^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$")]
Flag = Annotated[bool, Field(strict=True)]
CronText = Annotated[Text, AfterValidator(_cron)]
Zone = Annotated[Text, AfterValidator(_zone)]
Address = Annotated[Text, AfterValidator(email_address)]
Hook = Annotated[Text, AfterValidator(web_url)]
AppriseUrl = Annotated[Text, AfterValidator(_apprise)]
Column = Annotated[Text, AfterValidator(_mapped)]
ItemPath = Annotated[Text, AfterValidator(_path)]
Tries = Annotated[int, Field(strict=True, ge=1, le=100), BeforeValidator(_whole)]
Pause = Annotated[int, Field(strict=True, ge=0, le=DAY_MS), BeforeValidator(_whole)]
Limit = Annotated[int, Field(strict=True, ge=1, le=DAY_MS), BeforeValidator(_whole)]
Wait = Annotated[int, Field(strict=True, ge=1, le=10 * YEAR_MS), BeforeValidator(_whole)]
Grace = Annotated[int, Field(strict=True, ge=0, le=366 * 86_400), BeforeValidator(_whole)]
Money = Annotated[
    Decimal,
    BeforeValidator(_money),
    PlainSerializer(_as_number),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MOST_MONEY}),
]
