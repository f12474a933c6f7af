"""What a person at a terminal sees of the sandbox: the whole screen, or lines."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from rich.cells import cell_len
from rich.console import Console

from daemon.db import Connection
from daemon.sandbox import Fault, Faults, Sandbox, figures, open_sandbox
from daemon.sandbox.figures import Figures, StageCount
from daemon.sandbox.guide import TO_TRY, Places
from daemon.sandbox.happenings import Follower, Happening
from daemon.sandbox.screen import Scene, draw
from daemon.settings import load_settings
from tests.support.processes import until
from tests.support.sandbox import running

NOW = datetime(2026, 11, 20, 9, 30, 15, tzinfo=UTC)
STAGES = ("NEW_LEAD", "AI_CONVERSATION", *(f"STAGE_{n}" for n in range(13)))
ALTERNATE, NORMAL, SHOW_CURSOR, HOME = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h", "\x1b[H"
LOSE_CONNECTION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'orchestrator sandbox' AND datname = current_database()
"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox(load_settings({}), pace=0.1, latency_s=(0.001, 0.01)) as opened:
        yield opened


@asynccontextmanager
async def showing(sandbox: Sandbox, dsn: str, console: Console, *, plain: bool) -> AsyncIterator[None]:
    shown = asyncio.create_task(sandbox.show(dsn, console, plain=plain))
    try:
        yield
    finally:
        shown.cancel()
        await asyncio.gather(shown, return_exceptions=True)
    assert shown.cancelled(), shown.exception()


def terminal(width: int, height: int) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, width=width, height=height, force_terminal=True, color_system=None), screen


def a_scene(**more: object) -> Scene:
    faults = Faults()
    faults.add(Fault.LOST_ANSWER)
    faults.strike(("sms", "/api/send", "one"))
    faults.answered(("sms", "/api/send", "one"))
    stages = [StageCount("vendor_acquisition", name, len(STAGES) - n) for n, name in enumerate(STAGES)]
    standing = Figures(NOW, stages, {"sent": 31, "unknown": 2}, {"dead": 4}, {"sms": 1.5, "offers": 2.0}, 7, 3)
    happenings = [Happening(NOW, f"Lead [{n}]", f"A → B of {n}" + "!" * 80, "→ B", "green") for n in range(50)]
    places = Places("http://127.0.0.1:3020", "http://127.0.0.1:45678/faults", "sandbox.log")
    return Scene(standing, faults, places, happenings, **more)  # type: ignore[arg-type]  # a field of the scene


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (112, 34), (300, 90), (40, 8)])
def test_the_picture_fits_its_terminal(size: tuple[int, int]) -> None:
    console, screen = terminal(*size)
    console.print(draw(a_scene(speed=3600), *size))
    lines = screen.getvalue().splitlines()
    assert len(lines) == size[1]
    assert max(map(cell_len, lines)) <= size[0]


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_the_picture_tells_it_all(size: tuple[int, int]) -> None:
    console, screen = terminal(*size)
    console.print(draw(a_scene(speed=3600), *size))
    told = screen.getvalue()
    standing = (
        "31 sent  0 failed  2 unknown",
        "0 waiting  0 running  4 dead",
        "1 of 1 survived  lost_answer:1",
        "$3.50",
    )
    others = ("7 replies  3 leads need", "Fri 20 Nov", "09:30:15 UTC", "3,600 times", "http://127.0.0.1:3020")
    for words in (*standing, *others, "127.0.0.1:45678/faults", *STAGES, "Lead [49]"):
        assert words in told
    assert told.count("Lead [") >= 12
    bars = {stage: line.count("█") for line in told.splitlines() for stage in STAGES if line.startswith(f"{stage} ")}
    assert bars["NEW_LEAD"] == max(bars.values()) > bars["STAGE_12"] >= 1


def test_the_picture_says_what_is_wrong() -> None:
    console, screen = terminal(80, 24)
    console.print(draw(a_scene(away_s=12.3), 80, 24))
    console.print(draw(a_scene(ending=True), 80, 24))
    assert "the database hasn't answered for 12 s" in screen.getvalue()
    assert "ending: " in screen.getvalue()


async def test_the_screen_is_drawn_as_things_happen_and_left_clean(
    sandbox: Sandbox, dsn: str, conn: Connection
) -> None:
    console, screen = terminal(80, 24)
    await sandbox.enter(conn)
    began = time.monotonic()
    async with running(sandbox, dsn), showing(sandbox, dsn, console, plain=False):

        async def moved() -> bool:
            return "→ OFFER_ACCEPTED" in screen.getvalue()

        await until(moved, 20.0, "a deal is seen")
        await conn.execute(LOSE_CONNECTION)
        sandbox.ending = True
        await until(lambda: _seen(screen, "ending: "), 5.0, "the end is announced")
    seconds = time.monotonic() - began

    before, picture, after = screen.getvalue().partition(ALTERNATE)
    assert "curl -d" in before
    assert "INSERT INTO" in before
    assert picture
    assert after.count(HOME) <= 4 * seconds + 1, "more than four pictures a second"
    shown, _, left = after.partition(NORMAL)
    assert "24 leads have come in" in shown
    assert SHOW_CURSOR in after
    assert "The sandbox has ended at" in left
    assert "OFFER_ACCEPTED" in left
    assert "survived" in left


async def _seen(screen: io.StringIO, words: str) -> bool:
    return words in screen.getvalue()


def drawn(scene: Scene, width: int, height: int) -> list[str]:
    console, screen = terminal(width, height)
    console.print(draw(scene, width, height))
    return [line.rstrip() for line in screen.getvalue().splitlines()]


STORM = Counter({fault: 20 - n for n, fault in enumerate(Fault)})
SPENT = {"sms": 22.72, "offers": 10.45, "prospecting": 10.4, "validator": 10.2, "analysis": 10.18, "outreach": 0.001}
A_STORM = Figures(NOW, messages={"sent": 131, "unknown": 2, "scheduled": 1, "suppressed": 7}, money=SPENT,
                  runs={"completed": 2, "failed": 1}, unknown_steps={"completed": 1})  # fmt: skip


@pytest.mark.parametrize("size", [(80, 24), (112, 34), (160, 40)])
def test_what_does_not_fit_is_left_out_whole(size: tuple[int, int]) -> None:
    """Mutant: `side_by_side` without its loop; then figures are cut in the middle."""
    faults = Faults(fired=STORM, survived=STORM - Counter({Fault.CUT_STREAM: 2}))
    scene = replace(a_scene(), figures=A_STORM, faults=faults, happenings=())
    lines = drawn(scene, *size)
    assert not [line for line in lines if "…" in line]
    told = "\n".join(lines)
    for words in ("131 sent", "3 unknown (1 step)", "$63.95  sms 22.72", f"of {STORM.total()} survived, 2 open"):
        assert words in told
    assert "runs     2 completed (1 step unknown)  1 failed" in told
    assert "outreach" not in told
    assert ("0 failed" in told) == (size[0] > 112), "zeros go first"


def test_happenings_are_cut_between_words() -> None:
    happening = Happening(NOW, "Queenie Quill", "", "says “Thanks, that is clear and I accept”")
    line = next(line for line in drawn(a_scene_with(happening), 80, 24) if "Queenie" in line)
    assert line.endswith("Queenie Quill  says “Thanks, that is…")


@pytest.mark.parametrize("height", [24, 12, 9])
def test_three_happenings_are_seen_in_the_lowest_terminal(height: int) -> None:
    """Mutant: LEAST_EVENTS = 0."""
    assert sum("Lead [" in line for line in drawn(a_scene(), 80, height)) >= 3


def a_scene_with(happening: Happening) -> Scene:
    return replace(a_scene(), happenings=(happening,))


async def test_who_comes_back_sees_where_it_goes_on(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    """Mutant: `news` without `_recall`; then the screen stays empty until something happens."""
    await conn.execute("INSERT INTO leads (name) SELECT 'Lead ' || n FROM generate_series(1, 9) AS n")
    await conn.execute("UPDATE leads SET stage = 'DEAD_LEAD' WHERE name <> 'Lead 1'")
    seen = await Follower().news(conn)
    assert [h.who for h in seen] == [*(f"Lead {n}" for n in range(5, 10)), ""]
    assert seen[-1].what == f"going on from {seen[-1].at:%H:%M}: insert a lead, or wait"
    follower = Follower(zone=ZoneInfo("Asia/Kolkata"))
    local = (await follower.news(conn))[-1]
    assert f"from {local.at.astimezone(follower.zone):%H:%M}:" in local.what
    assert await follower.news(conn) == []


async def test_a_step_of_unknown_outcome_is_counted(conn: Connection) -> None:
    """Mutant: `messages` without the steps."""
    await conn.execute(
        "WITH c AS (INSERT INTO campaigns (name) VALUES ('one') RETURNING id), r AS ("
        "INSERT INTO campaign_runs (campaign_id, status) SELECT id, 'completed' FROM c RETURNING id) "
        "INSERT INTO campaign_run_steps (run_id, position, name, kind, status) "
        "SELECT id, n, 'step ' || n, 'find', 'unknown' FROM r, generate_series(0, 1) AS n"
    )
    seen = await figures.read(conn)
    assert figures.side_by_side(figures.messages(seen)) == "0 sent  0 failed  2 unknown (2 steps)"
    assert figures.standing(seen).endswith("runs: 1 completed (2 steps unknown)")


async def test_a_small_terminal_gets_lines(sandbox: Sandbox, dsn: str) -> None:
    console, screen = terminal(79, 24)
    async with showing(sandbox, dsn, console, plain=False):
        await until(lambda: _seen(screen, "no leads |"), 10.0, "a summary")
    assert ALTERNATE not in screen.getvalue()


async def test_a_file_gets_plain_lines(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    """Mutant: `show` returns where there is no terminal."""
    file = io.StringIO()
    await sandbox.enter(conn)
    async with running(sandbox, dsn), showing(sandbox, dsn, Console(file=file, force_terminal=False), plain=False):
        await until(lambda: _seen(file, "OFFER_MADE → OFFER_ACCEPTED   the vendor accepted\n"), 20.0, "a deal is told")
    assert "\x1b" not in file.getvalue()


async def test_lines_tell_each_event_once(sandbox: Sandbox, dsn: str, conn: Connection) -> None:
    console, screen = terminal(200, 50)
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Long Ago', '+447700900001')")
    async with showing(sandbox, dsn, console, plain=True):
        await until(lambda: _seen(screen, "NEW_LEAD 1 |"), 10.0, "it listens")
        await conn.execute(
            "WITH l AS (INSERT INTO leads (name, phone) VALUES ('Zoe [red]', '+447700900002') RETURNING id) "
            "INSERT INTO pipeline_events (lead_id, event_type, metadata) "
            """SELECT id, 'flagged', '{"reason": "odd [/bold]", "reply_id": "no id at all"}' FROM l"""
        )
        await until(lambda: _seen(screen, "needs a person: odd [/bold]"), 10.0, "the flag")
        await conn.execute(LOSE_CONNECTION)
        await conn.execute(
            "UPDATE leads SET stage = 'DEAD_LEAD', moved_by = 'me', move_reason = 'over' WHERE name ~ 'Zoe'"
        )
        await until(lambda: _seen(screen, "NEW_LEAD → DEAD_LEAD   over"), 10.0, "the end")
    told = screen.getvalue()
    assert "orchestrator db shell" in told
    assert told.count("Zoe [red]") == 3
    before, _, after = told.partition("going on from ")
    assert "Long Ago          comes in at NEW_LEAD" in before
    assert "Long Ago" not in after
    assert "The sandbox has ended at" in told


async def test_what_it_says_to_try_works(conn: Connection) -> None:
    for stage in ("OFFER_MADE", "VIDEO_SENT"):
        await conn.execute("INSERT INTO leads (name, phone, stage) VALUES ('A', '+447700900001', $1)", stage)
    for statement in TO_TRY.values():
        await conn.execute(statement)
    counts = await conn.fetchrow("SELECT (SELECT count(*) FROM leads), (SELECT count(*) FROM replies)")
    assert counts is not None
    assert tuple(counts) == (3, 1)
    assert await conn.fetchval("SELECT count(*) FROM leads WHERE stage = 'RETRY_1'") == 1
