"""Parquet files for the tests of parts: by pyarrow, by the writer of parts, and made by hand."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import ConfigError, InconsistentData, SnapshotTable, TraceStepSnapshot
from exporttools.bundle.page_contents import in_one_segment
from exporttools.bundle.parquet_footers import columns_json
from exporttools.bundle.parts import PartRefused, read_part, write_part, write_rows
from exporttools.bundle.thrift import Fields as Thrift
from exporttools.bundle.thrift import decode
from exporttools.records.schema import ARROW_TYPES, TRACE_STEPS, Column, RecordType

NOON_US = 1_790_000_000_000_000


class Octets(io.RawIOBase):
    """A raw file in memory."""

    def __init__(self, octets: bytes) -> None:
        super().__init__()
        self._file = io.BytesIO(octets)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


def written(table: SnapshotTable[Any]) -> bytes:
    file = io.BytesIO()
    write_part(table, file)
    return file.getvalue()


def in_our_form(table: pa.Table, record_type: RecordType = TRACE_STEPS) -> bytes:
    """Any rows, valid or not, written as exporttools writes them, if it could."""
    names = {kind: name for name, kind in ARROW_TYPES.items()}
    known = {column.name: column for column in (*record_type.columns, *record_type.extra)}
    if not names.keys() >= {*table.schema.types} or len({*table.column_names}) < table.num_columns:
        return by_pyarrow(table)
    columns = [
        replace(
            known.get(field.name, Column(field.name, "string", True, "")),
            type=names[field.type],
            nullable=field.nullable,
        )  # type: ignore[arg-type]
        for field in table.schema
    ]
    file = io.BytesIO()
    write_rows(table, columns, file)
    return file.getvalue()


def by_pyarrow(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **{"compression": "zstd", "write_page_checksum": True} | options)
    return file.getvalue()


def read(octets: bytes, record_type: RecordType = TRACE_STEPS, **options: Any) -> pa.Table:
    schema, batches = read_part(record_type, Octets(octets), **options)
    return pa.Table.from_batches(batches, schema)


def refused(octets: bytes, record_type: RecordType = TRACE_STEPS, **options: Any) -> str:
    with pytest.raises(PartRefused) as caught:
        read(octets, record_type, **options)
    return str(caught.value)


def equal_or_refused(octets: bytes, expected: pa.Table) -> bool:
    """Whether a file reads as it was; anything but that or a refusal fails."""
    try:
        found = read(octets)
    except (PartRefused, ConfigError, InconsistentData):
        return False
    assert found.equals(expected)
    return True


def many_steps(rows: int, **columns: Any) -> SnapshotTable[TraceStepSnapshot]:
    """Steps of which the given columns are not all alike."""
    usual = {
        "step_index": np.arange(rows),
        "timestamp": pa.array(NOON_US + np.arange(rows) * 1000).cast(pa.timestamp("us", "UTC")),
        "step_type": pa.array(np.array(["llm_call", "tool_call", "plan"])[np.arange(rows) % 3]),
        "tokens": np.arange(rows) % 977,
        "cost_cents": np.arange(rows) % 31 / 8,
        "duration_ms": np.arange(rows) % 1009 / 4,
        "status": pa.array(["ok"] * rows, pa.string()),
        "content_hash": pa.nulls(rows, pa.string()),
    }
    return SnapshotTable(TraceStepSnapshot, pa.table(usual | columns))


def hashes(rows: int, seed: int = 1) -> pa.Array:
    octets = np.random.default_rng(seed).bytes(16 * rows).hex()
    return pa.array([octets[i : i + 32] for i in range(0, len(octets), 32)], pa.string())


# Parquet made by hand: it says whatever it is told to say


THRIFT = {"bool": 1, "i32": 5, "i64": 6, "binary": 8, "list": 9, "struct": 12}
Fields = dict[int, tuple[str, Any]]
Leaf = tuple[str, str, bool]


def varint(number: int) -> bytes:
    octets = b""
    while number > 127:
        octets += bytes([number & 127 | 128])
        number >>= 7
    return octets + bytes([number])


def zigzag(number: int) -> bytes:
    return varint(number << 1 if number >= 0 else -2 * number - 1)


def _value(kind: str, value: Any) -> bytes:
    match kind:
        case "i32" | "i64":
            return zigzag(value)
        case "binary":
            return varint(len(value)) + value
        case "struct":
            return thrift(value)
    inner, items = value
    size = (
        bytes([len(items) << 4 | THRIFT[inner]])
        if len(items) < 15
        else bytes([0xF0 | THRIFT[inner]]) + varint(len(items))
    )
    return size + b"".join(_value(inner, item) for item in items)


def thrift(fields: Fields) -> bytes:
    """A struct in the compact protocol."""
    octets, last = b"", 0
    for field, (kind, value) in sorted(fields.items()):
        octets += bytes([(field - last) << 4 | (THRIFT[kind] if kind != "bool" else 1 if value else 2)])
        octets += b"" if kind == "bool" else _value(kind, value)
        last = field
    return octets + b"\0"


def packed(octets: bytes) -> bytes:
    return bytes(pa.compress(octets, codec="zstd", asbytes=True))


def page(
    octets: bytes,
    values: int,
    encoding: int = 0,
    *,
    kind: int = 0,
    changes: Fields | None = None,
    body: bytes | None = None,
) -> bytes:
    """A page of zstd-compressed octets, or of another body; `changes` are to its header."""
    body = in_one_segment(packed(octets)) if body is None else body
    checksum = struct.unpack("<i", struct.pack("<I", zlib.crc32(body)))[0]
    levels: Fields = {3: ("i32", 3), 4: ("i32", 3)} if kind == 0 else {3: ("bool", False)}
    details: Fields = {1: ("i32", values), 2: ("i32", encoding), **levels}
    header: Fields = {
        1: ("i32", kind), 2: ("i32", len(octets)), 3: ("i32", len(body)), 4: ("i32", checksum),
        {0: 5, 2: 7}.get(kind, 5): ("struct", details),
    }  # fmt: skip
    return thrift({field: value for field, value in (header | (changes or {})).items() if value[1] is not None}) + body


def uncompressed_pages(values: pa.Array) -> Iterator[tuple[Thrift, bytes]]:
    """The headers and contents of the pages that pyarrow writes of a column, with a dictionary and without compression."""
    octets = by_pyarrow(pa.table({"column": values}), compression="none", max_rows_per_page=10**6)
    with pq.ParquetFile(io.BytesIO(octets)) as file:
        chunk = file.metadata.row_group(0).column(0)
    position = chunk.dictionary_page_offset
    end = position + chunk.total_compressed_size
    while position < end:
        header, size = decode(octets[position:])
        position += size + header[3][1]
        yield header, octets[position - header[3][1] : position]


def text(size: int, letter: bytes = b"x") -> bytes:
    return size.to_bytes(4, "little") + letter * size


def dictionary_of(
    values: bytes, count: int, rows: int, *, nullable: bool = False, says: int | None = None
) -> tuple[bytes, int]:
    """A dictionary and one page of rows that all refer to its first value; and where that page begins."""
    first = page(values, count if says is None else says, kind=2)
    levels = varint(rows << 1) + b"\1"
    indices = (len(levels).to_bytes(4, "little") + levels if nullable else b"") + b"\1" + varint(rows << 1) + b"\0"
    return first + page(indices, rows, 8), len(first)


STEPS: list[Leaf] = [(column.name, column.type, column.nullable) for column in TRACE_STEPS.columns]
_PHYSICAL = {"int64": 2, "timestamp": 2, "float64": 5, "string": 6}
_CHEAP = {
    "int64": (0).to_bytes(8, "little"), "timestamp": NOON_US.to_bytes(8, "little"), "float64": bytes(8), "string": text(2),
}  # fmt: skip


def element_of(leaf: Leaf) -> Fields:
    name, kind, nullable = leaf
    element: Fields = {1: ("i32", _PHYSICAL[kind]), 3: ("i32", int(nullable)), 4: ("binary", name.encode())}
    if kind == "string":
        element |= {6: ("i32", 0), 10: ("struct", {1: ("struct", {})})}
    if kind == "timestamp":
        unit = {1: ("bool", True), 2: ("struct", {2: ("struct", {})})}
        element |= {6: ("i32", 10), 10: ("struct", {8: ("struct", unit)})}
    return element


def crafted(
    *groups: tuple[int, dict[str, bytes | tuple[bytes, int]]],
    leaves: Sequence[Leaf] = STEPS,
    chunk: Callable[[str, Fields], Fields] = lambda name, fields: fields,
    footer: Callable[[Fields], Fields] = lambda fields: fields,
) -> bytes:
    """A file as exporttools writes it, of row groups, each so many rows and the pages of some columns; the rest of its values
    are constant and tiny. `chunk` and `footer` may make its footer lie.
    """
    octets, described = bytearray(b"PAR1"), []
    for rows, pages in groups:
        columns, start, unpacked = [], len(octets), 0
        for name, kind, nullable in leaves:
            found = pages.get(name) or _constant(kind, rows, nullable)
            content = found[0] if isinstance(found, tuple) else found
            columns.append(
                {
                    2: ("i64", 0),
                    3: ("struct", chunk(name, _metadata((name, kind, nullable), content, rows, len(octets)))),
                }
            )
            unpacked += columns[-1][3][1][6][1]
            octets += content
        described.append({
            1: ("list", ("struct", columns)), 2: ("i64", unpacked), 3: ("i64", rows), 5: ("i64", start), 6: ("i64", len(octets) - start),
        })  # fmt: skip
    root: Fields = {3: ("i32", 0), 4: ("binary", b"schema"), 5: ("i32", len(leaves))}
    fields: Fields = {
        1: ("i32", 2), 2: ("list", ("struct", [root, *map(element_of, leaves)])), 3: ("i64", sum(rows for rows, _ in groups)),
        4: ("list", ("struct", described)),
        5: ("list", ("struct", [{1: ("binary", b"exporttools.columns"), 2: ("binary", _UNITS)}])),
        6: ("binary", b"exporttools-bundle version 2"), 7: ("list", ("struct", [{1: ("struct", {})}] * len(leaves))),
    }  # fmt: skip
    return framed(thrift(footer(fields)), bytes(octets))


_UNITS = columns_json(TRACE_STEPS.columns)


@lru_cache(maxsize=50)
def _constant(kind: str, rows: int, nullable: bool) -> bytes:
    if kind == "string":
        return dictionary_of(_CHEAP[kind], 1, rows, nullable=nullable)[0]
    levels = varint(rows << 1) + b"\1"
    return page((len(levels).to_bytes(4, "little") + levels if nullable else b"") + _CHEAP[kind] * rows, rows)


def _metadata(leaf: Leaf, content: bytes, rows: int, start: int) -> Fields:
    """What a footer says of a column chunk, if its pages are in order; else, something."""
    position, unpacked, first, counts = 0, 0, 0, Counter()
    while position < len(content):
        try:
            header, size = decode(content[position : position + 200])
        except (ValueError, IndexError):
            break
        if 1 not in header:
            break
        kind, encoding = header[1][1], header.get(7, header.get(5, (0, {})))[1].get(2, (0, 0))[1]
        counts[kind, encoding] += 1
        position += size + max(0, header[3][1])
        unpacked += size + header[2][1]
        first = position if kind == 2 else first
    encodings = [0, 3, 8] if first else [3, 0]
    stats = [
        {1: ("i32", kind), 2: ("i32", encoding), 3: ("i32", count)}
        for (kind, encoding), count in sorted(counts.items(), key=lambda i: (-i[0][0], i[0][1]))
    ]
    return {
        1: ("i32", _PHYSICAL[leaf[1]]), 2: ("list", ("i32", encodings)), 3: ("list", ("binary", [leaf[0].encode()])),
        4: ("i32", 6), 5: ("i64", rows), 6: ("i64", unpacked), 7: ("i64", len(content)), 9: ("i64", start + first),
        **({11: ("i64", start)} if first else {}), 13: ("list", ("struct", stats)),
    }  # fmt: skip


def framed(footer: bytes, pages: bytes = b"PAR1") -> bytes:
    return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def chunk_of(column: str, **changes: Fields) -> Callable[[str, Fields], Fields]:
    return lambda name, fields: fields | changes["fields"] if name == column else fields


def of_ten(**pages: Any) -> bytes:
    return crafted((10, pages))
