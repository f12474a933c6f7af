"""Tells one Apprise URL one thing: a program, run by `notify.delivery` as a command engine and never imported.

In a process of its own, because Apprise blocks, and its services cost a daemon 20 MB for good. What it reads on stdin
holds the URL; what it writes never does.
"""

import json
import logging
import os
import sys

import apprise


def main() -> int:
    """Exit 75: not delivered this time; 1: no URL that Apprise knows."""
    logging.disable(logging.CRITICAL)  # its log lines quote what they were given
    request = json.load(sys.stdin)["request"]
    service = apprise.Apprise(asset=apprise.AppriseAsset(app_id="pipeline-orchestrator", secure_logging=True))
    if not service.add(request["url"]):
        sys.stderr.write("Apprise doesn't know this URL\n")
        return 1
    if not service.notify(title=request["title"], body=request["text"], body_format=apprise.NotifyFormat.TEXT):
        sys.stderr.write("Apprise could not deliver\n")
        return os.EX_TEMPFAIL
    sys.stdout.write("{}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
