"""A bundle is whole or absent, and what is changed in it is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from exporttools import (
    BundleError,
    BundleExists,
    BundleUnreadable,
    ConfigError,
    ExportBundle,
    ExportBundleStore,
    VerificationFailed,
    read_bundle,
    verify_bundle,
    write_bundle,
)
from exporttools.bundle import writing
from exporttools.bundle.bag import write_tag_files

from .databases import create_native, one_of_each

FILES = {
    "bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt", "data/incident.parquet",
    "data/run.parquet", "data/trace.parquet", "data/trace_steps.parquet", "data/bundle.json",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path: Path) -> ExportBundle:
    found = ExportBundleStore(create_native(f"sqlite:///{tmp_path / 'b.sqlite'}", one_of_each())).get_export_bundle(
        "i1"
    )
    assert found is not None
    return found


@pytest.fixture
def bag(bundle: ExportBundle, tmp_path: Path) -> Path:
    return write_bundle(bundle, tmp_path / "bag")


def test_it_reads_back_as_it_was(bundle: ExportBundle, bag: Path) -> None:
    assert read_bundle(bag) == bundle
    assert {path.relative_to(bag).as_posix() for path in bag.rglob("*") if path.is_file()} == FILES


def test_what_is_there_is_not_touched(bundle: ExportBundle, bag: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for path in (bag, tmp_path / "empty", tmp_path / "link"):
        with pytest.raises(BundleExists, match="exists; it was not touched"):
            write_bundle(bundle, path)
    assert verify_bundle(bag).ok
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(ConfigError, match="is no directory; make it first"):
        write_bundle(bundle, tmp_path / "no" / "bag")
    with pytest.raises(ConfigError, match="there is nothing to save"):
        write_bundle(ExportBundle(), tmp_path / "none")


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_write_that_fails_leaves_nothing(
    bundle: ExportBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    before, calls, write_part = set(tmp_path.iterdir()), [], writing.write_part

    def fail(*arguments: object) -> None:
        calls.append(1)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        write_part(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "write_part", fail)
    with pytest.raises(BundleError, match=r"could not be written: .*No space left on device. Nothing was left behind"):
        write_bundle(bundle, tmp_path / "bag")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_counts(bag: Path, name: str) -> None:
    original = (bag / name).read_bytes()
    for position in range(0, len(original), max(1, len(original) // 40)):
        changed = bytearray(original)
        changed[position] ^= 1
        (bag / name).write_bytes(changed)
        assert not verify_bundle(bag).ok, position
    (bag / name).unlink()
    assert name in {finding.path for finding in verify_bundle(bag).findings}
    with pytest.raises(VerificationFailed, match="does not verify") as caught:
        read_bundle(bag)
    assert caught.value.findings


def test_what_does_not_belong_is_found(bag: Path) -> None:
    (bag / "data" / "more").mkdir()
    (bag / "note.txt").write_text("x")
    (bag / "data" / "run.parquet").unlink()
    (bag / "data" / "run.parquet").symlink_to(bag / "data" / "trace.parquet")
    found = {(finding.code, finding.path) for finding in verify_bundle(bag).findings}
    assert found >= {("unexpected", "data/more"), ("unexpected", "note.txt"), ("not-a-file", "data/run.parquet")}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tokens": 303', '"tokens": 304', "tokens"),
        ('"tenant_id": "acme"', '"tenant_id": "globex"', "tenant_id: globex"),
        ('"format_version": 1', '"format_version": 2', "exporttools-bundle 2"),
        ('"format_version": 1', '"format_version": 1, "format_version": 1', "the key 'format_version' twice"),
        ('"tokens": 303', '"tokens": NaN', "the number NaN"),
    ],
)
def test_a_new_manifest_does_not_make_a_wrong_statement_right(bag: Path, old: str, new: str, message: str) -> None:
    path = bag / "data" / "bundle.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    write_tag_files(bag, identifier="x\nEvil: yes", description="d", software="s")
    assert "\nEvil" not in (bag / "bag-info.txt").read_text()
    (finding,) = verify_bundle(bag).findings
    assert finding.path == "data/bundle.json"
    assert message in finding.found


def test_swapped_tables_are_found(bag: Path) -> None:
    data = bag / "data"
    shutil.copyfile(data / "trace.parquet", data / "run.parquet")
    write_tag_files(bag, identifier="x", description="d", software="s")
    assert [(finding.code, finding.path) for finding in verify_bundle(bag).findings] == [("schema", "data/run.parquet")]


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleUnreadable, match="expected a bundle, which is a directory; found nothing"):
        verify_bundle(tmp_path / "no")
    assert not verify_bundle(tmp_path).ok
