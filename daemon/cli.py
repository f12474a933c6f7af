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

GROUPS = {"run": "run", "check": "check", "db": "database", "pipelines": "pipelines"}
"""A command or group of commands, and the module of `daemon.commands` whose `register` adds it."""

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def main() -> None:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        application(sys.argv[1:])(prog_name="orchestrator")
    except SettingsError as error:
        _leave(MISUSED, str(error))
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted")
    except (OrchestratorError, OSError, ExceptionGroup, *_database_errors()) as error:
        _leave(FAILED, " ".join(_told(error).split()))


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
    for name, module in GROUPS.items():
        if name == asked or asked not in GROUPS:
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


def _database_errors() -> tuple[type[Exception], ...]:
    """What the driver raises, if it was ever imported."""
    driver = sys.modules.get("asyncpg")
    return () if driver is None else (driver.PostgresError, driver.InterfaceError)


def _told(error: BaseException) -> str:
    """The text of the first failure in it that a person can act on; a group of others is a bug and stays one."""
    if not isinstance(error, BaseExceptionGroup):
        return str(error) or type(error).__name__
    known, bugs = error.split((OrchestratorError, OSError, *_database_errors()))
    if known is None or bugs is not None:
        raise error
    return _told(known.exceptions[0])


def _leave(code: int, text: str) -> None:
    from daemon.log import mask  # noqa: PLC0415 - only a failure needs it

    typer.echo(mask(text), err=True)
    raise SystemExit(code)


def _terminated(_signum: int, _frame: FrameType | None) -> None:
    """Leave through every `finally`, so that an embedded server is stopped."""
    raise SystemExit(128 + signal.SIGTERM)
