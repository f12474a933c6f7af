"""One word per meaning, so that the rules stay short."""

import re

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
LEAVE = frozenset({"stop", "stopp", "stopall", "unsubscribe", "unsubscribed", "optout"})
MAY_LEAVE = frozenset({"end", "quit", "cancel", "revoke"})
COURTESY = frozenset({
    "thanks", "thank", "thankyou", "you", "thx", "ty", "so", "much", "very", "a", "lot", "many", "hi", "hello",
    "hey", "sir", "madam", "maam", "sorry", "regards", "best", "kind", "cheers", "and", "have", "good", "great",
    "nice", "day", "evening", "god", "bless"
})  # fmt: skip
BESIDE = frozenset({
    "yes", "no", "ok", "okay", "yeah", "yep", "nope", "but", "me", "it", "this", "that", "reply", "contact",
    "messages", "i", "said", "bye", "enough", "today", "list", "from"
})  # fmt: skip


def meaning(text: str) -> str:
    """Lower case, one word per meaning, courtesies of request dropped; commas stay as words."""
    plain = " ".join(re.findall(r"[\w-]+|,", re.sub(r"'", "", text.lower()).replace("_", " ")))
    for pattern, one in _SAME:
        plain = pattern.sub(one, plain)
    return " ".join(plain.split()).strip(" ,")


def is_alone(text: str, word: frozenset[str], beside: frozenset[str]) -> bool:
    """Whether a text is one of these words, with no others than those that may stand beside it."""
    words = {part for part in meaning(text).split() if part.strip(",-")}
    return bool(words & word) and words <= word | beside


def is_leaving(text: str) -> bool:
    """Whether a text is an opt-out word with courtesies."""
    return (
        is_alone(text, LEAVE, MAY_LEAVE | COURTESY | BESIDE)
        or is_alone(text, MAY_LEAVE, LEAVE | COURTESY)
        or is_alone(text, frozenset({"remove"}), COURTESY | {"me"})
    )
