"""Files that belong together are resolved together, and whatever the families are, the answer is that of all files at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporttools.importing.events import End, Note, Session, Started, Step, Usage
from exporttools.importing.file_archive import FileArchive, FileTally
from exporttools.importing.file_extracts import Extract
from exporttools.importing.file_reading import FileRead
from exporttools.importing.resolving import SessionSteps, resolve
from exporttools.importing.source_files import SourceFile


def file(name: str, *events: Session | Step | End | Started | Note) -> FileRead:
    read = FileRead(SourceFile(Path(f"/{name}.jsonl"), 1, 1), "claude-code")
    for event in events:
        read.add(event)
    read.fates.extend(bytes(9 - len(read.fates)))
    return read


def call(session_id: str, key: str, tokens: int = 1, **more: object) -> Step:
    return Step(1, key, session_id, "llm_call", 10, usage=Usage(tokens), **more)  # type: ignore[arg-type]


FILES = {
    "alone": lambda: [file("a", Session("s1", 5, 9), call("s1", "k1"))],
    "two sessions": lambda: [
        file("a", Session("s1", 5, 9), call("s1", "k1")),
        file("b", Session("s2", 4, 9), call("s2", "k2")),
    ],
    "a session in two files": lambda: [
        file("a", Session("s1", 5, 9), call("s1", "k1"), Started("k1", "helper")),
        file("b", Session("s1", 4, 9, is_main=False), call("s1", "k2", agent="helper")),
    ],
    "a fork": lambda: [
        file("a", Session("s1", 5, 9), call("s1", "k1", 3), Note(1, "oddities", 2, "k1")),
        file("b", Session("s2", 1, 11), call("s2", "k1", 4), call("s2", "k2"), Note(1, "oddities", 2, "k1")),
    ],
    "an end elsewhere": lambda: [
        file("a", Session("s1", 5, 9), call("s1", "k1")),
        file("b", Session("s2", 6, 9), End(2, "k1", 12, "error", "no")),
    ],
    "an agent with a session of its own": lambda: [
        file("a", Session("s1", 5, 9), call("s1", "k1"), Started("k1", "helper")),
        file("b", Session("s2", 6, 9), call("s2", "k2", agent="helper/deep")),
    ],
    "an agent that is lost": lambda: [
        file("a", Session("s1", 5, 9), call("s1", "k1"), Started("k1", "helper")),
        file("b", Session("s2", 6, 9), call("s2", "k2", agent="another")),
    ],
    "agents of one name": lambda: [
        file(f"a{i}", Session(f"s{i}", i, 9), call(f"s{i}", f"k{i}"), Started(f"k{i}", "helper"),
             call(f"s{i}", f"sub{i}", agent="helper")) for i in range(5)
    ],
    "a chain": lambda: [
        file(f"a{i}", Session(f"s{i}", 100 - i, 9 + i), call(f"s{i}", f"k{i}"), call(f"s{i}", f"k{i + 1}")) for i in range(9)
    ],
    "without a session": lambda: [file("a"), file("b", Session("s1", None, None))],
    "nothing": list,
}  # fmt: skip


def archived(reads: list[FileRead], *, with_reads: bool) -> tuple[list[SessionSteps], FileTally]:
    archive, tally = FileArchive(), FileTally()
    for read in reads:
        archive.add(read.source, Extract.of(read, with_read=with_reads))
    return list(archive.sessions(tally)), tally


@pytest.mark.parametrize("with_reads", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_family_by_family_is_as_all_at_once(name: str, with_reads: bool) -> None:
    at_once = resolve(FILES[name]())
    expected = FileTally()
    expected.add(at_once)
    for reads in (FILES[name](), FILES[name]()[::-1]):
        sessions, tally = archived(reads, with_reads=with_reads)
        assert sessions == at_once.sessions
        assert tally == expected


def families(reads: list[FileRead]) -> list[set[str]]:
    """The families that were resolved, by the names of their files."""
    found: list[set[str]] = []

    class Noting(FileTally):
        def add(self, resolved: object) -> None:
            found.append({read.source.path.stem for read in resolved.files})  # type: ignore[attr-defined]

    archive = FileArchive()
    for read in reads:
        archive.add(read.source, Extract.of(read))
    list(archive.sessions(Noting()))
    return sorted(found, key=sorted)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two sessions", [{"a"}, {"b"}]),
        ("a session in two files", [{"a", "b"}]),
        ("a fork", [{"a", "b"}]),
        ("an end elsewhere", [{"a", "b"}]),
        ("an agent with a session of its own", [{"a", "b"}]),
        ("an agent that is lost", [{"a"}, {"b"}]),
        ("agents of one name", [{f"a{i}"} for i in range(5)]),
        ("a chain", [{f"a{i}" for i in range(9)}]),
    ],
)
def test_no_family_is_larger_than_it_must_be(name: str, expected: list[set[str]]) -> None:
    assert families(FILES[name]()) == expected


def test_a_subagent_belongs_to_the_step_of_its_own_session_that_has_started_it() -> None:
    (session, *others), _ = archived(FILES["agents of one name"](), with_reads=False)
    assert all(steps.parents == [None, 0] for steps in (session, *others))
    resolved = resolve(FILES["agents of one name"]())
    assert [steps.parents for steps in resolved.sessions] == [[None, 0]] * 5
