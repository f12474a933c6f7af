"""Steps that store leads, ask about each of them, and write to them.

Mutants that these tests kill (each one line, tried by hand):
  effects.sql: `count_children` queues the join whatever is left; `more_items` with 11; `lead_found` sets do_not_contact
  to the new value
  steps/messages.py: the key is `attempt.key(lead_id)`, which names the round
"""

from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.support.engines import Answers, Drops, Hangs, Refuses
from tests.support.runs import Document, Running, running, step

FOUND: list[Document] = [
    {"id": "p1", "name": "Ann", "company": "Ann's", "phone": "+15550100001", "website": "ann.example", "tier": "High"},
    {"id": "p2", "name": "Bob", "email": "bob@example.com", "score": 7.5, "industry": "Retail"},
    {"id": "p3", "name": "Cy"},
]
STORE = step("store", "leads", from_="steps.prospecting.prospects")
ENRICH = step("enrich", "enrich", from_="steps.store.leads")


async def found(r: Running, *prospects: Document, **more: Any) -> None:
    """What the prospecting engine finds from now on."""
    r.engines.answers["prospecting"] = {"prospects": list(prospects), "cost": 0.5, **more}


def many(count: int) -> list[Document]:
    """So many prospects."""
    return [{"id": f"p{n}", "name": f"Prospect {n}"} for n in range(count)]


async def stored(r: Running, run: UUID) -> list[Document]:
    """The leads in the result of the step that stores."""
    leads: list[Document] = (await r.row(run))["results"]["store"]["leads"]
    return leads


# -- leads


async def test_results_become_leads_that_the_run_owns(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *FOUND)
        run = await r.start(step("prospecting"), STORE)
        row = await r.ended(run, "completed")
        result = row["results"]["store"]
        assert (result["found"], result["created"], result["updated"], result["skipped"]) == (3, 3, 0, 0)
        leads = {lead["external_id"]: lead for lead in await r.t.sql("SELECT * FROM leads ORDER BY external_id")}
        assert {lead["run_id"] for lead in leads.values()} == {run}
        assert {(lead["pipeline"], lead["source"]) for lead in leads.values()} == {("vendor_acquisition", "Weekly")}
        assert (leads["p1"]["name"], leads["p1"]["tier"], leads["p1"]["data"]) == (
            "Ann",
            "high",
            {"website": "ann.example"},
        )
        assert (leads["p2"]["score"], leads["p2"]["data"]) == (pytest.approx(7.5), {"industry": "Retail"})
        assert [lead["id"] for lead in result["leads"]] == [str(leads[i]["id"]) for i in ("p1", "p2", "p3")]
        assert result["leads"][0]["data"] == {"website": "ann.example"}


async def test_the_same_results_again_are_the_same_leads_and_only_fill_what_they_lack(dsn: str) -> None:
    async with running(dsn) as r:
        await found(
            r, {"id": "p1", "name": "Ann", "phone": "+15550100001", "do_not_contact": True, "industry": "Retail"}
        )
        first = await r.start(step("prospecting"), STORE)
        await r.ended(first, "completed")
        await found(
            r, {"id": "p1", "name": "Anna", "email": "a@b.example", "do_not_contact": False, "industry": "", "size": 3}
        )
        again = await r.start(step("prospecting"), STORE)
        result = (await r.ended(again, "completed"))["results"]["store"]
        assert (result["created"], result["updated"]) == (0, 1)
        [lead] = await r.t.sql("SELECT * FROM leads")
        assert (lead["name"], lead["phone"], lead["email"]) == ("Ann", "+15550100001", "a@b.example")
        assert lead["do_not_contact"], "nobody who wants no contact is made to want it"
        assert (lead["data"], lead["run_id"]) == ({"industry": "Retail", "size": 3}, first)


async def test_a_map_says_what_goes_where(dsn: str) -> None:
    async with running(dsn) as r:
        await found(
            r, {"ref": 17, "owner": {"name": "Ann", "phones": ["+15550100001"]}, "sector": "Retail", "noise": 1}
        )
        mapped = {"external_id": "ref", "name": "owner.name", "phone": "owner.phones[0]", "data.industry": "sector"}
        run = await r.start(step("prospecting"), {**STORE, "map": mapped, "params": {"source": "list"}})
        await r.ended(run, "completed")
        [lead] = await r.t.sql("SELECT * FROM leads")
        assert (lead["external_id"], lead["name"], lead["phone"], lead["source"]) == (
            "17",
            "Ann",
            "+15550100001",
            "list",
        )
        assert lead["data"] == {"industry": "Retail"}


async def test_who_is_found_twice_is_one_lead_and_who_is_nobody_is_none(dsn: str) -> None:
    async with running(dsn) as r:
        twice = {"name": "Ann", "email": "ann@example.com"}
        await found(r, twice, dict(twice), {"name": "Bob", "city": "Leeds"}, {"tier": "high"}, {})
        run = await r.start(step("prospecting"), STORE)
        result = (await r.ended(run, "completed"))["results"]["store"]
        assert (result["created"], result["skipped"]) == (2, 3)
        again = await r.start(step("prospecting"), STORE)
        await r.ended(again, "completed")
        assert await r.t.value("SELECT count(*) FROM leads") == 2


@pytest.mark.parametrize("prospects", [None, "none", [], {"a": 1}, [1, None, "x"]])
async def test_a_source_that_is_no_list_of_objects_stores_nothing(dsn: str, prospects: Any) -> None:
    async with running(dsn) as r:
        r.engines.answers["prospecting"] = {"prospects": prospects, "cost": 0}
        run = await r.start(step("prospecting"), STORE)
        row = await r.ended(run, "completed")
        assert (row["results"]["store"]["leads"], await r.t.value("SELECT count(*) FROM leads")) == ([], 0)


async def test_odd_values_never_refuse_a_step(dsn: str) -> None:
    odd = {
        "id": 5,
        "name": ["Ann"],
        "phone": 15550100001,
        "tier": "gold",
        "score": "high",
        "data": [1],
        "x": {"y": None},
    }
    async with running(dsn) as r:
        await found(r, odd)
        run = await r.start(step("prospecting"), STORE)
        await r.ended(run, "completed")
        [lead] = await r.t.sql("SELECT * FROM leads")
        assert (lead["external_id"], lead["name"], lead["phone"], lead["tier"]) == ("5", None, "15550100001", None)
        assert lead["data"] == {"x": {"y": None}}


async def test_prospects_that_their_engine_counted_are_counted_once(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *FOUND, found=3)
        run = await r.start(step("prospecting"), STORE)
        await r.ended(run, "completed")
        assert await r.t.value("SELECT run_sum(results, 'found') FROM campaign_runs") == 3


async def test_a_pipeline_that_is_not_there_fails_the_run_and_stores_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *FOUND)
        run = await r.start(step("prospecting"), {**STORE, "pipeline": "no_such"})
        row = await r.ended(run, "failed")
        assert "no_such" in row["errors"][0]["error"]
        assert await r.alerts(run) == ["AGENT_FAILURE"]
        assert await r.t.value("SELECT count(*) FROM leads") == 0


async def test_a_lead_that_somebody_holds_delays_its_step_and_no_other_run(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *FOUND)
        first = await r.start(step("prospecting"), STORE)
        await r.ended(first, "completed")
        async with r.t.session() as other:
            looking = other.transaction()
            await looking.start()
            await other.execute("SELECT FROM leads WHERE external_id = 'p2' FOR UPDATE")
            again = await r.start(step("prospecting"), STORE)
            await r.t.wait_for(r.outcome_waits, "no outcome waits for the lock")
            beside = await r.start(step("analysis"))
            await r.ended(beside, "completed")
            await looking.rollback()
        await r.ended(again, "completed")


# -- enrich


async def test_each_lead_is_asked_about_once_and_the_step_sums_up(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *FOUND)
        contact = {
            "fields": {"owner": "Ann"},
            "contacts": [{"name": "X", "phone": "+15550109999", "email": "x@y.example"}],
        }
        r.engines.answers["contacts"] = {**contact, "cost": 0.01}
        run = await r.start(step("prospecting"), STORE, ENRICH, step("analysis"))
        row = await r.ended(run, "completed")
        leads = await stored(r, run)
        asked = r.engines.requests("contacts")
        assert sorted(a.key for a in asked) == sorted(f"run:{run}:2:{lead['id']}" for lead in leads)
        assert {"name", "company", "city", "region", "website", "lead"} == set(asked[0].body)
        assert next(iter(asked[0].body["lead"])) == "id"
        result = row["results"]["enrich"]
        assert (result["enriched"], result["failed"]) == (3, 0)
        assert [one["lead_id"] for one in result["results"]] == [lead["id"] for lead in leads]
        rows = {lead["external_id"]: lead for lead in await r.t.sql("SELECT * FROM leads")}
        assert {lead["data"]["owner"] for lead in rows.values()} == {"Ann"}
        assert (rows["p1"]["phone"], rows["p1"]["email"]) == ("+15550100001", "x@y.example")
        assert (rows["p2"]["phone"], rows["p2"]["email"]) == ("+15550109999", "bob@example.com")
        assert float(await r.balanced(run)) == pytest.approx(0.5 + 0.03 + 0.25)


async def test_params_may_speak_of_the_lead(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, FOUND[0])
        params = {"who": {"$ref": "lead.name"}, "site": {"$ref": "lead.data.website"}, "in": {"$ref": "inputs.city"}}
        run = await r.start(step("prospecting"), STORE, {**ENRICH, "params": params}, inputs={"city": "Leeds"})
        await r.ended(run, "completed")
        assert r.engines.requests("contacts")[0].body == {"who": "Ann", "site": "ann.example", "in": "Leeds"}


async def test_what_fails_stops_nobody_else(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(5))
        r.engines.on("contacts", Refuses(404), times=2)
        run = await r.start(step("prospecting"), STORE, ENRICH, step("analysis"))
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], result["failed"]) == (3, 2)
        assert Counter("error" in one for one in result["results"]) == {False: 3, True: 2}


async def test_a_step_of_which_everything_failed_has_failed(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(3))
        r.engines.on("contacts", Refuses(404))
        run = await r.start(step("prospecting"), STORE, ENRICH)
        row = await r.ended(run, "failed")
        assert row["errors"][0]["error"].startswith("all 3 failed: contacts: HTTP 404")
        assert row["results"]["enrich"]["failed"] == 3


async def test_each_item_has_tries_of_its_own(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(3))
        r.engines.on("contacts", Refuses(503), times=3)
        run = await r.start(step("prospecting"), STORE, {**ENRICH, "retry": {"attempts": 4, "delay": 0}})
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], len(r.engines.requests("contacts"))) == (3, 6)


async def test_an_unknown_outcome_is_a_failed_item_and_a_person_is_told(dsn: str) -> None:
    async with running(dsn, ENGINES__CONTACTS__COST_PER_CALL="0.2") as r:
        await found(r, *many(2))
        r.engines.on("contacts", Drops(after_effect=True), times=1)
        run = await r.start(step("prospecting"), STORE, {**ENRICH, "retry": {"attempts": 3, "delay": 0}})
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], result["failed"], len(r.engines.requests("contacts"))) == (1, 1, 2)
        assert await r.alerts(run) == ["UNKNOWN_OUTCOME"]
        assert float(await r.balanced(run)) == pytest.approx(0.5 + 0.2 + 0.25)


async def test_nobody_to_ask_about_is_no_failure(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r)
        run = await r.start(step("prospecting"), STORE, ENRICH)
        row = await r.ended(run, "completed")
        assert row["results"]["enrich"] == {"enriched": 0, "failed": 0, "results": []}


async def test_leads_that_are_gone_fail_alone(dsn: str) -> None:
    async with running(dsn) as r:
        lead = await r.t.lead()
        run = await r.start({**ENRICH, "from": "inputs.leads"}, inputs={"leads": [str(lead), str(uuid4()), "nobody"]})
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], result["failed"]) == (1, 1)
        assert result["results"][1]["error"] == "the lead is gone"


async def test_at_most_ten_are_asked_about_at_once(dsn: str) -> None:
    async with running(dsn, ENGINES__CONTACTS__MAX_CONCURRENCY="50") as r:
        await found(r, *many(25))
        hangs = Hangs()
        r.engines.on("contacts", hangs, times=10)
        run = await r.start(step("prospecting"), STORE, ENRICH)
        await r.t.wait_for(lambda: _length(r, 10), "ten calls")
        assert await r.t.value("SELECT count(*) FROM tasks WHERE kind = 'run.item'") == 10
        assert (await r.step(run, "enrich"))["children_left"] == 25
        hangs.release()
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], len(r.engines.requests("contacts"))) == (25, 25)


async def _length(r: Running, calls: int) -> bool:
    return len(r.engines.requests("contacts")) == calls


async def test_the_join_comes_once_however_the_last_ones_race(dsn: str) -> None:
    async with running(dsn, ENGINES__CONTACTS__MAX_CONCURRENCY="64") as r:
        await r.t.start()  # two daemons, four committers
        await found(r, *many(40))
        runs = [await r.start(step("prospecting"), STORE, {**ENRICH, "name": "enrich"}) for _ in range(6)]
        for run in runs:
            row = await r.ended(run, "completed")
            assert row["results"]["enrich"]["enriched"] == 40
        joins = "SELECT count(*) FROM task_log WHERE kind = 'run.step' AND payload ->> 'position' = '2'"
        assert await r.t.value(joins) == 2 * len(runs), "one to fan out and one to sum up"
        assert set(Counter(a.key for a in r.engines.requests("contacts")).values()) == {1}


async def test_a_paused_fan_out_goes_on_when_resumed(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(25))
        hangs = Hangs()
        r.engines.on("contacts", hangs, times=10)
        run = await r.start(step("prospecting"), STORE, ENRICH)
        await r.t.wait_for(lambda: _length(r, 10), "ten calls")
        assert await r.do("pause_run", run)
        hangs.release()
        await r.t.eventually(
            "SELECT children_left = 15 FROM campaign_run_steps WHERE run_id = $1 AND position = 2", run
        )
        await r.at_rest()
        assert len(r.engines.requests("contacts")) == 10
        assert await r.do("resume_run", run)
        assert (await r.ended(run, "completed"))["results"]["enrich"]["enriched"] == 25


async def test_a_cancelled_fan_out_ends_and_pays_for_what_was_in_flight(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(25))
        hangs = Hangs()
        r.engines.on("contacts", hangs, times=10)
        run = await r.start(step("prospecting"), STORE, ENRICH)
        await r.t.wait_for(lambda: _length(r, 10), "ten calls")
        assert await r.do("cancel_run", run)
        hangs.release()
        await r.t.eventually("SELECT total_cost = 3 FROM campaign_runs WHERE id = $1", run)
        await r.at_rest()
        assert len(r.engines.requests("contacts")) == 10
        assert float(await r.balanced(run)) == pytest.approx(0.5 + 10 * 0.25)
        assert await r.t.value("SELECT total_cost FROM campaigns") == 3


async def test_a_retry_asks_only_about_those_that_failed(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(6))
        r.engines.on("contacts", Refuses(404), times=2)
        run = await r.start(step("prospecting"), STORE, ENRICH)
        await r.ended(run, "completed")
        assert await r.do("retry_run", run, "enrich")
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], result["failed"], len(r.engines.requests("contacts"))) == (6, 0, 8)
        assert float(await r.balanced(run)) == pytest.approx(0.5 + 6 * 0.25)


async def test_cancelling_the_task_of_one_item_fails_that_one(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *many(2))
        r.engines.on("contacts", Refuses(503), times=1)
        run = await r.start(step("prospecting"), STORE, {**ENRICH, "retry": {"attempts": 2, "delay": 3_600_000}})
        await r.t.eventually("SELECT children_left = 1 FROM campaign_run_steps WHERE run_id = $1 AND position = 2", run)
        waiting = "SELECT id FROM tasks WHERE kind = 'run.item' AND status = 'available' AND attempt = 1"
        await r.t.eventually(f"SELECT EXISTS ({waiting})")
        await r.cancel_task(await r.t.value(waiting))
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert (result["enriched"], result["failed"]) == (1, 1)


# -- messages

DRAFTED = step("write", "messages", from_="steps.writer.drafts")


async def drafts(r: Running, *texts: Document) -> None:
    """What the writer writes from now on."""
    r.engines.answers["writer"] = {"drafts": list(texts), "cost": 0.1}


async def test_drafts_become_scheduled_messages_one_per_lead(dsn: str) -> None:
    async with running(dsn) as r:
        ann, bob = await r.t.lead(email="ann@example.com"), await r.t.lead(email="bob@example.com")
        await drafts(
            r,
            {"lead_id": str(ann), "subject": "Hello", "body": "Dear Ann"},
            {"lead_id": str(bob), "body": "Dear Bob", "to": "robert@example.com"},
            {"lead_id": str(ann), "subject": "Hello again", "body": "Dear Ann"},
            {"lead_id": str(bob), "body": " "},
            {"lead_id": str(uuid4()), "body": "Dear nobody"},
            {"body": "to whom?"},
        )
        run = await r.start(step("writer"), DRAFTED)
        row = await r.ended(run, "completed")
        assert row["results"]["write"] == {"scheduled": 2, "skipped": 4}
        sql = "SELECT * FROM messages WHERE run_id = $1 ORDER BY subject NULLS LAST"
        first, second = await r.t.sql(sql, run)
        assert (first["lead_id"], first["subject"], first["body"], first["step"]) == (ann, "Hello", "Dear Ann", "write")
        assert first["idempotency_key"] == f"run:{run}:1:{ann}"
        assert (second["lead_id"], second["to_address"], second["channel"]) == (bob, "robert@example.com", "email")


async def test_a_campaigns_messages_wait_and_say_why(dsn: str) -> None:
    """Mutant: leave out the look at `run_id` in messages._not_now, and they go out without limits and windows."""
    async with running(dsn) as r:
        ann = await r.t.lead(email="ann@example.com")
        await drafts(r, {"lead_id": str(ann), "subject": "Hello", "body": "Dear Ann"})
        run = await r.start(step("writer"), DRAFTED)
        await r.ended(run, "completed")
        told = "SELECT reason LIKE 'a campaign%' FROM messages WHERE run_id = $1"
        await r.t.eventually(told, run)
        for _ in range(2):
            [message] = await r.t.sql("SELECT status, sent_at FROM messages WHERE run_id = $1", run)
            assert (message["status"], message["sent_at"]) == ("scheduled", None)
            await r.t.after(days=1)
        assert (
            await r.t.value("SELECT count(*) FROM engine_calls WHERE operation = '/api/send' AND run_id = $1", run) == 0
        )


async def test_a_template_is_filled_in_with_each_leads_own_row(dsn: str, tmp_path: Any) -> None:
    (tmp_path / "templates").mkdir()
    text = "Subject: For {{ lead.company }}\n\nDear {{ lead.name }}, {{ inputs.offer }}? {{ lead.data.website }}\n"
    (tmp_path / "templates" / "hello.j2").write_text(text)
    async with running(dsn, HOME=str(tmp_path)) as r:
        await found(r, FOUND[0])
        write = step("write", "messages", template="hello")
        run = await r.start(step("prospecting"), STORE, write, inputs={"offer": "coffee"})
        await r.ended(run, "completed")
        [message] = await r.t.sql("SELECT * FROM messages WHERE run_id = $1", run)
        assert (message["subject"], message["body"]) == ("For Ann's", "Dear Ann, coffee? ann.example")
        assert message["template"] == "hello"


NO_LETTERS = {
    "missing": (None, "hello"),
    "unknown": ("{{ lead.nothing }}", "nothing"),
    "broken": ("{% if %}", "Expected"),
    "impossible": ("{{ 1 / 0 }}", "zero"),
    "curious": ("{{ ''.__class__.__mro__ }}", "unsafe"),
}


@pytest.mark.parametrize(("text", "said"), NO_LETTERS.values(), ids=NO_LETTERS)
async def test_a_template_that_cannot_be_filled_in_fails_the_step_clearly(
    dsn: str, tmp_path: Any, text: str | None, said: str
) -> None:
    (tmp_path / "templates").mkdir()
    if text is not None:
        (tmp_path / "templates" / "hello").write_text(text)
    async with running(dsn, HOME=str(tmp_path)) as r:
        await found(r, *FOUND)
        run = await r.start(step("prospecting"), STORE, step("write", "messages", template="hello"))
        row = await r.ended(run, "failed")
        assert said in row["errors"][0]["error"]
        assert await r.t.value("SELECT count(*) FROM messages WHERE run_id = $1", run) == 0


async def test_nobody_is_written_to_twice_however_often_the_run_is_begun_anew(dsn: str) -> None:
    async with running(dsn) as r:
        ann = await r.t.lead(email="ann@example.com")
        await drafts(r, {"lead_id": str(ann), "subject": "Hello", "body": "Dear Ann"})
        run = await r.start(step("writer"), DRAFTED)
        await r.ended(run, "completed")
        for name in ("write", "writer"):
            assert await r.do("retry_run", run, name)
            row = await r.ended(run, "completed")
            assert row["results"]["write"] == {"scheduled": 0, "skipped": 1}
        assert await r.t.value("SELECT count(*) FROM messages WHERE run_id = $1", run) == 1


async def test_a_dry_run_writes_nothing(dsn: str) -> None:
    async with running(dsn) as r:
        await found(r, *FOUND)
        run = await r.start(step("prospecting"), STORE, ENRICH, DRAFTED, dry_run=True)
        row = await r.ended(run, "completed")
        assert set(map(str, row["results"].values())) == {"{'dryRun': True}"}
        assert await r.t.value("SELECT (SELECT count(*) FROM leads) + (SELECT count(*) FROM messages)") == 0


async def test_answers_of_an_unknown_shape_are_kept_as_they_are(dsn: str) -> None:
    async with running(dsn) as r:
        r.engines.on("contacts", Answers({"fields": [1], "contacts": {"a": 1}, "phone": 5, "email": None}))
        lead = await r.t.lead(email=None)
        run = await r.start({**ENRICH, "from": "inputs.leads"}, inputs={"leads": [{"lead_id": str(lead)}]})
        result = (await r.ended(run, "completed"))["results"]["enrich"]
        assert result["enriched"] == 1
        assert await r.t.get(lead, "email") is None
