"""Claude Code's subagents: their own files, copies of their lines, workflows; what they cost is counted once, where it is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporttools import read_traces
from tests.importing.sessions import (
    SessionFile,
    fates_of,
    lines_of,
    one,
    read,
    steps_of,
    tokens_by_run,
    tool,
    used,
    when,
    with_subagent,
)


def test_a_subagent_s_own_file_pays_and_not_what_the_tool_says(tmp_path: Path) -> None:
    imported = read(tmp_path, *with_subagent())
    assert tokens_by_run(imported) == {"s1": 165}
    steps = steps_of(imported)
    assert [(s["step_type"], s["subagent"], s["parent_step_index"]) for s in steps] == [
        ("llm_call", None, None), ("agent", None, 0), ("llm_call", "a1", 1), ("tool_call", "a1", 2),
    ]  # fmt: skip
    assert (steps[1]["tokens"], imported.report.subagents, imported.report.lost_subagents) == (0, 1, ())


def test_an_older_subagent_s_file_stands_beside_the_session_s(tmp_path: Path) -> None:
    main, agent = with_subagent()
    main.write(tmp_path)
    (tmp_path / "projects/-home-user-demo/agent-a1.jsonl").write_bytes(agent.content)
    assert [step["subagent"] for step in steps_of(read_traces(tmp_path))] == [None, None, "a1", "a1"]


def test_a_subagent_s_file_names_what_its_lines_do_not(tmp_path: Path) -> None:
    main, agent = with_subagent()
    for line in agent.lines:
        del line["sessionId"], line["agentId"]
    imported = read(tmp_path, main, agent)
    assert tokens_by_run(imported) == {"s1": 165}
    assert steps_of(imported)[2]["subagent"] == "a1"


def test_copies_in_lines_of_progress_count_only_where_the_file_is_gone(tmp_path: Path) -> None:
    main, agent = with_subagent()
    result = main.lines.pop()
    for line in agent.lines:
        main.progress("a1", "task", line)
    main.lines.append(result)
    alone = read(tmp_path, main)
    assert tokens_by_run(alone) == {"s1": 165}
    assert [(s["subagent"], s["parent_step_index"], s["status"]) for s in steps_of(alone)] == [
        (None, None, "ok"), (None, 0, "ok"), ("a1", 1, "ok"), ("a1", 2, "ok"),
    ]  # fmt: skip
    both = read(tmp_path, main, agent)
    assert tokens_by_run(both) == {"s1": 165}
    assert fates_of(both)[:2] == (4, 2)  # an answer and a result in each file; their copies


def test_a_copy_that_says_more_than_the_subagent_s_file_pays(tmp_path: Path) -> None:
    main, agent = with_subagent()
    grown = json.loads(json.dumps(agent.lines[1]))
    grown["message"]["usage"]["output_tokens"] = 700
    imported = read(tmp_path, main.progress("a1", "task", grown), agent)
    assert one(imported, subagent="a1", step_type="llm_call")["output_tokens"] == 700


@pytest.mark.parametrize(
    "wrong", [{"data": None}, {"data": {"type": "hook_progress"}}, {"data": {"type": "agent_progress"}}]
)
def test_other_progress_is_metadata(tmp_path: Path, wrong: dict[str, Any]) -> None:
    file = SessionFile().prompt()
    file.add("progress", **wrong)
    assert fates_of(read(tmp_path, file)) == (0, 0, 2, 0)


def test_a_subagent_without_any_trace_is_lost_and_said(tmp_path: Path) -> None:
    main, _ = with_subagent()
    report = read(tmp_path, main).report
    assert report.lost_subagents == ("a1",)
    assert report.lines()["not known"] == "what 1 subagent cost, whose files are missing: a1"


def test_a_message_of_the_main_thread_in_a_subagent_s_file_is_the_main_thread_s(tmp_path: Path) -> None:
    main = SessionFile().prompt().answer("msg_1", usage=used(10, 5))
    aside = SessionFile(agent_id="aside_question-1", starts=20).prompt("btw?").answer("msg_1", usage=used(10, 80))
    imported = read(tmp_path, main, aside.answer("msg_2", usage=used(1, 1)))
    first, second = steps_of(imported)
    assert (first["subagent"], first["tokens"], first["timestamp"]) == (None, 90, when(0))
    assert (second["subagent"], second["tokens"]) == ("aside_question-1", 2)


def test_a_sidechain_in_the_session_s_own_file_is_a_subagent_s(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("msg_1")
    file.answer("msg_2", isSidechain=True, agentId="a7", isApiErrorMessage=True)
    imported = read(tmp_path, file)
    assert [step["subagent"] for step in steps_of(imported)] == [None, "a7"]
    assert imported.runs[0].termination_reason is None


def test_a_workflow_is_the_parent_of_its_agents(tmp_path: Path) -> None:
    main = SessionFile().prompt().answer("msg_1", tool("flow", "Workflow", steps=3))
    path = main.result("flow", said={"runId": "wf_1"}).write(tmp_path)
    folder = path.with_suffix("") / "subagents" / "workflows" / "wf_1"
    folder.mkdir(parents=True)
    for name in ("x", "y"):
        agent = SessionFile(agent_id=name, starts=5).prompt("look").answer(f"msg_{name}", usage=used(20, 1))
        (folder / f"agent-{name}.jsonl").write_bytes(agent.content)
    (folder / "journal.jsonl").write_bytes(lines_of({"type": "started", "key": "v2:1", "agentId": "x"}))
    imported = read_traces(tmp_path)
    assert [(s["subagent"], s["parent_step_index"]) for s in steps_of(imported)[1:]] == [
        (None, 0), ("wf_1/x", 1), ("wf_1/y", 1),
    ]  # fmt: skip
    assert [Path(path).name for path in imported.report.skipped] == ["journal.jsonl"]
    assert imported.report.lost_subagents == ()
