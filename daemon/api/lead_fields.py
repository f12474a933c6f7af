"""What a person may set of a lead, and what is wrong with it."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field, StringConstraints

from daemon.api.problems import Flaw, unfit
from daemon.api.route import Input, Text, Words
from daemon.cron import time_zone

if TYPE_CHECKING:
    from daemon.app import Daemon

MOST = 1e12


def _near(moment: datetime) -> datetime:
    if not 1970 <= moment.year <= 9000:
        raise ValueError("must lie between 1970 and 9000")
    return moment


def _zone(text: str) -> str:
    return time_zone(text).key


Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
Address = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=320)]
Country = Annotated[str, StringConstraints(strip_whitespace=True, min_length=2, max_length=2, to_upper=True)]
ZoneName = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_zone)]
Moment = Annotated[AwareDatetime, AfterValidator(_near)]
Score = Annotated[float, Field(ge=-MOST, le=MOST)]


class Fields(Input):
    """The columns that people set; null clears one."""

    name: Name | None = None
    company: Name | None = None
    email: Address | None = None
    phone: Address | None = None
    city: Name | None = None
    region: Name | None = None
    country: Country | None = None
    timezone: ZoneName | None = None
    source: Name | None = None
    external_id: Name | None = None
    tier: Literal["high", "medium", "low"] | None = None
    score: Score | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    do_not_contact: bool = False
    nurture_until: Moment | None = None
    deadline_at: Moment | None = None

    def given(self) -> dict[str, Any]:
        """What was said, and nothing that was left out."""
        return self.model_dump(exclude_unset=True, exclude={"actor"})


class NewLead(Fields):
    """A lead to create; without a stage it begins at the pipeline's first, at a later one it is an import."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "Ann Vendor", "phone": "+447700900123", "data": {"property_postcode": "LS1 4AP"}}]
        }
    )

    pipeline: Text = "vendor_acquisition"
    stage: Text | None = None
    actor: Words = "api"

    def given(self) -> dict[str, Any]:
        """What was said, and whose pipeline it is."""
        return {**Fields.given(self), "pipeline": self.pipeline, "moved_by": self.actor}


class Patch(Fields):
    """What shall be different. `data` is merged, a null in it takes its key out; consent can only be withdrawn."""


def require_reachable(daemon: "Daemon", fields: Mapping[str, Any], country: str | None) -> None:
    """Refuse addresses that nobody could be reached at; `country` of the lead as it will be."""
    flaws = list(_flaws(daemon, fields, country))
    if flaws:
        raise unfit(flaws)


def _flaws(daemon: "Daemon", fields: Mapping[str, Any], country: str | None) -> Iterator[Flaw]:
    said = {
        "country": fields.get("country") and daemon.problem_with_country(fields["country"]),
        "email": fields.get("email") and daemon.problem_with_email(fields["email"]),
        "phone": fields.get("phone") and daemon.problem_with_phone(fields["phone"], country),
    }
    for name, problem in said.items():
        if problem:
            yield Flaw((name,), problem)
