"""Which text columns may be taken out of a bundle, and the tables without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from exporttools.errors import ConfigError
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType
from exporttools.text.inert import one_line

S = TypeVar("S", bound=SnapshotType)


def _fields(tables: Mapping[str, SnapshotTable[Any]]) -> dict[str, pa.Field]:
    """Every column of a bundle, by its table's and its own name."""
    return {f"{table.record_type.table}.{field.name}": field for table in tables.values() for field in table.schema}


def _require_redactable(fields: Mapping[str, pa.Field], name: str) -> None:
    if name not in fields:
        why = "there is no such column"
    elif fields[name].type != pa.string():
        why = f"it holds no text, but {fields[name].type}"
    elif not fields[name].nullable:
        why = "every row needs a value there"
    else:
        return
    accepted = [found for found, field in fields.items() if field.type == pa.string() and field.nullable]
    raise ConfigError(
        f"{one_line(name)!r} cannot be redacted: {why}. What can be: {one_line(', '.join(accepted), 1000)}"
    )


def matching_columns(tables: Mapping[str, SnapshotTable[Any]], column: str) -> list[str]:
    """The full names that ``table.column`` or ``column`` alone stands for."""
    if not isinstance(column, str):
        raise ConfigError(f"{one_line(repr(column))} cannot be redacted: expected a column's name, such as 'runs.goal'")
    fields = _fields(tables)
    names = [name for name, field in fields.items() if field.name == column]
    if column in fields or not names:
        names = [column]
    for name in names:  # all or none: a text that stayed in one of the tables would go unnoticed
        _require_redactable(fields, name)
    return names


def without_text(table: SnapshotTable[S], redacted: Iterable[str]) -> SnapshotTable[S]:
    """The table with NULL in the redacted columns, in buffers of their own: a mask would leave the text beneath it."""
    arrow = table.to_arrow()
    for i, field in enumerate(arrow.schema):
        if f"{table.record_type.table}.{field.name}" in redacted:
            arrow = arrow.set_column(i, field, pa.nulls(arrow.num_rows, field.type))
    return SnapshotTable(table.snapshot_type, arrow)


def redacted_columns(tables: Mapping[str, SnapshotTable[Any]], redacted: Iterable[str]) -> tuple[str, ...]:
    """The redacted columns' names, sorted, each once.

    Raises
    ------
    ConfigError
        One cannot be redacted, or has a value.
    """
    names = None if isinstance(redacted, str) or not isinstance(redacted, Iterable) else list(redacted)
    if names is None or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"redacted is {one_line(repr(redacted))}; expected names of columns, such as ['runs.goal']")
    fields = _fields(tables)
    for name in names:
        _require_redactable(fields, name)
    for table in tables.values():
        for column, field in zip(table.to_arrow().columns, table.schema, strict=True):
            name, values = f"{table.record_type.table}.{field.name}", len(column) - column.null_count
            if name in names and values:
                found = f"found a value in {values} of {len(column)} rows"
                raise ConfigError(f"{one_line(name)!r} is said to be redacted; expected NULL, {found}")
    return tuple(sorted(set(names)))
