"""What a step's call is thought to cost, and which calls are thought to cost nothing for want of a figure."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

from campaigns.definition import Campaign, EngineStep, EnrichStep, Flaw, Step, World
from daemon.settings import EngineSettings


def estimate(step: Step, engines: Mapping[str, EngineSettings]) -> Decimal:
    """Dollars for one call: the step's own figure, else its engine's; a step that calls nothing costs nothing."""
    if not isinstance(step, EngineStep | EnrichStep):
        return Decimal(0)
    if step.cost is not None:
        return step.cost
    return engines[step.engine].cost_per_call if step.engine in engines else Decimal(0)


def warnings(campaign: Campaign, world: World) -> tuple[Flaw, ...]:
    """What a person should know of a campaign that is valid."""
    return tuple(_warnings(campaign, world))


def _warnings(campaign: Campaign, world: World) -> Iterator[Flaw]:
    for position, step in enumerate(campaign.steps):
        if isinstance(step, EngineStep | EnrichStep) and (engine := world.engines.get(step.engine)):
            for flaw in _of_call(step, engine):
                yield flaw.within("steps", position)


def _of_call(step: EngineStep | EnrichStep, engine: EngineSettings) -> Iterator[Flaw]:
    if not engine.configured:
        yield Flaw(("engine",), f"engine {engine.name} has neither a URL nor a command yet")
    if step.cost is None and "cost_per_call" not in engine.model_fields_set:
        variable = f"ORCHESTRATOR_ENGINES__{engine.name.upper()}__COST_PER_CALL"
        yield Flaw(("cost",), f"each call counts as free until it answers: set it, or {variable}")
