"""Delays between tries, the end of them, and what Retry-After says."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.retry import LONGEST_RETRY_AFTER_S, Dead, Retry, after_failure, backoff, parse_retry_after

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_bounds_double_from_two_seconds() -> None:
    assert [backoff(attempt, random=1.0) for attempt in (1, 2, 3)] == [2.0, 4.0, 8.0]


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.01, 60), st.floats(1, 3600))
def test_a_delay_lies_between_nothing_and_its_bound(attempt: int, random: float, base: float, cap: float) -> None:
    assert 0.0 <= backoff(attempt, base, cap, random=random) <= min(cap, base * 2 ** min(attempt - 1, 60))


def test_jitter_is_full() -> None:
    assert backoff(3, random=0.0) == 0.0
    assert backoff(3, random=0.5) == 4.0


def test_a_failure_is_retried_until_its_tries_are_used() -> None:
    assert after_failure(1, 3, True, None, 0.5) == Retry(1.0)
    assert after_failure(2, 3, True, None, 0.5) == Retry(2.0)
    assert after_failure(3, 3, True, None, 0.5) == Dead("failed 3 of 3 times")


def test_what_is_not_worth_a_retry_is_dead_at_once() -> None:
    assert isinstance(after_failure(1, 3, False, 5.0, 0.5), Dead)


@given(st.integers(1, 9), st.floats(0, 1e6), st.floats(0, 1))
def test_a_retry_never_comes_earlier_than_asked(attempt: int, asked: float, random: float) -> None:
    after = after_failure(attempt, 10, True, asked, random)
    assert isinstance(after, Retry)
    assert after.delay_s >= asked


@pytest.mark.parametrize(
    ("header", "seconds"), [("0", 0), ("120", 120), (" 7 ", 7), ("9" * 400, LONGEST_RETRY_AFTER_S)]
)
def test_seconds_are_read(header: str, seconds: float) -> None:
    assert parse_retry_after(header, NOW) == seconds


def test_dates_are_read_against_now() -> None:
    later = format_datetime(NOW + timedelta(seconds=90), usegmt=True)
    assert parse_retry_after(later, NOW) == 90
    assert parse_retry_after("Thu, 01 Jan 2026 11:00:00 GMT", NOW) == 0
    assert parse_retry_after("Thu, 01 Jan 2026 12:00:30 -0000", NOW) == 30


@pytest.mark.parametrize(
    "header", ["", "soon", "-5", "1.5", "١٢", "2026-01-01T12:00:00Z", "Thu, 99 Jan 2026 11:00:00 GMT"]
)
def test_anything_else_says_nothing(header: str) -> None:
    assert parse_retry_after(header, NOW) is None


@given(st.text())
def test_no_header_breaks_it(header: str) -> None:
    seconds = parse_retry_after(header, NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER_S
