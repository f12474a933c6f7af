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
    unknown_steps: Mapping[str, int] = field(default_factory=dict)
    """By the status of their runs."""

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
        row["unknown_steps"] or {},
    )


def side_by_side(items: Sequence[str], width: int | None = None, between: str = "  ") -> str:
    """One line of them; of those that don't fit the zeros go first, then the last, where the small ones are."""
    kept = list(items)
    while width is not None and len(kept) > 1 and len(between.join(kept)) > width:
        zeros = [n for n, item in enumerate(kept) if item.startswith("0 ")]
        del kept[zeros[-1] if zeros else -1]
    return between.join(kept)


def messages(figures: Figures) -> list[str]:
    """What became of the messages; a step of unknown outcome may have sent some."""
    sent, failed, unknown = (figures.messages.get(s, 0) for s in ("sent", "failed", "unknown"))
    steps = sum(figures.unknown_steps.values())
    of_them = f" ({_steps(steps)})" if steps else ""
    others = {"scheduled": "waiting", "sending": "going out", "suppressed": "suppressed", "cancelled": "cancelled"}
    more = [f"{figures.messages[s]} {word}" for s, word in others.items() if figures.messages.get(s)]
    return [f"{sent} sent", f"{failed} failed", f"{unknown + steps} unknown{of_them}", *more]


def runs(figures: Figures) -> list[str]:
    """How the runs of campaigns stand, and which of them don't know what became of a step."""
    return [
        f"{n} {status}{_in_doubt(figures.unknown_steps.get(status, 0))}" for status, n in sorted(figures.runs.items())
    ]


def _in_doubt(steps: int) -> str:
    return f" ({_steps(steps)} unknown)" if steps else ""


def _steps(n: int) -> str:
    return f"{n} step{'s' if n > 1 else ''}"


def tasks(figures: Figures) -> list[str]:
    """What waits, what runs, what has been given up."""
    by = figures.tasks
    return [f"{by.get('available', 0)} waiting", f"{by.get('running', 0)} running", f"{by.get('dead', 0)} dead"]


def people(figures: Figures) -> list[str]:
    """What people said, and what is left to one."""
    return [f"{figures.replies} replies", f"{figures.review} leads need a person"]


def money(figures: Figures) -> list[str]:
    """What was spent, and on whom most."""
    by_engine = sorted(figures.money.items(), key=lambda spent: -spent[1])
    spent = [f"{engine} {spent:,.2f}" for engine, spent in by_engine if round(spent, 2)]
    return [f"${figures.spent:,.2f}", *spent]


def survived(faults: Faults) -> list[str]:
    """How many faults struck, how many of them are survived, what the others are, and which they were."""
    fired = faults.fired.total()
    if not fired:
        return ["none yet"]
    kinds = [f"{fault}:{n}" for fault, n in faults.fired.most_common()]
    survived, left = faults.survived.total(), fired - faults.survived.total()
    if not left:
        return [f"{survived} of {fired} survived", *kinds]
    return [f"{survived} of {fired} survived, {left} open", "(open: tried again, or left to a person)", *kinds]


def standing(figures: Figures) -> str:
    """How the leads stand, in one line."""
    where = ", ".join(f"{stage.name} {stage.leads}" for stage in figures.stages if stage.leads) or "no leads"
    of_runs = f", runs: {side_by_side(runs(figures))}" if figures.runs else ""
    return (
        f"{where} | sent {figures.messages.get('sent', 0)}, replies {figures.replies}, "
        f"needs review {figures.review}, dead tasks {figures.tasks.get('dead', 0)}{of_runs}"
    )
