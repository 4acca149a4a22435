"""Compares two bundles: whether they hold the same rows and, if not, which rows and columns differ.

Works on rows in memory, matched by their keys. Whether a bundle can be believed is not decided here: files are opened and
demands are checked only by :mod:`exporttools.bundle.reader`, whose verdicts are passed on.
"""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.bundle.demands import Demands, TrustedKeySources
from exporttools.bundle.reader import read_demanded
from exporttools.errors import ConfigError
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import RECORD_TYPES, RecordType
from exporttools.text.inert import html_text, one_line
from exporttools.text.words import plural

SHOWN_DIFFERENCES = 10
"""How many differences are written out."""

IN_MEMORY = "given in memory, not verified here"

_VALUE_CHARACTERS = 80
_CHARACTERS_BEFORE = 20
_LINE_WIDTH = 800

_CHANGES = ("changed", "only in a", "only in b")

_SCHEMA = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("change", pa.string(), nullable=False),
        pa.field("column", pa.string()),
        # Not string, whose offsets end at 2 GiB: the sorted texts of a whole trace may be longer.
        pa.field("a", pa.large_string()),
        pa.field("b", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True, repr=False)
class Comparison:
    """The differences between two bundles, a and b. True if they are the same.

    Attributes
    ----------
    differences : pyarrow.Table
        One row for each value that differs and for each row that only one of them has, ordered by table, key and column:
        ``table``, ``key``, ``change`` (``changed``, ``only in a`` or ``only in b``), ``column``, ``a``, ``b``. All are
        text. ``a`` and ``b`` are the two values, in full; NULL stays NULL. For a row that is only in one of them,
        ``column``, ``a`` and ``b`` are NULL.
    trace_counts : tuple of int
        How many traces the run has, according to a and to b; a difference if they are not equal.
    columns_only_in_a, columns_only_in_b : tuple of str
        Extra columns that the other does not have, such as ``trace_steps.model``; a difference. A column whose type
        differs is in both.
    redacted : tuple of str
        Columns that were not compared because one of them is redacted, such as ``runs.goal``; not a difference.
    verdicts : tuple of (str or None)
        What verifying a and b gave, such as ``authentic, signed by alice`` or ``intact, unsigned``; None for a bundle that
        was given in memory. That two bundles are the same does not make either of them authentic.
    """

    differences: pa.Table
    trace_counts: tuple[int, int]
    columns_only_in_a: tuple[str, ...] = ()
    columns_only_in_b: tuple[str, ...] = ()
    redacted: tuple[str, ...] = ()
    verdicts: tuple[str | None, str | None] = (None, None)

    @property
    def same(self) -> bool:
        """Whether nothing that was compared differs."""
        in_a, in_b = self.trace_counts
        return in_a == in_b and not (self.differences.num_rows or self.columns_only_in_a or self.columns_only_in_b)

    def __bool__(self) -> bool:
        return self.same

    def to_pandas(self) -> Any:  # this room does not import pandas, not even for its types
        """The differences as a new :class:`pandas.DataFrame` with the same columns, all of type ``str``."""
        return self.differences.to_pandas()

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON.

        Returns
        -------
        dict
            ``rows`` has, for each table, how many rows are ``changed``, ``only_in_a`` and ``only_in_b``, and under
            ``columns`` in how many rows each column differs, if it does.
        """
        return {
            "same": self.same,
            "rows": self._counts(),
            "trace_counts": dict(zip("ab", self.trace_counts, strict=True)),
            "columns_only_in_a": list(self.columns_only_in_a),
            "columns_only_in_b": list(self.columns_only_in_b),
            "redacted": list(self.redacted),
            "verdicts": dict(zip("ab", self.verdicts, strict=True)),
            "differences": self.differences.to_pylist(),
        }

    def __repr__(self) -> str:
        return f"<Comparison: {self._summary()[0]}>"

    def __str__(self) -> str:
        headline, *summary = self._summary()
        lines = [headline, *(f"  {line}" for line in summary)]
        if shown := self._shown():
            lines.append(self._caption())
        for row, change, column, in_a, in_b in shown:
            in_words = f"{column} is {in_a} in a, {in_b} in b" if change == "changed" else change
            lines.append(f"  {row}: {in_words}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        headline, *summary = self._summary()
        items = "".join(f"<li>{html_text(line, _LINE_WIDTH)}</li>" for line in summary)
        # No tick: that two files are the same proves nothing about either.
        html = f"<p><b>{'=' if self.same else '≠'} {html_text(headline)}</b></p><ul>{items}</ul>"
        if not (shown := self._shown()):
            return html
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in ("row", "change", "column", "a", "b"))
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left'>{html_text(cell, _LINE_WIDTH)}</td>" for cell in difference)
            + "</tr>"
            for difference in shown
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{html}<p>{self._caption()}</p>{table}"

    def _caption(self) -> str:
        count = self.differences.num_rows
        return (
            f"the first {SHOWN_DIFFERENCES} of {count:,} differences:" if count > SHOWN_DIFFERENCES else "differences:"
        )

    def _summary(self) -> list[str]:
        """A headline, then a line for each table and each other thing that differs; safe to show."""
        counts = self._counts()
        rows = sum(found[_json_name(change)] for found in counts.values() for change in _CHANGES)
        if self.same:
            headline = "the same rows, as far as compared" if self.redacted else "the same rows"
        else:
            differing = f": {plural(rows, 'row differs', 'rows differ')}" if rows else ""
            headline = f"not the same{differing}"
        lines = [headline, *(f"{table}: {words}" for table, found in counts.items() if (words := _in_words(found)))]
        in_a, in_b = self.trace_counts
        if in_a != in_b:
            lines.append(f"traces of the run: {in_a:,} in a, {in_b:,} in b")
        of_another_type = set(self.columns_only_in_a) & set(self.columns_only_in_b)
        for what, columns in (
            ("columns only in a", set(self.columns_only_in_a) - of_another_type),
            ("columns only in b", set(self.columns_only_in_b) - of_another_type),
            ("columns whose type differs", of_another_type),
            ("redacted in one of them, not compared", self.redacted),
        ):
            if columns:
                lines.append(f"{what}: {_listed(sorted(columns))}")
        if any(self.verdicts):
            lines += [f"{name}: {verdict or IN_MEMORY}" for name, verdict in zip("ab", self.verdicts, strict=True)]
        return lines

    def _counts(self) -> dict[str, dict[str, Any]]:
        """By table: how many rows changed or are only in one, and in how many each column differs, most first."""
        counts: dict[str, dict[str, Any]] = {
            table: {**{_json_name(change): 0 for change in _CHANGES}, "columns": {}} for table in RECORD_TYPES
        }
        rows = self.differences.group_by(["table", "change"]).aggregate([("key", "count_distinct")])
        for found in rows.to_pylist():
            counts[found["table"]][_json_name(found["change"])] = found["key_count_distinct"]
        values = self.differences.filter(pc.field("column").is_valid())
        values = values.group_by(["table", "column"]).aggregate([([], "count_all")])
        for found in values.sort_by([("count_all", "descending"), ("column", "ascending")]).to_pylist():
            counts[found["table"]]["columns"][found["column"]] = found["count_all"]
        return counts

    def _shown(self) -> list[tuple[str, str, str, str, str]]:
        """Row, change, column and both values of the first differences, safe to show."""
        found = self.differences.slice(0, SHOWN_DIFFERENCES).to_pylist()
        return [
            (f"{RECORD_TYPES[row['table']].noun} {one_line(row['key'], 80)}", row["change"], *_shown_values(row))
            for row in found
        ]


def compare_bundles(
    a: ExportBundle | str | os.PathLike[str],
    b: ExportBundle | str | os.PathLike[str],
    *,
    trusted_keys: TrustedKeySources = None,
    require_trusted: bool = True,
    threshold: int = 1,
) -> Comparison:
    """Say whether two bundles hold the same rows and, if not, which rows and columns differ.

    Parameters
    ----------
    a, b : ExportBundle, str or path
        A path is read as by :func:`read_bundle`. A bundle in memory is compared as it is.
    trusted_keys, require_trusted, threshold
        What you demand of each bundle that is read from a path; see :func:`verify_bundle`.

    Returns
    -------
    Comparison
        True if they are the same.

    Raises
    ------
    ConfigError
        One of them is neither a bundle nor a path; a key is not valid; keys are given, and there is no path to check.
    VerificationFailed, BundleUnreadable
        The files at a path are not what the bundle says they are, not signed as demanded, or not a bundle; see
        :func:`read_bundle`.
    MissingExtra
        There are trusted keys, and the extra ``sign`` is not installed.

    Notes
    -----
    Rows are matched by key: an incident by ``id``, a run by ``run_id``, a trace by ``trace_id``, a step by its
    ``step_index``, even if the two traces have different ids. Floats are compared by value, times to the microsecond.
    When and where the bundles were read makes no difference; nor does the order of extra columns, although the content
    digest depends on it. A column that is redacted in only one of them is named and not compared.

    Examples
    --------
    >>> from exporttools import RunSnapshot
    >>> a = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme", goal="sort the mail", total_cost_cents=12))
    >>> b = ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme", goal="sort the mail", total_cost_cents=15))
    >>> print(compare_bundles(a, b))
    not the same: 1 row differs
      runs: 1 changed (total_cost_cents in 1)
    differences:
      run r1: total_cost_cents is '12' in a, '15' in b
    >>> print(compare_bundles(a, a.redact("runs.goal")))
    the same rows, as far as compared
      redacted in one of them, not compared: runs.goal
    """
    demands = Demands.of(trusted_keys, require_trusted=require_trusted, threshold=threshold)
    if demands.trusted_keys and isinstance(a, ExportBundle) and isinstance(b, ExportBundle):
        raise ConfigError(
            "trusted_keys are given, but both bundles are in memory, without signatures; give a path, or no keys"
        )
    (in_a, verdict_a), (in_b, verdict_b) = _bundle(a, "a", demands), _bundle(b, "b", demands)
    redacted = set(in_a.redacted) ^ set(in_b.redacted)
    differences: list[pa.Table] = []
    only_in_a: list[str] = []
    only_in_b: list[str] = []
    for part, of_a in in_a.tables.items():
        of_b, record_type = in_b.tables[part], of_a.record_type
        types_a, types_b = (dict(zip(of.schema.names, of.schema.types, strict=True)) for of in (of_a, of_b))
        shared = [name for name in record_type.names if f"{record_type.table}.{name}" not in redacted]
        # Extra columns come in any order: sorted, a with b differs as b with a does.
        for name in sorted({*of_a.extra_columns, *of_b.extra_columns}):
            column = f"{record_type.table}.{name}"
            if types_a.get(name) != types_b.get(name):
                only_in_a += [column] * (name in types_a)
                only_in_b += [column] * (name in types_b)
            elif column not in redacted:
                shared.append(name)
        differences.append(_row_differences(record_type, of_a.to_arrow(), of_b.to_arrow(), shared))
    return Comparison(
        pa.concat_tables(differences),
        (in_a.trace_count, in_b.trace_count),
        columns_only_in_a=tuple(sorted(only_in_a)),
        columns_only_in_b=tuple(sorted(only_in_b)),
        redacted=tuple(sorted(redacted.difference(only_in_a, only_in_b))),
        verdicts=(verdict_a, verdict_b),
    )


def _bundle(
    given: ExportBundle | str | os.PathLike[str], name: str, demands: Demands
) -> tuple[ExportBundle, str | None]:
    """The bundle, and its verdict if it was read here."""
    if isinstance(given, ExportBundle):
        return given, None
    if isinstance(given, (str, os.PathLike)):
        bundle, verification = read_demanded(given, demands)
        return bundle, verification.verdict
    raise ConfigError(f"{name} is of type {type(given).__name__}; expected an ExportBundle or the path of a bundle")


def _row_differences(record_type: RecordType, a: pa.Table, b: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The differences of two tables of one record type, ordered by key, then by `columns`.

    Keys are unique in each table, and both are sorted by key.
    """
    (key,) = record_type.key
    found, keys, in_both = [], a[key], None
    if not keys.equals(b[key]):
        numpy_keys = keys.to_numpy(), b[key].to_numpy()
        # pyarrow's own is_in takes ten times as long.
        in_both = [pa.array(np.isin(*of, assume_unique=True)) for of in (numpy_keys, numpy_keys[::-1])]
        for of, mask, change in zip((a, b), in_both, ("only in a", "only in b"), strict=True):
            found.append(_found(of[key].filter(pc.invert(mask)), change))
        keys = keys.filter(in_both[0])
    for place, column in enumerate(columns):
        values = [a[column], b[column]]
        if in_both:  # column by column, so that no copy of a whole table is in memory
            values = [of.filter(mask) for of, mask in zip(values, in_both, strict=True)]
        # If one of two values is NULL, so is not_equal; if both are, they are equal.
        differ = pc.coalesce(pc.not_equal(*values), pc.xor(*map(pc.is_null, values)))
        if pc.any(differ).as_py():
            values = [of.filter(differ) for of in values]
            found.append(_found(keys.filter(differ), "changed", column, values, place=place))
    if not found:
        return _SCHEMA.empty_table()
    rows = pa.concat_tables(found).sort_by([("key", "ascending"), ("place", "ascending")])
    table = pa.repeat(record_type.table, rows.num_rows)
    return rows.drop_columns("place").add_column(0, "table", table).cast(_SCHEMA)


def _found(
    keys: pa.ChunkedArray,
    change: str,
    column: str | None = None,
    values: Sequence[pa.ChunkedArray] = (),
    *,
    place: int = 0,
) -> pa.Table:
    """Differences of one kind in one column, not yet sorted; the key keeps its type, for sorting."""
    rows = len(keys)
    a, b = [of.cast(pa.large_string()) for of in values] or [pa.nulls(rows, pa.large_string())] * 2
    constants = [
        pa.repeat(pa.scalar(value, kind), rows)
        for value, kind in ((place, pa.int32()), (change, pa.string()), (column, pa.string()))
    ]
    return pa.table([keys, *constants, a, b], names=["key", "place", "change", "column", "a", "b"])


def _json_name(change: str) -> str:
    return change.replace(" ", "_")


def _in_words(counts: Mapping[str, Any]) -> str:
    """How many rows of one table differ, and in which columns; empty if none do."""
    words = [f"{rows:,} {change}" for change in _CHANGES if (rows := counts[_json_name(change)])]
    if counts["columns"]:
        words[0] += f" ({_listed(f'{one_line(column)} in {rows:,}' for column, rows in counts['columns'].items())})"
    return ", ".join(words)


def _listed(names: Iterable[str]) -> str:
    # Each is made inert by itself: an escape sequence that one name begins must not swallow the next.
    return one_line(", ".join(map(one_line, names)), _LINE_WIDTH // 2)


def _shown_values(difference: Mapping[str, Any]) -> tuple[str, str, str]:
    """A column and its two values, cut and safe to show; empty if the row is only in one bundle."""
    column, a, b = difference["column"], difference["a"], difference["b"]
    if column is None:
        return "", "", ""
    if a is None or b is None:
        return one_line(column, 80), _quoted(a), _quoted(b)
    # The first character that differs, found by bisection: texts may be megabytes long.
    parting = bisect_left(range(min(len(a), len(b)) + 1), True, key=lambda count: a[:count] != b[:count])
    start = max(0, parting - _CHARACTERS_BEFORE) if max(len(a), len(b)) > _VALUE_CHARACTERS else 0
    shown = _quoted(a, start), _quoted(b, start)
    alike = len({unicodedata.normalize("NFC", text) for text in shown}) == 1
    where = f" (from character {parting:,})" if start or alike else ""
    return one_line(column, 80) + where, *shown


def _quoted(value: str | None, start: int = 0) -> str:
    if value is None:
        return "NULL"
    end = start + _VALUE_CHARACTERS
    return one_line(f"{'…' if start else ''}{value[start:end]!r}{'…' if value[end:] else ''}", _LINE_WIDTH)
