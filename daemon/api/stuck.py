"""What is stuck in a pipeline: checks of what should have happened by now, each with its threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, Field

from daemon.api.pipelines import PipelineName, require_pipeline
from daemon.api.route import Answer, Api, Given, Nothing, Route, Success
from daemon.db import Statements
from daemon.settings import Settings, StuckSettings

SQL = Statements("daemon.api", "stuck.sql")
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its statement counts the leads or messages for which something is older than the threshold.

    One that asks what happened `today` is told the business's time zone, too.
    """

    name: str
    threshold: Callable[[StuckSettings], timedelta]
    message: str
    and_so: str = ""
    of: str = "lead"
    today: bool = False


CHECKS = (
    Check("new", lambda s: s.new_h * HOUR, "still in the first stage"),
    Check("unapproved", lambda s: s.unapproved_h * HOUR, "of tier high and not approved"),
    Check("unsent", lambda s: s.unsent_h * HOUR, "approved and not sent", of="message"),
    Check(
        "nothing_sent", lambda s: s.nothing_sent_h * HOUR, "due", ", and nothing sent today", of="message", today=True
    ),
    Check("deadline", lambda s: timedelta(minutes=s.deadline_min), "with a deadline that nobody has acted on"),
    Check("entry_dead", lambda s: timedelta(), "whose stage's own action is dead: see GET /api/tasks?status=dead"),
    Check("review", lambda s: s.review_h * HOUR, "flagged for a person and untouched since"),
)


class Stuck(BaseModel):
    """A check that found something: how many leads or messages, beyond which age, and what that means."""

    check: Annotated[str, Field(examples=[check.name for check in CHECKS])]
    count: Annotated[int, Field(ge=1)]
    threshold: Annotated[float, Field(ge=0, description="An age, in hours: 0.25 is a quarter of an hour.")]
    message: str


class ManyStuck(Success):
    """What is stuck."""

    stuck: list[Stuck]


async def list_stuck(api: Api, given: Given[PipelineName, Nothing, Nothing]) -> Answer:
    """The checks that found something stuck; none of them: all is well. Each threshold is an age in hours."""
    name, settings = given.path.name, api.daemon.settings
    found = []
    async with api.reading() as conn:
        await require_pipeline(conn, name)
        for check in CHECKS:
            statement = check.name
            count = await conn.fetchval(SQL[statement], name, *_facts(check, settings))
            if count:
                found.append(_told(check, count, check.threshold(settings.stuck)))
    return Answer({"success": True, "stuck": found})


def _facts(check: Check, settings: Settings) -> tuple[object, ...]:
    age = check.threshold(settings.stuck)
    return (age, settings.timezone) if check.today else (age,)


def _told(check: Check, count: int, age: timedelta) -> dict[str, object]:
    for_so_long = f" for more than {_age(age)}" if age else ""
    things = check.of if count == 1 else f"{check.of}s"
    return {
        "check": check.name,
        "count": count,
        "threshold": age / HOUR,
        "message": f"{count} {things} {check.message}{for_so_long}{check.and_so}",
    }


def _age(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    return f"{minutes / 60:g} h" if minutes >= 60 else f"{minutes:g} min"


ROUTES = (Route("GET", "/api/pipelines/{name}/stuck", list_stuck, {200: ManyStuck}, PipelineName, problems=(404,)),)
