"""The only way to an engine: reserve in the ledger, call, settle in the ledger."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from secrets import token_hex
from typing import Any
from uuid import UUID

import aiohttp

from daemon.accepted import Meanwhile, settle
from daemon.answers import Answer, Answered, Failed, Unknown, charge
from daemon.budgets import Budget
from daemon.ledger import Doubtful, Ended, Gate, Intent, Known, Ledger, Refused, Refuted, Reserved
from daemon.log import get_logger
from daemon.metrics import Metrics
from daemon.outcome import Fail, Snooze
from daemon.settings import EngineSettings
from daemon.task import Task
from daemon.transport import Engine

log = get_logger("engines")


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler wants of an engine. `cause` names the effect; with the task's round it is the Idempotency-Key.

    `estimate` is its cost in dollars, which must fit `budgets`, too; `most_calls` how often it may go out in all.
    """

    engine: str
    operation: str
    body: Mapping[str, Any]
    cause: str
    lead_id: UUID | None = None
    run_id: UUID | None = None
    campaign_id: UUID | None = None
    estimate: Decimal | None = None
    timeout_s: float | None = None
    url: str | None = None
    method: str = "POST"
    prompt: str = ""
    budgets: tuple[Budget, ...] = ()
    most_calls: int | None = None
    gate: Gate | None = None
    item: Any = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Not called: a gate, a budget (of this `scope`) or the dry run forbade it; `until` when it may be tried again."""

    reason: str
    until: datetime | None = None
    scope: str | None = None


@dataclass(slots=True)
class Engines:
    """Every configured engine behind one ledger."""

    configured: Mapping[str, EngineSettings]
    ledger: Ledger
    metrics: Metrics
    session: aiohttp.ClientSession
    timezone: str
    dry_run: bool = False
    webhooks: bool = False  # engines may tell of accepted calls
    _engines: dict[str, Engine] = field(default_factory=dict)

    def known(self, name: str) -> bool:
        """Whether the engine has a URL or a command."""
        return name in self.configured and self.configured[name].configured

    async def call(self, task: Task, call: Call) -> Answer | Skipped:
        """One call under its key: made at most once, unless the engine honours the key."""
        if not self.known(call.engine):
            return Failed(f"engine {call.engine} is not configured", retryable=False)
        if self.dry_run:
            return Skipped("dry run")
        intent = self._intent(task, call)
        # First the place, then the reservation: between its gate and the call there is no waiting.
        async with self._engine(call.engine).slot():
            reservation = await self.ledger.reserve(intent)
            match reservation:
                case Reserved():
                    return await self._make(intent, call)
                case Known(result, http_status):
                    return Answered(result, http_status)
                case Refuted(error, http_status):
                    return Failed(error, retryable=False, http_status=http_status)
                case Doubtful(error):
                    return Unknown(error)
                case Refused(reason, until, scope):
                    return Skipped(reason, until, scope)

    def as_outcome(self, engine: str, answer: Failed | Unknown | Skipped) -> Fail | Snooze[Any]:
        """What a call that brought no result means for its task; only an engine that honours the key is asked again."""
        match answer:
            case Failed(error, retryable, after_s, _):
                return Fail(error, retryable, after_s)
            case Unknown(error, _):
                return Fail(error, retryable=self.configured[engine].idempotent, unknown=True)
            case Skipped(reason, until):
                return Fail(reason, retryable=False) if until is None else Snooze(until, reason)

    def _intent(self, task: Task, call: Call) -> Intent:
        settings = self.configured[call.engine]
        key = call.cause if task.round == 0 else f"{call.cause}#{task.round}"
        return Intent(
            engine=call.engine, operation=call.operation, key=key,
            lease_id=task.lease_id, task_id=task.id, round=task.round,
            cost=settings.cost_per_call if call.estimate is None else call.estimate,
            lead_id=call.lead_id, run_id=call.run_id, campaign_id=call.campaign_id,
            repeatable=settings.idempotent, most_calls=call.most_calls, fresh=task.attempt == 1,
            gate=call.gate, item=call.item,
            budgets=(*self._daily(call.engine, settings.daily_budget), *call.budgets),
        )  # fmt: skip

    def _daily(self, engine: str, limit: Decimal | None) -> tuple[Budget, ...]:
        return () if limit is None else (Budget(f"engine:{engine}", "day", limit, self.timezone),)

    async def _make(self, intent: Intent, call: Call) -> Answer:
        began = time.perf_counter()
        meanwhile = Meanwhile(self.ledger, intent.key)
        answer = await self._engine(call.engine).call(
            call.operation, call.body, key=intent.key, traceparent=_traceparent(), timeout_s=call.timeout_s,
            method=call.method, url=call.url, prompt=call.prompt, settled=meanwhile.look if self.webhooks else None,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        ended = _ended(intent, answer, seconds)
        self._measure(intent, ended, seconds)
        if meanwhile.answer is None and not await self.ledger.settle(ended):
            log.warning("late answer", engine=intent.engine, idempotency_key=intent.key, status=ended.status)
            told = await meanwhile.look() if self.webhooks else None
            return told if isinstance(told, Answered) else answer  # its webhook may have been quicker
        return answer

    async def settle_accepted(self, engine: str, key: str, report: Mapping[str, Any]) -> bool | None:
        """Settle a call as its engine tells; False if it was settled before, None if that engine had no such call."""
        return await settle(self.ledger, engine, key, report)

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = Engine(self.configured[name], self.session)
        return self._engines[name]

    def _measure(self, intent: Intent, ended: Ended, seconds: float) -> None:
        self.metrics.engine_calls.labels(intent.engine, ended.status).inc()
        self.metrics.engine_seconds.labels(intent.engine).observe(seconds)
        self.metrics.engine_cost.labels(intent.engine).inc(float(ended.cost))


def _ended(intent: Intent, answer: Answer, seconds: float) -> Ended:
    ms = seconds * 1000
    match answer:
        case Answered(result, status):
            cost = charge(result, intent.cost).cost
            return Ended(intent.key, "ok", cost, status, ms, None, result, intent.budgets)
        case Failed(error, _, _, status):
            return Ended(intent.key, "failed", Decimal(0), status, ms, error, budgets=intent.budgets)
        case Unknown(error, status):
            return Ended(intent.key, "unknown", intent.cost, status, ms, error, budgets=intent.budgets)


def _traceparent() -> str:
    """W3C trace context: a new trace per call."""
    return f"00-{token_hex(16)}-{token_hex(8)}-01"
