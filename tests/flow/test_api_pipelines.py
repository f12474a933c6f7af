"""The declared pipelines and the monitor of their leads, over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from daemon.api.leads import Event
from daemon.api.pipelines import Drawn
from tests.support.api import Client, serving
from tests.support.postgres import Server

VENDOR = "/api/pipelines/vendor_acquisition"
PARTS = ("", "/counts", "/value", "/stuck", "/activity")


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon for the tests that leave it as it is."""
    dsn = await server.clone()
    async with serving(dsn) as client:
        yield client
    await server.drop(dsn)


@pytest.mark.parametrize("part", PARTS)
async def test_no_pipeline_is_shown_to_strangers_and_none_is_made_up(api: Client, part: str) -> None:
    (await api.ask("GET", f"{VENDOR}{part}", token=None)).problem(401)
    (await api.ask("GET", f"/api/pipelines/no_such{part}")).problem(404)
    reply = await api.ask("GET", f"{VENDOR}{part}?limitt=1")
    reply.problem(422)
    assert reply.places == [["query", "limitt"]]


async def test_a_pipeline_is_shown_as_it_is_declared(api: Client) -> None:
    shown = (await api.get(VENDOR))["pipeline"]
    Drawn.model_validate(shown)
    stages = {stage["name"]: stage for stage in shown["stages"]}
    assert (shown["initial"], len(stages), shown["stages"][0]["name"]) == ("NEW_LEAD", 15, "NEW_LEAD")
    assert stages["RETRY_3"]["to"] == ["OFFER_ACCEPTED", "OFFER_REJECTED", "DEAD_LEAD"]
    assert stages["RETRY_3"]["deadlines"] == [72 * 3600.0]
    assert stages["AI_CONVERSATION"]["counts_silence"] is True
    assert stages["AI_CONVERSATION"]["on_complete"] == "DEAL_VALIDATION"
    assert "bedrooms" in stages["DEAL_VALIDATION"]["required"]
    assert stages["COMPLETED"]["terminal"] is True
    assert shown["mermaid"].startswith("stateDiagram-v2")


async def test_pipelines_are_listed_by_name(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute("INSERT INTO pipelines (name, initial) VALUES ('another', 'one'), ('zebra', 'one')")
        await api.conn.execute("INSERT INTO stages (pipeline, name, position) VALUES ('zebra', 'one', 0)")
        everyone = [p["name"] for p in (await api.get("/api/pipelines"))["pipelines"]]
        assert everyone == sorted(everyone)
        seen: list[str] = []
        page = await api.get("/api/pipelines", limit="1")
        while True:
            seen += [p["name"] for p in page["pipelines"]]
            if page["nextCursor"] is None:
                break
            page = await api.get("/api/pipelines", limit="1", cursor=page["nextCursor"])
        assert seen == everyone
        (await api.ask("GET", "/api/pipelines", token=None)).problem(401)
        (await api.ask("GET", "/api/pipelines?cursor=x")).problem(422)
        zebra = (await api.get("/api/pipelines/zebra"))["pipeline"]
        assert (zebra["mermaid"], [s["name"] for s in zebra["stages"]]) == (None, ["one"])


async def test_every_stage_is_counted_the_empty_ones_too(dsn: str) -> None:
    async with serving(dsn) as api:
        empty = await api.get(f"{VENDOR}/counts")
        assert (len(empty["counts"]), set(empty["counts"].values()), empty["total"]) == (15, {0}, 0)
        assert next(iter(empty["counts"])) == "NEW_LEAD"
        for stage in ("DUE_DILIGENCE", "DUE_DILIGENCE", "COMPLETED"):
            await api.lead(stage=stage)
        await api.conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE stage = 'DUE_DILIGENCE'")
        counts = await api.get(f"{VENDOR}/counts")
        assert {s: n for s, n in counts["counts"].items() if n} == {"COMPLETED": 1, "DEAD_LEAD": 2}
        assert counts["total"] == 3


async def test_offers_are_worth_what_is_open_and_what_was_completed(dsn: str) -> None:
    async with serving(dsn) as api:
        for stage, offer in (
            ("DUE_DILIGENCE", 100_000.5), ("OFFER_ACCEPTED", "50000"), ("COMPLETED", 70_000), ("DEAD_LEAD", 1),
            ("DUE_DILIGENCE", "a lot"), ("DUE_DILIGENCE", None), ("DUE_DILIGENCE", {"x": 1}), ("COMPLETED", 1e300),
        ):  # fmt: skip
            await api.lead(stage=stage, data={"offer_amount": offer})
        await api.lead(
            stage="DUE_DILIGENCE", tier="high", data={"savings_low": 100, "savings_mid": 200, "savings_high": 300}
        )
        await api.lead(stage="DUE_DILIGENCE", tier="low", data={"savings_mid": 1000})
        value = (await api.get(f"{VENDOR}/value"))["value"]
        assert (value["open"], value["completed"]) == (150_000.5, 70_000)
        assert value["savings"]["open"] == pytest.approx({"low": 24, "mid": 48, "high": 72})
        assert value["savings"]["contingency_fee"] == 0.24


async def test_what_has_happened_is_told_newest_first_page_by_page(dsn: str) -> None:
    async with serving(dsn) as api:
        await api.conn.execute("INSERT INTO pipelines (name, initial) VALUES ('other', 'one')")
        await api.conn.execute("INSERT INTO stages (pipeline, name, position) VALUES ('other', 'one', 0)")
        await api.lead(pipeline="other", stage="one")
        leads = [str(await api.lead(stage="DUE_DILIGENCE")) for _ in range(5)]
        await api.quiet()
        seen: list[dict[str, Any]] = []
        page = await api.get(f"{VENDOR}/activity", limit="2")
        while True:
            seen += page["events"]
            if page["nextCursor"] is None:
                break
            page = await api.get(f"{VENDOR}/activity", limit="2", cursor=page["nextCursor"])
        assert all(Event.model_validate(event) for event in seen)
        assert [e["lead_id"] for e in seen if e["event_type"] == "created"] == leads[::-1]
        assert len({e["id"] for e in seen}) == len(seen)


# -- stuck


async def found(api: Client) -> dict[str, Any]:
    return {one.pop("check"): one for one in (await api.get(f"{VENDOR}/stuck"))["stuck"]}


async def test_nothing_is_stuck_where_all_goes_well(api: Client) -> None:
    await api.lead(stage="DUE_DILIGENCE")
    assert await found(api) == {}


async def test_what_is_stuck_is_told_with_its_threshold(dsn: str) -> None:
    async with serving(dsn) as api:
        old = "clock() - interval '25 hours'"
        await api.lead(stage="DUE_DILIGENCE", needs_review=True)
        review = await api.lead(stage="DUE_DILIGENCE", needs_review=True)
        late = await api.lead(stage="DUE_DILIGENCE")
        entry = await api.lead(stage="DUE_DILIGENCE")
        await api.quiet()
        await api.task("dead", kind="vendor_acquisition.NEW_LEAD", key=f"lead:{entry}")
        await api.conn.execute("SET session_replication_role = replica")
        await api.conn.execute(f"UPDATE leads SET updated_at = {old} WHERE id = $1", review)
        await api.conn.execute("UPDATE leads SET deadline_at = clock() - interval '16 minutes' WHERE id = $1", late)
        await api.conn.execute("INSERT INTO tasks (kind, key, status) VALUES ('of-nobody', $1, 'dead')", f"lead:{late}")
        await api.conn.execute(
            f"UPDATE leads SET stage = 'NEW_LEAD', entry_pending = true, stage_entered_at = {old} WHERE id = $1", entry
        )
        await api.conn.execute("SET session_replication_role = origin")
        stuck = await found(api)
        assert {check: (one["count"], one["threshold"]) for check, one in stuck.items()} == {
            "new": (1, "24 h"), "review": (1, "24 h"), "entry_dead": (1, "0 min"), "deadline": (1, "15 min")
        }  # fmt: skip
        assert stuck["new"]["message"] == "1 lead still in the first stage for more than 24 h"


async def test_the_thresholds_are_settings(dsn: str) -> None:
    async with serving(dsn, STUCK__REVIEW_H="0.25", STUCK__DEADLINE_MIN="90") as api:
        lead = await api.lead(stage="DUE_DILIGENCE", needs_review=True)
        await api.quiet()
        await api.conn.execute("SET session_replication_role = replica")
        await api.conn.execute("UPDATE leads SET updated_at = clock() - interval '16 minutes' WHERE id = $1", lead)
        assert {check: one["threshold"] for check, one in (await found(api)).items()} == {"review": "15 min"}
