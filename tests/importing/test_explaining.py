"""The fate of each line of a session, and where what it says is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from exporttools import TraceImportError, read_traces
from exporttools.importing import explaining
from exporttools.importing.explaining import ExplainedRecord, explain_session
from exporttools.importing.file_reading import FileRead
from tests.importing.sessions import SessionFile, fates_of, lines_of, text, tool, used


def told(lines: list[ExplainedRecord]) -> list[tuple[str, str]]:
    return [(line.fate, line.says) for line in lines]


def test_each_line_says_what_it_holds_and_where_that_is_counted(tmp_path: Path) -> None:
    file = (
        SessionFile()
        .prompt()
        .answer("m1", text(), tool("t1"), text(), usage=used(10, 5))
        .result("t1", "bad", failed=True)
    )
    path = file.write(tmp_path)
    fork = file.fork("s2").prompt("more").answer("m2", usage=used(0, 1)).write(tmp_path)
    path.write_bytes(path.read_bytes() + b"\n[]\n")
    lines = explain_session("s1", tmp_path)
    assert {line.path for line in lines} == {str(path)}
    assert [line.record for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    assert told(lines) == [
        ("metadata", ""),
        ("counted", "llm_call claude-opus-4-6, 15 tokens"),
        ("counted", "llm_call claude-opus-4-6, 15 tokens: counted at line 2; tool_call Bash"),
        ("copy", "llm_call claude-opus-4-6, 15 tokens: counted at line 2"),
        ("counted", "a call failed: bad"),
        ("metadata", ""),
        ("rejected", "expected an object; found a list"),
    ]
    of_fork = explain_session("s2", [tmp_path])
    assert {line.path for line in of_fork} == {str(fork)}
    assert told(of_fork)[1] == ("copy", f"llm_call claude-opus-4-6, 15 tokens: counted at {path}:2")
    assert told(of_fork)[-1] == ("counted", "llm_call claude-opus-4-6, 1 token")


def test_a_session_s_subagents_files_are_explained_too(tmp_path: Path) -> None:
    main = SessionFile().prompt().answer("m1", tool("t1", "Task")).result("t1", said={"agentId": "a1"})
    agent = SessionFile(agent_id="a1").prompt().answer("m2", model="<synthetic>", usage=used(0, 0))
    main.progress("a1", "t1", agent.lines[1])
    paths = {str(main.write(tmp_path)), str(agent.write(tmp_path))}
    lines = explain_session("s1", tmp_path)
    assert {line.path for line in lines} == paths
    assert ("counted", "the end of a call") in told(lines)
    assert ("counted", "llm_call <synthetic>, 0 tokens; answers that the agent made up itself, without a call") in told(
        lines
    )


def test_the_fates_are_those_of_the_bill(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1", tool("t1"), text())
    path = file.write(tmp_path)
    path.write_bytes(path.read_bytes() + b"1\n{" + lines_of({"type": "x", "sessionId": "s1"}))
    counts = Counter(line.fate for line in explain_session("s1", path))
    names = ("counted", "copy", "metadata", "rejected")
    assert tuple(counts[name] for name in names) == fates_of(read_traces(path))


def test_a_session_that_no_file_has(tmp_path: Path) -> None:
    path = SessionFile().prompt().write(tmp_path)
    with pytest.raises(TraceImportError, match=r"^no file has a session 's9.x1b'; 1 session found$"):
        explain_session("s9\x1b", path)


def test_lines_that_are_written_meanwhile_are_left_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SessionFile().prompt().answer("m1")
    path = file.write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])  # it is being written
    read = explaining.read_sources

    def grown(*paths: object, **options: object) -> list[FileRead]:
        found = read(*paths, **options)  # type: ignore[arg-type]
        path.write_bytes(whole + file.answer("m2", tool("t1")).content)
        return found

    monkeypatch.setattr(explaining, "read_sources", grown)
    assert told(explain_session("s1", path)) == [
        ("metadata", ""), ("rejected", "not valid JSON: the file ends in the middle of it"),
    ]  # fmt: skip
