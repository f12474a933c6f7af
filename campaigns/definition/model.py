"""The shape of a campaign document, as its users write it (camelCase), with every default."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from campaigns.definition.steps import KINDS, Retry, Steps, fields_of
from campaigns.definition.values import (
    Address,
    AppriseUrl,
    CronText,
    Flag,
    Grace,
    Hook,
    InputType,
    Money,
    Name,
    Part,
    Text,
    Title,
    Zone,
    blank,
    fits,
)

MOST_STEPS = 200


class Schedule(Part):
    """When it runs by itself."""

    cron: CronText
    timezone: Zone = "UTC"
    enabled: Flag = True
    grace_seconds: Grace = 3600


def _spelled_out(value: object) -> object:
    return {"cron": value} if isinstance(value, str) else value


class Trigger(Part):
    """A table, a new row of which starts a run."""

    table: Literal["search_criteria"]


class Input(Part):
    """A value that a run is given."""

    type: InputType | None = None
    required: Flag = False
    default: Any = None
    description: Text | None = None

    @field_validator("default")
    @classmethod
    def _of_its_type(cls, value: object, info: ValidationInfo) -> object:
        wanted = info.data.get("type")
        if value is not None and wanted and not fits(wanted, value):
            raise ValueError(f"must be of the input's type, {wanted}")
        return value


class Budget(Part):
    """Dollars that the campaign may spend in a window, and for one lead found; None: any."""

    daily: Money | None = None
    weekly: Money | None = None
    monthly: Money | None = None
    per_lead: Money | None = None


class Notice(Part):
    """Who is told; nobody here means the admin."""

    email: Address | None = None
    slack: Hook | None = None
    urls: Annotated[tuple[AppriseUrl, ...], Field(max_length=20)] = ()

    @property
    def addressed(self) -> bool:
        """Whether it names anybody."""
        return bool(self.email or self.slack or self.urls)


NoticeOrNull = Annotated[Notice, blank(Notice)]


class Notifications(Part):
    """What is told to whom."""

    on_complete: NoticeOrNull = Notice()
    on_failure: NoticeOrNull = Notice()
    on_budget: NoticeOrNull = Notice()


class Metadata(Part):
    """What its owner wants to find again."""

    project_id: Annotated[Text | None, Field(alias="project_id")] = None
    tags: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    owner: Text | None = None


class Campaign(Part):
    """A campaign: what a run does, when it starts, what it may spend and who is told."""

    name: Title
    description: Annotated[str, Field(strict=True, max_length=10_000)] | None = None
    schedule: Annotated[
        Schedule | None, BeforeValidator(_spelled_out, json_schema_input_type=CronText | Schedule | None)
    ] = None
    trigger: Trigger | None = None
    inputs: Annotated[dict[Name, Input], blank(dict[Name, Input])] = Field(default_factory=dict)
    budget: Annotated[Budget, blank(Budget)] = Budget()
    steps: Annotated[tuple[Steps, ...], Field(min_length=1, max_length=MOST_STEPS)]
    notifications: Annotated[Notifications, blank(Notifications)] = Notifications()
    metadata: Annotated[Metadata, blank(Metadata)] = Metadata()


PARTS: tuple[type[BaseModel], ...] = (
    *KINDS.values(), Campaign, Schedule, Trigger, Input, Budget, Notice, Notifications, Metadata, Retry
)  # fmt: skip
NAMES = frozenset(name for part in PARTS for name in fields_of(part))
"""Every name that means something somewhere."""
