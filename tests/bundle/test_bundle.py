"""Bundles: what is written reads back equal, strangers can check it, and whatever is changed is found."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import exporttools
from exporttools import (
    BundleError,
    BundleExists,
    BundleUnreadable,
    ConfigError,
    ExportBundle,
    Finding,
    IncidentSnapshot,
    RunSnapshot,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
    Verification,
    VerificationFailed,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from exporttools.files.digests import combined_digest, table_digest
from tests.databases import NOON, incident, run, trace
from tests.records.test_snapshot_table import HOSTILE, Tags, a_step, steps_of, with_extra

PARTS = {
    "incidents": "incident.parquet",
    "runs": "run.parquet",
    "traces": "trace.parquet",
    "trace_steps": "trace_steps.parquet",
}
PAYLOAD = [f"data/{name}" for name in [*PARTS.values(), "bundle.json"]]
TAGS = ["bag-info.txt", "bagit.txt", "manifest-sha256.txt"]
FILES = sorted([*PAYLOAD, *TAGS, "tagmanifest-sha256.txt"])


def a_bundle(**changes: Any) -> ExportBundle:
    steps = steps_of(*(a_step(i, content_hash=f"h{i % 2}") for i in range(3)))
    parts: dict[str, Any] = {
        "incident": IncidentSnapshot(**incident()), "run": RunSnapshot(**run()), "trace": TraceSummarySnapshot(**trace()),
        "steps": with_extra(steps, model=pa.array(["small", None, "large"])),
        "source": SourceSnapshot("postgresql", "18.1", "native", "7:7:", NOON),
    }  # fmt: skip
    return ExportBundle(**parts | changes)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is only to be copied."""
    return write_bundle(a_bundle(), tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def bag(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def rehash(bag: Path) -> None:
    """New manifests for whatever is there, as someone does who edits a bundle and knows BagIt."""
    payload = [path for path in sorted((bag / "data").iterdir()) if path.is_file() and not path.is_symlink()]
    info = [line for line in (bag / "bag-info.txt").read_text().split("\n") if not line.startswith("Payload-Oxum")]
    oxum = f"Payload-Oxum: {sum(path.stat().st_size for path in payload)}.{len(payload)}"
    (bag / "bag-info.txt").write_text("\n".join([*info[:-1], oxum, ""]))
    _write_manifest(bag, "manifest-sha256.txt", payload)
    rehash_tags(bag)


def rehash_tags(bag: Path) -> None:
    _write_manifest(bag, "tagmanifest-sha256.txt", [bag / name for name in TAGS])


def _write_manifest(bag: Path, name: str, paths: list[Path]) -> None:
    digests = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(bag)}\n" for path in paths]
    (bag / name).write_text("".join(digests))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle.json."""
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def found_in(bag: Path) -> list[Finding]:
    """The findings; also that reading refuses for the same reasons."""
    verification = verify_bundle(bag)
    assert verification.ok == bool(verification) == (verification.findings == ())
    if verification.findings:
        with pytest.raises(VerificationFailed) as caught:
            read_bundle(bag)
        assert caught.value.findings == verification.findings
        assert f"does not verify: {verification.findings[0]}" in str(caught.value)
    else:
        assert read_bundle(bag).content_digest == verification.content_digest
    return list(verification.findings)


# Written and read back


def test_it_reads_back_as_it_was(written: Path) -> None:
    bundle = a_bundle()
    found = read_bundle(written)
    assert found == bundle
    assert (found.source, found.trace_count, found.content_digest) == (bundle.source, 1, bundle.content_digest)
    assert found.steps.schema.equals(bundle.steps.schema, check_metadata=True)
    verification = verify_bundle(str(written))
    assert verification.ok
    assert verification == Verification(
        written, (), bundle.content_digest, {"incidents": 1, "runs": 1, "traces": 1, "trace_steps": 3}
    )


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bundles())
def test_any_bundle_reads_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, bundle: ExportBundle) -> None:
    path = tmp_path_factory.mktemp("any") / "bundle"
    assert write_bundle(bundle, path) == path
    found = read_bundle(path)
    assert found == bundle
    assert found.source == bundle.source
    assert found.steps.extra_columns == bundle.steps.extra_columns
    assert list(found.steps) == list(bundle.steps)
    shutil.rmtree(path)


@pytest.mark.parametrize(
    "parts",
    [
        {"incident": None},
        {"run": None},
        {"steps": None},
        {"trace": None, "steps": None},
        {"incident": None, "run": None},
        {"incident": IncidentSnapshot(**incident(source_run_id=None)), "run": None, "trace": None, "steps": None},
        {"source": None, "trace_count": 7},
        {"run": RunSnapshot(**run(goal="g" * 2**20))},
        {
            "steps": steps_of(a_step(0, cost_cents=1.7e308), a_step(1, cost_cents=1.7e308))
        },  # a sum that no float can hold
        {"incident": IncidentSnapshot(**incident(id="i" * 2**21))},
    ],
    ids=lambda parts: ",".join(parts),
)
def test_a_part_of_a_bundle_reads_back_as_it_was(tmp_path: Path, parts: dict[str, Any]) -> None:
    bundle = a_bundle(**parts)
    path = write_bundle(bundle, tmp_path / "bundle")
    assert read_bundle(path) == bundle
    description = json.loads((path / "data" / "bundle.json").read_text())
    assert description["missing"] == list(bundle.missing)
    assert description["incident_id"] == (bundle.incident and bundle.incident.id)
    expected = "r1" if bundle.run or bundle.trace or (bundle.incident and bundle.incident.source_run_id) else None
    assert description["run_id"] == expected
    assert (path / "bag-info.txt").stat().st_size < 5000


def test_a_relative_path_and_a_str(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_bundle(a_bundle(), "b") == Path("b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]
    assert read_bundle("b") == read_bundle(tmp_path / "b") == a_bundle()
    assert verify_bundle("b").path == Path("b")


# Strangers


def test_promise_01_bagit_accepts_it(written: Path, caplog: pytest.LogCaptureFixture) -> None:
    import bagit

    with caplog.at_level(logging.WARNING):
        bag = bagit.Bag(str(written))
        assert bag.validate()
    assert caplog.records == []
    assert bag.version_info == (1, 0)
    assert set(bag.entries) == {*PAYLOAD, *TAGS}
    assert bag.info["External-Identifier"] == "i1"
    assert bag.info["Bag-Software-Agent"] == f"exporttools {exporttools.__version__}"


@pytest.mark.parametrize("manifest", ["manifest-sha256.txt", "tagmanifest-sha256.txt"])
def test_promise_01_sha256sum_accepts_it(written: Path, manifest: str) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", manifest], cwd=written, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = sorted(PAYLOAD if manifest.startswith("manifest") else TAGS)
    assert sorted(done.stdout.splitlines()) == [f"{name}: OK" for name in expected]


def test_exactly_these_files(written: Path) -> None:
    assert sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()) == FILES
    assert [path.name for path in written.rglob("*") if path.is_dir()] == ["data"]
    assert [path.name for path in written.parent.iterdir()] == ["bundle"]
    assert (written / "bagit.txt").read_bytes() == b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


def test_what_the_description_says(written: Path) -> None:
    bundle = a_bundle()
    description = json.loads((written / "data" / "bundle.json").read_text())
    assert dt.datetime.fromisoformat(description.pop("written_at")).tzinfo is not None
    assert description.pop("tools") == {
        "exporttools": exporttools.__version__, "pyarrow": pa.__version__, "python": ".".join(map(str, sys.version_info[:3])),
    }  # fmt: skip
    digests = [table_digest(name, table.to_arrow()) for name, table in zip(PARTS, bundle.tables.values(), strict=True)]
    assert description == {
        "format": "exporttools-bundle",
        "format_version": 1,
        "tenant_id": "acme", "incident_id": "i1", "run_id": "r1", "trace_id": "t1", "trace_count": 1,
        "missing": [],
        "redacted": [],
        "tables": {
            name: {"file": file, "rows": 3 if name == "trace_steps" else 1, "content_digest": digest}
            for (name, file), digest in zip(PARTS.items(), digests, strict=True)
        },
        "content_digest": combined_digest(digests),
        "totals": {"steps": 3, "errors": 0, "tokens": 303, "cost_cents": 1.5, "duration_ms": 2700.75},
        "first_timestamp": "2026-10-05T12:00:00+00:00",
        "last_timestamp": "2026-10-05T12:00:02+00:00",
        "source": {"dialect": "postgresql", "server_version": "18.1", "layout": "native", "snapshot_id": "7:7:",
                   "read_at": "2026-10-05T12:00:00+00:00"},
    }  # fmt: skip


def test_parquet_carries_units_checksums_and_zstd(written: Path) -> None:
    for name in PARTS.values():
        with pq.ParquetFile(written / "data" / name) as file:
            group = file.metadata.row_group(0)
            assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    schema = pq.read_schema(written / "data" / "trace_steps.parquet")
    units = {field.name: (field.metadata or {}).get(b"unit") for field in schema}
    assert (units["duration_ms"], units["cost_cents"], units["tokens"], units["timestamp"]) == (
        b"ms",
        b"US cents",
        b"tokens",
        b"UTC",
    )
    assert [field.nullable for field in schema] == [False] * 7 + [True] * 2


def test_promise_19_pyarrow_and_duckdb_read_the_rows_without_us(written: Path) -> None:
    bundle = a_bundle()
    for name, table in zip(PARTS, bundle.tables.values(), strict=True):
        path, expected = written / "data" / PARTS[name], table.to_arrow()
        assert pq.read_table(path).equals(expected)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            read = connection.sql(f"from '{path}'").to_arrow_table()
        assert read.to_pylist() == expected.to_pylist()
        stated = json.loads((written / "data" / "bundle.json").read_text())["tables"][name]["content_digest"]
        assert table_digest(name, read) == table_digest(name, pq.read_table(path)) == stated


def test_promise_18_a_hostile_id_stays_in_its_line(tmp_path: Path) -> None:
    import bagit

    hostile = "i1\nPayload-Oxum: 1.1\r\nBag-Size: 1\u2028\x85\x0b\x1b[31m"
    bundle = a_bundle(incident=IncidentSnapshot(**incident(id=hostile)))
    path = write_bundle(bundle, tmp_path / "bundle")
    assert read_bundle(path).name == hostile
    lines = (path / "bag-info.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "Bagging-Date", "Bag-Software-Agent", "External-Identifier", "External-Description", "Payload-Oxum",
    ]  # fmt: skip
    assert lines[2] == "External-Identifier: i1%0APayload-Oxum: 1.1%0D%0ABag-Size: 1%2028%85%0B%1B[31m"
    assert bagit.Bag(str(path)).validate()


# What is refused


def test_nothing_that_exists_is_touched(tmp_path: Path, bag: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    for name in ("file", "empty", "dangling", "bundle"):
        with pytest.raises(BundleExists) as caught:
            write_bundle(a_bundle(), tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name} exists; it was not touched. Remove it or choose another name"
        assert isinstance(caught.value, FileExistsError)
    assert {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_what_cannot_be_written(tmp_path: Path) -> None:
    empty = ExportBundle()
    cases: list[tuple[Any, Any, str]] = [
        (a_bundle(), tmp_path / "no" / "b", f"{tmp_path}/no is not a directory; create it first"),
        (a_bundle(), tmp_path / ("x" * 300) / "b", "… is not a directory; create it first"),
        (a_bundle(), f"{tmp_path}/a\0b", f"the path {tmp_path}/a�b contains a NUL character, which file names cannot"),
        (empty, tmp_path / "b", "the bundle has no incident, run or trace; there is nothing to save"),
        ("bundle", tmp_path / "b", "expected an ExportBundle; found str"),
    ]
    for bundle, path, message in cases:
        with pytest.raises(ConfigError) as caught:
            write_bundle(bundle, path)
        assert str(caught.value).endswith(message)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file is not a directory"):
        write_bundle(a_bundle(), tmp_path / "file" / "b")
    with pytest.raises(
        BundleError, match=r"could not be written: \[Errno 36\] File name too long.*Nothing was left behind$"
    ):
        write_bundle(a_bundle(), tmp_path / ("x" * 256))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, found in (
        ("no", "nothing"),
        ("file", "another file"),
        ("dangling", "something else"),
        ("x" * 300, "nothing"),
        ("a\0b", "nothing"),
    ):
        for read in (read_bundle, verify_bundle):
            with pytest.raises(BundleUnreadable) as caught:
                read(tmp_path / name)
            assert str(caught.value).endswith(f": expected a bundle, which is a directory or a zip file; found {found}")
    (tmp_path / "empty").mkdir()
    assert {(finding.code, finding.path) for finding in found_in(tmp_path / "empty")} == {
        ("missing", name) for name in FILES
    }


# Whatever is changed is found


def test_promise_03_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = write_bundle(ExportBundle(run=RunSnapshot("r1", "acme"), source=None), tmp_path / "tiny")
    for name in FILES:
        good = (path / name).read_bytes()
        tag = name.endswith(".txt")
        for i in range(len(good)):
            for bit in (0x20, 0x01, 0x0A) if tag else (1 << i % 8,):  # 0x20: the case of a letter; 0x0a: space to *
                (path / name).write_bytes(good[:i] + bytes([good[i] ^ bit]) + good[i + 1 :])
                verification = verify_bundle(path)
                assert not verification.ok, (name, i, bit)
                found = {(finding.code, finding.path) for finding in verification.findings}
                assert tag or found | {("malformed", name), ("content", name)} >= {("changed", name)}
                assert tag or {path for _, path in found} == {name}
        (path / name).write_bytes(good)
    assert verify_bundle(path).ok


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["cut", "grown", "emptied", "removed"])
def test_promise_03_a_file_cut_grown_emptied_or_removed_is_found(bag: Path, name: str, change: str) -> None:
    good = (bag / name).read_bytes()
    (bag / name).unlink()
    if change != "removed":
        (bag / name).write_bytes({"cut": good[:-1], "grown": good + b"\n", "emptied": b""}[change])
    found = found_in(bag)
    assert name in {finding.path for finding in found}
    if change == "removed":
        assert Finding("missing", name, "a file", "nothing") in found


def _swap(a: Path, b: Path) -> None:
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _moved(path: Path) -> Path:
    """Move what is there out of the bundle; gives the path that is now free."""
    path.rename(path.parents[path.name != "data"].parent / "kept")
    return path


RUN_FILE = "data/run.parquet"
TREE: dict[str, tuple[Callable[[Path], object], list[tuple[str, str, str]]]] = {
    "file added to data": (lambda bag: (bag / "data/more").write_text("x"), [("unexpected", "data/more", "a file")]),
    "file added beside": (lambda bag: (bag / "more").write_text("x"), [("unexpected", "more", "a file")]),
    "hidden file": (lambda bag: (bag / "data/.DS_Store").write_text("x"), [("unexpected", "data/.DS_Store", "a file")]),
    "empty file": (lambda bag: (bag / "data/more").touch(), [("unexpected", "data/more", "a file")]),
    "empty directory": (lambda bag: (bag / "data/more").mkdir(), [("unexpected", "data/more", "a directory")]),
    "directory beside": (lambda bag: (bag / "more").mkdir(), [("unexpected", "more", "a directory")]),
    "symlink added": (lambda bag: (bag / "data/more").symlink_to("run.parquet"), [("unexpected", "data/more", "a symbolic link")]),
    "symlink to a directory": (lambda bag: (bag / "data/more").symlink_to("/"), [("unexpected", "data/more", "a symbolic link")]),
    "hard link to a file of its own": (
        lambda bag: os.link(bag / RUN_FILE, bag / "data/more"),
        [("unexpected", "data/more", "a file"), ("linked", RUN_FILE, "a file with 2 names (hard links)")],
    ),
    "hard link from outside": (
        lambda bag: os.link(bag / RUN_FILE, bag.parent / "second"),
        [("linked", RUN_FILE, "a file with 2 names (hard links)")],
    ),
    "unlisted file at the top": (lambda bag: (bag / "notes.txt").write_text("x"), [("unexpected", "notes.txt", "a file")]),
    "pipe added": (lambda bag: os.mkfifo(bag / "more"), [("unexpected", "more", "a pipe")]),
    "name that is no text": (lambda bag: (bag / os.fsdecode(b"a\xff\n")).touch(), [("unexpected", os.fsdecode(b"a\xff\n"), "a file")]),
    "file renamed": (
        lambda bag: (bag / RUN_FILE).rename(bag / "data/ran.parquet"),
        [("unexpected", "data/ran.parquet", "a file"), ("missing", RUN_FILE, "nothing")],
    ),
    "name in capitals": (
        lambda bag: (bag / RUN_FILE).rename(bag / "data/RUN.parquet"),
        [("unexpected", "data/RUN.parquet", "a file"), ("missing", RUN_FILE, "nothing")],
    ),
    "file became a symlink to its bytes": (
        lambda bag: _moved(bag / RUN_FILE).symlink_to(bag.parent / "kept"),
        [("not-a-file", RUN_FILE, "a symbolic link")],
    ),
    "file became a pipe": (lambda bag: _replace(bag / RUN_FILE, os.mkfifo), [("not-a-file", RUN_FILE, "a pipe")]),
    "file became a directory": (lambda bag: _replace(bag / RUN_FILE, Path.mkdir), [("not-a-file", RUN_FILE, "a directory")]),
    "manifest became a pipe": (
        lambda bag: _replace(bag / "manifest-sha256.txt", os.mkfifo), [("not-a-file", "manifest-sha256.txt", "a pipe")],
    ),
    "tag manifest became a dangling symlink": (
        lambda bag: _replace(bag / "tagmanifest-sha256.txt", lambda path: path.symlink_to("nowhere")),
        [("not-a-file", "tagmanifest-sha256.txt", "a symbolic link")],
    ),
    "data became a symlink": (
        lambda bag: _moved(bag / "data").symlink_to(bag.parent / "kept"),
        [("unexpected", "data", "a symbolic link"), *(("missing", name, "nothing") for name in sorted(PAYLOAD))],
    ),
    "data became a file": (
        lambda bag: _moved(bag / "data").touch(),
        [("unexpected", "data", "a file"), *(("missing", name, "nothing") for name in sorted(PAYLOAD))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", TREE)
def test_promise_04_what_is_not_the_bundles_own_is_found(bag: Path, mutation: str) -> None:
    mutate, expected = TREE[mutation]
    mutate(bag)
    found = found_in(bag)
    assert [(finding.code, finding.path, finding.found) for finding in found] == expected


def test_promise_04_swapped_files_are_found(bag: Path) -> None:
    _swap(bag / "data/run.parquet", bag / "data/trace.parquet")
    assert {(finding.code, finding.path) for finding in found_in(bag)} == {
        ("changed", "data/run.parquet"), ("changed", "data/trace.parquet"),
    }  # fmt: skip
    rehash(bag)
    first, second = found_in(bag)
    assert (first.code, first.path, second.path) == ("schema", "data/run.parquet", "data/trace.parquet")
    assert first.found == "column 0 is trace_id: string not null; expected run_id: string not null"


def _edit_lines(bag: Path, name: str, change: Callable[[list[str]], list[str]]) -> None:
    lines = (bag / name).read_text().splitlines(keepends=True)
    (bag / name).write_text("".join(change(lines)))


DIGEST = "0" * 64
MANIFESTS: dict[str, tuple[Callable[[list[str]], list[str]], str, str]] = {
    "a line twice": (lambda lines: [*lines, lines[0]], "malformed", "again in line"),
    "a line gone": (lambda lines: lines[1:], "malformed", "no such line"),
    "garbage": (lambda lines: [*lines, "\x1b[31mno manifest line\n"], "malformed", "\x1b[31mno manifest line"),
    "an empty line": (lambda lines: [*lines, "\n"], "malformed", ""),
    "no line break at the end": (lambda lines: [*lines[:-1], lines[-1][:-1]], "malformed", ""),
    "capitals": (lambda lines: [lines[0][:64].upper() + lines[0][64:], *lines[1:]], "malformed", ""),
    "another space": (lambda lines: [lines[0].replace("  ", " \t"), *lines[1:]], "malformed", ""),
    "binary mode": (lambda lines: [lines[0].replace("  ", " *"), *lines[1:]], "malformed", ""),
    "carriage returns": (lambda lines: [line.replace("\n", "\r\n") for line in lines], "unexpected", "\r"),
    "another file": (lambda lines: [*lines, f"{DIGEST}  data/../../etc/passwd\n"], "unexpected", "data/../../etc/passwd"),
    "an absolute path": (lambda lines: [*lines, f"{DIGEST}  /etc/passwd\n"], "unexpected", "/etc/passwd"),
    "itself": (lambda lines: [*lines, f"{DIGEST}  tagmanifest-sha256.txt\n"], "unexpected", "tagmanifest-sha256.txt"),
    "nothing": (lambda lines: [], "malformed", "no such line"),
    "a megabyte more": (lambda lines: [*lines, *lines * 8000], "too-large", ","),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MANIFESTS)
@pytest.mark.parametrize("manifest", ["manifest-sha256.txt", "tagmanifest-sha256.txt"])
def test_promise_17_a_manifest_that_is_not_as_written_is_found(bag: Path, manifest: str, mutation: str) -> None:
    change, code, fragment = MANIFESTS[mutation]
    _edit_lines(bag, manifest, change)
    if manifest.startswith("manifest"):
        rehash_tags(bag)
    verification = verify_bundle(bag)
    hits = [finding for finding in verification.findings if (finding.code, finding.path) == (code, manifest)]
    assert any(fragment in finding.found for finding in hits)
    assert "\x1b" not in str(verification) + verification._repr_html_()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("bagit.txt", "BagIt-Version: 0.97\nTag-File-Character-Encoding: UTF-8\n",
         r"'BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n'"),
        ("bagit.txt", "\ufeffBagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
         r"'BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n'"),
        ("bag-info.txt", "Payload-Oxum: 1.5\n", "Payload-Oxum: "),
        ("bag-info.txt", "", "Payload-Oxum: "),
    ],
)  # fmt: skip
def test_a_tag_file_of_another_bag_is_found(bag: Path, name: str, text: str, expected: str) -> None:
    (bag / name).write_text(text)
    rehash_tags(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("malformed", name)
    assert finding.expected.startswith(expected)


def test_promise_02_an_edit_with_the_tag_manifest_removed_is_found(bag: Path) -> None:
    (bag / "bag-info.txt").write_text((bag / "bag-info.txt").read_text().replace("i1", "i2"))
    (bag / "tagmanifest-sha256.txt").unlink()
    assert [(finding.code, finding.path) for finding in found_in(bag)] == [("missing", "tagmanifest-sha256.txt")]


# New manifests do not make a wrong statement right


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(description: dict[str, Any]) -> None:
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = to

    return change


STATEMENTS: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (_set("totals", "tokens", to=304), "content", "totals: "),
    (_set("totals", "cost_cents", to=1.5000000000000002), "content", "totals: "),
    (_set("totals", to=None), "content", "totals: None"),
    (_set("tables", "trace_steps", "rows", to=2), "content", "tables: "),
    (_set("tables", "runs", "content_digest", to=DIGEST), "content", "tables: "),
    (_set("tables", "runs", "file", to="../run.parquet"), "content", "tables: "),
    (_set("content_digest", to=DIGEST), "content", f"content_digest: {DIGEST}"),
    (_set("tenant_id", to="globex"), "content", "tenant_id: globex"),
    (_set("incident_id", to=None), "content", "incident_id: None"),
    (_set("run_id", to=["r1"]), "content", "run_id: ['r1']"),
    (_set("trace_id", to="\ud800"), "malformed", "half a character"),
    (_set("missing", to=["run"]), "content", "missing: ['run']"),
    (_set("first_timestamp", to="2026-10-05T12:00:00Z"), "content", "first_timestamp: 2026-10-05T12:00:00Z"),
    (_set("last_timestamp", to=0), "content", "last_timestamp: 0"),
    (_set("trace_count", to=0), "content", "trace_count is 0; expected at least 1"),
    (_set("trace_count", to="1"), "content", "trace_count: '1'"),
    (_set("trace_count", to=1.5), "content", "trace_count: 1.5"),
    (_set("trace_count", to=True), "content", "trace_count: True"),
    (lambda description: description.pop("trace_count"), "content", "no trace_count"),
    (lambda description: description.pop("source"), "content", "no source"),
    (lambda description: description.pop("redacted"), "content", "no redacted"),
    (_set("redacted", to="runs.goal"), "content", "redacted: 'runs.goal'"),
    (_set("redacted", to=["runs.goal"]), "content", "'runs.goal' is said to be redacted"),
    (_set("written_at", to="noon"), "content", "written_at: 'noon'"),
    (_set("tools", to=["python"]), "content", "tools: ['python']"),
    (_set("more", to=1), "content", "more: 1"),
    (_set("totals", "steps", to=3.0), "content", "'steps': 3.0"),
    (_set("format_version", to=True), "format", "exporttools-bundle True"),
    (lambda description: description.pop("totals"), "content", "totals: None"),
    (_set("source", to=[]), "content", ""),
    (_set("source", to="sqlite"), "content", ""),
    (_set("source", to={}), "content", "source: {}"),
    (_set("source", "host", to="db.example"), "content", "db.example"),
    (_set("source", "dialect", to={"a": 1}), "content", "{'a': 1}"),
    (_set("source", "snapshot_id", to=7), "content", "'snapshot_id': 7"),
    (_set("source", "read_at", to="2026-10-05T12:00:00"), "content", "'read_at': '2026-10-05T12:00:00'"),
    (_set("source", "read_at", to="yesterday"), "content", "'yesterday'"),
    (_set("source", "read_at", to=7), "content", "'read_at': 7"),
    (_set("format", to="other"), "format", "other 1"),
    (_set("format_version", to=2), "format", "exporttools-bundle 2"),
    (_set("format_version", to=[[]]), "format", "exporttools-bundle [[]]"),
    (lambda description: description.clear(), "format", "None None"),
]


@pytest.mark.parametrize(("change", "code", "fragment"), STATEMENTS)
def test_a_wrong_statement_is_found(
    bag: Path, change: Callable[[dict[str, Any]], object], code: str, fragment: str
) -> None:
    edit(bag / "data/bundle.json", change)
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == (code, "data/bundle.json")
    assert fragment in finding.found
    json.dumps(verify_bundle(bag).to_dict())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"format": 1, "a": {"b": 1, "b": 2}}', "the key 'b' twice"),
        ('{"a": NaN}', "the number NaN"),
        ('{"a": -Infinity}', "the number -Infinity"),
        ("[1]", "a JSON list"),
        ("7", "a JSON int"),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("\ufeff{}", "Unexpected UTF-8 BOM"),
        ("[" * 100_000, "levels"),
        ('{"a":' * 100_000, "levels"),
        ('{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    ],
)
def test_promise_17_a_description_that_is_none_is_found(bag: Path, text: str, found: str) -> None:
    (bag / "data/bundle.json").write_text(text, encoding="utf-8")
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("malformed", "data/bundle.json")
    assert found in finding.found


def test_a_description_that_is_no_text_is_found(bag: Path) -> None:
    (bag / "data/bundle.json").write_bytes(b'{"a": "\xff"}')
    rehash(bag)
    (finding,) = found_in(bag)
    assert "can't decode byte 0xff" in finding.found


# Parquet


def _rewrite(bag: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = bag / "data" / name
    pq.write_table(change(pq.read_table(path)), path, compression="zstd", write_page_checksum=True)
    rehash(bag)


def _cost(*values: float | None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(4, table.schema.field(4).with_nullable(False), pa.array(values, pa.float64()))

    return change


def _with_time(microseconds: int) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field("timestamp")
        return table.set_column(1, field, pa.array([microseconds] * 3).view(field.type))

    return change


ROWS: list[tuple[str, Callable[[pa.Table], pa.Table], str, str, str]] = [
    ("trace_steps.parquet", _cost(0.5, 0.5, 0.4), "content", "data/bundle.json", "cost_cents"),
    ("trace_steps.parquet", lambda table: table.slice(0, 2), "content", "data/bundle.json", "tables: "),
    ("trace_steps.parquet", lambda table: table.take([2, 1, 0]), "schema", "data/trace_steps.parquet",
     "row step_index=1 has step_index = 1 after 2; expected strictly ascending"),
    ("trace_steps.parquet", lambda table: table.drop_columns(["model"]), "content", "data/bundle.json", "tables: "),
    ("trace_steps.parquet", _cost(1e308, 1.7e308, 0.5), "content", "data/bundle.json", "cost_cents"),
    ("trace_steps.parquet", _cost(0.5, -1.0, 0.5), "schema", "data/trace_steps.parquet", "step_index=1 has cost_cents = -1.0"),
    ("trace_steps.parquet", _cost(0.5, float("nan"), 0.5), "schema", "data/trace_steps.parquet", "has cost_cents = nan"),
    ("trace_steps.parquet", _with_time(2**62), "schema", "data/trace_steps.parquet", "a time in the years 1 to 9999"),
    ("trace_steps.parquet", lambda table: table.drop_columns(["tokens"]), "schema", "data/trace_steps.parquet",
     "column 3 is cost_cents: double not null; expected tokens: int64 not null"),
    ("trace_steps.parquet", lambda table: table.select(table.column_names[:3]), "schema", "data/trace_steps.parquet",
     "column 3 is missing; expected tokens: int64 not null"),
    ("trace_steps.parquet", lambda table: table.append_column("flag", pa.array([True] * 3)), "schema", "data/trace_steps.parquet",
     "column 'flag' is of type bool"),
    ("trace_steps.parquet", lambda table: table.append_column("tenant_id", pa.array(["x"] * 3)), "schema",
     "data/trace_steps.parquet", "column tenant_id, which trace_steps in a bundle cannot have"),
    ("trace_steps.parquet", lambda table: table.append_column("model", table["model"]), "schema", "data/trace_steps.parquet",
     "duplicate column names in step_index"),
    ("run.parquet", lambda table: pa.concat_tables([table, table]), "content", "data/bundle.json", "at most one RunSnapshot; found 2 runs"),
    ("run.parquet", lambda table: table.slice(0, 0), "content", "data/bundle.json", "missing: []"),
    ("trace.parquet", lambda table: table.slice(0, 0), "content", "data/bundle.json", "3 steps without a trace"),
    ("run.parquet", lambda table: table.set_column(1, table.schema.field(1), pa.array(["globex"])), "content",
     "data/bundle.json", "the parts of a bundle belong to one tenant"),
    ("run.parquet", lambda table: table.cast(pa.schema([field.with_nullable(True) for field in table.schema])), "schema",
     "data/run.parquet", "column 0 is run_id: string; expected run_id: string not null"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "code", "path", "fragment"), ROWS)
def test_other_rows_with_new_manifests_are_found(
    bag: Path, name: str, change: Callable[[pa.Table], pa.Table], code: str, path: str, fragment: str
) -> None:
    _rewrite(bag, name, change)
    found = found_in(bag)
    assert {(finding.code, finding.path) for finding in found} == {(code, path)}
    assert any(fragment in finding.found for finding in found)


def test_text_that_is_not_utf8_is_found(bag: Path) -> None:
    broken = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb"))

    def change(table: pa.Table) -> pa.Table:
        return table.set_column(2, table.schema.field("step_type"), broken)

    path = bag / "data/trace_steps.parquet"
    pq.write_table(change(pq.read_table(path)), path, compression="zstd", write_page_checksum=True)
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("schema", "data/trace_steps.parquet")
    assert "UTF8" in finding.found


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1\x00\x00\x00\x00PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"x" * 1000, b"PARE" * 9]
)
def test_a_file_that_is_no_parquet_is_found(bag: Path, content: bytes) -> None:
    (bag / "data/run.parquet").write_bytes(content)
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path, finding.expected) == (
        "schema",
        "data/run.parquet",
        "the rows of a bundle's run",
    )
    assert finding.found


# What verifying gives


def test_a_failure_pickles_with_its_findings(bag: Path) -> None:
    for name in FILES[:5]:
        (bag / name).unlink()
    with pytest.raises(VerificationFailed) as caught:
        read_bundle(bag)
    error = caught.value
    assert [finding.path for finding in error.findings if finding.code == "missing"] == FILES[:5]
    assert str(error).startswith(f"{bag} does not verify: missing: bag-info.txt: expected a file; found nothing; ")
    assert str(error).endswith(f" and {len(error.findings) - 3} more")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.findings) == (VerificationFailed, str(error), error.findings)


def test_a_verification_says_what_it_rests_on(bag: Path) -> None:
    digest = a_bundle().content_digest
    whole = verify_bundle(bag)
    assert bool(whole)
    assert whole.verdict == "intact, unsigned"
    assert str(whole) == (
        f"{bag}: intact, unsigned\n  content digest sha256:{digest} over 1 incident, 1 run, 1 trace, 3 steps"
    )
    rows = {"incidents": 1, "runs": 1, "traces": 1, "trace_steps": 3}
    assert whole.to_dict() == {
        "path": str(bag), "verdict": "intact, unsigned", "ok": True, "authentic": False, "signed_by": [], "trusted": [],
        "signature_checked": False,
        "content_digest": digest, "rows": rows, "redacted": [], "findings": [],
    }  # fmt: skip
    assert "✔ intact, unsigned" in Tags(whole._repr_html_()).text
    assert digest in whole._repr_html_()
    with pytest.raises(dataclasses.FrozenInstanceError):
        whole.findings = ()  # type: ignore[misc]
    (bag / "data/run.parquet").unlink()
    failed = verify_bundle(bag)
    assert not failed
    assert (failed.verdict, failed.content_digest, failed.rows) == ("failed", None, {})
    finding = {"code": "missing", "path": "data/run.parquet", "expected": "a file", "found": "nothing"}
    assert json.loads(json.dumps(failed.to_dict())) == {
        "path": str(bag), "verdict": "failed", "ok": False, "authentic": False, "signed_by": [], "trusted": [],
        "signature_checked": False,
        "content_digest": None, "rows": {}, "redacted": [], "findings": [finding],
    }  # fmt: skip
    assert str(failed) == f"{bag}: failed\n  missing: data/run.parquet: expected a file; found nothing"
    seen = Tags(failed._repr_html_())
    assert "✘ failed" in seen.text
    assert "missing: data/run.parquet: expected a file; found nothing" in seen.text
    assert pickle.loads(pickle.dumps(failed)) == failed


def test_promise_18_a_hostile_finding_is_inert() -> None:
    verification = Verification(Path(HOSTILE), (Finding("changed", HOSTILE, HOSTILE * 1000, HOSTILE),), None)
    html = verification._repr_html_()
    assert Tags(html).tags <= {"p", "b", "code", "br", "ul", "li"}
    assert Tags(html).attributes == set()
    for text in (html, str(verification)):
        assert not {"\x1b", "\u202e"} & set(text)
        assert len(text) < 3000
    assert len(str(verification).splitlines()) == 2


# What is loaded


def _loaded(code: str, cwd: Path) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COVERAGE_PROCESS_START")
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return {module.split(".")[0] for module in done.stdout.split()}


DRIVERS = {
    "sqlalchemy",
    "psycopg",
    "psycopg_binary",
    "adbc_driver_postgresql",
    "adbc_driver_manager",
    "pandas",
    "matplotlib",
}


def test_importing_bundles_loads_no_driver_pandas_or_matplotlib(tmp_path: Path) -> None:
    loaded = _loaded("import exporttools.bundle", tmp_path)
    assert "pyarrow" in loaded
    assert loaded & {*DRIVERS, "duckdb"} == set()


def test_a_recipient_needs_no_driver_pandas_or_matplotlib(bag: Path, tmp_path: Path) -> None:
    # pyarrow imports pandas where it is installed, so here none of them is.
    code = f"""
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {sorted(DRIVERS)!r}:
            raise ModuleNotFoundError('No module named ' + name)
sys.meta_path.insert(0, NotInstalled())
import exporttools.bundle as b
b.write_bundle(b.read_bundle({str(bag)!r}), 'again')
assert b.verify_bundle('again')
print('verified')"""
    assert "verified" in _loaded(code, tmp_path)
    assert read_bundle(tmp_path / "again") == a_bundle()


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = _loaded("import exporttools", tmp_path)
    assert "exporttools" in loaded
    assert loaded & {*DRIVERS, "duckdb", "pyarrow", "numpy", "typer"} == set()
