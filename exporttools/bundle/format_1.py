"""What the Parquet files of format 1 have beside those of format 2, and what it is held to: pyarrow 26 wrote their footers.

Statistics of chunks and pages: those that are there are recomputed from the rows. Sizes: from the pages and the rows. The
Arrow schema: it has to be the record type's. Nothing else may be there.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pyarrow as pa

from exporttools.bundle.row_claims import Claim
from exporttools.bundle.thrift import BINARY, BOOL, I64, LIST, Fields
from exporttools.records.schema import ARROW_TYPES, Column, RecordType, column_of

ARROW_SCHEMA_KEY = b"ARROW:schema"

MOST_SCHEMA_BYTES = 8 << 10
"""The most bytes of an Arrow schema. It is a flatbuffer, whose parts may be shared: what a reader builds from it may grow with
the third power of its size."""

_MAX, _MIN, _NULL_COUNT, _MAX_VALUE, _MIN_VALUE, _MAX_IS_EXACT, _MIN_IS_EXACT = 1, 2, 3, 5, 6, 7, 8  # Statistics


def read_arrow_schema(record_type: RecordType, columns: Sequence[Column], value: bytes) -> tuple[Column, ...]:
    """Take units and meanings of extra columns that are not well-known from an Arrow schema.

    Raises
    ------
    ValueError
        It is not the schema of such columns, with their metadata.
    """
    if len(value) > MOST_SCHEMA_BYTES:
        raise ValueError(f"an Arrow schema of {len(value):,} bytes; expected at most {MOST_SCHEMA_BYTES:,}")
    octets = base64.b64decode(value, validate=True)
    if (
        base64.b64encode(octets) != value
        or octets[:4] != b"\xff" * 4
        or int.from_bytes(octets[4:8], "little") != len(octets) - 8
    ):
        raise ValueError("an Arrow schema that is not one message in base64")
    found = pa.ipc.read_schema(pa.BufferReader(octets))
    well_known = {*record_type.columns, *record_type.extra}
    named = {field.name: field for field in found}
    read = tuple(
        column_of(named[column.name])
        if column not in well_known and column.name in named and named[column.name].type == ARROW_TYPES[column.type]
        else column
        for column in columns
    )
    expected = record_type.arrow_schema(read[len(record_type.columns) :])
    if not found.equals(expected, check_metadata=True):
        different = [
            field.name
            for field in expected
            if field.name not in named or not named[field.name].equals(field, check_metadata=True)
        ]
        raise ValueError(
            f"an Arrow schema that differs from the columns' own: {', '.join(different[:3]) or 'other fields'}"
        )
    return read


def expected_statistics(stated: Fields | None, column: Column, *, values: int, not_null: int) -> Fields | None:
    """Return what of stated statistics may be there. Minimum and maximum are to be held against the rows: :func:`claims_of`."""
    if stated is None:
        return None
    numbers = (_MAX, _MIN) if column.type != "string" else ()
    expected: Fields = {_NULL_COUNT: (I64, values - not_null)}
    for number in (*numbers, _MAX_VALUE, _MIN_VALUE):
        kind, value = stated.get(number, (BINARY, b""))
        if number in stated and kind == BINARY and (column.type == "string" or len(value) == 8):
            expected[number] = (kind, value)
    for number, of in ((_MAX_IS_EXACT, _MAX_VALUE), (_MIN_IS_EXACT, _MIN_VALUE)):
        if number in stated and of in expected:
            expected[number] = (BOOL, True)
    return expected


def expected_sizes(stated: Fields | None, column: Column, *, values: int, not_null: int) -> Fields | None:
    """Return what of a chunk's stated sizes may be there. The bytes of texts are to be held against the rows."""
    if stated is None:
        return None
    histogram = [values - not_null, not_null] if column.nullable else []
    expected: Fields = {2: (LIST, (I64, [])), 3: (LIST, (I64, histogram))}
    if column.type == "string" and 1 in stated and stated[1][0] == I64:
        expected[1] = stated[1]
    return expected


def claims_of(
    statistics: Fields | None, sizes: Fields | None, where: str, column: Column, start: int, stop: int
) -> list[Claim]:
    """Return what has to be held against rows."""
    stated = {number: value for number, (_, value) in (statistics or {}).items()}
    ends = {(stated.get(least), stated.get(greatest)) for least, greatest in ((_MIN, _MAX), (_MIN_VALUE, _MAX_VALUE))}
    claims = [
        Claim(where, column.name, start, stop, least=least, greatest=greatest)
        for least, greatest in ends - {(None, None)}
    ]
    if sizes and 1 in sizes:
        claims.append(Claim(where, column.name, start, stop, text_bytes=sizes[1][1]))
    return claims
