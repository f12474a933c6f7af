"""The sample leads of an empty database: most are new, some come in later with a deadline seconds ahead."""

from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from daemon.db import Connection, Statements
from daemon.sandbox.homes import below_market_pct, home_of, offer_for, worth

SQL = Statements("daemon.sandbox", "seeds.sql")
CAMPAIGNS = ("test-campaign", "monthly-retail", "weekly-restaurant")
"""Shipped ones that an empty database gets, their schedules off; of the last one a run begins."""


class Catalogue(Protocol):
    """The campaigns on record."""

    async def imported(self, conn: Connection, wanted: str) -> tuple[UUID, bool]:
        """The campaign of that name, imported if need be, and whether it is on record only now."""

    async def run(self, conn: Connection, campaign_id: UUID, inputs: dict[str, Any]) -> UUID:
        """Start a run."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A sample lead: who, which kind of person, and where in the pipeline they come in."""

    name: str | None
    phone: str | None
    city: str
    persona: str
    stage: str | None = None
    due_s: float | None = None
    home: bool = False
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def country(self) -> str:
        return "US" if (self.phone or "").startswith("+1") else "GB"


NEW = (
    Seed("Ann Archer", "+447700900101", "Leeds", "accepter"),
    Seed("Bill Baker", "+447700900102", "Manchester", "accepter"),
    Seed("Carol Cooper", "+12025550103", "Washington", "accepter"),
    Seed("David Dyer", "+447700900104", "Bristol", "haggler"),
    Seed("Ella Fletcher", "+447700900105", "Cardiff", "haggler"),
    Seed("Frank Fisher", "+447700900106", "Hull", "asker"),
    Seed("Grace Glover", "+12025550107", "Washington", "talker"),
    Seed("Harry Hunter", "+447700900108", "York", "refuser"),
    Seed("Ivy Ironside", "+447700900109", "Leeds", "silent"),
    Seed("Jack Joiner", "+447700900110", "Manchester", "stopper"),
    Seed("Kate Knight", "+447700900111", "Bristol", "out_of_office"),
    Seed("Leo Luxury", "+447700900112", "York", "talker", data={"asking_price": 980_000}),
    Seed("Mia Mason", None, "Leeds", "accepter"),
    Seed("Ned Numberless", "+4477009", "Hull", "accepter"),
)
"""Two of them can't be reached: no phone number, and one that no phone can have."""

IMPORTED = (
    Seed("Olive Orchard", "+447700900115", "Cardiff", "accepter", "AI_CONVERSATION", 4),
    Seed("Paul Potter", "+447700900116", "Leeds", "silent", "OFFER_MADE", 5, home=True),
    Seed("Queenie Quill", "+447700900117", "Hull", "refuser", "OFFER_MADE", 3, home=True),
    Seed("Ralph Roper", "+447700900118", "York", "silent", "VIDEO_SENT", 7, home=True),
    Seed("Sue Shepherd", "+12025550119", "Washington", "haggler", "RETRY_1", 6, home=True),
    Seed("Tom Tanner", "+447700900120", "Bristol", "silent", "RETRY_3", 9, home=True),
    Seed("Una Usher", "+447700900121", "Leeds", "silent", "OFFER_REJECTED", 11, home=True),
    Seed("Vic Vintner", "+447700900122", "Manchester", "silent", "DUE_DILIGENCE", 13, home=True),
    Seed("Wendy Weaver", "+447700900123", "Cardiff", "silent", "INVESTOR_PACK_SENT", 10, home=True),
    Seed("Xavier Young", "+447700900124", "Hull", "silent", "OFFER_MADE", data={"offer_amount": 310_000}, home=True),
)
"""The last one was offered more than the home is worth."""


async def seed(conn: Connection, due_after: float | None = 1.0) -> int:
    """Put the sample leads into a database without any; how many were put in.

    Their deadlines are ahead by `due_after` times their seconds; None: by what their stages say.
    """
    if not await conn.fetchval(SQL["is_empty"]):
        return 0
    rows = [_row(n, one, due_after) for n, one in enumerate((*NEW, *IMPORTED), start=1)]
    await conn.execute(SQL["insert"], rows)
    return len(rows)


async def campaigns(catalogue: Catalogue, conn: Connection) -> None:
    """Put the sample campaigns in, and begin a run."""
    stored = [await catalogue.imported(conn, name) for name in CAMPAIGNS]
    campaign, new = stored[-1]
    if new:
        await catalogue.run(conn, campaign, {})


def _row(n: int, one: Seed, due_after: float | None) -> dict[str, Any]:
    ref = f"sample-{n:02d}"
    return {
        "external_id": ref, "name": one.name, "phone": one.phone, "city": one.city, "country": one.country,
        "stage": one.stage, "due_s": None if one.due_s is None or due_after is None else one.due_s * due_after,
        "data": {"persona": one.persona, **(_offered_home(ref, one) if one.home else {}), **one.data},
    }  # fmt: skip


def _offered_home(ref: str, one: Seed) -> dict[str, Any]:
    home = home_of(ref, one.city, one.country)
    verdict = {"validation_passed": True, "bmv_score": below_market_pct(home), "estimated_market_value": worth(home)}
    return {**home, **verdict, "offer_amount": offer_for(home)}
