"""Who is told, in which words, and what an SMTP server's answer means."""

from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest

from daemon.answers import Failed, Unknown
from daemon.notify.delivery import letter
from daemon.notify.notice import EVENTS, Notice, Target, address_of, fingerprint, targets
from daemon.notify.texts import Said, Texts
from daemon.settings import NotifySettings, load_settings
from daemon.transport import mail

HOOK, OTHER_HOOK = "https://hooks.slack.test/services/T0/B0/s3cret", "https://hooks.slack.test/services/T1/B1/other"
ADMIN = {
    "ORCHESTRATOR_NOTIFY__ADMIN_EMAIL": "admin@here.test",
    "ORCHESTRATOR_NOTIFY__SLACK_WEBHOOK_URL": HOOK,
    "ORCHESTRATOR_NOTIFY__URLS": "json://one.test/s3cret,json://two.test/s3cret",
}


@pytest.fixture
def admin() -> NotifySettings:
    return load_settings(ADMIN).notify


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return Texts(tmp_path, "http://here.test")


def told(to: Any, settings: NotifySettings, event: str = "run_failed", **facts: Any) -> list[tuple[str, str]]:
    found = targets(Notice.of({"event": event, "to": to, "facts": facts}), settings)
    return [(one.channel, address_of(one, settings) or "") for one in found]


EVERYBODY = [
    ("email", "admin@here.test"), ("slack", HOOK),
    ("apprise", "json://one.test/s3cret"), ("apprise", "json://two.test/s3cret"),
]  # fmt: skip

# -- to whom


@pytest.mark.parametrize("to", [None, {}, {"email": None, "slack": None}, {"email": "", "urls": []}])
def test_without_an_address_the_admin_is_told(to: Any, admin: NotifySettings) -> None:
    assert told(to, admin) == EVERYBODY


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ({"email": "a@b.test"}, [("email", "a@b.test")]),
        ({"email": ["a@b.test", "c@d.test", "a@b.test"]}, [("email", "a@b.test"), ("email", "c@d.test")]),
        ({"email": None, "slack": OTHER_HOOK}, [("slack", OTHER_HOOK)]),
        ({"slack": True}, [("slack", HOOK)]),
        ({"urls": ["json://three.test"]}, [("apprise", "json://three.test")]),
        ({"email": "a@b.test", "slack": True}, [("email", "a@b.test"), ("slack", HOOK)]),
    ],
)
def test_whoever_is_named_is_told_and_nobody_else(to: Any, expected: Any, admin: NotifySettings) -> None:
    assert told(to, admin) == expected


@pytest.mark.parametrize(("severity", "by_mail"), [("HIGH", True), ("MEDIUM", False), ("LOW", False)])
def test_mail_about_an_alert_only_if_it_is_high(severity: str, by_mail: bool, admin: NotifySettings) -> None:
    found = told(None, admin, "alert", severity=severity)
    assert ("email", "admin@here.test") in found if by_mail else found == EVERYBODY[1:]


def test_nobody_is_set_up() -> None:
    assert told(None, NotifySettings()) == []
    assert told({"slack": True}, NotifySettings()) == []


def test_no_payload_holds_a_secret_of_the_settings(admin: NotifySettings) -> None:
    found = targets(Notice("run_failed"), admin)
    assert "s3cret" not in repr([(one.document(), one.label) for one in found])
    assert [Target.of(one.document()) for one in found] == list(found)


def test_a_setting_that_is_gone_has_no_address(admin: NotifySettings) -> None:
    assert address_of(Target("slack", setting=fingerprint("https://old.test")), admin) is None


@pytest.mark.parametrize(
    "payload",
    [
        {}, {"event": "../../etc/passwd"}, {"event": ["alert"]}, {"event": "alert", "facts": [1]},
        {"event": "alert", "to": "me"}, {"event": "alert", "to": {"email": 7}}, {"event": "alert", "to": {"slack": 1}},
    ],
)  # fmt: skip
def test_a_malformed_payload_is_refused(payload: Any, admin: NotifySettings) -> None:
    with pytest.raises(ValueError, match="must be"):
        targets(Notice.of(payload), admin)


# -- in which words


def test_a_completed_run(texts: Texts) -> None:
    facts = {"name": "Weekly", "prospects": 20, "analyzed": 18, "sent": 12, "cost": "4.255", "run_id": None}
    said = texts.render("run_completed", facts)
    assert said == Said(
        'Campaign "Weekly" completed', "Prospects: 20\nAnalyzed: 18\nSent: 12\nCost: $4.26\n"
    )  # fmt: skip


def test_a_partial_run_tells_what_failed(texts: Texts) -> None:
    said = texts.render("run_partial", {"name": "Weekly", "errors": [{"step": "analysis", "error": "HTTP 500"}]})
    assert said.subject.startswith('Campaign "Weekly" completed')
    assert "Failed steps: 1\nError: analysis: HTTP 500\n" in said.text


def test_a_failed_run(texts: Texts) -> None:
    said = texts.render("run_failed", {"name": "Weekly", "error": "no answer within 300 s"})
    assert said.subject == 'Campaign "Weekly" failed'
    assert "Error: no answer within 300 s\n" in said.text


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_has_words_with_all_facts_or_none(event: str, texts: Texts) -> None:
    full = {name: [] if name == "errors" else "7" for name in EVENTS[event]}
    for facts in ({}, dict.fromkeys(EVENTS[event]), full):
        said = texts.render(event, facts)
        assert said.subject
        assert said.text.strip()


def test_no_fact_forges_a_line_or_a_header(texts: Texts) -> None:
    name = "Weekly\r\nBcc: all@company.test\r\n\r\nSent: 1000000\u2028Cost: $0 {{ 7 * 7 }}"
    said = texts.render("run_completed", {"name": name, "sent": "1\nCost: $9"})
    assert said.subject.splitlines() == [said.subject]
    assert "{{ 7 * 7 }}" in said.subject
    assert [line.split(":")[0] for line in said.text.splitlines()] == ["Prospects", "Analyzed", "Sent", "Cost"]
    sent = message_from_bytes(letter("us@here.test", "you@there.test", said, "id").as_bytes(), policy=policy.default)
    assert sent["Bcc"] is None
    assert str(sent["Subject"]).startswith('Campaign "Weekly Bcc: all@company.test')


@pytest.mark.parametrize("to", ["a@b.test\r\nBcc: c@d.test", "a@b.test, c@d.test", "nobody", ""])
def test_only_one_address_is_written_to(to: str) -> None:
    with pytest.raises(ValueError, match="must be one email address"):
        letter("us@here.test", to, Said("s", "t"), "id")


def test_the_mail_says_that_a_machine_wrote_it() -> None:
    one, again = (letter("Orchestrator <us@here.test>", "you@there.test", Said("Grüße", "Straße\n"), "7") for _ in "ab")
    assert one["Auto-Submitted"] == "auto-generated"
    assert one["Message-ID"] == again["Message-ID"] == "<notification.7@here.test>"
    assert one["Subject"] == "Grüße"
    assert one.as_bytes().isascii()


# -- own words


def own(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "templates" / "notifications"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alert.txt").write_text(text)


def test_an_own_template_takes_the_place_of_the_shipped_one(tmp_path: Path, texts: Texts) -> None:
    own(tmp_path, "{% block subject %}Ouch{% endblock %}{% block text %}{{ message }}{% endblock %}")
    assert texts.render("alert", {"message": "broken"}) == Said("Ouch", "broken\n")


@pytest.mark.parametrize(
    "text",
    [
        "no blocks", "{% block subject %}",
        "{% block subject %}{{ mesage }}{% endblock %}{% block text %}{% endblock %}",
        "{% block subject %}{{ 1 / 0 }}{% endblock %}{% block text %}{% endblock %}",
        "{% block subject %}{{ ''.__class__.__mro__ }}{% endblock %}{% block text %}{% endblock %}",
    ],
)  # fmt: skip
def test_a_template_that_fails_keeps_nothing_back(tmp_path: Path, texts: Texts, text: str) -> None:
    own(tmp_path, text)
    assert "broken" in texts.render("alert", {"message": "broken", "type": "SLO_MISSED"}).text


# -- what a server's answer means


@pytest.mark.parametrize(
    ("error", "handed_over", "verdict", "retryable"),
    [
        (aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(550, "no", "a")]), False, Failed, False),
        (aiosmtplib.SMTPRecipientsRefused([aiosmtplib.SMTPRecipientRefused(451, "later", "a")]), False, Failed, True),
        (aiosmtplib.SMTPDataError(554, "spam"), True, Failed, False),
        (aiosmtplib.SMTPDataError(421, "busy"), True, Failed, True),
        (aiosmtplib.SMTPAuthenticationError(535, "who?"), False, Failed, False),
        (aiosmtplib.SMTPNotSupported("no STARTTLS"), False, Failed, False),
        (aiosmtplib.SMTPServerDisconnected("gone"), False, Failed, True),
        (aiosmtplib.SMTPServerDisconnected("gone"), True, Unknown, None),
        (aiosmtplib.SMTPReadTimeoutError("slow"), True, Unknown, None),
        (TimeoutError(), False, Failed, True),
        (ConnectionRefusedError(111, "refused"), False, Failed, True),
    ],
)  # fmt: skip
def test_what_an_end_of_the_talk_means(error: Exception, handed_over: bool, verdict: type, retryable: Any) -> None:
    found = mail._verdict(error, handed_over)
    assert type(found) is verdict
    assert getattr(found, "retryable", None) == retryable


@pytest.mark.parametrize(
    ("url", "port", "from_the_start", "upgrade"),
    [
        ("smtp://mail.test", 25, False, None),
        ("smtp://me:pw@mail.test", 587, False, True),
        ("smtp://me:pw@mail.test:2525", 2525, False, True),
        ("smtps://me:pw@mail.test", 465, True, False),
        ("smtp://me:pw@127.0.0.1:1025", 1025, False, False),
    ],
)
async def test_no_password_travels_in_clear(url: str, port: int, from_the_start: bool, upgrade: bool | None) -> None:
    client = mail._client(url, 1.0)
    assert (client.port, client.use_tls, client._start_tls_on_connect) == (port, from_the_start, upgrade)
