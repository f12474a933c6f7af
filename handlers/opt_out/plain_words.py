"""Plain requests, on the meaning of a sentence."""

import re
from collections.abc import Iterator

from handlers.opt_out.meaning import meaning
from handlers.opt_out.request import Request

_FROM_LIST = r"(?: (?:off|from|out))?(?: (?:your|this|that))*(?: (?:list|messages|contacts))?"
_COMMANDS = tuple(
    re.compile(rf"\b{command}\b(?P<tail>.*)")
    for command in (
        r"(?:stop|quit|cease|desist|discontinue|refrain from) contacting(?: (?:me|your|this|messages|with))*",
        (
            r"(?:stop|quit|enough|cease|discontinue)(?: (?:with|your|this|receiving|getting"
            r"|contacting))* (?:messages|contact"
            r"|contacting)"
        ),
        r"cease and desist(?: contacting)?(?: me)?",
        r"dont (?:you )?contact(?: me| messages)*",
        r"dont send(?: me)?(?: your)? (?:messages|contact|anything|stuff)",
        rf"(?:remove|removing|delete|erase|scrub|unlist|unsubscribe|scratch) me{_FROM_LIST}",
        rf"(?:take|taking|get|drop|leave) me (?:off|out|from){_FROM_LIST}",
        r"(?:remove|take|delete) (?:\S+ ){1,6}?(?:off|from) your (?:list|contacts)",
        r"(?:opt me out|leave me (?:alone|be)|(?:lose|forget) me)",
        (
            r"(?:put|add|place) me (?:on |in |your |a |internal )*(?:dont|dnc|no|suppression"
            r"|optout)(?: contact)?(?: list)?"
        ),
    )
)
_WISHES = tuple(
    re.compile(rf"(?<!\w){wish}\b(?P<tail>.*)")
    for wish in (
        rf"(?:be|get|being) (?:removed|taken|deleted|unsubscribed){_FROM_LIST}",
        (
            r"(?:dont|not) (?:want|wish|like|need|care)(?: (?:you|receive|receiving|get|have|see|read|for|your"
            r"|contacting))* (?:messages|list)"
        ),
        (
            r"(?:dont|not) (?:want|wish|like|need|care)(?: you)? (?:hear from (?:you|your \w+)|be contacted"
            r"|contact(?:ing)? me)"
        ),
        r"not interested in (?:receiving|getting|being contacted|hearing from you)(?: messages)?",
        (
            r"(?:want|like|wish|need|ask|asked|trying|tried|how|how (?:do|can)(?: i| we)) (?:optout"
            r"|unsubscribe)(?: me)?(?: from)?(?: your)?(?: list| messages)?"
        ),
        (
            r"(?:^|, |and |but |i |we |im |am |yes |no |thanks )(?:optout|unsubscribe)(?: me)?(?: from)?(?: (?:your"
            r"|this))?(?: list| messages)?"
        ),
        r"(?:^|, |and |but |thanks |sorry )no (?:messages|contact)(?! with)",
        r"get off (?:your |this |that )*list",
        (
            r"(?:can|could|would|will|want|need|told|asked|asking|telling)(?: (?:you|it|this|i))+ stop(?: (?:it"
            r"|this|that|thanks))*$"
        ),
        r"(?:i said|(?:this|you|it) (?:has|have|needs?|must|should|better)) stop(?: (?:it|this))*$",
        r"unsubscribe (?:link|button|option)\b.*\b(?:works?|working|broken|missing|find)",
    )
)
_NEGATED = re.compile(
    r"\b(?:dont|not|didnt|did not|cant|cannot|wont|without|no need)(?: (?:want|you|have|need|mean|me))*\s*$"
)
_TOLD_OF_OTHERS = re.compile(
    r"\b(?:i|we|he|she|they|you|who|that|why|agents?|realtors?|people|ill|well|(?:told|asked|wants|made"
    r"|begged) me)"
    r"(?: (?:will|would|can|should|may|might|could|usually|always|do|did|had|have|decided|want|am|are|also|need"
    r"|going))*\s*$"
)
_TOLD_US = re.compile(
    r"\b(?:(?:want|need|told|asked?|asking|telling|like|can|could|would|will) you|you (?:need|must|should|have"
    r"|better))\s*$"
)
_TIMED = re.compile(
    r" *,? *(?:before|after|until|till?|at (?:night|work|home|\d)|(?:on )?(?:mon|tue|wed|thu|fri|sat|sun"
    r"|week)\w*|during|while|when|between"
    r"|in (?:morning|evening|afternoon|middle)|today|tonight|tomorrow|this (?:week|month|morning|evening)|next"
    r"|so|too|currently|for a)\b"
)
_OTHER_THING = re.compile(
    r" *(?:(?:from|off|out|your|my|our|this) )*(?:deed|title|loan|lien|mortgage|contract|lease|lawsuit|will"
    r"|trust|cc|thread|hook|house"
    r"|property|policy|agreement|listing|market|names|back)\b"
)
_GOES_WITH = re.compile(
    r"\Z| ,| (?:again|or|no|and|because|cause|as|since|with|about|regarding|from|thanks?|thank|i|im|we|you|your|in"
    r"|ok|sir|maam|else|but|period|its"
    r"|this|unless|if|instead|at|on|though|except|only|people|for|me)\b"
)
_BUT = re.compile(
    r"\b(?:instead|use|rather|only|if|unless|except|other than)\b|\bcontact me\b|\b(?:ill|i will"
    r"|we will) contact you\b|\bat work\b"
)


_ON_CONDITION = re.compile(r"\b(?:if|unless)\b(?! (?:you|youd|you could|you would|you can) *\Z)|(?:\A|, )contact me\b")


def plain_request(own: str) -> Request | None:
    """The surest of the requests that its sentences make."""
    sentences = [meaning(s) for s in re.split(r"[.!?;:\u2026]+(?=\s|$)|\n\s*\n|[\"\u201c\u201d()\[\]{}]", own)]
    asked = [r for s in sentences for r in _requests(s)]
    return next((r for r in asked if r.sure), asked[0] if asked else None)


def _requests(sentence: str) -> Iterator[Request]:
    for command in _COMMANDS:
        found = command.search(sentence)
        if found and not _is_about_others(sentence[: found.start()], found["tail"]):
            yield from _weigh(sentence[: found.start()], found)
    for wish in _WISHES:
        if found := wish.search(sentence):
            yield from _weigh(sentence[: found.start()], found)


def _is_about_others(before: str, tail: str) -> bool:
    told = _TOLD_OF_OTHERS.search(before) and not _TOLD_US.search(before)
    return bool(told) and not re.match(r"(?: \w+)? again\b", tail)


def _weigh(before: str, found: re.Match[str]) -> Iterator[Request]:
    """Nothing if negated, about a time of day or another thing; unsure if a condition or a wish hangs on it."""
    tail = found["tail"]
    if _NEGATED.search(before) or _TIMED.match(tail) or _OTHER_THING.match(tail):
        return
    if not _GOES_WITH.match(tail) or _BUT.search(tail) or _ON_CONDITION.search(before):
        if re.search(r"\b(?:me|messages|unsubscribe|optout)\b", found.group()):
            yield Request(False, False, "asks to stop something, with a condition or another wish")
        return
    yield Request(True, False, "asks in plain words not to be contacted")
