"""Erasure: a person's data goes, and every spelling of an address that a message would go to stays excluded."""

from uuid import UUID

from daemon.db import Connection, Statements
from handlers.addresses import normal_address

SQL = Statements("handlers", "erasure.sql")


async def erase(conn: Connection, lead: UUID, actor: str) -> list[UUID]:
    """Erase a lead; other leads that have one of its addresses, which are left. Raises SQLSTATE P0002 for none."""
    async with conn.transaction():
        rows = await conn.fetch(SQL["addresses"], lead)
        spelt = [normal_address(row["address"], country=row["country"]) for row in rows]
        others: list[UUID] = await conn.fetchval(SQL["erase"], lead, actor, spelt)
        return others
