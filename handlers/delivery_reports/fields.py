"""Delivery status fields (RFC 3464): a group per recipient."""

import re

from handlers.delivery_reports.causes import ADDRESS, cause_of
from handlers.delivery_reports.parts import PERSON_PREFIX, addresses_in, recipient_of
from handlers.delivery_reports.prose import DELAY, segments
from handlers.delivery_reports.report import MOST, Failure, Letter, Report, bounce


def from_fields(letter: Letter, groups: list[dict[str, str]], text: str, original: str) -> Report | None:
    """What the groups of a report say that names recipients, or nothing."""
    told = [
        g for g in groups if ("final-recipient" in g or "original-recipient" in g) and ("action" in g or "status" in g)
    ]
    typed = "multipart/report" in letter.headers.get("content-type", "").lower()
    if not told or (PERSON_PREFIX.match(letter.subject) and not typed):
        return None
    failed = [g for g in told if _has_failed(g, letter.subject)]
    if not failed:
        return Report("delivery_notice", f"delivery {told[0].get('action', 'reported').lower()[:40]}")
    only, prose = len(failed) == 1, segments(text, letter)
    return bounce(
        [_failure_in(g, letter, prose, text if only else "", original if only else "") for g in failed[:MOST]]
    )


def _has_failed(group: dict[str, str], subject: str) -> bool:
    action, status = group.get("action", "").lower(), group.get("status", "")
    if action.startswith(("delayed", "delivered", "relayed", "expanded", "deliverable", "success")):
        return False
    return bool(action) or status.startswith("5") or not (status.startswith("2") or DELAY.search(subject))


def _failure_in(group: dict[str, str], letter: Letter, prose: dict[str, str], text: str, original: str) -> Failure:
    named = addresses_in([group.get(name, "") for name in ("final-recipient", "original-recipient")], letter.ours)
    addresses = (
        named or addresses_in([group.get("x-actual-recipient", "")], letter.ours) or recipient_of(original, letter.ours)
    )
    status, words = group.get("status", ""), group.get("diagnostic-code", "")
    cause, code = cause_of(status, words)
    if cause == "reason not told" or not words:
        told = next((prose[a] for a in addresses if a in prose), _without_fields(text))
        cause, code = cause_of(status, f"{words} {told}") if cause != ADDRESS else (cause, code)
    return Failure(addresses, cause, code)


def _without_fields(text: str) -> str:
    return re.sub(r"(?m)^[A-Za-z][A-Za-z0-9-]{1,40}:.*$", "", text)
