"""Write golden bundles of the present format into a new directory: ``python tests/golden/make.py tests/golden/format-N``."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import pyarrow as pa

from exporttools import (
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    SnapshotTable,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    write_bundle,
)

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)


def golden_bundle() -> ExportBundle:
    """Every type of column, NULL in every nullable one, text of every kind, extreme numbers and times."""
    steps = [
        TraceStepSnapshot(0, NOON, "llm_call", 1200, 0.1, 900.25, "ok", "a" * 32),
        TraceStepSnapshot(1, NOON + dt.timedelta(microseconds=1), "tool_call", 0, 0.2, 0.0, "error", None),
        TraceStepSnapshot(7, dt.datetime.max.replace(tzinfo=dt.UTC), "größe 中\n\0", 2**62, 5e-324, 1.5e300, "", ""),
    ]
    table = SnapshotTable.from_records(TraceStepSnapshot, steps).to_arrow()
    for name, values in (
        ("model", pa.array(["small", None, "large"])),
        ("retries", pa.array([None, -1, 2**63 - 1], pa.int64())),
        ("score", pa.array([0.5, None, -0.0])),
        ("ended", pa.array([NOON, None, None], pa.timestamp("us", "UTC"))),
    ):
        table = table.append_column(name, values)
    return ExportBundle(
        IncidentSnapshot("i1", "acme", "r1", "high", None, "Budget", "budget_exceeded", NOON),
        RunSnapshot("r1", "acme", "triage", "sort the mail", None, NOON, None, None, 12),
        TraceSummarySnapshot("t1", "r1", "acme", 1, NOON + dt.timedelta(microseconds=1)),
        SnapshotTable(TraceStepSnapshot, table),
        trace_count=2,
        source=SourceSnapshot("postgresql", "18.1", "native", "7:7:", NOON),
    )


def nested_bundle() -> ExportBundle:
    """Steps that are parts of others and repeat their usage, and ends that are spelled in several ways."""
    steps = [
        TraceStepSnapshot(0, NOON, "agent", 900, 1.5, 3000.0, "ERROR"),
        TraceStepSnapshot(1, NOON, "llm_call", 600, 1.0, 800.0, "STATUS_CODE_OK"),
        TraceStepSnapshot(2, NOON + dt.timedelta(seconds=1), "llm_call", 300, 0.5, 700.0, "rate_limited"),
        TraceStepSnapshot(3, NOON + dt.timedelta(seconds=2), "tool_call", 0, 0.0, 500.0, "error"),
    ]
    table = SnapshotTable.from_records(TraceStepSnapshot, steps).to_arrow()
    table = table.append_column("parent_step_index", pa.array([None, 0, 0, 2], pa.int64()))
    return ExportBundle(
        run=RunSnapshot("r2", "acme", "triage"),
        trace=TraceSummarySnapshot("t2", "r2", "acme"),
        steps=SnapshotTable(TraceStepSnapshot, table),
    )


def main(directory: Path) -> None:
    # By their bytes: git keeps no modes, so others can read the files, and loading those would warn.
    key, second = (Path(__file__).with_name(name).read_bytes() for name in ("TEST-ONLY.key", "TEST-ONLY-2.key"))
    directory.mkdir()
    bundle = golden_bundle()
    write_bundle(bundle, directory / "unsigned.bundle")
    write_bundle(bundle, directory / "signed.bundle", signing_key=key)
    write_bundle(bundle, directory / "signed.bundle.zip", signing_key=key, archive=True)
    write_bundle(bundle, directory / "two-signers.bundle", signing_key=[key, second])
    write_bundle(bundle, directory / "redacted.bundle", signing_key=key, redact=["goal", "model"])
    write_bundle(ExportBundle(run=RunSnapshot("r1", "acme")), directory / "run-alone.bundle.zip", archive=True)
    write_bundle(nested_bundle(), directory / "nested.bundle", signing_key=key)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
