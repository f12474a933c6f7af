"""Every kind of task that campaigns need."""

from typing import Any

from campaigns import criteria, runs
from campaigns.definition import World
from daemon.task import Kind


def kinds(world: World) -> dict[str, Kind[Any]]:
    """The kinds, by name."""
    return {kind.name: kind for kind in (*runs.kinds(), *criteria.kinds(world))}
