"""Log lines: JSON for machines, columns for a terminal, never a secret. The one place that configures logging."""

import logging
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

HIDDEN: Final = "***"

_TELLTALE = r"passw(?:or)?d|pwd|token|secret|api[_-]?key|access[_-]?key|signature|credential|authorization|dsn"
_SECRET_KEY = re.compile(rf"(?:^|[_\-.])(?:{_TELLTALE})s?$", re.IGNORECASE)
# In a URL the part after a colon is a password unless it is a port number before the path.
_URL_PASSWORD = re.compile(
    r"""([a-z][a-z0-9+.\-]*://[^\s:/@'"]*:)(?!\d{1,5}(?:[/?\#,\s'"]|$))[^\s'"]+@""", re.IGNORECASE
)
_PATTERNS: Final = (
    (_URL_PASSWORD, rf"\1{HIDDEN}@"),
    (re.compile(r"(hooks\.slack\.com/services/)[^\s'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"(\b[\w\-]*(?:{_TELLTALE})=)[^\s&'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"""(["'][\w\-]*(?:{_TELLTALE})["']\s*:\s*)(["'])[^"']*\2""", re.IGNORECASE), rf"\1\2{HIDDEN}\2"),
    (re.compile(r"(\bauthorization[\"']?\s*[:=]\s*[\"']?\w+\s+)[^\s'\"]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"(\bbearer\s+)[\w.~+/=\-]{6,}", re.IGNORECASE), rf"\1{HIDDEN}"),
)
_SHORTEST_SECRET = 6
_DEEPEST = 6


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `name`."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=name))


def context(**facts: object) -> AbstractContextManager[None]:
    """Every line logged inside carries these facts (task, attempt, lead, kind)."""
    return structlog.contextvars.bound_contextvars(**facts)


def mask(text: str) -> str:
    """`text` without the passwords, tokens and keys that can be recognised by where they stand."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def configure(
    level: str = "INFO",
    format: Literal["json", "console"] | None = None,  # noqa: A002 - the setting's own name
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Set up all logging, ours and the libraries'; `secrets` never appear, wherever they turn up. Default: stderr."""
    lines = _Lines(stream)
    render = _render_console if (format or lines.natural_format) == "console" else _render_json
    structlog.configure(
        processors=_processors(render(), secrets),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        handlers=[_Library()], level=max(logging.getLevelNamesMapping()[level.upper()], logging.INFO), force=True
    )


def _processors(render: Processor, secrets: Iterable[str]) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.format_exc_info,
        _masking(secrets),
        render,
    ]


def _masking(secrets: Iterable[str]) -> Processor:
    """The processor that hides what looks like a secret, by name or by place, and what is known to be one."""
    known = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
    exact = re.compile("|".join(map(re.escape, known))) if known else None

    def clean(text: str) -> str:
        return mask(exact.sub(HIDDEN, text) if exact else text)

    def process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {key: _cleaned(key, value, clean, _DEEPEST) for key, value in event.items()}

    return process


def _cleaned(key: str, value: Any, clean: Callable[[str], str], depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_KEY.search(key):
        return HIDDEN
    if isinstance(value, dict) and depth:
        return {clean(str(k)): _cleaned(str(k), v, clean, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return [_cleaned("", item, clean, depth - 1) for item in value]
    return clean(_text(value))


def _text(value: object) -> str:
    """Text that any encoder takes: lone surrogates escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _render_json() -> Processor:
    def render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
        try:
            return orjson.dumps(event).decode()
        except orjson.JSONEncodeError:  # an integer beyond 64 bits
            return orjson.dumps({key: _text(value) for key, value in event.items()}).decode()

    return render


def _render_console() -> Processor:
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return cast("Processor", renderer)


class _Lines:
    """Where finished lines go. One that can't be written is lost: a full or closed pipe must not stop the work."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def natural_format(self) -> str:
        return "console" if (self._stream or sys.stderr).isatty() else "json"

    def msg(self, line: str) -> None:
        stream = self._stream or sys.stderr
        with suppress(OSError, ValueError):
            stream.write(line + "\n")
            stream.flush()

    debug = info = warning = error = critical = msg


class _Library(logging.Handler):
    """Passes the libraries' own log records through the same processors."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)
        except (TypeError, ValueError):
            self.handleError(record)
