"""`orchestrator leads` and `orchestrator tasks` as a person runs them."""

import asyncio
import getpass
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from daemon.db import Connection
from tests.support.commands import Ended, environment, free_port, orchestrator

NOWHERE = "postgresql://user:secretword@127.0.0.1:{port}/name"
ESCAPE = "\x1b"
ATTEMPTS = "SELECT count(*) FROM pipeline_events WHERE event_type = 'invalid_transition_attempt' AND lead_id = $1"


def said_json(ended: Ended) -> Any:
    """The one document on stdout."""
    assert ended.code == 0, ended.err
    return orjson.loads(ended.out)


def failed(ended: Ended, *words: str, code: int = 1) -> None:
    """This exit code, and on stderr a clear line; nothing on stdout."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    line = ended.err.splitlines()[-1] if code == 1 else ended.err
    assert all(word in line for word in words), ended.err
    assert len(ended.err.splitlines()) == 1 or code == 2


async def lead_in(conn: Connection, stage: str = "AI_CONVERSATION", **columns: Any) -> UUID:
    """A lead, imported at a stage where nothing happens by itself."""
    row = {"name": "Ann", "phone": "+14155550100", "stage": stage} | columns
    names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
    found: UUID = await conn.fetchval(f"INSERT INTO leads ({names}) VALUES ({places}) RETURNING id", *row.values())
    return found


async def task_in(conn: Connection, status: str, kind: str = "lead.check", **payload: Any) -> int:
    """A task."""
    lease = "gen_random_uuid()" if status == "running" else "NULL"
    found: int = await conn.fetchval(
        f"INSERT INTO tasks (kind, status, payload, error, lease_id) VALUES ($1, $2, $3, 'boom', {lease}) RETURNING id",
        kind, status, payload,
    )  # fmt: skip
    return found


def on_a_terminal(home: Path, dsn: str, *arguments: str, columns: int = 100) -> str:
    """What a command says to somebody who watches."""
    watcher, theirs = pty.openpty()
    env = {**environment(home, DATABASE_URL=dsn), "TERM": "xterm-256color", "COLUMNS": str(columns)}
    subprocess.run(
        [sys.executable, "-m", "daemon", *arguments], cwd=home, env=env, stdout=theirs, check=True, timeout=60
    )
    os.close(theirs)
    said = bytearray()
    while part := _read(watcher):
        said += part
    os.close(watcher)
    return said.decode()


def _read(watcher: int) -> bytes:
    try:
        return os.read(watcher, 65536)
    except OSError:  # Linux's way of saying that the other side is closed
        return b""


# -- leads


async def test_leads_are_listed_and_filtered(home: Path, dsn: str, conn: Connection) -> None:
    ann = await lead_in(conn, name="Ann", needs_review=True, review_reason="odd [bold]price")
    bob = await lead_in(conn, "OFFER_MADE", name="Bob")
    every = said_json(await orchestrator(home, "leads", "list", "--json", DATABASE_URL=dsn))
    assert {row["id"] for row in every["leads"]} == {str(ann), str(bob)}
    for options in (("--stage", "OFFER_MADE"), ("--limit", "1", "--pipeline", "vendor_acquisition")):
        some = said_json(await orchestrator(home, "leads", "list", *options, "--json", DATABASE_URL=dsn))
        assert [row["name"] for row in some["leads"]] == ["Bob"]
    flagged = await orchestrator(home, "leads", "list", "--needs-review", DATABASE_URL=dsn)
    assert "odd [bold]price" in flagged.out
    assert "Bob" not in flagged.out
    none = await orchestrator(home, "leads", "list", "--stage", "COMPLETED", DATABASE_URL=dsn)
    assert (none.code, none.out) == (0, "no leads\n")


async def crowd_in(conn: Connection) -> list[str]:
    """Leads of one moment, with all that a list can tell of one; their ids."""
    columns: dict[str, Any] = {
        "stage": "AI_CONVERSATION",
        "needs_review": True,
        "review_reason": "illegal move asked for: OFFER_MADE to COMPLETED",
    }
    return [str(await lead_in(conn, **columns, name=f"Ann of the very long name {n}")) for n in range(5)]


async def test_a_list_is_readable_on_a_narrow_terminal_and_its_ids_are_accepted(
    home: Path, dsn: str, conn: Connection
) -> None:
    """Mutants: `cut=False` in Page.list; `alike` for `alike + 1` in ids.shortest."""
    crowd = await crowd_in(conn)
    said = re.sub(r"\x1b\[[\d;]*m", "", on_a_terminal(home, dsn, "leads", "list", columns=80))
    head, _, *lines = [line.split() for line in said.splitlines() if line.strip()]
    assert head == ["id", "stage", "name", "review"]
    assert len(lines) == len(crowd)
    assert max(map(len, said.splitlines())) <= 80
    assert all(line[1] == "AI_CONVERSATION" and "Ann of the" in " ".join(line) and "…" in line[-1] for line in lines)
    for line in lines:
        shown = said_json(await orchestrator(home, "leads", "show", line[0], "--json", DATABASE_URL=dsn))
        assert 8 <= len(line[0]) < 36
        assert shown["lead"]["id"] == crowd[~lines.index(line)]


async def test_a_piped_list_is_whole_and_has_a_row_a_line(home: Path, dsn: str, conn: Connection) -> None:
    """Mutant: no `.rstrip()` in showing._pipe."""
    crowd = await crowd_in(conn)
    await lead_in(conn, "DEAD_LEAD", name="Two\nlines")
    listed = await orchestrator(home, "leads", "list", DATABASE_URL=dsn)
    head, dead, *lines = listed.out.splitlines()
    assert head.split("\t") == ["id", "stage", "name", "address", "deadline (UTC)", "review"]
    assert dead.split("\t")[1:] == ["DEAD_LEAD", "Two lines", "+14155550100"]
    assert [line.split("\t")[0] for line in lines] == crowd[::-1]
    assert lines[0].endswith("illegal move asked for: OFFER_MADE to COMPLETED")
    assert not any(line.endswith((" ", "\t")) or "  " in line for line in listed.out.splitlines())


@pytest.mark.parametrize(("option", "known"), [("--stage", "AI_CONVERSATION"), ("--pipeline", "vendor_acquisition")])
async def test_an_unknown_place_is_no_empty_list(home: Path, dsn: str, option: str, known: str) -> None:
    """Mutant: no call of _require_known in list_."""
    ended = await orchestrator(home, "leads", "list", option, "NOWHERE", DATABASE_URL=dsn)
    failed(ended, "'NOWHERE'; there are:", known, option, code=2)


async def test_a_lead_is_known_by_its_name_or_address(home: Path, dsn: str, conn: Connection) -> None:
    """Mutant: `name = $1` in ids.sql's called."""
    ann = await lead_in(conn, name="Ann Vendor", email="Ann@Example.com")
    bens = [str(await lead_in(conn, name="Decade", phone=f"+1415555020{n}")) for n in range(2)]
    for wanted in ("ann vendor", "ann@example.COM", "+1 (415) 555-0100", str(ann)):
        shown = said_json(await orchestrator(home, "leads", "show", wanted, "--json", DATABASE_URL=dsn))
        assert shown["lead"]["id"] == str(ann)
    several = await orchestrator(home, "leads", "explain", "decade", DATABASE_URL=dsn)  # it might be an id
    failed(several, "several leads are 'decade'; name one by its id: ")
    short = several.err.rpartition(": ")[2].strip().split(", ")
    assert [any(ben.startswith(one) for ben in bens) for one in short] == [True, True]
    moved = await orchestrator(home, "leads", "move", "+14155550200", "DEAD_LEAD", "--reason", "r", DATABASE_URL=dsn)
    assert moved.out == f"lead {bens[0]} is in DEAD_LEAD\n"
    failed(await orchestrator(home, "leads", "show", "Ann", DATABASE_URL=dsn), "find it: orchestrator leads list")


async def test_a_lead_is_shown_with_its_history_and_its_messages(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn, name="Ann \x1b[31mRed", data={"bedrooms": 0})
    await conn.execute(
        "UPDATE leads SET stage = 'DEAD_LEAD', moved_by = 'ann', move_reason = 'sold' WHERE id = $1", lead
    )
    await conn.execute("INSERT INTO messages (lead_id, template) VALUES ($1, 'VIDEO')", lead)
    document = said_json(await orchestrator(home, "leads", "show", str(lead), "--json", DATABASE_URL=dsn))
    assert document["lead"]["data"] == {"bedrooms": 0}
    assert [event["event_type"] for event in document["events"]] == ["created", "stage_change"]
    assert [message["template"] for message in document["messages"]] == ["VIDEO"]
    shown = await orchestrator(home, "leads", "show", str(lead), DATABASE_URL=dsn)
    assert shown.code == 0, shown.err
    assert all(word in shown.out for word in (str(lead), "stage_change", '{"reason":"sold"}', "VIDEO", "draft"))
    assert ESCAPE not in shown.out


async def test_a_terminal_gets_colours_and_folded_tables(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn, name="Ann \x1b[31mRed " + "very " * 40)
    seen = on_a_terminal(home, dsn, "leads", "show", str(lead))
    assert ESCAPE in seen
    assert f"{ESCAPE}[31mRed" not in seen
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in seen.splitlines()) <= 100
    assert ESCAPE in on_a_terminal(home, dsn, "leads", "explain", str(lead))


async def test_a_lead_is_known_by_the_beginning_of_its_id(home: Path, dsn: str, conn: Connection) -> None:
    for digit in "ab":
        await lead_in(conn, id=UUID(f"abcdef0{digit}-0000-4000-8000-000000000000"))
    shown = said_json(await orchestrator(home, "leads", "show", "ABCDEF0a-0", "--json", DATABASE_URL=dsn))
    assert shown["lead"]["id"].startswith("abcdef0a")
    failed(await orchestrator(home, "leads", "show", "abcdef", DATABASE_URL=dsn), "several leads", "abcdef0a, abcdef0b")
    failed(await orchestrator(home, "leads", "show", "abcdee", DATABASE_URL=dsn), "there is no lead 'abcdee'")


@pytest.mark.parametrize("words", [("show",), ("explain",), ("move", "DEAD_LEAD", "--reason", "r")])
async def test_a_lead_that_nobody_knows(home: Path, dsn: str, words: tuple[str, ...]) -> None:
    nobody = uuid4()
    command, *rest = words
    failed(
        await orchestrator(home, "leads", command, str(nobody), *rest, DATABASE_URL=dsn),
        "there is no lead",
        str(nobody),
        "find it: orchestrator leads list",
    )


@pytest.mark.parametrize("words", [
    ("leads", "erase", "nonsense"), ("leads", "erase", "abcde"), ("leads", "explain", " "), ("leads", "show"),
    ("leads", "move", "0" * 32, "DEAD_LEAD"), ("leads", "move", "0" * 32, "DEAD_LEAD", "--reason", " "),
    ("leads", "list", "--limit", "0"), ("leads", "list", "--limit", "many"), ("tasks", "show", "one"),
    ("tasks", "show", "0"), ("tasks", "retry", str(2**63)), ("tasks", "list", "--status", "asleep"),
])  # fmt: skip
async def test_bad_usage_is_2_whatever_the_database(home: Path, words: tuple[str, ...]) -> None:
    failed(await orchestrator(home, *words, DATABASE_URL=NOWHERE.format(port=free_port())), "Error", code=2)


@pytest.mark.parametrize("words", [("leads", "list"), ("leads", "explain", "abcdef"), ("tasks", "retry", "1")])
async def test_without_a_database_it_fails_in_time(home: Path, words: tuple[str, ...]) -> None:
    ended = await orchestrator(home, *words, DATABASE_URL=NOWHERE.format(port=free_port()))
    failed(ended, "can't reach Postgres")
    assert "secretword" not in ended.err


async def test_explains_a_lead(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn, "OFFER_MADE")
    document = said_json(await orchestrator(home, "leads", "explain", str(lead), "--json", DATABASE_URL=dsn))
    assert document.keys() == {"lead_id", "stage", "summary", "next", "gates", "waiting_for"}
    assert document["summary"] == "No daemon is running, so nothing happens; start one: orchestrator run."
    shown = await orchestrator(home, "leads", "explain", str(lead), DATABASE_URL=dsn)
    assert shown.out.startswith(document["summary"])
    assert all(word in shown.out for word in ("move it to VIDEO_SENT", "closed"))
    assert ESCAPE not in shown.out


async def test_an_explanation_says_nothing_twice_and_only_what_is_closed(
    home: Path, dsn: str, conn: Connection
) -> None:
    """Mutants: `[0:]` for `[1:]`, or no `not g["open"]`, in explain."""
    lead = str(await lead_in(conn, "OFFER_MADE"))
    document = said_json(await orchestrator(home, "leads", "explain", lead, "--json", DATABASE_URL=dsn))
    shown = await orchestrator(home, "leads", "explain", lead, DATABASE_URL=dsn)
    every = await orchestrator(home, "leads", "explain", lead, "--all", DATABASE_URL=dsn)
    assert shown.out.count("so nothing happens") == 1
    assert [wait["what"] in shown.out for wait in document["waiting_for"]] == [False, True]  # its first letter is large
    for gate in document["gates"]:
        line = f"{gate['name']}\t{'open' if gate['open'] else 'closed'}\t"
        assert (line in shown.out, line in every.out) == (not gate["open"], True)


async def test_moves_a_lead(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn)
    moved = await orchestrator(home, "leads", "move", str(lead), "DEAD_LEAD", "--reason", "sold", DATABASE_URL=dsn)
    assert (moved.code, moved.out) == (0, f"lead {lead} is in DEAD_LEAD\n")
    row = await conn.fetchrow("SELECT stage, moved_by, move_reason FROM leads WHERE id = $1", lead)
    assert row is not None
    assert tuple(row) == ("DEAD_LEAD", getpass.getuser(), "sold")


async def test_a_misspelt_stage_is_called_so_and_leaves_no_trace(home: Path, dsn: str, conn: Connection) -> None:
    """Mutant: no call of _require_declared in _moved."""
    lead = await lead_in(conn)
    for more in ((), ("--override",)):
        wish = ("leads", "move", str(lead), "DEAD_LAED", "--reason", "r", *more)
        failed(await orchestrator(home, *wish, DATABASE_URL=dsn), "has no stage 'DEAD_LAED'", "DEAL_VALIDATION")
    assert await conn.fetchval(ATTEMPTS, lead) == 0
    assert not await conn.fetchval("SELECT needs_review FROM leads WHERE id = $1", lead)


async def test_refuses_an_illegal_move_and_names_the_legal_ones(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn)
    failed(await orchestrator(home, "leads", "move", str(lead), "COMPLETED", "--reason", "r", DATABASE_URL=dsn),
           "from AI_CONVERSATION to COMPLETED", "legal targets: DEAL_VALIDATION, DEAD_LEAD")  # fmt: skip
    assert await conn.fetchval(ATTEMPTS, lead) == 1
    failed(await orchestrator(home, "leads", "move", str(lead), "DEAL_VALIDATION", "--reason", "r", DATABASE_URL=dsn),
           "enters DEAL_VALIDATION only with: property_address, property_postcode")  # fmt: skip


async def test_an_override_passes_by_the_table(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn, "DEAD_LEAD")
    wish = ("leads", "move", str(lead), "DUE_DILIGENCE", "--override", "--reason", "bought after all", "--json")
    assert said_json(await orchestrator(home, *wish, DATABASE_URL=dsn))["lead"]["stage"] == "DUE_DILIGENCE"
    event = (
        "SELECT actor, metadata ->> 'reason' FROM pipeline_events WHERE event_type = 'stage_override' AND lead_id = $1"
    )
    row = await conn.fetchrow(event, lead)
    assert row is not None
    assert tuple(row) == (getpass.getuser(), "bought after all")
    again = await orchestrator(home, *wish, DATABASE_URL=dsn)
    failed(again, "in DUE_DILIGENCE already; choose another stage")
    assert "HINT" not in again.err  # mutant: only `str(error)` in cli._told


# -- tasks


async def test_tasks_are_listed_and_shown(home: Path, dsn: str, conn: Connection) -> None:
    dead = await task_in(conn, "dead", kind="of_the_future", lead_id="x")
    waiting = await task_in(conn, "available")
    every, by_status, by_kind, table, shown, ended = await asyncio.gather(
        orchestrator(home, "tasks", "list", "--json", DATABASE_URL=dsn),
        orchestrator(home, "tasks", "list", "--status", "dead", "--json", DATABASE_URL=dsn),
        orchestrator(home, "tasks", "list", "--kind", "of_the_future", "--json", DATABASE_URL=dsn),
        orchestrator(home, "tasks", "list", "--limit", "1", DATABASE_URL=dsn),
        orchestrator(home, "tasks", "show", str(dead), DATABASE_URL=dsn),
        orchestrator(home, "tasks", "list", "--status", "done", DATABASE_URL=dsn),
    )
    assert [row["id"] for row in said_json(every)["tasks"]] == [waiting, dead]
    assert [row["id"] for some in (by_status, by_kind) for row in said_json(some)["tasks"]] == [dead, dead]
    assert "lead.check" in table.out
    assert "of_the_future" not in table.out
    assert all(word in shown.out for word in ("of_the_future", "boom", '{"lead_id":"x"}'))
    assert ESCAPE not in table.out + shown.out
    assert (ended.code, ended.out) == (0, "no tasks\n")


async def test_open_tasks_come_first_and_a_cut_list_says_so(home: Path, dsn: str, conn: Connection) -> None:
    """Mutants: `[(None,)]` for `[OPEN, ENDED]`, or no `if more`, in tasks.py."""
    lead = await lead_in(conn, name="Ann Vendor")
    await conn.execute("DELETE FROM tasks")
    dead = await task_in(conn, "dead")
    await conn.execute("UPDATE tasks SET key = 'lead:' || $1::text WHERE id = $2", str(lead), dead)
    for _ in range(3):
        await orchestrator(home, "tasks", "cancel", str(await task_in(conn, "available")), DATABASE_URL=dsn)
    some, whole = await asyncio.gather(
        orchestrator(home, "tasks", "list", "--kind", "lead.check", "--limit", "2", DATABASE_URL=dsn),
        orchestrator(home, "tasks", "list", "--kind", "lead.check", "--limit", "4", DATABASE_URL=dsn),
    )
    first, second = [line.split("\t") for line in some.out.splitlines()[1:]]
    assert (first[0], first[2], first[5], second[2]) == (str(dead), "dead", "Ann Vendor", "cancelled")
    assert (some.err, whole.err) == ("2 more: --limit\n", "")


async def test_a_dead_task_is_retried(home: Path, dsn: str, conn: Connection) -> None:
    dead = await task_in(conn, "dead")
    retried = await orchestrator(home, "tasks", "retry", str(dead), DATABASE_URL=dsn)
    assert (retried.code, retried.out) == (0, f"task {dead} (lead.check) is available\n")
    assert await conn.fetchval("SELECT status FROM tasks WHERE id = $1", dead) == "available"


async def test_a_cancelled_task_tells_what_it_was_about(home: Path, dsn: str, conn: Connection) -> None:
    lead = await lead_in(conn)
    message = await conn.fetchval("INSERT INTO messages (lead_id, status) VALUES ($1, 'scheduled') RETURNING id", lead)
    task = await conn.fetchval("SELECT id FROM tasks WHERE kind = 'message'")
    cancelled = said_json(await orchestrator(home, "tasks", "cancel", str(task), "--json", DATABASE_URL=dsn))
    assert cancelled["task"]["status"] == "cancelled"
    assert await conn.fetchval("SELECT status FROM messages WHERE id = $1", message) == "cancelled"


@pytest.mark.parametrize("command", ["retry", "cancel"])
async def test_a_task_that_runs_or_has_ended_is_left_alone(
    home: Path, dsn: str, conn: Connection, command: str
) -> None:
    running, gone = await task_in(conn, "running"), await task_in(conn, "available")
    await orchestrator(home, "tasks", "cancel", str(gone), DATABASE_URL=dsn)
    done = "retried" if command == "retry" else "cancelled"
    runs, ended, unknown = await asyncio.gather(
        orchestrator(home, "tasks", command, str(running), DATABASE_URL=dsn),
        orchestrator(home, "tasks", command, str(gone), DATABASE_URL=dsn),
        orchestrator(home, "tasks", command, "999", DATABASE_URL=dsn),
    )
    failed(runs, f"is running: it can't be {done}")
    failed(ended, f"is cancelled: it can't be {done}")
    failed(unknown, "there is no task 999")


async def test_a_task_that_nobody_knows(home: Path, dsn: str) -> None:
    failed(await orchestrator(home, "tasks", "show", "999", DATABASE_URL=dsn), "there is no task 999")
