"""Exclusions: addresses that no message goes to."""

from typing import Annotated, Literal

import orjson
from pydantic import AwareDatetime, BaseModel, Field, StringConstraints, TypeAdapter, WithJsonSchema
from pydantic.functional_validators import PlainValidator

from daemon.api.leads import shown
from daemon.api.paging import LONGEST_CURSOR, Page, decode, page_of
from daemon.api.problems import Flaw, Problem, unfit
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, Success
from daemon.db import Statements

SQL = Statements("daemon.api", "exclusions.sql")
KEY: TypeAdapter[tuple[AwareDatetime, str]] = TypeAdapter(tuple[AwareDatetime, str])
LONGEST = 4 * LONGEST_CURSOR
AddressCursor = Annotated[
    tuple[AwareDatetime, str],
    PlainValidator(lambda given: decode(str(given)[:LONGEST], KEY)),
    WithJsonSchema({"type": "string", "maxLength": LONGEST}),
]
Address = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=320), Field(examples=["ann@example.com"])
]
Source = Annotated[str, StringConstraints(max_length=200)]
Reason = Literal["bounce", "opt_out", "complaint", "hard_pass", "manual"]
AnyReason = Literal["bounce", "opt_out", "complaint", "hard_pass", "manual", "erased"]


class ExclusionsQuery(Page):
    """Which exclusions."""

    reason: AnyReason | None = None
    cursor: AddressCursor | None = None


class WhichAddress(Input):
    """The address, if the body doesn't say it."""

    address: Address | None = None


class ExcludedAddress(Input):
    """The address, if the query doesn't say it."""

    address: Address | None = None


class NewExclusion(Input):
    """An email address, or a phone number that begins with + and its country's code."""

    address: Address
    reason: Reason = "manual"
    source: Source | None = None


class Exclusion(BaseModel):
    """An address that no message goes to; of an erased one a keyed hash."""

    address: str
    reason: AnyReason
    source: str | None
    created_at: AwareDatetime
    covers: Annotated[str, Field(examples=["this address", "every number that ends in 0900123"])]


class OneExclusion(Success):
    """An exclusion."""

    exclusion: Exclusion


class ManyExclusions(Success):
    """A page of exclusions."""

    exclusions: list[Exclusion]
    nextCursor: str | None  # noqa: N815 - public name


class Lifted(Success):
    """An exclusion is lifted."""

    message: str


async def list_exclusions(api: Api, given: Given[Nothing, ExclusionsQuery, Nothing]) -> Answer:
    """Exclusions, newest first."""
    query = given.query
    created_at, seen = query.cursor or (None, None)
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["exclusions"], query.reason, created_at, seen, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: (row["created_at"], row["address"]))
    return Answer({"success": True, "exclusions": shown(page), "nextCursor": following})


async def create_exclusion(api: Api, given: Given[Nothing, Nothing, NewExclusion]) -> Answer:
    """Exclude an address; what is scheduled to it is cancelled. 200 if it was excluded before."""
    new, daemon = given.body, api.daemon
    problem = daemon.problem_with_email if "@" in new.address else daemon.problem_with_phone
    if said := problem(new.address):
        raise unfit([Flaw(("address",), said)])
    address = daemon.normal_address(new.address)
    async with api.writing() as conn:
        made = await conn.fetchval(SQL["create"], address, new.reason, new.source)
        row = await conn.fetchrow(SQL["one"], address)
    if row is None:
        raise Problem(409, "the exclusion was lifted by somebody else just now")
    return Answer({"success": True, "exclusion": orjson.Fragment(row["shown"])}, 201 if made else 200)


async def lift_exclusion(api: Api, given: Given[Nothing, WhichAddress, ExcludedAddress]) -> Answer:
    """Lift the exclusion of an address, with the consent of whose it is; one that was erased stays excluded."""
    address = given.query.address or given.body.address
    if address is None:
        raise unfit([Flaw(("address",), "Field required")])
    if given.query.address and given.body.address not in (None, given.query.address):
        raise unfit([Flaw(("address",), "is another one than in the query")])
    async with api.writing() as conn:
        spelt = (address, api.daemon.normal_address(address) or address)
        lifted = await conn.fetchval(SQL["lift"], *spelt)
        left = await conn.fetchrow(SQL["one"], address)
        covering = await conn.fetchval(SQL["covering"], *spelt)
    if lifted:
        return Answer({"success": True, "message": f"the exclusion is lifted{_but(covering)}"})
    if covering is not None:
        raise Problem(409, f"that address is covered by the exclusion of {covering}: lift that one")
    if left is not None:
        raise Problem(409, "who was erased stays excluded")
    raise Problem(404, "that address is not excluded")


def _but(covering: str | None) -> str:
    return f", but that of {covering} covers the address, too" if covering else ""


_ALL = "/api/exclusions"
ROUTES = (
    Route("GET", _ALL, list_exclusions, {200: ManyExclusions}, query=ExclusionsQuery),
    Route("POST", _ALL, create_exclusion, {200: OneExclusion, 201: OneExclusion}, body=NewExclusion, problems=(409,)),
    Route("DELETE", _ALL, lift_exclusion, {200: Lifted}, query=WhichAddress, body=ExcludedAddress, problems=(404, 409)),
)
