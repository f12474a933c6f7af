"""Steps at which a person decides, or nobody where the checkpoint is in auto."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from campaigns.effects import Asked, Effects, Feedback
from campaigns.facts import Row, Run, Step
from campaigns.steps import Attempt
from daemon.outcome import Done, Outcome

BY_ITSELF = "system (auto)"
SHOWN = 50


async def checkpoint(attempt: Attempt) -> Outcome[Effects]:
    """Ask, and wait as long as it takes; or record that nobody had to be asked."""
    request_id, name = uuid4(), checkpoint_of(attempt.step)
    if attempt.run.modes.get(name, "plan") == "auto":
        passed = replace(_asked(attempt, request_id, name), status="approved", decided_by=BY_ITSELF)
        return attempt.completed({"approval_id": str(request_id), "approved_by": BY_ITSELF}, passed)
    wait_ms = attempt.step.declared.get("expiresAfter")
    expires_at = attempt.task.now + timedelta(milliseconds=wait_ms) if wait_ms else None
    asked = replace(_asked(attempt, request_id, name), expires_at=expires_at)
    return Done((asked,), f"waits for a person at {name}")


def decided(attempt: Attempt, request: Row) -> Outcome[Effects]:
    """An approval lets the run go on; whatever else becomes of the request ends it, and a rejection is remembered."""
    by = request["decided_by"]
    if request["status"] == "approved":
        result = {"approval_id": str(request["id"]), "approved_by": by, "comment": request["comment"]}
        code = request["payload"].get("code") if isinstance(request["payload"], Mapping) else None
        return attempt.completed(result if code is None else result | {"code": code})
    if request["status"] == "expired":
        return attempt.stopped("nobody decided in time")
    if request["status"] == "superseded":
        return attempt.stopped(f"its request was superseded by {by}")
    comment = (request["comment"] or "").strip()
    if not comment:
        return attempt.stopped(f"rejected by {by}")
    agent = _agent_before(attempt.run, attempt.step)
    return attempt.stopped(f"rejected by {by}: {comment}", Feedback(agent, comment, request["id"], by))


def checkpoint_of(step: Step) -> str:
    """The gate that the step stands at."""
    return step.declared.get("checkpoint") or step.name


def _asked(attempt: Attempt, request_id: UUID, name: str) -> Asked:
    run, step = attempt.run, attempt.step
    title, payload = f"{run.campaign}: {step.name}", _payload(run, step)
    return Asked(run.id, run.round, step.position, request_id, name, title, payload, step.name, "pending")


def _payload(run: Run, step: Step) -> Mapping[str, Any]:
    """What a person needs to decide: what was asked for, and what came of it so far."""
    before = run.at(step.position - 1)
    return {
        "campaign": run.campaign,
        "inputs": run.row["inputs"],
        "params": run.resolved(step.declared.get("params") or {}),
        "before": {"step": before.name, "result": _glance(before.row["result"])} if before else None,
        "cost": float(run.row["total_cost"]),
    }


def _glance(value: Any) -> Any:
    """The same with long lists cut short."""
    if isinstance(value, Mapping):
        return {name: _glance(part) for name, part in value.items()}
    return [_glance(part) for part in value[:SHOWN]] if isinstance(value, list) else value


def _agent_before(run: Run, step: Step) -> str:
    agent = next(
        (s.declared.get("engine") for s in reversed(run.steps[: step.position]) if s.declared.get("engine")), None
    )
    return agent or checkpoint_of(step)
