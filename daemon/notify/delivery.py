"""Carries one notice to one target, by the channel's own road."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon import transport
from daemon.answers import Answer, Failed
from daemon.errors import SettingsError
from daemon.links import link_to
from daemon.log import get_logger
from daemon.notify.notice import Channel
from daemon.settings import Settings, secret_key
from daemon.settings.addresses import email_address
from daemon.transport.command import Command
from daemon.transport.request import Request
from daemon.transport.slack import post_text

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from daemon.notify.texts import Said, Texts

log = get_logger("notify")
MAIL_S, SLACK_S, APPRISE_S = 30.0, 10.0, 30.0
APPRISE = (sys.executable, "-I", str(Path(transport.__file__).with_name("apprise_once.py")))


@dataclass(slots=True)
class Notifier:
    """The words and the roads out."""

    settings: Settings
    session: "ClientSession"
    _texts: "Texts | None" = field(default=None, init=False)

    async def words(self, event: str, facts: Mapping[str, Any]) -> "Said":
        """What is said of an event."""
        if self._texts is None:
            self._texts = await asyncio.to_thread(self._load_texts)
        return self._texts.render(event, {**facts, **(self._link(facts) if event == "approval" else {})})

    def _link(self, facts: Mapping[str, Any]) -> Mapping[str, str]:
        """Where a person looks at the request and decides; signed, so it is in no row."""
        if not facts.get("id"):
            return {}
        try:
            key = secret_key(self.settings).get_secret_value()
        except SettingsError as error:  # better to be told without a link than not at all
            log.warning("no link can be signed", error=str(error))
            return {}
        return {"link": link_to(self.settings.public_url, "approve", facts["id"], key, time.time())}

    def _load_texts(self) -> "Texts":
        """The templates and their engine: rarely used, not small, and slow to import."""
        from daemon.notify.texts import Texts  # noqa: PLC0415

        return Texts(self.settings.home, self.settings.public_url)

    async def carry(self, channel: Channel, address: str, said: "Said", notice_id: str) -> Answer:
        """Tell that address."""
        roads: dict[Channel, Callable[[str, Said, str], Awaitable[Answer]]] = {
            "email": self._mail, "slack": self._slack, "apprise": self._apprise,
        }  # fmt: skip
        return await roads[channel](address, said, notice_id)

    async def _mail(self, address: str, said: "Said", notice_id: str) -> Answer:
        from daemon.transport.mail import send_mail  # noqa: PLC0415 - rarely used

        smtp = self.settings.smtp
        if smtp.url is None:
            return Failed("ORCHESTRATOR_SMTP__URL is not set", retryable=False)
        try:
            mail = letter(smtp.sender, address, said, notice_id)
        except ValueError as error:
            return Failed(f"no mail can be made of it: {error}", retryable=False)
        return await send_mail(smtp.url.get_secret_value(), mail, timeout_s=MAIL_S)

    async def _slack(self, address: str, said: "Said", notice_id: str) -> Answer:
        return await post_text(self.session, address, f"{said.subject}\n{said.text}", timeout_s=SLACK_S)

    async def _apprise(self, address: str, said: "Said", notice_id: str) -> Answer:
        body = {"url": address, "title": said.subject, "text": said.text}
        request = Request("notify", body, notice_id, "", APPRISE_S, "POST", None, "")
        return await Command(APPRISE, "", "").exchange(request)


def letter(sender: str, to: str, said: "Said", notice_id: str) -> EmailMessage:
    """The mail; its Message-ID is the notice's, so that a repeated one is known for the same."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, email_address(to), said.subject
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = f"<notification.{notice_id}@{parseaddr(sender)[1].rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(said.text, cte="quoted-printable")
    return mail
