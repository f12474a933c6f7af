"""Steps that ask an engine about each of many leads: a task per lead, ten at once, and in the end the step again."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from campaigns.decisions import Again
from campaigns.effects import NOTHING, Alert, Effect, Effects, ItemEnded, ItemWanted, LeadEnriched
from campaigns.facts import Row, address_of, lead_id_of
from campaigns.steps import Attempt
from campaigns.steps.engine import after, call, estimate, skipped
from campaigns.steps.learnings import for_call
from daemon.answers import Answered, charge, tidy
from daemon.engines import Skipped
from daemon.outcome import Done, Fail, Outcome, Snooze


async def enrich(attempt: Attempt) -> Outcome[Effects]:
    """Fan out; when the last child has ended, sum up."""
    left = attempt.step.row["children_left"]
    if left is None:
        return _fan_out(attempt)
    return _joined(attempt) if left == 0 else Done((), "its enrichments are under way")


def _fan_out(attempt: Attempt) -> Outcome[Effects]:
    run, step = attempt.run, attempt.step
    ids = dict.fromkeys(i for i in map(lead_id_of, run.sources(step)) if i is not None)
    if not ids:
        return attempt.completed({"enriched": 0, "failed": 0, "results": []})
    wanted = tuple(ItemWanted(run.id, run.round, step.position, n, lead_id) for n, lead_id in enumerate(ids))
    return Done(wanted, f"{len(wanted)} leads to be enriched")


def _joined(attempt: Attempt) -> Outcome[Effects]:
    items = attempt.run.items
    failed = [i for i in items if i["status"] != "done"]
    result = {"enriched": len(items) - len(failed), "failed": len(failed), "results": list(map(_told, items))}
    if items and len(failed) == len(items):
        return attempt.failed(f"all {len(items)} failed: {failed[0]['error']}", result=result)
    return attempt.completed(result)


def _told(item: Row) -> Mapping[str, Any]:
    told = {"lead_id": str(item["lead_id"])}
    if item["status"] != "done":
        return told | {"error": item["error"]}
    return {**(item["result"] or {}), **told}  # a lead that was erased meanwhile has left none


# -- one of them


async def item(attempt: Attempt, own: Row) -> Outcome[Effects]:
    """Ask about one lead; whatever goes wrong with it, the others go on."""
    lead = attempt.run.leads.get(own["lead_id"])
    if lead is None:
        return Done((_item_ended(attempt, own["lead_id"], "failed", error="the lead is gone"),), "the lead is gone")
    params = attempt.run.resolved(attempt.step.declared.get("params") or {}, lead) or _about(lead)
    if not isinstance(params, dict):
        return Done((_item_ended(attempt, own["lead_id"], "failed", error="params must be an object"),))
    learnt = for_call(attempt, own["calls"])
    if isinstance(learnt, Snooze):
        return learnt
    answer = await attempt.context.engines.call(
        attempt.task, call(attempt, params, attempt.key(own["lead_id"]), learnt, lead_id=own["lead_id"])
    )
    match answer:
        case Answered(result):
            return _enriched(attempt, own["lead_id"], result)
        case Skipped():
            return skipped(attempt, answer) or _without(attempt, own["lead_id"], answer.reason)
    then = after(attempt, answer, own["calls"])
    if isinstance(then, Again):
        return Fail(then.error, after_s=then.after_s)
    return _without(attempt, own["lead_id"], then.error, unknown=then.status == "unknown")


def _about(lead: Mapping[str, Any]) -> dict[str, Any]:
    """What an engine is asked if the step doesn't say."""
    website = (lead.get("data") or {}).get("website")
    return {name: lead[name] for name in ("name", "company", "city", "region")} | {"website": website, "lead": lead}


def _enriched(attempt: Attempt, lead_id: UUID, result: Mapping[str, Any]) -> Outcome[Effects]:
    fields = result.get("fields")
    contacts = result.get("contacts")
    first = next((c for c in contacts if isinstance(c, Mapping)), {}) if isinstance(contacts, list) else {}
    phone, email = (address_of(result.get(name)) or address_of(first.get(name)) for name in ("phone", "email"))
    learnt = LeadEnriched(lead_id, fields if isinstance(fields, Mapping) else {}, phone, email)
    cost = charge(result, estimate(attempt)).cost
    return Done((_item_ended(attempt, lead_id, "done", result=result, cost=cost), learnt, *attempt.charged), "enriched")


def _without(attempt: Attempt, lead_id: UUID, error: str, *, unknown: bool = False) -> Outcome[Effects]:
    said = f"outcome unknown: {error}" if unknown else error
    cost = estimate(attempt) if unknown else NOTHING
    ended = _item_ended(attempt, lead_id, "failed", error=tidy(said), cost=cost)
    return Done((ended, *_alerts(attempt, said, unknown), *(attempt.charged if unknown else ())), tidy(said))


def _alerts(attempt: Attempt, error: str, unknown: bool) -> Iterable[Effect]:
    if unknown:
        said = tidy(f"{attempt.run.campaign}: {attempt.step.name}: {error}")
        yield Alert("UNKNOWN_OUTCOME", said, "HIGH", f"run:{attempt.run.id}", {"step": attempt.step.name})


def _item_ended(attempt: Attempt, lead_id: UUID, status: str, **of: Any) -> ItemEnded:
    run, step = attempt.run, attempt.step
    return ItemEnded(run.id, run.round, step.position, lead_id, status, call=attempt.key(lead_id), **of)
