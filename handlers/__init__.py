"""One lead, one reply, one message at a time: pipelines and the kinds of task that move them."""
