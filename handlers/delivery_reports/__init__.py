"""What a mail system's report says: which recipient failed, and whether the address itself is to blame.

Reads text only, so a stored reply is enough: RFC 3464 fields, RFC 5965 complaints, RFC 8098 receipts, and the prose
of systems that send none of them. "Permanent" is not "bad address": a full mailbox or a refused sender says nothing
about it.
"""

from handlers.delivery_reports.causes import ADDRESS, cause_of
from handlers.delivery_reports.fields import from_fields
from handlers.delivery_reports.notices import complaint, receipt
from handlers.delivery_reports.parts import ORIGINAL, field_groups, split
from handlers.delivery_reports.prose import from_prose
from handlers.delivery_reports.report import Letter, Report

__all__ = ["ADDRESS", "LONGEST", "ORIGINAL", "Letter", "Report", "cause_of", "read_report"]

LONGEST = 60_000  # characters looked at


def read_report(letter: Letter) -> Report | None:
    """The report that this mail is, or None for a letter of a person or of anything else."""
    text, original = split(letter.text[:LONGEST])
    groups = list(field_groups(text))
    for found in (
        complaint(letter, groups, original),
        receipt(letter, groups),
        from_fields(letter, groups, text, original),
    ):
        if found:
            return found
    return from_prose(letter, text, original)
