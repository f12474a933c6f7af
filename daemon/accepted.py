"""Calls that an engine has accepted and settles later: its webhook writes to the ledger, where who waits looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from daemon.answers import Answer, Answered, Failed, Unknown, charge, read_report, tidy
from daemon.db import UNREACHABLE, Statements
from daemon.ledger import Ended, Ledger

SQL = Statements("daemon", "accepted.sql")


@dataclass(slots=True)
class Meanwhile:
    """What the engine's webhook has told of a call while its answer is waited for."""

    ledger: Ledger
    key: str
    answer: Answer | None = None

    async def look(self) -> Answer | None:
        """The answer in the ledger; None if there is none yet, or the ledger can't be read now."""
        try:
            async with self.ledger.pool.acquire() as conn:
                row = await conn.fetchrow(SQL["settled"], self.key)
        except UNREACHABLE:
            return None
        self.answer = _answer(row) if row is not None else None
        return self.answer


def _answer(row: Mapping[str, Any]) -> Answer:
    if row["status"] == "ok":
        return Answered(row["result"] or {}, row["http_status"] or 200)
    retryable = (row["result"] or {}).get("retryable", True)
    return Failed(row["error"] or "the engine reported an error", retryable, http_status=row["http_status"])


async def settle(ledger: Ledger, engine: str, key: str, report: Mapping[str, Any]) -> bool | None:
    """Settle an engine's call as it reports; False if it was settled before, None if it has no such call."""
    async with ledger.pool.acquire() as conn:
        row = await conn.fetchrow(SQL["call"], key, engine)
    if row is None or row["settled"]:
        return None if row is None else False
    await ledger.settle_for_good(_ended(key, read_report(report, 200), row))
    return True


def _ended(key: str, answer: Answer | None, row: Mapping[str, Any]) -> Ended:
    match answer:
        case Answered(result, status):
            cost = charge(result, row["reserved_cost"]).cost
            return Ended(key, "ok", cost, status, row["ms"], None, result)
        case Failed(error, retryable, _, status):
            told = {"retryable": retryable}
            return Ended(key, "failed", Decimal(0), status, row["ms"], tidy(error), told)
        case Unknown() | None:
            raise ValueError("the report says neither completed, with an object, nor failed")
