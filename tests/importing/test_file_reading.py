"""One file: which format it is in, and what its events add up to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporttools import UnrecognisedTrace
from exporttools.importing.events import End, Fate, Note, Rejected, Repeated, Session, Started, Step, Usage
from exporttools.importing.file_reading import FORMATS, FileRead, merged, read_file
from exporttools.importing.source_files import SourceFile
from tests.importing.sessions import SessionFile, lines_of, text, tool

SOURCE = SourceFile(Path("/x.jsonl"), 0, 0)
CLAUDE = {"type": "user", "sessionId": "s1"}
CODEX = {"timestamp": "2026-08-01T12:00:00Z", "type": "session_meta", "payload": {"id": "x"}}
GEMINI = {"sessionId": "x", "projectHash": "f", "startTime": "2026-08-01T12:00:00Z", "messages": []}
ATIF = {"schema_version": "ATIF-v1.4", "session_id": "x", "agent": {"name": "a"}, "steps": []}


def read(tmp_path: Path, content: bytes, name: str = "a.jsonl") -> FileRead | None:
    path = tmp_path / name
    path.write_bytes(content)
    return read_file(SourceFile.at(path))


def step(record: int = 1, key: str = "k", tokens: int = 10, **more: object) -> Step:
    values = {"session_id": "s1", "step_type": "llm_call", "start_us": 5, "end_us": 9, "usage": Usage(tokens)} | more
    return Step(record, key, **values)  # type: ignore[arg-type]


def added(*events: object) -> FileRead:
    found = FileRead(SOURCE, "claude-code")
    for event in events:
        found.add(event)  # type: ignore[arg-type]
    return found


# Which format


@pytest.mark.parametrize(
    ("content", "name", "is_document"),
    [
        (lines_of(CLAUDE), "claude-code", False),
        (b"\xef\xbb\xbf" + lines_of(CLAUDE), "claude-code", False),
        (b"\n\n\0\0\n" + lines_of(CLAUDE), "claude-code", False),
        (b"{torn\n[1]\n7\n" + lines_of({}, CLAUDE), "claude-code", False),
        (lines_of(*[{}] * 39, CLAUDE), "claude-code", False),
        (lines_of(CLAUDE)[:-1], "claude-code", False),
        (lines_of(CODEX), "codex", False),
        (lines_of(GEMINI), "gemini-cli", True),
        (json.dumps(GEMINI, indent=2).encode(), "gemini-cli", True),
        (json.dumps(ATIF, indent=1).encode(), "atif", True),
        (b"\xef\xbb\xbf \n" + json.dumps(ATIF, indent=1).encode(), "atif", True),
    ],
)
def test_a_file_is_of_the_format_that_its_first_lines_are_of(
    tmp_path: Path, content: bytes, name: str, is_document: bool
) -> None:
    found = read(tmp_path, content)
    assert found is not None
    assert (found.format, found.is_document) == (name, is_document)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n\n", b"{}\n", b"[]", b"hello\n", b"\0" * 5000, b"PAR1\xff\xfe", b"{" * 5000, b'{"a": ' * 100_000,
        lines_of(*[{}] * 40, CLAUDE),
        lines_of([CLAUDE]),
        json.dumps(CLAUDE, indent=1).encode(),
        json.dumps(CLAUDE).encode("utf-16"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_of_no_format(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) is None


def test_a_first_line_that_holds_pictures_may_be_long(tmp_path: Path) -> None:
    file = SessionFile().prompt([{"type": "image", "source": {"data": "x" * (3 << 20)}}]).answer()
    found = read(tmp_path, file.content)
    assert found is not None
    assert (found.records, len(found.steps)) == (2, 1)


def test_a_file_of_another_format_than_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines_of(CLAUDE))
    assert read_file(SourceFile.at(path), "claude-code") is not None
    with pytest.raises(UnrecognisedTrace, match=r"a\.jsonl: expected Codex; found Claude Code$"):
        read_file(SourceFile.at(path), "codex")


def test_formats_by_what_users_type() -> None:
    assert {name: format_.title for name, format_ in FORMATS.items()} == {
        "claude-code": "Claude Code", "codex": "Codex", "gemini-cli": "Gemini CLI", "atif": "ATIF",
    }  # fmt: skip


# Records


def test_each_record_has_a_fate(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1", text(), text(), tool("t1")).result("t1")
    found = read(tmp_path, file.content + b"[7]\n\n" + lines_of({"type": "x", "sessionId": "s1"}) + b'{"type": "assis')
    assert found is not None
    assert [Fate(fate).name for fate in found.fates] == [
        "METADATA", "COPY", "COPY", "COPY", "METADATA", "REJECTED", "METADATA", "METADATA", "REJECTED",
    ]  # fmt: skip
    assert (found.records, found.blank, found.usages) == (8, 1, 3)
    assert [r.record for r in found.rejected] == [6, 9]


def test_lines_that_cannot_be_read_all_have_their_fate(tmp_path: Path) -> None:
    found = read(tmp_path, lines_of(CLAUDE) + b"1\n" * 3000)
    assert found is not None
    assert found.fates.count(Fate.REJECTED) == 3000
    assert len(found.rejected) == 1000


def test_a_record_keeps_its_greatest_fate() -> None:
    found = FileRead(SOURCE, "claude-code")
    for record, fate in ((3, Fate.COPY), (3, Fate.METADATA), (1, Fate.COUNTED), (1, Fate.COPY), (5, Fate.METADATA)):
        found.fate(record, fate)
    assert list(found.fates) == [2, 0, 1, 0, 0]


# What a file's events add up to


def test_lines_of_one_step_are_one_step() -> None:
    first, second = (
        step(1, start_us=5, end_us=9, content_hash="a"),
        step(2, tokens=30, start_us=3, end_us=20, content_hash="b"),
    )
    found = added(first, second)
    (one,) = found.steps.values()
    assert (one.record, one.start_us, one.end_us, one.usage) == (1, 3, 20, Usage(30))
    assert one.content_hash not in ("a", "b", None)
    assert found.usages == 2


@pytest.mark.parametrize(("ranks", "record"), [((0, 2), 1), ((2, 0), 2), ((1, 2), 1), ((2, 2), 1)])
def test_the_copy_of_least_rank_is_the_step(ranks: tuple[int, int], record: int) -> None:
    found = added(step(1, tokens=10, rank=ranks[0]), step(2, tokens=99, rank=ranks[1]))
    (one,) = found.steps.values()
    assert (one.record, one.rank, one.usage) == (record, min(ranks), Usage(99))


def test_of_two_usages_the_greater_counts_and_the_first_of_equal_ones() -> None:
    read_, written = Usage(10, 5, cache_read_tokens=10), Usage(10, 5)
    assert added(step(1, usage=read_), step(2, usage=written)).steps["k"].usage is read_
    assert added(step(1, usage=None), step(2, usage=Usage())).steps["k"].usage == Usage()


def test_a_step_is_whole_if_one_copy_is() -> None:
    assert not added(step(1, is_lower_bound=True), step(2)).steps["k"].is_lower_bound
    assert added(step(1, is_lower_bound=True), step(2, is_lower_bound=True)).steps["k"].is_lower_bound


def test_other_events() -> None:
    found = added(
        End(1, "t", 7, "ok"), End(2, "t", 9, "error"),
        Started("t", "a"), Started("u", "a"),
        Repeated(4),
        Note(1, "odd things", 2, key="k"), Note(2, "odd things", 1, key="k"), Note(3, "odd things"), Note(3, "odd things"),
        Rejected(5, "because"),
    )  # fmt: skip
    assert found.ends == {"t": End(1, "t", 7, "ok")}
    assert found.started == {"a": "t"}
    assert found.fates[3] == Fate.COPY
    assert found.notes == {("odd things", "k"): 2, ("odd things", "/x.jsonl:3"): 1}
    assert found.rejected == [Rejected(5, "because")]


# What files say of a session


def test_a_session_s_own_file_goes_first_and_the_earliest_time_counts() -> None:
    main = Session("s", 50, 60, "main", "goal", "error", cwd="/m")
    agent = Session(
        "s", 10, 90, "agent", "look", "user_abort", is_main=False, cwd="/a", git_branch="b", agent_version="1"
    )
    for one, other in ((main, agent), (agent, main)):
        assert merged(one, other) == Session(
            "s", 10, 90, "main", "goal", "error", cwd="/m", git_branch="b", agent_version="1"
        )
    silent = Session("s", is_main=True)
    assert merged(silent, agent) == Session("s", 10, 90, "agent", "look", None, True, None, "/a", "b", "1")
    assert merged(agent, agent) == agent
    assert merged(Session("s"), Session("s")) == Session("s")


def test_of_two_files_of_a_session_s_own_the_earlier_goes_first() -> None:
    early, late = Session("s", 10, 20, goal="first"), Session("s", 15, 30, goal="second")
    assert merged(late, early).goal == merged(early, late).goal == "first"
