"""Verifying a bundle of five million steps, compared with sha256sum and one pyarrow read of its files: ``make bench``.

Each candidate runs in a process of its own, so that its peak memory is its own. Rounds are interleaved and the best time
of each candidate counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = 5_000_000
ROUNDS = 3

MAKE = """
import datetime as dt, sys
import numpy as np, pyarrow as pa
from exporttools import *
from exporttools.records.schema import TRACE_STEPS
path, steps = sys.argv[1], int(sys.argv[2])
random = np.random.default_rng(7)
hashes = np.frombuffer(random.bytes(16 * steps).hex().encode(), "S32").astype(str)
columns = {
    "step_index": np.arange(steps),
    "timestamp": pa.array(1_790_000_000_000_000 + np.cumsum(random.integers(1, 2_000_000, steps))).cast(pa.timestamp("us", "UTC")),
    "step_type": pa.DictionaryArray.from_arrays(random.integers(0, 4, steps), ["llm_call", "tool_call", "retrieval", "handoff"]).cast(pa.string()),
    "tokens": random.integers(0, 8000, steps),
    "cost_cents": random.integers(0, 90_000, steps) / 10_000,
    "duration_ms": np.round(random.gamma(2, 600, steps), 3),
    "status": pa.DictionaryArray.from_arrays((random.random(steps) < 0.03).astype("int32"), ["ok", "error"]).cast(pa.string()),
    "content_hash": pa.array(hashes, pa.string()),
}
table = pa.Table.from_arrays([pa.array(values) for values in columns.values()], schema=TRACE_STEPS.arrow_schema())
write_bundle(
    ExportBundle(
        run=RunSnapshot("r1", "acme"), trace=TraceSummarySnapshot("t1", "r1", "acme"), steps=SnapshotTable(TraceStepSnapshot, table)
    ),
    path,
)
"""

CANDIDATES = {
    "sha256sum of the files": "import subprocess; subprocess.run('sha256sum data/* *.txt', shell=True, check=True, capture_output=True)",
    "one pyarrow read of the rows": "import pyarrow.parquet as pq; pq.read_table('data/trace_steps.parquet', page_checksum_verification=True)",
    "verify_bundle": "from exporttools import verify_bundle; assert verify_bundle('.').ok",
    "the content digest alone": """
import pyarrow.parquet as pq
from exporttools.files.digests import ContentDigest
with pq.ParquetFile('data/trace_steps.parquet') as file:
    digest = ContentDigest('trace_steps', file.schema_arrow)
    batches = list(file.iter_batches())
start = time.perf_counter()
for batch in batches:
    digest.update(batch)
""",
}

TIMED = """
import json, resource, sys, time
import numpy, pyarrow, pyarrow.compute, pyarrow.parquet, exporttools.bundle
start = time.perf_counter()
exec(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def measured(code: str, directory: Path) -> tuple[float, int]:
    """Return seconds and peak bytes of some code in a process of its own, without its imports."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED, code], cwd=directory, capture_output=True, text=True, check=True, env=os.environ
    )
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="et-bench-") as directory:
        bundle = Path(directory, "big.bundle")
        subprocess.run([sys.executable, "-c", MAKE, str(bundle), str(STEPS)], check=True)
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        print(f"a bundle of {STEPS:,} steps, {size / 1e6:,.0f} MB")
        runs: dict[str, list[tuple[float, int]]] = {name: [] for name in CANDIDATES}
        for _ in range(ROUNDS):
            for name, code in CANDIDATES.items():
                runs[name].append(measured(code, bundle))
    seconds = {name: min(run[0] for run in of) for name, of in runs.items()}
    for name, of in runs.items():
        print(f"  {name:<32} {seconds[name] * 1e3:>8.0f} ms   peak {max(run[1] for run in of) / 1e6:>6.0f} MB")
    base = seconds["sha256sum of the files"] + seconds["one pyarrow read of the rows"]
    whole, digest = seconds["verify_bundle"], seconds["the content digest alone"]
    peak = max(run[1] for run in runs["verify_bundle"]) / 1e6
    print(f"verify_bundle / (sha256sum + read)            {whole / base:.2f}×  target at most 3")
    print(f"without the content digest                    {(whole - digest) / base:.2f}×  target at most 1.5")
    print(f"peak memory of verify_bundle                  {peak:.0f} MB  target below 400")


if __name__ == "__main__":
    main()
