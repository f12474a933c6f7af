"""The kind that acts on a person's decision."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from daemon.context import Context
from daemon.db import Connection, Statements
from daemon.outcome import Done, Outcome
from daemon.task import Kind, Policy, Task
from handlers.effects import Alert, Change, Effect, Effects, Event, Feedback, ReplyRead, Writer
from handlers.pipeline import done

SQL = Statements("handlers", "replies.sql")


class Approvals(Writer):
    """Tasks whose payload names a request."""

    async def load(self, conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Mapping[str, Any]]:
        """Each task's request."""
        rows = {str(r["id"]): r for r in await conn.fetch(SQL["approval"], [t.payload["approval_id"] for t in tasks])}
        return {t.id: rows[t.payload["approval_id"]] for t in tasks if t.payload["approval_id"] in rows}

    def bury(self, task: Task, error: str, unknown: bool) -> Effects:
        """A decision without effect needs a person."""
        subject = f"approval:{task.payload['approval_id']}"
        return (Alert("AGENT_FAILURE", f"{task.kind}: {error}"[:500], "HIGH", subject, {}),)

    async def cancel(self, conn: Connection, kind: str, payload: Mapping[str, Any]) -> None:
        """The decision stands; only its effect is dropped."""


def kinds() -> list[Kind[Effects]]:
    """The one kind of decided requests."""
    return [Kind("approval", Policy(), Approvals(), _decided)]


async def _decided(task: Task, request: Mapping[str, Any] | None, context: Context) -> Outcome[Effects]:
    if request is None:
        return done(reason="the request is gone")
    if request["checkpoint"] != "replies" or request["status"] not in ("approved", "rejected"):
        return done(*_said(request), reason=f"nothing else follows from {request['checkpoint']} {request['status']}")
    return Done((*_reply_handled(request), *_said(request)), f"reply {request['status']}")


def _said(request: Mapping[str, Any]) -> list[Effect]:
    """What a person says with a rejection is remembered under the checkpoint's name: no step stands before it."""
    comment = (request["comment"] or "").strip()
    if request["status"] != "rejected" or not comment:
        return []
    return [Feedback(request["checkpoint"], comment, request["id"], request["decided_by"])]


def _reply_handled(request: Mapping[str, Any]) -> list[Effect]:
    """Approving means that a person has handled the reply."""
    status = "routed" if request["status"] == "approved" else "ignored"
    effects: list[Effect] = [ReplyRead(UUID(request["payload"]["reply"]["id"]), status=status)]
    if request["lead_id"] is not None:
        effects.append(Change(request["lead_id"], unflag=True))
        effects.append(
            Event(
                request["lead_id"],
                "review_resolved",
                {"approval_id": str(request["id"]), "decision": request["status"]},
            )
        )
    return effects
