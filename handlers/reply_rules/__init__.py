"""What a reply is, as far as rules can tell: reports of mail systems, auto-replies, opt-outs. Pure; text is data."""

from handlers.reply_rules.dates import return_date
from handlers.reply_rules.mails import parse_mail
from handlers.reply_rules.reply import InboundReply, Verdict
from handlers.reply_rules.rules import classify_by_rules

__all__ = ["InboundReply", "Verdict", "classify_by_rules", "parse_mail", "return_date"]
