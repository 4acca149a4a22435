"""All files together: which copy of a step counts, whose step it is, in which order, and what became of each record."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.importing.events import End, Event, Fate, Repeated, Session, Started, Step, Usage
from exporttools.importing.file_reading import FileRead
from exporttools.importing.resolving import Resolved, resolve
from exporttools.importing.source_files import SourceFile


def a_file(name: str, *events: Event, records: int = 0) -> FileRead:
    found = FileRead(SourceFile(Path(f"/{name}"), 0, 0), "claude-code")
    for event in events:
        found.add(event)
    if records:
        found.fate(records, Fate.METADATA)
    return found


def step(record: int, key: str, session: str = "s", at: int = 0, **more: object) -> Step:
    values = {"usage": Usage(10)} | more
    return Step(record, key, session, "llm_call", at, **values)  # type: ignore[arg-type]


def ended(session: str, at: int | None, start: int | None = 0) -> Session:
    return Session(session, start, at)


def owner(found: Resolved, key: str = "k") -> tuple[str, Step]:
    ((session, one),) = [(s.session.session_id, x) for s in found.sessions for x in s.steps if x.key == key]
    return session, one


def fates(found: Resolved) -> dict[str, str]:
    return {
        read.source.path.name: "".join(Fate(fate).name[:3] + " " for fate in read.fates).strip() for read in found.files
    }


# Whose step it is


def test_the_session_that_ended_first_owns_a_step() -> None:
    long = a_file("a", ended("long", 90), step(1, "k", "long"))
    short = a_file("b", ended("short", 50), step(1, "k", "short"), step(2, "own", "short"))
    found = resolve([long, short])
    assert owner(found)[0] == "short"
    assert fates(found) == {"a": "COP", "b": "COU COU"}
    assert {s.session.session_id: s.is_fork for s in found.sessions} == {"long": True, "short": False}


def test_a_lesser_rank_goes_before_everything() -> None:
    main = a_file("a", ended("long", 90), step(1, "k", "long", at=9, rank=0))
    aside = a_file("b", ended("short", 50), step(1, "k", "short", at=1, rank=1))
    assert owner(resolve([main, aside]))[0] == "long"


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        ((50, 7, "b"), (50, 5, "a"), "a"),  # of equal ends the earlier step
        ((50, 5, "b"), (50, 5, "a"), "a"),  # of equal steps the session's id, so that no order of files matters
        ((None, 5, "b"), (50, 5, "a"), "b"),
    ],
)
def test_what_decides_between_equals(
    one: tuple[int | None, int, str], other: tuple[int | None, int, str], first: str
) -> None:
    def files() -> list[FileRead]:
        return [a_file(s, ended(s, end), step(1, "k", s, at=at)) for end, at, s in (one, other)]

    assert owner(resolve(files()))[0] == owner(resolve(files()[::-1]))[0] == first


def test_a_session_ends_with_the_last_of_its_files() -> None:
    main = a_file("a", ended("s", 50), step(1, "k", "s"))
    agent = a_file("b", Session("s", 0, 99, is_main=False), step(1, "x", "s", agent="a", rank=1))
    fork = a_file("c", ended("t", 70), step(1, "k", "t"))
    assert owner(resolve([main, agent, fork]))[0] == "t"


def test_the_owner_gets_the_greatest_usage_of_all_copies() -> None:
    files = [a_file(s, ended(s, 50 + i), step(1, "k", s, usage=Usage(n), is_lower_bound=True))
             for i, (s, n) in enumerate((("a", 5), ("b", 300), ("c", 20)))]  # fmt: skip
    session, one = owner(resolve(files))
    assert (session, one.usage, one.is_lower_bound) == ("a", Usage(300), True)


def test_a_call_whose_usage_only_a_copy_has() -> None:
    own, copied = (
        a_file("a", ended("a", 1), step(1, "k", "a", usage=None)),
        a_file("b", ended("b", 2), step(1, "k", "b")),
    )
    found = resolve([own, copied])
    assert (owner(found)[0], owner(found)[1].usage, found.calls) == ("a", Usage(10), 1)


# Ends


def test_a_step_s_end_is_its_own_file_s() -> None:
    own = a_file("b", ended("a", 1), step(1, "k", "a"), End(2, "k", 7, "ok"))
    copied = a_file("a", ended("b", 2), step(1, "k", "b"), End(2, "k", 9, "error", "late"))
    found = resolve([copied, own])
    one = owner(found)[1]
    assert (one.end_us, one.status, one.error) == (7, "ok", None)
    assert fates(found) == {"a": "COP COP", "b": "COU COU"}


def test_another_file_s_end_is_better_than_none() -> None:
    own = a_file("b", ended("a", 1), step(1, "k", "a", status="unfinished"))
    one, two = (a_file(name, ended(name, 2), End(1, "k", at, "error", "bad")) for name, at in (("x", 8), ("y", 9)))
    found = resolve([one, own, two])
    assert (owner(found)[1].end_us, owner(found)[1].status, owner(found)[1].error) == (8, "error", "bad")
    assert fates(found) == {"b": "COU", "x": "COU", "y": "COP"}


def test_an_end_changes_only_what_it_says() -> None:
    found = resolve([a_file("a", ended("s", 1), step(1, "k", end_us=5, status="error", error="e"), End(2, "k"))])
    one = owner(found)[1]
    assert (one.end_us, one.status, one.error) == (5, "error", "e")


def test_an_end_without_a_step_is_metadata_and_a_repetition_a_copy() -> None:
    found = resolve([a_file("a", ended("s", 1), End(1, "nobody", 5, "ok"), Repeated(2), records=3)])
    assert fates(found) == {"a": "MET COP MET"}


# Parents and order


def keys(found: Resolved) -> list[tuple[str, int | None]]:
    (session,) = found.sessions
    return [(one.key, parent) for one, parent in zip(session.steps, session.parents, strict=True)]


def test_steps_are_in_the_order_of_their_starts_the_session_s_own_first() -> None:
    main = a_file("b", ended("s", 9), step(3, "c", at=5), step(1, "a", at=5), step(2, "z", at=1))
    agent = a_file("a", Session("s", is_main=False), step(1, "x", at=5, agent="a1", rank=1))
    assert keys(resolve([agent, main])) == [("z", None), ("a", None), ("c", None), ("x", None)]


def test_a_part_stands_behind_its_whole_whatever_the_clocks_say() -> None:
    events = (step(1, "grandchild", at=1, parent="child"), step(2, "child", at=2, parent="whole"), step(3, "whole", at=8),
              step(4, "later", at=9))  # fmt: skip
    found = resolve([a_file("a", ended("s", 9), *events)])
    assert keys(found) == [("whole", None), ("child", 0), ("grandchild", 1), ("later", None)]


def test_a_parent_in_another_session_or_nowhere_is_none() -> None:
    one = a_file("a", ended("s", 1), step(1, "p", "s"))
    other = a_file("b", ended("t", 2), step(1, "p", "t"), step(2, "c", "t", parent="p"), step(3, "d", "t", parent="x"))
    found = resolve([one, other])
    assert [s.parents for s in found.sessions] == [[None], [None, None]]


@pytest.mark.parametrize("around", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
def test_what_would_be_part_of_itself_is_part_of_nothing(around: list[str]) -> None:
    events = [step(i, key, at=10 - i, parent=around[i - len(around) + 1]) for i, key in enumerate(around)]
    for i, event in enumerate(events):
        event.record = i + 1
    found = resolve([a_file("a", ended("s", 1), *events, step(9, "leaf", parent=around[-1]))])
    (session,) = found.sessions
    assert len(session.steps) == len(around) + 1
    assert all(parent is None or parent < i for i, parent in enumerate(session.parents))
    assert session.parents.count(None) == 1


def test_a_chain_of_parents_may_be_long() -> None:
    events = [step(i + 1, f"k{i}", at=9, parent=f"k{i + 1}") for i in range(20_000)]
    found = resolve([a_file("a", ended("s", 1), *events)])
    assert found.sessions[0].parents == [None, *range(19_999)]


def test_a_subagent_s_steps_without_a_parent_are_part_of_what_started_it() -> None:
    main = a_file(
        "a", ended("s", 1), step(1, "task", at=1), Started("task", "a1"), Started("flow", "wf_1"), step(2, "flow", at=2)
    )
    agent = a_file(
        "b", Session("s", is_main=False), step(1, "x", at=5, agent="a1"), step(2, "y", at=6, agent="a1", parent="x")
    )
    flow = a_file("c", Session("s", is_main=False), step(1, "z", at=7, agent="wf_1/a2"))
    found = resolve([main, agent, flow])
    assert keys(found) == [("task", None), ("flow", None), ("x", 0), ("y", 2), ("z", 1)]
    assert found.lost_agents == []


def test_started_subagents_without_a_step_are_lost() -> None:
    events = (step(1, "task"), Started("task", "b"), Started("task", "a"), Started("nobody's", "c"))
    assert resolve([a_file("x", ended("s", 1), *events)]).lost_agents == ["a", "b"]


def test_sessions_are_by_their_start_and_then_by_id() -> None:
    sessions = [ended("c", 9, 5), ended("b", 9, 5), ended("a", 9, 7), ended("z", None, None)]
    assert [s.session.session_id for s in resolve([a_file("x", *sessions)]).sessions] == ["z", "b", "c", "a"]


def test_nothing_at_all() -> None:
    found = resolve([])
    assert (found.files, found.sessions, found.lost_agents, found.calls) == ([], [], [], 0)


# Any files in any order

_STEPS = st.builds(
    step,
    record=st.integers(1, 9),
    key=st.sampled_from("klmnop"),
    session=st.sampled_from("stu"),
    at=st.integers(0, 5),
    rank=st.integers(0, 2),
    usage=st.none() | st.builds(Usage, st.integers(0, 5), st.integers(0, 5)),
    parent=st.none() | st.sampled_from("klmnop"),
    agent=st.none() | st.sampled_from(["a", "b", "w/c"]),
)
_EVENTS = st.one_of(
    _STEPS,
    st.builds(
        End, st.integers(1, 9), st.sampled_from("klmq"), st.none() | st.integers(0, 9), st.sampled_from(["ok", "error"])
    ),
    st.builds(Started, st.sampled_from("klmq"), st.sampled_from(["a", "b", "w"])),
    st.builds(Repeated, st.integers(1, 9)),
)


@given(st.lists(st.lists(_EVENTS, max_size=8), max_size=4), st.randoms())
def test_the_order_of_files_changes_nothing(events: list[list[Event]], random: object) -> None:
    def files() -> list[FileRead]:
        sessions = [Session("s", 0, 5), Session("t", 1, 4), Session("u", 0, 5)]
        return [a_file(f"f{i}", *copy.deepcopy([*sessions, *some])) for i, some in enumerate(events)]

    shuffled = files()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = resolve(files()), resolve(shuffled)
    assert one == other
    steps = [x for s in one.sessions for x in s.steps]
    assert len({x.key for x in steps}) == len(steps)
    greatest = {key: max((e.usage.tokens for some in events for e in some if isinstance(e, Step) and e.key == key and e.usage),
                         default=None) for key in {x.key for x in steps}}  # fmt: skip
    assert {x.key: x.usage and x.usage.tokens for x in steps} == greatest
    for session in one.sessions:
        assert all(parent is None or parent < i for i, parent in enumerate(session.parents))
