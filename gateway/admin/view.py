"""Rows for people: aligned text everywhere, with lines and colours where a terminal shows it.

Everything that came from outside passes ``printable`` first: a message must not be able to steer the terminal.
"""

from __future__ import annotations

import base64
import binascii
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.admin.rows import Row

__all__ = ["Column", "content_text", "facts", "printable", "sheet_text", "show", "show_status"]

_BINARY_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class Column:
    """``key`` of the row, ``title`` of the column; numbers stand right."""

    key: str
    title: str
    right: bool = False


def printable(text: str) -> str:
    """``text`` with control and other unprintable characters as Python escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, dict):
        return " ".join(f"{key}={_cell(item)}" for key, item in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return printable(str(value))


def sheet_text(columns: Sequence[Column], rows: Iterable[Mapping[str, object]]) -> str:
    """Aligned columns under their titles; no trailing blanks."""
    table = [[column.title for column in columns], *([_cell(row.get(column.key)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    return "\n".join(_aligned(columns, widths, line) for line in table)


def _aligned(columns: Sequence[Column], widths: Sequence[int], line: Sequence[str]) -> str:
    cells = zip(columns, widths, line, strict=True)
    return "  ".join(text.rjust(width) if column.right else text.ljust(width) for column, width, text in cells).rstrip()


def show(columns: Sequence[Column], rows: Sequence[Row], nothing: str) -> None:
    """Print a table; ``nothing`` where it would be empty."""
    if not rows:
        click.echo(nothing)
    elif sys.stdout.isatty():
        _show_rich(columns, rows)
    else:
        click.echo(sheet_text(columns, rows))


def _show_rich(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        # Text, not str: square brackets in a cell are not markup
        table.add_row(*(Text(_cell(row.get(column.key)), style=_style(column.key, row)) for column in columns))
    Console().print(table)


def _style(key: str, row: Mapping[str, object]) -> str:
    value = row.get(key)
    if key == "state":
        return "green" if value in ("online", "running") else "yellow"
    if key in ("dead_letter", "gaps", "held") and value:
        return "red"
    return ""


def facts(row: Mapping[str, object]) -> str:
    """One row as ``name  value`` lines."""
    width = max(map(len, row), default=0)
    return "\n".join(f"{key.replace('_', ' ').ljust(width)}  {_cell(value)}" for key, value in row.items())


def content_text(row: Mapping[str, object]) -> str:
    """The content of a revealed row, segment by segment, with what no terminal should see escaped."""
    try:
        body = base64.b64decode(str(row.get("data_base64", "")), validate=True)
    except (binascii.Error, ValueError):
        return "(not readable)"
    try:
        text = body.decode(str(row.get("charset") or "utf-8"), "backslashreplace")
    except (LookupError, UnicodeError):
        text = body.decode("latin-1")
    return "\n".join(printable(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


_SOURCES: Final = (
    Column("name", "SOURCE"),
    Column("accepted", "ACCEPTED", right=True),
    Column("duplicates", "DUPLICATES", right=True),
    Column("refused", "REFUSED", right=True),
    Column("connections", "CONNECTIONS", right=True),
)
_ROUTES: Final = (
    Column("name", "ROUTE"),
    Column("state", "STATE"),
    Column("accepted", "ACCEPTED", right=True),
    Column("delivered", "DELIVERED", right=True),
    Column("queued", "QUEUED", right=True),
    Column("held", "HELD", right=True),
    Column("dead_letter", "DEAD LETTERS", right=True),
    Column("filtered", "FILTERED", right=True),
    Column("gaps", "GAPS", right=True),
    Column("oldest_age_s", "OLDEST S", right=True),
    Column("next_attempt_s", "NEXT TRY S", right=True),
    Column("last_error", "LAST ERROR"),
)


def show_status(status: Row) -> None:
    """The whole status for people."""
    click.echo("\n".join(_headline(status)))
    for columns, key, nothing in ((_SOURCES, "sources", "no sources"), (_ROUTES, "routes", "no routes")):
        rows = status.get(key)
        click.echo()
        show(columns, rows if isinstance(rows, list) else [], nothing)


def _headline(status: Row) -> list[str]:
    state = str(status.get("state", "")).replace("_", " ")
    why = f" ({_cell(status['cause'])})" if status.get("cause") else ""
    lines = [f"gateway {_cell(status.get('gateway'))} is {state}{why}"]
    journal = status.get("journal")
    if isinstance(journal, dict):
        used, quota, blocks = (journal.get(key, 0) for key in ("bytes", "quota", "blocks"))
        limit = f" of {_size(quota)}" if quota else ""
        lines.append(f"journal {_size(used)}{limit}, {blocks} blocks")
    if status.get("counts") == "stale":
        lines.append("the counts are the last known ones")
    return lines


def _size(count: object) -> str:
    amount, unit = float(count) if isinstance(count, int) else 0.0, 0
    while amount >= 1024 and unit < len(_BINARY_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.0f} {_BINARY_UNITS[unit]}" if unit == 0 else f"{amount:.1f} {_BINARY_UNITS[unit]}"
