"""The page behind a signed link: a request as people read it, and a form to decide it. Pure; it loads nothing."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import Any

import orjson

LONGEST = 20_000
STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
dt { font-weight: 600; margin-top: 1rem }
dd { margin: 0 }
pre { overflow-x: auto; padding: .5rem; border: 1px solid #8886; font-size: .85rem }
label { display: block; margin-top: 1rem; font-weight: 600 }
input, textarea { width: 100%; box-sizing: border-box; font: inherit; padding: .4rem }
button { font: inherit; padding: .5rem 1.5rem; margin: 1.5rem 1rem 0 0 }
[role=alert] { border-left: .3rem solid #c33; padding-left: .8rem }
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
MEDIA = "text/html; charset=utf-8"

HINTS = {
    "extraction": "Complete the second factor at the data provider first, and enter the code that it shows. "
    "Only then approve.",
}


@dataclass(frozen=True, slots=True)
class Typed:
    """What somebody has put into the form that was not accepted, and why not."""

    problem: str = ""
    by: str = ""
    comment: str = ""
    code: str = ""


def page_about(request: Mapping[str, Any], typed: Typed = Typed()) -> bytes:
    """The page about a request; with a form as long as it can be decided."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{shown}</dd>" for name, shown in _facts(request))
    rest = _form(request["checkpoint"], typed) if request["status"] == "pending" else _decided(request)
    return page(request["title"], f"<dl>{facts}</dl>{rest}")


def page(title: str, body: str) -> bytes:
    """A page; `body` is HTML already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>{body}</main></body></html>"
    ).encode("utf-8", "replace")


def notice(text: str) -> str:
    """A paragraph that screen readers read out."""
    return f'<p role="alert">{escape(text)}</p>'


def _facts(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Checkpoint", escape(request["checkpoint"])
    yield "Asked at", escape(request["created_at"])
    if request["expires_at"]:
        yield "Rejected unless decided by", escape(request["expires_at"])
    payload = request["payload"]
    for name, value in payload.items() if isinstance(payload, dict) else [("payload", payload)]:
        if value not in (None, "", {}, []) and name != "code":
            yield name.replace("_", " ").capitalize(), _shown(value)


def _shown(value: Any) -> str:
    if not isinstance(value, dict | list):
        return escape(str(value))
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    return f"<pre>{escape(text if len(text) <= LONGEST else text[:LONGEST] + ' …')}</pre>"


def _decided(request: Mapping[str, Any]) -> str:
    by = f" by {request['decided_by']}" if request["decided_by"] else ""
    why = f"<p>{escape(request['comment'])}</p>" if request["comment"] else ""
    return f"<p><strong>This is {escape(request['status'] + by)}.</strong></p>{why}"


def _form(checkpoint: str, typed: Typed) -> str:
    hint = f"<p>{escape(HINTS[checkpoint])}</p>" if checkpoint in HINTS else ""
    code = _field("code", "Code", typed.code, "") if checkpoint in HINTS else ""
    return (
        (notice(typed.problem) if typed.problem else "")
        + f'{hint}<form method="post">'
        + _field("by", "Your name", typed.by, ' required autocomplete="name"')
        + code
        + '<label for="comment">Why (with a rejection: what the agent should learn from it)</label>'
        + f'<textarea id="comment" name="comment" rows="4" maxlength="5000">{escape(typed.comment)}</textarea>'
        + '<button name="decision" value="approve">Approve</button>'
        + '<button name="decision" value="reject">Reject</button></form>'
    )


def _field(name: str, label: str, value: str, more: str) -> str:
    of = f'id="{name}" name="{name}" value="{escape(value)}" maxlength="200"{more}'
    return f'<label for="{name}">{label}</label><input {of}>'
