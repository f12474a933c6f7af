"""Steps that schedule messages; the one chokepoint of all messages sends them, or says why not."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from campaigns.effects import Effects, MessagePlanned
from campaigns.facts import LONGEST_ADDRESS, lead_id_of
from campaigns.steps import Attempt
from campaigns.templates import TemplateProblem, render
from daemon.outcome import Outcome

Letter = tuple[str | None, str]


async def messages(attempt: Attempt) -> Outcome[Effects]:
    """One message per draft, or per lead if there is a template; the statement counts what was new."""
    planned: dict[UUID, MessagePlanned] = {}
    errors: list[Mapping[str, str]] = []
    items = attempt.run.sources(attempt.step)
    for item in items:
        lead_id = lead_id_of(item)
        if lead_id is None or lead_id in planned or len(_to(item) or "") > LONGEST_ADDRESS:
            continue
        try:
            letter = _letter(attempt, lead_id, item)
        except TemplateProblem as error:
            errors.append({"lead_id": str(lead_id), "error": str(error)})
            continue
        if letter is not None:
            planned[lead_id] = _message(attempt, lead_id, item, letter)
    result = {"scheduled": 0, "skipped": len(items) - len(planned), **({"errors": errors} if errors else {})}
    if errors and not planned:
        return attempt.failed(errors[0]["error"], result=result)
    return attempt.completed(result, *planned.values())


def _letter(attempt: Attempt, lead_id: UUID, item: Any) -> Letter | None:
    """Subject and body: from the template with that lead's own row, or the draft's."""
    template = attempt.step.declared.get("template")
    if template:
        lead = attempt.run.leads.get(lead_id)
        return None if lead is None else render(attempt.context.settings.home, template, _facts(attempt, lead, item))
    body = item.get("body") if isinstance(item, Mapping) else None
    if not isinstance(body, str) or not body.strip():
        return None
    return _text(item.get("subject")), body


def _facts(attempt: Attempt, lead: Mapping[str, Any], item: Any) -> Mapping[str, Any]:
    run = attempt.run
    return {"lead": lead, "item": item, "inputs": run.row["inputs"], "steps": run.results, "campaign": run.campaign}


def _message(attempt: Attempt, lead_id: UUID, item: Any, letter: Letter) -> MessagePlanned:
    run, step = attempt.run, attempt.step
    # Without the round: a retried step never writes to the same lead again.
    key = f"run:{run.id}:{step.position}:{lead_id}"
    channel, template = step.declared.get("channel") or "email", step.declared.get("template")
    return MessagePlanned(
        run.id, run.round, step.position, key, lead_id, step.name, channel, template, _to(item), letter[0], letter[1]
    )


def _to(item: Any) -> str | None:
    return _text(item.get("to")) if isinstance(item, Mapping) else None


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
