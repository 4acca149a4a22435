"""What is written reads back equal, others can read it, and nothing that exists is touched."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from exporttools import (
    BundleError,
    BundleExists,
    ConfigError,
    ExportBundle,
    IncidentSnapshot,
    RunSnapshot,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from exporttools.bundle import writer
from exporttools.bundle.description import MOST_BYTES
from exporttools.bundle.parts import ROW_GROUP_BYTES
from exporttools.files.digests import table_digest
from tests.bundle.bags import FILES, PARTS, a_bundle, bundles
from tests.databases import incident, run
from tests.steps import a_step, steps_of

# Written and read back


def test_it_reads_back_as_it_was(written: Path) -> None:
    bundle = a_bundle()
    found = read_bundle(written)
    assert found == bundle
    assert (found.source, found.trace_count, found.content_digest) == (bundle.source, 1, bundle.content_digest)
    assert found.steps.schema.equals(bundle.steps.schema, check_metadata=True)
    verification = verify_bundle(str(written))
    assert verification.ok
    assert (verification.path, verification.findings, verification.content_digest) == (
        written,
        (),
        bundle.content_digest,
    )
    assert verification.rows == {"incidents": 1, "runs": 1, "traces": 1, "trace_steps": 3}


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


# The files


def test_exactly_these_files(written: Path) -> None:
    assert sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()) == FILES
    assert [path.name for path in written.rglob("*") if path.is_dir()] == ["data"]
    assert [path.name for path in written.parent.iterdir()] == ["bundle"]
    assert (written / "bagit.txt").read_bytes() == b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


def test_parquet_carries_units_checksums_and_zstd(written: Path) -> None:
    for name in PARTS.values():
        with pq.ParquetFile(written / "data" / name) as file:
            group = file.metadata.row_group(0)
            assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}
    schema = pq.read_schema(written / "data" / "trace_steps.parquet")
    described = json.loads(schema.metadata[b"exporttools.columns"])
    units = [described[name]["unit"] for name in ("duration_ms", "cost_cents", "tokens", "timestamp")]
    assert units == ["ms", "US cents", "tokens", "UTC"]
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


# Refused


def test_nothing_that_exists_is_touched(tmp_path: Path, bag: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    before = {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    for name in ("file", "empty", "dangling", "bundle"):
        with pytest.raises(BundleExists) as caught:
            write_bundle(a_bundle(), tmp_path / name)
        assert (
            str(caught.value)
            == f"{tmp_path / name} already exists and was left unchanged. Remove it or choose another name"
        )
        assert isinstance(caught.value, FileExistsError)
    assert {path: path.lstat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_what_cannot_be_written(tmp_path: Path) -> None:
    empty = ExportBundle()
    cases: list[tuple[Any, Any, str]] = [
        (a_bundle(), tmp_path / "no" / "b", f"{tmp_path}/no is not a directory; create it first"),
        (a_bundle(), tmp_path / ("x" * 300) / "b", "… is not a directory; create it first"),
        (
            a_bundle(),
            f"{tmp_path}/a\0b",
            f"the path {tmp_path}/a�b contains a NUL character, which file names cannot contain",
        ),
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


def test_rows_that_readers_would_refuse_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        write_bundle(a_bundle(run=RunSnapshot("r1", "acme", goal="g" * ROW_GROUP_BYTES)), tmp_path / "b")
    assert re.fullmatch(
        r"the rows of the run cannot be written: readers would refuse them: a row of 33,554,\d{3} bytes; "
        r"expected at most 33,554,432\. Nothing was left behind",
        str(caught.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_no_zip_holds_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MOST_PART_BYTES", 1000)
    with pytest.raises(BundleError) as caught:
        write_bundle(a_bundle(), tmp_path / "b")
    assert re.fullmatch(
        r"the rows of the incident take \d,\d{3} bytes; expected at most 1,000\. Nothing was left behind",
        str(caught.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_ids_that_fill_a_description_are_not_written(tmp_path: Path) -> None:
    bundle = ExportBundle(run=RunSnapshot("r" * MOST_BYTES, "acme"))
    with pytest.raises(ConfigError) as caught:
        write_bundle(bundle, tmp_path / "b")
    assert re.fullmatch(
        r"the bundle's ids are too long: bundle\.json would have 8,3\d\d,\d{3} bytes; expected at most 8,388,608",
        str(caught.value),
    )
    assert list(tmp_path.iterdir()) == []
