"""What is to be said of a document: that it is valid, or why not, and what a person should know."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from campaigns.definition import Campaign, Flaw, Invalid, World, load
from campaigns.estimates import warnings


@dataclass(frozen=True, slots=True)
class Report:
    """A document's campaign and its warnings, or its errors."""

    campaign: Campaign | None
    errors: tuple[Flaw, ...] = ()
    warnings: tuple[Flaw, ...] = ()

    def document(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "valid": self.campaign is not None,
            "name": self.campaign and self.campaign.name,
            "errors": [flaw.document() for flaw in self.errors],
            "warnings": [flaw.document() for flaw in self.warnings],
        }

    def lines(self) -> Iterator[str]:
        """The report for people: a line for each error, or a summary and the warnings."""
        if self.campaign:
            yield _summary(self.campaign)
        yield from map(str, self.errors)
        yield from (f"warning: {flaw}" for flaw in self.warnings)


def report_on(text: bytes, world: World) -> Report:
    """What is to be said of a JSON text."""
    try:
        campaign = load(text, world)
    except Invalid as invalid:
        return Report(None, invalid.errors)
    return Report(campaign, (), warnings(campaign, world))


def _summary(campaign: Campaign) -> str:
    schedule, steps = campaign.schedule, len(campaign.steps)
    when = "by hand"
    if campaign.trigger:
        when = f"on each row of {campaign.trigger.table}"
    if schedule:
        when = f"{schedule.cron} {schedule.timezone}{'' if schedule.enabled else ' (off)'}"
    return f"{campaign.name}: valid; {steps} step{'' if steps == 1 else 's'}, {when}"
