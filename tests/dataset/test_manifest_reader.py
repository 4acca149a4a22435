"""Manifests and part_file lists that no export writes are refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from exporttools import (
    DatasetUnreadable,
    open_dataset,
)
from exporttools.dataset.local_storage import LocalStorage
from tests.dataset.handmade import (
    exported,
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"number": 2', '"number": 3'),
        ('"number": 2', '"number": 2, "number": 2'),
        ('"_manifest/windows/', '"../../'),
        ('"rows": {', '"rows": 3, "x": {'),
        ("{", "{{"),
        ('"settled": true', '"settled": "no"'),
        ('"open_runs": 0', '"open_runs": "x"'),
        ('"incidents": 1,', '"incidents": -1,'),
        ('"extra_columns": {}', '"extra_columns": []'),
        ('"extra_columns": {}', '"extra_columns": {"runs": {"goal": "string"}}'),
        ('"since": "2026', '"since": "x2026'),
        ('"until": "2026-10-06T00:00:00.000000Z"', '"until": null'),
        ('"tenant_id": null', '"tenant_id": 5'),
    ],
)
def test_a_hostile_manifest_is_refused(tmp_path: Path, old: str, new: str) -> None:
    exported(tmp_path)
    path = tmp_path / "d" / "_manifest" / "000002.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(
        DatasetUnreadable,
        match=r"_manifest/000002\.json cannot be read: .*\. An older manifest may be readable: open_dataset\(\.\.\., as_of=N\)",
    ):
        open_dataset(tmp_path / "d")


def test_part_files_outside_their_place_are_refused(tmp_path: Path) -> None:

    exported(tmp_path)
    directory = tmp_path / "d" / "_manifest"
    part_list = next(directory.glob("windows/*"))
    text = part_list.read_text().replace('"path": "runs/', '"path": "../../runs/', 1)
    part_list.write_text(text)
    manifest = directory / "000002.json"
    value = json.loads(manifest.read_text())
    value["windows"][0]["parts_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    manifest.write_text(json.dumps(value, indent=1) + "\n")
    with pytest.raises(
        DatasetUnreadable,
        match=r"_manifest/windows/[0-9a-f]{32}\.json cannot be read: it has a part file at '\.\./\.\./runs/.*; expected 'runs/",
    ):
        open_dataset(tmp_path / "d").files("runs")


def test_what_the_storage_refuses_to_read_or_list_is_a_dataset_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = exported(tmp_path)
    read = LocalStorage.read

    def refused(self: LocalStorage, path: str) -> bytes:
        if path.endswith("000002.json"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return read(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "read", refused)
        with pytest.raises(
            DatasetUnreadable,
            match=r"/d: _manifest/000002\.json cannot be read: \[Errno 13\] Permission denied: '_manifest/000002\.json'\. "
            r"An older manifest may be readable: open_dataset\(\.\.\., as_of=N\)",
        ):
            open_dataset(tmp_path / "d")
        assert open_dataset(tmp_path / "d", as_of=1).manifest.windows == ()
    shutil.rmtree(tmp_path / "d" / "_manifest")
    with pytest.raises(DatasetUnreadable, match=r"/[0-9a-f]{32}\.json cannot be read: \[Errno 2\] No such file"):
        dataset.files("runs")
    (tmp_path / "d" / "_manifest").write_text("")
    with pytest.raises(
        DatasetUnreadable, match=r"/d: _manifest/ cannot be listed: \[Errno 20\] Not a directory: '.*/_manifest'"
    ):
        open_dataset(tmp_path / "d")
