"""How everything stands: leads by stage, messages, tasks, money, faults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from daemon.db import Connection, Statements
from daemon.sandbox.faults import Faults

SQL = Statements("daemon.sandbox", "figures.sql")


@dataclass(frozen=True, slots=True)
class StageCount:
    """A stage and how many leads are in it."""

    pipeline: str
    name: str
    leads: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What the database says at one moment of business time."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    stages: Sequence[StageCount] = ()
    messages: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    money: Mapping[str, float] = field(default_factory=dict)
    replies: int = 0
    review: int = 0
    runs: Mapping[str, int] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        return sum(self.money.values())


async def read(conn: Connection) -> Figures:
    """Look once."""
    stages = [StageCount(r["pipeline"], r["name"], r["leads"]) for r in await conn.fetch(SQL["stages"])]
    row: Any = await conn.fetchrow(SQL["figures"])
    return Figures(
        row["now"],
        stages,
        row["messages"] or {},
        row["tasks"] or {},
        row["money"] or {},
        row["replies"],
        row["review"],
        row["runs"] or {},
    )


def messages(figures: Figures) -> str:
    """What became of the messages."""
    sent, failed, unknown = (figures.messages.get(s, 0) for s in ("sent", "failed", "unknown"))
    others = {"scheduled": "waiting", "sending": "going out", "suppressed": "suppressed", "cancelled": "cancelled"}
    more = [f"{figures.messages[s]} {word}" for s, word in others.items() if figures.messages.get(s)]
    return "  ".join([f"{sent} sent", f"{failed} failed", f"{unknown} unknown", *more])


def runs(figures: Figures) -> str:
    """How the runs of campaigns stand."""
    return "  ".join(f"{n} {status}" for status, n in sorted(figures.runs.items()))


def tasks(figures: Figures) -> str:
    """What waits, what runs, what has been given up."""
    by = figures.tasks
    return f"{by.get('available', 0)} waiting  {by.get('running', 0)} running  {by.get('dead', 0)} dead"


def money(figures: Figures) -> str:
    """What was spent, and on whom most."""
    by_engine = sorted(figures.money.items(), key=lambda spent: -spent[1])
    return "  ".join([f"${figures.spent:,.2f}", *(f"{engine} {spent:,.2f}" for engine, spent in by_engine)])


def survived(faults: Faults) -> str:
    """How many faults struck, how many of them are survived, and which they were."""
    fired = faults.fired.total()
    if not fired:
        return "none yet"
    kinds = "  ".join(f"{fault}:{n}" for fault, n in faults.fired.most_common())
    return f"{faults.survived.total()} of {fired} survived  {kinds}"


def standing(figures: Figures) -> str:
    """How the leads stand, in one line."""
    where = ", ".join(f"{stage.name} {stage.leads}" for stage in figures.stages if stage.leads) or "no leads"
    of_runs = f", runs: {runs(figures)}" if figures.runs else ""
    return (
        f"{where} | sent {figures.messages.get('sent', 0)}, replies {figures.replies}, "
        f"needs review {figures.review}, dead tasks {figures.tasks.get('dead', 0)}{of_runs}"
    )
