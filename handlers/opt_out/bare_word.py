"""The word alone, with courtesies, a greeting above and a signature below."""

import re

from handlers.opt_out.meaning import is_leaving
from handlers.opt_out.request import Request

_GREETING = re.compile(
    r"(?i)\A(?:hi|hello|hey|dear|good (?:morning|day|evening|afternoon))\b(?: [\w.'-]+){0,3}\s*[,.!:\n]+"
)
_CLOSING = re.compile(
    r"(?i)(?:(?:best|kind|warm) )?(?:regards|thanks|thank you|sincerely|cheers|best|yours|respectfully|-+)\W*\Z"
)
_OF_A_NAME = re.compile(
    r"[A-Z][\w'.&-]*|of|and|the|for|de|van|von|&|[|/-]+|\+?[\d().-]+|\S+@\S+|\S+\.\w{2,}\S*|#\S+|\W+"
)


def whole_message(own: str) -> Request | None:
    """The request that a message is, if it is an opt-out word and nothing else."""
    body = _GREETING.sub("", own)
    for end in reversed([m.end() for m in re.finditer(r"[.!,;:\n\u2013\u2014]+|\s-+\s|\Z", body)][:12]):
        if is_leaving(body[:end]) and _is_signature(body[end:], same_line="\n" not in body[max(end - 2, 0) : end]):
            return Request(True, True, "the message is an opt-out word")
    return None


def _is_signature(tail: str, *, same_line: bool) -> bool:
    lines = [line.strip(" \t.!,*") for line in tail.split("\n") if line.strip(" \t.!,*")]
    if len(lines) > 10 or any(len(line) > 70 for line in lines) or tail.rstrip().endswith("?"):
        return False
    if same_line and lines and lines[0].isupper() and " " in lines[0]:
        return False  # shouted, not signed: STOP. CALL ME
    return all(_signs(line) or (n == 0 and not same_line and line.isalpha()) for n, line in enumerate(lines))


def _signs(line: str) -> bool:
    return bool(_CLOSING.match(line)) or all(
        _OF_A_NAME.fullmatch(word.strip(",.")) for word in line.split() if word.strip(",.")
    )
