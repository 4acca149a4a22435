"""Whatever is changed in a bundle is found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import (
    BundleUnreadable,
    ExportBundle,
    Finding,
    RunSnapshot,
    SnapshotTable,
    TraceStepSnapshot,
    VerificationFailed,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from exporttools.bundle import reader
from exporttools.records.schema import RECORD_TYPES
from tests.bundle.bags import FILES, PAYLOAD, a_bundle, found_in, rehash
from tests.bundle.parquet_files import in_our_form

# Files


def test_a_path_that_is_not_a_bundle(tmp_path: Path) -> None:
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
        ("missing", name) for name in FILES if name != "HOW-TO-VERIFY.txt"
    }


@pytest.mark.slow
def test_promise_03_every_changed_byte_is_found(tmp_path: Path) -> None:
    path = write_bundle(ExportBundle(run=RunSnapshot("r1", "acme"), source=None), tmp_path / "tiny")
    tags = [name for name in FILES if name.endswith(".txt")]
    parts = [name for name in FILES if name not in tags]
    assert min(len(tags), len(parts)) > 1
    for name in tags:
        for i in range(len((path / name).read_bytes())):
            for bit in (0x20, 0x01, 0x0A):  # 0x20: the case of a letter; 0x0a: space to *
                with flipped(path / name, i, bit):
                    assert not verify_bundle(path).ok, (name, i, bit)
    for name in parts:
        for i in range(len((path / name).read_bytes())):
            with flipped(path / name, i, 1 << i % 8):
                found = {(finding.code, finding.path) for finding in verify_bundle(path).findings}
            assert ("changed", name) in found, (name, i)
            assert {blamed for _, blamed in found} == {name}, (name, i)
    assert verify_bundle(path).ok


@contextmanager
def flipped(path: Path, place: int, bits: int) -> Iterator[None]:
    """Change one byte of a file within the block."""
    good = path.read_bytes()
    path.write_bytes(good[:place] + bytes([good[place] ^ bits]) + good[place + 1 :])
    yield
    path.write_bytes(good)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["cut", "grown", "emptied", "removed"])
def test_promise_03_a_file_cut_grown_emptied_or_removed_is_found(bag: Path, name: str, change: str) -> None:
    good = (bag / name).read_bytes()
    (bag / name).unlink()
    if change != "removed":
        (bag / name).write_bytes({"cut": good[:-1], "grown": good + b"\n", "emptied": b""}[change])
    assert name in {finding.path for finding in found_in(bag)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_removed_is_missing(bag: Path, name: str) -> None:
    (bag / name).unlink()
    assert Finding("missing", name, "a file", "nothing") in found_in(bag)


def _swap(a: Path, b: Path) -> None:
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _moved(path: Path) -> Path:
    """Move what is there out of the bundle, and return the path that is now free."""
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
        [("unexpected", "data/more", "a file"), ("linked", RUN_FILE, "a file with 2 hard links")],
    ),
    "hard link from outside": (
        lambda bag: os.link(bag / RUN_FILE, bag.parent / "second"),
        [("linked", RUN_FILE, "a file with 2 hard links")],
    ),
    "unlisted file at the top": (lambda bag: (bag / "notes.txt").write_text("x"), [("unexpected", "notes.txt", "a file")]),
    "pipe added": (lambda bag: os.mkfifo(bag / "more"), [("unexpected", "more", "a pipe")]),
    "name that is not text": (lambda bag: (bag / os.fsdecode(b"a\xff\n")).touch(), [("unexpected", os.fsdecode(b"a\xff\n"), "a file")]),
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
    assert first.found == "column 0 is 'trace_id'; expected 'run_id'"


# Rows


def _rewrite(bag: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = bag / "data" / name
    (record_type,) = (
        each for each in RECORD_TYPES.values() if name.removesuffix(".parquet") in (each.noun, each.table)
    )
    path.write_bytes(in_our_form(change(pq.read_table(path)), record_type))
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
     "column 3 is 'cost_cents'; expected 'tokens'"),
    ("trace_steps.parquet", lambda table: table.select(table.column_names[:3]), "schema", "data/trace_steps.parquet",
     "column 3 is missing; expected 'tokens'"),
    ("trace_steps.parquet", lambda table: table.append_column("flag", pa.array([True] * 3)), "schema", "data/trace_steps.parquet",
     "column 'flag' is of a type that bundles do not have"),
    ("trace_steps.parquet", lambda table: table.append_column("tenant_id", pa.array(["x"] * 3)), "schema",
     "data/trace_steps.parquet", "column tenant_id, which trace_steps in a bundle cannot have"),
    ("trace_steps.parquet", lambda table: table.append_column("model", table["model"]), "schema", "data/trace_steps.parquet",
     "columns 'model' and 'model'"),
    ("run.parquet", lambda table: pa.concat_tables([table, table]), "content", "data/bundle.json", "at most one RunSnapshot; found 2 runs"),
    ("run.parquet", lambda table: table.slice(0, 0), "content", "data/bundle.json", "missing: []"),
    ("trace.parquet", lambda table: table.slice(0, 0), "content", "data/bundle.json", "3 steps without a trace"),
    ("run.parquet", lambda table: table.set_column(1, table.schema.field(1), pa.array(["globex"])), "content",
     "data/bundle.json", "the parts of a bundle belong to one tenant"),
    ("run.parquet", lambda table: table.cast(pa.schema([field.with_nullable(True) for field in table.schema])), "schema",
     "data/run.parquet", "footer: schema[1].repetition_type: expected 0; found 1"),
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

    _rewrite(bag, "trace_steps.parquet", change)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path) == ("schema", "data/trace_steps.parquet")
    assert "UTF8" in finding.found


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1\x00\x00\x00\x00PAR1", b"PAR1\xff\xff\xff\x7fPAR1", b"x" * 1000, b"PARE" * 9]
)
def test_a_file_that_is_not_parquet_is_found(bag: Path, content: bytes) -> None:
    (bag / "data/run.parquet").write_bytes(content)
    rehash(bag)
    (finding,) = found_in(bag)
    assert (finding.code, finding.path, finding.expected) == (
        "schema",
        "data/run.parquet",
        "the rows of a bundle's run",
    )
    assert finding.found


# While it is read


def _priced(tokens: list[int], unit: str) -> ExportBundle:
    """A bundle whose steps have a column of their own, in a unit of its own."""
    table = a_bundle().steps.to_arrow()
    table = table.set_column(table.schema.get_field_index("tokens"), table.schema.field("tokens"), pa.array(tokens))
    table = table.append_column(pa.field("price", pa.float64(), metadata={"unit": unit}), pa.array([1.0, 2.0, 3.0]))
    return a_bundle(steps=SnapshotTable(TraceStepSnapshot, table))


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("held_bytes", [reader.MOST_END_BYTES, 1900], ids=["a small file", "a large file"])
@pytest.mark.parametrize(
    "other", [_priced([1, 2, 3], "EU cents"), _priced([1, 2, 4], "US cents")], ids=["unit", "rows"]
)
def test_what_was_hashed_is_what_is_read_whoever_writes_to_a_file_in_between(
    archive: bool, held_bytes: int, other: ExportBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = _priced([1, 2, 3], "US cents")
    path = write_bundle(bundle, tmp_path / "b", archive=archive)
    mine, theirs = (
        (write_bundle(of, tmp_path / name) / "data/trace_steps.parquet").read_bytes()
        for of, name in ((bundle, "mine"), (other, "theirs"))
    )
    assert len(mine) == len(theirs)
    assert int.from_bytes(mine[-8:-4], "little") + 8 < 1900 < len(mine)
    read_rows = reader._read_rows

    def rewritten_first(*args: Any, **options: Any) -> Any:
        file = path if archive else path / "data/trace_steps.parquet"
        file.write_bytes(file.read_bytes().replace(mine, theirs))
        return read_rows(*args, **options)

    monkeypatch.setattr(reader, "MOST_END_BYTES", held_bytes)
    monkeypatch.setattr(reader, "_read_rows", rewritten_first)
    try:
        found = read_bundle(path)
    except VerificationFailed as error:
        assert other.content_digest != bundle.content_digest
        assert {finding.code for finding in error.findings} <= {"schema", "content"}  # noqa: PT017
        assert held_bytes < len(mine)
    else:
        assert found == bundle
        assert found.steps.schema.field("price").metadata[b"unit"] == b"US cents"
        assert (path if archive else path / "data/trace_steps.parquet").read_bytes().count(theirs) == 1
