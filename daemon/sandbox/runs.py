"""What happens to runs of campaigns, each turn once and in a few words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from daemon.db import Connection, Statements
from daemon.sandbox.happenings import Happening, Row, short

SQL = Statements("daemon.sandbox", "runs.sql")
AT_ONCE = 30
LONGEST = 90
COLOURS = {"completed": "bold green", "partial": "yellow", "waiting": "yellow", "paused": "yellow"}
BAD = "red"
Fact = tuple[tuple[object, ...], Happening]
"""Something to be told, and what it is known by once it has been."""


@dataclass(slots=True)
class RunFollower:
    """The latest runs, and what has been told of them."""

    _told: frozenset[tuple[object, ...]] | None = None

    async def news(self, conn: Connection, *, silently: bool) -> list[Happening]:
        """What has happened to runs since the last look; the first one may keep to itself what it finds."""
        facts = [fact for row in await conn.fetch(SQL["runs"], AT_ONCE) for fact in _facts(row)]
        told = self._told
        self._told = frozenset(key for key, _ in facts)
        if told is None:
            return [] if silently else [happening for _, happening in facts]
        return [happening for key, happening in facts if key not in told]


def _facts(run: Row) -> Iterator[Fact]:
    """Each of them is known by run and round, so that a retry is told anew."""
    which = (run["id"], run["round"])
    steps = run["steps"] or []
    if run["status"] not in ("skipped", "missed"):
        began = f"a {'dry ' if run['dry_run'] else ''}run of {len(steps)} steps begins"
        yield (*which, "begun"), _told(run["started_at"], run, began, "bold")
    for step in steps:
        if step["status"] in ("completed", "failed", "unknown", "waiting"):
            yield (
                (*which, step["position"], step["status"]),
                _told(datetime.fromisoformat(step["at"]), run, *_of_step(step)),
            )
    if run["status"] not in ("running", "waiting"):
        at = run["completed_at"] or run["now"]
        yield (*which, run["status"]), _told(at, run, _end(run), COLOURS.get(run["status"], BAD))


def _told(at: datetime, run: Row, what: str, style: str) -> Happening:
    return Happening(at, run["name"], what, what, style)


def _of_step(step: Mapping[str, Any]) -> tuple[str, str]:
    name, status = step["name"], step["status"]
    if status == "completed":
        found = [f"{word} {value:g}" for word, value in (step["figures"] or {}).items()]
        return f"{name}: {', '.join([*found, *_money(step['cost'])]) or 'done'}", "green"
    if status == "waiting":
        return f"{name}: waits for a person", "yellow"
    return f"{name} {status}: {short(step['error'] or '', LONGEST)}", BAD


def _end(run: Row) -> str:
    """How it ended, at what cost, and why not better."""
    cost = "".join(f" for {one}" for one in _money(run["total_cost"]))
    why = f": {short(run['error'], LONGEST)}" if run["error"] else ""
    return f"run {run['status']}{cost}{why}"


def _money(cost: Any) -> list[str]:
    return [f"${cost:,.2f}"] if cost else []
