"""A bundle's parts: what is written reads back equal and in bounded memory; hostile Parquet neither crashes nor exhausts."""

from __future__ import annotations

import base64
import errno
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporttools import ConfigError, InconsistentData, RunSnapshot, SnapshotTable, TraceStepSnapshot
from exporttools.bundle.parts import BATCH_ROWS, ROW_GROUP_BYTES, ROW_GROUP_ROWS, PartRefused, read_part, write_part
from exporttools.records.schema import TRACE_STEPS, RecordType
from tests.databases import run
from tests.records.test_snapshot_table import a_step, steps_of, with_extra

Refusal = (PartRefused, ConfigError, InconsistentData)
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


def by_pyarrow(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **{"compression": "zstd", "write_page_checksum": True} | options)
    return file.getvalue()


def read(octets: bytes, record: RecordType = TRACE_STEPS, **options: Any) -> pa.Table:
    schema, batches = read_part(record, Octets(octets), **options)
    return pa.Table.from_batches(batches, schema)


def refused(octets: bytes, record: RecordType = TRACE_STEPS, **options: Any) -> str:
    with pytest.raises(PartRefused) as caught:
        read(octets, record, **options)
    return str(caught.value)


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

_THRIFT = {"bool": 1, "i32": 5, "i64": 6, "binary": 8, "list": 9, "struct": 12}
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
    return bytes([0xF0 | _THRIFT[inner]]) + varint(len(items)) + b"".join(_value(inner, item) for item in items)


def thrift(fields: Fields) -> bytes:
    """A struct in the compact protocol."""
    octets, last = b"", 0
    for field, (kind, value) in sorted(fields.items()):
        octets += bytes([(field - last) << 4 | (_THRIFT[kind] if kind != "bool" else 1 if value else 2)])
        octets += b"" if kind == "bool" else _value(kind, value)
        last = field
    return octets + b"\0"


def packed(octets: bytes) -> bytes:
    return bytes(pa.compress(octets, codec="zstd", asbytes=True))


def page(octets: bytes, values: int, encoding: int = 0, *, kind: int = 0, changes: Fields | None = None) -> bytes:
    """A page of zstd-compressed octets; `changes` are to its header."""
    body = packed(octets)
    checksum = struct.unpack("<i", struct.pack("<I", zlib.crc32(body)))[0]
    levels: Fields = {3: ("i32", 3), 4: ("i32", 3)} if kind == 0 else {}
    details: Fields = {1: ("i32", values), 2: ("i32", encoding), **levels}
    header: Fields = {
        1: ("i32", kind), 2: ("i32", len(octets)), 3: ("i32", len(body)), 4: ("i32", checksum),
        {0: 5, 2: 7}.get(kind, 5): ("struct", details),
    }  # fmt: skip
    return thrift({field: value for field, value in (header | (changes or {})).items() if value[1] is not None}) + body


def text(size: int, letter: bytes = b"x") -> bytes:
    return size.to_bytes(4, "little") + letter * size


def dictionary_of(
    values: bytes, count: int, rows: int, *, nullable: bool = False, says: int | None = None
) -> tuple[bytes, int]:
    """A dictionary and one page of rows that all refer to its first value; and where that page begins."""
    first = page(values, count if says is None else says, kind=2)
    levels = varint(rows << 1) + b"\1"
    indices = (len(levels).to_bytes(4, "little") + levels if nullable else b"") + b"\0" + varint(rows << 1)
    return first + page(indices, rows, 8), len(first)


STEPS: list[Leaf] = [(column.name, column.type, column.nullable) for column in TRACE_STEPS.columns]
_PHYSICAL = {"int64": 2, "timestamp": 2, "float64": 5, "string": 6}
_CHEAP = {
    "int64": (0).to_bytes(8, "little"), "timestamp": NOON_US.to_bytes(8, "little"), "float64": bytes(8), "string": text(2),
}  # fmt: skip


def _element(leaf: Leaf) -> Fields:
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
    """A file of row groups, each so many rows and the pages of some columns; the rest is valid, constant and tiny."""
    octets, described = bytearray(b"PAR1"), []
    for rows, pages in groups:
        columns = []
        for name, kind, nullable in leaves:
            found = pages.get(name) or dictionary_of(_CHEAP[kind], 1, rows, nullable=nullable)
            content, first = found if isinstance(found, tuple) else (found, 0)
            start = len(octets)
            octets += content
            fields: Fields = {
                1: ("i32", _PHYSICAL[kind]), 2: ("list", ("i32", [0, 3, 8])), 3: ("list", ("binary", [name.encode()])),
                4: ("i32", 6), 5: ("i64", rows), 6: ("i64", len(content)), 7: ("i64", len(content)),
                9: ("i64", start + first), **({11: ("i64", start)} if first else {}),
            }  # fmt: skip
            columns.append({2: ("i64", 0), 3: ("struct", chunk(name, fields))})
        described.append({1: ("list", ("struct", columns)), 2: ("i64", 1), 3: ("i64", rows)})
    root: Fields = {4: ("binary", b"schema"), 5: ("i32", len(leaves))}
    rows = sum(rows for rows, _ in groups)
    elements = [root, *map(_element, leaves)]
    fields = {1: ("i32", 2), 2: ("list", ("struct", elements)), 3: ("i64", rows), 4: ("list", ("struct", described))}
    return framed(thrift(footer(fields)), bytes(octets))


def framed(footer: bytes, pages: bytes = b"PAR1") -> bytes:
    return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def test_what_is_made_by_hand_is_parquet() -> None:
    octets = crafted((1000, {}), (3, {"status": page(text(2, b"a") + text(0) + text(3, b"b"), 3)}))
    table = read(octets)
    assert table.equals(pq.read_table(io.BytesIO(octets)).cast(table.schema))
    assert table.num_rows == 1003
    assert table["status"].to_pylist()[-4:] == ["xx", "aa", "", "bbb"]


# Written and read back

SOME = steps_of(*(a_step(i, content_hash=None if i % 3 else f"h{i}", step_type="é\n" * (i % 4)) for i in range(50)))
EXTRAS = with_extra(
    SOME,
    model=pa.array(["small", None] * 25),
    parent_step_index=pa.array([None, 7] * 25),
    note=pa.array([None, ""] * 25),
    count=pa.array([-(2**63), 2**63 - 1] * 25),
    weight=pa.array([-0.0, 1.7e308] * 25),
    seen=pa.array([None, NOON_US] * 25).cast(pa.timestamp("us", "UTC")),
    none=pa.nulls(50, pa.string()),
)
WRITTEN: dict[str, Callable[[], SnapshotTable[Any]]] = {
    "some": lambda: SOME,
    "no rows": lambda: SOME[:0],
    "one row": lambda: SOME[:1],
    "a slice": lambda: SOME[7:19],
    "chunks": lambda: SnapshotTable(TraceStepSnapshot, pa.concat_tables([SOME.to_arrow(), SOME.to_arrow()[:3]])),
    "every extra type": lambda: EXTRAS,
    "extras without rows": lambda: EXTRAS[:0],
    "200,000 rows": lambda: many_steps(200_000, content_hash=hashes(200_000)),
    "a megabyte in each row": lambda: many_steps(40, error=pa.array([str(i) * 2**20 for i in range(40)])),
    "texts of 100 kB, most of them": lambda: many_steps(1500, error=pa.array([h * 3000 for h in hashes(1500).to_pylist()])),
    "one text of 30 MB among many rows": lambda: many_steps(
        150_000, error=pa.array(["x" * 30_000_000 if i == 70_000 else None for i in range(150_000)])
    ),
    "a goal of a megabyte and an id of two": lambda: SnapshotTable.from_records(
        RunSnapshot, [RunSnapshot(**run(goal="g" * 2**20, run_id="i" * 2**21))]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_it_reads_back_as_it_was(name: str) -> None:
    table = WRITTEN[name]()
    octets = written(table)
    record = table.record_type
    schema, batches = read_part(record, Octets(octets))
    assert schema.equals(table.schema, check_metadata=True)
    found = list(batches)
    assert all(0 < batch.num_rows <= BATCH_ROWS for batch in found)
    assert all(batch.nbytes <= ROW_GROUP_BYTES for batch in found)
    assert all(batch.schema.equals(schema, check_metadata=True) for batch in found)
    assert pa.Table.from_batches(found, schema).equals(table.to_arrow())


def test_numbers_and_different_texts_are_plain_and_few_texts_a_dictionary() -> None:
    steps = many_steps(
        300_000,
        content_hash=hashes(300_000),
        name=pa.array(["search", "read", None] * 100_000),
        error=pa.array(["e" * 5000 if i % 50_000 == 0 else None for i in range(300_000)]),  # few texts, but long ones
    )
    with pq.ParquetFile(io.BytesIO(written(steps))) as file:
        metadata = file.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 300_000 - 2 * ROW_GROUP_ROWS]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    assert {column.compression for column in columns} == {"ZSTD"}
    with_dictionary = {column.path_in_schema for column in columns if column.has_dictionary_page}
    assert with_dictionary == {"step_type", "status", "name"}
    plain = [column.encodings for column in columns if column.path_in_schema not in with_dictionary]
    assert {encoding for encodings in plain for encoding in encodings} == {"PLAIN", "RLE"}


def test_a_row_group_is_no_larger_than_is_read_at_once() -> None:
    steps = many_steps(2000, error=pa.array(["e" * 100_000] * 2000))
    with pq.ParquetFile(io.BytesIO(written(steps))) as file:
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
    assert len(sizes) == 8
    assert max(sizes) <= ROW_GROUP_BYTES
    assert sum(sizes) > 200_000_000


def test_what_could_not_be_read_is_not_written() -> None:
    whole = many_steps(1, error=pa.array(["e" * (ROW_GROUP_BYTES - 200)]))
    assert read(written(whole)).equals(whole.to_arrow())
    with pytest.raises(PartRefused, match=r"^a row of 33,554,5\d\d bytes; expected at most 33,554,432$"):
        written(many_steps(3, error=pa.array(["e", "e" * ROW_GROUP_BYTES, None])))
    most = many_steps(5, **{f"c{i}": pa.array(["x" * 128] * 5) for i in range(192)})
    assert read(written(most)).equals(most.to_arrow())
    with pytest.raises(PartRefused, match=r"^201 columns; expected at most 200$"):
        written(with_extra(most, more=pa.nulls(5, pa.int64())))


@pytest.mark.parametrize("table", [SOME, EXTRAS, many_steps(70_000, content_hash=hashes(70_000))])
def test_duckdb_reads_the_same_rows(table: SnapshotTable[Any], tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(written(table))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(f"from '{path}'").to_arrow_table()
    ours = read(path.read_bytes())
    assert found.cast(ours.schema).equals(ours)


OTHERS: dict[str, dict[str, Any]] = {
    "by default": {},
    "version 2 pages": {"data_page_version": "2.0"},
    "version 1": {"version": "1.0"},
    "not compressed": {"compression": "none"},
    "small pages": {"data_page_size": 100_000, "use_dictionary": False},
    "plain after a dictionary": {"dictionary_pagesize_limit": 30_000},
    "a page index": {"write_page_index": True},
    "no statistics": {"write_statistics": False},
    "no schema of Arrow's": {"store_schema": False},
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_write_reads_as_it_is(name: str) -> None:
    steps = many_steps(
        150_000, content_hash=hashes(150_000), model=pa.array(["small", "large", None] * 50_000), error=pa.nulls(150_000, pa.string())
    )  # fmt: skip
    assert read(by_pyarrow(steps.to_arrow(), row_group_size=80_000, **OTHERS[name])).equals(steps.to_arrow())


def test_dictionaries_that_change_between_row_groups() -> None:
    file, expected = io.BytesIO(), []
    with pq.ParquetWriter(file, TRACE_STEPS.arrow_schema(), compression="zstd", write_page_checksum=True) as writer:
        for i in range(4):
            expected.append(many_steps(9, status=pa.array([f"s{i}", "ok", str(i) * i] * 3)).to_arrow())
            writer.write_table(expected[-1])
        writer.write_table(expected[0].slice(0, 0))
    assert read(file.getvalue()).equals(pa.concat_tables(expected))


def test_rows_are_not_read_before_they_are_asked_for() -> None:
    octets = by_pyarrow(many_steps(10).to_arrow(), use_dictionary=False)
    with pq.ParquetFile(io.BytesIO(octets)) as file:
        column = file.metadata.row_group(0).column(0)
        end = column.data_page_offset + column.total_compressed_size
    _, batches = read_part(TRACE_STEPS, Octets(octets[: end - 1] + b"\xff" + octets[end:]))
    with pytest.raises(PartRefused, match="CRC checksum verification failed"):
        next(batches)


# Refused


def _steps_with(**columns: Any) -> pa.Table:
    table = SOME.to_arrow()
    for name, values in columns.items():
        field = pa.field(name, values.type, nullable=True)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), field, values)
        else:
            table = table.append_column(field, values)
    return table


def _typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values * 25, kind)


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", "not a Parquet file: expected at least 12 bytes; found 0"),
        (b"PAR1PAR1", "not a Parquet file: expected at least 12 bytes; found 8"),
        (b"x" * 100, "not a Parquet file: expected PAR1 at both ends; found b'xxxx' and b'xxxx'"),
        (b"PAR1" + b"\0" * 20, "not a Parquet file: expected PAR1 at both ends; found b'PAR1' and b'\\x00\\x00\\x00\\x00'"),
        (b"PARE" * 9, "an encrypted Parquet file"),
        (b"PAR1\1\0\0\0PAR1", "a Parquet footer of 1 bytes; expected at most 0"),
        (b"PAR1" + b"\xff" * 4 + b"PAR1", "a Parquet footer of 4,294,967,295 bytes; expected at most 0"),
        (framed(b""), "a truncated Parquet footer"),
        (framed(b"\x15\x04"), "a truncated Parquet footer"),
        (framed(b"\x18\x7f"), "a truncated Parquet footer"),
        (framed(b"\x1d\0"), "a Thrift field of type 13"),
        (framed(b"\x15" + b"\x80" * 10 + b"\0"), "a Thrift number of more than 32 bits"),
        (framed(b"\x15" + b"\xff" * 5 + b"\1\0"), "a Thrift number of more than 32 bits"),
        (framed(b"\x15\2\5\2\4\0"), "a Thrift struct whose fields are out of order"),
        (framed(b"\x1c" * 40 + b"\0" * 41), "a Thrift struct with more levels than Parquet has"),
        (framed(b"\x19\x1c\0"), "a Thrift list that Parquet does not have there"),
        (framed(b"\x29\x15\0"), "a Thrift list that Parquet does not have there"),
        (framed(b"\x05\x81\x80\x08\2"), "a Thrift struct whose fields are out of order"),
        (framed(b"\x1a\0"), "a Thrift field of type 10"),
        (framed(b"\x29\xfc" + varint(100_001)), "a Parquet footer with more than 100,000 elements"),
        (framed(b"\0"), "Couldn't deserialize thrift"),
    ],
)  # fmt: skip
def test_promise_16_what_is_no_parquet_is_refused(octets: bytes, message: str) -> None:
    assert refused(octets).startswith(message)


SCHEMAS: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "nullable": (lambda: _steps_with(status=_typed(["a", "b"], pa.string())), "column 6 is status: string; expected status: string not null"),
    "a list": (lambda: _steps_with(tags=_typed([["a"], []], pa.list_(pa.string()))), "column 'tags' is of type list"),
    "a struct": (lambda: _steps_with(tags=_typed([{"a": 1}, None], pa.struct([("a", pa.int64())]))), "column 'tags' is of type struct"),
    "a map": (lambda: _steps_with(tags=_typed([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))), "column 'tags' is of type map"),
    "binary": (lambda: _steps_with(model=_typed([b"a", None], pa.binary())), "column 'model' is of type binary"),
    "large text": (lambda: _steps_with(model=_typed(["a", None], pa.large_string())), "column 'model' is of type large_string"),
    "a dictionary": (
        lambda: _steps_with(model=_typed(["a", None], pa.string()).dictionary_encode()), "column 'model' is of type dictionary"),
    "a well-known extra of another type": (
        lambda: _steps_with(model=_typed([1, None], pa.int64())), "column 'model' is of type int64; expected string"),
    "a float of 32 bits": (lambda: _steps_with(weight=_typed([1, None], pa.float32())), "column 'weight' is of type float"),
    "nanoseconds": (
        lambda: _steps_with(seen=_typed([1, None], pa.timestamp("ns", "UTC"))), "column 'seen' is of type timestamp[ns, tz=UTC]"),
    "another time zone": (
        lambda: _steps_with(seen=_typed([1, None], pa.timestamp("us", "Europe/Oslo"))), "column 'seen' is of type timestamp[us, tz=Europe/Oslo]"),
    "a UUID": (lambda: _steps_with(model=_typed([b"0" * 16, None], pa.uuid())), "column 'model' is of type extension<arrow.uuid>"),
    "JSON": (lambda: _steps_with(model=_typed(["{}", None], pa.json_())), "column 'model' is of type extension<arrow.json>"),
    "a column too few": (lambda: SOME.to_arrow().drop_columns(["status"]), "column 6 is content_hash: string; expected status: string not null"),
    "a column twice": (lambda: EXTRAS.to_arrow().append_column("model", EXTRAS.to_arrow()["model"]), "duplicate column names in step_index, "),
    "another part": (
        lambda: SnapshotTable.from_records(RunSnapshot, [RunSnapshot(**run())]).to_arrow(),
        "column 0 is run_id: string not null; expected step_index: int64 not null"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_promise_16_other_types_are_refused(name: str) -> None:
    make, message = SCHEMAS[name]
    with pytest.raises((PartRefused, ConfigError)) as caught:
        read(by_pyarrow(make()))
    assert str(caught.value).startswith(message)


class Named(pa.ExtensionType):
    def __init__(self) -> None:
        super().__init__(pa.string(), "exporttools.test.named")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"x" * 10

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Named:
        return cls()


def test_promise_16_extension_types_of_others_are_refused_known_or_not() -> None:
    values = pa.ExtensionArray.from_storage(Named(), pa.array(["a", None] * 25))
    octets = by_pyarrow(_steps_with(model=values))
    assert refused(octets) == "column 'model' is of an extension type; expected string"
    pa.register_extension_type(Named())
    try:
        with pytest.raises(ConfigError, match="column 'model' is of type extension<exporttools.test.named<Named>>"):
            read(octets)
    finally:
        pa.unregister_extension_type("exporttools.test.named")


def test_promise_16_metadata_that_is_no_text_is_refused() -> None:
    field = pa.field("note", pa.string(), metadata={b"doc": b"\xff\xfe"})
    table = SOME.to_arrow().append_column(field, pa.nulls(50, pa.string()))
    assert "'utf-8' codec can't decode" in refused(by_pyarrow(table))
    garbage = {
        5: ("list", ("struct", [{1: ("binary", b"ARROW:schema"), 2: ("binary", base64.b64encode(b"\7" * 5000))}]))
    }
    assert refused(crafted((5, {}), footer=lambda footer: footer | garbage))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "snappy"}, "column step_index: compression codec 1; expected zstd or none"),
        ({"compression": "gzip"}, "column step_index: compression codec 2; expected zstd or none"),
        ({"compression": "brotli"}, "column step_index: compression codec 4; expected zstd or none"),
        ({"compression": "lz4"}, "column step_index: compression codec 7; expected zstd or none"),
        ({"write_page_checksum": False}, "column step_index: a page without a checksum"),
        ({"column_encoding": {"tokens": "DELTA_BINARY_PACKED"}, "use_dictionary": False},
         "column tokens: encoding 5; expected PLAIN or a dictionary"),
        ({"column_encoding": {"status": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
         "column status: encoding 7; expected PLAIN or a dictionary"),
        ({"column_encoding": {"status": "DELTA_LENGTH_BYTE_ARRAY"}, "use_dictionary": False},
         "column status: encoding 6; expected PLAIN or a dictionary"),
        ({"column_encoding": {"cost_cents": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
         "column cost_cents: encoding 9; expected PLAIN or a dictionary"),
    ],
)  # fmt: skip
def test_promise_16_other_encodings_and_codecs_are_refused(options: dict[str, Any], message: str) -> None:
    assert refused(by_pyarrow(SOME.to_arrow(), **options)) == message


class InMemoryKms(pe.KmsClient):
    """Keys that are no secret."""

    def __init__(self, configuration: pe.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize(
    ("plaintext_footer", "message"),
    [
        (False, "an encrypted Parquet file"),
        (True, "an encrypted Parquet file"),
    ],
)
def test_promise_16_encrypted_files_are_refused(plaintext_footer: bool, message: str) -> None:
    configuration = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["status"]}, plaintext_footer=plaintext_footer
    )
    keys = pe.CryptoFactory(InMemoryKms).file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    assert refused(by_pyarrow(SOME.to_arrow(), encryption_properties=keys)) == message


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("cost_cents", -1.0, "trace_steps: row step_index=7 has cost_cents = -1.0; expected at least 0"),
        ("cost_cents", float("nan"), "trace_steps: row step_index=7 has cost_cents = nan; expected a finite number"),
        ("tokens", -1, "trace_steps: row step_index=7 has tokens = -1; expected at least 0"),
        (
            "timestamp",
            2**62,
            "trace_steps: row step_index=7 has timestamp = 4611686018427387904 µs since 1970; expected a time",
        ),
    ],
)
def test_values_that_their_column_forbids_are_refused(column: str, value: Any, message: str) -> None:
    table = SOME.to_arrow()
    position, field = table.column_names.index(column), table.schema.field(column)
    values = [int(v.value) if column == "timestamp" else v.as_py() for v in table[column]]
    values[7] = value
    table = table.set_column(
        position, field, pa.array(values, pa.int64() if column == "timestamp" else field.type).cast(field.type)
    )
    with pytest.raises(InconsistentData) as caught:
        read(by_pyarrow(table))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("octets", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_promise_16_text_that_is_not_utf8_is_refused(octets: bytes, dictionary: bool) -> None:
    value = len(octets).to_bytes(4, "little") + octets
    pages = dictionary_of(value, 1, 3) if dictionary else page(value * 3, 3)
    assert "UTF8" in refused(crafted((3, {"status": pages})))


class Failing(Octets):
    """Fails at a read."""

    def __init__(self, octets: bytes, reads: int) -> None:
        super().__init__(octets)
        self._reads = reads

    def readinto(self, buffer: Any) -> int:
        self._reads -= 1
        if not self._reads:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().readinto(buffer)


@pytest.mark.parametrize("reads", range(1, 24))  # the footer, page headers, pages
def test_an_error_of_the_file_system_stays_one(reads: int) -> None:
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(read_part(TRACE_STEPS, Failing(written(SOME), reads))[1])
    assert caught.value.errno == errno.EIO


# Pages and footers that lie


def _chunk(column: str, **changes: Fields) -> Callable[[str, Fields], Fields]:
    return lambda name, fields: fields | changes["fields"] if name == column else fields


def _of_ten(**pages: Any) -> bytes:
    return crafted((10, pages))


NUMBERS = bytes(80)
LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "more rows in the footer": (
        lambda: crafted((10, {}), footer=lambda footer: footer | {3: ("i64", 11)}),
        "a footer of 11 rows; expected 10 as in its row groups"),
    "fewer rows in the footer": (
        lambda: crafted((10, {}), (10, {}), footer=lambda footer: footer | {3: ("i64", 10)}),
        "a footer of 10 rows; expected 20 as in its row groups"),
    "more values in a column": (
        lambda: crafted((10, {}), chunk=_chunk("tokens", fields={5: ("i64", 11)})),
        "column tokens: 11 values; expected 10 as in its row group"),
    "negative rows": (
        lambda: crafted((10, {}), chunk=_chunk("tokens", fields={5: ("i64", -10)})),
        "column tokens: -10 values; expected 10 as in its row group"),
    "fewer values in the pages": (lambda: _of_ten(tokens=page(bytes(72), 9)), "column tokens: pages of 9 values; expected 10"),
    "more values in the pages": (lambda: _of_ten(tokens=page(bytes(88), 11)), "column tokens: pages of 11 values; expected 10"),
    "more values than the page has": (lambda: _of_ten(tokens=page(bytes(72), 10)), "Unexpected end of stream"),
    "negative values": (
        lambda: _of_ten(tokens=page(NUMBERS, -10) + page(bytes(160), 20)), "column tokens: a page of -10 values in "),
    "a page of 2 GB": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={2: ("i32", 2**31 - 1)})), " bytes that unpack to 2,147,"),
    "a page of 60 MB that has 80 bytes": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={2: ("i32", 60_000_000)})), "Corrupt ZSTD compressed data"),
    "a page of a negative size": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={2: ("i32", -1)})), "column tokens: a page of 10 values in "),
    "a page before the last": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={3: ("i32", -100)})), "column tokens: a page of 10 values in -100 bytes"),
    "a page that ends after its column": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={3: ("i32", 1000)})), "column tokens: a page of 10 values in 1,000 bytes"),
    "a gap after the last page": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10) + b"\0" * 5})), "column tokens: a page of kind -1; expected data or a dictionary"),
    "a page that has no end": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10) + b"\x15"})), "column tokens: a truncated page header"),
    "a page of another kind": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={1: ("i32", 1)})), "column tokens: a page of kind 1; expected data or a dictionary"),
    "a page of version 2 with the header of version 1": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={1: ("i32", 3)})), "column tokens: a page of kind 3; expected data or a dictionary"),
    "no checksum": (lambda: _of_ten(tokens=page(NUMBERS, 10, changes={4: ("i32", None)})), "column tokens: a page without a checksum"),
    "a checksum of another type, which a reader passes over": (
        lambda: _of_ten(tokens=page(NUMBERS, 10, changes={4: ("i64", 1)})), "column tokens: a page without a checksum"),
    "a wrong checksum": (lambda: _of_ten(tokens=page(NUMBERS, 10, changes={4: ("i32", 1)})), "could not verify page integrity"),
    "a dictionary of 2**31 numbers": (
        lambda: _of_ten(tokens=dictionary_of(bytes(8), 1, 10, says=2**31 - 1)), "column tokens: a dictionary of 2,147,483,647 values in 8 bytes"),
    "a dictionary of 2**31 texts": (
        lambda: _of_ten(status=dictionary_of(text(2), 1, 10, says=2**31 - 1)), "column status: a dictionary of 2,147,483,647 values in 6 bytes"),
    "a dictionary of more texts than it has": (
        lambda: _of_ten(status=dictionary_of(text(12), 1, 10, says=4)), "column status: a dictionary of 16 bytes whose texts end at "),
    "a dictionary of fewer texts than it has": (
        lambda: _of_ten(status=dictionary_of(text(2) * 2, 1, 10)), "column status: a dictionary of 12 bytes whose texts end at 6"),
    "a dictionary's text of 4 GB": (
        lambda: _of_ten(status=dictionary_of(b"\xff" * 4, 1, 10)), "column status: a dictionary of 4 bytes whose texts end at 4,294,967,299"),
    "two dictionaries": (
        lambda: _of_ten(status=(page(text(2), 1, kind=2) + dictionary_of(text(2), 1, 10)[0], len(page(text(2), 1, kind=2)))),
        "column status: a dictionary that is not its first page"),
    "an index beyond the dictionary": (
        lambda: _of_ten(status=(page(text(2), 1, kind=2) + page(b"\3" + varint(10 << 1) + b"\7", 10, 8), len(page(text(2), 1, kind=2)))),
        "Index not in dictionary bounds"),
    "indices without a dictionary": (lambda: _of_ten(status=page(b"\0" + varint(20), 10, 8)), ""),
    "pages outside the file": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10)}), chunk=_chunk("tokens", fields={9: ("i64", 10**9)})),
        "column tokens: pages from 1,000,000,000 to "),
    "pages in the footer": (
        lambda: crafted((10, {}), chunk=_chunk("content_hash", fields={7: ("i64", 400)})), ""),
    "pages at a negative place": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10)}), chunk=_chunk("tokens", fields={9: ("i64", -8)})), "column tokens: pages from -8 to "),
    "pages of a negative size": (
        lambda: crafted((10, {}), chunk=_chunk("tokens", fields={7: ("i64", -8)})), "column tokens: pages from "),
    "two columns in one place": (
        lambda: crafted((10, {name: page(NUMBERS, 10) for name in ("tokens", "cost_cents")}), chunk=_twice), "columns whose bytes overlap"),
    "a codec that is none": (
        lambda: crafted((10, {}), chunk=_chunk("tokens", fields={4: ("i32", 99)})),
        "column tokens: compression codec 99; expected zstd or none"),
    "sizes of pages that are not packed": (
        lambda: crafted((10, {}), chunk=_chunk("tokens", fields={4: ("i32", 0)})), "column tokens: an uncompressed page of "),
    "a row group with a column too few": (lambda: crafted((10, {}), footer=_without_a_column), "a row group of 7 columns; expected 8 as in the schema"),
    "encrypted, says the footer": (
        lambda: crafted((10, {}), footer=lambda footer: footer | {8: ("struct", {1: ("struct", {})})}), "an encrypted Parquet file"),
    "nothing more than rows": (lambda: crafted((10**9, {})), " bytes that unpack to 8,000,000,000 or more; expected at most 268,435,456"),
}  # fmt: skip


def _twice(name: str, fields: Fields) -> Fields:
    """Where the tokens lie, the costs are to lie as well."""
    if name == "tokens":
        _twice.place = fields[9]  # type: ignore[attr-defined]
    return fields | {9: _twice.place} if name == "cost_cents" else fields  # type: ignore[attr-defined]


def _without_a_column(footer: Fields) -> Fields:
    footer[4][1][1][0][1][1][1].pop()
    return footer


@pytest.mark.parametrize("name", LIES)
def test_promise_16_pages_and_footers_that_lie_are_refused(name: str) -> None:
    make, message = LIES[name]
    found = refused(make())
    assert message in found
    assert 10 < len(found) < 400


@pytest.mark.parametrize(
    "fields",
    [
        {3: ("list", ("binary", [b"token"]))},
        {1: ("i32", 6)},
        {1: ("i32", 99)},
        {2: ("list", ("i32", [99]))},
        {3: ("list", ("binary", []))},
    ],
)
def test_promise_16_what_a_row_group_says_again_may_lie(fields: Fields) -> None:
    """A reader goes by the schema and by a column's place; none of it is needed, and none of it ends the process."""
    _equal_or_refused(crafted((10, {}), chunk=_chunk("tokens", fields=fields)), read(crafted((10, {}))))


@pytest.mark.parametrize("stated", [0, 1, 2**40, -1])
def test_promise_16_sizes_in_the_footer_that_no_reader_needs_may_lie(stated: int) -> None:
    honest = read(crafted((10, {})))
    assert read(crafted((10, {}), chunk=lambda name, fields: fields | {6: ("i64", stated)})).equals(honest)


def test_a_part_may_unpack_to_what_its_reader_allows() -> None:
    steps = many_steps(100, error=pa.array(["e" * 1_000_000] * 100))
    octets = written(steps)
    message = f"{len(octets):,} bytes that unpack to "
    assert refused(octets, max_bytes=50_000_000).startswith(message)
    assert refused(octets, max_bytes=50_000_000).endswith("expected at most 50,000,000 (max_bytes sets another limit)")
    assert read(octets, max_bytes=150_000_000).num_rows == 100
    more = crafted(*[(1, {"status": page(text(30 << 20), 1)})] * 10)
    assert "expected at most 268,435,456 (max_bytes sets another limit)" in refused(more)
    assert read(more, max_bytes=2**30).num_rows == 10
    assert "expected at most 0" in refused(written(SOME), max_bytes=0)


# Any change


def _equal_or_refused(octets: bytes, expected: pa.Table) -> bool:
    """Whether a file reads as it was; anything but that or a refusal fails."""
    try:
        found = read(octets)
    except Refusal:
        return False
    assert found.equals(expected)
    return True


SMALL = many_steps(6, content_hash=pa.array(["a", None, "b", "a", None, "c"]), tokens=pa.array([5, 0, 7, 2**40, 1, 3]))


def test_promise_16_a_changed_byte_gives_the_same_rows_or_none() -> None:
    good, expected = written(SMALL), SMALL.to_arrow()
    same = sum(
        _equal_or_refused(good[:i] + bytes([good[i] ^ change]) + good[i + 1 :], expected)
        for i in range(len(good))
        for change in (1 << i % 8, 0xFF)
    )
    assert 0 < same < len(good)  # what no one reads may change: statistics, what columns mean


def test_promise_16_a_file_cut_anywhere_is_refused() -> None:
    good = written(SMALL)
    for length in range(len(good)):
        assert refused(good[:length])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_promise_16_any_other_bytes_give_the_same_rows_or_none(data: st.DataObject) -> None:
    good = written(SMALL)
    octets = bytearray(good)
    places = st.integers(0, len(good))
    for _ in range(data.draw(st.integers(1, 4))):
        start, stop = sorted((data.draw(places), data.draw(places)))
        stop = min(stop, start + data.draw(st.sampled_from([0, 1, 2, 8, 100])))
        octets[start:stop] = data.draw(st.binary(max_size=9) | st.just(good[: data.draw(places)][-50:]))
    _equal_or_refused(bytes(octets), SMALL.to_arrow())


# Bombs: small files that would fill the memory or take for ever

_CHILD = """
import sys, time
from exporttools.bundle.parts import PartRefused, read_part
from exporttools.records.schema import TRACE_STEPS
start, rows, refusal = time.monotonic(), 0, ""
with open(sys.argv[1], "rb", buffering=0) as file:
    try:
        for batch in read_part(TRACE_STEPS, file)[1]:
            rows += batch.num_rows
    except PartRefused as error:
        refusal = str(error)
seconds = time.monotonic() - start
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) // 1024, seconds, rows, refusal, sep="|")
"""


def read_apart(path: Path) -> tuple[int, float, int, str]:
    """Read a file in a process of its own: the most memory it had in MiB, the seconds, the rows, the refusal."""
    # Not getrusage: what it gives is at least what the process had that started this one.
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, path], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    peak, seconds, rows, refusal = done.stdout.rstrip("\n").split("|")
    return int(peak), float(seconds), int(rows), refusal


LARGE = 62 << 20
OVER = "expected at most 268,435,456 (max_bytes sets another limit)"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a page of a gigabyte of zeros": (lambda: _of_ten(status=page(bytes(10**9), 10)), OVER),
    "pages of zeros, gigabytes": (lambda: crafted((50_000_000, {"tokens": page(bytes(40_000_000), 5_000_000) * 10})), OVER),
    "row groups of zeros, gigabytes": (
        lambda: crafted(*[(5_000_000, {"tokens": page(bytes(40_000_000), 5_000_000)})] * 10), OVER),
    "a number in a billion rows": (lambda: crafted((10**9, {})), OVER),
    "NULL in a billion rows": (lambda: crafted((10**9, {"content_hash": _nulls(10**9)})), OVER),
    "a text of a megabyte in a million rows": (
        lambda: crafted((10**6, {"status": dictionary_of(text(2**20), 1, 10**6)})),
        "1,000,000 rows with dictionary texts of up to 1,048,"),
    "a text of a kilobyte in a million rows": (lambda: crafted((10**6, {"status": dictionary_of(text(1000), 1, 10**6)})), OVER),
    "texts of a kilobyte in each column": (
        lambda: crafted((30_000, {leaf[0]: dictionary_of(text(1000), 1, 30_000, nullable=True) for leaf in _MANY[8:]}), leaves=_MANY),
        "30,000 rows with dictionary texts of up to 193,"),
    "a text of 60 MB": (lambda: crafted((1, {"status": page(text(LARGE), 1)})), ""),
    "texts of 60 MB": (lambda: crafted(*[(1, {"status": page(text(LARGE), 1)})] * 3), ""),
    "a text of 60 MB that may be NULL": (lambda: crafted((1, {"content_hash": page(b"\2\0\0\0\2\1" + text(LARGE), 1)})), ""),
    "60 MB of texts in one batch": (lambda: crafted((60_000, {"status": page(text(1000) * 60_000, 60_000)})), ""),
    "a text of 16 MB among millions of empty ones": (
        lambda: crafted((3_000_000, {"status": page(text(2**24), 1) + page(text(0) * 2_999_999, 2_999_999)})), ""),
    "a dictionary of 60 MB in millions of rows": (
        lambda: crafted((3_000_000, {"status": dictionary_of(text(0) + text(2**20) * 58, 59, 3_000_000)})), "3,000,000 rows with dictionary texts of up to"),
    "long texts in a dictionary that no one refers to": (
        lambda: crafted((3_000_000, {"status": dictionary_of(text(0) + text(32_000), 2, 3_000_000)})), ""),
    "dictionaries of empty texts": (
        lambda: crafted(*[(9, {name: dictionary_of(text(0) * 450_000, 450_000, 9) for name in ("status", "step_type")})] * 4), ""),
    "a dictionary of 15 million empty texts": (lambda: _of_ten(status=dictionary_of(text(0) * 15_000_000, 15_000_000, 10)), OVER),
    "a million pages": (lambda: crafted((10**6, {"status": page(text(0), 1) * 10**6})), "bytes that unpack to "),
    "row groups of one row": (lambda: crafted(*[(1, {})] * 2000), "bytes that unpack to "),
    "row groups of no rows": (lambda: crafted(*[(0, {leaf[0]: (b"", 0) for leaf in STEPS})] * 2000), ""),
    "200 columns of dictionaries": (
        lambda: crafted((30_000, {leaf[0]: dictionary_of(text(100) * 2000, 2000, 30_000, nullable=True) for leaf in _MANY[8:]}), leaves=_MANY), ""),
    "5,000 columns": (
        lambda: crafted((65_536, {}), leaves=STEPS + [(f"c{i}", "int64", True) for i in range(4992)]), "5,000 columns; expected at most 200"),
    "a footer of a million row groups": (
        lambda: framed(_footer(_list("struct", 10**6) + thrift({1: ("list", ("struct", [])), 2: ("i64", 0), 3: ("i64", 0)}) * 10**6)),
        "a Parquet footer with more than 100,000 elements"),
    "a footer that announces a million columns": (
        lambda: framed(_footer(_list("struct", 1) + b"\x19" + _list("struct", 10**6))), "a Parquet footer with more than 100,000 elements"),
    "a footer of as many columns as may be": (
        lambda: framed(_footer(_list("struct", 1) + b"\x19" + _list("struct", 99_900) + thrift({2: ("i64", 0)}) * 99_900 + b"\x16\0\x16\0\0")), ""),
    "a schema of as many columns as may be": (
        lambda: crafted(footer=lambda footer: footer | {2: ("list", ("struct", [_ROOT | {5: ("i32", 99_000)}, *[_element(STEPS[0])] * 99_000]))}),
        "99,000 columns; expected at most 200"),
    "a schema of as many levels as may be": (
        lambda: crafted(footer=lambda footer: footer | {2: ("list", ("struct", [_ROOT | {5: ("i32", 1)}] * 50_000 + [_element(STEPS[0])]))}),
        "Parquet schema too deeply nested"),
    "a footer of 15 MB of text": (
        lambda: crafted((1, {}), footer=lambda footer: footer | {6: ("binary", b"x" * 15_000_000)}), ""),
}  # fmt: skip
"""A file, and what its refusal says; empty: it may be read or refused, so long as it does not cost more than is promised."""

_MANY = STEPS + [(f"c{i}", "string", True) for i in range(192)]
_ROOT: Fields = {4: ("binary", b"schema")}


def _list(kind: str, count: int) -> bytes:
    return bytes([0xF0 | _THRIFT[kind]]) + varint(count)


def _footer(row_groups: bytes) -> bytes:
    """A footer whose row groups are the given octets, a Thrift list."""
    return thrift({1: ("i32", 2), 2: ("list", ("struct", [_ROOT])), 3: ("i64", 0)})[:-1] + b"\x19" + row_groups + b"\0"


def _nulls(rows: int) -> bytes:
    levels = varint(rows << 1) + b"\0"
    return page(len(levels).to_bytes(4, "little") + levels, rows)


@pytest.mark.parametrize("name", BOMBS)
def test_promise_16_a_bomb_costs_little_memory_and_time(name: str, tmp_path: Path) -> None:
    make, message = BOMBS[name]
    path = tmp_path / "part.parquet"
    path.write_bytes(make())
    peak_mib, seconds, rows, refusal = read_apart(path)
    assert message in refusal
    assert rows or refusal or name == "row groups of no rows"
    assert peak_mib < 512, f"{peak_mib} MiB"
    assert seconds < 10, f"{seconds} s"


@pytest.mark.parametrize("by", [written, lambda table: by_pyarrow(table.to_arrow())], ids=["ours", "another's"])
def test_promise_16_memory_does_not_grow_with_the_rows(by: Callable[[Any], bytes], tmp_path: Path) -> None:
    peaks = []
    for rows in (300_000, 1_500_000):  # others write row groups of a million rows
        path = tmp_path / f"{rows}.parquet"
        path.write_bytes(by(many_steps(rows, content_hash=hashes(rows))))
        peak_mib, _, found, refusal = read_apart(path)
        assert (found, refusal) == (rows, "")
        peaks.append(peak_mib)
    assert max(peaks) < 350
    assert peaks[1] - peaks[0] < 120
