"""A load of leads, the engine that their first messages go through, and what must have become of them."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from daemon.db import Connection
from tests.support.processes import until


@dataclass(slots=True)
class SmsEngine:
    """Answers after a while and remembers everything; with `honours_keys` a key has its effect once."""

    honours_keys: bool = False
    latency_s: tuple[float, float] = (0.005, 0.05)
    url: str = ""
    requests: list[str] = field(default_factory=list)
    keys: dict[str, set[str]] = field(default_factory=dict)
    effects: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def send(self, request: web.Request) -> web.Response:
        """One call; it goes on to its end even if the caller dies meanwhile."""
        body, key = await request.json(), request.headers["Idempotency-Key"]
        self.requests.append(key)
        self.keys.setdefault(body["lead_id"], set()).add(key)
        self.in_flight += 1
        try:
            await asyncio.sleep(random.uniform(*self.latency_s))
            if not (self.honours_keys and key in self.effects):
                self.effects[key] += 1
            await self.gate.wait()
            return web.json_response({"message_id": key, "cost": 0.01})
        finally:
            self.in_flight -= 1

    def settings(self, **more: str) -> dict[str, str]:
        """How a daemon is told of it."""
        named = {"url": self.url, "idempotent": str(self.honours_keys).lower(), "max_concurrency": "64", **more}
        return {f"engines__sms__{name}": value for name, value in named.items()}


@asynccontextmanager
async def sms_engine(*, honours_keys: bool, **more: Any) -> AsyncIterator[SmsEngine]:
    """A running engine."""
    engine = SmsEngine(honours_keys, **more)
    app = web.Application()
    app.router.add_post("/api/send", engine.send)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        engine.gate.set()
        await runner.cleanup()


async def insert_leads(conn: Connection, count: int, *, name: str = "Ann", quiet: bool = False) -> list[str]:
    """New leads, in one statement; returns their ids."""
    async with conn.transaction():
        if quiet:
            await conn.execute("SET LOCAL orchestrator.quiet = 'on'")
        rows = await conn.fetch(
            "INSERT INTO leads (name, phone) SELECT $1, '+1555' || lpad(n::text, 7, '0') FROM generate_series(1, $2) n"
            " RETURNING id::text",
            name, count,
        )  # fmt: skip
    return [row["id"] for row in rows]


UNENDED = """
SELECT (SELECT count(*) FROM tasks WHERE status <> 'dead' AND kind NOT LIKE 'lead.%')
     + (SELECT count(*) FROM leads WHERE stage = 'NEW_LEAD' AND NOT needs_review) AS n"""


async def all_ended(conn: Connection, within: float) -> None:
    """Wait until every lead has come to AI_CONVERSATION or to a person."""

    async def over() -> bool:
        return bool(await conn.fetchval(UNENDED) == 0)

    try:
        await until(over, within, "the end of all work", pause=0.02)
    except AssertionError as error:
        left = [dict(r) for r in await conn.fetch("SELECT * FROM tasks WHERE status <> 'dead' LIMIT 5")]
        raise AssertionError(f"{error}; {await conn.fetchval(UNENDED)} left, such as {left}") from None


async def sent_once(conn: Connection, engine: SmsEngine, leads: int) -> int:
    """Check that nobody was lost, moved twice or called twice; returns how many are flagged as unknown."""
    assert await conn.fetchval("SELECT count(*) FROM leads") == leads
    moved = await conn.fetch("SELECT lead_id, to_stage FROM pipeline_events WHERE event_type = 'stage_change'")
    assert max(Counter(map(tuple, moved)).values(), default=0) <= 1, "a lead moved twice"
    created = await conn.fetchval("SELECT count(*) FROM pipeline_events WHERE event_type = 'created'")
    assert created == leads, "the history has a lead's beginning not exactly once"
    assert await conn.fetchval("SELECT count(*) FROM messages") == leads, "not one message per lead"
    assert all(len(keys) == 1 for keys in engine.keys.values()), "a message went out under two keys"
    assert set(engine.effects.values()) <= {1}, "an effect happened twice"
    stages = Counter(r["stage"] for r in await conn.fetch("SELECT stage FROM leads"))
    unknown = await flagged_unknown(conn)
    assert stages["AI_CONVERSATION"] + unknown == leads, f"{stages}, {unknown} unknown"
    return unknown


async def flagged_unknown(conn: Connection) -> int:
    """How many leads wait for a person because of an unknown outcome: message, task and alert must all say so."""
    return int(
        await conn.fetchval("""
        SELECT count(*) FROM leads l
        JOIN messages m ON m.lead_id = l.id AND m.status = 'unknown'
        JOIN tasks t ON t.status = 'dead' AND t.payload ->> 'message_id' = m.id::text
        JOIN alerts a ON a.type = 'UNKNOWN_OUTCOME' AND a.severity = 'HIGH' AND a.subject = 'lead:' || l.id
        WHERE l.stage = 'NEW_LEAD' AND l.needs_review""")
    )
