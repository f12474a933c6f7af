"""Renders what people are told: a subject and a text per event, from Jinja templates.

A file EVENT.txt under `templates/notifications` in ORCHESTRATOR_HOME takes the place of the shipped one; one that fails
does not: people are told in the shipped words, and the log says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, TemplateNotFound
from jinja2.sandbox import SandboxedEnvironment

from daemon.answers import tidy
from daemon.log import get_logger
from daemon.notify.notice import EVENTS

log = get_logger("notify")
SHIPPED: Final = Path(__file__).parent / "templates"
OWN: Final = Path("templates", "notifications")
CENT: Final = Decimal("0.01")
_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Said:
    """A subject, on one line, and a text."""

    subject: str
    text: str


@dataclass(slots=True)
class Texts:
    """The templates, shipped and own."""

    home: Path
    public_url: str
    _shipped: SandboxedEnvironment = field(init=False)
    _own: SandboxedEnvironment = field(init=False)

    def __post_init__(self) -> None:
        self._shipped, self._own = _environment(SHIPPED), _environment(self.home / OWN)

    def render(self, event: str, facts: Mapping[str, Any]) -> Said:
        """The words for an event; facts that it doesn't know are left out, missing ones have defaults."""
        known = EVENTS[event]
        values = {name: facts[name] if facts.get(name) is not None else usual for name, usual in known.items()}
        values |= {"event": event, "public_url": self.public_url}
        try:
            return _render(self._own, event, values)
        except TemplateNotFound:
            pass
        except _FAILURES as error:
            log.warning("own template failed, the shipped one is used", template=event, error=tidy(str(error)))
        return _render(self._shipped, event, values)


def _render(environment: SandboxedEnvironment, event: str, values: Mapping[str, Any]) -> Said:
    template = environment.get_template(f"{event}.txt")
    subject, text = ("".join(template.blocks[name](template.new_context(dict(values)))) for name in ("subject", "text"))
    return Said(tidy(subject), f"{text.strip()}\n")


def _environment(folder: Path) -> SandboxedEnvironment:
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, autoescape=False, finalize=_on_one_line,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["dollars"] = _dollars
    return environment


def _on_one_line(value: object) -> str:
    """A fact can't forge a line, let alone a header."""
    return "" if value is None else tidy(str(value))


def _dollars(value: object) -> str:
    try:
        return f"${Decimal(str(value)).quantize(CENT, ROUND_HALF_UP)}"
    except InvalidOperation:
        return f"${value}"
