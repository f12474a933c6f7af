"""Webhooks of engines: what became of a call that was accepted."""

import time
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.reading import parse
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success, Text
from daemon.signatures import Signed, fault_of

Key = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class EngineName(Input):
    """Which engine."""

    engine: Text


class Settlement(Input):
    """What became of the call with this Idempotency-Key; the `result` of a failed one says why."""

    idempotency_key: Key
    status: Literal["completed", "failed"]
    result: Any = None


class Settled(Success):
    """The call is settled; `changed` is false if it was before."""

    changed: bool


async def settle_call(api: Api, given: Given[EngineName, Nothing, Nothing]) -> Answer:
    """Settle an accepted call; told again, it changes nothing.

    Signed as Standard Webhooks are, with ORCHESTRATOR_WEBHOOKS__SIGNING_SECRET; without that setting there is no such
    path.
    """
    require_signature(api, given)
    told = parse(Settlement, given.raw)
    if told.status == "completed" and not isinstance(told.result, dict):
        raise unfit([Flaw(("result",), "must be an object")])
    engine, report = given.path.engine, {"status": told.status, "result": told.result}
    changed = await api.daemon.engines.settle_accepted(engine, told.idempotency_key, report)
    if changed is None:
        raise Problem(404, f"engine {engine[:80]} was asked nothing under that idempotency_key")
    return Answer({"success": True, "changed": changed})


def require_signature(api: Api, given: Given[Any, Any, Any]) -> None:
    """Refuse what isn't signed with our secret (403), or everything if there is none (404)."""
    secret = api.daemon.settings.webhooks.signing_secret
    if secret is None:
        raise Problem(404, "there is no such path")
    headers = given.request.headers
    signed = Signed(*(headers.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature")))
    fault = fault_of(secret.get_secret_value(), signed, given.raw, time.time())
    if fault is not None:
        raise Problem(403, fault)


ROUTES = (
    Route(
        "POST", "/webhooks/engines/{engine}", settle_call, {200: Settled}, EngineName, body=Settlement,
        problems=(403, 404), open=True, signed=True,
    ),
)  # fmt: skip
