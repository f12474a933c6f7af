"""Campaign documents: what is accepted, what everything means that was left out, and every place of every error."""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from yarl import URL

from campaigns import library
from campaigns.definition import (
    MOST_BYTES,
    OPERATIONS,
    Campaign,
    EngineStep,
    EnrichStep,
    Invalid,
    World,
    check_inputs,
    json_schema,
    load,
    normalised,
    parse,
    pinned,
    validate,
)
from campaigns.definition.endpoints import placed
from campaigns.estimates import estimate, warnings
from campaigns.report import report_on
from daemon.settings import ENGINE_URLS, EngineSettings, load_settings
from tests.support.commands import orchestrator

ENGINES = load_settings(
    {
        "ORCHESTRATOR_ENGINES__ANALYSIS__URL": "https://engines.example/analysis",
        "ORCHESTRATOR_ENGINES__ANALYSIS__COST_PER_CALL": "0.25",
        "ORCHESTRATOR_ENGINES__WRITER__COMMAND": '["write"]',
        "ORCHESTRATOR_ENGINES__MINE__URL": "http://127.0.0.1:4000",
    }
).engines
WORLD = World(ENGINES, frozenset({"vendor_acquisition"}))
SCHEMA = jsonschema_rs.Draft202012Validator(json_schema())
Loc = tuple[str | int, ...]


def step(**fields: Any) -> dict[str, Any]:
    return {"engine": "prospecting", **{name.rstrip("_"): value for name, value in fields.items()}}


def of(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, **{name.rstrip("_"): value for name, value in fields.items()}}


def doc(*steps: object, **fields: Any) -> dict[str, Any]:
    return {"name": "A campaign", "steps": list(steps or (step(),)), **fields}


def first(**fields: Any) -> dict[str, Any]:
    return doc(step(**fields))


def ref(text: object, **more: Any) -> dict[str, Any]:
    return {"$ref": text, **more}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def flaws(document: object, world: World = WORLD) -> dict[Loc, str]:
    with pytest.raises(Invalid) as refusal:
        validate(document, world)
    errors = refusal.value.errors
    assert len({flaw.loc for flaw in errors}) == len(errors)
    return {flaw.loc: flaw.msg for flaw in errors}


S0, S1 = ("steps", 0), ("steps", 1)
STORED = of("leads", from_="steps.prospecting.prospects")

MALFORMED: dict[str, tuple[object, set[Loc]]] = {
    # the whole
    "no object": ([], {()}),
    "null": (None, {()}),
    "a text": ("campaign", {()}),
    "nothing in it": ({}, {("name",), ("steps",)}),
    "an unknown key": (doc(stepz=[]), {("stepz",)}),
    "a name in snake case": (doc(schedule={"cron": "@daily", "grace_seconds": 1}), {("schedule", "grace_seconds")}),
    "an empty name": (doc(name=""), {("name",)}),
    "a blank name": (doc(name="  "), {("name",)}),
    "a name of two lines": (doc(name="a\nBcc: b"), {("name",)}),
    "a name that is a number": (doc(name=5), {("name",)}),
    "a value that is no JSON": (doc(description=b"x"), {("description",)}),
    "a key that is no text": (dict([*doc().items(), (5, 1)]), {(), (5,)}),
    # schedule and trigger
    "five fields, please": (doc(schedule="0 9 * *"), {("schedule",)}),
    "a cron that never fires": (doc(schedule="0 0 30 2 *"), {("schedule",)}),
    "and one in the long form": (doc(schedule={"cron": "0 0 31 4 *"}), {("schedule", "cron")}),
    "an unknown zone": (doc(schedule={"cron": "@daily", "timezone": "Mars/X"}), {("schedule", "timezone")}),
    "a zone that climbs": (doc(schedule={"cron": "@daily", "timezone": "../UTC"}), {("schedule", "timezone")}),
    "both at once": (doc(schedule={"cron": "x", "timezone": "y"}), {("schedule", "cron"), ("schedule", "timezone")}),
    "braces in a cron": (doc(schedule="{0} * * * *"), {("schedule",)}),
    "a zone without cron": (doc(schedule={"timezone": "UTC"}), {("schedule", "cron")}),
    "a number as schedule": (doc(schedule=5), {("schedule",)}),
    "enabled by a word": (doc(schedule={"cron": "@daily", "enabled": "yes"}), {("schedule", "enabled")}),
    "less than no grace": (doc(schedule={"cron": "@daily", "graceSeconds": -1}), {("schedule", "graceSeconds")}),
    "another table": (doc(trigger={"table": "leads"}), {("trigger", "table")}),
    # inputs
    "an unknown type": (doc(inputs={"a": {"type": "date"}}), {("inputs", "a", "type")}),
    "a default of another type": (doc(inputs={"a": {"type": "integer", "default": "5"}}), {("inputs", "a", "default")}),
    "an input that no reference can name": (doc(inputs={"a.b": {}}), {("inputs", "a.b")}),
    "a list of inputs": (doc(inputs=["a"]), {("inputs",)}),
    "an input that no slot gives": (
        doc(schedule="@daily", inputs={"a": {"required": True}, "b": {"required": True, "default": 1}, "c": {}}),
        {("inputs", "a")},
    ),
    "nor in the long form": (
        doc(schedule={"cron": "@daily", "enabled": True}, inputs={"a": {"required": True, "default": None}}),
        {("inputs", "a")},
    ),
    # budget
    "less than nothing": (doc(budget={"daily": -0.01}), {("budget", "daily")}),
    "a text of money": (doc(budget={"weekly": "5"}), {("budget", "weekly")}),
    "money that is true": (doc(budget={"monthly": True}), {("budget", "monthly")}),
    "money without end": (doc(budget={"perLead": float("inf")}), {("budget", "perLead")}),
    "money that is no number": (doc(budget={"perLead": float("nan")}), {("budget", "perLead")}),
    "an unknown window": (doc(budget={"hourly": 1}), {("budget", "hourly")}),
    # steps
    "no steps": ({"name": "x", "steps": []}, {("steps",)}),
    "steps that are no list": ({"name": "x", "steps": {"0": step()}}, {("steps",)}),
    "too many steps": (doc(*[step(name=f"s{n}") for n in range(201)]), {("steps",)}),
    "a step that is none": (doc("prospecting"), {S0}),
    "a broken one hides nothing": (
        doc(None, step(timeout=0), step(engine="x")), {S0, (*S1, "timeout"), ("steps", 2, "engine")}
    ),
    "no engine": (doc({"name": "x"}), {(*S0, "engine")}),
    "an unknown engine": (first(engine="prospektin"), {(*S0, "engine")}),
    "an engine that is a number": (first(engine=5), {(*S0, "engine")}),
    "an unknown kind": (first(kind="email"), {(*S0, "kind")}),
    "an unknown kind hides nothing": (
        doc(of("mail", template="a/b", onFailure="stop", colour="red", channel="sms")),
        {(*S0, name) for name in ("kind", "template", "onFailure", "colour")},
    ),
    "a kind that is a list": (first(kind=[]), {(*S0, "kind")}),
    "an unknown key in a step": (first(timeOut=5), {(*S0, "timeOut")}),
    "a key of another kind": (first(template="hello"), {(*S0, "template")}),
    "no attempt": (first(retry={"attempts": 0}), {(*S0, "retry", "attempts")}),
    "half an attempt": (first(retry={"attempts": 1.5}), {(*S0, "retry", "attempts")}),
    "an attempt that is true": (first(retry={"attempts": True}), {(*S0, "retry", "attempts")}),
    "all of retry": (
        first(retry={"attempts": "3", "delay": -1, "backoff": "linear", "jitter": 1}),
        {(*S0, "retry", name) for name in ("attempts", "delay", "backoff", "jitter")},
    ),
    "no time": (first(timeout=0), {(*S0, "timeout")}),
    "more than a day": (first(timeout=86_400_001), {(*S0, "timeout")}),
    "an integer beyond all": (first(timeout=10**400), {(*S0, "timeout")}),
    "params that are a list": (first(params=[]), {(*S0, "params")}),
    "a number beyond 64 bits": (first(params={"n": 2**63}), {(*S0, "params", "n")}),
    "half a character": (first(params={"n": "\ud800"}), {(*S0, "params", "n")}),
    "half a character in a name": (first(params={"\ud800": 1}), {(*S0, "params", "\ud800")}),
    "a NUL": (first(name="a\0b"), {(*S0, "name")}),
    "an unknown method": (first(method="BREW"), {(*S0, "method")}),
    "stop where abort is meant": (first(onSuccess="stop", onFailure="stop"), {(*S0, "onSuccess"), (*S0, "onFailure")}),
    "a step's name with a dot": (first(name="v1.2"), {(*S0, "name")}),
    "the same name twice": (doc(step(name="a"), step(name="a"), step(name="a")), {(*S1, "name"), ("steps", 2, "name")}),
    "the same default name": (doc(step(), step()), {(*S1, "name")}),
    "a cost below nothing": (first(cost=-1), {(*S0, "cost")}),
    # endpoints
    "another origin": (first(endpoint="http://169.254.169.254/latest"), {(*S0, "endpoint")}),
    "another engine's origin": (first(endpoint="http://localhost:3001/api/send-batch"), {(*S0, "endpoint")}),
    "another port": (first(endpoint="http://localhost:3011/api/prospect"), {(*S0, "endpoint")}),
    "no port": (first(endpoint="http://localhost/api/prospect"), {(*S0, "endpoint")}),
    "no port at all": (first(endpoint="http://localhost:99999/api"), {(*S0, "endpoint")}),
    "another scheme": (first(endpoint="https://localhost:3010/api/prospect"), {(*S0, "endpoint")}),
    "no scheme of ours": (first(endpoint="file:///etc/passwd"), {(*S0, "endpoint")}),
    "a user": (first(endpoint="http://localhost:3010@evil.example/"), {(*S0, "endpoint")}),
    "a user at the right place": (first(endpoint="http://u:p@localhost:3010/api"), {(*S0, "endpoint")}),
    "no scheme": (first(endpoint="//evil.example/api"), {(*S0, "endpoint")}),
    "no scheme, spelled otherwise": (first(endpoint="/\\evil.example/api"), {(*S0, "endpoint")}),
    "no slash": (first(endpoint="api/prospect"), {(*S0, "endpoint")}),
    "a tab that some skip": (first(endpoint="htt\tp://localhost:3010/api"), {(*S0, "endpoint")}),
    "a fragment": (first(endpoint="http://evil.example#@localhost:3010/"), {(*S0, "endpoint")}),
    "no host": (first(endpoint="http:/api/prospect"), {(*S0, "endpoint")}),
    "an empty endpoint": (first(endpoint=""), {(*S0, "endpoint")}),
    "a host that is none": (first(endpoint="http://[::1/api"), {(*S0, "endpoint")}),
    "a command has no place": (first(engine="writer", endpoint="http://127.0.0.1:4000/api"), {(*S0, "endpoint")}),
    "an engine without usual operations": (first(engine="mine"), {(*S0, "endpoint")}),
    "engine and endpoint": (
        first(engine="nobody", endpoint="http://evil.example/"), {(*S0, "engine"), (*S0, "endpoint")}
    ),
    # references
    "an unknown step": (first(params={"a": [ref("steps.b.c")]}), {(*S0, "params", "a", 0, "$ref")}),
    "itself": (first(params={"a": ref("steps.prospecting")}), {(*S0, "params", "a", "$ref")}),
    "a later step": (
        doc(step(params={"a": ref("steps.later.x")}), step(name="later")), {(*S0, "params", "a", "$ref")}
    ),
    "an unknown input": (
        doc(step(params={"a": ref("inputs.b")}), inputs={"c": {}}), {(*S0, "params", "a", "$ref")}
    ),
    "no reference": (first(params={"a": ref("b.c")}), {(*S0, "params", "a", "$ref")}),
    "a reference to a number": (first(params={"a": ref(5)}), {(*S0, "params", "a", "$ref")}),
    "a reference in company": (
        doc(step(params={"a": ref("inputs.c", b=1)}), inputs={"c": {}}), {(*S0, "params", "a", "$ref")}
    ),
    "params that are one reference": (
        first(params=ref("steps.prospecting.x")), {(*S0, "params", "$ref")}
    ),
    "a lead where there is none": (first(params={"a": ref("lead.name")}), {(*S0, "params", "a", "$ref")}),
    "references of a step of no shape": (
        doc(of("mail", params={"a": ref("steps.x")})), {(*S0, "kind"), (*S0, "params", "a", "$ref")}
    ),
    # the other kinds
    "a checkpoint without any name": (doc(of("checkpoint")), {(*S0, "checkpoint")}),
    "a checkpoint that never lasts": (doc(of("checkpoint", name="a", expiresAfter=0)), {(*S0, "expiresAfter")}),
    "a checkpoint with an endpoint": (doc(of("checkpoint", name="a", endpoint="/x")), {(*S0, "endpoint")}),
    "leads from nowhere": (doc(of("leads")), {(*S0, "from")}),
    "leads from an unknown step": (doc(of("leads", from_="steps.a.b")), {(*S0, "from")}),
    "leads from no reference": (doc(of("leads", from_=ref("prospects"))), {(*S0, "from", "$ref")}),
    "leads from a number": (doc(of("leads", from_=5)), {(*S0, "from")}),
    "leads from a reference to a number": (doc(of("leads", from_=ref(5))), {(*S0, "from", "$ref")}),
    "leads from an object": (doc(of("leads", from_={"a": 1})), {(*S0, "from")}),
    "leads into no pipeline": (doc(step(), {**STORED, "pipeline": "nowhere"}), {(*S1, "pipeline")}),
    "a column that isn't theirs": (doc(step(), {**STORED, "map": {"stage": "a"}}), {(*S1, "map", "stage")}),
    "no path": (doc(step(), {**STORED, "map": {"name": "a..b", "data.x": 5}}),
                {(*S1, "map", "name"), (*S1, "map", "data.x")}),
    "nobody to enrich": (doc(of("enrich")), {(*S0, "from")}),
    "an unknown enricher": (doc(step(), STORED, of("enrich", engine="x")), {("steps", 2, "engine")}),
    "an unknown priority": (doc(step(), STORED, of("enrich", priority="urgent")), {("steps", 2, "priority")}),
    "nothing to send": (doc(of("messages")), {(*S0, "from")}),
    "nobody to send a template to": (doc(of("messages", template="hello")), {(*S0, "from")}),
    "a template that climbs": (doc(step(), STORED, of("messages", template="../hello")), {("steps", 2, "template")}),
    "an unknown channel": (doc(step(), STORED, of("messages", template="x", channel="fax")), {("steps", 2, "channel")}),
    # notifications and metadata
    "no address": (doc(notifications={"onComplete": {"email": "nobody"}}), {("notifications", "onComplete", "email")}),
    "no hook": (doc(notifications={"onFailure": {"slack": "#sales"}}), {("notifications", "onFailure", "slack")}),
    "no Apprise URL": (doc(notifications={"onBudget": {"urls": ["x"]}}), {("notifications", "onBudget", "urls", 0)}),
    "an unknown occasion": (doc(notifications={"onPartial": {}}), {("notifications", "onPartial")}),
    "a tag that is a number": (doc(metadata={"tags": ["a", 5]}), {("metadata", "tags", 1)}),
    "projectId": (doc(metadata={"projectId": "x"}), {("metadata", "projectId")}),
    # absurd
    "too deep": (first(params={"a": nested(50)}), {(*S0, "params", "a", *[0] * 46)}),
    "too large": (first(params={"a": "x" * MOST_BYTES}), {()}),
    # everything at once
    "everything": (
        {
            "name": "", "schedule": {"cron": "61 * * * *", "timezone": "Nowhere"}, "budget": {"daily": -1}, "extra": 1,
            "inputs": {"a": {"type": "word"}},
            "steps": [
                step(retry={"attempts": 0}, endpoint="http://evil.example"), 7, step(params={"b": ref("steps.none")}),
                of("leads", from_="inputs.nothing", pipeline="x"),
            ],
        },
        {("name",), ("schedule", "cron"), ("schedule", "timezone"), ("budget", "daily"), ("extra",),
         ("inputs", "a", "type"), (*S0, "retry", "attempts"), (*S0, "endpoint"), S1, ("steps", 2, "name"),
         ("steps", 2, "params", "b", "$ref"), ("steps", 3, "from"), ("steps", 3, "pipeline")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_document_is_refused_with_the_place_of_every_error(case: str) -> None:
    document, places = MALFORMED[case]
    assert flaws(document).keys() == places


@pytest.mark.parametrize("schedule", [None, {"cron": "@daily", "enabled": False}], ids=["none", "off"])
def test_what_no_schedule_starts_may_require_its_inputs(schedule: object) -> None:
    assert validate(doc(schedule=schedule, inputs={"a": {"required": True}}), WORLD).inputs["a"].required


def test_a_duplicate_name_says_what_to_do() -> None:
    assert "set `name`" in flaws(doc(step(), step()))[*S1, "name"]


def test_a_misspelling_is_guessed() -> None:
    assert flaws(first(onFailiure="log"))[*S0, "onFailiure"].endswith("is onFailure meant?")
    assert flaws(first(engine="prospektin"))[*S0, "engine"].endswith("nearest: prospecting")


# -- text


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (b"", {()}),
        (b"{", {()}),
        (b"\xff", {()}),
        (b'{"name": NaN}', {()}),
        (b"[" * 100_000, {()}),
        (b" " * (MOST_BYTES + 1), {()}),
        (b'{"a": 1} {}', {()}),
        (b'{"name": "a", "name": "b", "steps": [{"engine": "sms"}]}', {("name",)}),
        (b'{"name": "a", "steps": [{"engine": "sms", "params": {"a": {"b": 1, "b": 1, "c": 2}}}]}',
         {(*S0, "params", "a", "b")}),
        (b'{"name": "a", "steps": [{"engine": "sms", "cost": 1e999}]}', {(*S0, "cost")}),
        (b'{"name": "a", "steps": [{"engine": "sms", "cost": 1' + b"0" * 5000 + b"}]}", {(*S0, "cost")}),
    ],
)  # fmt: skip
def test_text_that_is_no_document_is_refused_in_its_place(text: bytes, places: set[Loc]) -> None:
    with pytest.raises(Invalid) as refusal:
        load(text, WORLD)
    assert {flaw.loc for flaw in refusal.value.errors} == places


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


# -- what was left out


def only(document: object) -> Any:
    return validate(document, WORLD).steps[0]


def test_defaults_are_filled_in() -> None:
    assert normalised(validate(doc(schedule="@daily"), WORLD)) == {
        "name": "A campaign", "description": None, "trigger": None, "inputs": {},
        "schedule": {"cron": "@daily", "timezone": "UTC", "enabled": True, "graceSeconds": 3600},
        "budget": {"daily": None, "weekly": None, "monthly": None, "perLead": None},
        "steps": [{
            "name": "prospecting", "kind": "engine", "engine": "prospecting", "endpoint": "/api/prospect",
            "method": "POST", "params": {}, "timeout": 300_000, "cost": None, "onSuccess": "continue",
            "onFailure": "abort", "retry": {"attempts": 1, "delay": 0, "backoff": "fixed"},
        }],
        "notifications": {on: {"email": None, "slack": None, "urls": []}
                          for on in ("onComplete", "onFailure", "onBudget")},
        "metadata": {"project_id": None, "tags": [], "owner": None},
    }  # fmt: skip


def test_null_is_the_same_as_nothing() -> None:
    blank = dict.fromkeys(("description", "schedule", "trigger", "inputs", "budget", "notifications", "metadata"), None)
    assert validate(doc(**blank), WORLD) == validate(doc(), WORLD)
    assert validate(doc(notifications={"onComplete": None}), WORLD) == validate(doc(), WORLD)


def test_sender_is_the_outreach_engine_sending() -> None:
    sender = only(first(engine="sender"))
    assert (sender.name, sender.engine, sender.endpoint) == ("sender", "outreach", "/api/send-batch")
    own = World({**ENGINES, "sender": ENGINES["mine"]}, WORLD.pipelines)
    mine = validate(first(engine="sender"), own).steps[0]
    assert isinstance(mine, EngineStep)
    assert (mine.engine, mine.endpoint) == ("sender", "/api/send-batch")


def test_every_shipped_engine_has_a_first_operation() -> None:
    assert ENGINE_URLS.keys() <= OPERATIONS.keys()
    for engine in ENGINE_URLS:
        assert only(first(engine=engine)).endpoint == OPERATIONS[engine][0]


def test_names_sources_and_pipelines_follow_from_what_stands_before() -> None:
    campaign = validate(
        doc(step(), STORED, of("enrich"), of("messages", template="hello"), of("checkpoint", name="gate"),
            of("checkpoint", checkpoint="emails")),
        WORLD,
    )  # fmt: skip
    steps = normalised(campaign)["steps"]
    assert [one["name"] for one in steps] == ["prospecting", "leads", "contacts", "messages", "gate", "emails"]
    assert [one.get("from") for one in steps[1:4]] == ["steps.prospecting.prospects", "steps.leads.leads",
                                                       "steps.leads.leads"]  # fmt: skip
    assert [one["checkpoint"] for one in steps[4:]] == ["gate", "emails"]
    assert steps[1]["pipeline"] == "vendor_acquisition"
    assert (steps[2]["engine"], steps[2]["endpoint"]) == ("contacts", "/api/contacts")


def test_leads_go_into_the_outreach_pipeline_where_there_is_one() -> None:
    world = World(ENGINES, frozenset({"vendor_acquisition", "company_outreach"}))
    assert normalised(validate(doc(step(), STORED), world))["steps"][1]["pipeline"] == "company_outreach"


def test_a_source_may_be_written_as_in_params() -> None:
    written = {**STORED, "from": ref("steps.prospecting.prospects")}
    assert validate(doc(step(), written), WORLD) == validate(doc(step(), STORED), WORLD)


def test_a_lead_is_known_in_the_params_of_an_enrichment() -> None:
    validate(doc(step(), STORED, of("enrich", params={"who": ref("lead.data.website")})), WORLD)


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert only(first(timeout=5000.0)).timeout == 5000


def test_money_keeps_its_digits() -> None:
    assert validate(doc(budget={"perLead": 0.1}), WORLD).budget.per_lead == Decimal("0.1")


# -- endpoints


@pytest.mark.parametrize(
    ("engine", "endpoint", "operation"),
    [
        ("prospecting", "/api/prospect", "/api/prospect"),
        ("prospecting", "/api/prospect?a=1&b=%20", "/api/prospect?a=1&b=%20"),
        ("prospecting", "http://localhost:3010/api/other", "/api/other"),
        ("prospecting", "HTTP://LocalHost:3010/api/other", "/api/other"),
        ("prospecting", "http://localhost:3010", "/"),
        ("prospecting", "/../../etc/passwd", "/etc/passwd"),
        ("prospecting", "/a/..//evil.example", "/evil.example"),
        ("analysis", "/../secret", "/secret"),
        ("analysis", "/%2e%2e/secret", "/secret"),
        ("analysis", "https://engines.example/analysis/api/analyze", "/api/analyze"),
        ("analysis", "https://Engines.EXAMPLE:443/analysis/x/../y", "/y"),
        ("analysis", "https://engines.example/other", "https://engines.example/other"),
        ("analysis", "https://engines.example/analysis/../other", "https://engines.example/other"),
        ("analysis", "https://engines.example/analysis2", "https://engines.example/analysis2"),
        ("analysis", "http://localhost:3000/api/analyze", "/api/analyze"),  # where it usually is
        ("writer", "http://localhost:3007/api/write", "/api/write"),
        ("mine", "http://127.0.0.1:4000/go", "/go"),
    ],
)
def test_an_endpoint_is_placed_at_its_engine(engine: str, endpoint: str, operation: str) -> None:
    found = only(first(engine=engine, endpoint=endpoint))
    assert found.endpoint == operation
    assert found.url == (None if operation.startswith("/") else operation)


TEXTS = st.text(alphabet="/.%2ef:@\\#?evil[]", max_size=30) | st.text(max_size=30)


@given(endpoint=st.sampled_from(["", "/", "https://engines.example", "https://engines.example/analysis/"]).flatmap(
    lambda start: TEXTS.map(lambda rest: start + rest)))  # fmt: skip
@settings(deadline=None)
@example("https://\u2488/")
@example("https://xn--/")
@example("http://[v1.a]/")
def test_no_endpoint_leaves_the_engines_origin(endpoint: str) -> None:
    engine = ENGINES["analysis"]
    try:
        found = placed(endpoint, engine)
    except ValueError:
        return
    called = URL(f"{engine.url}/{found.lstrip('/')}" if found.startswith("/") else found)
    assert called.origin() == URL(str(engine.url)).origin()
    assert not found.startswith("/") or called.raw_path.startswith("/analysis/")
    assert placed(found, engine) == found


# -- any document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=8), inner),
    max_leaves=12,
)
REFERENCE = st.sampled_from(["inputs.a", "steps.prospecting.x[*]", "steps.leads", "inputs.a[0].b"]).map(ref)
MONEY = st.sampled_from([0, 0.1, 5, 19.99, None]) | st.floats(0, 1e6)
SOURCE = st.sampled_from(["steps.prospecting.prospects", "steps.leads.leads", "inputs.a", ref("inputs.a")])
PRIORITY = st.sampled_from(["high", "normal", "low"])
COMMON: Mapping[str, st.SearchStrategy[Any]] = {
    "params": st.dictionaries(st.sampled_from(["p", "q"]), REFERENCE | st.lists(REFERENCE | st.integers(0, 9))),
    "timeout": st.sampled_from([1, 5000.0, 86_400_000]),
    "cost": MONEY,
    "retry": st.fixed_dictionaries(
        {}, optional={"attempts": st.integers(1, 5), "delay": st.just(5), "backoff": st.just("exponential")}
    ),
    "onSuccess": st.sampled_from(["continue", "abort"]),
    "onFailure": st.sampled_from(["continue", "abort", "log"]),
}
CALLS = {
    "endpoint": st.sampled_from(["/x", "/../x?y=1", "/%2e%2e/%7e"]),
    "method": st.sampled_from(["GET", "POST", "DELETE"]),
}
OWN: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    "engine": CALLS,
    "checkpoint": {"checkpoint": st.just("emails"), "expiresAfter": st.none() | st.integers(1, 10**9)},
    "leads": {
        "pipeline": st.just("vendor_acquisition"),
        "map": st.just({"name": "t", "data.x": "y[0].z"}),
        "priority": PRIORITY,
    },
    "enrich": {"engine": st.sampled_from(["contacts", "sms", "sender"]), "from": SOURCE, "priority": PRIORITY, **CALLS},
    "messages": {"from": SOURCE, "channel": st.just("sms"), "priority": PRIORITY},
}
NEEDED: Mapping[str, Mapping[str, st.SearchStrategy[Any]]] = {
    "engine": {"engine": st.sampled_from(["prospecting", "sender", "analysis", "writer"])},
    "checkpoint": {},
    "leads": {"from": SOURCE},
    "enrich": {},
    "messages": {"template": st.sampled_from(["hello", "hello.txt"])},
}
AROUND: Mapping[str, st.SearchStrategy[Any]] = {
    "schedule": st.sampled_from([None, "@daily", {"cron": "0 9 * * MON", "timezone": "Asia/Tokyo", "enabled": False}]),
    "budget": st.none() | st.fixed_dictionaries({}, optional={"daily": MONEY, "perLead": MONEY}),
    "trigger": st.just({"table": "search_criteria"}),
    "notifications": st.sampled_from([None, {"onBudget": {"email": "a@b.example", "urls": ["json://x"]}}]),
    "metadata": st.sampled_from([None, {"project_id": "p", "tags": ["t"], "owner": None}]),
    "description": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
}


def good_step(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"kind": st.just(kind), **NEEDED[kind]}, optional={**COMMON, **OWN[kind]})


def together(around: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    named = [{"name": f"s {number}", **one} for number, one in enumerate(steps)]
    return {**around, "name": "x", "inputs": {"a": {"type": "array"}}, "steps": [step(), STORED, *named]}


GOOD = st.builds(
    together, st.fixed_dictionaries({}, optional=dict(AROUND)),
    st.lists(st.sampled_from(sorted(OWN)).flatmap(good_step), max_size=3),
)  # fmt: skip


@st.composite
def spoilt(draw: st.DrawFn) -> object:
    """A good document, some values of which are anything."""
    document = json.loads(json.dumps(draw(GOOD)))
    for _ in range(draw(st.integers(1, 3))):
        spoil(draw, document)
    return document


def spoil(draw: st.DrawFn, value: Any) -> None:
    places = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = draw(st.sampled_from([*places, "more"] if isinstance(value, dict) else places))
    inside = value[place] if place in places else None
    if isinstance(inside, dict | list) and inside and draw(st.booleans()):
        spoil(draw, inside)
    else:
        value[place] = draw(JSON)


def attempt(document: object) -> Campaign | Invalid:
    try:
        return validate(document, WORLD)
    except Invalid as refusal:
        return refusal


def holds(document: object) -> Campaign | None:
    """The campaign, checked in every way; or None if it is refused as it should be."""
    campaign = attempt(document)
    if not isinstance(campaign, Campaign):
        assert campaign.errors
        assert all(flaw.msg for flaw in campaign.errors)
        assert str(campaign)
        return None
    pin = normalised(campaign)
    assert json.loads(json.dumps(pin, allow_nan=False)) == pin
    assert normalised(validate(pin, WORLD)) == pin
    assert pinned(pin) == campaign
    return campaign


@given(JSON)
@settings(deadline=None)
def test_any_json_value_is_a_campaign_or_has_a_flaw(document: object) -> None:
    holds(document)


@given(spoilt())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_document_with_anything_in_it_is_a_campaign_or_has_a_flaw(document: object) -> None:
    if holds(document):
        assert errors(document) == []


@given(GOOD)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(doc(step(retry={})))
def test_what_is_accepted_is_stable_and_agrees_with_its_schema(document: Any) -> None:
    campaign = holds(document)
    assert campaign is not None
    assert errors(document) == []
    assert errors(normalised(campaign)) == []


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(deadline=None)
def test_any_text_is_a_campaign_or_has_a_flaw(text: bytes) -> None:
    report = report_on(text, WORLD)
    assert report.errors
    assert all(str(flaw) for flaw in report.errors)


def errors(document: object) -> list[str]:
    return [str(error) for error in SCHEMA.iter_errors(document)]


# -- the schema


SHAPELESS = [
    "nothing in it", "an unknown key", "an empty name", "a number as schedule", "enabled by a word", "another table",
    "an unknown type", "less than nothing", "a text of money", "an unknown window", "no steps", "no engine",
    "an unknown kind", "an unknown key in a step", "a key of another kind", "no attempt", "half an attempt",
    "no time", "more than a day", "params that are a list", "an unknown method", "a step's name with a dot",
    "a checkpoint with an endpoint", "leads from nowhere", "leads from a number", "a template that climbs",
    "an unknown occasion", "a tag that is a number", "too many steps",
]  # fmt: skip


@pytest.mark.parametrize("case", SHAPELESS)
def test_the_schema_refuses_what_is_of_no_shape(case: str) -> None:
    assert errors(MALFORMED[case][0])


def test_the_schema_says_which_dialect_it_is() -> None:
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert json_schema()["required"] == ["name", "steps"]


# -- inputs

ASKED = validate(
    doc(inputs={
        "industry": {"type": "string", "required": True}, "count": {"type": "integer", "default": 20},
        "share": {"type": "number"}, "deep": {"type": "boolean"}, "ids": {"type": "array"}, "any": {},
    }),
    WORLD,
)  # fmt: skip


def test_inputs_get_their_defaults() -> None:
    assert check_inputs(ASKED, {"industry": "Retail", "share": 1, "any": {"x": 1}, "ids": None}) == {
        "industry": "Retail", "count": 20, "share": 1, "deep": None, "ids": None, "any": {"x": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given_", "places"),
    [
        ({}, {"industry"}),
        ({"industry": None}, {"industry"}),
        ({"industry": 5, "count": 1.5, "share": "1", "deep": 0, "ids": {}},
         {"industry", "count", "share", "deep", "ids"}),
        ({"industry": "x", "count": True, "other": 1}, {"count", "other"}),
        ({"industry": "\0"}, {"industry"}),
        ({"industry": "x", "share": float("nan")}, {"share"}),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit_are_refused(given_: dict[str, Any], places: set[str]) -> None:
    with pytest.raises(Invalid) as refusal:
        check_inputs(ASKED, given_)
    assert {flaw.loc for flaw in refusal.value.errors} == {("inputs", name) for name in places}


# -- estimates


def estimates(*steps: dict[str, Any]) -> Iterator[Decimal]:
    return (estimate(one, ENGINES) for one in validate(doc(*steps), WORLD).steps)


def test_an_estimate_is_the_steps_own_else_the_engines() -> None:
    found = estimates(step(cost=0.3), step(engine="analysis"), step(name="free"), STORED, of("enrich", cost=0.05))
    assert list(found) == [Decimal("0.3"), Decimal("0.25"), 0, 0, Decimal("0.05")]


def test_calls_without_a_figure_are_told() -> None:
    campaign = validate(
        doc(step(cost=0), step(engine="analysis"), step(engine="sms"), step(engine="sourcing", cost=1)), WORLD
    )
    assert [flaw.loc for flaw in warnings(campaign, WORLD)] == [("steps", 2, "cost"), ("steps", 3, "engine")]


def test_an_engine_said_to_be_free_is_believed() -> None:
    free = EngineSettings(name="sms", url="http://localhost:3002", cost_per_call=Decimal(0))
    world = World({**ENGINES, "sms": free}, WORLD.pipelines)
    assert warnings(validate(first(engine="sms"), world), world) == ()


# -- what is shipped


@pytest.mark.parametrize("name", library.names())
def test_a_shipped_campaign_is_valid_wherever_its_engines_are(name: str) -> None:
    text = library.shipped(name)
    assert text is not None
    campaign = load(text, World(load_settings({}).engines, WORLD.pipelines))
    assert holds(library.document(name)) == campaign
    assert errors(library.document(name)) == []


def test_the_shipped_campaigns_are_what_they_are_called() -> None:
    assert {"monthly-retail", "test-campaign", "weekly-restaurant"} <= set(library.names())
    weekly, monthly, trial = (
        validate(library.document(name), WORLD) for name in ("weekly-restaurant", "monthly-retail", "test-campaign")
    )
    assert weekly.schedule
    assert monthly.schedule
    assert trial.schedule is None
    assert (weekly.schedule.cron, weekly.schedule.timezone) == ("0 9 * * MON", "America/New_York")
    assert monthly.schedule.cron == "0 9 1 * *"
    assert [one.name for one in weekly.steps] == [one.name for one in monthly.steps]
    assert trial.steps[0].params["count"] == 2
    sending = [one for one in trial.steps if isinstance(one, EngineStep | EnrichStep) and "send" in one.endpoint]
    assert sending == []
    assert not any(one.kind == "messages" for one in trial.steps)


@pytest.mark.parametrize("name", ["nothing", "../definition/model", "weekly-restaurant.json", ""])
def test_nothing_else_is_shipped(name: str) -> None:
    assert library.shipped(name) is None
    with pytest.raises(KeyError):
        library.document(name)


# -- the command


def test_a_report_has_a_line_for_each_error() -> None:
    text = json.dumps(doc(step(retry={"attempts": 0}), name="")).encode()
    lines = report_on(text, WORLD).lines()
    assert [line.partition(": ")[0] for line in lines] == ["name", "steps[0].retry.attempts"]
    assert next(report_on(b"{", WORLD).lines()).startswith("document: is not JSON")


async def test_the_command_says_what_it_found(home: Path) -> None:
    good, bad = home / "good.json", home / "bad.json"
    good.write_text(json.dumps(doc(step(cost=0.1), schedule="0 9 * * MON")))
    bad.write_text(json.dumps(doc(step(retry={"attempts": 0}), name="")))
    fine = await orchestrator(home, "campaigns", "validate", good)
    assert (fine.code, fine.out, fine.err) == (0, "A campaign: valid; 1 step, 0 9 * * MON UTC\n", "")
    refused = await orchestrator(home, "campaigns", "validate", bad, "--json")
    assert (refused.code, refused.err) == (1, f"{bad} is not valid: 2 to correct\n")
    assert [flaw["loc"] for flaw in json.loads(refused.out)["errors"]] == [["name"], ["steps", 0, "retry", "attempts"]]


async def test_the_command_shows_the_schema(home: Path) -> None:
    shown = await orchestrator(home, "campaigns", "validate", "--schema")
    assert (shown.code, json.loads(shown.out)) == (0, json_schema())


async def test_the_command_refuses_what_it_cannot_read(home: Path) -> None:
    said = await orchestrator(home, "campaigns", "validate", home)
    assert (said.code, said.out, said.err) == (1, "", f"can't read {home}: Is a directory\n")
