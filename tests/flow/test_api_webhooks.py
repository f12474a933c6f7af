"""Engines that accept a call and tell by webhook what became of it."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import web

from daemon.errors import SettingsError
from daemon.settings import load_settings
from daemon.signatures import sign
from tests.support.api import Client, Reply, serving
from tests.support.engines import NAMES, Accepts, Effect, Engines
from tests.support.processes import until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DONE = {"status": "completed", "result": {"message_id": "told-1", "cost": 0.5}}


@dataclass(frozen=True, slots=True)
class Takes(Accepts):
    """202, and polls never learn more than that it is running; `located`: there is a place to poll."""

    located: bool = True

    async def play(self, request: web.Request, effect: Effect) -> web.StreamResponse:
        if request.method == "GET":
            self.polls["asked"] += 1
            return web.json_response({"status": "running"}, headers={"Retry-After": "0"})
        effect()
        place = {"Location": f"/sms/jobs/{request.headers['Idempotency-Key']}"} if self.located else {}
        return web.Response(status=202, headers={**place, "Retry-After": "0"})


@asynccontextmanager
async def accepting(dsn: str, act: Takes, **overrides: str) -> AsyncIterator[tuple[Client, Engines]]:
    """A daemon with its API, and an engine that accepts what it is asked to send."""
    async with Engines().serving() as engines:
        engines.on("sms", act)
        urls = {f"ENGINES__{name.upper()}__URL": engines.url(name) for name in NAMES}
        chosen: dict[str, Any] = {"WEBHOOKS__SIGNING_SECRET": SECRET, "SEND__QUIET_HOURS": "", **urls, **overrides}
        async with serving(dsn, **chosen) as api:
            yield api, engines


async def tell(
    api: Client, key: str, report: Mapping[str, Any], engine: str = "sms", *, secret: str = SECRET, age_s: int = 0
) -> Reply:
    """What the engine says of a call."""
    body = orjson.dumps({"idempotency_key": key, **report})
    return await say(api, body, engine, secret=secret, age_s=age_s)


async def say(api: Client, body: bytes, engine: str = "sms", *, secret: str = SECRET, age_s: int = 0) -> Reply:
    at = int(time.time()) - age_s
    headers = {"webhook-id": "m1", "webhook-timestamp": str(at), "webhook-signature": sign(secret, "m1", at, body)}
    return await api.ask("POST", f"/webhooks/engines/{engine}", token=None, headers=headers, data=body)


async def asked(api: Client, engines: Engines) -> tuple[UUID, str]:
    """A new lead, and the key of the call that its first message made."""
    lead: UUID = await api.conn.fetchval("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234') RETURNING id")

    async def key() -> str | None:
        sql = "SELECT idempotency_key FROM engine_calls WHERE lead_id = $1 AND status = 'reserved'"
        found: str | None = await api.conn.fetchval(sql, lead)
        return found if engines.requests("sms", lead=lead) else None

    return lead, await until(key, 10.0, "the call")


async def polled(act: Takes) -> bool:
    return act.polls["asked"] > 0 or not act.located


async def sent(api: Client, lead: UUID) -> None:
    """The message is, by what the webhook told, and nobody was asked twice."""
    sql = "SELECT stage = 'AI_CONVERSATION' FROM leads WHERE id = $1"
    await until(lambda: api.conn.fetchval(sql, lead), 10.0, "the lead went on")
    (row,) = await api.conn.fetch("SELECT status, provider_message_id, cost FROM messages WHERE lead_id = $1", lead)
    assert (row["status"], row["provider_message_id"], float(row["cost"])) == ("sent", "told-1", 0.5)
    (row,) = await api.conn.fetch("SELECT status, cost FROM engine_calls WHERE lead_id = $1", lead)
    assert (row["status"], float(row["cost"])) == ("ok", 0.5)


@pytest.mark.parametrize("located", [True, False], ids=["polled", "not polled"])
async def test_a_call_that_is_waited_for_ends_when_its_engine_tells(dsn: str, located: bool) -> None:
    """Mutant: Http._poll without its look at the ledger; it polls until its time is up."""
    act = Takes(located=located)
    async with accepting(dsn, act) as (api, engines):
        lead, key = await asked(api, engines)
        await until(lambda: polled(act), 10.0, "a poll")
        reply = await tell(api, key, DONE)
        assert (reply.status, reply.json) == (200, {"success": True, "changed": True})
        await sent(api, lead)
        assert len(engines.requests("sms")) == 1


async def test_a_replay_changes_nothing(dsn: str) -> None:
    """Guarantee 17. Mutant: settle without its look at what is settled."""
    async with accepting(dsn, Takes()) as (api, engines):
        lead, key = await asked(api, engines)
        await tell(api, key, DONE)
        await sent(api, lead)
        await api.quiet()
        before = await api.conn.fetch("SELECT *, xmin FROM engine_calls")
        for report in (DONE, {"status": "failed", "result": "no"}, {"status": "completed", "result": {"cost": 9}}):
            reply = await tell(api, key, report)
            assert (reply.status, reply.json["changed"]) == (200, False)
        assert await api.conn.fetch("SELECT *, xmin FROM engine_calls") == before


@pytest.mark.parametrize("located", [True, False], ids=["polled", "not polled"])
async def test_a_late_word_revives_the_task_that_died_of_not_knowing(dsn: str, located: bool) -> None:
    async with accepting(dsn, Takes(located=located), ENGINES__SMS__TIMEOUT_S="0.4") as (api, engines):
        lead, key = await asked(api, engines)
        dead = "SELECT status = 'dead' FROM tasks WHERE kind = 'message'"
        await until(lambda: api.conn.fetchval(dead), 10.0, "nobody knows")
        error = await api.conn.fetchval("SELECT error FROM tasks WHERE kind = 'message'")
        assert ("waiting for the webhook" in error) is not located
        assert (await tell(api, key, DONE)).json["changed"] is True
        await sent(api, lead)
        assert len(engines.requests("sms")) == 1


async def test_a_failure_that_is_told_is_retried_unless_it_says_no(dsn: str) -> None:
    async with accepting(dsn, Takes()) as (api, engines):
        _, key = await asked(api, engines)
        await tell(api, key, {"status": "failed", "result": {"detail": "no credit", "retryable": False}})
        dead = "SELECT error FROM tasks WHERE kind = 'message' AND status = 'dead'"
        assert "no credit" in await until(lambda: api.conn.fetchval(dead), 10.0, "dead")
        other, key = await asked(api, engines)
        await tell(api, key, {"status": "failed", "result": {"detail": "busy"}})
        waits = "SELECT error FROM tasks WHERE kind = 'message' AND status = 'available' AND key = 'lead:' || $1"
        assert "busy" in await until(lambda: api.conn.fetchval(waits, str(other)), 10.0, "another try")
        costs = await api.conn.fetch("SELECT status, cost FROM engine_calls")
        assert [(r["status"], float(r["cost"])) for r in costs] == [("failed", 0), ("failed", 0)]


async def test_without_webhooks_a_call_without_a_place_to_ask_is_not_waited_for(dsn: str) -> None:
    async with accepting(dsn, Takes(located=False), WEBHOOKS__SIGNING_SECRET="") as (api, _):
        await api.conn.execute("INSERT INTO leads (name, phone) VALUES ('Ann', '+15550001234')")
        sql = "SELECT status = 'unknown' FROM engine_calls"
        await until(lambda: api.conn.fetchval(sql), 10.0, "unknown")
        (await tell(api, "k", DONE)).problem(404)


# -- who may tell


@pytest.fixture(scope="module")
async def api(server: Any) -> AsyncIterator[Client]:
    """One daemon with a call of unknown outcome on record."""
    dsn = await server.clone()
    async with serving(dsn, WEBHOOKS__SIGNING_SECRET=SECRET) as client:
        await client.conn.execute(
            "INSERT INTO engine_calls (engine, operation, idempotency_key, status)"
            " VALUES ('sms', '/', 'known', 'unknown')"
        )
        yield client
    await server.drop(dsn)


async def test_nobody_tells_without_a_good_signature(api: Client) -> None:
    """Guarantee 17. Mutant: require_signature that returns at once."""
    assert (await tell(api, "known", DONE, secret="whsec_b3RoZXI=")).problem(403)
    assert (await tell(api, "known", DONE, age_s=301)).problem(403)
    (await api.ask("POST", "/webhooks/engines/sms", token=None, data=b"not even JSON")).problem(403)
    (await api.ask("POST", "/webhooks/engines/sms", data=orjson.dumps({"idempotency_key": "known", **DONE}))).problem(
        403
    )
    assert await api.conn.fetchval("SELECT status FROM engine_calls WHERE idempotency_key = 'known'") == "unknown"


@pytest.mark.parametrize(("key", "engine"), [("unheard of", "sms"), ("known", "validator"), ("known", "no such")])
async def test_a_call_that_this_engine_never_got_is_not_found(api: Client, key: str, engine: str) -> None:
    (await tell(api, key, DONE, engine)).problem(404)
    assert await api.conn.fetchval("SELECT status FROM engine_calls WHERE idempotency_key = 'known'") == "unknown"


@pytest.mark.parametrize(
    ("body", "status", "loc"),
    [
        (b"{", 400, []),
        (b"", 422, ["idempotency_key"]),
        (b'{"idempotency_key": "known", "status": "done"}', 422, ["status"]),
        (b'{"idempotency_key": "known", "status": "completed"}', 422, ["result"]),
        (b'{"idempotency_key": "known", "status": "completed", "result": []}', 422, ["result"]),
        (b'{"idempotency_key": "known", "status": "completed", "result": {"a": "\\u0000"}}', 422, ["result", "a"]),
        (b'{"idempotency_key": "", "status": "failed"}', 422, ["idempotency_key"]),
        (b'{"idempotency_key": "known", "status": "failed", "why": 1}', 422, ["why"]),
    ],
)
async def test_a_bad_report_is_refused_with_its_place(api: Client, body: bytes, status: int, loc: list[str]) -> None:
    reply = await say(api, body)
    reply.problem(status)
    assert loc in reply.places
    assert await api.conn.fetchval("SELECT status FROM engine_calls WHERE idempotency_key = 'known'") == "unknown"


def test_a_secret_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(SettingsError, match="ORCHESTRATOR_WEBHOOKS__SIGNING_SECRET"):
        load_settings({"ORCHESTRATOR_WEBHOOKS__SIGNING_SECRET": "whsec_!"})
