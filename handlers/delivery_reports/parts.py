"""The parts of a report: its text, its fields, the message that it is about, and the addresses in them."""

import re
from collections.abc import Iterable, Iterator

from handlers.addresses import normal_address

ORIGINAL = "----- Original message headers -----"  # parse_mail puts it between a report and what it reports on

EMAIL = re.compile(r"[^\s<>()\[\],;:\"'@]+@[^\s<>()\[\],;:\"'@]+\.[^\s<>()\[\],;:\"'@]*\w")
_SPLIT = re.compile(
    r"(?im)^[ \t]*(?:-{2,}[ \w]*(?:original message|this is a copy of|copy of the (?:original )?message"
    r"|unsent message|returned message|message header|undelivered message|"
    r"body of message|below this line is a copy|message text follows|forwarded message)[^\n]*"
    r"|(?:below is a copy of the )?original message(?: headers| follows|:)[^\n]*|message headers? follows?\W*$|"
    r"received:\s*from [^\n]*|return-path: <[^\n]*)$"
)
PERSON_PREFIX = re.compile(r"(?i)\s*(?:re|fwd?|aw|wg|tr|sv)\s*:")


def split(text: str) -> tuple[str, str]:
    """The report, and the message that it reports on. What parse_mail marked is certain; else by the usual lines."""
    report, _, original = text.partition(ORIGINAL)
    prose = _SPLIT.search(report)
    if not prose:
        return report, original
    fields = re.compile(r"(?im)^final-recipient:").search(report, prose.start())
    start = max(prose.start(), report.rfind("\n\n", 0, fields.start())) if fields else len(report)
    return f"{report[: prose.start()]}\n\n{report[start:]}", original or report[prose.start() :]


def field_groups(text: str) -> Iterator[dict[str, str]]:
    """Each block of fields, by their lower-case names."""
    for block in re.split(r"\n[ \t]*\n", re.sub(r"\n[ \t]+(?=\S)", " ", text)):
        pairs = re.findall(r"(?m)^([A-Za-z][A-Za-z0-9-]{1,40}):[ \t]*(.*)$", block)
        if pairs:
            yield {name.lower(): value.strip() for name, value in reversed(pairs)}


def addresses_in(values: Iterable[str], ours: frozenset[str]) -> tuple[str, ...]:
    """The addresses in these values, each once, without ours."""
    found = (normal_address(match.rstrip("."), "email") for value in values for match in EMAIL.findall(value))
    return tuple(dict.fromkeys(a for a in found if a and a not in ours))


def recipient_of(original: str, ours: frozenset[str]) -> tuple[str, ...]:
    """To whom the message went that a report is about, if to one only."""
    to = next((g["to"] for g in field_groups(original.lstrip()) if "to" in g), "")
    found = addresses_in([to], ours)
    return found if len(found) == 1 else ()
