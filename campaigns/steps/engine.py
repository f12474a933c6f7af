"""Steps that call an engine: once, or again as their retry says."""

from collections.abc import Sequence
from decimal import Decimal
from random import random
from typing import Any

from campaigns.budget import of_campaign
from campaigns.decisions import Again, after_failure, attempts
from campaigns.effects import NOTHING, Alert, AwaitSending, Effects, Spent
from campaigns.facts import Row
from campaigns.steps import Attempt
from campaigns.steps.learnings import for_call, taught
from daemon import learnings, sending
from daemon.answers import Answered, Failed, Unknown, charge, tidy
from daemon.engines import Call, Skipped
from daemon.ledger import Ended
from daemon.outcome import Done, Fail, Outcome, Snooze


async def engine(attempt: Attempt) -> Outcome[Effects]:
    """Call it with the step's params; what it answers is the step's result."""
    params = attempt.run.resolved(attempt.step.declared.get("params") or {})
    if not isinstance(params, dict):
        return attempt.failed("params must be an object")
    learnt = for_call(attempt, attempt.step.row["calls"])
    if isinstance(learnt, Snooze):
        return learnt
    key = attempt.key()
    answer = await attempt.context.engines.call(attempt.task, call(attempt, params, key, learnt))
    match answer:
        case Answered(result):
            return attempt.completed(result, cost=charge(result, estimate(attempt)).cost, call=key)
        case Skipped():
            return skipped(attempt, answer) or attempt.failed(answer.reason)
    then = after(attempt, answer, attempt.step.row["calls"])
    if isinstance(then, Again):
        return Fail(then.error, after_s=then.after_s)
    cost = estimate(attempt) if then.status == "unknown" else NOTHING
    return attempt.failed(then.error, status=then.status, cost=cost, call=key)


async def cut_off(attempt: Attempt, row: Row, why: str, *of: object) -> Outcome[Effects]:
    """The run is over before its call was booked; one that was left behind unanswered is of unknown outcome."""
    if row["call"] is None:
        return Done((), why)
    run, step, key = attempt.run, attempt.step, attempt.key(*of)
    booked = Spent(run.id, step.position, NOTHING, key)
    if row["call"] != "reserved":
        return Done((booked,), why)
    said = f"{run.campaign}: {step.name}: its daemon ended in the middle of a call, and meanwhile {why}"
    ended = Ended(key, "unknown", estimate(attempt), None, 0.0, tidy(said))
    await attempt.context.engines.ledger.settle_for_good(ended)
    return Done((booked, Alert("UNKNOWN_OUTCOME", tidy(said), "HIGH", f"run:{run.id}", {"step": step.name})), why)


def call(attempt: Attempt, params: dict[str, Any], key: str, learnt: Sequence[str], **of: Any) -> Call:
    """One call for this step, within its campaign's budgets; one that reaches people waits while sending is stopped."""
    run, step = attempt.run, attempt.step
    endpoint = str(step.declared.get("endpoint") or "/")
    return Call(
        step.engine, endpoint, taught(params, step.engine, learnt), prompt=learnings.prompt(learnt),
        cause=key, budgets=attempt.budgets, most_calls=attempts(step.retry),
        run_id=run.id, campaign_id=run.row["campaign_id"], estimate=step.estimate, timeout_s=step.timeout_s,
        url=None if endpoint.startswith("/") else endpoint, method=step.declared.get("method") or "POST",
        gate=sending.gate_of(endpoint), **of,
    )  # fmt: skip


def estimate(attempt: Attempt) -> Decimal:
    """What a call is charged if its answer doesn't say."""
    if attempt.step.estimate is not None:
        return attempt.step.estimate
    settings = attempt.context.settings.engines.get(attempt.step.engine)
    return settings.cost_per_call if settings else NOTHING


def after(attempt: Attempt, answer: Failed | Unknown, calls_before: int) -> Any:
    """Whether there is another try; calls of daemons that are gone count."""
    settings = attempt.context.settings.engines.get(attempt.step.engine)
    honours_keys = settings is not None and settings.idempotent
    tries = max(attempt.task.attempt, calls_before + 1)
    return after_failure(answer, tries, attempt.step.retry, honours_keys=honours_keys, random=random())


def skipped(attempt: Attempt, answer: Skipped) -> Outcome[Effects] | None:
    """What a call that may not be made (yet) means for the run; None if it means no more than a failure."""
    if answer.scope is not None and of_campaign(answer.scope):
        return attempt.spent(answer.reason, answer.scope, answer.until)
    if answer.until is None:
        return None
    held = (AwaitSending(),) if answer.until == sending.UNTIL_RESUMED else ()
    return Snooze(answer.until, answer.reason, held)
