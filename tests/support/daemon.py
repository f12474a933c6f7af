"""The timeline language of the flow tests: a whole daemon in this process, a clock to shift, and words for what
people do meanwhile.

    async with scenario(dsn) as t:
        lead = await t.lead(name="Ann")
        await t.until(lead, "AI_CONVERSATION")
        await t.after(hours=24)
        await t.expect_sent(lead, "CONVERSATION_FOLLOW_UP", times=1)
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from daemon.app import Daemon
from daemon.db import Connection, connect
from daemon.settings import Settings, load_settings
from tests.support.engines import NAMES, Engines

PATIENCE_S = 10.0
POLL_S = 0.004
COMPLETE: Mapping[str, Any] = {
    "property_address": "1 Mill Lane",
    "property_postcode": "LS1 4AP",
    "asking_price": 180_000,
    "property_type": "terraced",
    "bedrooms": 3,
    "condition": "fair",
}
"""What a vendor has to tell before the deal can be validated."""

QUIET = """
SELECT NOT EXISTS (SELECT FROM tasks WHERE status = 'running' OR (status = 'available' AND run_at <= clock()))
   AND NOT EXISTS (SELECT FROM schedules WHERE enabled AND (next_slot IS NULL OR next_slot <= clock()))
   AND NOT EXISTS (
       SELECT FROM leads l WHERE l.deadline_at <= clock() AND l.archived_at IS NULL
       AND NOT EXISTS (SELECT FROM tasks t WHERE t.status = 'dead' AND t.key = 'lead:' || l.id
                       AND (t.payload ->> 'stage_seq')::int = l.stage_seq))
"""
STORY = {
    "events": "SELECT event_type, from_stage, to_stage, metadata, actor, created_at FROM pipeline_events"
    " WHERE lead_id = $1 ORDER BY id",
    "messages": "SELECT template, channel, status, reason, send_at, idempotency_key FROM messages"
    " WHERE lead_id = $1 ORDER BY created_at",
    "replies": "SELECT body, category, status, reason FROM replies WHERE lead_id = $1 ORDER BY received_at",
    "tasks": "SELECT id, kind, status, run_at, attempt, error FROM tasks"
    " WHERE payload ->> 'lead_id' = ($1::uuid)::text ORDER BY id",
    "calls": "SELECT engine, operation, status, idempotency_key, cost, error FROM engine_calls"
    " WHERE lead_id = $1 ORDER BY id",
}


@dataclass(slots=True)
class Running:
    """One daemon and the task that it runs in."""

    daemon: Daemon
    task: "asyncio.Task[None]"
    parts: AsyncExitStack

    async def stop(self) -> None:
        """An orderly end."""
        self.daemon.stop()
        async with asyncio.timeout(PATIENCE_S):
            await self.task
        await self.parts.aclose()

    async def discard(self) -> None:
        """The end of a test: no grace."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.parts.aclose()


@dataclass(slots=True)
class Timeline:
    """What happens to leads, in the words of those who watch."""

    dsn: str
    engines: Engines
    settings: Settings
    conn: Connection
    running: list[Running] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1000))

    # -- daemons

    async def start(self) -> Daemon:
        """One more daemon on this database; returns when it listens."""
        daemon = Daemon(self.settings, self.dsn, self.dsn)
        parts = AsyncExitStack()
        await parts.enter_async_context(daemon.assembled())
        await daemon.open_database()
        self.running.append(Running(daemon, asyncio.create_task(daemon.run()), parts))
        await self.wait_for(lambda: _truth(daemon.listener.healthy), "the daemon never listened")
        return daemon

    async def stop(self) -> None:
        """Every daemon ends in good order."""
        while self.running:
            await self.running.pop().stop()

    async def restart(self, **away: float) -> None:
        """Stop and start; `away` (hours=…) passes in between."""
        await self.stop()
        if away:
            await self.shift(**away)
        await self.start()
        await self.quiet()

    async def sweep(self) -> int:
        """A sweep, and all that follows from it; returns the causes found without their task."""
        daemon = self.running[0].daemon
        found = await daemon.sweep.run()
        daemon.worker.wake()
        await self.quiet()
        return found

    # -- time

    async def shift(self, **by: float) -> datetime:
        """Only the clock moves."""
        now: datetime = await self.value("SELECT shift_clock($1)", timedelta(**by))
        return now

    async def after(self, **by: float) -> None:
        """So much later, when all that has fallen due meanwhile is done."""
        await self.shift(**by)
        await self.quiet()

    async def daily_job(self) -> None:
        """The next slot of the daily job, and all that follows from it."""
        slot = await self.value("SELECT next_slot FROM schedules WHERE name = 'daily'")
        await self.value("SELECT shift_clock($1 - clock())", slot)
        await self.eventually("SELECT last_slot >= $1 FROM schedules WHERE name = 'daily'", slot)
        await self.quiet()

    async def quiet(self) -> None:
        """Nothing is due and nothing runs."""
        await self.wait_for(lambda: self.value(QUIET), "it never became quiet")

    async def wait_for(
        self, condition: Callable[[], Awaitable[Any]], otherwise: str, within_s: float = PATIENCE_S
    ) -> None:
        """Until the condition holds; a daemon that fails meanwhile fails the test."""
        ends = time.monotonic() + within_s
        while not await condition():
            for one in self.running:
                if one.task.done():
                    one.task.result()
            if time.monotonic() > ends:
                raise AssertionError(f"{otherwise} within {within_s:g} s\n{await self.stories()}")
            await asyncio.sleep(POLL_S)

    async def eventually(self, sql: str, *args: Any, within_s: float = PATIENCE_S) -> None:
        """Until a query answers true."""
        await self.wait_for(lambda: self.value(sql, *args), f"never true: {sql}", within_s)

    async def until(self, lead: UUID, stage: str, within_s: float = PATIENCE_S) -> None:
        """Until the lead is in that stage."""
        sql = "SELECT stage = $2 FROM leads WHERE id = $1"
        await self.wait_for(lambda: self.value(sql, lead, stage), f"the lead never came to {stage}", within_s)

    # -- what people and other agents do

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Rows, by SQL."""
        return await self.conn.fetch(query, *args)

    async def value(self, query: str, *args: Any) -> Any:
        """One value, by SQL."""
        return await self.conn.fetchval(query, *args)

    async def lead(self, **columns: Any) -> UUID:
        """Insert a lead; it has a name and a phone number of its own unless told otherwise."""
        row = {"name": "Ann Vendor", "phone": f"+1555012{next(self._numbers)}"} | columns
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        found: UUID = await self.value(f"INSERT INTO leads ({names}) VALUES ({places}) RETURNING id", *row.values())
        return found

    async def told_all(self, stage: str = "OFFER_MADE") -> UUID:
        """A lead that had everything to tell at once, so that it goes on by itself, as a rule to its offer."""
        lead = await self.lead(data=dict(COMPLETE))
        await self.until(lead, stage)
        await self.quiet()
        return lead

    async def offered(self) -> UUID:
        """A lead from its first message to an offer in its hands."""
        return await self.told_all()

    async def tell(self, lead: UUID, **data: Any) -> None:
        """Another agent adds to the lead's data."""
        await self.sql("UPDATE leads SET data = data || $2 WHERE id = $1", lead, data)

    async def say(self, lead: UUID, text: str, thought: str | None = None, **columns: Any) -> UUID:
        """The lead writes by SMS, known by its number only; `thought` is the classifier's word for it."""
        if thought is not None:
            self.engines.categories[text] = thought
        row = {"channel": "sms", "from_address": await self.get(lead, "phone"), "body": text} | columns
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        found: UUID = await self.value(f"INSERT INTO replies ({names}) VALUES ({places}) RETURNING id", *row.values())
        return found

    async def reply(self, lead: UUID, text: str, thought: str | None = None, **columns: Any) -> UUID:
        """As `say`, and then everything that follows from it."""
        found = await self.say(lead, text, thought, **columns)
        await self.quiet()
        return found

    async def retry(self, task: int) -> None:
        """A person's retry, and what follows from it."""
        assert await self.value("SELECT retry_task($1)", task), f"task {task} can't be retried"
        await self.quiet()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Connection]:
        """Somebody else's connection."""
        other = await connect(self.dsn)
        try:
            yield other
        finally:
            await other.close()

    # -- what is to be seen

    async def get(self, lead: UUID, column: str) -> Any:
        """One column of the lead."""
        return await self.value(f"SELECT {column} FROM leads WHERE id = $1", lead)

    async def events(self, lead: UUID, event_type: str) -> list[asyncpg.Record]:
        """The lead's events of one type, oldest first."""
        sql = "SELECT * FROM pipeline_events WHERE lead_id = $1 AND event_type = $2 ORDER BY id"
        return await self.sql(sql, lead, event_type)

    async def path(self, lead: UUID) -> list[str]:
        """The stages that the lead has come through."""
        moves = "event_type IN ('created', 'stage_change')"
        rows = await self.sql(f"SELECT to_stage FROM pipeline_events WHERE lead_id = $1 AND {moves} ORDER BY id", lead)
        return [r["to_stage"] for r in rows]

    async def message(self, lead: UUID, template: str) -> asyncpg.Record:
        """The one message of that template."""
        [row] = await self.sql("SELECT * FROM messages WHERE lead_id = $1 AND template = $2", lead, template)
        return row

    async def dead(self, lead: UUID) -> list[asyncpg.Record]:
        """The lead's dead tasks."""
        return await self.sql(
            "SELECT * FROM tasks WHERE status = 'dead' AND key = 'lead:' || $1 ORDER BY id", str(lead)
        )

    async def requests_for_a_person(self, lead: UUID) -> list[asyncpg.Record]:
        """What waits in approval_queue."""
        sql = "SELECT * FROM approval_queue WHERE lead_id = $1 AND status = 'pending' ORDER BY created_at"
        return await self.sql(sql, lead)

    async def alerts(self, lead: UUID) -> list[str]:
        """The types of the lead's open alerts."""
        sql = "SELECT type FROM alerts WHERE subject = 'lead:' || $1 AND resolved_at IS NULL ORDER BY type"
        return [r["type"] for r in await self.sql(sql, str(lead))]

    async def expect(self, lead: UUID, stage: str) -> None:
        """The lead is there, and nothing is going on that could move it."""
        await self.quiet()
        now = await self.get(lead, "stage")
        assert now == stage, f"the lead is in {now}, not in {stage}\n{await self.story(lead)}"

    async def expect_sent(self, lead: UUID, template: str, *, times: int = 1) -> None:
        """So many of that template reached the lead, and as many are on record as sent."""
        await self.quiet()
        sql = "SELECT count(*) FROM messages WHERE lead_id = $1 AND template = $2 AND status = 'sent'"
        seen = self.engines.happened(template, lead), await self.value(sql, lead, template)
        assert seen == (times, times), (
            f"{template}: {seen[0]} reached the lead, {seen[1]} on record, {times} expected\n{await self.story(lead)}"
        )

    async def expect_sent_in_all(self, lead: UUID, *templates: str) -> None:
        """These messages in this order and no other ever reached the lead."""
        await self.quiet()
        reached = [
            a.template for a in self.engines.asked if a.template and a.lead == str(lead) and self.engines.effects[a.key]
        ]
        assert reached == list(templates), f"reached: {reached}\n{await self.story(lead)}"

    async def story(self, lead: UUID) -> str:
        """All that is known about the lead, for a failed test to tell."""
        row = (await self.sql("SELECT * FROM leads WHERE id = $1", lead))[0]
        lines = [f"clock {await self.value('SELECT clock()')}", f"lead {_shown(row)}"]
        for title, sql in STORY.items():
            lines += [f"{title}: {_shown(r)}" for r in await self.sql(sql, lead)]
        return "\n".join(lines)

    async def stories(self) -> str:
        """Of the first leads, and the tasks that belong to none."""
        leads = await self.sql("SELECT id FROM leads ORDER BY created_at LIMIT 3")
        others = await self.sql(
            "SELECT id, kind, status, run_at, error FROM tasks WHERE payload ->> 'lead_id' IS NULL LIMIT 20"
        )
        return "\n".join([*[await self.story(r["id"]) for r in leads], *[f"task {_shown(r)}" for r in others]])


@asynccontextmanager
async def scenario(dsn: str, engines: Engines | None = None, /, **overrides: str) -> AsyncIterator[Timeline]:
    """A daemon with engines at hand; `overrides` are settings without their prefix (SEND__DAILY_LIMIT="5")."""
    async with AsyncExitStack() as parts:
        if engines is None:
            engines = await parts.enter_async_context(Engines().serving())
        conn = await connect(dsn)
        parts.push_async_callback(conn.close)
        t = Timeline(dsn, engines, settings_for(dsn, engines, overrides), conn)
        try:
            await t.start()
            yield t
        finally:
            for one in t.running:
                await one.discard()


def settings_for(dsn: str, engines: Engines, overrides: Mapping[str, str]) -> Settings:
    """The defaults, but for a quick pulse, no quiet hours, and engines that are ours; "-" takes a setting out."""
    urls = {f"ENGINES__{name.upper()}__URL": engines.url(name) for name in NAMES}
    quick = {"WORKER__PULSE_S": "0.05", "SHUTDOWN_GRACE_S": "0.2", "SEND__QUIET_HOURS": ""}
    chosen = {k: v for k, v in {**urls, **quick, **overrides}.items() if v != "-"}
    return load_settings({"DATABASE_URL": dsn} | {f"ORCHESTRATOR_{name}": value for name, value in chosen.items()})


async def _truth(value: bool) -> bool:
    return value


def _shown(row: asyncpg.Record) -> str:
    return " ".join(f"{k}={v}" for k, v in row.items() if v not in (None, {}, [], ""))
