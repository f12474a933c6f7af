"""The kinds of step, one module each; here is what they share: one attempt of a step, and how it ends."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from campaigns.budget import Charged, budgets_of
from campaigns.decisions import End, follows, total
from campaigns.effects import NOTHING, Alert, CampaignPaused, Effect, Effects, Parked, RunEnded, StepBegun, StepEnded
from campaigns.facts import Run, Step, effect_key
from daemon.answers import tidy
from daemon.budgets import Budget
from daemon.context import Context
from daemon.outcome import Done, Snooze
from daemon.task import Task

UNTIL_RESUMED = datetime(9999, 1, 1, tzinfo=UTC)
"""When a parked task is due; resume_run brings it forward."""
DRY = {"dryRun": True}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a step: the run that it belongs to, its task, and the way to the engines."""

    run: Run
    step: Step
    task: Task
    context: Context

    @property
    def dry(self) -> bool:
        """Whether nothing may be called, written or asked."""
        return self.run.row["dry_run"] or self.context.engines.dry_run

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What its campaign may spend."""
        return budgets_of(self.run.row["campaign_id"], self.run.document)

    @property
    def charged(self) -> tuple[Charged, ...]:
        """The effect of a call that may have cost something."""
        return (Charged(self.run.id, self.run.round, self.step.name, self.budgets),) if self.budgets else ()

    def key(self, *more: object) -> str:
        """What names this step's call, or one of its calls."""
        return effect_key(self.run.id, self.step.position, self.run.round, *more)

    def completed(
        self, result: Mapping[str, Any], *more: Effect, cost: Decimal = NOTHING, call: str | None = None
    ) -> Done[Effects]:
        """The step succeeded: its result is on record, and the run goes on."""
        ended = self._ended("completed", result, None, cost, call)
        return Done((*ended, *more, *self._then("completed", result, cost)), "completed")

    def failed(
        self,
        error: str,
        *,
        status: str = "failed",
        result: Mapping[str, Any] | None = None,
        cost: Decimal = NOTHING,
        call: str | None = None,
    ) -> Done[Effects]:
        """The step failed for good, or nobody knows whether it did (`unknown`): onFailure says what follows."""
        ended = self._ended(status, result, tidy(error), cost, call)
        return Done((*ended, *self._alerts(status, error), *self._then(status, result or {}, cost)), tidy(error))

    def stopped(self, error: str, *more: Effect, step_status: str = "failed") -> Done[Effects]:
        """Somebody or something stopped the run here."""
        ended = self._ended(step_status, None, tidy(error), NOTHING, None)
        over = RunEnded(self.run.id, self.run.round, "aborted", "run_failed", "onFailure")
        return Done((*ended, *more, over), tidy(error))

    def spent(self, reason: str, scope: str, until: datetime | None) -> Done[Effects]:
        """Its campaign's budget `scope` (campaign:ID:daily, …) is used up: nothing of it runs until that rolls over."""
        ended = self._ended("cancelled", None, tidy(reason), NOTHING, None)
        over = RunEnded(self.run.id, self.run.round, "aborted", "budget", "onBudget")
        paused = CampaignPaused(self.run.id, tidy(reason), scope.rpartition(":")[2], until)
        return Done((*ended, over, paused), tidy(reason))

    def _ended(
        self, status: str, result: Mapping[str, Any] | None, error: str | None, cost: Decimal, call: str | None
    ) -> Effects:
        run, step = self.run, self.step
        ended = StepEnded(run.id, run.round, step.position, status, result, error, cost, self.task.attempt, call)
        return (ended, *(self.charged if call else ()))

    def _alerts(self, status: str, error: str) -> Iterable[Alert]:
        if status == "unknown":
            said = tidy(f"{self.run.campaign}: {self.step.name}: {error}")
            yield Alert("UNKNOWN_OUTCOME", said, "HIGH", f"run:{self.run.id}", {"step": self.step.name})

    def _then(self, status: str, result: Mapping[str, Any], cost: Decimal) -> Effects:
        run, step = self.run, self.step
        statuses = [status if s.position == step.position else s.status for s in run.steps]
        found = run.found + total({step.name: result}, "found")
        then = follows(run.document, statuses, step.position, found, run.row["total_cost"] + cost)
        if isinstance(then, End):
            return (end(run, then, step.name),)
        return (StepBegun(run.id, run.round, then.position),)


def end(run: Run, how: End, step: str | None) -> RunEnded:
    """The effect of a run's end."""
    return RunEnded(
        run.id, run.round, how.status, how.event, how.hears, step if how.reason else None, how.reason or None
    )


def parked(run: Run) -> Snooze[Effects]:
    """The task of a paused run waits until it is resumed."""
    return Snooze(UNTIL_RESUMED, "the run is paused", (Parked(run.id),))
