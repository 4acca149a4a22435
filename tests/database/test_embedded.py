"""The sample that is there when no database is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from exporttools import ConfigError, ExportBundleStore
from exporttools.database.embedded import default_database_url, embedded_database


def test_a_read_leaves_nothing_beside_it_and_does_not_change_it() -> None:
    path = embedded_database()
    before, beside = path.read_bytes(), sorted(path.parent.iterdir())
    assert len(ExportBundleStore(path).list_incidents()) == 8
    assert (path.read_bytes(), sorted(path.parent.iterdir())) == (before, beside)


def test_it_needs_no_journal_and_so_no_directory_that_can_be_written() -> None:
    # SQLite file format §1.3.2: 1 is a rollback journal, 2 a write-ahead log, which readers have to write beside it.
    assert embedded_database().read_bytes()[18:20] == b"\x01\x01"


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root, to mount read-only")
def test_it_is_read_on_a_read_only_file_system(tmp_path: Path) -> None:
    copy = Path(shutil.copy(embedded_database(), tmp_path))
    read = f"from exporttools import ExportBundleStore; print(len(ExportBundleStore({str(copy)!r}).list_incidents()))"
    script = f'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ! touch "$1/x" 2>&- && "$2" -c "{read}"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", tmp_path, sys.executable], capture_output=True, text=True
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert (done.stdout, done.stderr, done.returncode) == ("8\n", "", 0)


def test_an_installation_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporttools.files.resources._PACKAGE", tmp_path / "package")
    with pytest.raises(ConfigError) as caught:
        embedded_database()
    assert str(caught.value) == (
        f"data/sample.sqlite is missing from this installation; looked in {tmp_path}/package/_resources/data/sample.sqlite "
        f"and {tmp_path}/data/sample.sqlite. Reinstall exporttools."
    )


def test_the_default_is_the_database_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", "postgresql://reader@db.internal/agents")
    assert default_database_url() == ("postgresql://reader@db.internal/agents", False)


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_is_the_sample_where_none_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("EXPORTTOOLS_DATABASE_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", value)
    url, is_embedded = default_database_url()
    assert (url, is_embedded) == (f"sqlite:///{embedded_database()}", True)


def test_a_wheel_carries_it_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    pyproject = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["data"] == "exporttools/_resources/data"
    assert embedded_database() == root / "data" / "sample.sqlite"  # a checkout's
    installed = Path(shutil.copytree(root / "data", tmp_path / included["data"]))
    monkeypatch.setattr("exporttools.files.resources._PACKAGE", tmp_path / "exporttools")
    assert embedded_database() == installed / "sample.sqlite"
    assert len(ExportBundleStore(embedded_database()).list_incidents()) == 8
