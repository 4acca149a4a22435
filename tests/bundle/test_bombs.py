"""Bundles whose Parquet is small to send and huge to read, with right hashes: refused within little memory and time."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import (
    ExportBundle,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    VerificationFailed,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from exporttools.records.schema import TRACE_STEPS
from tests.bundle.bags import a_bundle, rehash

ZSTD: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


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
        "200,000 rows with dictionary texts of up to 1,048,650 bytes a row; expected at most 32,768",
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


@pytest.mark.slow
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
    run, trace = RunSnapshot("r1", "acme"), TraceSummarySnapshot("t1", "r1", "acme")
    bag = write_bundle(ExportBundle(run=run, trace=trace, steps=steps), tmp_path / "b")
    assert verify_bundle(bag).ok
    assert verify_bundle(bag, max_bytes=20_000_000).ok
    (finding,) = verify_bundle(bag, max_bytes=1_000_000).findings
    assert (finding.code, finding.path) == ("schema", "data/trace_steps.parquet")
    assert finding.found.endswith("expected at most 1,000,000 (max_bytes sets another limit)")
    with pytest.raises(VerificationFailed, match="max_bytes sets another limit"):
        read_bundle(bag, max_bytes=1_000_000)


def test_promise_16_metadata_that_could_unpack_to_much_is_refused(tmp_path: Path) -> None:
    """An Arrow schema in a footer is a flatbuffer whose parts may be shared: a little of it can make millions of fields."""
    bag = write_bundle(a_bundle(), tmp_path / "bundle")
    table = pq.read_table(bag / "data/trace_steps.parquet").replace_schema_metadata({"more": "x" * 10_000})
    pq.write_table(table, bag / "data/trace_steps.parquet", **ZSTD)
    rehash(bag)
    (finding,) = verify_bundle(bag).findings
    assert (finding.code, finding.path) == ("schema", "data/trace_steps.parquet")
    assert finding.found.startswith("key-value metadata of ")
    assert finding.found.endswith(" bytes; expected at most 8,192")


def test_columns_whose_schema_is_longer_than_that_are_written_without_it(tmp_path: Path) -> None:
    steps = some_steps(3)
    for i in range(150):
        steps = steps.append_column(f"score_{i}", pa.array([0.5, None, 1.5]))
    bundle = a_bundle(steps=SnapshotTable(TraceStepSnapshot, steps))
    assert read_bundle(write_bundle(bundle, tmp_path / "bundle")) == bundle
