"""Reports that are no bounces: complaints (RFC 5965) and receipts (RFC 8098)."""

import re

from handlers.delivery_reports.parts import addresses_in, recipient_of
from handlers.delivery_reports.report import Letter, Report


def complaint(letter: Letter, groups: list[dict[str, str]], original: str) -> Report | None:
    """A feedback report, or nothing."""
    fields = next((g for g in groups if "feedback-type" in g), {})
    kind = fields.get("feedback-type", "").lower()
    if not kind and not re.match(r"(?i)\s*complaint about message from", letter.subject):
        return None
    if kind in {"not-spam", "auth-failure", "dmarc"}:
        return Report("delivery_notice", f"feedback report of type {kind}")
    told = re.findall(r"(?im)^(?:original-rcpt-to|removal-recipient|x-hmxmroriginalrecipient):(.*)$", letter.text)
    bad = addresses_in(told, letter.ours) or recipient_of(original, letter.ours)
    if kind.startswith("opt-out"):
        return Report("opt_out", "feedback report: opt-out", bad, bad)
    return Report("complaint", f"feedback report: {kind or 'complaint'}", bad, bad)


def receipt(letter: Letter, groups: list[dict[str, str]]) -> Report | None:
    """A receipt or an aggregate report, or nothing."""
    typed = "disposition-notification" in letter.headers.get("content-type", "").lower()
    if typed or any("disposition" in g and ("final-recipient" in g or "original-message-id" in g) for g in groups):
        return Report("delivery_notice", "read receipt")
    if re.match(r"(?i)\s*report domain:", letter.subject):
        return Report("delivery_notice", "aggregate report")
    return None
