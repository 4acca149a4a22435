"""The one footer that a part of a bundle has, built from its columns and pages (parquet.thrift: FileMetaData).

A Parquet footer says most things twice, and readers differ in which of the two they believe. So it is computed, by the writer
and by whoever reads. Knows no files and no rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from exporttools.bundle.page_headers import DATA_PAGE, DICTIONARY_PAGE, PLAIN, RLE, RLE_DICTIONARY
from exporttools.bundle.parquet_pages import Chunk
from exporttools.bundle.thrift import BINARY, BOOL, I32, I64, LIST, STRUCT, Fields, encode
from exporttools.records.schema import Column, ColumnType

MAGIC = b"PAR1"

ROW_GROUP_ROWS = 131_072

COLUMNS_KEY = b"exporttools.columns"
CREATED_BY = b"exporttools-bundle version 2"

_PYARROW = re.compile(rb"parquet-cpp-arrow version \d{1,4}\.\d{1,4}\.\d{1,4}")

_ZSTD = 6  # CompressionCodec
_REQUIRED, _OPTIONAL = 0, 1  # FieldRepetitionType
TYPES: dict[ColumnType, tuple[int, Fields]] = {
    "int64": (2, {}),
    "float64": (5, {}),
    # The converted type and the logical one: UTF8 and STRING; TIMESTAMP_MICROS and TIMESTAMP (adjusted to UTC, micros).
    "string": (6, {6: (I32, 0), 10: (STRUCT, {1: (STRUCT, {})})}),
    "timestamp": (
        2,
        {6: (I32, 10), 10: (STRUCT, {8: (STRUCT, {1: (BOOL, True), 2: (STRUCT, {2: (STRUCT, {})})})})},
    ),
}
"""The physical type of each column type, and what a schema says of it beside."""


def framed(footer: Fields) -> bytes:
    """Return the end of a file: a footer, its length, and the magic number."""
    octets = encode(footer)
    return octets + len(octets).to_bytes(4, "little") + MAGIC


def head_of(
    columns: Sequence[Column], *, metadata: Mapping[bytes, bytes] | None = None, created_by: bytes = CREATED_BY
) -> Fields:
    """Return the footer of a file with such columns, without its row groups.

    Parameters
    ----------
    columns : sequence of Column
    metadata : mapping, optional
        The key-value metadata that a file of format 1 has: an Arrow schema, or none.
    created_by : bytes
        What a file of format 1 says of its writer.
    """
    if metadata is None:
        metadata = {COLUMNS_KEY: columns_json(columns)}
    elif not _PYARROW.fullmatch(created_by):
        created_by = b"parquet-cpp-arrow version N.N.N"
    pairs = [{1: (BINARY, key), 2: (BINARY, value)} for key, value in metadata.items()]
    head: Fields = {
        1: (I32, 2),
        **schema_of(columns),
        6: (BINARY, created_by),
        7: (LIST, (STRUCT, [{1: (STRUCT, {})}] * len(columns))),  # the order that the type defines
    }
    return head | ({5: (LIST, (STRUCT, pairs))} if pairs else {})


def columns_json(columns: Sequence[Column]) -> bytes:
    """Return the units and meanings of columns as compact ASCII JSON. Columns that have neither are left out.

    Examples
    --------
    >>> columns_json([Column("tokens", "int64", False, "tokens in and out", unit="tokens"), Column("note", "string", True, "")])
    b'{"tokens":{"unit":"tokens","meaning":"tokens in and out"}}'
    """
    entries = {column.name: entry for column in columns if (entry := described(column))}
    return json.dumps(entries, separators=(",", ":")).encode("ascii")


def described(column: Column) -> dict[str, str]:
    """Return a column's unit and meaning, as far as it has them."""
    return {key: text for key, text in (("unit", column.unit), ("meaning", column.doc)) if text}


def schema_of(columns: Sequence[Column]) -> Fields:
    """Return the schema in a footer of such columns."""
    root: Fields = {3: (I32, _REQUIRED), 4: (BINARY, b"schema"), 5: (I32, len(columns))}
    return {2: (LIST, (STRUCT, [root, *map(_schema_element, columns)]))}


def _schema_element(column: Column) -> Fields:
    physical, annotated = TYPES[column.type]
    repetition = _OPTIONAL if column.nullable else _REQUIRED
    return {1: (I32, physical), 3: (I32, repetition), 4: (BINARY, column.name.encode()), **annotated}


def column_chunk(chunk: Chunk) -> Fields:
    """Return what a footer says of a column chunk (ColumnChunk)."""
    physical, _ = TYPES[chunk.column.type]
    has_dictionary = chunk.dictionary_bytes is not None
    pages = [(DICTIONARY_PAGE, PLAIN, 1)] if has_dictionary else []
    pages += [(DATA_PAGE, encoding, count) for encoding, count in sorted(chunk.data_pages.items())]
    encodings = [PLAIN, RLE] if has_dictionary else [RLE]
    if chunk.data_pages:  # there are none in the row group of no rows that format 1 may have
        encodings += [RLE_DICTIONARY] if has_dictionary else [PLAIN]
    metadata: Fields = {
        1: (I32, physical),
        2: (LIST, (I32, encodings)),
        3: (LIST, (BINARY, [chunk.column.name.encode()])),
        4: (I32, _ZSTD),
        5: (I64, chunk.values),
        6: (I64, chunk.unpacked_bytes),
        7: (I64, chunk.size_bytes),
        9: (I64, chunk.start + (chunk.dictionary_bytes or 0) if chunk.data_pages else 0),
        13: (LIST, (STRUCT, [dict(enumerate(((I32, each) for each in page), 1)) for page in pages])),
    }
    if has_dictionary:
        metadata[11] = (I64, chunk.start)
    if chunk.statistics is not None:
        metadata[12] = (STRUCT, chunk.statistics)
    if chunk.size_statistics is not None:
        metadata[16] = (STRUCT, chunk.size_statistics)
    return {2: (I64, 0), 3: (STRUCT, metadata)}


def row_group(chunks: Sequence[Chunk]) -> Fields:
    """Return what a footer says of a row group (RowGroup)."""
    return {
        1: (LIST, (STRUCT, [column_chunk(chunk) for chunk in chunks])),
        2: (I64, sum(chunk.unpacked_bytes for chunk in chunks)),
        3: (I64, chunks[0].values),
        5: (I64, chunks[0].start if chunks[0].size_bytes else 0),
        6: (I64, sum(chunk.size_bytes for chunk in chunks)),
    }


def whole(head: Fields, groups: Sequence[Fields]) -> Fields:
    """Return a footer with its row groups."""
    rows = sum(group[3][1] for group in groups)
    return head | {3: (I64, rows), 4: (LIST, (STRUCT, list(groups)))}
