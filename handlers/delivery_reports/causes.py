"""Why a delivery failed. "Permanent" is not "bad address": a full mailbox or a refused sender says nothing about it."""

import re

ADDRESS = "no such address"
_CAUSES = tuple(
    (cause, re.compile(pattern))
    for cause, pattern in (
        (
            "mailbox full",
            (
                r"(?:mailbox|inbox|account|user|recipient|folder)\W[^.]{0,30}\bfull\b|over ?quota|quota (?:exceeded"
                r"|is full|violation)|exceed\w*[^.]{0,40}"
                r"(?:quota|storage|mailbox)|(?:out of|insufficient|not enough)[^.]{0,20}(?:storage|space)"
                r"|storage (?:limit|allocation)"
                r"|disk (?:quota|full)|\bquota\b|full mailbox|postfach[^.]{0,40}voll|bo[iî]te[^.]{0,30}pleine"
                r"|buz[oó]n[^.]{0,20}lleno"
            ),
        ),
        (
            "message refused for its size",
            (
                r"(?:message|mail|attachment)\W[^.]{0,30}too (?:large|big|long)|(?:message|mail)[^.]{0,20}exceeds"
                r"|size limit|(?:maximum|max) (?:message )?size"
            ),
        ),
        (
            "refused by policy or reputation",
            (
                r"\bspam|block(?:ed|ing|list)|black ?list|\breputation|\bpolic(?:y|ies)\b|\b(?:dmarc|spf|dkim|rbl"
                r"|dnsbl|spamhaus|ptr|helo|ehlo)\b|denied|den(?:y|ies)"
                r"|not (?:authori[sz]ed|permitted|allowed|accept\w* (?:mail|from|e-?mail from)|trusted)"
                r"|unauthenticated|authenticat|\bvirus|banned|listed (?:at|in|by|on) (?!domino|public|the)"
                r"|relay(?:ing|ed)?\b|rate limit|too many (?:messages|connections|recipients|e-?mails|invalid)"
                r"|suspicio|prohibit|throttl|gr[ae]y ?list|unsolicited|\bbulk\b|junk|restrict"
                r"|sender (?:address )?(?:rejected|denied|unknown|verify|domain)|reverse dns|content (?:rejected"
                r"|filter|not)|(?:message|mail) content|phish|malware|limit(?:ed)? exceeded|daily limit"
                r"|sending limit|unusual|abuse|only accepts|moderat|security"
            ),
        ),
        (
            "mailbox disabled",
            (
                r"disabled|inactiv|suspended|deactivated|not active|locked|discontinued|temporarily unavailable"
                r"|account (?:is )?closed|expired account"
            ),
        ),
        (
            "not routed",
            (
                r"time(?:d)? ?out|timeout|connect(?:ion)? (?:refused|timed|reset|lost|failed|to)|\bloop"
                r"|too many hops|hop count|no route|unreachable|retry time|expired"
                r"|not respond|could(?: not|n't) connect|try again later|temporar|name service error|no mx"
                r"|mail for [^ ]+ loops|next hop|dns (?:error|fail|lookup)|not reachable"
            ),
        ),
    )
)
_WHO = (
    r"(?:user(?: ?id)?|mailbox|recipient|account|address|addressee|alias|destination|person|mail ?box|local part"
    r"|name|inbox|empf[äa]nger|benutzer|adresse?|destinat\w+)"
)
_NO_SUCH = re.compile(
    rf"\b(?:unknown|invalid|bad|non-?existent|nonexisting|no such|no|not a (?:valid|known|local)|illegal"
    rf"|incorrect|undeliverable) (?:[a-z-]+ ){{0,2}}?{_WHO}\b"
    rf"|\b{_WHO}s?\b[^.;\n]{{0,80}}?\b(?:(?:does|do|did) ?(?:not|n[o']t)(?: seem to| appear to)? exist|(?:was"
    rf"|is|are|were|could|can)?(?: ?not|n't)(?: be)? (?:found|known|valid|recogni[sz]ed|listed|registered"
    rf"|a valid)"
    r"|(?:is |was )?(?:unknown|invalid|nonexistent|non-existent)|no longer (?:valid|exists?|in use|available"
    r"|on server|at|with)|not exist|unbekannt|existiert nicht|inconnue?|introuvable|n'existe pas"
    r"|no existe|desconocid[oa]|non esiste|sconosciut[oa]|bestaat niet|onbekend|n[ãa]o existe|nicht gefunden"
    r"|no se (?:ha )?encontr)"
    rf"|\b(?:couldn't|could not|cannot|can't|wasn't|isn't) (?:be found|find (?:the |that |this "
    rf"|an? )?(?:e-?mail )?{_WHO}|found)|wasn't found|recipnotfound|recipientnotfound|unrout(?:e)?able address"
    r"|user[ _]?unknown|unknown[ _]?user|mailbox unavailable|mailbox not available|host (?:is )?unknown"
    r"|unknown host|(?:host|domain)(?: name)?(?: \S+)? (?:not found|does(?: not|n't) exist|unknown)"
    r"|no such (?:host|domain)"
    r"|non-?existent (?:domain|host)|null mx|(?:doesn't|does not) have an? \S+ account"
    r"|no mailbox here by that name|has moved|this e-?mail address (?:is )?(?:wrong|not)|not our (?:customer"
    r"|user)|address(?:ee)? (?:rejected|error)"
    r"|not listed in (?:domino|public|the)[^.]{0,30}(?:directory|address book)|no (?:account|person|one"
    r"|mailbox) (?:by|with|of) (?:that|this) name|no such (?:person|account)|unknown (?:or illegal )?alias"
    r"|no longer (?:works|employed)"
)
_CODE = re.compile(r"(?<![\w.])([245]\.[0-7]\.\d{1,3})(?!\d|\.\w)")
_REPLY_AND_CODE = re.compile(r"(?<![\d.])[245]\d\d[ \-#:(]+#?([245]\.[0-7]\.\d{1,3})(?!\d|\.\w)")
_SOFT_REPLY = re.compile(r"(?<![\d.:])4[2-7]\d[ -](?!hours|minutes|days)")
HARD_REPLY = re.compile(r"(?<![\d.:])5[05]\d(?!\d)")
_NAMES = re.compile(r"https?://\S+|\S*@\S+|\b(?:[\w-]+\.)+[a-z]{2,}\b")
_SUBJECTS = {
    "2": "mailbox full",
    "3": "refused by the mail system",
    "4": "not routed",
    "5": "protocol error",
    "6": "content",
}
_OF_ADDRESS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.4", "5.1.6", "5.1.10"})
_OF_SENDER = frozenset({"5.1.7", "5.1.8", "5.1.9", "5.1.90"})
_SAYS_LITTLE = re.compile(r"5\.(?:\d\.0|2\.1|5\.1|[01]\.\d+)\Z|\Z")


def cause_of(status: str, words: str) -> tuple[str, str]:
    """Why a delivery failed, and the enhanced code that says so. Anything but ADDRESS leaves the address alone."""
    code = _code(status, words)
    plain = _NAMES.sub(" ", " ".join(words.lower().replace("\u2019", "'").split()))
    if code.startswith("4") or (not code and _SOFT_REPLY.search(plain) and not HARD_REPLY.search(plain)):
        return "temporary failure", code
    if code in _OF_SENDER:
        return "refused because of the sender", code
    other = next((cause for cause, pattern in _CAUSES if pattern.search(plain)), None)
    if code in _OF_ADDRESS:
        return (other if other and not _NO_SUCH.search(plain) else ADDRESS), code
    if _SAYS_LITTLE.match(code):
        return other or (ADDRESS if _NO_SUCH.search(plain) else "reason not told"), code
    return other or (
        "refused by policy or reputation" if code.startswith("5.7") else _SUBJECTS.get(code[2], "reason not told")
    ), code


def _code(status: str, words: str) -> str:
    """The remote server's own code says more than the status that the reporting server derived from it."""
    remote = _REPLY_AND_CODE.findall(words) or _CODE.findall(words)
    told = [code for code in [*remote, *_CODE.findall(status)] if not code.startswith("2")]
    exact = [code for code in told if not code.endswith(".0")]
    return next(iter(exact or told), "")
