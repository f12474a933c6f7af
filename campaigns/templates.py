"""Message templates: Jinja files of the user's, or shipped ones; a first line `Subject: …` is the subject."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.errors import OrchestratorError

if TYPE_CHECKING:
    from jinja2 import Environment

SHIPPED = Path(__file__).with_name("library") / "templates"
ENDINGS = ("", ".j2", ".txt")


class TemplateProblem(OrchestratorError):
    """A template that is not there, or can't be filled in with what there is."""


def render(home: Path, name: str, facts: Mapping[str, Any]) -> tuple[str | None, str]:
    """Subject and body of a template with these facts."""
    from jinja2 import TemplateError  # noqa: PLC0415 - rarely used, and not small

    try:
        text = _environment(home).select_template([name + ending for ending in ENDINGS]).render(facts)
    except TemplateError as error:
        raise TemplateProblem(f"template {name}: {error.message or type(error).__name__}") from error
    except (TypeError, ValueError, ArithmeticError) as error:  # an expression that doesn't fit the facts
        raise TemplateProblem(f"template {name}: {error}") from error
    first, _, rest = text.partition("\n")
    if first.lower().startswith("subject:"):
        return " ".join(first[len("subject:") :].split()), rest.strip()
    return None, text.strip()


@lru_cache(maxsize=4)
def _environment(home: Path) -> "Environment":
    from jinja2 import FileSystemLoader, StrictUndefined  # noqa: PLC0415 - as above
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - as above

    loader = FileSystemLoader([home / "templates", SHIPPED])
    # Messages are plain text: nothing is escaped.
    return ImmutableSandboxedEnvironment(loader=loader, undefined=StrictUndefined, autoescape=False)
