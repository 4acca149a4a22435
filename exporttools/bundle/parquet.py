"""One part of a bundle as a Parquet file, and back. The declared schema, page checksums, zstd."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from exporttools.schema import Record
from exporttools.snapshot_table import SnapshotTable, SnapshotType

T = TypeVar("T", bound=SnapshotType)


def write_part(table: SnapshotTable[SnapshotType], path: Path) -> None:
    """Write a table; units and meanings go into the schema's metadata."""
    # The file is opened here: given a path, pyarrow removes what was there when it fails.
    with path.open("xb") as file:
        pq.write_table(
            table.to_arrow(),
            file,
            compression="zstd",
            write_page_checksum=True,  # most one-bit flips in a page give wrong values and no error without it
        )


def read_part(snapshot_type: type[T], path: Path) -> SnapshotTable[T]:
    """Read a table back.

    Raises
    ------
    ValueError
        The file's schema is not the record's.
    pyarrow.ArrowException, OSError
        The file is no Parquet file, or damaged.
    ConfigError, InconsistentData
        A value is one that its column forbids.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        require_schema(snapshot_type.RECORD, file.schema_arrow)
        table = file.read()
        table.validate(full=True)  # text that is not UTF-8 would be found only when it is looked at
        return SnapshotTable(snapshot_type, table)


def require_schema(record: Record, found: pa.Schema) -> None:
    """Raise where a schema does not begin with exactly the record's columns.

    Raises
    ------
    ValueError
        Says the first column that differs.
    """
    for i, field in enumerate(record.arrow_schema()):
        there = found.field(i) if i < len(found) else None
        if there is None or not there.equals(field):  # metadata apart
            raise ValueError(f"column {i} is {_shown(there)}; expected {_shown(field)}")
    if len(set(found.names)) < len(found.names):
        raise ValueError(f"a column name twice in {', '.join(found.names)}")
    context = sorted({column.name for column in record.context}.intersection(found.names))
    if context:  # a SnapshotTable passes over them, so no digest would cover them
        raise ValueError(f"column {context[0]}, which {record.table} in a bundle has no place for")


def _shown(field: pa.Field | None) -> str:
    return "none" if field is None else f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"
