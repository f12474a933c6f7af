"""What people say of an agent's work arrives with its next request, and a repeated request says what the first did.

Mutants that these tests kill (each one line, tried by hand):
  learnings.sql leaves out `f.active`, or `NOT LIKE 'system (%'`; reception.py queues `payload`; classifier.py says []
  steps/learnings.py: `for_call` never pins, or doesn't look at calls_before; `taught` says `dict(body)` at its end
  handlers/approvals.py: `_said` answers []
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.learnings import HEADING
from tests.support.api import serving
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Engines, Refuses
from tests.support.processes import until
from tests.support.runs import Running, running, step

AGENT = """
import json, sys
asked = sys.stdin.read()
open(sys.argv[1], "w").write(asked)
print(json.dumps({"category": "interested", "confidence": 1, "cost": 0}))
"""
"""A command agent that keeps what it was asked."""


async def say(t: Timeline, agent: str, feedback: str, **of: Any) -> None:
    """A person says something in SQL, a moment after what was said before."""
    row = {"agent": agent, "feedback": feedback, "created_by": "ann", **of}
    names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
    await t.sql(f"INSERT INTO agent_feedback ({names}) VALUES ({places})", *row.values())


async def change_their_minds(t: Timeline) -> None:
    """Whatever was said is taken back, reworded, and something else is said."""
    await t.sql("UPDATE agent_feedback SET active = false, feedback = feedback || '!', effect = 'none'")
    for agent in ("classifier", "prospecting", "contacts"):
        await say(t, agent, "Something else")


def learnt(engines: Engines, engine: str) -> list[Any]:
    """What each request to the engine carried; None: it has no such field."""
    return [asked.body.get("learnings") for asked in engines.requests(engine)]


# -- the classifier


async def test_the_classifier_is_told_what_people_have_said_the_newest_first(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="OFFER_MADE")
        await t.reply(lead, "Nothing yet")
        await say(t, "classifier", "A thumb\nis no acceptance", effect="12 → 3 mistakes")
        await say(t, "classification", "Sarcasm is a rejection")
        await say(t, "classifier", "Taken back", active=False)
        await say(t, "classifier", "No person's", created_by="system (auto)")
        await say(t, "scout", "Somebody else's")
        await t.reply(lead, "Something now")
        told = ["Sarcasm is a rejection", "A thumb is no acceptance → 12 → 3 mistakes"]
        assert learnt(t.engines, "classifier") == [[], told]


async def test_the_classifier_is_told_what_was_said_when_its_work_was_rejected(dsn: str) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="OFFER_MADE")
        await t.reply(lead, "Mmh", "interested")
        await t.reply(lead, "Aha", "interested")
        first, second = [r["id"] for r in await t.requests_for_a_person(lead)]
        decide = "UPDATE approval_queue SET status = $1, decided_by = 'ann', comment = $2 WHERE id = $3"
        await t.sql(decide, "rejected", " That was no interest ", first)
        await t.sql(decide, "approved", "I rang her", second)
        await t.quiet()
        [kept] = await t.sql("SELECT agent, feedback, approval_id, created_by FROM agent_feedback")
        assert tuple(kept) == ("replies", "That was no interest", first, "ann")
        await t.reply(lead, "Oh")
        assert learnt(t.engines, "classifier")[-1] == ["That was no interest"]


async def test_the_classifier_is_told_what_was_said_by_the_api(dsn: str) -> None:
    async with Engines().serving() as engines, serving(dsn, ENGINES__CLASSIFIER__URL=engines.url("classifier")) as api:
        said = await api.post("/api/feedback", {"agent": "classifier", "feedback": "Be strict", "created_by": "ann"})
        assert said.status == 201
        await api.lead(stage="OFFER_MADE")
        reply = {"channel": "sms", "from": "+15550001234", "body": "Mmh"}
        assert (await api.post("/api/replies", reply)).status == 202

        async def asked() -> bool:
            return bool(engines.requests("classifier"))

        await until(asked, 10.0, "the classifier is asked")
        assert learnt(engines, "classifier") == [["Be strict"]]


@pytest.mark.parametrize("before", [("Be strict",), ()], ids=["something", "nothing"])
async def test_a_classifier_that_is_asked_again_is_told_the_same(dsn: str, before: Sequence[str]) -> None:
    async with scenario(dsn) as t:
        lead = await t.lead(stage="OFFER_MADE")
        for feedback in before:
            await say(t, "classifier", feedback)
        t.engines.on("classifier", Refuses(503, retry_after_s=60), times=1)
        await t.reply(lead, "Mmh")
        await change_their_minds(t)
        await t.after(minutes=2)
        first, second = t.engines.requests("classifier")
        assert (first.key, first.body) == (second.key, second.body)
        assert first.body["learnings"] == list(before)


async def test_the_prompt_of_a_command_agent_begins_with_what_it_has_to_learn(dsn: str, tmp_path: Path) -> None:
    kept = tmp_path / "asked.json"
    command = json.dumps([sys.executable, "-c", AGENT, str(kept)])
    async with scenario(dsn, ENGINES__CLASSIFIER__URL="-", ENGINES__CLASSIFIER__COMMAND=command) as t:
        lead = await t.lead(stage="OFFER_MADE")
        await say(t, "classifier", "Be strict", effect="12 → 3 mistakes")
        await t.reply(lead, "Mmh")
        asked = json.loads(kept.read_text())
        assert asked["prompt"].startswith(f"{HEADING}\nBe strict → 12 → 3 mistakes\n\nClassify the reply")
        assert asked["request"]["learnings"] == ["Be strict → 12 → 3 mistakes"]


async def test_how_much_it_is_told_is_a_setting(dsn: str) -> None:
    async with scenario(dsn, LEARNINGS__MOST="2", LEARNINGS__CHARACTERS="100") as t:
        lead = await t.lead(stage="OFFER_MADE")
        for feedback in ("old", "new", "newest"):
            await say(t, "classifier", feedback)
        await t.reply(lead, "Mmh")
        await say(t, "classifier", "n" * 98)
        await t.reply(lead, "Aha")
        assert learnt(t.engines, "classifier") == [["newest", "new"], ["n" * 98]]


# -- steps of campaigns


async def test_a_step_tells_its_engine_what_people_have_said_and_adds_nothing_if_nobody_did(dsn: str) -> None:
    async with running(dsn) as r:
        await say(r.t, "prospecting", "Add OC", effect="contacts 89 → 234")
        params = {"brief": {"city": "LA"}}
        run = await r.start(step("prospecting", params=params), step("analysis", params=params))
        await r.ended(run, "completed")
        [prospecting], [analysis] = r.engines.requests("prospecting"), r.engines.requests("analysis")
        assert prospecting.body == {**params, "learnings": ["Add OC → contacts 89 → 234"]}
        assert analysis.body == params
        assert (await r.step(run, "prospecting"))["attempts"] == 1, "pinning costs no attempt"


async def test_sourcing_has_the_field_whatever_has_been_said(dsn: str) -> None:
    async with running(dsn) as r:
        await r.ended(await r.start(step("sourcing", params={"criteria": {"beds": 3}})), "completed")
        await say(r.t, "sourcing", "Add OC")
        await r.ended(await r.start(step("sourcing", params={"criteria": {"beds": 3}})), "completed")
        assert [a.body for a in r.engines.requests("sourcing")] == [
            {"criteria": {"beds": 3}, "learnings": []},
            {"criteria": {"beds": 3}, "learnings": ["Add OC"]},
        ]


async def test_what_a_person_says_at_a_gate_is_told_when_the_run_begins_anew(dsn: str) -> None:
    async with running(dsn) as r:
        run = await r.start(step("prospecting"), step("gate", "checkpoint", checkpoint="leads"))
        await r.waits(run, "waiting")
        decide = "UPDATE approval_queue SET status = 'rejected', decided_by = 'ann', comment = 'Too narrow, add OC'"
        await r.t.sql(decide)
        await r.ended(run, "aborted")
        assert await r.do("retry_run", run, "prospecting")
        await r.waits(run, "waiting")
        first, second = r.engines.requests("prospecting")
        assert ("learnings" in first.body, second.body["learnings"]) == (False, ["Too narrow, add OC"])
        assert first.key != second.key


async def between_tries(r: Running) -> None:
    """The first try has failed; people change their minds, the daemon starts anew, and it is time for the next one."""
    await change_their_minds(r.t)
    await r.t.restart(minutes=2)


@pytest.mark.parametrize("before", [("Add OC",), ()], ids=["something", "nothing"])
async def test_a_step_that_is_tried_again_sends_the_same(dsn: str, before: Sequence[str]) -> None:
    async with running(dsn) as r:
        for feedback in before:
            await say(r.t, "prospecting", feedback)
        r.engines.on("prospecting", Refuses(503), times=1)
        run = await r.start(step("prospecting", retry={"attempts": 2, "delay": 60_000}))
        await r.retries(run, 1)
        await between_tries(r)
        await r.ended(run, "completed")
        first, second = r.engines.requests("prospecting")
        assert (first.key, first.body) == (second.key, second.body)
        assert first.body == ({"learnings": list(before)} if before else {})


@pytest.mark.parametrize("before", [("Ask twice",), ()], ids=["something", "nothing"])
async def test_an_enrichment_that_is_tried_again_sends_the_same(dsn: str, before: Sequence[str]) -> None:
    async with running(dsn) as r:
        for feedback in before:
            await say(r.t, "contacts", feedback)
        lead = await r.t.lead(stage="DUE_DILIGENCE")
        r.engines.on("contacts", Refuses(503), times=1)
        asks = step("enrich", "enrich", from_=[str(lead)], params={"a": 1}, retry={"attempts": 2, "delay": 60_000})
        run = await r.start(asks)
        failed = "SELECT EXISTS (SELECT FROM tasks WHERE kind = 'run.item' AND status = 'available' AND attempt = 1)"
        await r.t.eventually(failed)
        await between_tries(r)
        await r.ended(run, "completed")
        first, second = r.engines.requests("contacts")
        assert (first.key, first.body) == (second.key, second.body)
        assert first.body == ({"a": 1, "learnings": list(before)} if before else {"a": 1})
