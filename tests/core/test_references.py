"""References in params: what they may say, and the values they bring."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaigns.references import Every, Reference, follow, parse, parse_path, references, resolve, value_of

ITEM = Every.ITEM
INPUTS = {"industry": "Retail", "ids": ["a", "b"]}
RESULTS = {
    "prospecting": {"found": 2, "prospects": [{"id": "p1", "tags": ["x", "y"]}, {"id": "p2"}, {"tags": ["z"]}]},
    "send it": {"sent": None},
    "dry": {"dryRun": True},
    "sly": {"text": {"$ref": "inputs.industry"}},
}
LEAD = {"name": "Blue Door Cafe", "data": {"website": "https://cafe.example", "phones": ["1", "2"]}}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("inputs.industry", Reference("inputs", "industry", ())),
        ("inputs.ids[*]", Reference("inputs", "ids", (ITEM,))),
        ("steps.send it", Reference("steps", "send it", ())),
        ("steps.a-b.prospects[*].id", Reference("steps", "a-b", ("prospects", ITEM, "id"))),
        ("steps.a.rows[0][*]", Reference("steps", "a", ("rows", 0, ITEM))),
        ("lead.data.website", Reference("lead", "", ("data", "website"))),
    ],
)
def test_a_reference_is_read(text: str, meant: Reference) -> None:
    assert parse(text) == meant


@pytest.mark.parametrize(
    "text",
    ["", "inputs", "inputs.", "steps", "lead", "steps..x", "steps.a.", "steps.a[", "steps.a[]", "steps.a[-1]",
     "steps.a[x]", "steps.[*]", "steps.a[*]id", "outputs.a", "Steps.a", " steps.a[ * ]", f"steps.{'a' * 600}"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be inputs\.NAME"):
        parse(text)


@given(st.text(alphabet="abs.[]*0$ \n", max_size=20) | st.text(max_size=20))
@settings(deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parse, parse_path):
        with suppress(ValueError):
            assert read(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("inputs.industry", "Retail"),
        ("inputs.ids", ["a", "b"]),
        ("inputs.ids[1]", "b"),
        ("inputs.ids[2]", None),
        ("inputs.missing", None),
        ("inputs.missing[*]", []),
        ("inputs.industry[*]", []),
        ("inputs.industry.length", None),
        ("steps.prospecting.found", 2),
        ("steps.prospecting.prospects[*].id", ["p1", "p2"]),
        ("steps.prospecting.prospects[*].tags", [["x", "y"], ["z"]]),
        ("steps.prospecting.prospects[*].tags[*]", ["x", "y", "z"]),
        ("steps.prospecting.prospects.id", None),
        ("steps.prospecting.nothing[*].id", []),
        ("steps.send it.sent", None),
        ("steps.never ran", None),
        ("steps.never ran.rows[*]", []),
        ("steps.dry", None),
        ("steps.dry.dryRun", None),
        ("steps.dry.prospects[*].id", []),
        ("lead.data.phones[0]", "1"),
        ("lead.email", None),
    ],
)
def test_a_reference_brings_its_value(text: str, value: object) -> None:
    assert value_of(text, INPUTS, RESULTS, LEAD) == value


def test_without_a_lead_there_is_nothing_of_it() -> None:
    assert value_of("lead.name", INPUTS, RESULTS) is None


def test_params_are_resolved_at_any_depth_and_nothing_else_is_changed() -> None:
    params = {"a": [{"b": {"$ref": "steps.prospecting.prospects[*].id"}}, 1, None], "plain": "inputs.industry"}
    assert resolve(params, INPUTS, RESULTS) == {"a": [{"b": ["p1", "p2"]}, 1, None], "plain": "inputs.industry"}
    assert params["plain"] == "inputs.industry"


def test_what_an_engine_answers_is_no_reference() -> None:
    assert resolve({"x": {"$ref": "steps.sly.text"}}, INPUTS, RESULTS) == {"x": {"$ref": "inputs.industry"}}


def test_references_are_found_with_their_places() -> None:
    params = {"a": [{"$ref": "inputs.x"}], "b": {"$ref": "inputs.y", "c": 1}, "d": {"$ref": 5}}
    assert list(references(params, ("params",))) == [
        (("params", "a", 0, "$ref"), "inputs.x"),
        (("params", "b", "$ref"), None),
        (("params", "d", "$ref"), 5),
    ]


def test_a_path_leads_through_objects_and_lists_only() -> None:
    assert follow({"owner": {"phones": ["1"]}}, parse_path("owner.phones[0]")) == "1"
    assert follow({"owner": "phones"}, parse_path("owner.phones[0]")) is None
    assert follow(["a"], ("0",)) is None
