"""Results on standard output: tables for people, JSON and CSV for programs. Text from a database is made inert here."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from exporttools.errors import ConfigError
from exporttools.text.inert import csv_text, one_line
from exporttools.times import time_text

if TYPE_CHECKING:
    from rich.console import Console


_SHORT_TEXT, _GAP = 10, 3
"""How short a text may be shown, and what lies between two columns, in characters."""
_SENTENCE = 40
_VALUE = re.compile(r" +\S+(?: \S+)*  +")  # a label and what lies between it and its value


class Format(StrEnum):
    """How a command writes its result."""

    table = "table"
    json = "json"
    csv = "csv"


def write_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output: Format,
    *,
    verbatim: bool = False,
    wrapped: str | None = None,
    keys: Collection[str] = (),
) -> None:
    """Write rows to standard output.

    Parameters
    ----------
    rows : sequence of mapping
        Each has `columns`.
    columns : sequence of str
    output : Format
        ``json`` is one array of objects; ``csv`` has a header, and cells that a spreadsheet never reads as a formula.
    verbatim : bool
        Head a table with the names in `columns` as they are: for a query whose author named them.
    wrapped : str, optional
        The last column, if it is of sentences: continued on the next line of a table, and not shortened.
    keys : collection of str, optional
        Columns that tell rows apart, besides the first one: not shortened in a table.
    """
    if output is Format.json:
        write_json([{column: row[column] for column in columns} for row in rows])
    elif output is Format.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_csv_cell(row[column]) for column in columns] for row in rows)
    else:
        write_table(rows, columns, verbatim=verbatim, wrapped=wrapped, keys=keys)


def write_json(value: Any) -> None:
    """Write a value to standard output: times in ISO 8601, text in ASCII with escapes, so that no control code gets out.

    Raises
    ------
    ConfigError
        JSON has no such value: bytes, or a number that is not finite. Nothing is written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False, default=_json_value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the result cannot be written as JSON: {one_line(error)}; use another --format") from error
    sys.stdout.write(f"{text}\n")


def _json_value(value: Any) -> str | int | float:
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        whole, number = int(value), float(value)
        return whole if value == whole else number if Decimal(str(number)) == value else str(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _csv_cell(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return csv_text(value) if isinstance(value, str) else value


def write_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    highlight: int | None = None,
    verbatim: bool = False,
    wrapped: str | None = None,
    keys: Collection[str] = (),
) -> None:
    """Write a table for people. On a terminal, texts are shortened to its width, and the last columns left out if there is no
    room for them, which standard error says; a pipe gets them whole.

    Parameters
    ----------
    rows, columns, verbatim, wrapped, keys
        As for :func:`write_rows`.
    highlight : int, optional
        The index of a row to highlight.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    keys = {columns[0], *keys}
    shown, unbroken = _fitting(rows, columns, console.width, verbatim, keys)
    if left_out := list(columns[len(shown) :]):
        sys.stdout.flush()
        sys.stderr.write(
            f"no room for {', '.join(map(label, left_out))}: widen the terminal, or use --format json or csv\n"
        )
    columns = shown
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    widths = _wrapped_widths(rows, columns, console.width, verbatim) if wrapped in columns else {}
    numeric = {column for column in columns if any(_is_number(row[column]) for row in rows)}
    whole = numeric | {column for column in columns if any(isinstance(row[column], dt.datetime) for row in rows)}
    for column in columns:
        # What is short of room is taken from texts: half of a number, or of a time, is another one.
        shrinks = column not in whole and (column not in unbroken or _has_several_words(rows, column, verbatim))
        folds = column in keys or column == wrapped
        table.add_column(
            Text(column if verbatim else label(column), no_wrap=True, overflow="ellipsis"),
            justify="right" if column in numeric else "left",
            no_wrap=not shrinks and column not in widths,
            width=widths.get(column),
            min_width=min(_widest_word(rows, column, verbatim), console.width) if column in unbroken else None,
            overflow="fold" if folds else "ellipsis",
        )
    for i, row in enumerate(rows):
        style = "bold red" if i == highlight else ""
        table.add_row(
            *(
                Text(
                    _shown(column, row[column], verbatim, 400 if column == wrapped else 120),
                    style=style,
                    no_wrap=column not in keys and column != wrapped,
                    overflow="fold" if column in keys or column == wrapped else "ellipsis",
                )
                for column in columns
            )
        )
    console.print(table)


def _fitting(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int, verbatim: bool, keys: Collection[str]
) -> tuple[Sequence[str], Collection[str]]:
    """The first columns for which there is room, if texts are shortened and keys are not; and the keys whose words are
    not broken: where that leaves room for nothing but keys, only the first.
    """
    shown = _first_columns(rows, columns, width, verbatim, keys)
    if not set(shown) <= set(keys):
        return shown, keys
    return _first_columns(rows, columns, width, verbatim, columns[:1]), columns[:1]


def _first_columns(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int, verbatim: bool, unbroken: Collection[str]
) -> Sequence[str]:
    room = width
    for i, column in enumerate(columns):
        head = len(column if verbatim else label(column))
        if column in unbroken:
            needed = min(max(_widest_word(rows, column, verbatim), head), width)
        else:
            longest = max((len(_shown(column, row[column], verbatim)) for row in rows), default=0)
            whole = any(_is_number(row[column]) or isinstance(row[column], dt.datetime) for row in rows)
            needed = max(longest, head) if whole else min(max(longest, head), _SHORT_TEXT)
        room -= needed
        if room < 0 and i > 0:
            return columns[:i]
        room -= _GAP
    return columns


def _wrapped_widths(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], width: int, verbatim: bool
) -> dict[str, int]:
    """The widths of the first column and of the last, which is of sentences, so that as few lines as possible go on.

    The first column has room for its longest word: an id is not broken, though another may continue on the next line.
    """
    widest = {
        column: max(len(column if verbatim else label(column)), *(len(_shown(column, row[column], verbatim, 400)) for row in rows), 0)
        for column in columns
    }  # fmt: skip
    first, last = columns[0], columns[-1]
    room = width - sum(widest[column] + _GAP for column in columns[1:-1]) - _GAP
    if widest[first] + min(widest[last], _SENTENCE) > room:
        widest[first] = max(_widest_word(rows, first, verbatim), len(first))
    return {first: widest[first], last: max(min(widest[last], room - widest[first]), 1)}


def _widest_word(rows: Sequence[Mapping[str, Any]], column: str, verbatim: bool) -> int:
    return max((_longest_word(_shown(column, row[column], verbatim)) for row in rows), default=0)


def _has_several_words(rows: Sequence[Mapping[str, Any]], column: str, verbatim: bool) -> bool:
    widest = _widest_word(rows, column, verbatim)
    return any(len(_shown(column, row[column], verbatim)) > widest for row in rows)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def write_lines(text: str) -> None:
    """Write lines to standard output. On a terminal, one that is too long goes on below its value, never at the margin, where
    a verdict stands; a pipe gets whole lines.
    """
    console = _console()
    for line in text.splitlines():
        for piece in hanging(line, console.width):
            sys.stdout.write(f"{piece}\n")


def hanging(line: str, width: int) -> list[str]:
    """Return a line as lines of at most `width` cells, of which all but the first are indented.

    Examples
    --------
    >>> hanging("  rows  1 incident, 1 run, 40 steps", 24)
    ['  rows  1 incident, 1', '        run, 40 steps']
    """
    from rich.cells import cell_len, chop_cells

    if cell_len(line) <= width:
        return [line]
    label = _VALUE.match(line)
    indent = label.end() if label and label.end() <= width // 2 else 4
    room = max(width - indent, 1)
    lines, begun = [line[: label.end()] if label else ""], False
    for word in line[len(lines[0]) :].split(" "):
        for number, piece in enumerate(chop_cells(word, room) or [""]):  # a word that has no room on any line is cut
            glue = " " if begun and number == 0 else ""
            if lines[-1].strip() and cell_len(lines[-1] + glue + piece) > width:
                lines[-1] = lines[-1].rstrip()
                lines.append(" " * indent + piece)
            else:
                lines[-1] += glue + piece
            begun = True
    return lines


def write_heading(text: str) -> None:
    """Write a heading to standard output."""
    from rich.text import Text

    _console().print(Text(one_line(text, 300), style="bold"))


def write_fields(fields: Mapping[str, Any]) -> None:
    """Write one line per field, its name and value; NULLs are left out, except that a cost is then unknown."""
    width = max((len(label(name)) for name in fields), default=0)
    for name, value in fields.items():
        if value is not None or _is_cost(name):
            sys.stdout.write(f"  {label(name):<{width}}  {'unknown' if value is None else cell(value, 300)}\n")


def _shown(column: str, value: Any, verbatim: bool, width: int = 120) -> str:
    return "unknown" if value is None and _is_cost(column) and not verbatim else cell(value, width)


def _is_cost(column: str) -> bool:
    return column.endswith("cost_cents")


def label(column: str) -> str:
    """Return a column's name for people: unchanged, except that money is in US cents.

    Examples
    --------
    >>> label("step_type"), label("total_cost_cents"), label("cost_cents_per_run")
    ('step_type', 'total US cents', 'US cents per run')
    """
    words = column.split("_")
    if "cents" not in words:
        return column
    return " ".join("US cents" if word == "cents" else word for word in words if word != "cost")


def cell(value: Any, width: int = 120) -> str:
    """Return a value as one line of text.

    Examples
    --------
    >>> cell(1234567), cell(0.25), cell(None)
    ('1,234,567', '0.25', '')
    """
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        return time_text(value)
    if _is_number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return one_line(value, width)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _console() -> Console:
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            """Leave the exit code to the application: Rich exits with 1, which says that the answer is no."""
            raise

    # A pipe has no width: what reads it gets whole lines.
    width = None if sys.stdout.isatty() else 10_000
    return PipeConsole(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)
