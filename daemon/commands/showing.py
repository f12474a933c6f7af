"""How commands answer: tables for people, plain text when piped, one JSON document with `--json`."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import orjson
import typer

from daemon import schema
from daemon.commands import access
from daemon.db import Connection, Statements

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SQL = Statements("daemon.commands", "leads.sql")
FIRM = frozenset({"id", "at", "status", "tries", "gate", "when (UTC)", "due (UTC)", "deadline (UTC)"})
"""Columns that are short, or that people copy: they are never folded or cut."""
READABLE = 16
"""As wide a column is left that is cut in a list, before columns are left out."""
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


def watched() -> bool:
    """Whether a person looks at what is said; else it is for programs: whole, and a row a line."""
    return sys.stdout.isatty()


class Page:
    """What is shown, part by part: tables on a terminal, where nobody watches cells between tabs."""

    def __init__(self) -> None:
        self._console = _console() if watched() else None

    def line(self, text: str, style: str = "") -> None:
        """A line of text, folded on a terminal."""
        if self._console is None:
            typer.echo(plain(text))
            return
        from rich.text import Text  # noqa: PLC0415 - `--json` and pipes need none of it

        self._console.print(Text(plain(text), style=style))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], none: str = "none") -> None:
        """A table with its title, its cells folded on a terminal; without rows, a word instead."""
        cells = [[plain(cell) for cell in row] for row in rows]
        if not cells:
            self.line(f"{title}: {none}" if title else none)
        elif self._console is None:
            _pipe([[title]] if title else [], [columns], cells)
        else:
            self._console.print(_table(title, columns, cells, cut=False))

    def list(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], none: str, spare: Sequence[str] = ()) -> None:
        """A line per row; a narrow terminal gets cells cut, and not the `spare` columns, the first one first."""
        cells = [[plain(cell).replace("\n", " ") for cell in row] for row in rows]
        if self._console is None or not cells:
            self.table("", columns, cells, none)
            return
        kept = _fitting(columns, cells, spare, self._console.width)
        shown = [[row[n] for n in kept] for row in cells]
        self._console.print(_table("", [columns[n] for n in kept], shown, cut=True))


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 - as above

    return Console(highlight=False)


def _pipe(*parts: Iterable[Sequence[str]]) -> None:
    for row in chain.from_iterable(parts):
        typer.echo("\t".join(cell.replace("\n", " ") for cell in row).rstrip())


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, cut: bool) -> "Table":
    from rich import box  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column in FIRM, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=cut, overflow="ellipsis" if cut else "fold") for cell in row))
    return table


def _fitting(columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], width: int) -> Sequence[int]:
    """The places of the columns that can be read side by side on so wide a terminal."""
    from rich.cells import cell_len  # noqa: PLC0415 - as above

    def needed(n: int) -> int:
        longest = max(cell_len(text) for text in (columns[n], *(row[n] for row in rows)))
        return 3 + (longest if columns[n] in FIRM else min(longest, READABLE))

    kept = list(range(len(columns)))
    for name in spare:
        if sum(map(needed, kept)) <= width:
            break
        kept.remove(columns.index(name))
    return kept


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
