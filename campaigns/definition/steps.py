"""The five kinds of step, as their users write them (camelCase), with every default.

What follows from something else (`name`, `endpoint`, `checkpoint`, `pipeline`, `from`) may be left out by its writer;
`filling` has set it before a document gets here, so that whoever runs a step always finds it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from campaigns.definition.values import (
    Column,
    ItemPath,
    Limit,
    Money,
    Name,
    Part,
    Pause,
    Template,
    Text,
    Tries,
    Wait,
)


def _filled_in() -> Any:
    return Field(default_factory=str)


class Retry(Part):
    """Calls in all, and the pause (ms) between them."""

    attempts: Tries = 1
    delay: Pause = 0
    backoff: Literal["fixed", "exponential"] = "fixed"


class AnyStep(Part):
    """What every step may say."""

    name: Name = _filled_in()
    params: dict[str, Any] = Field(default_factory=dict)
    timeout: Limit = 300_000
    cost: Money | None = None
    retry: Retry = Retry()
    on_success: Literal["continue", "abort"] = "continue"
    on_failure: Literal["abort", "continue", "log"] = "abort"


class Calling(AnyStep):
    """A step that calls an engine."""

    endpoint: Text = _filled_in()
    method: Literal["POST", "GET", "PUT", "PATCH", "DELETE"] = "POST"

    @property
    def url(self) -> str | None:
        """The whole URL of a call that doesn't go below its engine's own."""
        return None if self.endpoint.startswith("/") else self.endpoint


class EngineStep(Calling):
    """Calls an engine once."""

    kind: Literal["engine"] = "engine"
    engine: Text


class CheckpointStep(AnyStep):
    """Waits for a person's decision; after `expires_after` ms it is rejected."""

    kind: Literal["checkpoint"]
    checkpoint: Name = _filled_in()
    expires_after: Wait | None = None


def _referred(value: object) -> object:
    """A source may be written as in params."""
    return value["$ref"] if isinstance(value, dict) and value.keys() == {"$ref"} else value


class SourceObject(Part):
    """A source, written as in params."""

    ref: Annotated[Text, Field(alias="$ref")]


Source = Annotated[Text, BeforeValidator(_referred, json_schema_input_type=Text | SourceObject)]
Priority = Literal["normal", "high", "low"]


class LeadsStep(AnyStep):
    """Stores the items of a result as leads; `map` says where in an item each column is (none: equal names)."""

    kind: Literal["leads"]
    source: Annotated[Source, Field(alias="from")]
    pipeline: Text = _filled_in()
    map: dict[Column, ItemPath] = Field(default_factory=dict)
    priority: Priority = "normal"


class EnrichStep(Calling):
    """Calls an engine once for each lead, and waits for all."""

    kind: Literal["enrich"]
    engine: Text = _filled_in()
    source: Annotated[Source, Field(alias="from")] = _filled_in()
    priority: Priority = "normal"


class MessagesStep(AnyStep):
    """Schedules messages: drafts, or leads with a template."""

    kind: Literal["messages"]
    source: Annotated[Source, Field(alias="from")] = _filled_in()
    channel: Literal["email", "sms"] = "email"
    template: Template | None = None
    priority: Priority = "normal"


KINDS: dict[str, type[AnyStep]] = {
    "engine": EngineStep,
    "checkpoint": CheckpointStep,
    "leads": LeadsStep,
    "enrich": EnrichStep,
    "messages": MessagesStep,
}


def fields_of(kind: type[BaseModel]) -> frozenset[str]:
    """The names of its fields in a document."""
    return frozenset(info.alias or name for name, info in kind.model_fields.items())


def kind_of(step: object) -> str:
    """The kind of a step; one of an unknown kind is read as the kind whose fields it mostly has."""
    if isinstance(step, AnyStep):
        return str(vars(step)["kind"])
    if not isinstance(step, dict):
        return "engine"
    kind = step.get("kind", "engine")
    if isinstance(kind, str) and kind in KINDS:
        return kind
    return max(KINDS, key=lambda name: len(fields_of(KINDS[name]) & step.keys()))


Step = EngineStep | CheckpointStep | LeadsStep | EnrichStep | MessagesStep
Steps = Annotated[
    Annotated[EngineStep, Tag("engine")]
    | Annotated[CheckpointStep, Tag("checkpoint")]
    | Annotated[LeadsStep, Tag("leads")]
    | Annotated[EnrichStep, Tag("enrich")]
    | Annotated[MessagesStep, Tag("messages")],
    Discriminator(kind_of),
]
