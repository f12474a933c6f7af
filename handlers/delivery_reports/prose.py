"""Reports of systems that send no fields, only words."""

import re

from handlers.addresses import normal_address
from handlers.delivery_reports.causes import HARD_REPLY, cause_of
from handlers.delivery_reports.parts import EMAIL, PERSON_PREFIX, addresses_in, recipient_of
from handlers.delivery_reports.report import MOST, Failure, Letter, Report, bounce

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
DELAY = re.compile(
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
    + EMAIL.pattern
    + ")"
)
_ROLE = re.compile(r"(?i)(?:mailer-?daemon|postmaster|mail-?daemon|mdaemon|abuse|hostmaster)@")
_CONTACT = re.compile(
    r"(?i)\b(?:contact|assistance|help ?desk|support|questions|please (?:send|e-?mail|forward|write)|from:"
    r"|message-id|reporting-mta|sender|x-)\b"
)


def from_prose(letter: Letter, text: str, original: str) -> Report | None:
    """What a mail says that is about a delivery, or nothing."""
    if not _is_about_delivery(letter, text):
        return None
    if _is_notice(letter.subject, text):
        return Report("delivery_notice", "delivered, delayed or relayed")
    told = segments(text, letter)
    listed = addresses_in([letter.headers.get("x-failed-recipients", "")], letter.ours)
    failed = listed or tuple(told) or _inline(text, letter) or recipient_of(original, letter.ours)
    whole = text if len(failed) <= 1 else ""
    return bounce(
        [_judged(address, told.get(address, text), whole) for address in failed[:MOST]]
        or [Failure((), *cause_of("", text))]
    )


def _is_about_delivery(letter: Letter, text: str) -> bool:
    typed = "report-type=delivery-status" in letter.headers.get("content-type", "").lower().replace('"', "")
    if typed or letter.headers.get("x-failed-recipients"):
        return True
    if PERSON_PREFIX.match(letter.subject) and not (_DAEMON.search(letter.sender) and HARD_REPLY.search(text)):
        return False
    subject, words = _FAILURE_SUBJECT.search(letter.subject), _FAILURE_TEXT.search(text)
    if _DAEMON.search(letter.sender):
        return bool(
            words
            or subject
            or _SUCCESS.search(f"{letter.subject}\n{text}")
            or DELAY.search(f"{letter.subject}\n{text}")
        )
    by_machine = _MACHINE.search(letter.sender) or letter.headers.get("return-path", "").strip() == "<>"
    if by_machine and _PLAIN_FAILURE.search(text):
        return True
    return bool(subject and words and (by_machine or _inline(text, letter)))


def _is_notice(subject: str, text: str) -> bool:
    if DELAY.search(subject) or _SUCCESS.search(subject):
        return True
    failed = _FAILURE_TEXT.search(text)
    return bool((DELAY.search(text) and not _GIVES_UP.search(text)) or (_SUCCESS.search(text) and not failed))


def segments(text: str, letter: Letter) -> dict[str, str]:
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
        for found in EMAIL.findall(line):
            if address := _recipient(found, line, letter):
                return (address,)
    return ()


def _judged(address: str, segment: str, whole: str) -> Failure:
    cause, code = cause_of("", segment)
    if cause == "reason not told" and whole:
        cause, code = cause_of("", whole)
    return Failure((address,), cause, code)
