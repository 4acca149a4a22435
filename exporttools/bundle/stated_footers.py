"""Reads the footer that a file has, takes the little from it that is a stranger's to say, and compares the rest.

What is taken: names and types of extra columns, units and meanings of those that are not well-known, and how many rows each
row group has. Knows no pages and no rows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from exporttools.bundle.format_1 import ARROW_SCHEMA_KEY, read_arrow_schema
from exporttools.bundle.page_headers import STATISTICS_NAMES
from exporttools.bundle.parquet_footers import (
    COLUMNS_KEY,
    MAGIC,
    ROW_GROUP_ROWS,
    TYPES,
    column_chunk,
    described,
    head_of,
    schema_of,
)
from exporttools.bundle.parquet_pages import Chunk, read_at
from exporttools.bundle.thrift import (
    I32,
    I64,
    Fields,
    Names,
    decode,
    octets_of,
    require_same,
    require_shortest,
    structs_of,
)
from exporttools.records.schema import Column, RecordType
from exporttools.text.strict_json import parse_object

MOST_FOOTER_BYTES = 16 << 20
MOST_COLUMNS = 200

# SQL has no column without a name, and pyarrow's datasets give these to columns of their own.
_UNREADABLE_NAMES = {"", "__filename", "__fragment_index", "__batch_index", "__last_in_fragment"}

_KEY_VALUE: Names = {1: "key", 2: "value"}
_SCHEMA_ELEMENT: Names = {
    1: "type", 2: "type_length", 3: "repetition_type", 4: "name", 5: "num_children", 6: "converted_type", 7: "scale",
    8: "precision", 9: "field_id", 10: ("logicalType", {1: "STRING", 5: "DECIMAL", 8: ("TIMESTAMP", {1: "isAdjustedToUTC", 2: "unit"})}),
}  # fmt: skip
_CHUNK_NAMES: Names = {
    1: "file_path", 2: "file_offset", 3: ("meta_data", {
        1: "type", 2: "encodings", 3: "path_in_schema", 4: "codec", 5: "num_values", 6: "total_uncompressed_size",
        7: "total_compressed_size", 8: ("key_value_metadata", _KEY_VALUE), 9: "data_page_offset", 10: "index_page_offset",
        11: "dictionary_page_offset", 12: ("statistics", STATISTICS_NAMES),
        13: ("encoding_stats", {1: "page_type", 2: "encoding", 3: "count"}), 14: "bloom_filter_offset",
        15: "bloom_filter_length",
        16: ("size_statistics", {1: "unencoded_byte_array_data_bytes", 2: "repetition_level_histogram", 3: "definition_level_histogram"}),
        17: "geospatial_statistics",
    }), 4: "offset_index_offset", 5: "offset_index_length", 6: "column_index_offset", 7: "column_index_length",
    8: "crypto_metadata", 9: "encrypted_column_metadata",
}  # fmt: skip
_FOOTER_NAMES: Names = {
    1: "version", 2: ("schema", _SCHEMA_ELEMENT), 3: "num_rows",
    4: ("row_groups", {
        1: ("columns", _CHUNK_NAMES), 2: "total_byte_size", 3: "num_rows", 4: "sorting_columns", 5: "file_offset",
        6: "total_compressed_size", 7: "ordinal",
    }),
    5: ("key_value_metadata", _KEY_VALUE), 6: "created_by", 7: ("column_orders", {1: "TYPE_ORDER"}),
    8: "encryption_algorithm", 9: "footer_signing_key_metadata",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Footer:
    """A footer as it is in a file.

    Attributes
    ----------
    fields : Fields
    octets : bytes
    start : int
        Where it begins, and so where the last page has to end.
    """

    fields: Fields
    octets: bytes
    start: int

    def structs(self, number: int) -> list[Fields]:
        """Return a list of structs, empty unless there is one."""
        return structs_of(self.fields, number)


def read_footer(file: io.RawIOBase | BinaryIO, size_bytes: int) -> Footer:
    """Read a footer, whatever it says.

    Raises
    ------
    ValueError
        The file is not a Parquet file, or its footer alone would exhaust memory (parquet-format, README: File format).
    """
    if size_bytes < 12:
        raise ValueError(f"not a Parquet file: expected at least 12 bytes; found {size_bytes}")
    start, end = read_at(file, 0, 4), read_at(file, size_bytes - 8, 8)
    if b"PARE" in (start, end[4:]):
        raise ValueError("an encrypted Parquet file")
    if start != MAGIC or end[4:] != MAGIC:
        raise ValueError(f"not a Parquet file: expected PAR1 at both ends; found {start!r} and {end[4:]!r}")
    footer_bytes = int.from_bytes(end[:4], "little")
    if footer_bytes > (most := min(MOST_FOOTER_BYTES, size_bytes - 12)):
        raise ValueError(f"a Parquet footer of {footer_bytes:,} bytes; expected at most {most:,}")
    octets = read_at(file, size_bytes - 8 - footer_bytes, footer_bytes)
    try:
        return Footer(decode(octets)[0], octets, size_bytes - 8 - footer_bytes)
    except IndexError:
        raise ValueError("a truncated Parquet footer") from None


def read_columns(record_type: RecordType, footer: Footer, *, format_version: int) -> tuple[tuple[Column, ...], Fields]:
    """Take the names and types of a file's extra columns, and hold everything but its row groups to them.

    Returns
    -------
    columns : tuple of Column
        The record type's, then the extra ones.
    head : Fields
        The footer without its row groups.

    Raises
    ------
    ValueError
        It is not the footer of such columns.
    """
    elements = footer.structs(2)[1:]
    if len(elements) > MOST_COLUMNS:
        raise ValueError(f"{len(elements):,} columns; expected at most {MOST_COLUMNS}")
    names = [octets_of(element, 4).decode() for element in elements]
    for i, name in enumerate(record_type.names):
        if names[i : i + 1] != [name]:
            raise ValueError(f"column {i} is {', '.join(map(repr, names[i : i + 1])) or 'missing'}; expected {name!r}")
    extra = [_extra_column(record_type, element) for element in elements[len(record_type.columns) :]]
    columns: tuple[Column, ...] = (*record_type.columns, *extra)
    require_names(record_type, columns, format_version=format_version)
    require_same(schema_of(columns), {2: footer.fields[2]}, _FOOTER_NAMES, "footer")
    metadata = {octets_of(pair, 1): octets_of(pair, 2) for pair in footer.structs(5)}
    if format_version == 1:
        metadata = {key: value for key, value in metadata.items() if key == ARROW_SCHEMA_KEY}
        for value in metadata.values():
            columns = read_arrow_schema(record_type, columns, value)
        head = head_of(columns, metadata=metadata, created_by=octets_of(footer.fields, 6))
    else:
        columns = _with_units(record_type, columns, metadata.get(COLUMNS_KEY, b"{}"))
        head = head_of(columns)
    found = {number: value for number, value in footer.fields.items() if number not in (3, 4)}
    require_same(head, found, _FOOTER_NAMES, "footer")
    return columns, head


def read_group_rows(footer: Footer, *, format_version: int) -> list[int]:
    """Take the numbers of rows of a file's row groups.

    Raises
    ------
    ValueError
        A row group has none, or more than are written.
    """
    found = [group.get(3) for group in footer.structs(4)]
    if format_version == 1 and found == [(I64, 0)]:  # pyarrow's way to write no rows at once
        return [0]
    for number, rows in enumerate(found):
        if rows is None or rows[0] != I64 or not 0 < rows[1] <= ROW_GROUP_ROWS:
            shown = f"{rows[1]:,}" if rows is not None and rows[0] == I64 else "no number of"
            raise ValueError(f"row group {number}: {shown} rows; expected 1 to {ROW_GROUP_ROWS:,}")
    return [rows for _, rows in filter(None, found)]


def require_names(record_type: RecordType, columns: Sequence[Column], *, format_version: int) -> None:
    """Raise if a column has a name that some readers do not have, or take for another's, or that no digest would cover.

    Raises
    ------
    ValueError
        Names the columns.
    """
    seen: dict[str, str] = {}
    for column in columns:
        if format_version > 1 and ("\0" in column.name or column.name in _UNREADABLE_NAMES):
            raise ValueError(f"a column called {column.name!r}; expected a name that every reader can give a column")
        name = column.name if format_version == 1 else column.name.casefold()
        if name in seen:  # DuckDB and SQL do not tell Tokens from tokens
            raise ValueError(
                f"columns {seen[name]!r} and {column.name!r}; expected names that differ in more than case"
            )
        seen[name] = column.name
    context = sorted({column.name for column in record_type.context}.intersection(seen.values()))
    if context:  # a SnapshotTable drops them, so no digest would cover them
        raise ValueError(f"column {context[0]}, which {record_type.table} in a bundle cannot have")


def _extra_column(record_type: RecordType, element: Fields) -> Column:
    name = octets_of(element, 4).decode()
    found = tuple(element[number][1] if number in element else None for number in (1, 6))
    for column_type, (physical, annotated) in TYPES.items():
        if found == (physical, annotated.get(6, (I32, None))[1]):
            column = record_type.extra_column(name, column_type)
            if not column.doc and (known := [each for each in record_type.extra if each.name == name]):
                raise ValueError(f"column {name!r} is of type {column_type}; expected {known[0].type}")
            return column
    raise ValueError(f"column {name!r} is of a type that bundles do not have; expected {', '.join(TYPES)}")


def _with_units(record_type: RecordType, columns: Sequence[Column], value: bytes) -> tuple[Column, ...]:
    """The columns with the units and meanings that a file gives to those that are not well-known; it cannot change others."""
    stated = parse_object(value, max_bytes=MOST_FOOTER_BYTES, max_depth=2)
    well_known = {*record_type.columns, *record_type.extra}
    read = []
    for column in columns:
        entry = stated.get(column.name, {})
        if column not in well_known:
            unit, doc = (entry.get(key, "") if isinstance(entry, dict) else "" for key in ("unit", "meaning"))
            if isinstance(unit, str) and isinstance(doc, str):
                column = replace(column, unit=unit or None, doc=doc)
        if entry != (expected := described(column)):
            raise ValueError(
                f"{COLUMNS_KEY.decode()}: {column.name}: expected {json.dumps(expected)}; found {json.dumps(entry)}"
            )
        read.append(column)
    return tuple(read)


def require_footer(expected: Fields, footer: Footer) -> None:
    """Raise unless a file's footer is the one that is expected, byte for byte."""
    require_same(expected, footer.fields, _FOOTER_NAMES, "footer")
    require_shortest(footer.fields, footer.octets, "footer")


def require_chunk(chunk: Chunk, found: Fields) -> None:
    """Raise unless a footer says of a column chunk what its pages say."""
    require_same(column_chunk(chunk), found, _CHUNK_NAMES, "footer")
