"""What a run is given, checked against what its campaign asks for."""

from collections.abc import Iterator, Mapping
from typing import Any

from campaigns.definition.flaws import Flaw, Invalid
from campaigns.definition.model import Campaign, Input
from campaigns.definition.reading import unfit
from campaigns.definition.values import fits


def check_inputs(campaign: Campaign, given: Mapping[str, Any]) -> dict[str, Any]:
    """The run's inputs with their defaults, or Invalid; null counts as not given. Places begin with `inputs`."""
    flaws = [flaw.within("inputs") for flaw in unfit(dict(given))]
    flaws += [Flaw(("inputs", name), "is no input of this campaign") for name in given if name not in campaign.inputs]
    for name, declared in campaign.inputs.items():
        flaws += _flaws(name, declared, given.get(name))
    if flaws:
        raise Invalid(flaws)
    return {name: _value(declared, given.get(name)) for name, declared in campaign.inputs.items()}


def _flaws(name: str, declared: Input, value: object) -> Iterator[Flaw]:
    if value is None:
        if declared.required and declared.default is None:
            yield Flaw(("inputs", name), "is missing")
    elif declared.type and not fits(declared.type, value):
        yield Flaw(("inputs", name), f"must be of type {declared.type}")


def _value(declared: Input, value: Any) -> Any:
    return declared.default if value is None else value
