"""Some file systems cannot sync a directory: whatever writes durably goes on there, and stops where a file cannot be."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from exporttools import (
    BundleError,
    ConfigError,
    ExportBundle,
    ExportBundleStore,
    ExportInterrupted,
    ExportToolsError,
    RunSnapshot,
    export_dataset,
    open_dataset,
    verify_bundle,
    write_bundle,
    write_key_pair,
)
from exporttools.database.embedded import embedded_database


def refuse(monkeypatch: pytest.MonkeyPatch, code: int, *, files: bool = False) -> None:
    """A file system that cannot sync directories, or files."""
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) is not files:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)


def a_bundle(path: Path) -> bool:
    return bool(verify_bundle(write_bundle(ExportBundle(run=RunSnapshot(run_id="r1", tenant_id="acme")), path)))


def a_key_pair(path: Path) -> bool:
    write_key_pair(path)
    return path.is_file() and Path(f"{path}.pub").is_file()


def a_dataset(path: Path) -> bool:
    export_dataset(ExportBundleStore(embedded_database()), path, window="14d", progress=False)
    return open_dataset(path).verify().ok


@pytest.mark.parametrize("write", [a_bundle, a_key_pair, a_dataset])
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_directory_that_cannot_be_synced_is_no_reason_not_to_write(
    write: Callable[[Path], bool], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, code)
    assert write(tmp_path / "written")


@pytest.mark.parametrize(
    ("write", "error"), [(a_bundle, BundleError), (a_key_pair, ConfigError), (a_dataset, ExportInterrupted)]
)
@pytest.mark.parametrize(("code", "files"), [(errno.EIO, False), (errno.EIO, True), (errno.EINVAL, True)])
def test_any_other_refusal_stops_it(
    write: Callable[[Path], bool],
    error: type[ExportToolsError],
    code: int,
    files: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse(monkeypatch, code, files=files)
    with pytest.raises(error, match=re.escape(os.strerror(code))):
        write(tmp_path / "written")
    assert not (tmp_path / "written").is_file()
