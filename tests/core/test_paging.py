"""Cursors carry a sort key there and back, and nothing else gets in by them."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.api.paging import ID, NEWEST, IdCursor, NewestCursor, Page, decode, encode, page_of


class Newest(Page):
    cursor: NewestCursor | None = None


class ById(Page):
    cursor: IdCursor | None = None


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_keeps_its_key_to_the_microsecond(at: datetime, row: UUID) -> None:
    assert decode(encode((at, str(row))), NEWEST) == (at, row)


@given(st.integers(1, 2**63 - 1))
def test_a_cursor_keeps_an_id(row: int) -> None:
    text = encode(row)
    assert ById.model_validate_strings({"cursor": text}).cursor == row
    assert text.isascii()
    assert not set(text) & set("+/=")


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: urlsafe_b64encode(raw).decode()))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no cursor of this list"):
        decode(text, NEWEST)


@pytest.mark.parametrize("key", [0, -1, 2**63, 1.5, "1", None, [], [1], True])
def test_a_key_of_another_list_is_refused(key: object) -> None:
    with pytest.raises(ValueError, match="is no cursor"):
        decode(encode(key), ID)


def test_a_naive_time_is_no_key() -> None:
    with pytest.raises(ValueError, match="is no cursor"):
        decode(encode(("2026-01-01T00:00:00", str(uuid4()))), NEWEST)


def test_an_endless_cursor_is_refused() -> None:
    with pytest.raises(ValueError, match="is no cursor"):
        Newest.model_validate_strings({"cursor": "A" * 100_000})


@pytest.mark.parametrize("limit", ["0", "201", "-1", "1e3", "ten", "9" * 30])
def test_a_limit_outside_its_range_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        Page.model_validate_strings({"limit": limit})


def test_there_is_a_next_page_only_if_a_row_more_was_found() -> None:
    assert page_of([3, 2, 1], 3, int) == ([3, 2, 1], None)
    page, following = page_of([3, 2, 1], 2, int)
    assert (page, following and decode(following, ID)) == ([3, 2], 2)
    assert page_of([], 3, int) == ([], None)
