"""Reads a Server-Sent Events stream piece by piece (WHATWG rules); no I/O."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


class TooLargeError(ValueError):
    """A peer sent more than this side is willing to hold."""


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event; `kind` is `message` unless the stream named it."""

    kind: str
    text: str
    last_id: str = ""


class EventStream:
    """Turns chunks of bytes into events; what a blank line has not ended is never an event."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        self._texts: list[str] = []
        self._held = 0
        self._kind = ""
        self._last_id = ""
        self._at_start = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes; exhaust it before feeding more. Raises `TooLargeError`."""
        for line in self._lines(chunk):
            if (event := self._take(line)) is not None:
                yield event

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:  # the LF of a CRLF that was cut in two
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        begin = 0
        for end in _LINE_END.finditer(chunk):
            self._keep(chunk[begin : end.start()])
            begin = end.end()
            line = bytes(self._line)
            self._line.clear()
            yield line
        self._keep(chunk[begin:])
        self._after_cr = self._after_cr or chunk.endswith(b"\r")

    def _keep(self, piece: bytes) -> None:
        self._line += piece
        if len(self._line) + self._held > self._limit:
            raise TooLargeError(f"an event is larger than {self._limit} bytes")

    def _take(self, line: bytes) -> Event | None:
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        self._set(name, value.removeprefix(b" "))
        return None

    def _set(self, name: bytes, value: bytes) -> None:
        """Takes one field; an empty name is a comment, unknown names are ignored."""
        if name == b"data":
            self._held += len(value) + 1
            self._texts.append(_text(value))
        elif name == b"event":
            self._kind = _text(value)
        elif name == b"id" and b"\0" not in value:
            self._last_id = _text(value)

    def _dispatch(self) -> Event | None:
        event = Event(self._kind or "message", "\n".join(self._texts), self._last_id) if self._texts else None
        self._texts.clear()
        self._held = 0
        self._kind = ""
        return event


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
