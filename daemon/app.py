"""The composition root: it alone knows the handlers, makes the parts and starts their tasks."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import backoff

from campaigns import definition
from campaigns import registry as campaigns
from campaigns.catalogue import Catalogue
from campaigns.report import Report, report_on
from campaigns.schedule import CampaignCalendar
from daemon import __version__, db, notify, queue, schema
from daemon.context import Context
from daemon.db import DAEMON_SESSION, UNREACHABLE, Connection, Pool
from daemon.engines import Engines
from daemon.errors import SettingsError
from daemon.ledger import Ledger
from daemon.listener import Beat, Listener
from daemon.log import get_logger
from daemon.metrics import Metrics
from daemon.notify import Notifier
from daemon.settings import Settings
from daemon.sweep import Sweep, strange_kinds
from daemon.task import Kind
from daemon.timers import Jobs, Timers, keep_leases
from daemon.transport import open_session
from daemon.worker import Limits, Worker
from handlers import addresses, leads, registry, sweep
from handlers.erasure import erase
from handlers.explain import ask
from handlers.pipeline import Pipeline, mermaid
from handlers.reply_rules import parse_mail

log = get_logger("app")
Part = Callable[[], Coroutine[Any, Any, None]]
STALE_DAYS = 30
SETTLES_SINCE = {"synchronous_commit": "off"}  # a claim that the server forgets merely becomes available again


async def prepare(conn: Connection, pipelines: tuple[Pipeline, ...] = registry.PIPELINES) -> None:
    """Make the schema in an empty database, refuse an outdated one, and write the declared pipelines."""
    await schema.create_schema(conn)
    await schema.require_current(conn)
    await leads.sync(conn, pipelines)


async def explain(
    conn: Connection, lead_id: UUID, pipelines: tuple[Pipeline, ...] = registry.PIPELINES
) -> dict[str, Any] | None:
    """Why nothing (more) happens with a lead and what happens next, as JSON values; None if there is no such lead."""
    named = registry.by_name(pipelines)
    explanation = await ask(conn, lead_id, named, frozenset(registry.kinds(named)))
    return explanation.document() if explanation else None


def campaign_world(settings: Settings, pipelines: tuple[Pipeline, ...] = registry.PIPELINES) -> definition.World:
    """What campaign documents are checked against."""
    return definition.World(settings.engines, frozenset(pipeline.name for pipeline in pipelines))


def kinds_of(settings: Settings, pipelines: tuple[Pipeline, ...] = registry.PIPELINES) -> dict[str, Kind[Any]]:
    """Every kind of task about leads and campaigns."""
    return {**registry.kinds(registry.by_name(pipelines)), **campaigns.kinds(campaign_world(settings, pipelines))}


def catalogue(settings: Settings) -> Catalogue:
    """The campaigns on record, for the commands."""
    return Catalogue(campaign_world(settings))


def check_campaign(text: bytes, settings: Settings) -> Report:
    """Whether that JSON text is a valid campaign, and what is wrong with it."""
    return report_on(text, campaign_world(settings))


def campaign_schema() -> dict[str, Any]:
    """The JSON Schema of a campaign document."""
    return definition.json_schema()


@dataclass(slots=True)
class Daemon:
    """One daemon: its parts, and how they start and stop together."""

    settings: Settings
    dsn: str
    listen_dsn: str
    pipelines: tuple[Pipeline, ...] = registry.PIPELINES
    metrics: Metrics = field(default_factory=lambda: Metrics(__version__))
    pool: Pool = field(init=False)
    worker: Worker = field(init=False)
    listener: Listener = field(init=False)
    timers: Timers = field(init=False)
    jobs: Jobs = field(init=False)
    catalogue: Catalogue = field(init=False)
    sweep: Sweep = field(init=False)
    ledger: Ledger = field(init=False)
    engines: Engines = field(init=False)
    at_work: bool = False  # its database was there and is fit for it
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _connected: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def assembled(self) -> AsyncIterator["Daemon"]:
        """Everything made, nothing started."""
        s = self.settings
        self.pool = Pool(self.dsn, s.pool.size)
        self.catalogue = Catalogue(campaign_world(s, self.pipelines))
        claims = Pool(self.dsn, 2, session={**DAEMON_SESSION, **SETTLES_SINCE})
        self.ledger = Ledger(self.pool, claims)
        async with open_session() as session:
            self.engines = Engines(
                s.engines, self.ledger, self.metrics, session, s.timezone, s.dry_run,
                webhooks=s.webhooks.signing_secret is not None,
            )  # fmt: skip
            kinds = kinds_of(s, self.pipelines) | {k.name: k for k in notify.kinds(Notifier(s, session))}
            limits = Limits(s.worker.concurrency, s.worker.batch, s.worker.lease_s)
            context = Context(self.engines, s)
            self.worker = Worker(claims, self.pool, kinds, self.metrics, limits, context, self._spawn, uuid4())
            steps = [*sweep.steps(s, self.metrics), strange_kinds(kinds)]
            self.sweep = Sweep(self.pool, steps, self.metrics)
            self.jobs = Jobs({"sweep": self._sweep, "daily": self._daily})
            slots = CampaignCalendar(campaign_world(s, self.pipelines), self.worker.wake)
            self.timers = Timers(self.pool, (self.jobs, slots), self.metrics)
            beat = Beat(s.worker.pulse_s, s.worker.takeover_s, s.listener.probe_timeout_s, s.listener.poll_only)
            self.listener = Listener(
                self.listen_dsn, self.worker, self.metrics, beat, self._heard, self.timers.look, self._doubt
            )
            self.worker.healthy = lambda: self.listener.healthy
            try:
                yield self
            finally:
                self.pool.close()
                claims.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._tasks.create_task(coroutine)

    def _heard(self) -> None:
        """Connected (again): what was said meanwhile is found by a sweep."""
        self._connected.set()
        self.jobs.ask("sweep")
        self.timers.look()
        self.worker.wake()

    def _doubt(self) -> list[int]:
        """The ear went dead: the other connections may be half-open, too."""
        return self.pool.doubt() + self.worker.claims.doubt()

    async def _sweep(self) -> None:
        await self.sweep.run()
        self.worker.wake()

    async def _daily(self) -> None:
        async with self.pool.acquire() as conn:
            await sweep.daily(conn, STALE_DAYS)
            pruned = await queue.prune_log(conn, self.settings.history.retention_days)
        log.info("daily job", log_rows_pruned=pruned)
        self.worker.wake()

    # -- what the API needs of the handlers, which it doesn't know

    campaign_schema = staticmethod(campaign_schema)
    erase = staticmethod(erase)
    normal_address = staticmethod(addresses.normal_address)
    problem_with_country = staticmethod(addresses.problem_with_country)
    problem_with_email = staticmethod(addresses.problem_with_email)
    problem_with_phone = staticmethod(addresses.problem_with_phone)
    read_mail = staticmethod(parse_mail)

    def diagram(self, pipeline: str) -> str | None:
        """The declared pipeline of that name as a Mermaid diagram."""
        return next((mermaid(p) for p in self.pipelines if p.name == pipeline), None)

    async def explain(self, conn: Connection, lead_id: UUID) -> dict[str, Any] | None:
        """Why nothing (more) happens with a lead."""
        return await explain(conn, lead_id, self.pipelines)

    # -- running

    async def open_database(self, *, wait: bool = True) -> None:
        """Prepare the database; while it is away, wait for it (or not)."""
        patiently = backoff.on_exception(
            backoff.expo, UNREACHABLE, factor=0.2, max_value=2.0, giveup=self._refused, on_backoff=_say_waiting,
            logger=None,
        )  # fmt: skip
        await (patiently(self._prepare_database) if wait else self._prepare_database)()

    async def _prepare_database(self) -> None:
        conn = await db.connect(self.dsn)
        try:
            await prepare(conn, self.pipelines)
            await self._seed_schedules(conn)
        finally:
            conn.terminate()

    async def _refused(self, _: Exception) -> bool:
        """Whether every host answers but won't let us in: waiting is of no use then."""
        return all([await _refuses(host) for host in db.hosts_of(self.dsn)])

    async def _seed_schedules(self, conn: Connection) -> None:
        from daemon.timers import SQL  # noqa: PLC0415

        for name, cron in (("sweep", self.settings.sweep.cron), ("daily", self.settings.jobs.daily)):
            await conn.execute(SQL["seed_schedule"], name, cron, self.settings.timezone)

    async def run(self, extras: tuple[Coroutine[Any, Any, None], ...] = ()) -> None:
        """Run until SIGTERM or SIGINT, then stop claiming, finish within the grace and give back the rest."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop.set)
        self.at_work = True
        async with self._tasks:
            started = [self._spawn(_supervised(name, part)) for name, part in self._parts().items()]
            started += [self._spawn(extra) for extra in extras]
            await self._stop.wait()
            log.info("stopping", running=len(self.worker.running))
            await self.worker.stop(self.settings.shutdown_grace_s)
            await self.listener.sign_off()
            for task in started:
                task.cancel()
        log.info("stopped")

    def _parts(self) -> Mapping[str, Part]:
        return {
            "listener": self.listener.run,
            "timers": self.timers.run,
            "worker": self._work,
            "committer": self.worker.committer.run,
            "second committer": self.worker.committer.run,
            "reservations": self.ledger.reservations.run,
            "settlements": self.ledger.settlements.run,
            "leases": lambda: keep_leases(self.worker, self.pool, self.settings.worker.lease_s),
        }

    async def _work(self) -> None:
        await self._connected.wait()
        await self.worker.run()

    async def ready(self) -> None:
        """Wait until this daemon listens."""
        await self._connected.wait()

    def stop(self) -> None:
        """Ask for an orderly end."""
        self._stop.set()

    async def asked_to_stop(self) -> None:
        """Wait until an orderly end was asked for."""
        await self._stop.wait()

    async def once(self) -> int:
        """Fire what is due, sweep, drain what can be claimed; no port, no listener. The number of tasks attempted."""
        async with self._tasks:
            needed = ("committer", "reservations", "settlements", "leases")
            started = [self._spawn(_supervised(name, self._parts()[name])) for name in needed]
            await self.timers.fire()
            await self.sweep.run(whole=True)
            attempted = await self.worker.drain()
            for task in started:
                task.cancel()
        return attempted


def ease_collector() -> None:
    """For a process that is one daemon: what was imported stays, and batches of values come and go without cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _refuses(host_dsn: str) -> bool:
    try:
        conn = await asyncpg.connect(host_dsn, timeout=db.CONNECT_TIMEOUT_S)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError):
        return True
    except asyncpg.ProtocolViolationError as error:
        return any(words in str(error) for words in db.NOT_LET_IN)
    except (*UNREACHABLE, asyncpg.PostgresError):
        return False
    conn.terminate()
    return False


async def _supervised(name: str, part: Part) -> None:
    """Run a part until it ends; one that fails is told and begun anew: none ends them all, but by bad settings."""
    pauses = chain((0.1, 0.5, 1.0), repeat(5.0))
    while True:
        try:
            await part()
        except SettingsError:
            raise
        except Exception:  # the supervised loop
            log.exception("part failed, beginning anew", name=name)
            await asyncio.sleep(next(pauses))
        else:
            return


def _say_waiting(details: Mapping[str, Any]) -> None:
    if details["tries"] in (1, 20):
        log.warning("waiting for the database", error=str(details["exception"]))


__all__ = [
    "UNREACHABLE",
    "Daemon",
    "Pipeline",
    "Report",
    "ease_collector",
    "erase",
    "explain",
    "mermaid",
    "prepare",
    "registry",
]
