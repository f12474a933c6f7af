"""How commands answer: tables for people, plain text when piped, one JSON document with `--json`."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeVar

import orjson
import typer

from daemon import schema
from daemon.commands import access
from daemon.db import Connection, Statements

SQL = Statements("daemon.commands", "leads.sql")
WIDEST = 10_000
FIRM = frozenset({"id", "at", "status", "tries", "gate", "when (UTC)", "due (UTC)", "deadline (UTC)"})
"""Columns that are short, or that people copy: they are never folded."""
T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")]
Row = Mapping[str, Any]


def asked(work: Callable[[Connection], Awaitable[T]]) -> T:
    """What `work` makes of a connection to the configured database, whose schema is the one of this program."""

    async def prepared(conn: Connection) -> T:
        await schema.require_current(conn)
        await conn.execute(SQL["session"])
        return await work(conn)

    with access.database(access.read_settings()) as database:
        return access.on_connection(database.dsn, prepared)


def rows_of(records: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows that the database has rendered as JSON, in `shown`."""
    return [orjson.loads(record["shown"]) for record in records]


def say_json(document: Mapping[str, Any]) -> None:
    """One document on stdout."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=str))


class Page:
    """What is shown to people, part by part; as wide as it needs to be where nobody watches."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - `--json` needs none of it

        self._console = Console(highlight=False) if sys.stdout.isatty() else Console(width=WIDEST)

    def line(self, text: str, style: str = "") -> None:
        """A line of text, folded on a terminal."""
        from rich.text import Text  # noqa: PLC0415

        self._console.print(Text(plain(text), style=style))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], none: str = "none") -> None:
        """A table with its title; without rows, a word instead."""
        from rich import box  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, no_wrap=column in FIRM, overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        if table.row_count:
            self._console.print(table)
        else:
            self.line(f"{title}: {none}" if title else none)


def plain(value: Any) -> str:
    """A value as text that can do nothing to a terminal."""
    text = _worded(value)
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _worded(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case dict() | list():
            return orjson.dumps(value).decode() if value else ""
        case str():
            return value
        case _:
            return str(value)


def moment(value: str | None) -> str:
    """A time of the database's, to the second."""
    return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S}" if value and value[:4].isdigit() else value or ""
