"""Delivery reports: whose delivery failed, and who may still be written to. All reports here are made up."""

from base64 import b64encode
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.delivery_reports import ADDRESS, cause_of
from handlers.reply_rules import InboundReply, Verdict, classify_by_rules, parse_mail

US = "sales@ours.example"
THEM = "bob@lead.example"


def dsn(
    status: str,
    diagnostic: str = "",
    *,
    action: str = "failed",
    prose: str = "This is the mail system. Your message could not be delivered.",
    to: str = THEM,
    subject: str = "Undelivered Mail Returned to Sender",
    extra: str = "",
) -> bytes:
    """An RFC 3464 report as most systems send it."""
    fields = f"Final-Recipient: rfc822; {to}\n{extra}Action: {action}\nStatus: {status}\n"
    fields += f"Diagnostic-Code: smtp; {diagnostic}\n" if diagnostic else ""
    return (
        f"Return-Path: <>\nFrom: Mail Delivery System <MAILER-DAEMON@mx.relay.example>\nTo: {US}\nSubject: {subject}\n"
        'MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary="B"\n\n'
        f"--B\nContent-Type: text/plain\n\n{prose}\n\n"
        f"--B\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.relay.example\n\n{fields}\n"
        f"--B\nContent-Type: message/rfc822\n\nFrom: {US}\nTo: {to}\nSubject: Your house\n\nHi Bob\n\n--B--\n"
    ).encode()


def prose(text: str, subject: str, sender: str = "MAILER-DAEMON@mx.relay.example", extra: str = "") -> bytes:
    """A report that only a person is meant to read."""
    return f"From: {sender}\nTo: {US}\n{extra}Subject: {subject}\nContent-Type: text/plain\n\n{text}\n".encode()


def arf(fields: str, original: str = f"From: {US}\nTo: {THEM}\n") -> bytes:
    return (
        f"From: fbl@provider.example\nTo: {US}\nSubject: Abuse report\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="B"\n\n'
        "--B\nContent-Type: text/plain\n\nThis is an email abuse report.\n\n"
        f"--B\nContent-Type: message/feedback-report\n\n{fields}\nUser-Agent: Loop/1.0\nVersion: 1\n\n"
        f"--B\nContent-Type: message/rfc822\n\n{original}Subject: Your house\n\nHi\n\n--B--\n"
    ).encode()


def judge(raw: bytes) -> Verdict:
    verdict = classify_by_rules(parse_mail(raw))
    assert verdict is not None
    return verdict


class Case(NamedTuple):
    name: str
    raw: bytes
    category: str
    failed: tuple[str, ...]
    suppress: tuple[str, ...]


def hard(name: str, raw: bytes, *who: str) -> Case:
    return Case(name, raw, "bounce", who or (THEM,), who or (THEM,))


def soft(name: str, raw: bytes, *who: str) -> Case:
    return Case(name, raw, "bounce", who or (THEM,), ())


def notice(name: str, raw: bytes) -> Case:
    return Case(name, raw, "delivery_notice", (), ())


QMAIL = (
    "Hi. This is the qmail-send program at mx.relay.example.\nI'm afraid I wasn't able to deliver your message to "
    "the following addresses.\nThis is a permanent error; I've given up. Sorry it didn't work out.\n\n"
)
EXIM = (
    "This message was created automatically by mail delivery software.\n\nA message that you sent could not be "
    "delivered to one or more of its\nrecipients. This is a permanent error. The following address(es) failed:\n\n"
)
SENDMAIL = "   ----- The following addresses had permanent fatal errors -----\n"
COPY = (
    f"\n--- Below this line is a copy of the message.\n\nReturn-Path: <{US}>\nFrom: {US}\nTo: Jane "
    f"<jane@other.example>\n"
)
FAILURE = "Delivery Status Notification (Failure)"
RETURNED = "Mail delivery failed: returning message to sender"

CASES = (
    # The address is to blame
    hard("5.1.1", dsn("5.1.1", "550 5.1.1 <bob@lead.example>: Recipient address rejected: User unknown")),
    hard("5.1.1 without words", dsn("5.1.1")),
    hard("5.1.2 unknown domain", dsn("5.1.2", "550 5.1.2 Bad destination system address")),
    hard("5.1.3 malformed", dsn("5.1.3", "553 5.1.3 Bad recipient address syntax")),
    hard("5.1.6 moved", dsn("5.1.6", "551 5.1.6 The recipient has moved")),
    hard("5.1.10 null MX", dsn("5.1.10", "556 5.1.10 Recipient address has null MX")),
    hard(
        "5.1.10 not in the directory",
        dsn("5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"),
    ),
    hard("5.1.0, words tell", dsn("5.1.0", "550 5.1.0 Address rejected: no such mailbox")),
    hard("5.0.0, code in the words", dsn("5.0.0", "550 5.1.1 unknown")),
    hard("5.0.0, words tell", dsn("5.0.0", "550 No such user here")),
    hard("5.2.0, words tell", dsn("5.2.0", "550 Unknown user bob@lead.example")),
    hard(
        "5.3.0 of a mailer, words tell", dsn("5.3.0", "553 5.3.0 <bob@lead.example>... User unknown, not local address")
    ),
    hard("5.5.0, unavailable", dsn("5.5.0", "550 5.5.0 Requested action not taken: mailbox unavailable")),
    hard("does not exist", dsn("5.0.0", "550 The email account that you tried to reach does not exist.")),
    hard(
        "no such account, with a policy address",
        dsn("5.1.1", "550 5.1.1 No such user. See https://help.example/policy/spam-block"),
    ),
    hard("host named after its filter", dsn("5.1.1", "host mx.antispam-policy.example said: 550 5.1.1 User unknown")),
    hard("words only in the prose", dsn("5.0.0", prose="<bob@lead.example>: user unknown")),
    hard("no action", dsn("5.1.1", action="")),
    hard("action in capitals", dsn("5.1.1", action="FAILED")),
    hard("recipient in brackets", dsn("5.1.1", to="<Bob@Lead.Example>"), THEM),
    hard("folded diagnostic", dsn("5.0.0", "550\n    No such\n    user")),
    hard(
        "a forward failed: both spellings",
        dsn("5.1.1", extra="Original-Recipient: rfc822;rob@lead.example\n"),
        THEM,
        "rob@lead.example",
    ),
    hard(
        "recipient without a domain: taken from the message",
        dsn("5.1.1").replace(b"rfc822; bob@lead.example\n", b"LOCAL; bob\n"),
    ),
    hard(
        "qmail",
        prose(
            f"{QMAIL}<{THEM}>:\n192.0.2.1 does not like recipient.\nRemote host said: 550 5.1.1 no such user\n{COPY}",
            "failure notice",
        ),
    ),
    hard(
        "qmail, no mailbox",
        prose(f"{QMAIL}<{THEM}>:\nSorry, no mailbox here by that name. (#5.1.1)\n{COPY}", "failure notice"),
    ),
    hard(
        "Exim",
        prose(
            f"{EXIM}  {THEM}\n    Unrouteable address\n\n------ This is a copy of the message. ------\nTo: x@y.example",
            RETURNED,
        ),
    ),
    hard(
        "Exim with header",
        prose(
            f"{EXIM}  {THEM}\n    host mx.lead.example: 550 User unknown",
            RETURNED,
            extra=f"X-Failed-Recipients: {THEM}\n",
        ),
    ),
    hard(
        "Sendmail",
        prose(
            (
                f"{SENDMAIL}<{THEM}>\n    (reason: 550 5.1.1 <{THEM}>... User unknown)\n\n   ----- Transcript of "
                f"session follows -----\n... while talking to mx.lead.example.:\n>>> RCPT To:<{THEM}>\n<<< 550 "
                f"5.1.1 <{THEM}>... User unknown"
            ),
            "Returned mail: see transcript for details",
        ),
    ),
    hard(
        "Exchange 2003",
        prose(
            (
                f"Your message did not reach some or all of the intended recipients.\n\n      Subject: Your house\n"
                f"      Sent: 1/5/2026 9:00 AM\n\nThe following recipient(s) could not be reached:\n\n      {THEM} "
                f"on 1/5/2026 9:01 AM\n            The e-mail account does not exist at the organization this "
                f"message was sent to.\n            <mx.lead.example #5.1.1>"
            ),
            "Undeliverable: Your house",
            "System Administrator <postmaster@lead.example>",
        ),
    ),
    hard(
        "Exchange 2010",
        prose(
            (
                f"Delivery has failed to these recipients or groups:\n\nBob<mailto:{THEM}>\nThe e-mail address you "
                f"entered couldn't be found.\n\nDiagnostic information for administrators:\n\nGenerating server: "
                f"ex.lead.example\n\n{THEM}\n#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##\n\nOriginal "
                f"message headers:\n\nReceived: from a by b\nTo: other@x.example"
            ),
            "Undeliverable: Your house",
            "Microsoft Outlook <postmaster@lead.example>",
        ),
    ),
    hard(
        "Domino",
        prose(
            (
                f"Your message\n\n  Subject: Your house\n\nwas not delivered to:\n\n  {THEM}\n\nbecause:\n\n  User "
                f"bob ({THEM}) not listed in public Name & Address Book"
            ),
            f"DELIVERY FAILURE: User bob ({THEM}) not listed",
            "postmaster@lead.example",
        ),
    ),
    hard(
        "address within a sentence",
        prose(
            f"Your message to {THEM} couldn't be delivered.\nbob wasn't found at lead.example.",
            "Undeliverable: Your house",
            "postmaster@lead.example",
        ),
    ),
    hard(
        "mail agent in one line",
        prose(
            (
                f"There was an error delivering your mail to <{THEM}>.\nmx.lead.example [192.0.2.1] did not like "
                f"our RCPT TO:\n550 5.1.1 unknown user\n\nMessage headers follow.\n\nFrom: {US}"
            ),
            "Mail delivery failed",
            "MAILER-DAEMON <>",
        ),
    ),
    hard(
        "another name for the daemon",
        prose(
            (
                f"The following message to <{THEM}> was undeliverable.\nThe reason for the problem:\n5.1.0 - "
                f"Unknown address error 550-'No such mailbox'"
            ),
            "Delivery Status Notification (Failure)",
            "Mail Delivery System <mds@relay.example>",
        ),
    ),
    hard(
        "German",
        prose(
            f"Ihre Nachricht konnte nicht zugestellt werden.\n\n{THEM}\n    Empfänger unbekannt",
            "Unzustellbar: Ihr Haus",
            "postmaster@lead.example",
        ),
    ),
    hard(
        "only the message names the recipient",
        prose(
            f"Delivery failed: user unknown.\n\n--- Original message ---\nFrom: {US}\nTo: {THEM}\n",
            "Returned mail: User unknown",
        ),
    ),
    hard("CR line ends", dsn("5.1.1").replace(b"\n", b"\r")),
    hard("CRLF line ends", dsn("5.1.1").replace(b"\n", b"\r\n")),
    hard(
        "a helpdesk address in the text",
        prose(f"<{THEM}>: user unknown\nFor help contact support@relay.example", "failure notice"),
    ),
    hard(
        "a gateway that answers Re:",
        prose(
            (
                f"Error: Invalid user address\n\nError message below:\n550 - Requested action not taken: no such "
                f"user here\n\nMAIL FROM: {US}\nRCPT TO: {THEM}"
            ),
            "Re: Your house",
            "post_master@gateway.example",
        ),
    ),
    hard(
        "a report without its parts",
        prose(
            (
                f"Recipient address: {THEM}\nReason: rejected\n\nAction: failed\nStatus: 5.1.1\n"
                f"Original-recipient: rfc822;{THEM}\nFinal-recipient: rfc822;{THEM}\n\nReturn-path: {US}\nTo: "
                f"x@y.example"
            ),
            "Delivery has failed",
        ).replace(b"text/plain", b"multipart/report; report-type=delivery-status; boundary=none"),
    ),
    hard(
        "user id",
        prose(
            f"Invalid final delivery userid: {THEM}\n\nOriginal message follows.\n\nTo: <x@y.example>",
            "Undeliverable Mail",
            '"Postmaster" <postmaster@lead.example>',
        ),
    ),
    hard(
        "no domain",
        prose(
            (
                f"    An error has occurred while attempting to deliver a message for\n    the following list of "
                f"recipients:\n\n{THEM}: Domain does not exist\n\n    Below is a copy of the original message:\n\n"
                f"To: x@y.example"
            ),
            "Delivery status notification: error",
        ),
    ),
    hard(
        "the cause comes first",
        prose(
            (
                f"Could not be delivered because of\n\n550 5.1.1 User unknown\n\nThe following recipients were "
                f"affected:\n    {THEM}\n\nOriginal Sender: <x@y.example>"
            ),
            "Undeliverable Mail",
            "postmaster@lead.example",
        ),
    ),
    hard(
        "in a transcript",
        prose(
            (
                f"   ----- Transcript of session follows -----\n550 lead.example (smtp)... 550 Host unknown\n554 "
                f"<{THEM}>... 550 Host unknown\n\n   ----- Unsent message follows -----\nTo: x@y.example"
            ),
            "Returned mail: Host unknown",
        ),
    ),
    # Permanent, but the address is fine
    soft(
        "a report from no-reply",
        prose(
            f"Your mail could not be delivered to: <{THEM}>\nAs their mailbox is full.",
            "\u901a\u77e5",
            "no-reply@relay.example",
        ),
    ),
    soft("5.2.2 full", dsn("5.2.2", "552 5.2.2 Mailbox full")),
    soft("5.1.1 that is full", dsn("5.1.1", "550 5.2.2 <bob@lead.example>: user is over quota")),
    soft("5.1.1 said, spam meant", dsn("5.1.1", "550 5.1.1 Message rejected as spam")),
    soft("5.0.0 full", dsn("5.0.0", "552 Quota exceeded for this recipient")),
    soft("5.2.1 disabled", dsn("5.2.1", "550 5.2.1 The account is disabled")),
    soft("5.2.3 too big for the mailbox", dsn("5.2.3", "552 5.2.3 Message exceeds the limit of the mailbox")),
    soft("5.3.4 too big", dsn("5.3.4", "552 5.3.4 Message size exceeds fixed limit")),
    soft("5.4.1 routing", dsn("5.4.1", "550 5.4.1 Recipient address rejected: Access denied")),
    soft("5.4.4 no host", dsn("5.4.4", "unable to look up host lead.example")),
    soft("5.4.6 loop", dsn("5.4.6", "554 5.4.6 Too many hops")),
    soft("5.4.7 too long", dsn("5.4.7", "554 5.4.7 delivery time expired")),
    soft("5.6.0 content", dsn("5.6.0", "554 5.6.0 Malformed message")),
    soft("5.7.1 policy", dsn("5.7.1", "550 5.7.1 Message rejected due to local policy")),
    soft("5.7.1 bare", dsn("5.7.1")),
    soft(
        "5.7.1 block list",
        dsn("5.7.1", "554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.list.example"),
    ),
    soft(
        "5.7.26 unauthenticated",
        dsn("5.7.26", "550-5.7.26 Unauthenticated email is not accepted due to domain's DMARC policy"),
    ),
    soft("5.7.0 reputation", dsn("5.0.0", "550 Your server has a poor reputation")),
    soft("5.1.8 is about us", dsn("5.1.8", "550 5.1.8 Access denied, bad outbound sender")),
    soft("5.1.7 is about us", dsn("5.1.7", "553 5.1.7 Sender address syntax error")),
    soft(
        "5.1.90 is our daily limit",
        dsn("5.1.90", "550 5.1.90 Your message can't be sent because you've reached your daily limit"),
    ),
    soft("5.1.0 sender refused", dsn("5.1.0", "550 5.1.0 Sender rejected")),
    soft("5.0.0, nothing told", dsn("5.0.0")),
    soft("554 refused", dsn("5.0.0", "554 Transaction failed")),
    soft(
        "user unknown or blocked: unsure",
        dsn("5.0.0", "550 Rejected: either the user is unknown or your IP is blocked"),
    ),
    soft("4.4.7 expired", dsn("4.4.7", "delivery temporarily suspended: connect timed out")),
    soft("4.2.2 full, given up", dsn("4.2.2", "452 4.2.2 Mailbox full")),
    soft("4.1.1 is not for good", dsn("4.1.1", "450 4.1.1 Recipient address rejected: unverified address")),
    soft(
        "qmail full",
        prose(f"{QMAIL}<{THEM}>:\nUser is over the quota. You can try again later. (#5.2.2)\n{COPY}", "failure notice"),
    ),
    soft("Exim gave up", prose(f"{EXIM}  {THEM}\n    retry timeout exceeded", RETURNED)),
    soft(
        "Exchange refused",
        prose(
            (
                f"The following recipient(s) cannot be reached:\n\n  {THEM} on 1/5/2026\n    You do not have "
                f"permission to send to this recipient.\n    <ex.lead.example #5.7.1 smtp;550 5.7.1 Access denied>"
            ),
            "Undeliverable: Your house",
            "postmaster@lead.example",
        ),
    ),
    soft(
        "gave up after days",
        prose(f"Could not be delivered to {THEM} for 5 days; giving up.\nConnection timed out", "Delivery Failure"),
    ),
    # Nothing failed
    notice(
        "delayed", dsn("4.4.1", "connect timed out", action="delayed", subject="Delayed Mail (still being retried)")
    ),
    notice("delivered", dsn("2.0.0", action="delivered", subject="Successful Mail Delivery Report")),
    notice("relayed", dsn("2.0.0", action="relayed", subject="Delivery Status Notification (Relay)")),
    notice("expanded", dsn("2.0.0", action="expanded")),
    notice("delayed, permanent in the words", dsn("5.1.1", action="delayed")),
    notice(
        "delay in prose",
        prose(
            (
                f"Your message to {THEM} has been delayed.\nThis is a warning message only, you do not need to "
                f"resend.\nIt will be retried for 2 days."
            ),
            "Warning: message delayed 24 hours",
        ),
    ),
    notice(
        "success in prose",
        prose(f"Your message was successfully delivered to {THEM}.", "Delivery Status Notification (Success)"),
    ),
    notice(
        "incomplete",
        prose(
            f"There was a temporary problem delivering your message to {THEM}. We will retry for 46 more hours.",
            "Delivery Status Notification (Delay)",
        ),
    ),
    notice(
        "read receipt",
        (
            f"From: {THEM}\nTo: {US}\nSubject: Read: Your house\nContent-Type: multipart/report; "
            f"report-type=disposition-notification; boundary=B\n\n--B\nContent-Type: text/plain\n\nYour message "
            f"was read.\n\n--B\nContent-Type: message/disposition-notification\n\nFinal-Recipient: rfc822;{THEM}\n"
            f"Disposition: manual-action/MDN-sent-manually; displayed\n\n--B--\n"
        ).encode(),
    ),
    notice("not spam", arf(f"Feedback-Type: not-spam\nOriginal-Rcpt-To: {THEM}")),
    notice("authentication report", arf("Feedback-Type: auth-failure")),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_report_names_who_failed_and_suppresses_only_bad_addresses(case: Case) -> None:
    verdict = judge(case.raw)
    assert (verdict.category, verdict.suppress) == (case.category, case.suppress), verdict.reason
    assert verdict.failed_recipients == case.failed
    assert verdict.suppress_reason == ("bounce" if case.suppress else None)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_stored_columns_alone_lead_to_the_same_verdict(case: Case) -> None:
    mail = parse_mail(case.raw)
    stored = InboundReply("email", mail.from_address, mail.to_address, mail.subject, mail.body, dict(mail.headers))
    assert classify_by_rules(stored) == judge(case.raw)


def test_each_recipient_of_a_report_is_judged_alone() -> None:
    full = "Final-Recipient: rfc822; full@lead.example\nAction: failed\nStatus: 5.2.2\n"
    late = "Final-Recipient: rfc822; late@lead.example\nAction: delayed\nStatus: 4.4.1\n\n"
    raw = dsn("5.1.1").replace(b"Final-Recipient", f"{full}\n{late}Final-Recipient".encode(), 1)
    verdict = judge(raw)
    assert (verdict.failed_recipients, verdict.suppress) == (("full@lead.example", THEM), (THEM,))


def test_each_recipient_of_a_prose_report_is_judged_alone() -> None:
    told = f"{QMAIL}<full@lead.example>:\nmailbox is full (#5.2.2)\n\n<{THEM}>:\nno such user (#5.1.1)\n{COPY}"
    verdict = judge(prose(told, "failure notice"))
    assert (verdict.failed_recipients, verdict.suppress) == (("full@lead.example", THEM), (THEM,))


def test_the_senders_of_report_and_mail_are_never_suppressed() -> None:
    verdict = judge(prose(f"<MAILER-DAEMON@mx.relay.example>: user unknown\n<{US}>: user unknown", "failure notice"))
    assert (verdict.category, verdict.suppress) == ("bounce", ())


@pytest.mark.parametrize(
    ("raw", "category", "suppress"),
    [
        (arf(f"Feedback-Type: abuse\nOriginal-Rcpt-To: <{THEM}>"), "complaint", (THEM,)),
        (arf("Feedback-Type: abuse"), "complaint", (THEM,)),
        (arf("Feedback-Type: fraud", f"From: {US}\nTo: undisclosed\n"), "complaint", ()),
        (arf(f"Feedback-Type: abuse\nOriginal-Mail-From: <{US}>\nRemoval-Recipient: {THEM}"), "complaint", (THEM,)),
        (
            arf(f"Feedback-Type: abuse\nOriginal-Rcpt-To: {THEM}\nOriginal-Rcpt-To: jo@lead.example"),
            "complaint",
            (THEM, "jo@lead.example"),
        ),
        (arf(f"Feedback-Type: opt-out\nOriginal-Rcpt-To: {THEM}"), "opt_out", (THEM,)),
        (arf(f"Feedback-Type: abuse\nOriginal-Rcpt-To: {US}", f"To: {US}\n"), "complaint", ()),
    ],
)
def test_a_feedback_report_suppresses_who_complained(raw: bytes, category: str, suppress: tuple[str, ...]) -> None:
    verdict = judge(raw)
    assert (verdict.category, verdict.suppress) == (category, suppress)
    assert verdict.suppress_reason == (category if suppress else None)


def test_an_older_kind_of_complaint_names_the_recipient_in_the_message() -> None:
    raw = (
        f"From: staff@provider.example\nTo: {US}\nSubject: complaint about message from 192.0.2.1\n"
        'Content-Type: multipart/mixed; boundary="B"\n\n--B\nContent-Type: message/rfc822\n\n'
        f"X-HmXmrOriginalRecipient: {THEM}\nFrom: {US}\nTo: {THEM}\n\nHi\n--B--\n"
    )
    verdict = judge(raw.encode())
    assert (verdict.category, verdict.suppress) == ("complaint", (THEM,))


def test_encoded_status_parts_are_read() -> None:
    fields = f"Reporting-MTA: dns; x\n\nFinal-Recipient: rfc822; {THEM}\nAction: failed\nStatus: 5.1.1\n"
    status = (
        f"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n"
        f"{b64encode(fields.encode()).decode()}\n"
    )
    head, _, rest = dsn("5.0.0").decode().partition("--B\nContent-Type: message/delivery-status")
    raw = f"{head}--B\n{status}\n--B{rest.partition('--B')[2]}"
    assert judge(raw.encode()).suppress == (THEM,)


@pytest.mark.parametrize(
    ("subject", "sender", "body"),
    [
        ("Re: Undeliverable: Your house", THEM, "The parcel was undeliverable, no such address. Ask jane@x.example"),
        (
            "Fwd: failure notice",
            THEM,
            f"Your mail bounced:\n\nFinal-Recipient: rfc822; {THEM}\nAction: failed\nStatus: 5.1.1",
        ),
        ("Your house", THEM, "I could not reach you, the user unknown to me called. 550 is my price"),
        ("News", "no-reply@shop.example", "Your mailbox deserves better. There was an error in our last mail."),
        ("Rejected", THEM, "I reject the offer."),
    ],
)
def test_people_who_write_of_failures_are_not_reports(subject: str, sender: str, body: str) -> None:
    verdict = classify_by_rules(InboundReply("email", sender, US, subject, body))
    assert verdict is None or verdict.category != "bounce"


@pytest.mark.parametrize("version", ["Exim 4.92.3", "Server 5.0.2195.6713", "192.5.1.1", "mx5.1.1.example"])
def test_versions_and_addresses_are_no_status_codes(version: str) -> None:
    assert cause_of("", f"delivery via {version} was refused")[0] != ADDRESS


@given(st.text(max_size=400), st.text(max_size=60), st.sampled_from(["MAILER-DAEMON@x.example", THEM, ""]))
@settings(deadline=None)
def test_no_report_is_too_strange_to_read(text: str, subject: str, sender: str) -> None:
    classify_by_rules(InboundReply("email", sender, US, subject, text, {"Content-Type": "multipart/report"}))


@given(st.sampled_from([5, 4]), st.integers(0, 9), st.integers(0, 999), st.text(max_size=80))
@settings(deadline=None)
def test_a_code_of_another_class_never_blames_the_address(kind: int, subject: int, detail: int, text: str) -> None:
    cause, code = cause_of(f"{kind}.{subject}.{detail}", text)
    assert cause
    if code == f"{kind}.{subject}.{detail}" and (kind == 4 or subject in {4, 7}) and detail:
        assert cause != ADDRESS
