"""What a mail system's report says: which recipient failed, and whether the address itself is to blame.

Reads text only, so a stored reply is enough: RFC 3464 fields, RFC 5965 complaints, RFC 8098 receipts, and the prose
of systems that send none of them. "Permanent" is not "bad address": a full mailbox or a refused sender says nothing
about it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from handlers.addresses import normal_address

LONGEST = 60_000  # characters looked at
MOST = 100  # recipients of one report
ORIGINAL = "----- Original message headers -----"  # parse_mail puts it between a report and what it reports on

Kind = Literal["bounce", "delivery_notice", "complaint", "opt_out"]


@dataclass(frozen=True, slots=True)
class Letter:
    """The parts of a mail that a report is read from; `headers` have lower-case names, `ours` are never suppressed."""

    sender: str
    subject: str
    text: str
    headers: Mapping[str, str]
    ours: frozenset[str]


@dataclass(frozen=True, slots=True)
class Report:
    """`failed` are the recipients that it names, `bad` those of them that must not be written to again."""

    kind: Kind
    reason: str
    failed: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """One recipient's failure: the addresses that it is known by, and why."""

    addresses: tuple[str, ...]
    cause: str
    code: str


def read_report(letter: Letter) -> Report | None:
    """The report that this mail is, or None for a letter of a person or of anything else."""
    text, original = _split(letter.text[:LONGEST])
    groups = list(_field_groups(text))
    for found in (
        _complaint(letter, groups, original),
        _receipt(letter, groups),
        _fields(letter, groups, text, original),
    ):
        if found:
            return found
    return _prose(letter, text, original)


# Why it failed

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
_HARD_REPLY = re.compile(r"(?<![\d.:])5[05]\d(?!\d)")
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
    if code.startswith("4") or (not code and _SOFT_REPLY.search(plain) and not _HARD_REPLY.search(plain)):
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


# Fields

_EMAIL = re.compile(r"[^\s<>()\[\],;:\"'@]+@[^\s<>()\[\],;:\"'@]+\.[^\s<>()\[\],;:\"'@]*\w")
_SPLIT = re.compile(
    r"(?im)^[ \t]*(?:-{2,}[ \w]*(?:original message|this is a copy of|copy of the (?:original )?message"
    r"|unsent message|returned message|message header|undelivered message|"
    r"body of message|below this line is a copy|message text follows|forwarded message)[^\n]*"
    r"|(?:below is a copy of the )?original message(?: headers| follows|:)[^\n]*|message headers? follows?\W*$|"
    r"received:\s*from [^\n]*|return-path: <[^\n]*)$"
)
_PERSON_PREFIX = re.compile(r"(?i)\s*(?:re|fwd?|aw|wg|tr|sv)\s*:")


def _split(text: str) -> tuple[str, str]:
    """The report, and the message that it reports on. What parse_mail marked is certain; else by the usual lines."""
    report, _, original = text.partition(ORIGINAL)
    prose = _SPLIT.search(report)
    if not prose:
        return report, original
    fields = re.compile(r"(?im)^final-recipient:").search(report, prose.start())
    start = max(prose.start(), report.rfind("\n\n", 0, fields.start())) if fields else len(report)
    return f"{report[: prose.start()]}\n\n{report[start:]}", original or report[prose.start() :]


def _field_groups(text: str) -> Iterator[dict[str, str]]:
    for block in re.split(r"\n[ \t]*\n", re.sub(r"\n[ \t]+(?=\S)", " ", text)):
        pairs = re.findall(r"(?m)^([A-Za-z][A-Za-z0-9-]{1,40}):[ \t]*(.*)$", block)
        if pairs:
            yield {name.lower(): value.strip() for name, value in reversed(pairs)}


def _addresses(values: Iterable[str], ours: frozenset[str]) -> tuple[str, ...]:
    found = (normal_address(match.rstrip("."), "email") for value in values for match in _EMAIL.findall(value))
    return tuple(dict.fromkeys(a for a in found if a and a not in ours))


def _complaint(letter: Letter, groups: list[dict[str, str]], original: str) -> Report | None:
    fields = next((g for g in groups if "feedback-type" in g), {})
    kind = fields.get("feedback-type", "").lower()
    if not kind and not re.match(r"(?i)\s*complaint about message from", letter.subject):
        return None
    if kind in {"not-spam", "auth-failure", "dmarc"}:
        return Report("delivery_notice", f"feedback report of type {kind}")
    told = re.findall(r"(?im)^(?:original-rcpt-to|removal-recipient|x-hmxmroriginalrecipient):(.*)$", letter.text)
    bad = _addresses(told, letter.ours) or _to_of(original, letter.ours)
    if kind.startswith("opt-out"):
        return Report("opt_out", "feedback report: opt-out", bad, bad)
    return Report("complaint", f"feedback report: {kind or 'complaint'}", bad, bad)


def _to_of(original: str, ours: frozenset[str]) -> tuple[str, ...]:
    to = next((g["to"] for g in _field_groups(original.lstrip()) if "to" in g), "")
    found = _addresses([to], ours)
    return found if len(found) == 1 else ()


_RECEIPT_SUBJECT = re.compile(
    r"(?i)\s*(?:read|not read|gelesen|lu|le[ií]do|letto|return receipt|read receipt|disposition notification"
    r"|delivered|relayed)\s*[:(]"
)


def _receipt(letter: Letter, groups: list[dict[str, str]]) -> Report | None:
    typed = "disposition-notification" in letter.headers.get("content-type", "").lower()
    if typed or any("disposition" in g and ("final-recipient" in g or "original-message-id" in g) for g in groups):
        return Report("delivery_notice", "read receipt")
    if re.match(r"(?i)\s*report domain:", letter.subject):
        return Report("delivery_notice", "aggregate report")
    return None


def _fields(letter: Letter, groups: list[dict[str, str]], text: str, original: str) -> Report | None:
    told = [
        g for g in groups if ("final-recipient" in g or "original-recipient" in g) and ("action" in g or "status" in g)
    ]
    typed = "multipart/report" in letter.headers.get("content-type", "").lower()
    if not told or (_PERSON_PREFIX.match(letter.subject) and not typed):
        return None
    failed = [g for g in told if _has_failed(g, letter.subject)]
    if not failed:
        return Report("delivery_notice", f"delivery {told[0].get('action', 'reported').lower()[:40]}")
    only, prose = len(failed) == 1, _segments(text, letter)
    return _bounce(
        [_failure_in(g, letter, prose, text if only else "", original if only else "") for g in failed[:MOST]]
    )


def _has_failed(group: dict[str, str], subject: str) -> bool:
    action, status = group.get("action", "").lower(), group.get("status", "")
    if action.startswith(("delayed", "delivered", "relayed", "expanded", "deliverable", "success")):
        return False
    return bool(action) or status.startswith("5") or not (status.startswith("2") or _DELAY.search(subject))


def _failure_in(group: dict[str, str], letter: Letter, prose: dict[str, str], text: str, original: str) -> Failure:
    named = _addresses([group.get(name, "") for name in ("final-recipient", "original-recipient")], letter.ours)
    addresses = named or _addresses([group.get("x-actual-recipient", "")], letter.ours) or _to_of(original, letter.ours)
    status, words = group.get("status", ""), group.get("diagnostic-code", "")
    cause, code = cause_of(status, words)
    if cause == "reason not told" or not words:
        told = next((prose[a] for a in addresses if a in prose), _without_fields(text))
        cause, code = cause_of(status, f"{words} {told}") if cause != ADDRESS else (cause, code)
    return Failure(addresses, cause, code)


def _without_fields(text: str) -> str:
    return re.sub(r"(?m)^[A-Za-z][A-Za-z0-9-]{1,40}:.*$", "", text)


def _bounce(failures: list[Failure]) -> Report:
    failed = dict.fromkeys(a for f in failures for a in f.addresses)
    bad = dict.fromkeys(a for f in failures if f.cause == ADDRESS for a in f.addresses)
    reasons = dict.fromkeys(f"{f.cause} ({f.code})" if f.code else f.cause for f in failures)
    return Report("bounce", "delivery failed: " + ", ".join(list(reasons)[:5]), tuple(failed), tuple(bad))


# Prose

_DAEMON = re.compile(
    r"(?i)^\W*@|^\W*(?:mailer-?daemon|post[-_]?master|mail-?daemon|mdaemon|mail-?delivery\S*|mail-system|mmdf)@"
    r"|mailer-daemon"
    r"|mail delivery|system administrator|mail (?:system|administrator)|postmaster"
)
_MACHINE = re.compile(r"(?i)^\W*(?:bounces?\S*|root|admin\w*|system|uucp|smtp|no-?reply|delivery\S*|mail)@")
_FAILURE_SUBJECT = re.compile(
    r"(?i)undeliver|non-?deliver|not be delivered|(?:delivery|send\w*|transmission).{0,30}(?:fail|error|problem"
    r"|incomplete|status|notif|report)|fail\w*.{0,20}(?:deliver|notice|send)|return(?:ed|ing).{0,20}(?:mail"
    r"|message|to sender)"
    r"|(?:mail|message).{0,30}(?:return|not delivered|bounced|rejected|error|fail|undeliver)|mail status"
    r"|message status|user unknown|unzustellbar|nicht zugestellt|zustellung|[uü]bermittlungsstatus|non remis"
    r"|échec|non-remise|no se puede entregar|no entregado|mancato recapito|mislukt|onbestelbaar|n[aã]o entregue"
    r"|delayed|could ?n[o']t (?:be )?(?:sent|send|deliver)"
)
_FAILURE_TEXT = re.compile(
    r"(?i)(?:could|can|was|were|been|be|has|is|did)(?: ?not|n't)(?: be| been| yet been)? (?:deliver|reach|sent"
    r"|complet)|unable to (?:deliver|send|complete)|(?:wasn't|not) able to deliver|undeliver"
    r"|deliver\w* (?:\w+ ){0,5}(?:fail|error|abort|impossible)|fail\w* (?:\w+ ){0,4}deliver"
    r"|permanent(?:ly)? (?:\w+ )?(?:error|fail)|fatal error|return(?:ed|ing) (?:\w+ ){0,4}(?:sender|message"
    r"|mail)"
    r"|reject|not deliver|error (?:occurred|deliver|while)|did not reach|non-?deliver|did not like"
    r"|(?<!\d)5[05]\d[ -#]+5\.\d\.\d|(?<!\d)5[05]\d [a-z<]|user unknown|unknown user|no such user"
    r"|does not exist|mailbox|bounced|nicht zugestellt|nicht zustell|n'a pas pu|no se pudo|kon niet"
    r"|unknown (?:address|recipient)|error"
)
_PLAIN_FAILURE = re.compile(r"(?i)(?:could not|cannot|couldn't|can't) be delivered to\b|(?<!\d)5[05]\d[ -]5\.\d\.\d")
_DELAY = re.compile(
    r"(?i)\(delay\)|\bdelayed\b|delivery incomplete|warning: (?:message|could not send|mail)|(?:for past"
    r"|still being retried|has not yet been|will (?:continue to|keep) (?:try|retry)|will retry|will be retried"
    r"|attempts will continue|verz[öo]gert)|warning message only|temporary problem delivering"
)
_GIVES_UP = re.compile(
    r"(?i)giv(?:en|ing) up|no longer|will not be (?:retried|attempted)|permanent|too long"
    r"|retry time(?:out)? exceeded|final"
)
_SUCCESS = re.compile(
    r"(?i)(?:successful(?:ly)?\W.{0,30}deliver|deliver\w*.{0,30}success|(?:was|been"
    r"|is) (?:successfully )?(?:delivered|relayed) (?:to|by|success)|delivery status notification \((?:success"
    r"|relay)|^delivered:|^relayed:)"
)
_LINE_OF = re.compile(
    (
        r"^[\s>*|-]*(?:(?:to|recipients?|failed recipients?|address|user|recipient address"
        r"|e-?mail)\s*:\s*)?(?:[^<@:]{0,40}<)?(?:mailto:)?[\"'(<]*("
    )
    + _EMAIL.pattern
    + ")"
)
_ROLE = re.compile(r"(?i)(?:mailer-?daemon|postmaster|mail-?daemon|mdaemon|abuse|hostmaster)@")
_CONTACT = re.compile(
    r"(?i)\b(?:contact|assistance|help ?desk|support|questions|please (?:send|e-?mail|forward|write)|from:"
    r"|message-id|reporting-mta|sender|x-)\b"
)


def _prose(letter: Letter, text: str, original: str) -> Report | None:
    if not _is_about_delivery(letter, text):
        return None
    if _is_notice(letter.subject, text):
        return Report("delivery_notice", "delivered, delayed or relayed")
    segments = _segments(text, letter)
    listed = _addresses([letter.headers.get("x-failed-recipients", "")], letter.ours)
    failed = listed or tuple(segments) or _inline(text, letter) or _to_of(original, letter.ours)
    whole = text if len(failed) <= 1 else ""
    return _bounce(
        [_judged(address, segments.get(address, text), whole) for address in failed[:MOST]]
        or [Failure((), *cause_of("", text))]
    )


def _is_about_delivery(letter: Letter, text: str) -> bool:
    typed = "report-type=delivery-status" in letter.headers.get("content-type", "").lower().replace('"', "")
    if typed or letter.headers.get("x-failed-recipients"):
        return True
    if _PERSON_PREFIX.match(letter.subject) and not (_DAEMON.search(letter.sender) and _HARD_REPLY.search(text)):
        return False
    subject, words = _FAILURE_SUBJECT.search(letter.subject), _FAILURE_TEXT.search(text)
    if _DAEMON.search(letter.sender):
        return bool(
            words
            or subject
            or _SUCCESS.search(f"{letter.subject}\n{text}")
            or _DELAY.search(f"{letter.subject}\n{text}")
        )
    by_machine = _MACHINE.search(letter.sender) or letter.headers.get("return-path", "").strip() == "<>"
    if by_machine and _PLAIN_FAILURE.search(text):
        return True
    return bool(subject and words and (by_machine or _inline(text, letter)))


def _is_notice(subject: str, text: str) -> bool:
    if _DELAY.search(subject) or _SUCCESS.search(subject):
        return True
    failed = _FAILURE_TEXT.search(text)
    return bool((_DELAY.search(text) and not _GIVES_UP.search(text)) or (_SUCCESS.search(text) and not failed))


def _segments(text: str, letter: Letter) -> dict[str, str]:
    """What is said of each recipient: from a line that starts with the address to the next such line."""
    told: dict[str, str] = {}
    current = ""
    for line in text.split("\n"):
        starts = _LINE_OF.match(line)
        address = _recipient(starts.group(1), line, letter) if starts else None
        current = address or current
        if current:
            told[current] = told.get(current, "") + line + "\n"
    return told


def _recipient(found: str, line: str, letter: Letter) -> str | None:
    address = normal_address(found.rstrip("."), "email")
    if not address or address in letter.ours or _ROLE.match(address) or address in letter.sender.lower():
        return None
    return None if _CONTACT.search(line.replace(found, "")) else address


def _inline(text: str, letter: Letter) -> tuple[str, ...]:
    """The first recipient named within a line: more would mix in whoever else the text mentions."""
    for line in text.split("\n"):
        for found in _EMAIL.findall(line):
            if address := _recipient(found, line, letter):
                return (address,)
    return ()


def _judged(address: str, segment: str, whole: str) -> Failure:
    cause, code = cause_of("", segment)
    if cause == "reason not told" and whole:
        cause, code = cause_of("", whole)
    return Failure((address,), cause, code)
