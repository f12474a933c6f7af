"""Tells people: what a run came to, what waits for a decision, what went wrong. Never a lead.

`notice` says what and to whom (values, pure decisions), `texts` renders it, `delivery` carries it, `tasks` makes two
kinds of task of it: `notification` finds the targets, `notification.deliver` tells one of them, so that a retry
repeats nothing that has worked.
"""

from daemon.notify.delivery import Notifier
from daemon.notify.notice import EVENTS
from daemon.notify.tasks import DELIVER, FAN_OUT, KINDS, kinds

__all__ = ["DELIVER", "EVENTS", "FAN_OUT", "KINDS", "Notifier", "kinds"]
