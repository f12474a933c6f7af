"""What people have said of an agent's work, as its next request carries it: the newest first, and bounded."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from daemon.db import Connection, Statements
from daemon.settings import LearningsSettings

SQL = Statements("daemon", "learnings.sql")
HEADING = "LEARNINGS FROM PAST RUNS (APPLY THESE)"
CUT = "…"


@dataclass(frozen=True, slots=True)
class Learning:
    """A person's words for an agent; `effect`: what changed with them."""

    agent: str
    feedback: str
    effect: str | None

    @property
    def line(self) -> str:
        """The feedback and its effect, in one line whatever they hold."""
        return " → ".join(" ".join(part.split()) for part in (self.feedback, self.effect) if part and part.strip())


async def read(conn: Connection, agents: Collection[str]) -> Sequence[Learning]:
    """What is active for these agents, the newest first."""
    rows = await conn.fetch(SQL["learnings"], sorted(agents)) if agents else []
    return [Learning(*row) for row in rows]


def bounded(said: Iterable[Learning], bounds: LearningsSettings) -> list[str]:
    """As many whole lines as fit; if not even the newest does, its beginning."""
    lines: list[str] = []
    left = bounds.characters
    for line in islice((learning.line for learning in said), bounds.most):
        if len(line) > left:
            return lines or [line[: left - len(CUT)] + CUT]
        lines.append(line)
        left -= len(line)
    return lines


def prompt(lines: Sequence[str], asked: str = "") -> str:
    """What an agent is asked, after the block of what it has to learn."""
    block = "\n".join((HEADING, *lines)) if lines else ""
    return "\n\n".join(filter(None, (block, asked)))
