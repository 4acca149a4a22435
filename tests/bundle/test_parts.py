"""A bundle's parts: what is written reads back equal, and hostile Parquet is refused."""

from __future__ import annotations

import base64
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporttools import ConfigError, InconsistentData, RunSnapshot, SnapshotTable, TraceStepSnapshot
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


SMALL = many_steps(6, content_hash=pa.array(["a", None, "b", "a", None, "c"]), tokens=pa.array([5, 0, 7, 2**40, 1, 3]))


@pytest.mark.slow
def test_promise_16_a_changed_byte_gives_the_same_rows_or_none() -> None:
    good, expected = written(SMALL), SMALL.to_arrow()
    same = sum(
        equal_or_refused(good[:i] + bytes([good[i] ^ change]) + good[i + 1 :], expected)
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
    equal_or_refused(bytes(octets), SMALL.to_arrow())
