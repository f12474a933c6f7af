"""The table and the file of figures."""

import json
import math
import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import OURS, Row, Verdict

BUSY = 0.5
MARKS = {True: "[green]reached[/]", False: "[red]MISSED[/]", None: ""}


@dataclass(slots=True)
class Report:
    """All rows of a run, and under which conditions they were measured."""

    path: Path
    conditions: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, rows: list[Row]) -> None:
        """Show a group of rows, and keep them; what is measured is on disk at once."""
        self.rows += rows
        _console().print(table(rows))
        self.save()

    def save(self) -> None:
        """Write the file of figures."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"conditions": self.conditions, "rows": [_document(row) for row in self.rows]}
        self.path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")

    def show(self) -> None:
        """The whole table, unless it has been seen already."""
        if len({row.group for row in self.rows}) > 1:
            _console().print(table(self.rows))
        if self.rows:
            _console().print(f"{self.conditions} -> {self.path}", highlight=False)


def conditions(**more: Any) -> dict[str, Any]:
    """Where and when it was measured."""
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
    now, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    if load > BUSY:
        print(f"\n!!! THE MACHINE IS BUSY (load {load:.1f}): nothing measured now is worth much", flush=True)
    return {"when": now, "load": round(load, 2), **machine, "python": platform.python_version(), **more}


def table(rows: list[Row]) -> Table:
    """A line per row; our figure, theirs, and every aim with what was reached."""
    others = list(dict.fromkeys(name for row in rows for name in row.names if name != OURS))
    shown = Table("measured", "unit", OURS, *others, "aim", title="medians of the passes; ratios within one pass")
    for row in rows:
        aims = "\n".join(_aim(verdict) for verdict in row.verdicts()) or "-"
        what = f"{row.what}\n[dim]{row.note}[/]" if row.note else row.what
        shown.add_row(what, row.unit, *(_number(row.figure(name)) for name in (OURS, *others)), aims)
    return shown


def _console() -> Console:
    return Console(width=max(150, Console().width))


def _aim(verdict: Verdict) -> str:
    aim = verdict.aim
    than = "≤" if aim.at_most else "≥"
    what = f"{_number(verdict.value)} times {aim.over}" if aim.over else _number(verdict.value)
    floor = f"floor {than} {aim.floor:g} {MARKS[verdict.floor_met]}" if aim.floor is not None else ""
    goal = f"goal {than} {aim.goal:g} {MARKS[verdict.goal_met]}" if aim.goal is not None else ""
    return "; ".join(part for part in (f"{what}: {floor}" if floor else what, goal) if part)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _document(row: Row) -> dict[str, Any]:
    return {
        "group": row.group,
        "what": row.what,
        "unit": row.unit,
        "note": row.note,
        "figures": {name: _plain(row.figure(name)) for name in row.names},
        "passes": [{name: _plain(value) for name, value in one.items()} for one in row.passes],
        "aims": [_judged(verdict) for verdict in row.verdicts()],
    }


def _judged(verdict: Verdict) -> dict[str, Any]:
    aim = verdict.aim
    return {
        "over": aim.over,
        "than": "at most" if aim.at_most else "at least",
        "floor": aim.floor,
        "goal": aim.goal,
        "reached": _plain(verdict.value),
        "floor_met": verdict.floor_met,
        "goal_met": verdict.goal_met,
    }


def _plain(value: float | None) -> float | str | None:
    """JSON has no infinity."""
    if value is None:
        return None
    return "never" if math.isinf(value) else round(value, 4)
