"""read_traces: which files are read, what is an error, what is left out, and what is known from earlier imports."""

from __future__ import annotations

import datetime as dt
import gzip
import os
from pathlib import Path

import pytest

from exporttools import ConfigError, MissingExtra, TraceImportError, UnrecognisedTrace, read_traces
from exporttools.importing import reading_processes
from exporttools.loading import LoadedRuns, imported_files
from tests.importing.sessions import SessionFile, fates_of, lines_of, read, steps_of, text, tokens_by_run, used, when

FORMATS = "Claude Code, Codex, Gemini CLI, ATIF"
CODEX = lines_of({"timestamp": "2026-08-01T12:00:00Z", "type": "session_meta", "payload": {"id": "c1"}})


def session(name: str = "s1", tokens: int = 10, starts: float = 0) -> SessionFile:
    return SessionFile(name, starts=starts).prompt().answer(f"{name}-m", usage=used(tokens, 0))


# Which files


def test_a_file_a_directory_or_several(tmp_path: Path) -> None:
    one, two = session("s1", 1).write(tmp_path / "a"), session("s2", 20).write(tmp_path / "b")
    assert tokens_by_run(read_traces(one)) == tokens_by_run(read_traces(str(one))) == {"s1": 1}
    assert tokens_by_run(read_traces(tmp_path)) == {"s1": 1, "s2": 20}
    assert tokens_by_run(read_traces([one, tmp_path / "b"])) == {"s1": 1, "s2": 20}
    assert tokens_by_run(read_traces((str(two),))) == {"s2": 20}


def test_a_file_is_read_once_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = session().write(tmp_path)
    (tmp_path / "link.jsonl").symlink_to(path)
    (tmp_path / "loop").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    named = [
        path,
        tmp_path,
        "link.jsonl",
        path.parent / ".." / path.parent.name / path.name,
        path.relative_to(tmp_path),
    ]
    imported = read_traces(named)
    assert (imported.report.records, imported.report.calls) == (2, 1)
    assert imported.report.files == {"Claude Code": 1}


def test_a_hard_link_and_a_copy_are_copies(tmp_path: Path) -> None:
    path = session().write(tmp_path)
    os.link(path, tmp_path / "hard.jsonl")
    (tmp_path / "copy.jsonl").write_bytes(path.read_bytes())
    imported = read_traces(tmp_path)
    assert (imported.report.records, imported.report.calls, imported.report.usages) == (6, 1, 3)
    assert fates_of(imported) == (1, 2, 3, 0)
    assert imported.report.forks == 0


def test_an_older_copy_of_a_file_that_has_grown_changes_nothing(tmp_path: Path) -> None:
    file = session()
    for name in ("!-backup", "z-backup"):  # before and behind the other by name
        file.write(tmp_path / "together", project=name)
    file.answer("s1-m", text("more"), usage=used(10, 7)).prompt().answer("m2")
    alone, together = read(tmp_path / "alone", file), read(tmp_path / "together", file)
    assert together.trace_steps.equals(alone.trace_steps)
    assert together._digests == alone._digests


def test_packed_files(tmp_path: Path) -> None:
    (tmp_path / "s1.jsonl.gz").write_bytes(gzip.compress(session().content))
    assert read_traces(tmp_path).report.calls == 1


def test_what_is_no_session_in_a_directory_is_skipped_and_said(tmp_path: Path) -> None:
    session().write(tmp_path)
    for name, content in {
        "package.json": b"{}",
        "empty.jsonl": b"",
        "torn.jsonl.gz": b"\x1f\x8b",
        "notes.jsonl": b"hello",
    }.items():
        (tmp_path / name).write_bytes(content)
    report = read_traces(tmp_path).report
    assert [Path(path).name for path in report.skipped] == [
        "empty.jsonl",
        "notes.jsonl",
        "package.json",
        "torn.jsonl.gz",
    ]
    assert report.lines()["files"].startswith(f"1 of Claude Code; 4 skipped: {tmp_path}/empty.jsonl; ")


def test_a_directory_that_nobody_may_read_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session("s1").write(tmp_path, project="open")
    session("s2").write(tmp_path, project="closed")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert tokens_by_run(read_traces(tmp_path)) == {"s1": 10}


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    session().write(tmp_path)
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    Path(bad).write_bytes(session("s2").content)
    imported = read_traces(tmp_path)
    assert (tokens_by_run(imported), imported.report.skipped) == ({"s1": 10}, (f"{tmp_path}/�.jsonl",))
    with pytest.raises(TraceImportError, match="�.jsonl: it cannot be read: its name is not UTF-8; rename it$"):
        read_traces(bad)


def test_by_default_what_the_agents_on_this_machine_have_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME"):
        monkeypatch.delenv(name, raising=False)
    message = (
        "^no agent's sessions were found on this machine: looked for Claude Code, Codex and Gemini CLI below the home directory, "
        "CLAUDE_CONFIG_DIR and CODEX_HOME. Name a file or a directory to read$"
    )
    with pytest.raises(TraceImportError, match=message):
        read_traces()
    session().write(tmp_path / ".claude")
    session("s2").write(tmp_path / "elsewhere")
    assert tokens_by_run(read_traces()) == {"s1": 10}


# Errors


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file or directory$"):
        read_traces([session().write(tmp_path), tmp_path / "nowhere"])
    with pytest.raises(
        TraceImportError, match=f"^no sessions were found: 0 files looked at; expected sessions of {FORMATS}$"
    ):
        read_traces([])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.json").write_bytes(b"[]")
    with pytest.raises(TraceImportError, match="^no sessions were found: 1 file looked at; "):
        read_traces(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"hello world\n", r"'hello world\\n' at byte 0"),
        (b'{"a": 1}\n', r"""'\{"a": 1\}\\n' at byte 0"""),
        (b"PAR1\xff\0\x1b[31m", r"'PAR1\\xff\\x00\\x1b\[31m' at byte 0"),
        (b"x" * 5000, "'x{60}' at byte 0"),
    ],
)
def test_a_file_of_no_known_kind_says_what_was_expected_and_found(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    message = rf"/a\.jsonl: not in a known format; expected a session of {FORMATS}, found {found}$"
    with pytest.raises(UnrecognisedTrace, match=message):
        read_traces(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(session().content)[:-20])
    with pytest.raises(TraceImportError, match=r"a\.jsonl\.gz: it cannot be read: Compressed file ended before "):
        read_traces(path)


def test_one_format_only(tmp_path: Path) -> None:
    path = session().write(tmp_path)
    (tmp_path / "rollout.jsonl").write_bytes(CODEX)
    assert tokens_by_run(read_traces(tmp_path, format="claude-code")) == {"s1": 10}
    assert read_traces(tmp_path, format="codex").report.files == {"Codex": 1}
    assert read_traces(tmp_path).report.files == {"Claude Code": 1, "Codex": 1}
    with pytest.raises(UnrecognisedTrace, match="s1.jsonl: expected Codex; found Claude Code$"):
        read_traces(path, format="codex")
    message = "there is no format 'word'; expected 'auto', 'claude-code', 'codex', 'gemini-cli', 'atif'"
    with pytest.raises(ConfigError, match=message):
        read_traces(path, format="word")


def test_a_line_that_cannot_be_read_is_an_error_if_strict(tmp_path: Path) -> None:
    path = session().write(tmp_path)
    assert read_traces(path, strict=True).report.rejected == 0
    path.write_bytes(path.read_bytes() + b"[]\n" * 4 + b"{torn")
    message = (
        r"^strict: 5 records cannot be read, and nothing was imported: .*s1\.jsonl:3: expected an object; found a list; "
        r".*s1\.jsonl:4: .*; .*s1\.jsonl:5: expected an object; found a list; \.\.\.$"
    )
    with pytest.raises(TraceImportError, match=message):
        read_traces(path, strict=True)
    assert fates_of(read_traces(path)) == (1, 0, 1, 5)


def test_other_arguments_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = session().write(tmp_path)
    with pytest.raises(
        ConfigError, match=r"since is datetime.datetime\(2026, 8, 1, 0, 0\), a naive datetime; give it a time zone"
    ):
        read_traces(path, since=dt.datetime(2026, 8, 1))
    with pytest.raises(ConfigError, match="there is no incident rule 'nope'"):
        read_traces(path, incident_rules=["nope"])
    monkeypatch.setitem(__import__("sys").modules, "genai_prices", None)
    with pytest.raises(
        MissingExtra, match=r"pricing calls needs packages that are not installed: pip install 'exporttools\[prices\]'"
    ):
        read_traces(path)
    assert read_traces(path, price=False).report.calls == 1


# What is left out


def test_sessions_that_ended_earlier_are_left_out_and_counted(tmp_path: Path) -> None:
    old = session("old", 1)
    fork = old.fork("new").wait(3600).prompt().answer("m2", usage=used(20, 0))
    since = dt.datetime(2026, 8, 1, 12, 30, tzinfo=dt.UTC)
    imported = read(tmp_path, old, fork, since=since)
    assert tokens_by_run(imported) == {"new": 20}
    report = imported.report
    assert (report.sessions, report.sessions_left_out, report.calls, report.calls_left_out, report.usages) == (
        1,
        1,
        1,
        1,
        3,
    )
    assert report.lines()["calls"] == "3 usages = 1 call + 1 copy + 1 of sessions left out"
    fates_of(imported)
    late = dt.datetime(2027, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    assert len(read(tmp_path, since=late).runs) == 0
    assert len(read(tmp_path, since=dt.datetime(2026, 8, 1, 12, 0, 1, tzinfo=dt.UTC)).runs) == 2


def test_rules_and_a_budget(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m", usage=used(10**6, 0)).answer("n", usage=used(10**6, 0))
    assert len(read(tmp_path, file).incidents) == 0
    (incident,) = read(tmp_path, budget_cents=600).incidents
    assert (incident.violation_type, incident.severity, incident.id) == (
        "budget_exceeded",
        "high",
        "s1:budget_exceeded",
    )
    assert len(read(tmp_path, budget_cents=600, incident_rules=["loop"]).incidents) == 0


# What is known


def test_a_file_that_is_not_readable_any_more_is_still_known(tmp_path: Path) -> None:
    """Else what its fork has copied would be counted in both runs."""
    parent = session("s1", 1000)
    path = parent.write(tmp_path / "in")
    read_traces(tmp_path / "in").load_into(tmp_path / "a.sqlite")
    parent.fork("s2").prompt().answer("m2", usage=used(20, 0)).write(tmp_path / "in")
    path.write_bytes(b"overwritten by something else")
    imported = read_traces(tmp_path / "in", known=imported_files(tmp_path / "a.sqlite"))
    assert tokens_by_run(imported) == {"s1": 1000, "s2": 20}


def test_what_is_known_can_be_used_again_and_again(tmp_path: Path) -> None:
    read(tmp_path / "in", session(), session("s2")).load_into(tmp_path / "a.sqlite")
    known = imported_files(tmp_path / "a.sqlite")
    found = [read_traces(tmp_path / "in", known=known) for _ in range(3)]
    assert [tokens_by_run(imported) for imported in found] == [{"s1": 10, "s2": 10}] * 3
    assert found[0]._digests == found[2]._digests


# Several at a time


def test_several_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        file = session(f"s{i}", i, starts=i)
        file.write(tmp_path)
        file.fork(f"f{i}").prompt().answer(f"x{i}").write(tmp_path, project="forks")
    (tmp_path / "x.json").write_bytes(b"{}")
    here = read_traces(tmp_path)
    monkeypatch.setattr(reading_processes, "_BYTES_FOR_A_PROCESS", 1)
    monkeypatch.setattr(reading_processes, "_BYTES_AT_ONCE", 1)
    monkeypatch.setattr(reading_processes, "_processors", lambda: 2)
    there = read_traces(tmp_path)
    assert there._digests == here._digests
    assert there.trace_steps.equals(here.trace_steps)
    assert str(there.report) == str(here.report)
    (tmp_path / "bad.jsonl").write_bytes(b"")
    with pytest.raises(UnrecognisedTrace, match="bad.jsonl: not in a known format"):
        read_traces([tmp_path, tmp_path / "bad.jsonl"])


def test_a_terminal_sees_progress_and_a_pipe_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read(tmp_path, session())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    read(tmp_path, session(), progress=False)
    assert capsys.readouterr().err == ""
    assert steps_of(read(tmp_path, session()))
    assert "100%" in capsys.readouterr().err


def test_a_path_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = session().write(tmp_path / "projects")
    assert len(read_traces("~/projects").runs) == len(read_traces(f"~/{path.relative_to(tmp_path)}").runs) == 1


def test_what_is_loaded_of_shared_steps_does_not_depend_on_what_is_left_out(tmp_path: Path) -> None:
    """The original is loaded; then it is forked, the fork ends, and the original goes on: shared steps are the fork's now."""
    folder, own = tmp_path / "in", tmp_path / "own.sqlite"
    original = SessionFile("original").prompt().answer("m1", usage=used(1000, 0))
    original.write(folder)
    read_traces(folder).load_into(own)
    fork = original.fork("fork").wait(60).prompt().answer("m2", usage=used(20, 0))
    fork.write(folder)
    original.wait(7200).prompt().answer("m3", usage=used(3, 0)).write(folder)
    imported = read_traces(folder, since=when(3600), known=imported_files(own))
    assert tokens_by_run(imported) == {"original": 3}
    imported.load_into(own)
    whole = read_traces(folder)
    assert tokens_by_run(whole) == {"original": 3, "fork": 1020}
    assert whole.load_into(own) == LoadedRuns(new=0, replaced=0, unchanged=2)
