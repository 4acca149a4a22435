"""Redaction: which text columns can be removed from a bundle, and the tables without their text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from exporttools.errors import ConfigError
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType
from exporttools.text.inert import one_line
from exporttools.text.words import plural

S = TypeVar("S", bound=SnapshotType)


def _fields(tables: Mapping[str, SnapshotTable[Any]]) -> dict[str, pa.Field]:
    """Every column of a bundle, as ``table.column``."""
    return {f"{table.record_type.table}.{field.name}": field for table in tables.values() for field in table.schema}


def _require_redactable(fields: Mapping[str, pa.Field], name: str) -> None:
    if name not in fields:
        why = "there is no such column"
    elif fields[name].type != pa.string():
        why = f"it holds {fields[name].type}, not text"
    elif not fields[name].nullable:
        why = "every row needs a value there"
    else:
        return
    redactable = [found for found, field in fields.items() if field.type == pa.string() and field.nullable]
    raise ConfigError(
        f"{one_line(name)!r} cannot be redacted: {why}. Redactable columns: {one_line(', '.join(redactable), 1000)}"
    )


def matching_columns(tables: Mapping[str, SnapshotTable[Any]], column: str) -> list[str]:
    """Return the full names of the columns that ``table.column``, or ``column`` alone, refers to."""
    if not isinstance(column, str):
        raise ConfigError(f"{one_line(repr(column))} cannot be redacted: expected a column name such as 'runs.goal'")
    fields = _fields(tables)
    names = [name for name, field in fields.items() if field.name == column]
    if column in fields or not names:
        names = [column]
    for name in names:  # all or none: text left in one table would go unnoticed
        _require_redactable(fields, name)
    return names


def without_text(table: SnapshotTable[S], redacted: Iterable[str]) -> SnapshotTable[S]:
    """Return the table with NULL in the redacted columns, in new buffers: a mask would leave the text beneath it."""
    arrow = table.to_arrow()
    for i, field in enumerate(arrow.schema):
        if f"{table.record_type.table}.{field.name}" in redacted:
            arrow = arrow.set_column(i, field, pa.nulls(arrow.num_rows, field.type))
    return SnapshotTable(table.snapshot_type, arrow)


def redacted_columns(tables: Mapping[str, SnapshotTable[Any]], redacted: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the redacted columns, sorted and unique.

    Raises
    ------
    ConfigError
        A column cannot be redacted, or still holds a value.
    """
    names = None if isinstance(redacted, str) or not isinstance(redacted, Iterable) else list(redacted)
    if names is None or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"redacted is {one_line(repr(redacted))}; expected column names such as ['runs.goal']")
    fields = _fields(tables)
    for name in names:
        _require_redactable(fields, name)
    for table in tables.values():
        for column, field in zip(table.to_arrow().columns, table.schema, strict=True):
            name, values = f"{table.record_type.table}.{field.name}", len(column) - column.null_count
            if name in names and values:
                hold = f"{values:,} of {plural(len(column), 'row')} {'holds' if values == 1 else 'hold'} a value"
                raise ConfigError(f"{one_line(name)!r} is listed as redacted, but {hold}")
    return tuple(sorted(set(names)))
