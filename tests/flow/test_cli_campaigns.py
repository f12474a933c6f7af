"""`orchestrator campaigns` and `orchestrator approvals` as a person runs them, beside a daemon and without one."""

import asyncio
import getpass
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from daemon.db import Connection
from tests.support.commands import Ended, environment, orchestrator
from tests.support.daemon import Timeline, scenario
from tests.support.engines import Asked, Engines, Hangs, Refuses, Result
from tests.support.processes import until

NAMES = ("prospecting", "analysis", "outreach", "contacts")
WEEKLY = "Weekly Restaurant Outreach - Philadelphia"


class Suite(Engines):
    """The engines of campaigns."""

    def _usual(self, asked: Asked) -> Result:
        found = {"prospecting": {"found": 2}, "analysis": {"analyzed": 2}}.get(asked.engine, {})
        return {**found, "cost": 0.1}


@asynccontextmanager
async def daemon(dsn: str) -> AsyncIterator[tuple[Timeline, Suite]]:
    """A daemon and the engines that it calls."""
    async with Suite().serving() as engines:
        assert isinstance(engines, Suite)
        urls = {f"ENGINES__{name.upper()}__URL": engines.url(name) for name in NAMES}
        async with scenario(dsn, engines, **urls) as t:
            yield t, engines


def said_json(ended: Ended) -> Any:
    """The one document on stdout."""
    assert ended.code == 0, ended.err
    return orjson.loads(ended.out)


def failed(ended: Ended, *words: str, code: int = 1) -> None:
    """This exit code, nothing on stdout, and the words in the last line on stderr."""
    assert ended.code == code, (ended.out, ended.err)
    assert ended.out == ""
    assert "Traceback" not in ended.err
    last = ended.err.splitlines()[-1] if code == 1 else ended.err
    assert all(word in last for word in words), ended.err


def document(home: Path, **more: Any) -> Path:
    """A campaign in a file."""
    file = home / "campaign.json"
    file.write_bytes(orjson.dumps({"name": "Mine", "steps": [{"engine": "prospecting"}], **more}))
    return file


# -- documents


async def test_a_file_is_imported_once_and_replaced_on_request(home: Path, dsn: str, conn: Connection) -> None:
    file = document(home, schedule={"cron": "0 9 * * *", "timezone": "Europe/Berlin"})
    made = await orchestrator(home, "campaigns", "import", file, DATABASE_URL=dsn)
    assert made.code == 0, made.err
    assert "campaign Mine (" in made.out
    assert "next run" in made.out
    failed(await orchestrator(home, "campaigns", "import", file, DATABASE_URL=dsn), 'has the name "Mine" already')
    document(home, description="second")
    again = said_json(await orchestrator(home, "campaigns", "import", file, "--replace", "--json", DATABASE_URL=dsn))
    assert again["campaign"]["nextRun"] is None
    (row,) = await conn.fetch("SELECT id, description FROM campaigns")
    assert (str(row["id"]), row["description"]) == (again["campaign"]["id"], "second")


async def test_what_is_wrong_with_a_file_is_told_line_by_line(home: Path, dsn: str, conn: Connection) -> None:
    file = document(home, steps=[{"engine": "nobody"}, {"engine": "analysis", "retry": {"attempts": 0}}])
    ended = await orchestrator(home, "campaigns", "import", file, DATABASE_URL=dsn)
    failed(ended, "is not valid: 2 to correct")
    assert [line.partition(":")[0] for line in ended.err.splitlines()[:-1]] == [
        "steps[0].engine", "steps[1].retry.attempts",
    ]  # fmt: skip
    failed(await orchestrator(home, "campaigns", "import", home / "none.json", DATABASE_URL=dsn), "can't read")
    assert await conn.fetchval("SELECT count(*) FROM campaigns") == 0


async def test_a_shipped_one_is_imported_by_its_name_with_its_schedule_off(home: Path, dsn: str) -> None:
    made = await orchestrator(home, "campaigns", "import", "weekly-restaurant", DATABASE_URL=dsn)
    assert made.code == 0, made.err
    assert "schedule off" in made.out
    again = await orchestrator(home, "campaigns", "import", "weekly-restaurant", DATABASE_URL=dsn)
    assert (again.code, "on record already" in again.out) == (0, True)
    (row,) = said_json(await orchestrator(home, "campaigns", "list", "--json", DATABASE_URL=dsn))["campaigns"]
    assert (row["name"], row["schedule"], row["schedule_enabled"], row["nextRun"]) == (
        WEEKLY,
        "0 9 * * MON",
        False,
        None,
    )
    listed = await orchestrator(home, "campaigns", "list", DATABASE_URL=dsn)
    assert "0 9 * * MON America/New_York (off)" in listed.out


async def test_a_campaign_is_shown_paused_resumed_and_deleted(home: Path, dsn: str, conn: Connection) -> None:
    file = document(home, schedule="0 9 * * *")
    made = said_json(await orchestrator(home, "campaigns", "import", file, "--json", DATABASE_URL=dsn))["campaign"]
    shown = await orchestrator(home, "campaigns", "show", "Mine", DATABASE_URL=dsn)
    assert all(word in shown.out for word in (made["id"], "prospecting", "0 9 * * *"))
    paused = await orchestrator(home, "campaigns", "pause", made["id"], "--reason", "holidays", DATABASE_URL=dsn)
    assert paused.out == "campaign Mine is paused\n"
    assert "paused: by a person: holidays" in (await orchestrator(home, "campaigns", "list", DATABASE_URL=dsn)).out
    failed(await orchestrator(home, "campaigns", "run", "Mine", DATABASE_URL=dsn), "by a person: holidays")
    resumed = said_json(await orchestrator(home, "campaigns", "resume", "Mine", "--json", DATABASE_URL=dsn))
    assert resumed["campaign"] == made
    gone = await orchestrator(home, "campaigns", "delete", "Mine", DATABASE_URL=dsn)
    assert gone.out == 'campaign "Mine" is deleted: no further run starts, its history is kept\n'
    for command in ("show", "pause", "delete", "runs"):
        failed(await orchestrator(home, "campaigns", command, "Mine", DATABASE_URL=dsn), "no campaign 'Mine'")
    failed(await orchestrator(home, "campaigns", "run", "Mine", DATABASE_URL=dsn), "shipped are", "weekly-restaurant")


# -- runs


async def test_a_shipped_campaign_is_run_and_waited_for(home: Path, dsn: str) -> None:
    async with daemon(dsn):
        ended = await orchestrator(home, "campaigns", "run", "test-campaign", "--wait", DATABASE_URL=dsn)
        assert ended.code == 0, ended.err
        assert ended.err == ""
        assert ended.out.endswith("is completed; prospects 2, analyzed 2, sent 0, cost $0.30\n")
        said = said_json(
            await orchestrator(home, "campaigns", "run", "Test Campaign", "--wait", "--json", DATABASE_URL=dsn)
        )
        assert [s["status"] for s in said["run"]["steps"]] == ["completed"] * 3
        runs = said_json(await orchestrator(home, "campaigns", "runs", "test-campaign", "--json", DATABASE_URL=dsn))
        assert [run["status"] for run in runs["runs"]] == ["completed", "completed"]
        assert "$0.30" in (await orchestrator(home, "campaigns", "runs", "test-campaign", DATABASE_URL=dsn)).out


async def test_half_a_success_is_a_warning_and_a_failure_an_error(home: Path, dsn: str) -> None:
    async with daemon(dsn) as (_, engines):
        engines.on("analysis", Refuses(400, detail="no such filter"))
        half = await orchestrator(home, "campaigns", "run", "test-campaign", "--wait", DATABASE_URL=dsn)
        assert half.code == 0
        assert "is partial" in half.out
        assert half.err.startswith("warning: analysis: ")
        engines.on("prospecting", Refuses(400, detail="out of credits"))
        failed(
            await orchestrator(home, "campaigns", "run", "test-campaign", "--wait", DATABASE_URL=dsn),
            "is failed", "prospecting", "out of credits",
        )  # fmt: skip


async def test_inputs_are_typed_as_the_document_says(home: Path, dsn: str, conn: Connection) -> None:
    inputs = {"industry": {"type": "string"}, "count": {"type": "integer"}, "tags": {"type": "array"}}
    await orchestrator(home, "campaigns", "import", document(home, inputs=inputs), DATABASE_URL=dsn)
    given = ("--input", "industry=12", "--input", "count=3", "--input", 'tags=["a", "b"]')
    begun = said_json(await orchestrator(home, "campaigns", "run", "Mine", *given, "--json", DATABASE_URL=dsn))
    assert begun["run"]["inputs"] == {"industry": "12", "count": 3, "tags": ["a", "b"]}
    await conn.execute("SELECT cancel_run($1)", UUID(begun["run"]["id"]))
    failed(
        await orchestrator(home, "campaigns", "run", "Mine", "--input", "count=many", DATABASE_URL=dsn), "inputs.count"
    )
    failed(await orchestrator(home, "campaigns", "run", "Mine", "--input", "count", DATABASE_URL=dsn), "K=V", code=2)


async def test_without_a_daemon_waiting_ends_with_a_clear_word(home: Path, dsn: str, conn: Connection) -> None:
    ended = await orchestrator(home, "campaigns", "run", "test-campaign", "--wait", DATABASE_URL=dsn)
    failed(ended, "no daemon is running", "orchestrator run")
    assert 10 < ended.seconds < 20
    run = await conn.fetchval("SELECT id FROM campaign_runs WHERE status = 'running'")
    failed(await orchestrator(home, "campaigns", "run", "test-campaign", DATABASE_URL=dsn), "going on")
    cancelled = await orchestrator(home, "campaigns", "cancel", str(run), DATABASE_URL=dsn)
    assert cancelled.out == f"run {run} of Test Campaign is cancelled\n"
    failed(await orchestrator(home, "campaigns", "cancel", str(run), DATABASE_URL=dsn), "is cancelled")


async def test_at_a_terminal_a_run_is_watched(home: Path, dsn: str) -> None:
    async with daemon(dsn) as (_, engines):
        hangs = Hangs()
        engines.on("analysis", hangs)
        said = bytearray()
        watching = asyncio.create_task(asyncio.to_thread(watch, home, dsn, said))
        await asyncio.wait_for(hangs.started.wait(), 30)

        async def drawn() -> bool:
            return b"daily budget $0.10 of $1.00" in said

        await until(drawn, 10.0, f"the picture: {said!r}")
        hangs.release()
        assert await watching == 0
    text = said.decode()
    assert all(word in text for word in ("prospecting", "outreach-compose", "running", "is completed", "cost $0.30"))


def watch(home: Path, dsn: str, said: bytearray) -> int:
    """Run and wait at a terminal."""
    watcher, theirs = pty.openpty()
    env = {**environment(home, DATABASE_URL=dsn), "TERM": "xterm-256color", "COLUMNS": "110"}
    arguments = ("campaigns", "run", "test-campaign", "--wait")
    process = subprocess.Popen([sys.executable, "-m", "daemon", *arguments], cwd=home, env=env, stdout=theirs)
    os.close(theirs)
    while True:
        try:
            part = os.read(watcher, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            break
        said += part
    os.close(watcher)
    return process.wait(60)


# -- gates


@pytest.fixture
def gated(home: Path) -> Path:
    """A campaign that waits for a person."""
    return document(home, steps=[{"kind": "checkpoint", "name": "campaign"}])


async def test_a_gate_is_seen_and_decided_at_the_terminal(home: Path, dsn: str, conn: Connection, gated: Path) -> None:
    async with daemon(dsn):
        await orchestrator(home, "campaigns", "import", gated, DATABASE_URL=dsn)
        waits = asyncio.create_task(orchestrator(home, "campaigns", "run", "Mine", "--wait", DATABASE_URL=dsn))
        sql = "SELECT id::text FROM approval_queue WHERE status = 'pending'"
        request = await until(lambda: conn.fetchval(sql), 20.0, "the request")
        listed = await orchestrator(home, "approvals", "list", DATABASE_URL=dsn)
        assert request in listed.out
        shown = await orchestrator(home, "approvals", "show", request, DATABASE_URL=dsn)
        assert all(word in shown.out for word in ("Mine: campaign", "pending"))
        done = await orchestrator(home, "approvals", "approve", request, DATABASE_URL=dsn)
        assert done.out == f"Mine: campaign is approved by {getpass.getuser()}\n"
        ended = await waits
        assert ended.code == 0
        assert ended.err in ("", f"waits for a person at campaign: orchestrator approvals approve {request}\n")
        failed(await orchestrator(home, "approvals", "reject", request, "--comment", "no", DATABASE_URL=dsn), "already")
        assert (await orchestrator(home, "approvals", "list", DATABASE_URL=dsn)).out == "nothing waits for a decision\n"
        every = said_json(await orchestrator(home, "approvals", "list", "--all", "--json", DATABASE_URL=dsn))
        assert [a["status"] for a in every["approvals"]] == ["approved"]


async def test_a_reply_that_waits_is_shown_as_a_person_reads_it(home: Path, dsn: str, conn: Connection) -> None:
    """Mutants: no `_about`; `_row(conn, request)` without `one_id`; no `names`."""
    lead = await conn.fetchval("INSERT INTO leads (name, stage) VALUES ('Ann Vendor', 'OFFER_MADE') RETURNING id")
    reply = {
        "id": "x",
        "from_address": "+14155550100",
        "body": "Yes,\nplease",
        "received_at": "2026-01-31T09:00:00+00:00",
    }
    columns = "checkpoint, title, payload, lead_id"
    sql = f"INSERT INTO approval_queue ({columns}) VALUES ('replies', 'A reply', $1, $2) RETURNING id"
    request = str(await conn.fetchval(sql, {"reply": reply, "reason": "interested"}, lead))
    shown = await orchestrator(home, "approvals", "show", request[:8], DATABASE_URL=dsn)
    rows = [line.split("\t") for line in shown.out.splitlines()]
    assert rows[-5:] == [
        ["lead", "Ann Vendor"], ["from", "+14155550100"], ["received", "2026-01-31 09:00:00"],
        ["body", "Yes, please"], ["reason", "interested"],
    ]  # fmt: skip
    listed = await orchestrator(home, "approvals", "list", DATABASE_URL=dsn)
    assert listed.out.splitlines()[1].startswith(f"{request}\treplies\tAnn Vendor\tA reply\tpending\t")


async def test_a_rejection_says_why_and_ends_the_run(home: Path, dsn: str, conn: Connection, gated: Path) -> None:
    async with daemon(dsn):
        await orchestrator(home, "campaigns", "import", gated, DATABASE_URL=dsn)
        waits = asyncio.create_task(orchestrator(home, "campaigns", "run", "Mine", "--wait", DATABASE_URL=dsn))
        sql = "SELECT id::text FROM approval_queue WHERE status = 'pending'"
        request = await until(lambda: conn.fetchval(sql), 20.0, "the request")
        failed(await orchestrator(home, "approvals", "reject", request, DATABASE_URL=dsn), "--comment", code=2)
        done = said_json(
            await orchestrator(
                home, "approvals", "reject", request, "--comment", "Too narrow", "--json", DATABASE_URL=dsn
            )
        )
        assert (done["approval"]["status"], done["approval"]["decided_by"]) == ("rejected", getpass.getuser())
        failed(await waits, "is aborted", "Too narrow")
        assert await conn.fetchval("SELECT feedback FROM agent_feedback") == "Too narrow"
    nobody = "00000000-0000-0000-0000-000000000000"
    failed(await orchestrator(home, "approvals", "approve", nobody, DATABASE_URL=dsn), "no request")
    failed(await orchestrator(home, "approvals", "approve", "x", DATABASE_URL=dsn), code=2)
