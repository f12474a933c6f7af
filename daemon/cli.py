"""The command `orchestrator`: its groups, and what a failure comes to: a clear line on stderr and an exit code."""

import gc
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, cast

import typer

from daemon import __version__
from daemon.errors import OrchestratorError, SettingsError

GROUPS = {
    "run": "run",
    "check": "check",
    "db": "database",
    "pipelines": "pipelines",
    "leads": "leads",
    "campaigns": "campaigns",
    "approvals": "approvals",
    "tasks": "tasks",
    "stop-sending": "sending",
    "resume-sending": "sending",
}
"""A command or group of commands, and the module of `daemon.commands` whose `register` adds it."""

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        application(sys.argv[1:])(prog_name="orchestrator")
    except SettingsError as error:
        _leave(MISUSED, str(error))
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted")
    except ExceptionGroup as group:
        failure = _first_failure(group)
        _leave(MISUSED if isinstance(failure, SettingsError) else FAILED, _told(failure))
    except _failures() as error:
        _leave(FAILED, _told(error))


def application(arguments: Sequence[str]) -> typer.Typer:
    """The command line; of its groups only the one that is asked for is imported, or all of them for a help text."""
    app = typer.Typer(
        callback=_root,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    asked = next((word for word in arguments if not word.startswith("-")), "")
    gc.disable()  # importing makes hardly any rubbish, and the start shall be quick
    _import_structlog()
    for module in (GROUPS[asked],) if asked in GROUPS else dict.fromkeys(GROUPS.values()):
        import_module(f"daemon.commands.{module}").register(app)
    gc.freeze()
    gc.enable()
    return app


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"orchestrator {__version__}")
        raise typer.Exit


def _root(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Lead pipelines on autopilot, beside a Postgres database."""


def _import_structlog() -> None:
    """Without rich, a fifth of the start-up time: structlog takes it for coloured tracebacks, which nobody asks for."""
    modules = cast("dict[str, Any]", sys.modules)
    if "rich" not in modules:
        modules["rich"] = None
        import_module("structlog")
        del modules["rich"]


def _failures() -> tuple[type[Exception], ...]:
    """What a person can act on; anything else is a bug and leaves its traceback."""
    driver = sys.modules.get("asyncpg")  # nothing of it is raised unless a command has imported it
    return (OrchestratorError, OSError, *(() if driver is None else (driver.PostgresError, driver.InterfaceError)))


def _first_failure(group: BaseExceptionGroup[Any]) -> Exception:
    failures, bugs = group.split(_failures())
    if failures is None or bugs is not None:
        raise group
    first = failures.exceptions[0]
    return _first_failure(first) if isinstance(first, BaseExceptionGroup) else first


def _told(error: Exception) -> str:
    said = [getattr(error, "message", None) or str(error), getattr(error, "detail", None), getattr(error, "hint", None)]
    return " ".join("; ".join(part for part in said if isinstance(part, str) and part).split()) or type(error).__name__


def _leave(code: int, text: str) -> None:
    from daemon.log import mask  # noqa: PLC0415 - only a failure needs it

    typer.echo(mask(text), err=True)
    raise SystemExit(code)


def _terminated(_signum: int, _frame: FrameType | None) -> None:
    """Leave through every `finally`, so that an embedded server is stopped."""
    raise SystemExit(128 + signal.SIGTERM)
