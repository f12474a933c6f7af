"""A mail that may be a report, and what a report says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from handlers.delivery_reports.causes import ADDRESS

MOST = 100  # recipients of one report

Kind = Literal["bounce", "delivery_notice", "complaint", "opt_out"]


@dataclass(frozen=True, slots=True)
class Letter:
    """The parts of a mail that a report is read from; `headers` have lower-case names, `ours` are never suppressed."""

    sender: str
    subject: str
    text: str
    headers: Mapping[str, str]
    ours: frozenset[str]


@dataclass(frozen=True, slots=True)
class Report:
    """`failed` are the recipients that it names, `bad` those of them that must not be written to again."""

    kind: Kind
    reason: str
    failed: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One recipient's failure: the addresses that it is known by, and why."""

    addresses: tuple[str, ...]
    cause: str
    code: str


def bounce(failures: list[Failure]) -> Report:
    """The report of these failures."""
    failed = dict.fromkeys(a for f in failures for a in f.addresses)
    bad = dict.fromkeys(a for f in failures if f.cause == ADDRESS for a in f.addresses)
    reasons = dict.fromkeys(f"{f.cause} ({f.code})" if f.code else f.cause for f in failures)
    return Report("bounce", "delivery failed: " + ", ".join(list(reasons)[:5]), tuple(failed), tuple(bad))
