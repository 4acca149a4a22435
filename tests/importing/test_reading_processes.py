"""Processes that read files: the same as read here, errors that come back as they are, and no process that is waited for in vain."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from exporttools import TraceImportError, UnrecognisedTrace, read_traces
from exporttools.importing import reading_processes
from exporttools.importing.file_extracts import Extract
from exporttools.importing.reading_processes import Found, read_files
from exporttools.importing.source_files import SourceFile, files_below
from tests.importing.sessions import SessionFile, tool

SESSIONS = 12


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "projects" / "ünï 🦜"
    folder.mkdir(parents=True)
    for i in range(SESSIONS):
        file = SessionFile(f"s{i}").prompt(f"do {i}").answer(f"m{i}", tool(f"t{i}")).result(f"t{i}", failed=i == 3)
        (folder / f"s{i}.jsonl").write_bytes(file.content + b"{torn" * (i == 4))
    (folder / "other.json").write_text('{"neither": 1}')
    return folder


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Two processes for the smallest import, three files at a time; those that were started."""
    monkeypatch.setattr(reading_processes, "_BYTES_FOR_A_PROCESS", 1)
    monkeypatch.setattr(reading_processes, "_BYTES_AT_ONCE", 3_000)
    monkeypatch.setattr(reading_processes, "_processors", lambda: 2)
    started: list[subprocess.Popen[bytes]] = []
    start = reading_processes._started

    def noted() -> subprocess.Popen[bytes] | None:
        process = start()
        if process is not None:
            started.append(process)
        return process

    monkeypatch.setattr(reading_processes, "_started", noted)
    return started


def files(directory: Path) -> list[Found]:
    return [(file, False) for file in files_below(directory)]


def extracts(directory: Path) -> dict[str, Extract | None]:
    found = {file.path.name: extract for file, extract in read_files(files(directory), None)}
    assert len(found) == SESSIONS + 1
    return found


def same(extract: Extract | None) -> object:
    return extract and (extract.content, sorted(extract.links), extract.started, extract.working, extract.starts)


def test_they_read_what_is_read_here(directory: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    by_processes = extracts(directory)
    assert len(processes) == 2
    assert [process.returncode for process in processes] == [0, 0]
    reading_processes._BYTES_FOR_A_PROCESS = 1 << 30
    here = extracts(directory)
    assert len(processes) == 2
    assert {name: same(extract) for name, extract in by_processes.items()} == {n: same(e) for n, e in here.items()}
    assert here["other.json"] is None


def test_an_import_is_the_same(directory: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    by_processes = read_traces(directory, progress=False)
    reading_processes._BYTES_FOR_A_PROCESS = 1 << 30
    here = read_traces(directory, progress=False)
    assert len(processes) == 2
    assert by_processes.trace_steps.equals(here.trace_steps)
    assert by_processes.report.to_dict() == here.report.to_dict()
    assert here.report.rejected == 1


def test_small_imports_start_none(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_processes, "_processors", lambda: 64)
    monkeypatch.setattr(reading_processes, "_started", lambda: pytest.fail("a process was started"))
    extracts(directory)


def test_errors_of_files_that_were_named_come_back(directory: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(
        UnrecognisedTrace, match=r"other.json: not in a known format; .*'\{\"neither\": 1\}' at byte 0$"
    ):
        list(read_files([(file, True) for file, _ in files(directory)], None))
    gone = SourceFile(directory / "gone.jsonl", 9, 9)
    with pytest.raises(TraceImportError, match=r"gone.jsonl: it cannot be read: No such file or directory$"):
        list(read_files([*files(directory), (gone, True)], None))
    assert len(processes) == 4
    assert all(process.poll() is not None for process in processes)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_one_that_is_killed_is_an_error(
    directory: Path, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = reading_processes._started

    def killed() -> subprocess.Popen[bytes] | None:
        process = start()
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return process

    monkeypatch.setattr(reading_processes, "_started", killed)
    with pytest.raises(TraceImportError) as caught:
        read_traces(directory, progress=False)
    assert re.fullmatch(
        r".*\.jsonl: the process that was reading it has ended, with exit code -9, and nothing was imported; expected an "
        r"answer\. Is there enough memory\?",
        str(caught.value),
    )
    assert all(process.poll() is not None for process in processes)


def test_one_that_ends_in_the_middle_of_an_answer_is_an_error(
    directory: Path, processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = "import sys; sys.stdout.write('ready to read files\\n[null,[[],[],[],{}],9]\\nfour'); sys.stdout.flush()"
    monkeypatch.setattr(reading_processes, "_MAIN", torn)
    with pytest.raises(TraceImportError, match="the process that was reading it has ended, with exit code"):
        list(read_files(files(directory), None))


@pytest.mark.parametrize(
    ("executable", "main"),
    [("", None), ("/usr/bin/uwsgi", None), ("/no/such/python", None), (sys.executable, "raise SystemExit(3)")],
)
def test_where_none_can_be_started_files_are_read_here(
    directory: Path,
    processes: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    executable: str,
    main: str | None,
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    if main is not None:
        monkeypatch.setattr(reading_processes, "_MAIN", main)
    assert sum(extract is not None for extract in extracts(directory).values()) == SESSIONS
    assert not processes


def test_whoever_stops_taking_results_leaves_none_running(
    directory: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    results = read_files(files(directory), None)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert all(process.poll() is not None for process in processes)


def test_a_script_is_not_run_again(directory: Path, tmp_path: Path) -> None:
    """As it would be by a pool of ``multiprocessing``, which imports the main module; this one guards nothing."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from exporttools import read_traces\n"
        "from exporttools.importing import reading_processes\n"
        "reading_processes._BYTES_FOR_A_PROCESS = 1\n"
        "reading_processes._processors = lambda: 2\n"
        f"print(read_traces({str(directory)!r}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["once", f"<ImportedTraces: {SESSIONS} runs, {2 * SESSIONS} steps, 1 incidents>"]
    assert done.stderr == ""


def test_they_need_little() -> None:
    """Each of them has a memory of its own."""
    code = "import sys; from exporttools.importing.file_extracts import main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "pandas", "numpy", "sqlalchemy", "tqdm", "genai_prices"} & set(done.stdout.split())
