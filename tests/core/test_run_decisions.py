"""What follows from a step: pure decisions, and the property that a run's records are a prefix of its definition."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.decisions import (
    UNSUCCESSFUL,
    Again,
    End,
    GivenUp,
    Next,
    after_failure,
    delay_s,
    ending,
    follows,
    too_dear,
    total,
)
from campaigns.facts import effect_key, lead_id_of
from campaigns.steps.leads import as_lead
from daemon.answers import Failed, Unknown

NOTHING = Decimal(0)
OUTCOMES = ("completed", "failed", "unknown")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def declared(on_failure: str = "abort", on_success: str = "continue") -> Mapping[str, Any]:
    return {"onFailure": on_failure, "onSuccess": on_success}


def walked(steps: list[Mapping[str, Any]], outcomes: list[str]) -> tuple[list[str], End]:
    """The records of a run whose steps come to these outcomes, and its end."""
    document, statuses, position = {"steps": steps}, ["pending"] * len(steps), 0
    while True:
        assert statuses[position] == "pending", "no step runs twice"
        assert all(s != "pending" for s in statuses[:position]), "no step is passed over"
        statuses[position] = outcomes[position]
        then = follows(document, statuses, position, NOTHING, NOTHING)
        if isinstance(then, End):
            return ["skipped" if s == "pending" else s for s in statuses], then
        position = then.position


def expected(steps: list[Mapping[str, Any]], outcomes: list[str]) -> tuple[int, str]:
    """How many steps ran and what the run came to, worked out another way."""
    partial = False
    for n, (step, outcome) in enumerate(zip(steps, outcomes, strict=True)):
        bad = outcome in UNSUCCESSFUL
        if bad and step["onFailure"] == "abort":
            return n + 1, "failed"
        partial |= bad and step["onFailure"] == "continue"
        if not bad and step["onSuccess"] == "abort":
            return n + 1, "partial" if partial else "completed"
    return len(steps), "partial" if partial else "completed"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("abort", "continue", "log")),
            st.sampled_from(("continue", "continue", "abort")),
            st.sampled_from(OUTCOMES),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_runs_records_are_always_a_prefix_of_its_definition(drawn: list[tuple[str, str, str]]) -> None:
    steps, outcomes = [declared(f, s) for f, s, _ in drawn], [o for _, _, o in drawn]
    records, end = walked(steps, outcomes)
    ran, status = expected(steps, outcomes)
    assert records == outcomes[:ran] + ["skipped"] * (len(steps) - ran)
    assert end.status == status


# -- tries


def test_a_failure_worth_it_is_tried_again_until_the_tries_are_used_up() -> None:
    retry = {"attempts": 3, "delay": 5000, "backoff": "fixed"}
    answers = [after_failure(Failed("no", True), n, retry, honours_keys=False, random=0.5) for n in (1, 2, 3)]
    assert answers == [Again("no", 5.0), Again("no", 5.0), GivenUp("failed", "no")]


def test_what_is_refused_for_good_is_given_up_at_once() -> None:
    retry = {"attempts": 5}
    assert after_failure(Failed("no", False), 1, retry, honours_keys=True, random=0) == GivenUp("failed", "no")


@pytest.mark.parametrize("honours_keys", [True, False])
def test_an_unknown_outcome_is_repeated_only_if_the_engine_honours_keys(honours_keys: bool) -> None:
    then = after_failure(Unknown("lost"), 1, {"attempts": 2}, honours_keys=honours_keys, random=0)
    assert then == (Again("lost", 0.0) if honours_keys else GivenUp("unknown", "lost"))
    over = after_failure(Unknown("lost"), 2, {"attempts": 2}, honours_keys=honours_keys, random=0)
    assert over == GivenUp("unknown", "lost")


def test_retry_after_is_obeyed_and_never_shortens_the_delay() -> None:
    retry = {"attempts": 2, "delay": 10_000}
    waits = [
        after_failure(Failed("no", True, asked), 1, retry, honours_keys=False, random=0) for asked in (None, 3.0, 99.0)
    ]
    assert waits == [Again("no", 10.0), Again("no", 10.0), Again("no", 99.0)]


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 86_400_000))
def test_a_backoff_doubles_with_jitter_and_has_an_end(tries: int, random: float, delay: int) -> None:
    doubled = delay_s({"delay": delay, "backoff": "exponential"}, tries, random)
    whole = min(delay / 1000 * 2.0 ** min(tries - 1, 60), 86_400.0)
    assert whole / 2 <= doubled + 1e-6
    assert doubled <= whole + 1e-6
    assert delay_s({"delay": delay, "backoff": "fixed"}, tries, random) == delay / 1000


def test_without_a_retry_there_is_one_call() -> None:
    assert after_failure(Failed("no", True), 1, {}, honours_keys=True, random=0) == GivenUp("failed", "no")


# -- money


@pytest.mark.parametrize(
    ("found", "cost", "dear"), [(0, 100, False), (10, 2, False), (10, "2.01", True), (1, "0.2", False)]
)
def test_a_run_is_too_dear_once_a_prospect_costs_more_than_allowed(found: int, cost: Any, dear: bool) -> None:
    assert bool(too_dear({"budget": {"perLead": 0.2}}, Decimal(found), Decimal(cost))) is dear


def test_a_failure_that_aborts_comes_before_a_run_that_is_too_dear() -> None:
    document = {"steps": [declared(), declared()], "budget": {"perLead": 0}}
    assert follows(document, ["failed", "pending"], 0, Decimal(1), Decimal(1)).status == "failed"  # type: ignore[union-attr]
    assert follows(document, ["completed", "pending"], 0, Decimal(1), Decimal(1)).status == "aborted"  # type: ignore[union-attr]


@pytest.mark.parametrize("document", [{}, {"budget": None}, {"budget": {}}, {"budget": {"perLead": None}}])
def test_without_a_limit_nothing_is_too_dear(document: Mapping[str, Any]) -> None:
    assert too_dear(document, Decimal(1), Decimal(10**9)) == ""


def test_no_limit_at_all_follows_on() -> None:
    assert follows({"steps": [{}, {}]}, ["completed", "pending"], 0, Decimal(1), Decimal(1)) == Next(1)
    assert ending({"steps": [{}]}, ["completed"]).status == "completed"


@given(st.dictionaries(st.text(), json_values))
def test_sums_take_numbers_and_nothing_else(results: Mapping[str, Any]) -> None:
    assert total({**results, "a": {"found": 2}, "b": {"found": 3}}, "found").is_finite()


# -- keys and leads


def test_a_key_names_run_step_item_and_round() -> None:
    assert effect_key("r", 2, 0) == "run:r:2"
    assert effect_key("r", 2, 1) == "run:r:2#1"
    assert effect_key("r", 2, 1, "lead") == "run:r:2:lead#1"


@given(json_values)
def test_any_item_is_a_lead_or_none(item: Any) -> None:
    found = as_lead(item, {})
    assert found is None or (found.external_id and isinstance(found.columns["data"], dict))
    named = as_lead({"id": "x", "name": item, "tier": item, "score": item, "data": item}, {"email": "name[0].a"})
    assert named is not None


def test_a_lead_is_named_by_its_id_however_the_item_says_it() -> None:
    lead = uuid4()
    for item in (lead, str(lead), {"id": str(lead)}, {"lead_id": lead, "id": "other"}):
        assert lead_id_of(item) == lead
    nobodies: list[Any] = [None, "", "p1", 5, {}, {"id": "p1"}, []]
    assert not any(map(lead_id_of, nobodies))
