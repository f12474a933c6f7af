"""Does a person ask us to stop? Read from their own words only: never from what they quote, never from our footer."""

from handlers.opt_out.bare_word import whole_message
from handlers.opt_out.plain_words import plain_request
from handlers.opt_out.quotations import own_words
from handlers.opt_out.remainder import vocabulary, word_alone_in_a_clause
from handlers.opt_out.request import Request

__all__ = ["Request", "asks_to_stop", "own_words"]

LONGEST_OWN = 5_000  # of what they write themselves


def asks_to_stop(text: str) -> Request | None:
    """The request to stop contacting them that these words make, if they plausibly make one."""
    own = own_words(text)[:LONGEST_OWN]
    for look in (whole_message, plain_request, word_alone_in_a_clause, vocabulary):
        if found := look(own):
            return found
    return None
