"""What a campaign document may say, and everything that is wrong with one that says something else.

`reading` takes JSON apart, `filling` completes what follows from other parts (names, endpoints, sources), `model` and
`steps` are the shape, `checks` is what crosses steps, and `validating` puts these together; `inputs` reads what a
run is given.
"""

from campaigns.definition.flaws import Flaw, Invalid, Loc
from campaigns.definition.inputs import check_inputs
from campaigns.definition.model import Budget, Campaign, Input, Metadata, Notice, Notifications, Schedule, Trigger
from campaigns.definition.reading import MOST_BYTES, parse
from campaigns.definition.steps import (
    CheckpointStep,
    EngineStep,
    EnrichStep,
    LeadsStep,
    MessagesStep,
    Retry,
    Step,
)
from campaigns.definition.validating import json_schema, load, normalised, pinned, validate
from campaigns.definition.world import OPERATIONS, World

__all__ = [
    "MOST_BYTES",
    "OPERATIONS",
    "Budget",
    "Campaign",
    "CheckpointStep",
    "EngineStep",
    "EnrichStep",
    "Flaw",
    "Input",
    "Invalid",
    "LeadsStep",
    "Loc",
    "MessagesStep",
    "Metadata",
    "Notice",
    "Notifications",
    "Retry",
    "Schedule",
    "Step",
    "Trigger",
    "World",
    "check_inputs",
    "json_schema",
    "load",
    "normalised",
    "parse",
    "pinned",
    "validate",
]
