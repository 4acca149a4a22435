"""A file in WAL mode in a directory that cannot be written: SQLite's errors mislead, ours say what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporttools.database.sqlite_files import why_unreadable
from tests.databases import create_native, one_of_each, run, run_sql, wal_mode, writable

# Root may write anywhere, so it becomes nobody; only then is all imported that a read needs.
READ = """
import os, sys
from exporttools import ExportBundleStore, StoreError
path, warm_up = sys.argv[1:]
ExportBundleStore(warm_up).list_runs()
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    print(len(ExportBundleStore(path).list_runs()))
except StoreError as error:
    print(f"{type(error).__name__}: {error}")
"""
WHY = (
    "ConnectionFailed: sqlite:///{directory}/agents.sqlite: the file is in WAL mode, so that SQLite writes beside it even to "
    "read, and you may not write to the directory {directory}. Get write access to the directory; or copy the file, with its "
    "-wal file if there is one, to a directory of yours, and open the copy; or have its owner run PRAGMA journal_mode = DELETE. "
    "The driver says: {driver}\n"
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that others may look into, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="et-wal-") as name:
        yield Path(name)
        Path(name).chmod(0o755)


def read_only(directory: Path, *, left: tuple[str, ...], wal: bool = True) -> str:
    """A database with a run in its main file and one in its log, of which only some files are left; what its reader says."""
    full = directory.parent / f"{directory.name}-full"
    full.mkdir()
    path = full / "agents.sqlite"
    url = create_native(f"sqlite:///{path}", one_of_each())
    if wal:
        wal_mode(url)
    engine = writable(url)
    with engine.connect() as open_one:
        open_one.exec_driver_sql("SELECT count(*) FROM runs")  # while it is open, the log stays
        run_sql(url, "INSERT INTO runs (run_id, tenant_id) VALUES ('r2', 'acme')")
        for suffix in ("", *left):
            shutil.copy(f"{path}{suffix}", directory)
    engine.dispose()
    shutil.rmtree(full)
    warm_up = create_native(f"sqlite:///{directory / 'other.sqlite'}", {"runs": [run()]})
    directory.chmod(0o555)
    command = [sys.executable, "-c", READ, directory / "agents.sqlite", warm_up]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


@pytest.mark.parametrize(
    ("left", "driver"),
    [((), "attempt to write a readonly database"), (("-wal",), "unable to open database file")],
    ids=["no log", "no index of the log"],
)
def test_it_says_what_to_do(directory: Path, left: tuple[str, ...], driver: str) -> None:
    assert read_only(directory, left=left) == WHY.format(directory=directory, driver=driver)


def test_with_its_log_and_index_it_is_read(directory: Path) -> None:
    assert read_only(directory, left=("-wal", "-shm")) == "2\n"


def test_without_wal_mode_it_is_read(directory: Path) -> None:
    assert read_only(directory, left=(), wal=False) == "2\n"


def test_what_else_is_refused_is_not_explained(tmp_path: Path) -> None:
    url = wal_mode(create_native(f"sqlite:///{tmp_path / 'agents.sqlite'}", one_of_each()))
    path = url.removeprefix("sqlite:///")
    with pytest.raises(sqlite3.OperationalError) as caught:
        sqlite3.connect(f"file:{tmp_path}/nowhere/x.sqlite?mode=ro", uri=True)
    assert caught.value.sqlite_errorname == "SQLITE_CANTOPEN"
    for name in (path, f"{path}.gone", os.devnull):  # in a directory that may be written, not there, and no database
        assert why_unreadable(name, caught.value) is None
    for other in (ValueError("anything"), sqlite3.OperationalError("Could not decode to UTF-8")):
        assert why_unreadable(path, other) is None
