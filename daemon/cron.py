"""When a schedule is due: five-field cron in a time zone, right over clock changes. Pure; moments are UTC."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import takewhile
from typing import Self, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
ON_TIME_S = 5.0
"""A slot this young is on time, whatever the grace: a timer never wakes at the very instant."""
MISSED_LISTED = 100
"""Of a long downtime, so many of the youngest missed slots are listed."""

_LONGEST = 200
_RANDOM_OR_HASHED = re.compile(r"(?:^|[\s,])[hr](?![a-z])", re.IGNORECASE)
_EVERY_HOUR = {"*", "*/1", "0-23"}
_MINUTE = timedelta(minutes=1)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Slots:
    """What is due: the one slot to fire, the ones only to be recorded as missed (oldest first), and the next one."""

    fire: datetime | None
    missed: tuple[datetime, ...]
    next: datetime


@dataclass(frozen=True, slots=True)
class Cron:
    """A schedule; `fields` are its five fields with aliases replaced.

    croniter only counts wall-clock times here; clock changes are resolved in this class. A time that a clock change
    skips is made up for at once, unless the schedule has every hour; one that it repeats counts twice only for
    schedules that run all the time (minute or hour begins with `*`).
    """

    expression: str
    timezone: str
    fields: str

    @classmethod
    def parse(cls, expression: str, timezone: str = "UTC") -> Self:
        """Read a cron expression that fires at least once, or raise ValueError with a clear text."""
        time_zone(timezone)
        fields = _five_fields(expression)
        _require_firing(expression, fields)
        return cls(expression, timezone, fields)

    def next_after(self, moment: datetime) -> datetime:
        """The first slot strictly later than `moment`."""
        wall, overlap, _ = self._wall(moment)
        first = next(at for at in map(self._first_pass, self._walls_after(wall)) if at and at > moment)
        repeated = takewhile(lambda slot: slot < wall + overlap, self._walls_after(wall - overlap)) if overlap else ()
        again = next((at for at in map(self._second_pass, repeated) if at and at > moment), first)
        return min(first, again)

    def previous(self, moment: datetime) -> datetime:
        """The last slot strictly earlier than `moment`."""
        wall, overlap, fold = self._wall(moment)
        walls = self._walls_before(wall + overlap * fold)
        first = next(at for at in map(self._first_pass, walls) if at and at < moment)
        again = self._second_pass(next(self._walls_before(wall)))
        return max(first, again) if again and again < moment else first

    def _wall(self, moment: datetime) -> tuple[datetime, timedelta, int]:
        """The wall clock's reading, for how long it is repeated (mostly zero), and whether it is the second time."""
        if moment.tzinfo is None:
            raise ValueError("a moment needs a time zone")
        local = moment.astimezone(time_zone(self.timezone))
        overlap = local.replace(fold=1).astimezone(UTC) - local.replace(fold=0).astimezone(UTC)
        return local.replace(tzinfo=None, fold=0), overlap, local.fold

    def _walls_after(self, wall: datetime) -> Iterator[datetime]:
        return cast("Iterator[datetime]", croniter(self.fields, wall).all_next(datetime))

    def _walls_before(self, wall: datetime) -> Iterator[datetime]:
        return cast("Iterator[datetime]", croniter(self.fields, wall).all_prev(datetime))

    def _first_pass(self, wall: datetime) -> datetime | None:
        """When the clock first shows `wall`; where that is skipped, the end of the gap."""
        zone = time_zone(self.timezone)
        while _reading(at := wall.replace(tzinfo=zone).astimezone(UTC), zone) != wall:
            if self.fields.split()[1] in _EVERY_HOUR:
                return None
            wall += _MINUTE
        return at

    def _second_pass(self, wall: datetime) -> datetime | None:
        """When the clock shows `wall` again, for schedules that run all the time."""
        local = wall.replace(tzinfo=time_zone(self.timezone))
        again = local.replace(fold=1).astimezone(UTC)
        runs_always = "*" in {field[0] for field in self.fields.split()[:2]}
        return again if runs_always and again > local.astimezone(UTC) else None


def due_slots(cron: Cron, next_slot: datetime | None, now: datetime, grace_s: float) -> Slots:
    """Of `next_slot` and the slots after it, until `now`, only the youngest fires, if it is younger than the grace.

    `next_slot` is a slot whatever the cron says: a person may have set it. Without one the schedule begins now.
    """
    if next_slot is None or next_slot > now:
        return Slots(None, (), next_slot or cron.next_after(now))
    due = _youngest(cron, next_slot, now)
    fire = due[-1] if due and (now - due[-1]).total_seconds() <= max(grace_s, ON_TIME_S) else None
    return Slots(fire, due[:-1] if fire else due, cron.next_after(now))


def _youngest(cron: Cron, first: datetime, until: datetime) -> tuple[datetime, ...]:
    """`first` and the slots in (first, until], oldest first; of very many the youngest."""
    found: list[datetime] = []
    slot = cron.previous(until + _TICK)
    while slot > first and len(found) <= MISSED_LISTED:
        found.append(slot)
        slot = cron.previous(slot)
    return tuple(reversed(found if len(found) > MISSED_LISTED else [*found, first]))


@lru_cache(maxsize=1024)
def time_zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name, or ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no IANA time zone such as Europe/Berlin") from None


def _reading(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _five_fields(expression: str) -> str:
    stripped = expression.strip()
    fields = ALIASES.get(stripped.lower(), stripped).split()
    if len(fields) != 5 or len(stripped) > _LONGEST:
        aliases = ", ".join(ALIASES)
        raise ValueError(f"{_shown(expression)} must have five fields (minute hour day month weekday) or be {aliases}")
    if _RANDOM_OR_HASHED.search(stripped):
        raise ValueError(f"{_shown(expression)} must name its times: R and H are not supported")
    return " ".join(fields)


def _require_firing(expression: str, fields: str) -> None:
    try:
        croniter.expand(fields, strict=True)
        croniter(fields, datetime(2000, 1, 1, tzinfo=UTC)).get_next()
    except ValueError as problem:
        text = str(problem).replace(f"[{fields}] ", "")
        raise ValueError(f"{_shown(expression)} is no schedule that ever fires: {text}") from None


def _shown(expression: str) -> str:
    return repr(expression if len(expression) <= _LONGEST else expression[:40] + "…")
