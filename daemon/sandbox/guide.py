"""What a person at the terminal is told before, and after: where things are, what to try, how it ended."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.text import Text

from daemon.sandbox import figures
from daemon.sandbox.faults import Faults
from daemon.sandbox.figures import Figures

INTRODUCTION = """\
This is the sandbox: a real daemon on a real database, but every external service is played here, on loopback.
Nobody is contacted. Sample leads are on their way through the pipeline, and their people answer by themselves.
"""
TO_TRY = {
    "Insert a lead": "INSERT INTO orchestrator.leads (name, phone) VALUES ('Zoe Zander', '+447700900199');",
    "Answer as a lead": """\
INSERT INTO orchestrator.replies (lead_id, channel, body) SELECT id, 'sms', 'Yes, I accept'
FROM orchestrator.leads WHERE stage IN ('OFFER_MADE', 'VIDEO_SENT', 'RETRY_1') ORDER BY updated_at DESC LIMIT 1;""",
    "Move a lead on": """\
UPDATE orchestrator.leads SET stage = 'RETRY_1'
WHERE id = (SELECT id FROM orchestrator.leads WHERE stage = 'VIDEO_SENT' LIMIT 1);""",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: the API, the faults' route, the log if it goes to a file; the business's zone."""

    api: str
    faults: str
    log: str | None = None
    timezone: str = "UTC"

    @property
    def curl(self) -> str:
        """Three refusals in a row from the sms engine."""
        return f"""curl -d '{{"engine":"sms","fault":"503","count":3}}' {self.faults.removeprefix("http://")}"""

    def local(self, moment: datetime) -> datetime:
        """The moment in the business's zone."""
        return moment.astimezone(ZoneInfo(self.timezone))


def introduce(console: Console, places: Places) -> None:
    """Say what this is and what to try; what can be pasted stands on lines of its own."""
    console.rule("pipeline orchestrator: sandbox")
    console.print(Text(INTRODUCTION))
    console.print(Text("\n".join(_addresses(places))), soft_wrap=True)
    for number, (title, statement) in enumerate(TO_TRY.items(), start=1):
        console.print(Text(f"{number}. {title}", style="bold"))
        console.print(Text(statement), soft_wrap=True)
    console.print(
        Text(f"{len(TO_TRY) + 1}. Break something (GET the same address for all that there is)", style="bold")
    )
    console.print(Text(places.curl), soft_wrap=True)
    console.rule()


def _addresses(places: Places) -> Iterator[str]:
    yield f"API       {places.api}"
    yield f"Faults    {places.faults}"
    if places.log is not None:
        yield f"Log       {places.log}"
    yield "Database  orchestrator db shell    (from another terminal; there you can paste what follows)\n"


def take_leave(console: Console, last: Figures, faults: Faults, places: Places) -> None:
    """How it ended, in a few lines."""
    lines = {
        "leads": [", ".join(f"{s.name} {s.leads}" for s in last.stages if s.leads) or "none"],
        "messages": figures.messages(last),
        "tasks": figures.tasks(last),
        "people": figures.people(last),
        "runs": figures.runs(last) or ["none"],
        "faults": figures.survived(faults),
        "money": figures.money(last),
    }
    at = f"{places.local(last.now):%a %d %b %Y %H:%M} {places.timezone}"
    console.print(Text(f"The sandbox has ended at {at}, business time. The database keeps it all.", style="bold"))
    for name, items in lines.items():
        console.print(Text(f"  {name:<9} {figures.side_by_side(items)}"), soft_wrap=True)
