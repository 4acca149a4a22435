"""The sample that is there when no database is named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporttools import embedded
from exporttools.embedded import default_database_url, embedded_database
from exporttools.errors import ConfigError, StoreError
from exporttools.resources import resource


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, yet to be made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "exporttools"


def row_counts(path: Path, tables: list[str]) -> dict[str, int]:
    connection = sqlite3.connect(path)
    counts = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    connection.close()
    return counts


def test_it_holds_the_sample_and_is_made_once(cache: Path, sample: dict[str, pa.Table]) -> None:
    path = embedded_database()
    assert path.parent == cache
    assert row_counts(path, list(sample)) == {table: rows.num_rows for table, rows in sample.items()}
    made = path.stat()
    assert embedded_database() == path
    assert path.stat().st_mtime_ns == made.st_mtime_ns
    assert list(cache.iterdir()) == [path]


def test_another_sample_is_another_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embedded_database()
    other = shutil.copytree(resource("data/sample"), tmp_path / "other")
    pq.write_table(pq.read_table(other / "incidents.parquet").slice(0, 5), other / "incidents.parquet")
    monkeypatch.setattr(embedded, "resource", lambda name: other)
    second = embedded_database()
    assert second.name != first.name
    assert (row_counts(first, ["incidents"]), row_counts(second, ["incidents"])) == ({"incidents": 8}, {"incidents": 5})


def test_many_processes_at_once_get_one_whole_file(cache: Path) -> None:
    code = "from exporttools.embedded import embedded_database; print(embedded_database())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [(*process.communicate(), process.returncode) for process in started]
    (path,) = {Path(out.strip()) for out, _, _ in results}
    assert [(err, code) for _, err, code in results] == [("", 0)] * 4
    assert row_counts(path, ["runs"]) == {"runs": 300}
    assert list(cache.iterdir()) == [path]


def test_one_that_another_process_finished_first_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_too_late(path: Path, batches: object) -> None:
        path.write_bytes(b"the other's")
        raise StoreError("locked")

    monkeypatch.setattr(embedded, "load_tables", load_too_late)
    assert embedded_database().read_bytes() == b"the other's"


def test_a_cache_that_cannot_be_made_is_named_with_what_to_do(cache: Path) -> None:
    cache.parent.write_text("a file, where a directory is needed")
    with pytest.raises(ConfigError) as caught:
        embedded_database()
    message = str(caught.value)
    assert message.startswith(f"the embedded sample database cannot be made in {cache}: ")
    assert message.endswith(
        "Set XDG_CACHE_HOME to a directory that can be written, or EXPORTTOOLS_DATABASE_URL to your own database."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_may_not_be_written_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o500)
    with pytest.raises(ConfigError, match="cannot be made in"):
        embedded_database()


def test_the_default_is_the_database_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", "postgresql://reader@db.internal/agents")
    assert default_database_url() == ("postgresql://reader@db.internal/agents", False)


@pytest.mark.parametrize("value", [None, ""])
def test_the_default_is_the_sample_where_none_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("EXPORTTOOLS_DATABASE_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("EXPORTTOOLS_DATABASE_URL", value)
    url, is_embedded = default_database_url()
    assert (url, is_embedded) == (f"sqlite:///{embedded_database()}", True)
