"""A reply's way: reception by rules at once, the classifier if no rule knows, then routing under the lead's key.

Reception has the reply's own key and asks no engine, so an opt-out takes effect whatever else the lead waits for.
"""

from daemon.task import Kind, Policy
from handlers.effects import Effects
from handlers.leads import Pipelines
from handlers.replies.classifier import classify
from handlers.replies.farewell import part
from handlers.replies.mail import Replies
from handlers.replies.reception import receive
from handlers.replies.routing import routing


def kinds(pipelines: Pipelines) -> list[Kind[Effects]]:
    """Reception, classification, routing."""
    subject = Replies()
    return [
        Kind("reply", Policy(), subject, receive),
        Kind("reply.farewell", Policy(), subject, part),
        Kind("reply.classify", Policy(concurrency=16), subject, classify),
        Kind("reply.route", Policy(), subject, routing(pipelines)),
    ]
