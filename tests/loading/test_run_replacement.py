"""Imported runs in a database: written once, replaced whole, never over anybody else's rows; on both databases."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from exporttools import ConfigError, ExportBundleStore, ImportedTraces, InconsistentData, StoreError, read_traces
from exporttools.importing.tables import SCHEMAS
from exporttools.loading import ImportedFile, LoadedRuns, imported_files, load_runs, load_tables
from exporttools.records.schema import RECORD_TYPES
from tests.databases import create_native, one_of_each, run, run_sql, stored
from tests.importing.sessions import SessionFile, read, tool, used

TABLES = {"incidents": "id", "runs": "run_id", "traces": "trace_id", "trace_steps": "trace_id, step_index"}
BOOKS = {"import_runs": "run_id", "import_files": "path"}
NAMES = ("s1", "it's 100%", "back\\slash", "C:\\x\\", "a:b $1 {c} %s ?", "ünïcode 🦜", "--", "x'); DROP TABLE runs; --")


def a_session(session_id: str = "s1", starts: float = 0) -> SessionFile:
    """A session with a failed tool, so that all four tables have a row of it."""
    file = SessionFile(session_id, starts=starts).prompt().answer(f"{session_id}-1", tool(f"{session_id}-t"))
    return file.result(f"{session_id}-t", "no such file", failed=True)


def rows_at(url: str) -> dict[str, list[dict[str, Any]]]:
    return {table: stored(url, table, order) for table, order in (TABLES | BOOKS).items()}


def sizes(url: str) -> dict[str, int]:
    return {table: len(rows) for table, rows in rows_at(url).items()}


def again(directory: Path, url: str, **options: Any) -> ImportedTraces:
    """What a later import reads: with what was kept of those before."""
    return read_traces(directory, known=imported_files(url), **options)


def test_the_rows_are_those_of_the_tables(fresh_url: str, tmp_path: Path) -> None:
    imported = read(tmp_path, a_session(), a_session("s2", starts=50))
    assert imported.load_into(fresh_url) == LoadedRuns(new=2, replaced=0, unchanged=0)
    assert sizes(fresh_url) == {
        "incidents": 2, "runs": 2, "traces": 2, "trace_steps": 4, "import_runs": 2, "import_files": 2,
    }  # fmt: skip
    for table, order in TABLES.items():
        expected = sorted(
            imported._stored[table].to_pylist(), key=lambda row: [row[name] for name in order.split(", ")]
        )
        assert stored(fresh_url, table, order) == expected
    store = ExportBundleStore(fresh_url)
    ours, theirs = imported.get_export_bundle("s1"), store.get_export_bundle(run_id="s1")
    assert ours is not None
    assert theirs is not None
    assert ours.content_digest == theirs.content_digest
    assert imported.get_export_bundle("s1:step_error").incident == store.get_incident("s1:step_error")  # type: ignore[union-attr]


def test_tables_are_as_load_tables_makes_them(fresh_url: str, tmp_path: Path) -> None:
    """An import into tables that a load has made, empty ones and those with rows of others."""
    load_tables(fresh_url, [(table, schema.empty_table()) for table, schema in SCHEMAS.items()])
    read(tmp_path, a_session()).load_into(fresh_url)
    assert sizes(fresh_url)["trace_steps"] == 2


def test_the_same_files_twice_change_nothing(fresh_url: str, tmp_path: Path) -> None:
    imported = read(tmp_path, a_session(), a_session("s2"))
    imported.load_into(fresh_url)
    before = rows_at(fresh_url)
    assert imported.load_into(fresh_url) == LoadedRuns(new=0, replaced=0, unchanged=2)
    assert rows_at(fresh_url) == before
    assert again(tmp_path, fresh_url).load_into(fresh_url) == LoadedRuns(new=0, replaced=0, unchanged=2)
    assert rows_at(fresh_url) == before


def test_a_session_that_has_grown_is_replaced_whole(fresh_url: str, tmp_path: Path) -> None:
    file = a_session()
    read(tmp_path, file, a_session("s2")).load_into(fresh_url)
    before = rows_at(fresh_url)
    file.prompt("more").answer("more")
    imported = read(tmp_path, file)
    assert imported.load_into(fresh_url) == LoadedRuns(new=0, replaced=1, unchanged=1)
    after = rows_at(fresh_url)
    assert [row["step_index"] for row in after["trace_steps"] if row["trace_id"] == "s1"] == [0, 1, 2]
    for table, rows in before.items():
        kept = [row for row in rows if "s2" in str(row)]
        assert [row for row in after[table] if "s2" in str(row)] == kept
    imported.load_into(str(fresh_url))
    assert rows_at(fresh_url) == after


def test_a_run_that_has_shrunk_leaves_no_step_behind(fresh_url: str, tmp_path: Path) -> None:
    file = a_session()
    read(tmp_path, file).load_into(fresh_url)
    file.lines = file.lines[:1]
    assert read(tmp_path, file).load_into(fresh_url) == LoadedRuns(new=0, replaced=1, unchanged=0)
    assert sizes(fresh_url) == {
        "incidents": 0, "runs": 1, "traces": 1, "trace_steps": 0, "import_runs": 1, "import_files": 1,
    }  # fmt: skip


def test_other_rules_and_prices_replace_runs_too(fresh_url: str, tmp_path: Path) -> None:
    read(tmp_path, a_session()).load_into(fresh_url)
    assert again(tmp_path, fresh_url, incident_rules=["loop"]).load_into(fresh_url).replaced == 1
    assert sizes(fresh_url)["incidents"] == 0
    assert again(tmp_path, fresh_url, incident_rules=["loop"], price=False).load_into(fresh_url).replaced == 1


def test_a_fork_finds_what_it_has_copied_after_its_parent_s_file_was_deleted(fresh_url: str, tmp_path: Path) -> None:
    parent = SessionFile().prompt().answer("msg_1", usage=used(1000, 0))
    path = parent.write(tmp_path)
    read_traces(tmp_path).load_into(fresh_url)
    path.unlink()
    parent.fork("s2").prompt("on").answer("msg_2", usage=used(20, 0)).write(tmp_path)
    imported = again(tmp_path, fresh_url)
    assert imported.load_into(fresh_url) == LoadedRuns(new=1, replaced=0, unchanged=1)
    steps = stored(fresh_url, "trace_steps", "trace_id, step_index")
    assert [(row["trace_id"], row["tokens"]) for row in steps] == [("s1", 1000), ("s2", 20)]
    assert imported.report.tokens["input_tokens"] == 1020
    assert read_traces(tmp_path).report.tokens["input_tokens"] == 1020  # what a fresh import would find: the fork alone


def test_a_parent_that_is_found_later_takes_its_steps_from_the_fork(fresh_url: str, tmp_path: Path) -> None:
    parent = SessionFile().prompt().answer("msg_1", usage=used(1000, 0))
    fork = parent.fork("s2").prompt("on").answer("msg_2", usage=used(20, 0))
    read(tmp_path, fork).load_into(fresh_url)
    parent.write(tmp_path)
    assert again(tmp_path, fresh_url).load_into(fresh_url) == LoadedRuns(new=1, replaced=1, unchanged=0)
    steps = stored(fresh_url, "trace_steps", "trace_id, step_index")
    assert [(row["trace_id"], row["step_index"], row["tokens"]) for row in steps] == [("s1", 0, 1000), ("s2", 0, 20)]


def test_files_of_elsewhere_stay_known(fresh_url: str, tmp_path: Path) -> None:
    read(tmp_path / "here", a_session()).load_into(fresh_url)
    a_session("s2").write(tmp_path / "there")
    assert again(tmp_path / "there", fresh_url).load_into(fresh_url) == LoadedRuns(new=1, replaced=0, unchanged=1)
    assert {Path(row["path"]).name for row in stored(fresh_url, "import_files", "path")} == {"s1.jsonl", "s2.jsonl"}


def test_unchanged_files_are_not_read_again(fresh_url: str, tmp_path: Path) -> None:
    path = a_session().write(tmp_path)
    read_traces(tmp_path).load_into(fresh_url)
    about = path.stat()
    path.write_bytes(b"x" * about.st_size)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert again(tmp_path, fresh_url).report.calls == 1


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_paths_of_any_text(fresh_url: str, tmp_path: Path, name: str) -> None:
    file = a_session(name)
    path = tmp_path / "in" / (name.replace("/", "-") + ".jsonl")
    path.parent.mkdir()
    for _ in range(2):
        path.write_bytes(file.content)
        loaded = again(path, fresh_url).load_into(fresh_url)
        file.prompt("more").answer("more")
    assert loaded == LoadedRuns(new=0, replaced=1, unchanged=0)
    assert [row["run_id"] for row in stored(fresh_url, "runs", "run_id")] == [name]
    assert [row["path"] for row in stored(fresh_url, "import_files", "path")] == [str(path)]


def test_many_runs_are_replaced_at_once(fresh_url: str, tmp_path: Path) -> None:
    lines = [a_session(f"s{i}") for i in range(1100)]
    path = tmp_path / "all.jsonl"
    path.write_bytes(b"".join(file.content for file in lines))
    read_traces(path).load_into(fresh_url)
    path.write_bytes(b"".join(file.prompt().content for file in lines))
    assert read_traces(path).load_into(fresh_url) == LoadedRuns(new=0, replaced=1100, unchanged=0)
    assert sizes(fresh_url)["trace_steps"] == 2200


# Rows of others, failures


def test_a_run_of_somebody_else_s_is_refused(fresh_url: str, tmp_path: Path) -> None:
    load_tables(fresh_url, [(table, schema.empty_table()) for table, schema in SCHEMAS.items()])
    run_sql(fresh_url, "INSERT INTO runs (run_id, tenant_id, goal) VALUES ('s1', 'local', 'mine')")
    message = (
        "the table runs already has a run 's1' of tenant 'local' that was not imported; import into another database. "
        "Nothing was written."
    )
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, a_session(), a_session("s0")).load_into(fresh_url)
    assert [row["goal"] for row in stored(fresh_url, "runs", "run_id")] == ["mine"]


def test_a_run_of_another_tenant_s_is_left_as_it_is(fresh_url: str, tmp_path: Path) -> None:
    load_tables(fresh_url, [(table, schema.empty_table()) for table, schema in SCHEMAS.items()])
    run_sql(fresh_url, "INSERT INTO runs (run_id, tenant_id, goal) VALUES ('s1', 'acme', 'theirs')")
    run_sql(fresh_url, "INSERT INTO runs (run_id, tenant_id, goal) VALUES ('r1', 'acme', 'theirs')")
    with pytest.raises(StoreError, match=r"unique|UNIQUE"):
        read(tmp_path, a_session()).load_into(fresh_url)
    read(tmp_path / "other", a_session("s2")).load_into(fresh_url)
    assert [row["goal"] for row in stored(fresh_url, "runs", "run_id")] == ["theirs", "theirs", "do it"]


def test_tables_that_lack_columns_are_refused(fresh_url: str, tmp_path: Path) -> None:
    create_native(fresh_url, one_of_each())
    message = r"the existing table incidents has no column|the existing table runs has no column source_format, .*Nothing was written"
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, a_session()).load_into(fresh_url)
    assert [row["run_id"] for row in stored(fresh_url, "runs", "run_id")] == [run()["run_id"]]


def test_a_load_that_fails_in_the_middle_leaves_everything_as_it_was(
    fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_session()
    read(tmp_path, file).load_into(fresh_url)
    before = rows_at(fresh_url)
    imported = read(tmp_path, file.prompt().answer("more"), a_session("s2"))
    for table in (*RECORD_TYPES, "import_runs", "import_files"):
        _fail_at(monkeypatch, table)
        with pytest.raises(RuntimeError, match="broke"):
            imported.load_into(fresh_url)
        monkeypatch.undo()
        assert rows_at(fresh_url) == before
    assert imported.load_into(fresh_url) == LoadedRuns(new=1, replaced=1, unchanged=0)


def _fail_at(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    from exporttools.loading import targets

    for kind in (targets._Sqlite, targets._Postgresql):
        append = kind.append

        def broken(self: Any, name: str, rows: Any, append: Any = append) -> None:
            append(self, name, rows)
            if name == table:
                raise RuntimeError("broke")

        monkeypatch.setattr(kind, "append", broken)


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_a_kill_in_the_middle_leaves_nothing(fresh_url: str, tmp_path: Path, there: bool) -> None:
    if there:
        read(tmp_path / "before", a_session("s0")).load_into(fresh_url)
    a_session().write(tmp_path / "in")
    code = f"""
        import sys
        from exporttools import read_traces
        from exporttools.loading import targets
        for kind in (targets._Sqlite, targets._Postgresql):
            def stopping(self, table, rows, append=kind.append):
                append(self, table, rows)
                if table == "import_runs":
                    print("written", flush=True)
                    sys.stdin.read()
            kind.append = stopping
        read_traces({str(tmp_path / "in")!r}).load_into({fresh_url!r})
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    timer = threading.Timer(60, process.kill)
    timer.start()
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    timer.cancel()
    process.stdin.close()
    process.stdout.close()
    if there:
        assert [row["run_id"] for row in stored(fresh_url, "runs", "run_id")] == ["s0"]
    elif fresh_url.startswith("sqlite"):
        assert not Path(str(make_url(fresh_url).database)).exists()
    assert again(tmp_path / "in", fresh_url).load_into(fresh_url).new == 1


# What was kept


def test_files_that_were_imported(fresh_url: str, tmp_path: Path) -> None:
    assert imported_files(fresh_url) == []
    if fresh_url.startswith("sqlite"):
        assert not Path(str(make_url(fresh_url).database)).exists()
    run_sql(fresh_url, "CREATE TABLE mine (x text)")
    assert imported_files(fresh_url) == []
    path = a_session().write(tmp_path)
    read_traces(tmp_path).load_into(fresh_url)
    (file,) = imported_files(fresh_url)
    assert (file.path, file.size_bytes, file.mtime_ns) == (str(path), path.stat().st_size, path.stat().st_mtime_ns)
    assert isinstance(file, ImportedFile)
    assert isinstance(file.content, bytes)


@pytest.mark.parametrize("change", ["content = 'text'", "size_bytes = 'many'", "mtime_ns = 1.5", "path = x'ff'"])
def test_bookkeeping_of_other_types_is_refused(tmp_path: Path, change: str) -> None:
    """SQLite takes anything in any column."""
    url = f"sqlite:///{tmp_path}/a.sqlite"
    read(tmp_path / "in", a_session()).load_into(url)
    run_sql(url, f"UPDATE import_files SET {change}")
    message = (
        r"^import_files: the row of .* has a value of another type than its column\. Delete it to read that file again$"
    )
    with pytest.raises(InconsistentData, match=message):
        imported_files(url)


def test_a_copy_of_the_database_s_directory_is_of_its_own(tmp_path: Path) -> None:
    """Bookkeeping lies in the database that it is of."""
    url = tmp_path / "a.sqlite"
    imported = read(tmp_path / "in", a_session())
    imported.load_into(url)
    shutil.copy(url, tmp_path / "b.sqlite")
    assert imported.load_into(tmp_path / "b.sqlite").unchanged == 1
    assert imported.load_into(tmp_path / "c.sqlite").new == 1


def test_no_runs_at_all_make_empty_tables(fresh_url: str) -> None:
    empty = {table: schema.empty_table() for table, schema in SCHEMAS.items()}
    assert load_runs(fresh_url, empty, {}, [], tenant_id="local") == LoadedRuns(0, 0, 0)
    assert set(sizes(fresh_url).values()) == {0}
