"""What is left: the word in a clause of its own, or talk of opting out."""

import re

from handlers.opt_out.meaning import BESIDE, COURTESY, LEAVE, MAY_LEAVE, is_alone, meaning
from handlers.opt_out.quotations import sentences
from handlers.opt_out.request import Request

_INVITES = re.compile(
    r"(?i)\?|\b(?:let'?s|call me|sell|offer|interested|price|talk|discuss|idea|deal|send|closing|when|wait"
    r"|sounds|great|sure"
    r"|love)\b"
)
_DECLINES = re.compile(
    r"(?i)\b(?:not|isn'?t|aren'?t|no longer|never|don'?t|won'?t|no)\b[^.!?\n]{0,30}"
    r"\b(?:interested|sell(?:ing)?|sale|offers?)\b"
)
_VOCABULARY = re.compile(r"\b(?:unsubscribe\w*|optout|stopall|dnc|dont contact(?! me))\b")
_NEVER_MIND = re.compile(
    r"\b(?:dont|didnt|did not|not|no need|wont|wouldnt)(?: \w+){0,3} (?:unsubscribe|optout|contact)\b"
)
_TO_A_MODEL = re.compile(
    r"(?i)\b(?:ignore (?:all |any )?(?:previous|prior|above)|classif(?:y|ier)|categor(?:y|i[sz]e)|prompt|assistant"
    r"|llm|as an ai|system:)"
)
_OPENS = re.compile(
    r"(?i)\A\W*(?:(?:please|yes|no|ok|okay|hi|hey|just|thanks)\W+)*(?:stop|end|quit|cancel|revoke)\s+"
    r"(?!(?:all|at|and|by|claim|date|for|here|in|light|loss|my|of|off|on|order|our|over|paying|price|rent"
    r"|renting|result|sale"
    r"|sign|so|the|there|time|to|up|user|users|with|work|your|an?|that)\b)\w"
)


def _without_orders(own: str) -> str:
    """Without sentences that address a model: they must change nothing."""
    return "".join(part for part in sentences(own) if not _TO_A_MODEL.search(part))


def word_alone_in_a_clause(own: str) -> Request | None:
    """ "Not selling. Stop." is a request; with anything inviting beside it, a person decides."""
    said = _without_orders(own)
    clauses = [c for c in re.split(r"[.!?,;:\n\u2013\u2014]+|\s-+\s", said) if c.strip()]
    if any(is_alone(clause, LEAVE, COURTESY | BESIDE) for clause in clauses):
        open_to_more = _INVITES.search(_DECLINES.sub("", said)) or len(said.split()) > 40
        return Request(not open_to_more, False, "an opt-out word stands alone in the message")
    if any(is_alone(clause, MAY_LEAVE, COURTESY) for clause in clauses):
        return Request(False, False, "a word that may mean opt-out stands alone in the message")
    return None


def vocabulary(own: str) -> Request | None:
    """A request that may be meant where opting out is spoken of."""
    said = _NEVER_MIND.sub("", meaning(_without_orders(own)))
    if _VOCABULARY.search(said):
        return Request(False, False, "speaks of opting out without plainly asking for it")
    opens = _OPENS.match(own) and len(own.split()) <= 5
    return Request(False, False, "opens with an opt-out word") if opens else None
