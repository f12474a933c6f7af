"""What is stuck in a pipeline: checks of what should have happened by now, each with its threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel

from daemon.api.pipelines import PipelineName, require_pipeline
from daemon.api.route import Answer, Api, Given, Nothing, Route, Success
from daemon.db import Statements
from daemon.settings import StuckSettings

SQL = Statements("daemon.api", "stuck.sql")


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its statement counts the leads for which something is older than the threshold."""

    name: str
    threshold: Callable[[StuckSettings], timedelta]
    message: str


CHECKS = (
    Check("new", lambda s: timedelta(hours=s.new_h), "still in the first stage"),
    Check("deadline", lambda s: timedelta(minutes=s.deadline_min), "with a deadline that nobody has acted on"),
    Check("entry_dead", lambda s: timedelta(), "whose stage's own action is dead: see GET /api/tasks?status=dead"),
    Check("review", lambda s: timedelta(hours=s.review_h), "flagged for a person and untouched since"),
)


class Stuck(BaseModel):
    """A check that found leads: how many, beyond which age, and what that means."""

    check: str
    count: int
    threshold: str
    message: str


class ManyStuck(Success):
    """What is stuck."""

    stuck: list[Stuck]


async def list_stuck(api: Api, given: Given[PipelineName, Nothing, Nothing]) -> Answer:
    """The checks that found stuck leads; none of them: all is well."""
    name, settings = given.path.name, api.daemon.settings.stuck
    found = []
    async with api.reading() as conn:
        await require_pipeline(conn, name)
        for check in CHECKS:
            statement, age = check.name, check.threshold(settings)
            count = await conn.fetchval(SQL[statement], name, age)
            if count:
                found.append(_told(check, count, age))
    return Answer({"success": True, "stuck": found})


def _told(check: Check, count: int, age: timedelta) -> dict[str, object]:
    for_so_long = f" for more than {_age(age)}" if age else ""
    leads = "lead" if count == 1 else "leads"
    return {
        "check": check.name,
        "count": count,
        "threshold": _age(age),
        "message": f"{count} {leads} {check.message}{for_so_long}",
    }


def _age(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    return f"{minutes / 60:g} h" if minutes >= 60 else f"{minutes:g} min"


ROUTES = (Route("GET", "/api/pipelines/{name}/stuck", list_stuck, {200: ManyStuck}, PipelineName, problems=(404,)),)
