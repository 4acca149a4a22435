"""A bundle's parts: what is written reads back equal, and hostile Parquet is refused."""

from __future__ import annotations

import base64
import errno
import io
import os
import threading
from collections.abc import Callable
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

from exporttools import InconsistentData, RunSnapshot, SnapshotTable, TraceStepSnapshot
from exporttools.bundle.parts import BATCH_ROWS, ROW_GROUP_BYTES, ROW_GROUP_ROWS, PartRefused, read_part
from exporttools.records.schema import TRACE_STEPS
from tests.bundle.parquet_files import (
    NOON_US,
    Octets,
    by_pyarrow,
    crafted,
    dictionary_of,
    equal_or_refused,
    hashes,
    in_our_form,
    many_steps,
    page,
    read,
    refused,
    text,
    written,
)
from tests.databases import run
from tests.steps import a_step, steps_of, with_extra

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
    schema, batches = read_part(table.record_type, Octets(octets))
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


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "by default": ({}, "exporttools.columns: step_index: expected "),
    "version 2 pages": ({"data_page_version": "2.0"}, "exporttools.columns: step_index: expected "),
    "without an Arrow schema": ({"store_schema": False}, "exporttools.columns: step_index: expected "),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("format_version", [1, 2])
def test_what_others_write_is_refused(name: str, format_version: int) -> None:
    options, message = OTHERS[name]
    assert refused(by_pyarrow(SOME.to_arrow(), **options)).startswith(message)


FORMAT_1_OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "by default, with dictionaries of numbers": ({}, "column step_index: a dictionary of int64 values; expected one of texts alone"),
    "version 2 pages": ({"data_page_version": "2.0", "use_dictionary": False}, "column step_index: a page of kind 3; expected data or a dictionary"),
    "version 1": ({"version": "1.0", "use_dictionary": False}, "footer: version: expected 2; found 1"),
    "not compressed": ({"compression": "none", "use_dictionary": False}, "column step_index: not one zstd frame as it is written"),
    "snappy": ({"compression": "snappy", "use_dictionary": False}, "column step_index: not one zstd frame as it is written"),
    "a page index": ({"write_page_index": True, "use_dictionary": False}, "column step_index: footer: offset_index_offset: expected nothing; found "),
    "no checksum": ({"write_page_checksum": False, "use_dictionary": False}, "column step_index: a page without a checksum"),
    "differences": ({"column_encoding": {"tokens": "DELTA_BINARY_PACKED"}, "use_dictionary": False},
                    "column tokens: encoding 5; expected PLAIN or a dictionary"),
    "differences of texts": ({"column_encoding": {"status": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
                             "column status: encoding 7; expected PLAIN or a dictionary"),
    "lengths apart": ({"column_encoding": {"status": "DELTA_LENGTH_BYTE_ARRAY"}, "use_dictionary": False},
                      "column status: encoding 6; expected PLAIN or a dictionary"),
    "octets apart": ({"column_encoding": {"cost_cents": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
                     "column cost_cents: encoding 9; expected PLAIN or a dictionary"),
    "sorting columns": ({"sorting_columns": [pq.SortingColumn(0)], "use_dictionary": False}, "footer: row_groups[0].sorting_columns: expected nothing; found a list of 1"),
    "a bloom filter": ({"bloom_filter_options": {"status": {"ndv": 10, "fpp": 0.05}}, "use_dictionary": False}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMAT_1_OTHERS)
def test_promise_16_what_format_1_did_not_write_is_refused(name: str) -> None:
    options, message = FORMAT_1_OTHERS[name]
    try:
        octets = by_pyarrow(SOME.to_arrow(), **options)
    except TypeError:
        pytest.skip(f"this pyarrow has no {', '.join(options)}")
    assert message in refused(octets, format_version=1)


def test_rows_as_pyarrow_writes_them_in_format_1_are_read() -> None:
    table = SOME.to_arrow()
    assert read(by_pyarrow(table, use_dictionary=["status"]), format_version=1).equals(table)


def test_dictionaries_that_change_between_row_groups() -> None:
    texts = np.array([f"s{i // 100_000}" for i in range(400_000)])
    texts[::7] = "ok"
    steps = many_steps(400_000, status=pa.array(texts))
    octets = written(steps)
    with pq.ParquetFile(io.BytesIO(octets)) as file:
        assert file.metadata.num_row_groups == 4
    assert read(octets).equals(steps.to_arrow())


def test_rows_are_not_read_before_they_are_asked_for() -> None:
    octets = written(many_steps(10))
    with pq.ParquetFile(io.BytesIO(octets)) as file:
        column = file.metadata.row_group(0).column(0)
        end = column.data_page_offset + column.total_compressed_size
    _, batches = read_part(TRACE_STEPS, Octets(octets[: end - 1] + bytes([octets[end - 1] ^ 1]) + octets[end:]))
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


SCHEMAS: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "nullable": (lambda: _steps_with(status=_typed(["a", "b"], pa.string())), "footer: schema[7].repetition_type: expected 0; found 1"),
    "a list": (lambda: _steps_with(tags=_typed([["a"], []], pa.list_(pa.string()))), "column 'tags' is of a type that bundles do not have"),
    "a struct": (lambda: _steps_with(tags=_typed([{"a": 1}, None], pa.struct([("a", pa.int64())]))), "column 'tags' is of a type that bundles do not have"),
    "a map": (lambda: _steps_with(tags=_typed([[("a", 1)], []], pa.map_(pa.string(), pa.int64()))), "column 'tags' is of a type that bundles do not have"),
    "binary": (lambda: _steps_with(model=_typed([b"a", None], pa.binary())), "column 'model' is of a type that bundles do not have"),
    "large text": (lambda: _steps_with(model=_typed(["a", None], pa.large_string())), "an Arrow schema that differs from the columns' own: model"),
    "a dictionary": (
        lambda: _steps_with(model=_typed(["a", None], pa.string()).dictionary_encode()), "an Arrow schema that differs from the columns' own: model"),
    "a well-known extra of another type": (
        lambda: _steps_with(model=_typed([1, None], pa.int64())), "column 'model' is of type int64; expected string"),
    "a float of 32 bits": (lambda: _steps_with(weight=_typed([1, None], pa.float32())), "column 'weight' is of a type that bundles do not have"),
    "nanoseconds": (
        lambda: _steps_with(seen=_typed([1, None], pa.timestamp("ns", "UTC"))), "footer: schema[9].logicalType: expected nothing; found a struct of 1 fields"),
    "another time zone": (
        lambda: _steps_with(seen=_typed([1, None], pa.timestamp("us", "Europe/Oslo"))), "an Arrow schema that differs from the columns' own: seen"),
    "a UUID": (lambda: _steps_with(model=_typed([b"0" * 16, None], pa.uuid())), "column 'model' is of a type that bundles do not have"),
    "JSON": (lambda: _steps_with(model=_typed(["{}", None], pa.json_())), "column 'model' is of a type that bundles do not have"),
    "a column too few": (lambda: SOME.to_arrow().drop_columns(["status"]), "column 6 is 'content_hash'; expected 'status'"),
    "a column twice": (lambda: EXTRAS.to_arrow().append_column("model", EXTRAS.to_arrow()["model"]), "columns 'model' and 'model'; expected names that differ in more than case"),
    "another part": (
        lambda: SnapshotTable.from_records(RunSnapshot, [RunSnapshot(**run())]).to_arrow(),
        "column 0 is 'run_id'; expected 'step_index'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_promise_16_other_types_are_refused(name: str) -> None:
    make, message = SCHEMAS[name]
    octets = in_our_form(make())
    assert refused(octets, format_version=1 if message.startswith("an Arrow") else 2).startswith(message)


class InMemoryKms(pe.KmsClient):
    """Keys that are not secret."""

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
        (True, "footer: encryption_algorithm: expected nothing; found a struct of "),
    ],
)
def test_promise_16_encrypted_files_are_refused(plaintext_footer: bool, message: str) -> None:
    configuration = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["status"]}, plaintext_footer=plaintext_footer
    )
    keys = pe.CryptoFactory(InMemoryKms).file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    assert refused(by_pyarrow(SOME.to_arrow(), encryption_properties=keys), format_version=1).startswith(message)


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
        read(in_our_form(table))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("octets", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_promise_16_text_that_is_not_utf8_is_refused(octets: bytes, dictionary: bool) -> None:
    value = len(octets).to_bytes(4, "little") + octets
    pages = dictionary_of(value, 1, 3) if dictionary else page(value * 3, 3)
    assert ("codec can't decode byte" if dictionary else "UTF8") in refused(crafted((3, {"status": pages})))


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


def test_a_part_may_unpack_to_what_its_reader_allows() -> None:
    steps = many_steps(100, error=pa.array(["e" * 1_000_000] * 100))
    octets = written(steps)
    message = f"{len(octets):,} bytes that unpack to "
    assert refused(octets, max_bytes=50_000_000).startswith(message)
    assert refused(octets, max_bytes=50_000_000).endswith("expected at most 50,000,000 (max_bytes sets another limit)")
    assert read(octets, max_bytes=150_000_000).num_rows == 100
    more = crafted(*[(1, {"status": page(text(30 << 20, letter), 1)}) for letter in (b"a", b"b", b"c", b"d", b"e") * 2])
    assert "expected at most 268,435,456 (max_bytes sets another limit)" in refused(more)
    assert read(more, max_bytes=2**30).num_rows == 10
    assert "expected at most 0" in refused(written(SOME), max_bytes=0)


# Any change


SMALL = many_steps(6, content_hash=pa.array(["a", None, "b", "a", None, "c"]), tokens=pa.array([5, 0, 7, 2**40, 1, 3]))


@pytest.mark.slow
def test_promise_16_a_changed_byte_gives_the_same_rows_or_none() -> None:
    good, expected = written(SMALL), SMALL.to_arrow()
    same = sum(
        equal_or_refused(good[:i] + bytes([good[i] ^ change]) + good[i + 1 :], expected)
        for i in range(len(good))
        for change in (1 << i % 8, 0xFF)
    )
    assert same == 0  # every byte is checked


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
    equal_or_refused(bytes(octets), SMALL.to_arrow())


def test_reading_that_ends_early_leaves_no_thread() -> None:
    """A large part is unpacked one batch ahead, by a thread that must not read on when the file is closed."""
    octets = written(many_steps(200_000))
    schema, batches = read_part(TRACE_STEPS, Octets(octets))
    assert next(batches).schema == schema
    assert any(thread.name.startswith("exporttools-reader") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("exporttools-reader") for thread in threading.enumerate())
