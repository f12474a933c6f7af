"""Slots of campaigns: each fires once or is on record as skipped or missed, whatever happens around its time.

Mutants that these tests kill (each one line, tried by hand):
  schema.sql: `campaign_edited` sets schedule_since to clock() alone; `pulse` doesn't look at resume_at
  schedule.sql: `hold` without `next_run_at = $2`
  schedule.py: `_take` doesn't move on to the next slot; a missed slot isn't recorded
"""

import asyncio
from typing import Any

import pytest

from campaigns.schedule import CampaignCalendar, next_run
from daemon.cron import Cron, due_slots
from tests.support.campaigns import Campaigns, at, campaigns, shown
from tests.support.engines import Hangs

NEW_YORK = {"cron": "0 9 * * MON", "timezone": "America/New_York"}
HOURLY = {"cron": "0 * * * *"}


@pytest.mark.parametrize(
    ("clock", "slots"),
    [
        ("2026-03-02 12:00", ["2026-03-02 14:00", "2026-03-09 13:00", "2026-03-16 13:00"]),
        ("2026-10-26 12:00", ["2026-10-26 13:00", "2026-11-02 14:00", "2026-11-09 14:00"]),
    ],
    ids=["spring", "autumn"],
)
async def test_monday_at_nine_is_nine_in_its_zone_in_the_weeks_of_a_clock_change(
    dsn: str, clock: str, slots: list[str]
) -> None:
    async with campaigns(dsn, clock) as c:
        weekly = await c.campaign(schedule=NEW_YORK)
        for n, slot in enumerate(slots):
            assert await c.next(weekly) == slot
            await c.until(shown(at(slot).replace(hour=at(slot).hour - 1, minute=59, second=50)))
            assert len(await c.slots(weekly)) == n
            await c.until(slot)
            assert await c.slots(weekly) == [f"{s} completed" for s in slots[: n + 1]]
        [first, *_] = await c.runs(weekly)
        assert (first["trigger"], first["definition"]["schedule"]["timezone"]) == ("schedule", "America/New_York")
        assert len(c.r.engines.asked) == 3


async def test_the_next_slot_is_known_from_the_start_and_again_after_each_edit(dsn: str) -> None:
    async with campaigns(dsn) as c:
        manual = await c.campaign(name="Manual")
        weekly = await c.campaign(schedule=NEW_YORK)
        assert (await c.next(manual), await c.next(weekly)) == (None, "2026-03-02 14:00")
        assert next_run("0 9 * * MON", "America/New_York", at("2026-03-02 14:00")) == at("2026-03-09 13:00")
        await c.edit(weekly, schedule_timezone="UTC")
        await c.settled()
        assert await c.next(weekly) == "2026-03-09 09:00"
        await c.edit(weekly, schedule_cron="30 12 * * *")
        await c.settled()
        assert await c.next(weekly) == "2026-03-02 12:30"
        await c.edit(weekly, schedule_enabled=False)
        assert await c.next(weekly) is None
        sql = "INSERT INTO campaigns (name, schedule_cron) VALUES ('By hand', '@daily') RETURNING id"
        by_hand = await c.r.t.value(sql)
        await c.settled()
        assert await c.next(by_hand) == "2026-03-03 00:00"


async def test_a_slot_while_a_run_is_going_on_is_skipped_and_recorded(dsn: str) -> None:
    async with campaigns(dsn) as c:
        slow = Hangs()
        c.r.engines.on("prospecting", slow, times=1)
        hourly = await c.campaign(schedule=HOURLY)
        await c.set_clock("2026-03-02 13:00")
        await slow.started.wait()
        await c.set_clock("2026-03-02 14:00")
        await c.r.t.eventually("SELECT count(*) = 2 FROM campaign_runs")
        assert await c.slots(hourly) == ["2026-03-02 13:00 running", "2026-03-02 14:00 skipped"]
        slow.release()
        await c.over(hourly)
        await c.until("2026-03-02 15:00")
        assert [s.split()[-1] for s in await c.slots(hourly)] == ["completed", "skipped", "completed"]
        assert await c.why(hourly) == ["a run of this campaign is going on"]
        assert await c.r.t.value("SELECT total_runs FROM campaigns") == 2


async def test_slots_beyond_their_grace_are_missed_and_recorded_once(dsn: str) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule={**HOURLY, "graceSeconds": 600})
        await c.r.t.stop()
        await c.set_clock("2026-03-02 15:20")
        await c.r.t.start()
        await c.settled()
        assert await c.slots(hourly) == ["2026-03-02 15:00 missed"]
        assert await c.why(hourly) == ["missed 3 slots: nobody was there in time"]
        assert (await c.next(hourly), c.r.engines.asked) == ("2026-03-02 16:00", [])


async def test_several_slots_missed_within_the_grace_make_one_run(dsn: str) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule={**HOURLY, "graceSeconds": 4 * 3600})
        await c.r.t.stop()
        await c.set_clock("2026-03-02 15:20")
        await c.r.t.start()
        await c.settled()
        assert await c.slots(hourly) == ["2026-03-02 15:00 completed"]
        assert (await c.next(hourly), len(c.r.engines.asked)) == ("2026-03-02 16:00", 1)


@pytest.mark.parametrize(
    ("how", "columns"),
    [
        ("paused", {"status": "paused"}),
        ("disabled", {"schedule_enabled": False}),
        ("completed", {"status": "completed"}),
        ("in error", {"status": "error"}),
        ("deleted", {"deleted_at": at("2026-03-02 12:30")}),
    ],
)
async def test_what_is_not_active_never_fires(dsn: str, how: str, columns: dict[str, Any]) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule=HOURLY)
        await c.edit(hourly, **columns)
        await c.until("2026-03-02 13:00")
        await c.until("2026-03-02 14:30")
        assert (await c.slots(hourly), await c.next(hourly)) == ([], None), how


async def test_a_schedule_that_goes_on_again_gets_none_of_its_old_slots_back(dsn: str) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule=HOURLY)
        await c.edit(hourly, status="paused", paused_reason="holiday")
        await c.until("2026-03-02 15:10")
        await c.edit(hourly, status="active")
        await c.settled()
        assert (await c.slots(hourly), await c.next(hourly)) == ([], "2026-03-02 16:00")
        assert (await c.row(hourly))["paused_reason"] is None
        await c.until("2026-03-02 16:00")
        assert await c.slots(hourly) == ["2026-03-02 16:00 completed"]


async def test_what_resumes_by_itself_does_so_in_time_for_the_slot_of_that_moment(dsn: str) -> None:
    async with campaigns(dsn) as c:
        daily = await c.campaign(schedule="@daily")
        gone = await c.campaign(name="Gone", schedule="@daily")
        for campaign in (daily, gone):
            await c.edit(campaign, status="paused", paused_reason="spent", resume_at=at("2026-03-03 00:00"))
        await c.edit(gone, deleted_at=at("2026-03-02 12:00"))
        await c.until("2026-03-02 23:59:59")
        await c.r.t.eventually("SELECT bool_and(clock() >= '2026-03-03 00:00Z')")
        await c.settled()
        assert await c.slots(daily) == ["2026-03-03 00:00 completed"]
        assert ((await c.row(daily))["status"], (await c.row(daily))["resume_at"]) == ("active", None)
        assert ((await c.row(gone))["status"], await c.slots(gone)) == ("paused", [])


# -- edits around the time of a slot


async def test_an_edit_after_the_slots_time_but_before_it_fired_loses_no_slot_that_both_schedules_have(
    dsn: str,
) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule=HOURLY)
        moved = await c.campaign(name="Moved", schedule=HOURLY)
        await c.r.t.stop()
        await c.set_clock("2026-03-02 13:00:05")
        await c.edit(hourly, schedule_cron="0 9-17 * * *")
        await c.edit(hourly, schedule_cron="0 9-17 * * MON-FRI")
        await c.edit(moved, schedule_cron="30 * * * *")
        await c.r.t.start()
        await c.settled()
        assert (await c.slots(hourly), await c.next(hourly)) == (["2026-03-02 13:00 completed"], "2026-03-02 14:00")
        assert (await c.slots(moved), await c.next(moved)) == ([], "2026-03-02 13:30")


async def test_an_edit_after_a_slot_fired_does_not_fire_it_again(dsn: str) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule=HOURLY)
        await c.until("2026-03-02 13:00")
        for cron in ("* * * * *", "0 * * * *", "0 13 * * *"):
            await c.edit(hourly, schedule_cron=cron)
            await c.settled()
        assert await c.slots(hourly) == ["2026-03-02 13:00 completed"]


EDITS = {"same slot": "0 9-17 * * *", "another": "30 * * * *"}


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_between_seeing_a_slot_and_taking_it_neither_loses_nor_doubles_it(dsn: str, edit: str) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule=HOURLY)
        await c.r.t.stop()
        await c.set_clock("2026-03-02 13:00:01")
        calendar, conn = CampaignCalendar(c.world, lambda: None), c.r.t.conn
        [seen] = await calendar.due(conn)
        await c.edit(hourly, schedule_cron=EDITS[edit])
        slots = due_slots(Cron.parse("0 * * * *"), at("2026-03-02 13:00"), seen["now"], 3600)
        assert not await calendar.take(conn, seen, slots)
        again = await calendar.due(conn)
        taken = [await calendar.take(conn, row, slots) for row in (*again, *again)]
        assert (taken, await c.slots(hourly)) == (
            ([True, False], ["2026-03-02 13:00 running"]) if edit == "same slot" else ([], [])
        )


async def test_three_daemons_and_ten_edits_fire_a_slot_once(dsn: str) -> None:
    async with campaigns(dsn) as c:
        names = [await c.campaign(name=f"Campaign {n}", schedule=HOURLY) for n in range(5)]
        await c.r.t.start()
        await c.r.t.start()
        await c.set_clock("2026-03-02 12:59:59.8")

        async def edits(own: int) -> None:
            async with c.r.t.session() as psql:
                for n in range(10):
                    cron = ("0 * * * *", "0 0-23 * * *")[n % 2]
                    await psql.execute("UPDATE campaigns SET schedule_cron = $2 WHERE id = $1", names[own], cron)
                    await asyncio.sleep(0.05)  # from before the slot's time until after it

        await asyncio.gather(*map(edits, range(5)))
        await c.r.t.eventually("SELECT count(*) = 5 FROM campaign_runs")
        await c.settled()
        await c.until("2026-03-02 14:00")
        for campaign in names:
            assert await c.slots(campaign) == ["2026-03-02 13:00 completed", "2026-03-02 14:00 completed"]


async def test_a_row_that_somebody_holds_holds_back_no_other_campaign(dsn: str) -> None:
    async with campaigns(dsn) as c:
        held, free = [await c.campaign(name=name, schedule=HOURLY) for name in ("Held", "Free")]
        async with c.r.t.session() as psql:
            transaction = psql.transaction()
            await transaction.start()
            await psql.execute("SELECT FROM campaigns WHERE id = $1 FOR UPDATE", held)
            await c.set_clock("2026-03-02 13:00")
            await c.r.t.eventually("SELECT count(*) = 1 FROM campaign_runs WHERE campaign_id = $1", free)
            await transaction.rollback()
        await c.settled()
        assert await c.slots(held) == ["2026-03-02 13:00 completed"]


# -- what can't run


async def test_a_document_that_is_no_longer_valid_stops_its_campaign_and_a_person_is_told(dsn: str) -> None:
    async with campaigns(dsn) as c:
        broken = await c.campaign(schedule=HOURLY)
        fine = await c.campaign(name="Fine", schedule=HOURLY)
        config = {"name": "Ours", "steps": [{"engine": "gone"}], "schedule": HOURLY}
        await c.edit(broken, config=config)
        await c.until("2026-03-02 13:00")
        assert ((await c.row(broken))["status"], await c.next(broken)) == ("error", None)
        assert await c.alerts(broken) == ["CAMPAIGN_INVALID"]
        assert await c.slots(broken) == ["2026-03-02 13:00 skipped"]
        assert "'gone' is not configured" in (await c.why(broken))[0]
        assert await c.slots(fine) == ["2026-03-02 13:00 completed"]
        await c.edit(broken, config={**config, "steps": [{"engine": "prospecting"}]}, status="active")
        await c.until("2026-03-02 14:00")
        assert ((await c.slots(broken))[1:], await c.alerts(broken)) == (["2026-03-02 14:00 completed"], [])


async def test_what_was_stopped_goes_on_once_a_daemon_comes_that_knows_its_engine(dsn: str) -> None:
    async with campaigns(dsn) as c:
        hourly = await c.campaign(schedule=HOURLY)
        known, c.r.t.settings = c.r.t.settings, c.r.t.settings.model_copy(update={"engines": {}})
        await c.r.t.restart()
        await c.until("2026-03-02 13:00")
        assert (await c.row(hourly))["status"] == "error"
        c.r.t.settings = known
        await c.r.t.restart()
        await c.r.t.eventually("SELECT status = 'active' FROM campaigns")
        await c.until("2026-03-02 14:00")
        assert await c.slots(hourly) == ["2026-03-02 13:00 skipped", "2026-03-02 14:00 completed"]
        assert await c.alerts(hourly) == []


async def test_a_schedule_that_nobody_can_read_stops_its_campaign_only(dsn: str) -> None:
    async with campaigns(dsn) as c:
        broken = await c.campaign(schedule=HOURLY)
        fine = await c.campaign(name="Fine", schedule=HOURLY)
        await c.edit(broken, schedule_cron="at tea time")
        await c.until("2026-03-02 13:00")
        assert (await c.row(broken))["status"] == "error"
        assert await c.alerts(broken) == ["CAMPAIGN_INVALID"]
        assert await c.slots(fine) == ["2026-03-02 13:00 completed"]


async def test_a_slot_cannot_know_what_must_be_given(dsn: str) -> None:
    async with campaigns(dsn) as c:
        inputs = {"industry": {"type": "string", "required": True}}
        hourly = await c.campaign(schedule={**HOURLY, "enabled": False}, inputs=inputs)
        await c.edit(hourly, schedule_enabled=True)  # past the check of its document
        await c.until("2026-03-02 13:00")
        assert await c.slots(hourly) == ["2026-03-02 13:00 skipped"]
        assert await c.why(hourly) == ["inputs.industry: is missing"]


# -- the pulse


async def test_a_beat_knows_of_the_slots_and_of_the_ends_of_pauses(dsn: str) -> None:
    async with campaigns(dsn) as c:
        await c.r.t.stop()
        hourly = await c.campaign(schedule=HOURLY)
        await c.set_clock("2026-03-02 12:59:40")
        assert await _pulse(c) == (False, True)
        await c.edit(hourly, schedule_cron="30 * * * *")
        assert (await _pulse(c))[0]
        await c.edit(hourly, status="paused", resume_at=at("2026-03-02 13:00:00"))
        assert await _pulse(c) == (False, True)
        await c.set_clock("2026-03-02 13:00")
        assert (await _pulse(c))[0]


async def _pulse(c: Campaigns) -> tuple[bool, bool]:
    """Whether a slot is due, and whether something is within 20 seconds."""
    await c.r.t.sql("UPDATE schedules SET next_slot = clock() + interval '1 year'")
    [row] = await c.r.t.sql("SELECT * FROM pulse(1)")
    return row["slot_due"], row["wait_s"] is not None and 0 < row["wait_s"] <= 20
