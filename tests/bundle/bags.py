"""What the tests of bundles share: bundles, their files, and ways to change them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from exporttools import (
    ExportBundle,
    Finding,
    IncidentSnapshot,
    RunSnapshot,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    VerificationFailed,
    read_bundle,
    verify_bundle,
)
from exporttools.bundle import description
from exporttools.bundle.bag import bag_info
from tests.databases import NOON, incident, run, trace
from tests.steps import a_step, steps_of, with_extra

PARTS = {
    "incidents": "incident.parquet",
    "runs": "run.parquet",
    "traces": "trace.parquet",
    "trace_steps": "trace_steps.parquet",
}

PAYLOAD = [f"data/{name}" for name in [*PARTS.values(), "bundle.json"]]
TAGS = ["HOW-TO-VERIFY.txt", "bag-info.txt", "bagit.txt", "manifest-sha256.txt"]
LISTED = [*TAGS, "attestation.dsse.json"]
FILES = sorted([*PAYLOAD, *TAGS, "tagmanifest-sha256.txt"])
DIGEST = "0" * 64


def a_bundle(**changes: Any) -> ExportBundle:
    steps = steps_of(*(a_step(i, content_hash=f"h{i % 2}") for i in range(3)))
    parts: dict[str, Any] = {
        "incident": IncidentSnapshot(**incident()), "run": RunSnapshot(**run()), "trace": TraceSummarySnapshot(**trace()),
        "steps": with_extra(steps, model=pa.array(["small", None, "large"])),
        "source": SourceSnapshot("postgresql", "18.1", "native", "7:7:", NOON),
    }  # fmt: skip
    return ExportBundle(**parts | changes)


def rehash(bag: Path) -> None:
    """New tag files for whatever is there, as someone writes them who edits a bundle and knows the format."""
    payload = [path for path in sorted((bag / "data").iterdir()) if path.is_file() and not path.is_symlink()]
    sizes = {f"data/{path.name}": path.stat().st_size for path in payload}
    described = bag / "data/bundle.json"
    stated = description.parse(described.read_bytes())[0] if described.is_file() else None
    if stated is not None:
        (bag / "bag-info.txt").write_text(bag_info(stated, sizes), encoding="utf-8")
    _write_manifest(bag, "manifest-sha256.txt", payload)
    rehash_tags(bag)


def rehash_tags(bag: Path) -> None:
    names = sorted(path.name for path in bag.iterdir() if path.is_file() and not path.is_symlink())
    _write_manifest(bag, "tagmanifest-sha256.txt", [bag / name for name in names if name in LISTED])


def unsigned(bag: Path) -> None:
    """Take the signature off, as someone does who knows the format."""
    (bag / "attestation.dsse.json").unlink(missing_ok=True)
    edit(bag / "data/bundle.json", lambda described: described.update(signed_by=[]))
    rehash(bag)


def _write_manifest(bag: Path, name: str, paths: list[Path]) -> None:
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(bag)}\n" for path in paths]
    (bag / name).write_text("".join(digests))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle.json, in the layout that it has."""
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described, indent=2) + "\n")


def found_in(bag: Path) -> list[Finding]:
    """The findings in a bundle that is wrong; reading it must fail with the same ones."""
    verification = verify_bundle(bag)
    assert not verification.ok
    assert not verification
    with pytest.raises(VerificationFailed) as caught:
        read_bundle(bag)
    assert caught.value.findings == verification.findings
    assert f"does not verify: {verification.findings[0]}" in str(caught.value)
    return list(verification.findings)


IDS = st.text(min_size=1, max_size=20)
TEXT = st.none() | st.text(max_size=20)
INT64 = st.integers(0, 2**63 - 1)
TIMES = st.datetimes(timezones=st.just(dt.UTC))
AMOUNTS = st.floats(0, allow_infinity=False, allow_nan=False)
EXTRA: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(max_size=9), pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False), pa.timestamp("us", tz="UTC"): TIMES,
}  # fmt: skip


@st.composite
def bundles(draw: st.DrawFn) -> ExportBundle:
    tenant, run_id = draw(IDS), draw(IDS)
    trace_found = TraceSummarySnapshot(draw(IDS), run_id, tenant, draw(st.none() | INT64), draw(st.none() | TIMES))
    indices = sorted(draw(st.sets(INT64, max_size=5)))
    rows = [
        TraceStepSnapshot(
            i, draw(TIMES), draw(st.text()), draw(INT64), draw(AMOUNTS), draw(AMOUNTS), draw(st.text()), draw(TEXT)
        )
        for i in indices
    ]
    steps = steps_of(*rows)
    for name in draw(st.lists(st.sampled_from(["x", "é\n", "=sum", "weight"]), unique=True, max_size=2)):
        kind = draw(st.sampled_from(list(EXTRA)))
        values = draw(st.lists(st.none() | EXTRA[kind], min_size=len(rows), max_size=len(rows)))
        steps = with_extra(steps, **{name: pa.array(values, kind)})
    return ExportBundle(
        draw(st.none() | st.builds(IncidentSnapshot, IDS, st.just(tenant), st.just(run_id), TEXT, TEXT, TEXT, TEXT, TIMES)),
        draw(st.none() | st.builds(RunSnapshot, st.just(run_id), st.just(tenant), TEXT, TEXT, TEXT, st.none() | TIMES,
                                   st.none() | TIMES, TEXT, st.none() | INT64)),
        trace_found,
        steps,
        trace_count=draw(st.integers(1, 2**63)),
        source=draw(st.none() | st.builds(SourceSnapshot, st.text(), st.text(), st.text(), TEXT, TIMES)),
    )  # fmt: skip


def openssl_version() -> tuple[int, ...]:
    try:
        told = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return (0,)
    name, version = told.split()[:2]
    return tuple(int(part) for part in re.findall(r"\d+", version)) if name == "OpenSSL" else (0,)


needs_openssl = pytest.mark.skipif(openssl_version() < (3,), reason="openssl 3 is not installed")


def shell(command: str, directory: Path) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
