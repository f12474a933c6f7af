"""What a number, a word, a time or a list may be: each check returns the value or raises ValueError("must be ...")."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from math import inf, isfinite
from typing import Annotated, Self, TypeVar

import orjson
from pydantic import BeforeValidator

from daemon.cron import Cron, time_zone

YES, NO = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
N = TypeVar("N", int, float, Decimal)


def number(
    of: Callable[[str], N], low: float, high: float = inf, *, above: bool = False, word: str = "number"
) -> BeforeValidator:
    """A finite number from `low` (`above`: more than that) to `high`."""
    range_ = f"of at least {low:g}" if high == inf else f"between {low:g} and {high:g}"
    text = f"must be a {word} {f'above {low:g}' if above else range_}"

    def read(value: object) -> N:
        try:
            number = of(str(value).strip())
        except (ValueError, ArithmeticError):
            raise ValueError(f"{text}, not {str(value)!r}") from None
        if not isfinite(number) or not low <= number <= high or (above and number == low):
            raise ValueError(f"{text}, not {str(value)!r}")
        return number

    return BeforeValidator(read)


def flag(value: object) -> bool:
    """One of the usual words for true and false."""
    word = str(value).strip().lower()
    if word not in YES | NO:
        raise ValueError(f"must be true or false, not {str(value)!r}")
    return word in YES


def one_of(*words: str) -> BeforeValidator:
    """One of these words, in any case of letters."""

    def read(value: object) -> str:
        for word in words:
            if str(value).strip().lower() == word.lower():
                return word
        raise ValueError(f"must be one of {', '.join(words)}, not {str(value)!r}")

    return BeforeValidator(read)


def cron(value: object) -> str:
    """A five-field cron expression that fires some time."""
    return Cron.parse(str(value)).expression


def zone(value: object) -> str:
    """The key of an IANA time zone."""
    return time_zone(str(value).strip()).key


def listed(value: object) -> list[object]:
    """A JSON list, or words with commas or spaces between them."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, list | tuple) else [value]
    if not value.strip().startswith("["):
        return list(re.split(r"[\s,]+", value.strip(" ,\n")))
    try:
        return list(orjson.loads(value))
    except orjson.JSONDecodeError:
        raise ValueError("must be a JSON list or a list with commas") from None


def command(value: object) -> tuple[str, ...]:
    """A JSON list of a program and its arguments."""
    words = listed(value) if not isinstance(value, str) or value.strip().startswith("[") else []
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError('must be a JSON list of the program and its arguments, such as ["agent", "--json"]')
    return tuple(map(str, words))


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of the day, from `start` until just before `end`; it may cross midnight."""

    start: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HH:MM-HH:MM`."""
        match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", text.strip())
        if not match or match[0][:5] == match[0][6:]:
            raise ValueError(f"must be two different times as HH:MM-HH:MM, not {text!r}")
        hour, minute, end_hour, end_minute = map(int, match.groups())
        return cls(time(hour, minute), time(end_hour, end_minute))

    def contains(self, moment: time) -> bool:
        """Whether that time of day lies in these hours."""
        if self.start < self.end:
            return self.start <= moment < self.end
        return moment >= self.start or moment < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


def hours(value: object) -> Hours | None:
    """Hours as `HH:MM-HH:MM`, or None for an empty text."""
    if value is None or isinstance(value, Hours):
        return value
    return Hours.parse(str(value)) if str(value).strip() else None


Port = Annotated[int, number(int, 1, 65535)]
Count = Annotated[int, number(int, 1, word="whole number")]
Limit = Annotated[int, number(int, 0, word="whole number")]
Lines = Annotated[int, number(int, 0, 100, word="whole number")]
Characters = Annotated[int, number(int, 100, 20_000, word="whole number")]
Seconds = Annotated[float, number(float, 0, above=True)]
Amount = Annotated[float, number(float, 0)]
Share = Annotated[float, number(float, 0, 1)]
Money = Annotated[Decimal, number(Decimal, 0)]
Flag = Annotated[bool, BeforeValidator(flag)]
CronText = Annotated[str, BeforeValidator(cron)]
Zone = Annotated[str, BeforeValidator(zone)]
Command = Annotated[tuple[str, ...], BeforeValidator(command)]
DayPart = Annotated[Hours | None, BeforeValidator(hours)]
