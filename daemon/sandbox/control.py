"""The sandbox's own route: put faults in force (POST), see what they did (GET), end them (DELETE)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daemon.sandbox.bodies import answer, problem, read_object
from daemon.sandbox.faults import EVERY, MEANING, USUAL_S, Fault, Faults
from daemon.sandbox.operations import ENGINES, OPERATIONS

ROUTE = "/faults"
KNOWN = {fault.value: meaning for fault, meaning in MEANING.items()}


class Wish(BaseModel):
    """The body of a POST; with neither share nor count the fault strikes once."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    engine: str
    fault: Fault
    operation: str | None = None
    share: float | None = Field(default=None, gt=0, le=1)
    count: int | None = Field(default=None, ge=1, le=1_000_000)
    seconds: float | None = Field(default=None, ge=0, le=600)
    once: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.share is not None and self.count is not None:
            raise ValueError("share or count, not both")
        if self.seconds is not None and self.fault not in USUAL_S:
            raise ValueError(f"seconds mean nothing to {self.fault}, only to {', '.join(USUAL_S)}")
        return self

    def refused(self, engines: Collection[str]) -> str | None:
        """Why no call of these engines could ever be struck."""
        if self.engine not in (EVERY, *engines):
            return f"no engine {self.engine!r}: {', '.join(sorted(engines))}, or {EVERY} for all"
        known = {path for engine, path in OPERATIONS if self.engine in (EVERY, engine)}
        if self.operation is None or self.operation in known or self.engine not in (EVERY, *ENGINES):
            return None
        return f"{self.engine} has no operation {self.operation!r}: {', '.join(sorted(known))}"

    def rule(self) -> dict[str, Any]:
        """How often it strikes, in the words of a rule."""
        if self.share is not None:
            return {"share": self.share, "once": self.once}
        return {"left": self.count or 1, "once": self.once}


@dataclass(frozen=True, slots=True)
class Control:
    """The handlers of the route."""

    faults: Faults
    engines: Collection[str]

    async def put_in_force(self, request: web.Request) -> web.Response:
        """One more rule."""
        body = read_object(await request.read())
        if body is None:
            return problem(400, "the body must be a JSON object")
        try:
            wish = Wish.model_validate(body)
        except ValidationError as error:
            return problem(422, "that is no fault to be had", errors=_flaws(error), known=KNOWN)
        if why := wish.refused(self.engines):
            return problem(422, why)
        rule = self.faults.add(wish.fault, wish.engine, operation=wish.operation, seconds=wish.seconds, **wish.rule())
        return answer({"success": True, "fault": rule.document()}, 201)

    async def show(self, request: web.Request) -> web.Response:
        """The rules, what they did, and what else there is."""
        fired, survived = self.faults.fired.total(), self.faults.survived.total()
        rules = [rule.document() for rule in self.faults.rules]
        return answer({"success": True, "faults": rules, "fired": fired, "survived": survived, "known": KNOWN})

    async def clear(self, request: web.Request) -> web.Response:
        """No more faults."""
        return answer({"success": True, "cleared": self.faults.clear()})


def add_to(app: web.Application, control: Control) -> None:
    """Give the application the route."""
    app.router.add_post(ROUTE, control.put_in_force)
    app.router.add_get(ROUTE, control.show)
    app.router.add_delete(ROUTE, control.clear)


def _flaws(error: ValidationError) -> list[dict[str, Any]]:
    return [
        {"loc": list(flaw["loc"]), "msg": flaw["msg"].removeprefix("Value error, ")}
        for flaw in error.errors(include_url=False)
    ]
