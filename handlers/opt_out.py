"""Does a person ask us to stop? Read from their own words only: never from what they quote, never from our footer."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 20_000  # characters looked at, quotations included
LONGEST_OWN = 5_000  # of what they write themselves


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `sure` if nothing else can be meant, `whole` if it is all that the message says."""

    sure: bool
    whole: bool
    reason: str


def asks_to_stop(text: str) -> Request | None:
    """The request to stop contacting them that these words make, if they plausibly make one."""
    own = own_words(text)[:LONGEST_OWN]
    for look in (_whole_message, _plain_request, _word_alone_in_a_clause, _vocabulary):
        if found := look(own):
            return found
    return None


# Whose words: quotations, footers, tapbacks

_WROTE = r"wrote|schrieb|a [eé]crit|escribi[oó]|ha scritto|schreef|escreveu|skrev"
_ATTRIBUTION = re.compile(  # "On Monday Ann <ann@a.example> wrote:", over up to three lines, none of them empty
    rf"(?ims)^[ \t*_]*(?:on|am|le|el|il|op|em|den)\b(?:(?!\n\s*\n"
    rf"|\n[ \t]*on\b).){{5,300}}?\b(?:{_WROTE})\b[^\n]{{0,80}}:[ \t*_]*$"
)
_QUOTED_MAIL = re.compile(
    r"(?im)^[ \t*_]*(?:-{2,} ?(?:original|forwarded|urspr\w+|weitergeleitete)[^\n]*"
    r"|begin forwarded message|[-#]{2,} ?reply above|_{10,}[ \t]*$"
    r"|\*?(?:from|von|de|da|van)\*?:[^\n]*\n(?:[^\n]*\n){0,2}?[ \t]*\*?(?:sent|date|to|subject|gesendet|datum"
    r"|an|envoy[eé]"
    r"|enviado|fecha|inviato|verzonden|para|objet)\*?[ \t]*:)"
)
_WORD = r"(?:stop ?(?:all)?|unsubscribe|opt[ -]?out|cancel|end|quit|revoke|remove)"
_FOOTERS = (  # how to leave, as only a sender says it
    rf"\b(?:reply|respond|text|txt|send|type|answer)\b.{{0,30}}\b{_WORD}\b.{{0,3}} (?:to|for|at any|any ?time|2)\b",
    rf"\b{_WORD} ?(?:=|2|to) ?(?:end|quit|opt|cancel|unsub|stop)",
    r"^\W*(?:or )?to (?:unsubscribe|opt[ -]?out|stop receiving|be removed|manage)\b",
    r"^\W*(?:please )?(?:click|tap|visit|follow)\b.{0,200}\b(?:unsubscribe|opt[ -]?out)",
    (
        r"\bif you(?:'d| would| no longer| do not| don't)? (?:wish|want|prefer|like|rather)\b.{0,200}\b(?:receive|hear"
        r"|unsubscribe|opt|contact|list)"
    ),
    r"\byou(?:'re| are) receiving\b|\byou received this\b|\bthis (?:e-?mail|message) was (?:intended|sent)\b",
    r"\bunsubscribe\b.{0,40}https?:(?!.{0,200}\b(?:work|broken))|https?:\S*unsub",
    r"\bunsubscribe *\||\| *unsubscribe\b",
)
_FOOTER = re.compile("|".join(f"(?:{footer})" for footer in _FOOTERS), re.IGNORECASE)
_TAPBACK = re.compile(
    r"(?is)\A\s*(?:(?:dis)?liked|loved|laughed at|emphasi[sz]ed|questioned|reacted .{1,20} to) [\"“].*"
)
_DEVICE = re.compile(r"(?im)^[ \t]*(?:sent (?:from|via)|get outlook|envoy[eé] de|von meinem|gesendet)\b[^\n]*$")


def own_words(text: str) -> str:
    """What the writer wrote now: without quoted mail, our footer, tapbacks and "Sent from my phone"."""
    plain = unicodedata.normalize("NFKC", text[:LONGEST].replace("\r\n", "\n").replace("\r", "\n"))
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    mine = _TAPBACK.sub("", _unquoted(re.sub("[\u2018\u2019`]", "'", visible)))
    return "".join(part for part in _parts(_DEVICE.sub("", mine)) if not _FOOTER.search(part)).strip()


def _unquoted(text: str) -> str:
    """Answers below and between marked lines stay; a quotation without marks runs to the end."""
    quoted = _QUOTED_MAIL.search(text)
    mine = text[: quoted.start()] if quoted else text
    while said := _ATTRIBUTION.search(mine):
        after = mine[said.end() :]
        mine = mine[: said.start()] + (after if after.lstrip().startswith(">") else "")
    return "\n".join(line for line in mine.split("\n") if not line.lstrip().startswith((">", "|>")))


def _parts(text: str) -> list[str]:
    """Sentences and lines with their ends, so that joined they are the text again."""
    return re.findall(r"[^\n]*?(?:[.!?]+(?=\s)[ \t]*|\n|\Z)", text)


# One word per meaning, so that the rules below stay short

_SAME = tuple(
    (re.compile(rf"\b(?:{words})\b"), one)
    for words, one in (
        (r"unsub|unsubscribing|unsuscribe|unsubcribe", "unsubscribe"),
        (r"opt out|opt outs|opting out|opted out|opt-out", "optout"),
        (r"right now|yet|for now|at the moment", "currently"),
        (r"e-mail(s|ed|ing)?", r"email\1"),
        (
            (
                r"(?:(?:mailing|email|contact|call|calling|text|texting|sms|marketing|distribution|outreach|spam"
                r"|phone) ){0,3}"
                r"(?:lists?|databases?|data base|systems?|records|crm|campaigns?|rotation|sequence|mailings?"
                r"|newsletters?|directory)"
            ),
            "list",
        ),
        (
            (
                r"us|(?:my|our|this) (?:(?:cell|phone|mobile|contact|email) )?(?:number|phone|cell|mobile|email"
                r"|name|address|info"
                r"|information|contact|details|data|inbox|line)"
            ),
            "me",
        ),
        (
            (
                r"(?:text |sms )?messages|letters|postcards|mailers|msgs|emails|texts|mails|calls|communications?"
                r"|spam|solicitations?|junk mail"
            ),
            "messages",
        ),
        (
            r"(?:cold )?calling|texting|txting|emailing|mailing|messaging|contacting|sending|writing|spamming",
            "contacting",
        ),
        (r"bothering|harassing|bugging|soliciting|pestering|pinging|phoning|reaching out|hitting me up", "contacting"),
        (r"called|texted|emailed|messaged|contacted", "contacted"),
        (r"contact|call|text|txt|email|message|msg|mail|phone|write|reach out|bother|solicit|harass", "contact"),
        (r"do not|never|no longer|dnt|donot", "dont"),
        (r"u|ya|yall|you guys|you people", "you"),
        (r"anymore", "again"),
        (
            (
                r"please|pls|plz|kindly|just|ever|really|at all|all|any|more|further|th[eo]se|such|future|the|to|of"
                r"|fucking|damn"
                r"|immediately|now|asap|at once|right away|already|here|permanently|completely|simply"
                r"|marketing|promotional|unwanted|annoying|several times|many times|multiple times"
            ),
            "",
        ),
    )
)
_LEAVE = frozenset({"stop", "stopp", "stopall", "unsubscribe", "unsubscribed", "optout"})
_MAY_LEAVE = frozenset({"end", "quit", "cancel", "revoke"})
_COURTESY = frozenset(
    [
        "thanks",
        "thank",
        "thankyou",
        "you",
        "thx",
        "ty",
        "so",
        "much",
        "very",
        "a",
        "lot",
        "many",
        "hi",
        "hello",
        "hey",
        "sir",
        "madam",
        "maam",
        "sorry",
        "regards",
        "best",
        "kind",
        "cheers",
        "and",
        "have",
        "good",
        "great",
        "nice",
        "day",
        "evening",
        "god",
        "bless",
    ]
)
_BESIDE = frozenset(
    [
        "yes",
        "no",
        "ok",
        "okay",
        "yeah",
        "yep",
        "nope",
        "but",
        "me",
        "it",
        "this",
        "that",
        "reply",
        "contact",
        "messages",
        "i",
        "said",
        "bye",
        "enough",
        "today",
        "list",
        "from",
    ]
)


def _meaning(text: str) -> str:
    """Lower case, one word per meaning, courtesies of request dropped; commas stay as words."""
    plain = " ".join(re.findall(r"[\w-]+|,", re.sub(r"'", "", text.lower()).replace("_", " ")))
    for pattern, one in _SAME:
        plain = pattern.sub(one, plain)
    return " ".join(plain.split()).strip(" ,")


def _is_alone(text: str, word: frozenset[str], beside: frozenset[str]) -> bool:
    words = {part for part in _meaning(text).split() if part.strip(",-")}
    return bool(words & word) and words <= word | beside


def _is_leaving(text: str) -> bool:
    return (
        _is_alone(text, _LEAVE, _MAY_LEAVE | _COURTESY | _BESIDE)
        or _is_alone(text, _MAY_LEAVE, _LEAVE | _COURTESY)
        or _is_alone(text, frozenset({"remove"}), _COURTESY | {"me"})
    )


# The word alone, with courtesies, a greeting above and a signature below

_GREETING = re.compile(
    r"(?i)\A(?:hi|hello|hey|dear|good (?:morning|day|evening|afternoon))\b(?: [\w.'-]+){0,3}\s*[,.!:\n]+"
)
_CLOSING = re.compile(
    r"(?i)(?:(?:best|kind|warm) )?(?:regards|thanks|thank you|sincerely|cheers|best|yours|respectfully|-+)\W*\Z"
)
_OF_A_NAME = re.compile(
    r"[A-Z][\w'.&-]*|of|and|the|for|de|van|von|&|[|/-]+|\+?[\d().-]+|\S+@\S+|\S+\.\w{2,}\S*|#\S+|\W+"
)


def _whole_message(own: str) -> Request | None:
    body = _GREETING.sub("", own)
    for end in reversed([m.end() for m in re.finditer(r"[.!,;:\n\u2013\u2014]+|\s-+\s|\Z", body)][:12]):
        if _is_leaving(body[:end]) and _is_signature(body[end:], same_line="\n" not in body[max(end - 2, 0) : end]):
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


# Plain requests, on the meaning of a sentence

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


def _plain_request(own: str) -> Request | None:
    sentences = [_meaning(s) for s in re.split(r"[.!?;:\u2026]+(?=\s|$)|\n\s*\n|[\"\u201c\u201d()\[\]{}]", own)]
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


# What is left: the word in a clause of its own, or talk of opting out

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
    return "".join(part for part in _parts(own) if not _TO_A_MODEL.search(part))


def _word_alone_in_a_clause(own: str) -> Request | None:
    """ "Not selling. Stop." is a request; with anything inviting beside it, a person decides."""
    said = _without_orders(own)
    clauses = [c for c in re.split(r"[.!?,;:\n\u2013\u2014]+|\s-+\s", said) if c.strip()]
    if any(_is_alone(clause, _LEAVE, _COURTESY | _BESIDE) for clause in clauses):
        open_to_more = _INVITES.search(_DECLINES.sub("", said)) or len(said.split()) > 40
        return Request(not open_to_more, False, "an opt-out word stands alone in the message")
    if any(_is_alone(clause, _MAY_LEAVE, _COURTESY) for clause in clauses):
        return Request(False, False, "a word that may mean opt-out stands alone in the message")
    return None


def _vocabulary(own: str) -> Request | None:
    said = _NEVER_MIND.sub("", _meaning(_without_orders(own)))
    if _VOCABULARY.search(said):
        return Request(False, False, "speaks of opting out without plainly asking for it")
    opens = _OPENS.match(own) and len(own.split()) <= 5
    return Request(False, False, "opens with an opt-out word") if opens else None
