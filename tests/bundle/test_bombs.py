"""Bundles whose Parquet is small to send and huge to read, with right hashes: refused within little memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from exporttools import (
    ConfigError,
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
from exporttools.bundle.parquet_footers import ROW_GROUP_ROWS
from exporttools.records.schema import TRACE_STEPS
from tests.bundle.bags import a_bundle, rehash
from tests.bundle.parquet_files import crafted, dictionary_of, page, text


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


ROWS = ROW_GROUP_ROWS
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a large page": (
        lambda: crafted((2, {"status": page(text(300_000_000) + text(0), 2)})),
        "bytes that unpack to 300,",
    ),
    "a large dictionary": (
        lambda: crafted((ROWS, {"status": dictionary_of(text(2**20), 1, ROWS)})),
        "131,072 rows with dictionary texts of up to 1,048,644 bytes a row; expected at most 32,768",
    ),
    "many rows": (lambda: crafted(*[(ROWS, {})] * 500), "bytes that unpack to "),
    "many pages": (lambda: crafted((30_000, {"status": page(text(0), 1) * 30_000})), "bytes that unpack to "),
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
    ((code, name, said),) = found["findings"]
    assert (code, name) == ("schema", "data/trace_steps.parquet")
    assert reason in said
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


@pytest.mark.parametrize("limit", ["1", 1.5, True, 0, -1])
def test_a_limit_that_is_not_a_number_of_bytes_is_refused(limit: Any, written: Path) -> None:
    for read in (verify_bundle, read_bundle):
        with pytest.raises(ConfigError) as caught:
            read(written, max_bytes=limit)
        assert str(caught.value) == f"max_bytes is {limit!r}; expected a number of bytes, at least 1, or None"


def test_many_columns_are_written_and_read(tmp_path: Path) -> None:
    steps = some_steps(3)
    for i in range(150):
        steps = steps.append_column(f"score_{i}", pa.array([0.5, None, 1.5]))
    bundle = a_bundle(steps=SnapshotTable(TraceStepSnapshot, steps))
    assert read_bundle(write_bundle(bundle, tmp_path / "bundle")) == bundle
