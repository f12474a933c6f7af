"""What stands in a log line, and what never does."""

import io
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog

from daemon.log import configure, context, get_logger, mask


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:pa55@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql://me:p@ss/w:rd@db/x?a=b", "postgresql://me:***@db/x?a=b"),
        ("postgresql://me:1234@h1,h2:5433/x", "postgresql://me:***@h1,h2:5433/x"),
        ("smtp://:pa55@mail", "smtp://:***@mail"),
        ("host=db password=pa55 user=me", "host=db password=*** user=me"),
        ("/approve/1?token=abc&x=1", "/approve/1?token=***&x=1"),
        ("Authorization: Bearer abcdef123", "Authorization: Bearer ***"),
        ("Authorization: Basic bWU6cGE1NQ==", "Authorization: Basic ***"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/services/***"),
        ("http://127.0.0.1:3020/leads?q=a@b.c", "http://127.0.0.1:3020/leads?q=a@b.c"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
        ("ORCHESTRATOR_API__TOKEN: must be set", "ORCHESTRATOR_API__TOKEN: must be set"),
        ("mailto a@b.c: no answer", "mailto a@b.c: no answer"),
    ],
)
def test_secrets_are_masked_where_they_stand(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_a_line_is_json_with_its_facts(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out)
    with context(task=7, attempt=2):
        get_logger("worker").info("settled", lead="x", ms=1.5)
    get_logger("worker").debug("unheard")
    (line,) = lines(out)
    assert line.pop("timestamp").startswith("20")
    assert line == {
        "event": "settled", "level": "info", "part": "worker", "task": 7, "attempt": 2, "lead": "x", "ms": 1.5
    }  # fmt: skip


def test_no_secret_gets_into_a_line_by_name_place_nesting_or_traceback(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out, secrets=["s3cret-value"])
    log = get_logger("engines")
    log.info("by name", token="s3c", db_password="s3c", settings={"api_key": "s3c", "ok": ["postgresql://a:s3c@h"]})
    log.info("an engine echoed s3cret-value back")
    try:
        raise ValueError("postgresql://a:s3c@h refused")
    except ValueError:
        log.exception("by traceback")
    assert "s3c" not in out.getvalue()
    assert [line["event"] for line in lines(out)] == ["by name", "an engine echoed *** back", "by traceback"]
    assert "ValueError" in lines(out)[2]["exception"]


def test_numbers_about_tokens_and_keys_are_no_secrets(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out)
    get_logger("x").info("e", tokens=12, idempotency_key="lead-1", key="lead-1", token=None)
    assert {"tokens": 12, "idempotency_key": "lead-1", "key": "lead-1", "token": None}.items() <= lines(out)[0].items()


def test_values_that_json_refuses_are_written_as_text(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out)
    get_logger("x").info("odd", big=2**70, surrogate="a\ud800", other={1, 2})
    (line,) = lines(out)
    assert line["big"] == str(2**70)
    assert line["surrogate"] == "a\\ud800"


def test_a_multi_line_event_stays_one_line(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out)
    get_logger("x").info('a\n{"level": "forged"}')
    assert len(out.getvalue().splitlines()) == 1


def test_the_libraries_logs_take_the_same_road(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out)
    logging.getLogger("asyncio").warning("slow %s", "postgresql://a:s3c@h")
    logging.getLogger("asyncio").debug("unheard")
    (line,) = lines(out)
    assert line["event"] == "slow postgresql://a:***@h"
    assert (line["part"], line["level"]) == ("asyncio", "warning")


def test_a_terminal_gets_columns_and_masking_too(out: io.StringIO) -> None:
    configure("INFO", "console", stream=out)
    get_logger("x").info("hello", url="postgresql://a:s3c@h")
    assert "hello" in out.getvalue()
    assert not out.getvalue().startswith("{")
    assert "s3c" not in out.getvalue()


def test_a_stream_that_is_gone_does_not_stop_the_work(out: io.StringIO) -> None:
    configure("INFO", "json", stream=out)
    out.close()
    get_logger("x").info("lost")
    assert out.closed
