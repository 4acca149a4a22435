"""The rules for a record's values, and the error that names the row that breaks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import InconsistentData
from exporttools.records.schema import Column
from exporttools.times import EARLIEST, LATEST, epoch_us


@dataclass(frozen=True, slots=True)
class Origin:
    """How error messages refer to rows.

    Attributes
    ----------
    table : str
        The stored table's name.
    within : str
        What all the rows share and their key leaves out, such as ``trace_id='t1'``.
    """

    table: str
    within: str = ""

    def fault(self, key: str, column: str, found: str, expected: str) -> InconsistentData:
        """Return the error for a row with a value that its column forbids."""
        where = ", ".join(part for part in (self.within, key) if part)
        return InconsistentData(
            f"{self.table}: row {where} has {column} = {found}; expected {expected}. "
            f"Nothing was changed; fix the row at its source, or map the column in a layout.",
            table=self.table, key=where, column=column,
        )  # fmt: skip


def require_valid(table: pa.Table, columns: Sequence[Column], *, origin: Origin, key: Sequence[str]) -> None:
    """Raise at the first value that its column forbids.

    Forbidden are NULL in a column that is not nullable, NaN and infinity, numbers below the column's minimum, and
    times outside the years 1 to 9999 (the range of :class:`datetime.datetime`).

    Parameters
    ----------
    table : pyarrow.Table
        Holds at least `columns`, with their types.
    columns : sequence of Column
    origin : Origin
        How the message refers to the rows.
    key : sequence of str
        The columns that identify a row, in order. Those missing from the table are skipped.

    Raises
    ------
    InconsistentData
        Names the table, the row's key and the column.
    """
    for column in columns:
        values = table[column.name]
        for rule, broken in _broken_rules(column, values):
            row = pc.index(broken, pa.scalar(True)).as_py()
            where = ", ".join(f"{name}={table[name][row].as_py()!r}" for name in key if name in table.column_names)
            raise origin.fault(where, column.name, _found(values, row), rule)


def _broken_rules(column: Column, values: pa.ChunkedArray) -> Iterator[tuple[str, Any]]:
    """Yield each broken rule with a mask of the rows that break it. Cheap checks of the whole column come first."""
    if not column.nullable and values.null_count:
        yield f"{column.described}, never NULL", pc.is_null(values)
    if len(values) == values.null_count:
        return
    if column.type == "float64" and not pc.all(pc.is_finite(values)).as_py():
        yield "a finite number", pc.invert(pc.fill_null(pc.is_finite(values), True))
    if column.type == "timestamp":
        integers = values.cast(pa.int64())
        extent = pc.min_max(integers)
        low, high = epoch_us(EARLIEST), epoch_us(LATEST)
        if extent["min"].as_py() < low or extent["max"].as_py() > high:
            outside = pc.or_(pc.less(integers, low), pc.greater(integers, high))
            yield "a time in the years 1 to 9999", pc.fill_null(outside, False)
    if column.minimum is not None and pc.min(values).as_py() < column.minimum:
        yield f"at least {column.minimum}", pc.fill_null(pc.less(values, column.minimum), False)


def _found(values: pa.ChunkedArray, row: int) -> str:
    scalar = values[row]
    if not scalar.is_valid:
        return "NULL"
    try:
        return repr(scalar.as_py()) if not pa.types.is_timestamp(values.type) else str(scalar.as_py())
    except (ValueError, OverflowError):  # a time out of datetime's range
        return f"{scalar.cast(pa.int64()).as_py()} µs since 1970"
