"""Reading and verifying a bundle. Files are hashed before any is parsed; everything wrong is gathered, not just the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from exporttools.bundle.bag import check_bag
from exporttools.bundle.description import FORMAT, FORMAT_VERSION, NAME, PART_FILES, describe, parse, source_from_json
from exporttools.bundle.parquet import read_part
from exporttools.bundle.verification import Finding, Verification
from exporttools.errors import BundleUnreadable, ExportToolsError, VerificationFailed
from exporttools.inert import one_line
from exporttools.snapshot_table import SnapshotTable
from exporttools.snapshots import (
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)

_SNAPSHOT_TYPES: dict[str, type[Any]] = {
    "incident": IncidentSnapshot,
    "run": RunSnapshot,
    "trace": TraceSummarySnapshot,
    "steps": TraceStepSnapshot,
}

# What a description states that follows from the rows; the rest (when, where, by what) cannot be told from them.
_DERIVED = (
    "tenant_id", "incident_id", "run_id", "trace_id", "missing", "tables", "content_digest", "totals",
    "first_timestamp", "last_timestamp",
)  # fmt: skip


def read_bundle(path: str | os.PathLike[str]) -> ExportBundle:
    """Read a bundle that verifies.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    ExportBundle
        Equal to the one that was written.

    Raises
    ------
    BundleUnreadable
        There is no directory.
    VerificationFailed
        The files are not what the bundle says; ``findings`` says which.
    """
    verification, bundle = _read(path)
    if bundle is None or not verification.ok:
        findings = "; ".join(map(str, verification.findings[:3]))
        more = f" and {len(verification.findings) - 3} more" if len(verification.findings) > 3 else ""
        raise VerificationFailed(
            f"{one_line(verification.path)} does not verify: {findings}{more}", verification.findings
        )
    return bundle


def verify_bundle(path: str | os.PathLike[str]) -> Verification:
    """Hold a bundle's files against its manifests, and its rows against what it says of them.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Verification
        With everything found to be wrong; true where that is nothing.

    Raises
    ------
    BundleUnreadable
        There is no directory.
    """
    return _read(path)[0]


def _read(path: str | os.PathLike[str]) -> tuple[Verification, ExportBundle | None]:
    bag = Path(path)
    if not os.path.isdir(bag):  # unlike Path.is_dir, never an error: a name may be too long  # noqa: PTH112
        found = "a file" if os.path.lexists(bag) else "nothing"
        raise BundleUnreadable(f"{one_line(bag)}: expected a bundle, which is a directory; found {found}")
    try:
        findings = list(check_bag(bag, [*PART_FILES.values(), NAME]))
        if findings:  # what is not as its manifest says is not parsed
            return Verification(bag, tuple(findings), None), None
        bundle, findings = _read_payload(bag / "data")
    except OSError as error:
        raise BundleUnreadable(f"{one_line(bag)} cannot be read: {one_line(error)}") from error
    rows = {table.snapshot_type.RECORD.table: len(table) for table in bundle.tables.values()} if bundle else {}
    return Verification(bag, tuple(findings), bundle.content_digest if bundle else None, rows), bundle


def _read_payload(payload: Path) -> tuple[ExportBundle | None, list[Finding]]:
    try:
        description = parse((payload / NAME).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return None, [Finding("malformed", f"data/{NAME}", "a JSON object without duplicate keys", one_line(error))]
    version = (description.get("format"), description.get("format_version"))
    if version != (FORMAT, FORMAT_VERSION):
        return None, [Finding("format", f"data/{NAME}", f"{FORMAT} {FORMAT_VERSION}", f"{version[0]} {version[1]}")]
    findings = []
    parts: dict[str, SnapshotTable[Any]] = {}
    for part, name in PART_FILES.items():
        try:
            parts[part] = read_part(_SNAPSHOT_TYPES[part], payload / name)
        except (pa.ArrowException, ValueError, OSError, ExportToolsError) as error:
            findings.append(Finding("schema", f"data/{name}", f"the rows of a bundle's {part}", one_line(error, 400)))
    if findings:
        return None, findings
    try:
        bundle = ExportBundle(
            **parts, trace_count=description["trace_count"], source=source_from_json(description["source"])
        )
    except (ExportToolsError, KeyError, TypeError, ValueError) as error:
        return None, [Finding("content", f"data/{NAME}", "parts that belong together", one_line(error, 400))]
    return bundle, list(_check_statements(bundle, description))


def _check_statements(bundle: ExportBundle, stated: dict[str, Any]) -> Iterator[Finding]:
    """What the description states of the rows, against the rows."""
    actual = describe(bundle)
    for key in _DERIVED:
        if stated.get(key) != actual[key]:
            yield Finding("content", f"data/{NAME}", f"{key}: {actual[key]}", f"{key}: {stated.get(key)}")
