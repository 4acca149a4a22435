"""Parquet from strangers: whatever its bytes, it is read right or refused, within a little memory (PROMISES row 16)."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import encryption

from exporttools import (
    ConfigError,
    ExportBundle,
    ExportToolsError,
    InconsistentData,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    verify_bundle,
    write_bundle,
)
from exporttools.bundle.parts import BATCH_BYTES, BATCH_ROWS, PartRefused, read_part, write_part
from exporttools.schema import TRACE_STEPS

from .test_bundle import a_bundle, rehash
from .test_snapshot_table import a_step, steps_of, with_extra

REFUSED = (PartRefused, ConfigError, InconsistentData)
ZSTD: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def written(steps: SnapshotTable[TraceStepSnapshot]) -> bytes:
    file = io.BytesIO()
    write_part(steps, file)
    return file.getvalue()


def batches_of(content: bytes, **options: Any) -> list[pa.RecordBatch]:
    _, batches = read_part(TRACE_STEPS, io.BytesIO(content), **options)
    return list(batches)


def read(content: bytes, **options: Any) -> pa.Table:
    schema, batches = read_part(TRACE_STEPS, io.BytesIO(content), **options)
    return pa.Table.from_batches(list(batches), schema)


def refusal(content: bytes, **options: Any) -> str:
    with pytest.raises(REFUSED) as caught:
        read(content, **options)
    return str(caught.value)


def some_steps(rows: int, **columns: Any) -> pa.Table:
    """Steps, quickly, with some columns given."""
    values = {
        "step_index": np.arange(rows),
        "timestamp": pa.array(np.full(rows, 1_790_000_000_000_000)).cast(pa.timestamp("us", "UTC")),
        "step_type": pa.repeat("llm_call", rows),
        "tokens": np.ones(rows, np.int64),
        "cost_cents": np.full(rows, 0.5),
        "duration_ms": np.full(rows, 2.5),
        "status": pa.repeat("ok", rows),
        "content_hash": pa.nulls(rows, pa.string()),
    } | columns  # fmt: skip
    arrays = [
        values[name] if isinstance(values[name], pa.Array) else pa.array(values[name]) for name in TRACE_STEPS.names
    ]
    return pa.Table.from_arrays(arrays, schema=TRACE_STEPS.arrow_schema())


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **ZSTD | options)
    return file.getvalue()


# Right


@pytest.mark.parametrize("rows", [0, 1, BATCH_ROWS, BATCH_ROWS + 1, 200_000])
def test_it_reads_back_as_it_was(rows: int) -> None:
    hashes = pa.array([f"{i:032x}" if i % 3 else None for i in range(rows)], pa.string())
    table = some_steps(rows, content_hash=hashes, tokens=np.arange(rows))
    steps = with_extra(
        SnapshotTable(TraceStepSnapshot, table),
        model=pa.array(["small", None, "", "größe"] * rows, pa.string())[:rows],
        ended=pa.array([None, 7] * rows, pa.timestamp("us", "UTC"))[:rows],
        score=pa.array([0.5, None] * rows, pa.float64())[:rows],
        retries=pa.array([-(2**63), None, 2**63 - 1] * rows, pa.int64())[:rows],
    )
    content = written(steps)
    found = read(content)
    assert found.equals(steps.to_arrow())
    assert found.schema.equals(steps.schema, check_metadata=True)
    batches = batches_of(content)
    assert max((batch.num_rows for batch in batches), default=0) <= BATCH_ROWS
    assert max((batch.nbytes for batch in batches), default=0) < 2 * BATCH_BYTES


def test_texts_of_megabytes_come_in_small_batches() -> None:
    texts = [f"{i:02}" * 500_000 for i in range(40)] + [None, ""]
    steps = with_extra(steps_of(*(a_step(i) for i in range(42))), error=pa.array(texts), model=pa.array(texts[:1] * 42))
    batches = batches_of(written(steps), max_bytes=1 << 30)
    assert pa.Table.from_batches(batches).equals(steps.to_arrow())
    assert 2 <= len(batches) <= 42
    assert max(batch.nbytes for batch in batches) < 3 * BATCH_BYTES


@pytest.mark.parametrize("row_group_size", [3, 7, 1000])
@pytest.mark.parametrize("use_dictionary", [True, False, ["status"]])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_whoever_wrote_it(row_group_size: int, use_dictionary: Any, version: str) -> None:
    """Dictionaries that change between row groups, and pages that fall back from one."""
    hashes = pa.array([f"{i % 500:0300x}" if i % 5 else None for i in range(1000)])
    table = some_steps(1000, content_hash=hashes, status=pa.array([f"s{i // 100}" for i in range(1000)]))
    options = {
        "row_group_size": row_group_size, "use_dictionary": use_dictionary, "data_page_version": version,
        "dictionary_pagesize_limit": 20_000, "data_page_size": 5_000,
    }  # fmt: skip
    assert read(parquet(table, **options)).equals(table)
    assert read(parquet(table, **options, compression="none")).equals(table)


def test_a_dictionary_is_written_where_it_pays(tmp_path: Path) -> None:
    rows = 20_000
    text = np.random.default_rng(7).bytes(16 * rows).hex()
    random = pa.array([text[i * 32 : i * 32 + 32] for i in range(rows)])
    content = written(SnapshotTable(TraceStepSnapshot, some_steps(rows, content_hash=random)))
    group = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    assert {chunk.path_in_schema for chunk in chunks if chunk.has_dictionary_page} == {"step_type", "status"}
    assert {chunk.compression for chunk in chunks} == {"ZSTD"}


def test_duckdb_reads_the_same_rows(tmp_path: Path) -> None:
    hashes = pa.array([f"{i:032x}" if i % 3 else None for i in range(5000)])
    table = some_steps(5000, content_hash=hashes)
    (tmp_path / "steps.parquet").write_bytes(written(SnapshotTable(TraceStepSnapshot, table)))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(f"from '{tmp_path / 'steps.parquet'}'").to_arrow_table()
    assert found.cast(table.schema).equals(table)


# Damaged


def _pages(content: bytes) -> Iterator[int]:
    """The positions of the bytes of all column chunks."""
    with pq.ParquetFile(io.BytesIO(content)) as file:
        group = file.metadata.row_group(0)
        for i in range(group.num_columns):
            chunk = group.column(i)
            start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            yield from range(start, start + chunk.total_compressed_size)


def test_promise_16_any_changed_byte_gives_the_same_rows_or_a_refusal() -> None:
    steps = with_extra(
        steps_of(*(a_step(i, content_hash=f"h{i % 3}") for i in range(20))), model=pa.array(["m", None] * 10)
    )
    good, expected = written(steps), steps.to_arrow()
    refused = 0
    for i in range(len(good)):
        try:
            found = read(good[:i] + bytes([good[i] ^ (1 << i % 8)]) + good[i + 1 :])
            assert found.columns == expected.columns, i  # an extra column's name has no checksum here
        except REFUSED:
            refused += 1
    assert refused > len(good) / 2


def test_page_checksums_are_what_finds_it() -> None:
    steps = steps_of(*(a_step(i) for i in range(20)))
    plain = io.BytesIO()
    pq.write_table(steps.to_arrow(), plain, compression="none")  # as it would be without them
    good, wrong = plain.getvalue(), 0
    for i in _pages(good):
        try:
            wrong += not pq.read_table(io.BytesIO(good[:i] + bytes([good[i] ^ 16]) + good[i + 1 :])).equals(
                steps.to_arrow()
            )
        except (pa.ArrowException, OSError, OverflowError):
            continue
    assert wrong > 100
    assert refusal(good) == "column step_index: a page without a checksum"


def test_promise_16_any_length_is_refused() -> None:
    good = written(steps_of(a_step(0), a_step(1)))
    for length in range(len(good)):
        assert refusal(good[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=6
    )
)
def test_promise_16_no_bytes_make_it_crash(edits: list[tuple[float, int, bytes]]) -> None:
    octets = bytearray(written(steps_of(*(a_step(i) for i in range(5)))))
    for where, removed, added in edits:
        at = int(where * len(octets))
        octets[at : at + removed] = added
    with contextlib.suppress(REFUSED):
        read(bytes(octets))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1\0\0\0\0PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"x" * 1000])
def test_promise_16_what_is_no_parquet(content: bytes) -> None:
    assert refusal(content)


# Of another kind


class _Kms(encryption.KmsClient):  # type: ignore[misc]
    """A key server that keeps nothing secret."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_promise_16_encrypted_files_are_refused(plaintext_footer: bool) -> None:
    configuration = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["tokens", "status"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(lambda _: _Kms())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    content = parquet(some_steps(10), encryption_properties=properties)
    assert refusal(content) == "an encrypted Parquet file"


def _with(name: str, array: pa.Array) -> pa.Table:
    table = some_steps(3)
    return table.set_column(table.schema.get_field_index(name), name, array)


OTHER_KINDS: list[tuple[pa.Table, dict[str, Any], str]] = [
    (some_steps(3).append_column("id", pa.array([b"0" * 16] * 3, pa.uuid())), {}, "column 'id' is of type extension<arrow.uuid>"),
    (_with("status", pa.array(['{"a": 1}'] * 3, pa.json_(pa.string()))), {}, "column 6 is status: extension<arrow.json>"),
    (some_steps(3).append_column("tags", pa.array([["a"]] * 3)), {}, "column 'tags' is of type list"),
    (some_steps(3).append_column("tag", pa.array([{"a": 1}] * 3)), {}, "column 'tag' is of type struct"),
    (_with("tokens", pa.array([1.5] * 3)), {}, "column 3 is tokens: double; expected tokens: int64 not null"),
    (_with("tokens", pa.array([1] * 3, pa.int32())), {}, "column 3 is tokens: int32; expected tokens: int64 not null"),
    (_with("status", pa.array([b"ok"] * 3)), {}, "column 6 is status: binary"),
    (_with("status", pa.array(["ok"] * 3).dictionary_encode()), {}, "column 6 is status: dictionary"),
    (_with("timestamp", pa.array([7] * 3, pa.timestamp("us"))), {}, "column 1 is timestamp: timestamp[us]"),
    (some_steps(3), {"compression": "snappy"}, "column step_index: compression codec 1; expected zstd or none"),
    (some_steps(3), {"compression": "gzip"}, "column step_index: compression codec 2; expected zstd or none"),
    (some_steps(3), {"write_page_checksum": False}, "column step_index: a page without a checksum"),
    (
        some_steps(3), {"use_dictionary": False, "column_encoding": {"status": "DELTA_BYTE_ARRAY"}},
        "column status: encoding 7; expected PLAIN or a dictionary",
    ),
    (
        some_steps(3), {"use_dictionary": False, "column_encoding": {"tokens": "DELTA_BINARY_PACKED"}},
        "column tokens: encoding 5; expected PLAIN or a dictionary",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("table", "options", "reason"), OTHER_KINDS)
def test_promise_16_another_kind_of_parquet_is_refused(table: pa.Table, options: dict[str, Any], reason: str) -> None:
    assert reason in refusal(parquet(table, **options))


# Bombs


def _large_page() -> bytes:
    """One text of 300 MB, which takes a few kilobytes."""
    return parquet(some_steps(2, content_hash=pa.array(["0" * 300_000_000, None])), use_dictionary=False)


def _large_dictionary() -> bytes:
    """A text of 1 MB that 200,000 rows refer to: 200 GB."""
    table = some_steps(200_000)
    texts = pa.DictionaryArray.from_arrays(np.zeros(200_000, np.int32), ["x" * (1 << 20)])
    file = io.BytesIO()
    schema = table.schema.set(7, pa.field("content_hash", texts.type))
    pq.write_table(table.set_column(7, schema.field(7), texts), file, **ZSTD, store_schema=False)
    # Written from a dictionary it reads as text, when the Arrow schema is not kept.
    return file.getvalue()


def _many_rows() -> bytes:
    """Rows of one value: 60 million, 4 GB, in a fifth of a megabyte."""
    file = io.BytesIO()
    group = some_steps(10_000_000, step_index=np.zeros(10_000_000, np.int64))
    with pq.ParquetWriter(file, group.schema, **ZSTD, data_page_size=1 << 30, max_rows_per_page=1 << 30) as writer:
        for _ in range(6):
            writer.write_table(group, row_group_size=1 << 30)
    return file.getvalue()


def _many_pages() -> bytes:
    """Zeros, compressed: 5 GB in half a megabyte, in pages of 8 MB."""
    file = io.BytesIO()
    group = some_steps(8_000_000, step_index=np.zeros(8_000_000, np.int64), tokens=np.zeros(8_000_000, np.int64))
    with pq.ParquetWriter(
        file, group.schema, **ZSTD, use_dictionary=False, data_page_size=8 << 20, max_rows_per_page=1 << 20
    ) as writer:
        for _ in range(10):
            writer.write_table(group, row_group_size=1 << 30)
    return file.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a large page": (_large_page, "bytes that unpack to 300,"),
    "a large dictionary": (
        _large_dictionary,
        "200,000 rows of dictionaries whose longest texts have 1,048,650 bytes; expected at most 32,768",
    ),
    "many rows": (_many_rows, "bytes that unpack to "),
    "many pages": (_many_pages, "bytes that unpack to "),
}

# In a process of its own, which says what it took.
VERIFY = """
import json, re, sys, time
from pathlib import Path
from exporttools import verify_bundle
start = time.perf_counter()
verification = verify_bundle(sys.argv[1])
print(json.dumps({
    "seconds": time.perf_counter() - start,
    # Not ru_maxrss: Linux hands on what the process had been before it became this one.
    "peak_bytes": int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024,
    "findings": [[finding.code, finding.path, finding.found] for finding in verification.findings],
}))
"""


@pytest.mark.parametrize("bomb", BOMBS)
def test_promise_16_a_bomb_is_refused_within_512_mb_and_10_s(bomb: str, tmp_path: Path) -> None:
    make, reason = BOMBS[bomb]
    bag = write_bundle(a_bundle(), tmp_path / "bundle")
    path = bag / "data/trace_steps.parquet"
    path.write_bytes(make())
    assert path.stat().st_size < 1_500_000
    rehash(bag)
    done = subprocess.run([sys.executable, "-c", VERIFY, str(bag)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    ((code, name, text),) = found["findings"]
    assert (code, name) == ("schema", "data/trace_steps.parquet")
    assert reason in text
    assert found["peak_bytes"] < 512 << 20, found
    assert found["seconds"] < 10


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    steps = SnapshotTable(TraceStepSnapshot, some_steps(10_000, content_hash=pa.array(["x" * 1000] * 10_000)))
    content = written(steps)
    assert refusal(content, max_bytes=1_000_000).endswith("expected at most 1,000,000 (max_bytes sets another limit)")
    assert read(content, max_bytes=12_000_000).equals(steps.to_arrow())
    run, trace = RunSnapshot("r1", "acme"), TraceSummarySnapshot("t1", "r1", "acme")
    bag = write_bundle(ExportBundle(run=run, trace=trace, steps=steps), tmp_path / "b")
    assert verify_bundle(bag).ok
    (finding,) = verify_bundle(bag, max_bytes=1_000_000).findings
    assert (finding.code, finding.path) == ("schema", "data/trace_steps.parquet")


# Lies


class _Thrift:
    """Just enough of the compact protocol to write a page header that lies."""

    @staticmethod
    def varint(value: int) -> bytes:
        octets = b""
        while value > 0x7F:
            octets += bytes([value & 0x7F | 0x80])
            value >>= 7
        return octets + bytes([value])


def _lying_page(unpacked_bytes: int) -> bytes:
    """The first page header's uncompressed size, which is the second field of it, replaced; the footer follows."""
    good = parquet(some_steps(1000), use_dictionary=False)
    with pq.ParquetFile(io.BytesIO(good)) as file:
        start = file.metadata.row_group(0).column(7).data_page_offset
    header = good[start : start + 4]
    assert header[:3] == b"\x15\x00\x15"  # field 1: DATA_PAGE; field 2 begins
    end = start + 3
    while good[end] & 0x80:
        end += 1
    length = end + 1 - (start + 3)
    lie = _Thrift.varint(unpacked_bytes << 1)
    assert length <= len(lie)
    return good[: start + 3] + lie + good[end + 1 :]


def test_promise_16_a_page_header_that_lies() -> None:
    assert "in 16 bytes that unpacks to 2,000,000,000; expected at most" in refusal(_lying_page(2_000_000_000))


def test_promise_16_a_footer_that_lies_about_rows() -> None:
    good = written(steps_of(*(a_step(i) for i in range(70))))  # 70: two bytes as a zigzag varint, 0x8c 0x01
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    places = [i for i in range(footer, len(good) - 8) if good[i : i + 2] == b"\x8c\x01"]
    assert len(places) > 9  # of the file, its row group and each column
    for i in places:
        for lie in (b"\x8a\x01", b"\xfe\x01"):
            try:
                assert read(good[:i] + lie + good[i + 2 :]).num_rows == 70, i
            except REFUSED:
                continue
    by_file = [refusal(good[:i] + b"\x8a\x01" + good[i + 2 :]) for i in places[:1]]
    assert by_file == ["a footer of 69 rows; expected 70 as in its row groups"]


def test_refusals_are_ours() -> None:
    assert issubclass(PartRefused, ValueError)
    assert not issubclass(PartRefused, ExportToolsError)
