"""The command line from outside: exit codes, one clear line per failure, and the daemon's start and end."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson
import psutil
import pytest

from daemon import __version__
from daemon.db import Connection
from daemon.schema import VERSION
from tests.support.commands import Ended, free_port, orchestrator, running
from tests.support.postgres import Server
from tests.support.processes import until
from tests.support.proxy import proxy

NOWHERE = "postgresql://user:secretword@127.0.0.1:{port}/name"
END_S = 2.0
"""A daemon ends within its grace and that."""


@pytest.fixture
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door.getsockname()[1]


def failed_clearly(ended: Ended, *words: str) -> None:
    """Exit 1, one line that has these words, no traceback, no secret."""
    assert ended.code == 1, ended.err
    line = ended.err.splitlines()[-1]
    assert all(word in line for word in words), ended.err
    assert "Traceback" not in ended.err
    assert "secretword" not in ended.err + ended.out


async def lead_in(conn: Connection, stage: str) -> None:
    """Wait until the one lead is there."""
    await until(lambda: conn.fetchval("SELECT true FROM leads WHERE stage = $1", stage), 10.0, f"a lead in {stage}")


def with_password(dsn: str, password: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@{parts.netloc.rpartition('@')[2]}"))


# -- usage and settings


async def test_says_its_version(home: Path) -> None:
    said = await orchestrator(home, "--version")
    assert (said.code, said.out) == (0, f"orchestrator {__version__}\n")


@pytest.mark.parametrize("words", [("nonsense",), ("run", "--nonsense"), ("db", "nonsense"), ("pipelines", "show"),
                                   ("pipelines", "show", "nonsense"), ("db", "restore", "nonsense")])  # fmt: skip
async def test_bad_usage_is_2(home: Path, words: tuple[str, ...]) -> None:
    said = await orchestrator(home, *words)
    assert said.code == 2
    assert "Error:" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [("run",), ("check",), ("db", "status"), ("pipelines", "list")])
async def test_bad_settings_are_2_with_a_line_each(home: Path, words: tuple[str, ...]) -> None:
    wrong = {"ORCHESTRATOR_SEND__DAILY_LIMIT": "many", "ORCHESTRATOR_SWEEP__CORN": "* * * * *"}
    said = await orchestrator(home, *words, **wrong)
    assert said.code == 2
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert any(line.startswith("ORCHESTRATOR_SEND__DAILY_LIMIT: must be") for line in lines)
    assert any("nearest: ORCHESTRATOR_SWEEP__CRON" in line for line in lines)


async def test_a_bad_log_level_names_its_setting(home: Path) -> None:
    said = await orchestrator(home, "run", "--log-level", "LOUD")
    assert said.code == 2
    assert said.err.startswith("ORCHESTRATOR_LOG__LEVEL: must be one of")


async def test_systemd_gets_no_embedded_server(home: Path) -> None:
    said = await orchestrator(home, "run", INVOCATION_ID="0" * 32)
    assert said.code == 2
    assert "DATABASE_URL" in said.err
    assert not (home / "home").exists()


# -- pipelines


async def test_pipelines_are_listed_and_shown(home: Path) -> None:
    listed = await orchestrator(home, "pipelines", "list")
    assert listed.out.splitlines()[1].startswith("vendor_acquisition\t15\tNEW_LEAD\t")
    diagram = await orchestrator(home, "pipelines", "show", "vendor_acquisition")
    assert "    OFFER_MADE --> VIDEO_SENT: 48 h" in diagram.out.splitlines()
    shown = await orchestrator(home, "pipelines", "show", "vendor_acquisition", "--format", "json")
    stages = {stage["name"]: stage for stage in orjson.loads(shown.out)["stages"]}
    assert stages["NEW_LEAD"]["to"] == ["AI_CONVERSATION", "DEAD_LEAD"]
    assert stages["OFFER_MADE"]["deadlines"][0]["after_s"] == 48 * 3600
    same = await orchestrator(home, "pipelines", "show", "vendor_acquisition", "--json")
    every = await orchestrator(home, "pipelines", "list", "--json")
    assert same.out == shown.out  # mutant: `wanted = as_`
    assert orjson.loads(every.out) == {"pipelines": [orjson.loads(shown.out)]}


async def test_a_pipeline_as_sql_is_what_the_database_holds(home: Path, conn: Connection) -> None:
    async def rows() -> list[list[tuple[object, ...]]]:
        tables = (
            "SELECT * FROM pipelines",
            "SELECT * FROM stages ORDER BY position",
            "SELECT * FROM transitions ORDER BY 2, 3",
        )
        return [[tuple(row) for row in await conn.fetch(table)] for table in tables]

    shown = await orchestrator(home, "pipelines", "show", "vendor_acquisition", "--format", "sql")
    written_by_the_daemon = await rows()
    await conn.execute("DELETE FROM pipelines")
    await conn.execute(shown.out)
    assert await rows() == written_by_the_daemon


# -- check


async def test_check_lists_settings_and_findings(home: Path, dsn: str, conn: Connection) -> None:
    await conn.execute("INSERT INTO tasks (kind) VALUES ('of_the_future')")
    await conn.execute("INSERT INTO tasks (kind, key) SELECT 'lead.check', 'lead:busy' FROM generate_series(1, 1001)")
    await conn.execute("DELETE FROM transitions WHERE to_stage = 'COMPLETED'")
    said = await orchestrator(home, "check", DATABASE_URL=dsn, ORCHESTRATOR_API__TOKEN="secretword")
    assert said.code == 0, said.out + said.err
    assert all(line.split()[0] in {"ok", "warning", "error"} for line in said.out.splitlines())
    assert "ok       ORCHESTRATOR_WORKER__CONCURRENCY: 64 (default)" in said.out
    assert "ok       ORCHESTRATOR_API__TOKEN: ********" in said.out
    assert f"ok       schema: version {VERSION}" in said.out
    assert "warning  pipeline vendor_acquisition:" in said.out
    assert "warning  tasks of kind of_the_future: 1 " in said.out
    assert "warning  tasks of key lead:busy: 1001 " in said.out
    assert "warning  engine sms: http://localhost:3002" in said.out
    assert "secretword" not in said.out
    same = await orchestrator(home, "check", "--json", DATABASE_URL=dsn, ORCHESTRATOR_API__TOKEN="secretword")
    checks = [f"{one['level']:<8} {one['subject']}: {one['finding']}" for one in orjson.loads(same.out)["checks"]]
    assert len(checks) == len(said.out.splitlines()) - 1  # the sum of them
    assert "warning  tasks of kind of_the_future: 1 that this program doesn't know and never claims" in checks
    assert "secretword" not in same.out


async def test_check_finds_errors(home: Path, dsn: str, conn: Connection) -> None:
    await conn.execute("INSERT INTO stages (pipeline, name, position) VALUES ('vendor_acquisition', 'LIMBO', 99)")
    await conn.execute("INSERT INTO leads (stage) VALUES ('LIMBO')")
    said = await orchestrator(home, "check", DATABASE_URL=dsn)
    failed_clearly(said, "vendor_acquisition.LIMBO")
    assert "error    stage vendor_acquisition.LIMBO: 1 " in said.out
    nowhere = await orchestrator(home, "check", DATABASE_URL=NOWHERE.format(port=free_port()))
    failed_clearly(nowhere, "database")
    assert "warning  engine sms" in nowhere.out


# -- the daemon's start


async def test_runs_ends_on_sigterm_and_goes_on_where_it_was(home: Path, dsn: str, conn: Connection) -> None:
    with running(home, "run", "--dry-run", DATABASE_URL=dsn) as first:
        await first.until_said("ready")
        began = first.said()[0]
        await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+14155550100')")
        await lead_in(conn, "AI_CONVERSATION")
        assert psutil.Process(first.process.pid).memory_info().rss <= 80 * 2**20
        assert await first.stopped(signal.SIGTERM, within=END_S) == 0
    assert began["event"] == "starting"
    assert began["version"] == __version__
    assert urlsplit(dsn).path in began["database"]
    assert str(urlsplit(dsn).password) not in first.log.read_text()
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Bob', '+14155550101')")
    with running(home, "run", "--dry-run", DATABASE_URL=dsn) as second:
        await until(
            lambda: conn.fetchval("SELECT count(*) = 2 FROM leads WHERE stage = 'AI_CONVERSATION'"), 20.0, "Bob"
        )
        assert await second.stopped(signal.SIGINT, within=END_S) == 0
    assert await conn.fetchval("SELECT count(*) FROM messages WHERE reason = 'dry run'") == 2
    assert await conn.fetchval("SELECT count(*) FROM workers") == 0


async def test_once_drains_and_leaves_and_opens_no_port(home: Path, dsn: str, conn: Connection, silence: int) -> None:
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+14155550100')")
    said = await orchestrator(home, "run", "--once", "--dry-run", DATABASE_URL=dsn, ORCHESTRATOR_API__PORT=str(silence))
    assert said.code == 0, said.err
    assert await conn.fetchval("SELECT stage FROM leads") == "AI_CONVERSATION"
    assert await conn.fetchval("SELECT count(*) FROM tasks") == 0
    assert await conn.fetchval("SELECT count(*) FROM schedules WHERE next_slot IS NULL") == 0


OVERDUE = """
INSERT INTO leads (name, phone, stage, deadline_at)
SELECT 'Ann', '+14155550100', 'AI_CONVERSATION', now() - interval '1 hour' FROM generate_series(1, 2100)"""
WITHOUT_TASK = """
INSERT INTO leads (name, phone) SELECT 'Ann', '+14155550100' FROM generate_series(1, 5001);
DELETE FROM tasks"""


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (OVERDUE, "SELECT count(*) FROM leads WHERE deadline_at <= now()"),
        (WITHOUT_TASK, "SELECT count(*) FROM leads WHERE stage = 'NEW_LEAD'"),
    ],
    ids=["deadlines", "entries"],
)
async def test_once_leaves_nothing_that_is_due(home: Path, dsn: str, conn: Connection, given: str, left: str) -> None:
    """More than one step of a sweep takes. Mutant: `Daemon.once` sweeps without `whole`."""
    await conn.execute(given)
    assert await conn.fetchval(left) > 1000
    said = await orchestrator(home, "run", "--once", "--dry-run", DATABASE_URL=dsn)
    assert said.code == 0, said.err
    assert await conn.fetchval(left) == 0
    assert await conn.fetchval("SELECT count(*) FROM tasks WHERE run_at <= now()") == 0


async def test_once_gives_back_on_sigterm(home: Path, dsn: str, conn: Connection, silence: int) -> None:
    settings = {"ORCHESTRATOR_ENGINES__SMS__URL": f"http://127.0.0.1:{silence}", "ORCHESTRATOR_SHUTDOWN_GRACE_S": "0.2"}
    await conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+14155550100')")
    with running(home, "run", "--once", DATABASE_URL=dsn, **settings) as once:
        called = "SELECT true FROM tasks JOIN engine_calls c ON c.task_id = tasks.id WHERE tasks.status = 'running'"
        await until(lambda: conn.fetchval(called), 20.0, "a call in flight")
        assert await once.stopped(signal.SIGTERM, within=0.2 + END_S) == 0
    assert await conn.fetchval("SELECT status FROM tasks WHERE kind = 'message'") == "available"


async def test_creates_the_schema_in_an_empty_database(home: Path, server: Server) -> None:
    dsn = await server.clone("template0")
    said = await orchestrator(home, "run", "--once", DATABASE_URL=dsn)
    assert said.code == 0, said.err
    assert f"version {VERSION}, current" in (await orchestrator(home, "db", "status", DATABASE_URL=dsn)).out
    await server.drop(dsn)


async def test_refuses_a_schema_of_another_version(home: Path, dsn: str, conn: Connection) -> None:
    await conn.execute("INSERT INTO schema_version (version) VALUES (1000)")
    for words in (("run",), ("run", "--once"), ("check",)):
        failed_clearly(await orchestrator(home, *words, DATABASE_URL=dsn), "schema")


async def test_refuses_a_taken_port(home: Path, dsn: str, silence: int) -> None:
    said = await orchestrator(home, "run", DATABASE_URL=dsn, ORCHESTRATOR_API__PORT=str(silence))
    failed_clearly(said, f"127.0.0.1:{silence} is in use: free it, or set ORCHESTRATOR_API__PORT")


@pytest.mark.parametrize("embedded", [False, True], ids=["its own database", "the embedded one"])
async def test_a_second_daemon_on_the_port_of_the_first_names_that(home: Path, dsn: str, *, embedded: bool) -> None:
    """Mutant: port.sql `neighbour` asks for another host."""
    settings = {"ORCHESTRATOR_API__PORT": str(free_port()), "ORCHESTRATOR_SHUTDOWN_GRACE_S": "0.5"}
    settings |= {} if embedded else {"DATABASE_URL": dsn}
    with running(home, "run", **settings) as first:
        await first.until_said("ready")
        second = await orchestrator(home, "run", **settings)
        assert second.code == 1
        assert second.err == (
            f"a daemon already runs here (pid {first.process.pid} on {socket.gethostname()}, "
            f"http://127.0.0.1:{settings['ORCHESTRATOR_API__PORT']}): stop it first, or set ORCHESTRATOR_API__PORT to "
            "run a second one\n"
        )
        assert first.process.poll() is None
        first.process.kill()
        first.process.wait()
        with socket.create_server(("127.0.0.1", int(settings["ORCHESTRATOR_API__PORT"]))):
            third = await orchestrator(home, "run", **settings)
        failed_clearly(third, "is in use: free it")


@pytest.mark.parametrize("words", [("run",), ("run", "--once"), ("db", "status")])
async def test_does_not_wait_for_a_database_that_refuses(home: Path, dsn: str, words: tuple[str, ...]) -> None:
    said = await orchestrator(home, *words, DATABASE_URL=with_password(dsn, "secretword"))
    failed_clearly(said, "password authentication failed", "correct DATABASE_URL")
    absent = await orchestrator(home, *words, DATABASE_URL=urlunsplit(urlsplit(dsn)._replace(path="/absent")))
    failed_clearly(absent, "absent", "correct DATABASE_URL")


@pytest.mark.parametrize("words", [("run", "--once"), ("check",), ("db", "init"), ("db", "migrate"), ("db", "status"),
                                   ("db", "shell"), ("db", "backup")])  # fmt: skip
async def test_fails_in_time_without_a_database(home: Path, silence: int, words: tuple[str, ...]) -> None:
    refused = await orchestrator(home, *words, DATABASE_URL=NOWHERE.format(port=free_port()))
    failed_clearly(refused)
    silent = await orchestrator(home, *words, DATABASE_URL=NOWHERE.format(port=silence))
    failed_clearly(silent)
    assert silent.seconds < refused.seconds + 4.0  # a start takes under a second, but not on a busy machine


async def test_a_dead_host_holds_up_no_command(home: Path, dsn: str, silence: int) -> None:
    async with proxy(dsn) as between:
        alive = between.dsn(dsn)
        both = alive.replace("@", f"@127.0.0.1:{silence},")
        for words in (("db", "status"), ("run", "--once")):
            said = await orchestrator(home, *words, DATABASE_URL=both)
            assert said.code == 0, said.err


@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_waits_for_its_database_and_says_so(home: Path, dsn: str, how: str) -> None:
    """Mutants: `_live` serves after the database is open; `Resource.respond` looks at `early` alone."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    async with proxy(dsn) as between, aiohttp.ClientSession(url) as http:
        if how == "refused":
            await between.refuse()
        else:
            between.go_silent(new_ones_too=True)
        with running(home, "run", DATABASE_URL=between.dsn(dsn), ORCHESTRATOR_API__PORT=port) as waiting:
            await waiting.until_said("API listening")
            for path in ("/readyz", "/api/leads", "/api/openapi.json"):
                away = await _asked(http, path, 503)
                assert away["detail"] == "the database is away"
            assert (await _asked(http, "/healthz", 200))["status"] == "ok"
            health = await _asked(http, "/api/health", 200)
            assert (health["status"], health["listener"], health["queueDepth"]) == ("degraded", False, None)
            async with http.get("/metrics") as metrics:
                assert "orchestrator_listener_connected 0.0" in await metrics.text()
            await waiting.until_said("waiting for the database")
            if how == "refused":
                await between.admit()
            else:
                between.silent = False
                between.cut()
            await waiting.until_said("ready")
            for path in ("/readyz", "/api/leads"):
                await _asked(http, path, 200)
            assert await waiting.stopped(signal.SIGTERM, within=END_S) == 0


async def _asked(http: aiohttp.ClientSession, path: str, status: int) -> dict[str, Any]:
    """What the API says there, which has to come with that status."""
    async with http.get(path) as answer:
        said = await answer.json(content_type=None)
        assert answer.status == status, said
        assert (answer.content_type == "application/problem+json") == (status >= 400)
        return dict(said)


async def test_can_be_ended_while_it_waits(home: Path) -> None:
    with running(home, "run", DATABASE_URL=NOWHERE.format(port=free_port())) as waiting:
        await waiting.until_said("waiting for the database")
        assert await waiting.stopped(signal.SIGTERM, within=END_S) == 0


async def test_tells_systemd(home: Path, dsn: str) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(home / "notify"))
        systemd.settimeout(20.0)
        with running(home, "run", DATABASE_URL=dsn, NOTIFY_SOCKET=str(home / "notify")) as daemon:
            await daemon.until_said("ready")
            assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
            assert await daemon.stopped(signal.SIGTERM, within=END_S) == 0
        assert systemd.recv(100) == b"STOPPING=1"


# -- the embedded server and the sandbox


async def test_brings_its_own_server_and_takes_it_along(home: Path) -> None:
    with running(home, "run") as daemon:
        await daemon.until_said("ready")
        assert f"version {VERSION}, current" in (await orchestrator(home, "db", "status")).out
        pid = int((home / "home/postgres/data/postmaster.pid").read_text().split()[0])
        assert await daemon.stopped(signal.SIGTERM, within=10.0) == 0
    assert not psutil.pid_exists(pid)


async def test_two_commands_at_once_share_one_home(home: Path) -> None:
    both = await asyncio.gather(orchestrator(home, "db", "init"), orchestrator(home, "db", "init"))
    assert [one.code for one in both] == [0, 0], both
    assert sorted(one.out for one in both) == [
        f"schema is there, version {VERSION}\n",
        f"schema made, version {VERSION}\n",
    ]


async def test_the_sandbox_plays_every_engine(home: Path, dsn: str, conn: Connection) -> None:
    with running(home, "run", "--sandbox", DATABASE_URL=dsn, ORCHESTRATOR_SHUTDOWN_GRACE_S="0.5") as daemon:
        await daemon.until_said("ready")
        await until(lambda: conn.fetchval("SELECT true FROM messages WHERE status = 'sent' LIMIT 1"), 30.0, "a message")
        assert await daemon.stopped(signal.SIGTERM, within=0.5 + END_S) == 0
