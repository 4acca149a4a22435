"""What trajectories in ATIF say: small files of every kind of step, and real ones with known totals."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.importing.atif import ATIF
from exporttools.importing.events import Event, Note, Rejected, Repeated, Session, Started, Step, Usage
from exporttools.importing.file_reading import FORMATS, FileRead, read_file
from exporttools.importing.json_records import Records, number_of
from exporttools.importing.resolving import Resolved, resolve
from exporttools.importing.source_files import SourceFile, files_below
from exporttools.times import epoch_us, parse_utc

FILE_US = epoch_us(parse_utc("2026-06-01T00:00:00Z"))
WITHOUT_TIME = "trajectories without any time, whose steps have their file's"
ESTIMATED = "costs that the file's writer estimated from tokens, and nobody was billed"
BEYOND = "in final_metrics and in no step of the file, which do not count: of other files, or of calls without a step"
OTHER_COST = "trajectories whose final_metrics state another cost than their steps, which count"


def at(second: float) -> str:
    """A time of the run."""
    return f"2026-06-12T08:00:{second:06.3f}Z"


def us(second: float) -> int:
    """The same in microseconds."""
    return epoch_us(parse_utc(at(second)))


def prompt(second: float | None, text: object = "Count the files", **more: object) -> dict[str, Any]:
    """A step of the user's."""
    return {"source": "user", "message": text} | ({} if second is None else {"timestamp": at(second)}) | more


def agent(second: float | None, text: object = "Done", **more: object) -> dict[str, Any]:
    """A step of the agent's, by default one of 100 tokens read (60 of them from a cache) and 10 written, for a cent."""
    metrics = {"prompt_tokens": 100, "completion_tokens": 10, "cached_tokens": 60, "cost_usd": 0.01}
    return prompt(second, text) | {"source": "agent", "metrics": metrics} | more


def tool(id_: str = "c1", name: str = "bash") -> dict[str, Any]:
    """A call of a tool."""
    return {"tool_call_id": id_, "function_name": name, "arguments": {"command": "ls"}}


def results(*given: dict[str, Any]) -> dict[str, Any]:
    """What tools returned."""
    return {"results": list(given)}


def trajectory(*steps: object, **more: Any) -> dict[str, Any]:
    """A trajectory of the session ``s1``."""
    numbered = [step | {"step_id": i} if isinstance(step, dict) else step for i, step in enumerate(steps, 1)]
    about = {"name": "terminus-2", "version": "2.0.0", "model_name": "openai/gpt-4o"}
    return {"schema_version": "ATIF-v1.7", "session_id": "s1", "agent": about, "steps": numbered} | more


def read(document: dict[str, Any]) -> tuple[list[Event], Records]:
    """The events of a file."""
    content = json.dumps(document).encode()
    records = Records(io.BytesIO(content), ATIF.elements if "steps" in document else None)
    return list(ATIF.events(records, SourceFile(Path("trajectory.json"), len(content), FILE_US * 1000))), records


def of(events: Sequence[Event], kind: type[Any]) -> list[Any]:
    """The events of a kind."""
    return [event for event in events if isinstance(event, kind)]


def notes(document: dict[str, Any]) -> dict[str, int]:
    """What is noted of a file, by its words."""
    found: dict[str, int] = {}
    for note in of(read(document)[0], Note):
        found[note.what] = found.get(note.what, 0) + note.count
    return found


def file_read(document: dict[str, Any], source: SourceFile | None = None) -> FileRead:
    """A file as it is resolved with others."""
    events, records = read(document)
    found = FileRead(source or SourceFile(Path("trajectory.json"), 0, FILE_US * 1000), ATIF.name)
    for event in events:
        found.add(event)
    if records.last:
        found.fate(records.last, 0)  # type: ignore[arg-type]
    return found


def test_a_step_with_metrics_is_a_call_that_ends_with_the_next_step() -> None:
    done = agent(2, tool_calls=[tool()], observation=results({"source_call_id": "c1", "content": "a.txt"}))
    events, _ = read(trajectory(prompt(1), done, agent(5)))
    call, used, last = of(events, Step)
    assert call == Step(
        2, call.key, "s1", "llm_call", us(2), us(5),
        name="openai/gpt-4o", model="openai/gpt-4o", provider="openai",
        usage=Usage(100, 10, 60), cost_usd=0.01, content_hash=call.content_hash,
    )  # fmt: skip
    assert used == Step(
        2, f"{call.key}:0", "s1", "tool_call", us(2), us(5),
        name="bash", parent=call.key, content_hash=used.content_hash,
    )  # fmt: skip
    assert (last.start_us, last.end_us, last.content_hash) == (us(5), None, call.content_hash)
    assert of(events, Session) == [
        Session("s1", us(1), us(5), agent_id="terminus-2", goal="Count the files", agent_version="2.0.0")
    ]
    assert of(events, Note) == []


def test_before_a_prompt_the_end_is_not_known() -> None:
    events, _ = read(trajectory(agent(1), prompt(50), agent(51)))
    assert [step.end_us for step in of(events, Step)] == [None, None]


def test_copied_context_repeats_and_counts_nothing() -> None:
    copied = agent(1, is_copied_context=True, tool_calls=[tool()])
    events, _ = read(trajectory(prompt(0, is_copied_context=True), copied, prompt(2, "Go on"), agent(3)))
    assert of(events, Repeated) == [Repeated(1), Repeated(2)]
    assert [step.record for step in of(events, Step)] == [4]
    (session,) = of(events, Session)
    assert (session.goal, session.started_us) == ("Go on", us(2))
    assert len(of(read(trajectory(agent(1, is_copied_context="true")))[0], Step)) == 1


def test_tokens_of_caches_and_of_thoughts_are_parts() -> None:
    extra = {
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 10},
        "reasoning_output_tokens": 4,
        "service_tier": "standard",
        "speed": "fast",
    }
    metrics = {"prompt_tokens": 100, "completion_tokens": 10, "cached_tokens": 60, "extra": extra}
    (step,) = of(read(trajectory(agent(1, metrics=metrics)))[0], Step)
    assert (step.usage, step.tier) == (Usage(100, 10, 60, 30, 20, 4), "fast")
    metrics |= {"prompt_tokens": 70, "completion_tokens": 3}
    (step,) = of(read(trajectory(agent(1, metrics=metrics)))[0], Step)
    assert step.usage == Usage(70, 3, 60, 10, 10, 3), "no part is greater than the whole"


def test_an_estimate_is_marked_as_one() -> None:
    metrics = {
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "cost_usd": 0.5,
        "extra": {"cost_source": "litellm_estimate"},
    }
    document = trajectory(agent(1, metrics=metrics), agent(2))
    assert [(s.cost_usd, s.cost_basis) for s in of(read(document)[0], Step)] == [
        (0.5, "litellm_estimate"),
        (0.01, None),
    ]
    assert notes(document) == {ESTIMATED: 1}


@pytest.mark.parametrize("cost_usd", ["0.01", -1, True, math.nan, 10**400, []])
def test_what_is_no_cost_is_counted_and_left_out(cost_usd: object) -> None:
    events, records = read(trajectory(agent(1, metrics={"prompt_tokens": "7", "cost_usd": cost_usd})))
    (step,) = of(events, Step)
    assert (step.cost_usd, step.usage, records.bad_numbers) == (None, Usage(), 2)


def test_a_number_beyond_all_floats_is_none() -> None:
    assert number_of(10**400) is None
    assert number_of(12) == 12.0


def test_final_metrics_are_compared_and_never_counted() -> None:
    final = {"total_prompt_tokens": 350, "total_completion_tokens": 25, "total_cost_usd": 0.05, "total_steps": 9}
    assert notes(trajectory(agent(1), agent(2), final_metrics=final)) == {
        f"input tokens {BEYOND}": 150,
        f"output tokens {BEYOND}": 5,
        OTHER_COST: 1,
    }
    final = {"total_prompt_tokens": 90, "total_completion_tokens": 10, "total_cost_usd": 0.01}
    assert notes(trajectory(agent(1), final_metrics=final)) == {
        "input tokens of steps, which count, and not in final_metrics": 10
    }
    final = {"total_prompt_tokens": 300, "total_completion_tokens": 30, "total_cost_usd": 0.03}
    assert notes(trajectory(agent(1), agent(2), agent(3), final_metrics=final)) == {}, "sums of floats are not exact"
    assert notes(trajectory(agent(1), final_metrics={"total_prompt_tokens": None, "total_cost_usd": "1"})) == {}


@pytest.mark.parametrize(("tokens", "noted"), [(100, {}), (300, {}), (400, {f"input tokens {BEYOND}": 100})])
def test_final_metrics_may_be_with_subagents_or_without(tokens: int, noted: dict[str, int]) -> None:
    inner = trajectory(agent(2), agent(3), trajectory_id="t1")
    document = trajectory(agent(1), subagent_trajectories=[inner], final_metrics={"total_prompt_tokens": tokens})
    assert notes(document) == noted


def test_a_subagent_inside_of_a_file_is_part_of_the_step_that_refers_to_it() -> None:
    reference = {"source_call_id": "c1", "subagent_trajectory_ref": [{"trajectory_id": "t1", "session_id": "s1"}]}
    deeper = trajectory(agent(None), trajectory_id="t2", session_id=None)
    inner = trajectory(prompt(3, "Look"), agent(4), trajectory_id="t1", subagent_trajectories=[deeper])
    outer = agent(2, tool_calls=[tool(name="task")], observation=results(reference))
    found = file_read(trajectory(prompt(1), outer, agent(9), subagent_trajectories=[inner, "none", {"steps": 5}]))
    (session,) = resolve([found]).sessions
    assert [(step.step_type, step.agent, step.record) for step in session.steps] == [
        ("llm_call", None, 2), ("agent", None, 2), ("llm_call", "t2", 6), ("llm_call", "t1", 5), ("llm_call", None, 3),
    ]  # fmt: skip
    assert session.parents == [None, 0, 1, 1, None]
    assert found.started == {}
    assert (session.session.session_id, session.session.goal) == ("s1", "Count the files")


def test_a_file_of_a_subagents_own_belongs_to_the_session_it_names() -> None:
    reference = {"subagent_trajectory_ref": [{"session_id": "s1-summary", "trajectory_path": "summary.json"}]}
    hand_off = {
        "source": "system",
        "timestamp": at(3),
        "message": "Context summed up",
        "observation": results(reference),
    }
    main = file_read(trajectory(prompt(1), agent(2), hand_off, agent(9)))
    about = {"name": "summary", "extra": {"parent_session_id": "s1"}}
    own = file_read(trajectory(prompt(4, "Sum up"), agent(5), session_id="s1-summary", agent=about))
    (session,) = resolve([own, main]).sessions
    assert [(s.step_type, s.name, s.agent) for s in session.steps] == [
        ("llm_call", "openai/gpt-4o", None), ("agent", "Context summed up", None),
        ("llm_call", None, "s1-summary"), ("llm_call", "openai/gpt-4o", None),
    ]  # fmt: skip
    assert session.parents == [None, None, 1, None]
    assert (session.session.agent_id, session.session.goal) == ("terminus-2", "Count the files")
    assert resolve([main]).lost_agents == ["s1-summary"]


def test_a_subagent_whose_trajectory_is_missing_is_noted() -> None:
    missing, elsewhere = {"trajectory_id": "t1"}, {"trajectory_path": "sub.json"}
    reference = {"source_call_id": "c1", "subagent_trajectory_ref": [missing, elsewhere, 5]}
    document = trajectory(agent(1, tool_calls=[tool()], observation=results(reference)))
    assert notes(document) == {"subagents whose trajectories are missing: what they used is not known": 1}


def test_agents_of_claude_code_are_told_apart_in_one_list() -> None:
    side = {"extra": {"is_sidechain": True, "agent_id": "a1"}}
    returned = {"source_call_id": "c1", "extra": {"tool_result_metadata": {"tool_use_result": {"agentId": "a1"}}}}
    launch = agent(2, tool_calls=[tool(name="Task")], observation=results(returned))
    found = file_read(
        trajectory(prompt(1), launch, prompt(3, "Look", **side), agent(4, **side), agent(6, **side), agent(9))
    )
    (session,) = resolve([found]).sessions
    assert [(s.step_type, s.agent, s.end_us) for s in session.steps] == [
        ("llm_call", None, us(9)), ("agent", None, us(9)), ("llm_call", "a1", us(6)), ("llm_call", "a1", None),
        ("llm_call", None, None),
    ]  # fmt: skip
    assert session.parents == [None, 0, 1, 1, None]


def test_session_ids_that_collide_leave_all_steps_apart() -> None:
    first = trajectory(prompt(1), agent(2))
    sibling = trajectory(prompt(1), agent(2), agent=first["agent"] | {"name": "sibling"})
    named = [trajectory(prompt(1), agent(2), trajectory_id=id_) for id_ in ("t1", "t2")]
    twins = trajectory(
        agent(1), trajectory_id="t3", subagent_trajectories=[trajectory(agent(1), trajectory_id="t3")] * 2
    )
    (session,) = resolve([file_read(document) for document in (first, sibling, *named, twins)]).sessions
    assert len(session.steps) == 7


def test_the_same_file_twice_counts_once() -> None:
    document = trajectory(prompt(1), agent(2, tool_calls=[tool()]))
    copied = file_read(document, SourceFile(Path("zz-copy.json"), 0, 0))
    (session,) = resolve([copied, file_read(document)]).sessions
    assert len(session.steps) == 2
    assert list(copied.fates) == [0, 1]


def test_a_trajectory_without_a_session_has_its_own_id_or_that_of_its_content() -> None:
    named, nameless = (trajectory(agent(1), session_id=None, trajectory_id=id_) for id_ in ("t1", None))
    assert of(read(named)[0], Session)[0].session_id == "t1"
    digest = of(read(nameless)[0], Session)[0].session_id
    assert len(digest) == 32
    assert of(read(nameless)[0], Session)[0].session_id == digest


def test_steps_without_times_keep_their_order_at_the_time_of_their_file() -> None:
    document = trajectory(prompt(None), agent(None, tool_calls=[tool()]), agent(None))
    events, _ = read(document)
    assert [(s.start_us - FILE_US, s.end_us) for s in of(events, Step)] == [(2, None), (2, None), (3, None)]
    assert notes(document) == {WITHOUT_TIME: 1}
    events, _ = read(trajectory(agent(None), agent(4), agent(None)))
    assert [s.start_us for s in of(events, Step)] == [us(4)] * 3


@pytest.mark.parametrize(
    ("returned", "status", "error"),
    [
        ([{"source_call_id": "c1", "content": "a.txt", "extra": {"tool_result_is_error": False}}], "ok", None),
        ([{"source_call_id": "c1", "content": "no", "extra": {"tool_result_is_error": True}}], "error", "no"),
        (
            [{"source_call_id": "c1", "content": [{"type": "text", "text": "no"}], "extra": {"is_error": True}}],
            "error",
            "no",
        ),
        ([{"content": "New Terminal Output"}], "ok", None),
        ([{"source_call_id": "c2", "content": "of another"}], "unfinished", None),
        ([], "unfinished", None),
    ],
)
def test_how_a_tool_ended(returned: list[dict[str, Any]], status: str, error: str | None) -> None:
    events, _ = read(trajectory(agent(1, tool_calls=[tool()], observation=results(*returned))))
    assert [(s.status, s.error) for s in of(events, Step)[1:]] == [(status, error)]


def test_steps_that_stand_for_no_call_for_several_and_for_unknown_ones() -> None:
    dispatch = {"source": "agent", "timestamp": at(1), "llm_call_count": 0, "tool_calls": [tool()]}
    unknown = {"source": "agent", "timestamp": at(2), "message": "Done"}
    document = trajectory(dispatch, unknown, agent(3, llm_call_count=3))
    assert [(s.step_type, s.usage is None, s.parent) for s in of(read(document)[0], Step)] == [
        ("tool_call", True, None), ("llm_call", True, None), ("llm_call", False, None),
    ]  # fmt: skip
    assert notes(document) == {
        "answers without metrics: what they used is not known": 1,
        "steps that stand for several calls at once": 1,
    }


def test_where_it_ran() -> None:
    converted = {"name": "claude-code", "extra": {"cwds": ["/home/user/demo"], "git_branches": ["main"]}}
    other = {"name": "codex", "extra": {"cwd": "/home/user/demo", "git": {"branch": "main"}}}
    for about in (converted, other):
        prompts = (prompt(1, "<command-name>/model"), prompt(2, "# AGENTS.md instructions for ..."), prompt(3, "Count"))
        (session,) = of(read(trajectory(*prompts, agent=about))[0], Session)
        assert (session.cwd, session.git_branch, session.goal) == ("/home/user/demo", "main", "Count")


def test_equal_questions_have_equal_digests_and_empty_ones_none() -> None:
    events, _ = read(
        trajectory(agent(1, "Yes"), agent(2, "Yes"), agent(3, " "), agent(4, [{"type": "text", "text": "Yes"}]))
    )
    one, two, empty, parts = (step.content_hash for step in of(events, Step))
    assert one == two == parts
    assert empty is None


def test_without_steps_there_is_no_trajectory() -> None:
    document = trajectory()
    del document["steps"]
    assert read(document)[0] == [Rejected(1, "expected a trajectory with a list of steps; found none")]
    events, records = read(trajectory(5, agent(1)))
    assert (len(of(events, Step)), [rejected.record for rejected in records.rejected]) == (1, [1])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"schema_version": "ATIF-v1.0", "steps": []}, True),
        ({"schema_version": "ATIF-v1.8", "steps": []}, True),
        ({"schema_version": "ATIF-v2.0", "steps": []}, False),
        ({"schema_version": 1.7, "steps": []}, False),
        ({"steps": []}, False),
    ],
)
def test_what_is_recognised(value: dict[str, Any], expected: bool) -> None:
    assert ATIF.recognises(value) is expected


def test_a_document_over_many_lines_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, ATIF.name, ATIF)
    about = {"name": "claude-code", "extra": {"cwds": ["/home/user/demo", {}], "agent_ids": ["a1"]}}
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(trajectory(agent(1), agent=about), indent=2))
    found = read_file(SourceFile.at(path))
    assert found is not None
    assert (found.format, list(found.fates), found.rejected) == ("atif", [1], [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
REFERENCE = {
    "source_call_id": "c1",
    "content": "x",
    "subagent_trajectory_ref": [{"trajectory_id": "t1", "session_id": "s2"}],
}
WHOLE = trajectory(
    prompt(1, extra={"is_sidechain": False}),
    agent(2, tool_calls=[tool()], observation=results(REFERENCE, {"extra": {"is_error": True}}), llm_call_count=1),
    agent(
        3, metrics={"prompt_tokens": 1, "extra": {"cost_source": "x", "cache_creation": {}}}, is_copied_context=False
    ),
    trajectory_id="t0",
    subagent_trajectories=[trajectory(agent(4), trajectory_id="t1")],
    final_metrics={"total_prompt_tokens": 5, "total_completion_tokens": 5, "total_cost_usd": 1.0},
)


@given(st.data())
def test_foreign_values_anywhere_never_raise_and_can_be_stored(data: st.DataObject) -> None:
    document = copy.deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        place: Any = document
        while True:
            names = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not names:
                break
            name = data.draw(st.sampled_from(names))
            if not isinstance(place[name], (dict, list)) or not place[name] or data.draw(st.integers(0, 3)) == 0:
                place[name] = data.draw(JSON)
                break
            place = place[name]
    found = file_read(document)
    orjson.dumps([found.sessions, found.steps, found.started, found.rejected, list(found.notes.values())])
    resolve([found])


def real_read(source: SourceFile) -> FileRead:
    """A real file."""
    return file_read(orjson.loads(source.path.read_bytes()), source)


def totals(found: Resolved) -> dict[str, Any]:
    """What the expected totals of a file or of several say."""
    steps = [step for session in found.sessions for step in session.steps]
    calls = [(step, step.usage) for step in steps if step.usage is not None]
    models: dict[str, dict[str, int]] = {}
    for step, usage in calls:
        model = models.setdefault(str(step.model), dict.fromkeys(("steps", "input", "cache_read", "output"), 0))
        model["steps"] += 1
        for name, tokens in tokens_of(usage).items():
            model[name] += tokens
    return {
        "trajectories": len(found.files),
        "steps": sum(read.records for read in found.files),
        "llm_steps": len(calls),
        "tool_calls": sum(
            step.step_type == "tool_call" or (step.step_type == "agent" and step.content_hash is not None)
            for step in steps
        ),
        "tokens": {name: sum(model[name] for model in models.values()) for name in tokens_of(Usage())},
        "tokens_total": sum(usage.tokens for _, usage in calls),
        "models": models,
    }


def tokens_of(usage: Usage) -> dict[str, int]:
    """Tokens by the names of the expected totals, whose input is without what caches had."""
    return {
        "input": usage.input_tokens - usage.cache_read_tokens,
        "cache_read": usage.cache_read_tokens,
        "output": usage.output_tokens,
    }


@pytest.mark.real
def test_real_trajectories_have_the_known_totals(real: Path) -> None:
    sessions = real / "sessions"
    if not (sessions / "expected.json").is_file():
        pytest.skip(f"no real sessions at {sessions}")
    expected = orjson.loads((sessions / "expected.json").read_bytes())
    wanted = {
        path: of
        for path, of in (expected["files"] | expected["groups"] | expected["directories"]).items()
        if path.startswith("atif")
    }
    assert len(wanted) == 16
    for path, known in wanted.items():
        place = sessions / path
        sources = list(files_below(place)) if place.is_dir() else [SourceFile.at(place)]
        found = resolve([real_read(source) for source in sources])
        ours = totals(found)
        assert ours == {name: known[name] for name in ours}, path
        costs = [step.cost_usd for session in found.sessions for step in session.steps if step.cost_usd is not None]
        assert math.isclose(math.fsum(costs), known["cost_usd"]), path
        copied = sum(len(of(read(orjson.loads(source.path.read_bytes()))[0], Repeated)) for source in sources)
        assert copied == known["copied_steps"], path
        assert differences(found) == {
            (name, what): abs(stated - summed) if "tokens" in what else 1
            for name, what, stated, summed in known["final_differs"]
        }, path


def differences(found: Resolved) -> dict[tuple[str, str], int]:
    """Where final metrics say something else, by file and member, as noted."""
    members = {
        f"input tokens {BEYOND}": "total_prompt_tokens",
        f"output tokens {BEYOND}": "total_completion_tokens",
        OTHER_COST: "total_cost_usd",
    }
    return {
        (read.source.path.name, members[what]): count
        for read in found.files
        for (what, _), count in read.notes.items()
        if what in members
    }


def test_references_are_events_for_other_files() -> None:
    reference = {"source_call_id": "c1", "subagent_trajectory_ref": [{"trajectory_path": "x.json", "session_id": "s2"}]}
    events, _ = read(trajectory(agent(1, tool_calls=[tool()], observation=results(reference))))
    assert of(events, Started) == [Started(of(events, Step)[1].key, "s2")]
