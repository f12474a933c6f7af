"""Slots of a schedule, over clock changes too: against cronsim and against a clock read minute by minute."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.cron import MISSED_LISTED, Cron, Slots, due_slots, time_zone

MINUTE = timedelta(minutes=1)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kolkata",
]
CHANGES = {
    "Europe/Berlin": [(2026, 3, 28), (2026, 10, 24)],
    "America/New_York": [(2026, 3, 7), (2026, 10, 31)],
    "Australia/Lord_Howe": [(2026, 4, 4), (2026, 10, 3)],
    "America/Santiago": [(2026, 4, 4), (2026, 9, 5)],
    "Africa/Cairo": [(2026, 4, 23), (2026, 10, 29)],
    "America/St_Johns": [(2006, 4, 1), (2006, 10, 28)],
}
EXPRESSIONS = [
    "30 2 * * *",
    "5 * * * *",
    "*/20 * * * *",
    "*/30 2 * * *",
    "0 2 * * *",
    "15,45 1-3 * * *",
    "30 1 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "59 23 * * *",
    "0 */2 * * *",
    "20 */3 * * *",
    "* 1 * * *",
    "10 2 * * 0",
    "@hourly",
    "@daily",
]
moments = st.integers(0, 6 * 366 * 86_400).map(
    lambda seconds: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)


@st.composite
def expressions(draw: st.DrawFn) -> str:
    minute = draw(st.sampled_from(["*", "*/7", "*/30"]) | st.integers(0, 59).map(str) | st.just("5,35"))
    hour = draw(st.sampled_from(["*", "1-4", "0,12"]) | st.integers(0, 23).map(str))
    day, weekday = draw(
        st.sampled_from([("*", "*"), ("1", "*"), ("28-31", "*"), ("*", "MON"), ("*", "1-5"), ("*", "0")])
    )
    month = draw(st.sampled_from(["*", "3", "10,11", "*/2"]))
    return f"{minute} {hour} {day} {month} {weekday}"


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]  # mypy can't count the parts


def slots(cron: Cron, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    at = start
    while (at := cron.next_after(at)) < end:
        found.append(at)
    return found


def slots_backwards(cron: Cron, start: datetime, end: datetime) -> list[datetime]:
    found: list[datetime] = []
    at = end
    while (at := cron.previous(at)) > start:
        found.append(at)
    return found[::-1]


def field_has(field: str, value: int, low: int, high: int) -> bool:
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        if int(first) <= value <= int(last or first) and (value - int(first)) % int(step or 1) == 0:
            return True
    return False


def shows(cron: Cron, wall: datetime) -> bool:
    minute, hour, _, _, weekday = cron.fields.split()
    on_day = field_has(weekday, wall.isoweekday() % 7, 0, 6)
    return field_has(minute, wall.minute, 0, 59) and field_has(hour, wall.hour, 0, 23) and on_day


def watched(cron: Cron, start: datetime, end: datetime) -> Iterator[datetime]:
    """Who reads a clock each minute: fires on a match, once per repeated time, and makes up for skipped ones."""
    minute, hour, *_ = cron.fields.split()
    always = minute.startswith("*") or hour.startswith("*")
    zone = ZoneInfo(cron.timezone)
    before = (start - MINUTE).astimezone(zone).replace(tzinfo=None)
    at = start
    while at < end:
        local = at.astimezone(zone)
        wall = local.replace(tzinfo=None, fold=0)
        gap = [before + MINUTE * n for n in range(1, int((wall - before) / MINUTE))]
        skipped = hour != "*" and any(shows(cron, missing) for missing in gap)
        if skipped or (shows(cron, wall) and (always or local.fold == 0)):
            yield at
        before, at = wall, at + MINUTE


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_slots_over_clock_changes_are_those_of_a_watched_clock(zone: str, expression: str) -> None:
    cron = Cron.parse(expression, zone)
    for day in CHANGES[zone]:
        start = utc(*day)
        end = start + timedelta(days=3)
        expected = [at for at in watched(cron, start, end) if at > start]
        assert slots(cron, start, end) == expected
        assert slots_backwards(cron, start, end) == expected


@given(expressions(), st.sampled_from(ZONES), moments)
@settings(max_examples=150, deadline=None)
def test_slots_are_those_of_cronsim(expression: str, zone: str, moment: datetime) -> None:
    _, hour, *_ = expression.split()
    cron = Cron.parse(expression, zone)
    peer = CronSim(expression, moment.replace(second=0, microsecond=0).astimezone(ZoneInfo(zone)))
    mine = cron.next_after(moment)
    theirs = next(peer).astimezone(UTC)
    # cronsim doesn't make up for a skipped time of a schedule such as "*/30 2"; the watched clock above covers those.
    made_up = mine < theirs and not shows(cron, mine.astimezone(ZoneInfo(zone))) and hour != "*"
    assert mine == theirs or made_up


@given(expressions(), st.sampled_from(ZONES), moments)
@example("30 2 * * *", "Europe/Berlin", utc(2026, 10, 25, 0, 30))
@example("*/20 * * * *", "Australia/Lord_Howe", utc(2026, 4, 4, 15, 5))
@settings(max_examples=150, deadline=None)
def test_next_and_previous_are_each_others_inverse(expression: str, zone: str, moment: datetime) -> None:
    cron = Cron.parse(expression, zone)
    after = cron.next_after(moment)
    before = cron.previous(moment)
    assert before < moment < after
    assert cron.previous(after) in {before, moment}
    assert cron.next_after(before) in {after, moment}


@given(st.sampled_from(ZONES), moments, st.integers(0, 23), st.integers(0, 59))
@settings(max_examples=200, deadline=None)
def test_a_daily_schedule_is_never_more_than_a_day_and_its_clock_change_away(
    zone: str, moment: datetime, hour: int, minute: int
) -> None:
    wait = Cron.parse(f"{minute} {hour} * * *", zone).next_after(moment) - moment
    assert timedelta(0) < wait <= timedelta(hours=25)


def test_a_fixed_time_fires_once_in_the_repeated_hour_and_at_once_after_a_skipped_one() -> None:
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    assert cron.next_after(utc(2026, 10, 25, 0, 30)) == utc(2026, 10, 26, 1, 30)
    assert cron.next_after(utc(2026, 3, 28, 1, 30)) == utc(2026, 3, 29, 1, 0)


@pytest.mark.parametrize(
    "expression",
    [
        *["", "* * *", "0 0 * * * *", "0 0 30 2 *", "61 * * * *", "*/0 * * * *", "H * * * *", "R 1 * * *"],
        *["h(0-5) * * * *", "0 0 29 2 1#1", "@reboot", "@every 5m", "a b c d e", "1,,2 * * * *", "* " * 5000],
    ],
)
def test_what_is_no_schedule_is_refused_with_a_reason(expression: str) -> None:
    with pytest.raises(ValueError, match=r"must|no schedule"):
        Cron.parse(expression)


@given(st.text(max_size=30))
@settings(max_examples=300)
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    try:
        cron = Cron.parse(text)
    except ValueError:
        return
    assert cron.next_after(utc(2026, 1, 1)) > utc(2026, 1, 1)


@pytest.mark.parametrize("zone", ["Mars/Base", "", "../etc/passwd", "Europe", "europe\x00"])
def test_unknown_time_zones_are_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        time_zone(zone)


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Cron.parse("@daily").next_after(utc(2026, 1, 1).replace(tzinfo=None))


HOURLY = Cron.parse("@hourly")
NOON = utc(2026, 1, 1, 12)


def hours(*numbers: int) -> tuple[datetime, ...]:
    return tuple(utc(2026, 1, 1, number) for number in numbers)


def test_of_several_missed_slots_only_the_youngest_fires() -> None:
    at = NOON + timedelta(minutes=10)
    assert due_slots(HOURLY, utc(2026, 1, 1, 10), at, 3600) == Slots(NOON, hours(10, 11), utc(2026, 1, 1, 13))


def test_a_slot_older_than_the_grace_is_missed() -> None:
    at = NOON + timedelta(minutes=10)
    assert due_slots(HOURLY, utc(2026, 1, 1, 11), at, 300) == Slots(None, hours(11, 12), utc(2026, 1, 1, 13))


@pytest.mark.parametrize("upcoming", [None, utc(2026, 1, 1, 13)])
def test_nothing_is_due_at_first_or_after_the_slot_has_fired(upcoming: datetime | None) -> None:
    assert due_slots(HOURLY, upcoming, NOON + timedelta(seconds=1), 3600) == Slots(None, (), utc(2026, 1, 1, 13))


def test_a_clock_set_back_fires_no_slot_again() -> None:
    at = NOON - timedelta(minutes=90)
    assert due_slots(HOURLY, utc(2026, 1, 1, 13), at, 3600) == Slots(None, (), utc(2026, 1, 1, 13))


def test_a_time_that_a_person_has_set_is_a_slot_like_any_other() -> None:
    """Mutant: `_youngest` without `first`."""
    odd, at = NOON - timedelta(minutes=17), NOON - timedelta(minutes=15)
    assert due_slots(HOURLY, odd, at, 3600) == Slots(odd, (), NOON)
    assert due_slots(HOURLY, odd, NOON, 3600) == Slots(NOON, (odd,), utc(2026, 1, 1, 13))
    assert due_slots(HOURLY, odd, at, 60) == Slots(None, (odd,), NOON)


def test_a_slot_on_time_fires_whatever_the_grace() -> None:
    assert due_slots(HOURLY, NOON, NOON, 0).fire == NOON
    assert due_slots(HOURLY, NOON, NOON + timedelta(seconds=2), 0).fire == NOON


def test_a_long_downtime_lists_only_the_youngest_missed_slots() -> None:
    found = due_slots(Cron.parse("* * * * *"), utc(2025, 1, 1), NOON, 3600)
    assert found.fire == NOON
    assert len(found.missed) == MISSED_LISTED
    assert found.missed[-1] == NOON - MINUTE
