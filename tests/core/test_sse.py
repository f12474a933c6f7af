"""The stream parser, by the WHATWG rules."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.sse import Event, EventStream, TooLargeError

PIECES = st.sampled_from(
    [
        *(b"data:", b"data", b"event: complete", b"event:", b"id: 7", b"id: \0", b"retry: 5", b":", b" ", b"{}"),
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\xff", b"\xe2\x82", "\u2028\u0085\x0b\x0cé".encode()),
    ]
)
STREAMS = st.lists(PIECES | st.binary(max_size=6), max_size=40).map(b"".join)


def events_of(*chunks: bytes, limit: int = 10_000) -> list[Event]:
    stream = EventStream(limit)
    return [event for chunk in chunks for event in stream.feed(chunk)]


def cut(content: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[begin:end] for begin, end in itertools.pairwise(edges)]


def told_by_the_book(content: bytes) -> list[Event]:
    """The standard's algorithm, over the whole text at once."""
    text = content.decode("utf-8", "replace").removeprefix("\ufeff")
    events, texts, kind, last_id = [], list[str](), "", ""
    for line in re.split("\r\n|\r|\n", text)[:-1]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            events += [Event(kind or "message", "\n".join(texts), last_id)] if texts else []
            texts, kind = [], ""
        elif name == "data":
            texts.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


@given(STREAMS, st.lists(st.integers(0, 500), max_size=12))
def test_any_chunking_gives_the_events_of_the_standard(content: bytes, places: list[int]) -> None:
    assert events_of(*cut(content, places)) == told_by_the_book(content)


@given(STREAMS)
def test_single_bytes_give_the_same_events(content: bytes) -> None:
    assert events_of(*(bytes([byte]) for byte in content)) == events_of(content)


@given(STREAMS, st.lists(st.integers(0, 500), max_size=12), st.integers(0, 40))
def test_the_cap_is_met_at_the_same_event_in_any_chunking(content: bytes, places: list[int], limit: int) -> None:
    def until_the_cap(chunks: list[bytes]) -> tuple[list[Event], bool]:
        stream, seen = EventStream(limit), list[Event]()
        try:
            for chunk in chunks:
                for event in stream.feed(chunk):
                    seen.append(event)
        except TooLargeError:
            return seen, True
        return seen, False

    assert until_the_cap(cut(content, places)) == until_the_cap([content])


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_ends_a_line(end: bytes) -> None:
    content = end.join([b"event: complete", b"data: {", b"data:}", b"", b""])
    assert events_of(content) == [Event("complete", "{\n}")]


def test_a_cut_crlf_is_one_line_end() -> None:
    assert events_of(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [Event("message", "a\nb")]


def test_an_empty_chunk_between_cr_and_lf_changes_nothing() -> None:
    assert events_of(b"data: a\r", b"", b"\ndata: b\r\n\r\n") == [Event("message", "a\nb")]


def test_no_other_unicode_separator_ends_a_line() -> None:
    assert events_of("data: a\u2028b\u2029c\x85d\x0be\x0cf\n\n".encode()) == [
        Event("message", "a\u2028b\u2029c\x85d\x0be\x0cf")
    ]


def test_only_the_first_byte_order_mark_is_dropped() -> None:
    mark = b"\xef\xbb\xbf"
    assert events_of(mark[:1], mark[1:] + b"data: a\n\n" + mark + b"data: b\n\n") == [Event("message", "a")]


def test_comments_unknown_fields_and_one_leading_space_are_dropped() -> None:
    assert events_of(b": keep-alive\nfoo: bar\nretry: 9\ndata:  a\ndata\n\n") == [Event("message", " a\n")]


def test_an_event_without_data_is_none_and_forgets_its_kind() -> None:
    assert events_of(b"event: complete\n\ndata: a\n\n") == [Event("message", "a")]


def test_a_partial_event_at_the_end_is_dropped() -> None:
    assert events_of(b"data: a\n\nevent: complete\ndata: {}\n") == [Event("message", "a")]


def test_an_id_stays_until_the_next_and_one_with_nul_is_ignored() -> None:
    content = b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid\ndata: c\n\n"
    assert events_of(content) == [Event("message", "a", "1"), Event("message", "b", "1"), Event("message", "c")]


@pytest.mark.parametrize("content", [b"data: " + b"x" * 101, b"data: xxxx\n" * 20, b"x" * 101, b"data\n" * 101])
def test_an_event_beyond_the_cap_is_refused(content: bytes) -> None:
    with pytest.raises(TooLargeError):
        events_of(content, limit=100)


def test_the_cap_is_for_each_event_not_for_the_stream() -> None:
    assert len(events_of(b"data: 0123456789\n\n" * 1000, limit=100)) == 1000
