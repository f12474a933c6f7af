"""The slots of campaigns in every zone that there is, over five years, against cronsim; each a period later at most.

What a slot is over single clock changes is in test_cron.py.

Mutants that these tests kill (each one line, tried by hand):
  cron.py: `_first_pass` gives up where the clock skips its time; `_second_pass` fires fixed times twice
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim

from campaigns.schedule import next_run
from daemon.cron import Cron

FIRST, LAST = datetime(2026, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
HALF_HOUR, DAY, WEEK = timedelta(minutes=30), timedelta(days=1), timedelta(days=7)
WEEKLY = ("0 9 * * MON", "30 2 * * SUN", "0 0 * * MON", "59 23 * * SAT")
OFTEN = (
    "30 2 * * *",
    "0 * * * *",
    "*/20 * * * *",
    "30 1 * * *",
    "0 0 * * *",
    "15 3 * * *",
    "0 9-17 * * MON-FRI",
    "30 23 * * *",
)
AROUND_EACH_CHANGE = 2
SHARES = 4


@cache
def behaviours() -> dict[tuple[tuple[datetime, timedelta], ...], list[str]]:
    """Zones by what their clocks do in these years: changes, and the offset from then on."""
    found: dict[tuple[tuple[datetime, timedelta], ...], list[str]] = defaultdict(list)
    for name in sorted(available_timezones()):
        found[tuple(_changes(ZoneInfo(name)))].append(name)
    return found


def _changes(zone: ZoneInfo) -> Iterator[tuple[datetime, timedelta]]:
    before = None
    for n in range((LAST - FIRST) // DAY):
        at = FIRST + n * DAY
        offset = _offset(zone, at)
        if offset != before:
            yield (FIRST if before is None else _moment(zone, at - DAY)), offset
        before = offset


def _moment(zone: ZoneInfo, day: datetime) -> datetime:
    """When within that day the clock changes, to the half-hour."""
    offset = _offset(zone, day)
    steps = (day + n * HALF_HOUR for n in range(1, 49))
    return next(at for at in steps if _offset(zone, at) != offset)


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def sampled(zone: str, of: tuple[str, ...], start: int = 0) -> str:
    """One of them, always the same for a zone."""
    return of[(zlib.crc32(zone.encode()) + start) % len(of)]


def ours(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """Each found from the one before, as a campaign finds them."""
    found, at = [], start
    while (at := next_run(expression, zone, at)) < end:
        found.append(at)
    return found


def theirs(expression: str, zone: str, start: datetime, end: datetime) -> list[datetime]:
    """What cronsim says."""
    found: list[datetime] = []
    for local in CronSim(expression, start.astimezone(ZoneInfo(zone))):
        if (at := local.astimezone(UTC)) >= end:
            return found
        found.append(at)
    return found


@pytest.mark.parametrize("share", range(SHARES))
def test_weekly_slots_are_those_of_cronsim_for_five_years_in_every_zone(share: int) -> None:
    for changes, names in list(behaviours().items())[share::SHARES]:
        expression = sampled(names[0], WEEKLY)
        slots = ours(expression, names[0], FIRST, LAST)
        assert slots == theirs(expression, names[0], FIRST, LAST), (names[0], expression)
        assert len(slots) in (260, 261, 262)
        offsets = [offset for _, offset in changes]
        longest = WEEK + max(offsets) - min(offsets)
        waits = [later - slot for slot, later in pairwise(slots)]
        assert timedelta(0) < min(waits) <= max(waits) <= longest, (names[0], expression)


def test_around_each_clock_change_slots_are_those_of_cronsim_in_every_zone() -> None:
    for changes, names in behaviours().items():
        for n, (at, _) in enumerate(changes[1:]):
            for k in range(AROUND_EACH_CHANGE):
                expression = sampled(names[0], OFTEN, n + k)
                window = (at - DAY / 2, at + DAY / 2)
                assert ours(expression, names[0], *window) == theirs(expression, names[0], *window), (
                    names[0],
                    expression,
                )


def test_zones_of_one_behaviour_share_their_slots() -> None:
    for names in behaviours().values():
        expression = sampled(names[0], WEEKLY)
        slots = {tuple(ours(expression, name, FIRST, FIRST + 3 * WEEK)) for name in (names[0], names[-1])}
        assert len(slots) == 1


def test_every_zone_is_known() -> None:
    for name in available_timezones():
        assert Cron.parse("0 9 * * MON", name).timezone == name
