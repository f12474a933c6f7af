"""Every pipeline and every kind there is: adding a pipeline is one new file and one line here."""

from collections.abc import Iterable, Mapping
from typing import Any

from daemon.errors import DeclarationError
from daemon.task import Kind
from handlers import approvals, daily_checks, leads, messages, replies
from handlers.pipeline import Pipeline
from handlers.vendor_acquisition import VENDOR

PIPELINES: tuple[Pipeline, ...] = (VENDOR,)


def by_name(pipelines: Iterable[Pipeline]) -> dict[str, Pipeline]:
    """Pipelines by their names, which are unique."""
    named: dict[str, Pipeline] = {}
    for pipeline in pipelines:
        if pipeline.name in named:
            raise DeclarationError(f"two pipelines are named {pipeline.name}")
        named[pipeline.name] = pipeline
    return named


def kinds(pipelines: Mapping[str, Pipeline]) -> dict[str, Kind[Any]]:
    """The kinds of task that these pipelines need."""
    # In this order a claim fills its room: a flood of new leads never stands before a reply or a deadline.
    every = [
        *replies.kinds(pipelines),
        *approvals.kinds(),
        *messages.kinds(pipelines),
        *leads.kinds(pipelines),
        *daily_checks.kinds(),
    ]
    return {kind.name: kind for kind in every}
