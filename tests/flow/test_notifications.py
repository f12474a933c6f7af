"""Notices reach people by a real SMTP server, real webhooks and Apprise: each once, whatever fails beside them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.commands import orchestrator
from tests.support.daemon import Timeline, scenario

ADMIN = "admin@here.test"
RUN = {"name": "Weekly", "prospects": 20, "analyzed": 18, "sent": 12, "cost": 4.5}
CUT = "cut"


@dataclass(slots=True)
class Mailbox:
    """A mail server: what it took, how often it was asked, and what it says before it is content."""

    port: int = 0
    says: list[str] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)
    taken: list[EmailMessage] = field(default_factory=list)
    asked: int = 0

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.taken]

    async def handle_RCPT(  # noqa: N802 - the server's own name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Sequence[str]
    ) -> str:
        self.asked += 1
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        said = self.says.pop(0) if self.says else "250 taken"
        if said == CUT or said.startswith("250"):
            self.taken.append(message_from_bytes(envelope.original_content or b"", policy=policy.default))
        if said == CUT:
            assert server.transport is not None
            server.transport.close()
        return said

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator["Mailbox"]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: SMTP(self, hostname="mail.test", **options), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()


@dataclass(slots=True)
class Hook:
    """A webhook: what was posted to it, and what it answers before it is content."""

    url: str = ""
    answers: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    posted: list[Any] = field(default_factory=list)
    refused: int = 0

    @property
    def texts(self) -> list[str]:
        return [one["text"] for one in self.posted]

    async def _play(self, request: web.Request) -> web.Response:
        if self.answers:
            status, headers = self.answers.pop(0)
            self.refused += 1
            return web.Response(status=status, headers=headers, text="no_service")
        self.posted.append(await request.json())
        return web.json_response({"message_id": "m1", "cost": 0})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Hook"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._play)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/services/s3cret-hook"
        try:
            yield self
        finally:
            await runner.cleanup()


@dataclass(slots=True)
class Told:
    """A daemon whose admin has a mailbox and a Slack channel."""

    t: Timeline
    mail: Mailbox
    slack: Hook

    async def alert(self, severity: str = "HIGH", kind: str = "SLO_MISSED", subject: str = "orphans") -> UUID:
        found: UUID = await self.t.value(
            "INSERT INTO alerts (type, message, severity, subject) VALUES ($1, 'It is late', $2, $3) RETURNING id",
            kind, severity, subject,
        )  # fmt: skip
        await self.t.quiet()
        return found

    async def tell(self, event: str, to: Any = None, facts: Mapping[str, Any] = RUN) -> int:
        payload = {"event": event, "to": to, "facts": dict(facts)}
        task: int = await self.t.value("SELECT enqueue('notification', $1)", payload)
        await self.t.quiet()
        return task

    async def reasons(self) -> list[str]:
        rows = await self.t.sql("SELECT result #>> '{}' AS said FROM task_log WHERE kind ^@ 'notification' ORDER BY id")
        return [r["said"] for r in rows]

    async def waiting(self) -> list[Any]:
        return await self.t.sql(
            "SELECT status, attempt, error, run_at - clock() AS ahead FROM tasks WHERE kind = 'notification.deliver'"
        )


@asynccontextmanager
async def telling(dsn: str, **overrides: str) -> AsyncIterator[Told]:
    async with Mailbox().serving() as mail, Hook().serving() as slack:
        usual = {"SMTP__URL": mail.url, "NOTIFY__ADMIN_EMAIL": ADMIN, "NOTIFY__SLACK_WEBHOOK_URL": slack.url}
        async with scenario(dsn, **{**usual, **overrides}) as t:
            yield Told(t, mail, slack)


# -- what is told


async def test_a_high_alert_is_mailed_and_posted_once(dsn: str) -> None:
    async with telling(dsn) as told:
        await told.alert()
        assert told.mail.subjects == ["[HIGH] SLO_MISSED: orphans"]
        [text] = told.slack.texts
        assert text.startswith("[HIGH] SLO_MISSED: orphans\nIt is late\n")
        assert (told.mail.taken[0]["To"], told.mail.taken[0]["From"]) == (ADMIN, "orchestrator@localhost")
        await told.t.restart(hours=1)
        await told.t.sweep()
        assert (len(told.mail.taken), len(told.slack.posted)) == (1, 1)
        assert await told.t.value("SELECT count(*) = 0 FROM tasks WHERE kind ^@ 'notification'")


async def test_a_lesser_alert_is_only_posted(dsn: str) -> None:
    async with telling(dsn) as told:
        await told.alert("MEDIUM")
        assert (told.mail.taken, len(told.slack.posted)) == ([], 1)


async def test_an_alert_raised_again_while_open_is_not_told_again(dsn: str) -> None:
    async with telling(dsn) as told:
        await told.alert()
        again = "INSERT INTO alerts (type, message, severity, subject) VALUES ('SLO_MISSED', 'x', 'HIGH', 'orphans')"
        await told.t.sql(f"{again} ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING")
        await told.t.quiet()
        assert len(told.slack.posted) == 1


async def test_what_waits_for_a_decision_is_told_with_the_way_to_decide(dsn: str) -> None:
    async with telling(dsn) as told:
        insert = "INSERT INTO approval_queue (checkpoint, title, status) VALUES ('emails', '<!channel> 12 drafts', $1)"
        request = await told.t.value(f"{insert} RETURNING id", "pending")
        await told.t.sql(insert, "approved")
        await told.t.quiet()
        assert told.mail.subjects == ["To decide: <!channel> 12 drafts"]
        assert f"orchestrator approvals approve {request}" in told.mail.taken[0].get_content()
        [text] = told.slack.texts
        assert "<" not in text


async def test_what_was_decided_meanwhile_is_not_told(dsn: str) -> None:
    async with telling(dsn) as told:
        await told.t.stop()
        await told.t.sql("INSERT INTO approval_queue (checkpoint, title) VALUES ('emails', 'Drafts')")
        await told.t.sql("UPDATE approval_queue SET status = 'approved'")
        await told.t.start()
        await told.t.quiet()
        assert (told.mail.taken, told.slack.posted) == ([], [])
        assert await told.reasons() == ["the approval is settled"]


async def test_a_run_that_ended_is_told_to_those_it_names(dsn: str) -> None:
    async with telling(dsn) as told, Hook().serving() as other:
        await told.tell("run_completed", {"email": ["a@there.test", "b@there.test"], "slack": other.url})
        assert sorted(str(mail["To"]) for mail in told.mail.taken) == ["a@there.test", "b@there.test"]
        assert told.mail.taken[0].get_content().splitlines() == [
            "Prospects: 20", "Analyzed: 18", "Sent: 12", "Cost: $4.50",
        ]  # fmt: skip
        assert (len(other.posted), told.slack.posted) == (1, [])
        assert set(told.mail.subjects) == {'Campaign "Weekly" completed'}


async def test_by_apprise(dsn: str) -> None:
    async with Hook().serving() as other:
        url = other.url.replace("http://", "json://")
        async with telling(dsn, NOTIFY__URLS=f"{url},nosuchservice://x") as told:
            await told.tell("run_failed", facts={"name": "Weekly", "error": "boom"})
            posted = next(one for one in other.posted if one["title"] == 'Campaign "Weekly" failed')
            assert posted["message"].splitlines()[0] == "Error: boom"
            for row in await told.waiting():
                assert (row["status"], row["error"]) == ("dead", "exit 1: Apprise doesn't know this URL")


async def test_without_smtp_the_outreach_engine_mails(dsn: str) -> None:
    outreach = Hook()
    async with outreach.serving(), telling(dsn, ENGINES__OUTREACH__URL=outreach.url, SMTP__URL="-") as told:
        await told.tell("run_completed")
        [mail] = outreach.posted
        assert (mail["to"], mail["subject"], mail["lead_id"]) == (ADMIN, 'Campaign "Weekly" completed', None)
        assert await told.t.value("SELECT count(*) = 1 FROM engine_calls WHERE engine = 'outreach' AND status = 'ok'")


# -- who is not told


async def test_nobody_to_tell(dsn: str) -> None:
    async with scenario(dsn) as t:
        told = Told(t, Mailbox(), Hook())
        await told.alert()
        await told.tell("run_completed")
        assert await told.reasons() == ["nobody to tell"] * 2
        assert await t.value("SELECT count(*) = 0 FROM tasks")


@pytest.mark.parametrize(
    ("setting", "why"),
    [("DRY_RUN", "dry run: nobody is told"), ("NOTIFY__MUTED", "muted: nobody is told")],
)
async def test_a_dry_or_muted_daemon_tells_nobody(dsn: str, setting: str, why: str) -> None:
    async with telling(dsn, **{setting: "true"}) as told:
        await told.alert()
        await told.tell("run_completed", {"email": "a@there.test", "slack": told.slack.url})
        assert (told.mail.taken, told.slack.posted) == ([], [])
        assert await told.reasons() == [why] * 2


async def test_a_flood_of_alerts_is_cut_short(dsn: str) -> None:
    async with telling(dsn, NOTIFY__ALERTS_PER_HOUR="3") as told:
        await told.t.sql(
            "INSERT INTO alerts (type, message, severity, subject)"
            " SELECT 'SLO_MISSED', 'down', 'HIGH', 'lead:' || n FROM generate_series(1, 50) AS n"
        )
        await told.t.quiet()
        assert (len(told.mail.taken), len(told.slack.posted)) == (3, 3)
        assert sum("not told" in text for text in told.slack.texts) == 1
        await told.t.after(hours=2)
        await told.alert(subject="late")
        assert len(told.slack.posted) == 4


async def test_no_row_holds_a_secret(dsn: str) -> None:
    async with telling(dsn) as told:
        told.slack.answers = [(503, {}), (404, {})]
        await told.alert()
        await told.t.after(minutes=11)
        assert told.slack.refused == 2
        for table in ("tasks", "task_log", "alerts"):
            assert not await told.t.value(
                f"SELECT coalesce(bool_or(t::text LIKE '%s3cret-hook%'), false) FROM {table} t"
            )


# -- what fails


async def test_a_server_that_refuses_for_now_gets_it_once_when_it_accepts(dsn: str) -> None:
    async with telling(dsn) as told:
        told.mail.says = ["451 come again", "421 busy"]
        await told.alert()
        [row] = await told.waiting()
        assert (row["status"], row["error"]) == ("available", "SMTP 451: come again")
        await told.t.after(minutes=11)
        await told.t.after(minutes=11)
        assert (told.mail.says, len(told.mail.taken), len(told.slack.posted)) == ([], 1, 1)
        assert await told.waiting() == []


async def test_a_connection_cut_after_the_text_may_repeat_under_the_same_id(dsn: str) -> None:
    async with telling(dsn) as told:
        told.mail.says = [CUT]
        await told.alert()
        await told.t.after(minutes=11)
        first, second = told.mail.taken
        assert first["Message-ID"] == second["Message-ID"]
        assert first["Auto-Submitted"] == "auto-generated"
        assert len(told.slack.posted) == 1


async def test_one_that_fails_for_good_holds_nobody_back_and_is_told_by_the_other_road(dsn: str) -> None:
    async with telling(dsn) as told:
        told.mail.refuses[ADMIN] = "550 no such mailbox"
        await told.tell("run_completed")
        for row in await told.waiting():  # the second one is about the first
            assert (row["status"], row["attempt"], row["error"]) == ("dead", 1, "SMTP 550: no such mailbox")
        await told.t.after(days=1)
        assert len([text for text in told.slack.texts if "completed" in text]) == 1
        assert len([text for text in told.slack.texts if f"notify:email:{ADMIN}" in text]) == 1
        # Its own notice by mail dies as well, and raises no further alert.
        assert await told.t.value("SELECT count(*) = 1 FROM alerts WHERE resolved_at IS NULL")
        told.mail.refuses.clear()
        await told.tell("run_failed")
        assert await told.t.value("SELECT count(*) = 0 FROM alerts WHERE resolved_at IS NULL")


async def test_a_person_s_retry_of_a_dead_notice_delivers_it(dsn: str) -> None:
    async with telling(dsn) as told:
        told.mail.refuses[ADMIN] = "550 no such mailbox"
        await told.tell("run_completed")
        told.mail.refuses.clear()
        dead = "SELECT id FROM tasks WHERE status = 'dead' AND payload ->> 'event' = 'run_completed'"
        await told.t.retry(await told.t.value(dead))
        assert told.mail.subjects == ['Campaign "Weekly" completed']


async def test_slack_s_retry_after_is_obeyed(dsn: str) -> None:
    async with telling(dsn) as told:
        told.slack.answers = [(429, {"Retry-After": "900"})]
        await told.alert("MEDIUM")
        [row] = await told.waiting()
        assert 880 < row["ahead"].total_seconds() < 901
        await told.t.after(minutes=14)
        assert told.slack.posted == []
        await told.t.after(minutes=2)
        assert len(told.slack.posted) == 1


async def test_a_slack_webhook_that_is_gone_is_asked_once(dsn: str) -> None:
    async with telling(dsn) as told:
        told.slack.answers = [(404, {})]
        await told.alert("MEDIUM")
        assert (told.slack.refused, len(told.mail.taken)) == (1, 1)  # the mail says that Slack is lost
        assert "HTTP 404: no_service" in told.mail.taken[0].get_content()


@pytest.mark.parametrize("payload", [{}, {"event": "gossip"}, {"event": "run_failed", "to": {"email": {"a": 1}}}])
async def test_a_malformed_notice_ends_with_one_alert(dsn: str, payload: dict[str, Any]) -> None:
    async with telling(dsn) as told:
        for _ in "ab":
            await told.t.value("SELECT enqueue('notification', $1)", payload)
        await told.t.quiet()
        assert await told.t.value("SELECT count(*) = 2 FROM tasks WHERE status = 'dead'")
        assert len(told.slack.posted) == 1


# -- passwords and encryption


def authenticator(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, proof: Any) -> AuthResult:
    known = isinstance(proof, LoginPassword) and (proof.login, proof.password) == (b"me@here", b"p@ss/word")
    return AuthResult(success=known, handled=known)


@pytest.mark.parametrize(("password", "error"), [("p%40ss%2Fword", None), ("wrong", "SMTP 535")])
async def test_the_url_s_user_and_password_open_the_server(dsn: str, password: str, error: str | None) -> None:
    options = {"authenticator": authenticator, "auth_require_tls": False}
    async with Mailbox().serving(**options) as mail:
        url = f"smtp://me%40here:{password}@127.0.0.1:{mail.port}"
        async with telling(dsn, SMTP__URL=url) as told:
            await told.tell("run_completed", {"email": "a@there.test"})
            if error is None:
                assert mail.subjects == ['Campaign "Weekly" completed']
            else:
                [row] = await told.t.sql("SELECT status, error FROM tasks WHERE payload ->> 'event' = 'run_completed'")
                assert (row["status"], row["error"][:8]) == ("dead", error)


async def test_check_names_the_roads_and_asks_the_mail_server(home: Path, dsn: str) -> None:
    async with Mailbox().serving() as mail:
        said = await orchestrator(
            home, "check", DATABASE_URL=dsn, ORCHESTRATOR_SMTP__URL=mail.url, ALERT_EMAIL=ADMIN,
            ORCHESTRATOR_NOTIFY__SLACK_WEBHOOK_URL="https://hooks.slack.test/s3cret-hook",
        )  # fmt: skip
    assert f"ok       notices: mail to {ADMIN}, Slack\n" in said.out
    assert "ok       smtp: ready\n" in said.out
    assert "s3cret-hook" not in said.out + said.err
    assert mail.asked == 0
