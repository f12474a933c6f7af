"""What answers mean."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.answers import (
    ERROR_LENGTH,
    Answered,
    Charge,
    Failed,
    Unknown,
    charge,
    read_event,
    read_refusal,
    read_report,
    read_result,
    retryable_status,
    tidy,
)

ESTIMATE = Decimal("0.50")
TEXT = st.text(st.sampled_from('aZ09 {"\\\n\0\u2028é😀'), max_size=1000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)
WORDS = st.sampled_from(["status", "result", "detail", "error", "message", "retryable", "cost"])


@pytest.mark.parametrize("cost", [0, 3, 0.1, 12.5, 1e-9, Decimal("0.333")])
def test_a_usable_cost_is_charged_as_it_is(cost: object) -> None:
    assert charge({"cost": cost}, ESTIMATE) == Charge(Decimal(str(cost)), trusted=True)


@pytest.mark.parametrize("cost", [-0.01, -1, float("nan"), float("inf"), True, False, "1.5", None, [1], {"usd": 1}])
def test_anything_else_is_charged_at_the_estimate(cost: object) -> None:
    assert charge({"cost": cost}, ESTIMATE) == Charge(ESTIMATE, trusted=False)


def test_a_missing_cost_is_charged_at_the_estimate() -> None:
    assert charge({}, ESTIMATE) == Charge(ESTIMATE, trusted=False)


@given(st.dictionaries(WORDS, JSON))
def test_a_charge_is_never_negative(result: dict[str, Any]) -> None:
    assert charge(result, ESTIMATE).cost >= 0


@pytest.mark.parametrize(
    ("status", "expected"), [(408, True), (425, True), (429, True), (500, True), (501, True), (503, True)]
)
def test_busy_and_broken_engines_are_worth_a_retry(status: int, expected: bool) -> None:
    assert retryable_status(status) is expected


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 451])
def test_refused_requests_are_not_worth_a_retry(status: int) -> None:
    assert not retryable_status(status)


def test_a_refusal_speaks_with_the_words_of_its_problem_document() -> None:
    problem = {"type": "about:blank", "title": "Busy", "status": 503, "detail": "try later"}
    assert read_refusal(503, problem, "", 7.0) == Failed("HTTP 503: try later", True, 7.0, 503)


@pytest.mark.parametrize(
    ("problem", "text", "said"),
    [
        ({"title": "Gone"}, "", "HTTP 410: Gone"),
        ({"error": {"message": "bad key"}}, "", "HTTP 410: bad key"),
        ({"detail": [{"loc": ["body"], "msg": "required"}, {"msg": "too long"}]}, "", "HTTP 410: required; too long"),
        ({"detail": 5}, "", "HTTP 410"),
        (None, "<html>no</html>", "HTTP 410: <html>no</html>"),
        (None, "  ", "HTTP 410"),
    ],
)
def test_a_refusal_finds_words_in_other_dialects(problem: dict[str, Any] | None, text: str, said: str) -> None:
    assert read_refusal(410, problem, text, None) == Failed(said, False, None, 410)


def test_words_buried_too_deep_are_not_dug_out() -> None:
    problem: dict[str, Any] = {"detail": "deep"}
    for _ in range(1000):
        problem = {"detail": [problem]}
    assert read_refusal(400, problem, "", None).error == "HTTP 400"


def test_a_redirect_is_a_failure_that_no_retry_mends() -> None:
    assert read_refusal(302, None, "see there", None) == Failed(
        "HTTP 302: redirects are not followed", False, None, 302
    )


@pytest.mark.parametrize("result", [None, [], "ok", 1])
def test_success_without_an_object_is_of_unknown_outcome(result: object) -> None:
    assert isinstance(read_result(result, 200), Unknown)


def test_complete_settles_a_stream_and_progress_does_not() -> None:
    assert read_event("progress", {"percent": 5}, "") is None
    assert read_event("message", {"status": "completed"}, "") is None
    assert read_event("complete", {"cost": 1}, "") == Answered({"cost": 1}, 200)
    assert isinstance(read_event("complete", None, "done"), Unknown)


@pytest.mark.parametrize(
    ("document", "text", "expected"),
    [
        ({"detail": "no"}, "", Failed("no", True, None, 200)),
        ({"detail": "no", "status": 422}, "", Failed("no", False, None, 200)),
        ({"detail": "no", "status": 422, "retryable": True}, "", Failed("no", True, None, 200)),
        ({"error": "no", "retryable": False}, "", Failed("no", False, None, 200)),
        (None, "just words", Failed("just words", True, None, 200)),
        ({}, "", Failed("the engine reported an error", True, None, 200)),
    ],
)
def test_an_error_event_is_a_failure(document: dict[str, Any] | None, text: str, expected: Failed) -> None:
    assert read_event("error", document, text) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"status": "running"}, None),
        ({}, None),
        ({"status": "completed", "result": {"a": 1}}, Answered({"a": 1}, 200)),
        ({"status": "failed", "error": "no"}, Failed("no", True, None, 200)),
        ({"status": "failed", "result": {"detail": "no", "status": 400}}, Failed("no", False, None, 200)),
        ({"status": "failed", "result": "no"}, Failed("no", True, None, 200)),
    ],
)
def test_a_report_settles_an_accepted_call_once_it_is_over(report: dict[str, Any], expected: object) -> None:
    assert read_report(report, 200) == expected


def test_completed_without_a_result_is_of_unknown_outcome() -> None:
    assert isinstance(read_report({"status": "completed"}, 200), Unknown)


@given(st.dictionaries(WORDS, JSON), st.integers(300, 599), TEXT)
def test_nothing_an_engine_says_breaks_the_reading(document: dict[str, Any], status: int, text: str) -> None:
    read_refusal(status, document, text, None)
    read_refusal(status, None, text, None)
    read_event("error", document, text)
    read_event("complete", document, text)
    read_report(document | {"status": "failed"}, 200)
    read_report(document, 200)


@given(TEXT)
def test_an_error_text_fits_on_a_line_and_in_a_row(text: str) -> None:
    line = tidy(text)
    assert len(line) <= ERROR_LENGTH
    assert line.isprintable()
