"""Claude Code's sessions: each rule by which a line counts, in small files of the true form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exporttools import read_traces
from exporttools.importing.claude_code import recognises
from tests.importing.sessions import (
    OPUS,
    SessionFile,
    at,
    fates_of,
    lines_of,
    one,
    read,
    steps_of,
    text,
    tokens_by_run,
    tool,
    used,
    when,
    with_subagent,
)

# An answer and its copies


def test_the_lines_of_an_answer_are_one_call(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("msg_1", text(), tool("toolu_1"), text(), usage=used(10, 5)).result("toolu_1")
    imported = read(tmp_path, file)
    assert [(s["step_type"], s["tokens"]) for s in steps_of(imported)] == [("llm_call", 15), ("tool_call", 0)]
    assert (imported.report.usages, imported.report.calls) == (3, 1)
    assert fates_of(imported) == (3, 1, 1, 0)  # the first block, the tool's, its result; the third block; the prompt


def test_of_copies_the_greatest_usage_counts(tmp_path: Path) -> None:
    file = SessionFile().prompt()
    for fresh, out in ((10, 1), (10, 300), (10, 20)):  # it grows while it is written, and a last copy may say less
        file.answer("msg_1", usage=used(fresh, out))
    imported = read(tmp_path, file)
    assert imported.report.tokens["output_tokens"] == 300
    assert (imported.report.calls, imported.report.usages) == (1, 3)


def test_an_answer_begins_with_its_prompt_and_ends_with_its_last_line(tmp_path: Path) -> None:
    file = SessionFile().prompt().wait(4).answer("msg_1", text(), tool("toolu_1"))
    file.wait(9).result("toolu_1").answer("msg_2")
    imported = read(tmp_path, file)
    spans = [(s["name"], s["timestamp"], s["duration_ms"]) for s in steps_of(imported)]
    assert spans == [(OPUS, when(0), 6000), ("Bash", when(6), 10_000), (OPUS, when(16), 1000)]


def test_the_prompt_is_found_up_the_chain_past_lines_that_are_none(tmp_path: Path) -> None:
    file = SessionFile().prompt().wait(1)
    file.system("stop_hook_summary").add("attachment", attachment={"type": "hook"})
    file.answer("msg_1")
    assert one(read(tmp_path, file), step_type="llm_call")["duration_ms"] == 4000


def test_a_prompt_that_is_later_than_its_answer_is_not_its_start(tmp_path: Path) -> None:
    file = SessionFile(starts=50).prompt().wait(-40).answer("msg_1")
    imported = read(tmp_path, file)
    assert (one(imported)["timestamp"], one(imported)["duration_ms"]) == (when(11), 0)


@pytest.mark.parametrize(
    ("usage", "read_and_written"),
    [
        (used(1, 2, 30, 400, 5000), (5431, 2, 30, 5400, 5000)),
        ({"input_tokens": 1, "cache_creation_input_tokens": 400}, (401, 0, 0, 400, 0)),
        (used(1, 2) | {"cache_creation_input_tokens": 900}, (901, 2, 0, 900, 0)),
        (used(0, 0, 0, 50, 100) | {"cache_creation_input_tokens": 400}, (400, 0, 0, 400, 100)),
        (used(0, 0, 0, 50, 100) | {"cache_creation_input_tokens": None}, (150, 0, 0, 150, 100)),
        (used() | {"cache_creation": "none"}, (10, 5, 0, 0, 0)),
        ({}, (0, 0, 0, 0, 0)),
        (None, (10, 5, 0, 0, 0)),
        ([], (0, 0, 0, 0, 0)),
    ],
)
def test_input_includes_caches_and_an_hour_s_writes_are_told_apart(
    tmp_path: Path, usage: Any, read_and_written: tuple[int, ...]
) -> None:
    step = one(read(tmp_path, SessionFile().prompt().answer(usage=usage)))
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens")
    assert tuple(step[name] for name in names) == read_and_written
    assert step["tokens"] == step["input_tokens"] + step["output_tokens"]


def test_writes_for_an_hour_cost_more(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("five", usage=used(0, 0, 0, 10**6, 0))
    imported = read(tmp_path, file.answer("hour", usage=used(0, 0, 0, 0, 10**6)))
    assert [step["cost_cents"] for step in steps_of(imported)] == [625.0, 1000.0]


def test_thinking_is_a_part_of_the_output(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("a", usage=used(0, 9, output_tokens_details={"thinking_tokens": 4}))
    imported = read(tmp_path, file.answer("b", usage=used(0, 9, output_tokens_details={"thinking_tokens": 40})))
    assert [(s["output_tokens"], s["reasoning_tokens"]) for s in steps_of(imported)] == [(9, 4), (9, 9)]


def test_numbers_that_are_none_count_as_zero_and_are_said(tmp_path: Path) -> None:
    file = SessionFile().prompt()
    for i, number in enumerate(("12", -3, 1.5, True, [], 2**60, 10**400, None)):
        file.answer(f"msg_{i}", usage={"input_tokens": number, "output_tokens": 1})
    imported = read(tmp_path, file)
    assert (imported.report.bad_numbers, imported.report.tokens["input_tokens"], imported.report.calls) == (7, 0, 8)


def test_an_answer_without_an_id_is_known_by_its_line_s_which_a_fork_keeps(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer(None, usage=used(1, 2)).answer(None, usage=used(1, 2))
    imported = read(tmp_path, file, file.fork("s2").prompt("more"))
    assert (imported.report.calls, imported.report.usages) == (2, 4)


def test_an_answer_without_any_id_counts_by_its_place(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer(None).answer(None)
    for line in file.lines:
        del line["uuid"]
    file.write(tmp_path)
    file.write(tmp_path, project="a-copy-of-the-same-file")
    assert read_traces(tmp_path).report.calls == 2


def test_a_request_id_is_not_needed(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("msg_1", text(), text()).answer("msg_2")
    for line in file.lines:
        line.pop("requestId", None)
    assert read(tmp_path, file).report.calls == 2


def test_usage_without_a_reason_to_stop_is_a_lower_bound(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("first event", stop_reason=None)
    file.answer("finished", stop_reason=None).answer("finished")  # the last copy says that it is whole
    file.answer("empty", stop_reason=None, usage=used(0, 0))
    imported = read(tmp_path, file)
    assert imported.report.lower_bounds == 1
    assert imported.report.lines()["at least"] == "1 call whose output was counted before it had ended"


# What is no call, and what went wrong


def test_what_the_agent_made_up_itself_costs_nothing(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("u1", text("No response requested."), model="<synthetic>", usage=used(0, 0))
    imported = read(tmp_path, file)
    step = one(imported)
    assert (step["name"], step["model"], step["cost_source"], step["cost_cents"]) == ("<synthetic>", None, None, 0)
    assert imported.report.unpriced == {}
    assert imported.report.notes == {"answers that the agent made up itself, without a call": 1}


def test_an_api_error_is_a_failed_call_and_the_session_s_end(tmp_path: Path) -> None:
    words = "API Error: 529 Overloaded"
    file = (
        SessionFile().prompt().answer("u1", text(words), model="<synthetic>", usage=used(0, 0), isApiErrorMessage=True)
    )
    imported = read(tmp_path, file)
    assert (one(imported)["status"], one(imported)["error"]) == ("error", words)
    assert imported.runs[0].termination_reason == "error"
    assert [(i.violation_type, i.severity) for i in imported.incidents] == [("step_error", "high")]
    later = read(tmp_path, file.prompt("again").answer("msg_2"))
    assert later.runs[0].termination_reason is None
    assert later.incidents[0].severity == "low"


def test_a_call_that_was_tried_again_is_a_failed_one(tmp_path: Path) -> None:
    nested = {"status": 529, "error": {"type": "error", "error": {"message": "Overloaded"}}}
    file = SessionFile().prompt().wait(2).system("api_error", error=nested, retryAttempt=1, retryInMs=500)
    imported = read(tmp_path, file.answer("msg_1"))
    failed = one(imported, status="error")
    assert (failed["step_type"], failed["error"], failed["tokens"], failed["duration_ms"]) == (
        "llm_call", "Overloaded", 0, 3000,
    )  # fmt: skip
    assert imported.report.calls == 2


@pytest.mark.parametrize("error", [None, "Overloaded", {"error": []}, {"message": 7}])
def test_an_error_without_a_text_has_none(tmp_path: Path, error: object) -> None:
    imported = read(tmp_path, SessionFile().prompt().system("api_error", error=error))
    assert (one(imported)["status"], one(imported)["error"]) == ("error", None)


def test_a_compaction_is_a_step_of_memory(tmp_path: Path) -> None:
    file = SessionFile().prompt().wait(60).system("compact_boundary", compactMetadata={"durationMs": 30_000})
    file.prompt("This session is being continued", isCompactSummary=True)
    imported = read(tmp_path, file)
    step = one(imported)
    assert (step["step_type"], step["name"], step["timestamp"], step["duration_ms"], step["tokens"]) == (
        "memory", "compaction", when(31), 30_000, 0,
    )  # fmt: skip


@pytest.mark.parametrize("about", [None, [], {"durationMs": "long"}, {}])
def test_a_compaction_that_says_no_length_took_none(tmp_path: Path, about: object) -> None:
    assert (
        one(read(tmp_path, SessionFile().prompt().system("compact_boundary", compactMetadata=about)))["duration_ms"]
        == 0
    )


def test_a_compaction_began_within_its_session_whatever_it_says(tmp_path: Path) -> None:
    file = SessionFile().prompt().wait(60).system("compact_boundary", compactMetadata={"durationMs": 10**10})
    imported = read(tmp_path, file)
    assert (one(imported)["timestamp"], one(imported)["duration_ms"]) == (when(0), 61_000)
    imported.load_into(tmp_path / "a.sqlite")


def test_a_refused_attempt_is_in_no_total_and_is_said(tmp_path: Path) -> None:
    attempts = [{"input_tokens": 7000, "output_tokens": 1}, {"input_tokens": 10, "output_tokens": 5}]
    file = SessionFile().prompt().answer("msg_1", text(), text(), usage=used(10, 5, iterations=attempts))
    file.answer("msg_2", usage=used(10, 5, iterations=attempts[1:]))
    imported = read(tmp_path, file, file.fork("s2").prompt("more"))
    assert imported.report.tokens["input_tokens"] == 20
    assert imported.report.notes == {"answers after a refused attempt, whose tokens the agent adds to no total": 1}


def test_web_searches_are_said(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("a", text(), text(), usage=used(server_tool_use={"web_search_requests": 3}))
    file.answer("b", usage=used(server_tool_use={"web_search_requests": 2})).answer("c", usage=used(server_tool_use=[]))
    assert read(tmp_path, file).report.notes == {"web searches, which cost extra and are not in the cost": 5}


def test_a_tier_without_a_price_is_never_guessed(tmp_path: Path) -> None:
    file, model = SessionFile().prompt(), "claude-opus-4-8"
    file.answer("a", usage=used(10, 5, service_tier="galactic"), model=model)
    file.answer("b", usage=used(10, 5, speed="fast"), model=model)
    file.answer("c", usage=used(10, 5, speed="standard"), model=model)
    imported = read(tmp_path, file)
    costs = [step["cost_cents"] for step in steps_of(imported)]
    assert costs[0] == 0 < costs[2] < costs[1]
    assert imported.report.unpriced == {model: 1}
    assert imported.report.unknown_tiers == {f"{model}, galactic": 1}


# Tools


def test_a_tool_s_result_ends_it(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("msg_1", tool("t1"), tool("t2"), tool("t3"), tool("t4"))
    file.result("t1").result("t2", "no such file", failed=True)
    file.result("t3", [{"type": "text", "text": "two"}, {"type": "image"}, "parts", 7], failed=True)
    imported = read(tmp_path, file)
    assert [(s["status"], s["error"]) for s in steps_of(imported)[1:]] == [
        ("ok", None), ("error", "no such file"), ("error", "two parts"), ("unfinished", None),
    ]  # fmt: skip
    assert {step["parent_step_index"] for step in steps_of(imported)[1:]} == {0}
    assert fates_of(imported) == (7, 0, 1, 0)


def test_the_first_result_of_a_tool_is_its_own(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("msg_1", tool("t1")).result("t1").result("t1", "again", failed=True)
    assert one(read(tmp_path, file), step_type="tool_call")["status"] == "ok"


def test_a_result_of_a_tool_that_nobody_called_is_metadata(tmp_path: Path) -> None:
    assert fates_of(read(tmp_path, SessionFile().prompt().result("t1"))) == (0, 0, 2, 0)


def test_equal_calls_of_a_tool_have_equal_hashes_whatever_their_ids(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("a", tool("t1", a=1, b=2)).answer("b", tool("t2", b=2, a=1))
    imported = read(tmp_path, file.answer("c", tool("t3", a=1)))
    one_, two, three = (s["content_hash"] for s in steps_of(imported) if s["step_type"] == "tool_call")
    assert one_ == two != three


# Sessions and forks


def test_the_session_that_ended_first_owns_what_a_fork_has_copied(tmp_path: Path) -> None:
    file = SessionFile().prompt("one").answer("msg_1", tool("t1"), usage=used(100, 1)).result("t1", failed=True)
    fork = file.fork("s0").wait(5).prompt("two").answer("msg_2", usage=used(20, 1))
    imported = read(tmp_path, file, fork)
    assert tokens_by_run(imported) == {"s1": 101, "s0": 21}
    assert (imported.report.forks, imported.report.sessions) == (1, 2)
    fork_run = next(run for run in imported.runs if run.run_id == "s0")
    assert fork_run.started_at == when(8)
    assert [i.source_run_id for i in imported.incidents] == ["s1"]
    file.wait(100).prompt("on").answer("msg_3", usage=used(3000, 1))  # now the fork ended first
    imported = read(tmp_path, file, fork)
    assert tokens_by_run(imported) == {"s0": 122, "s1": 3001}
    assert [run.run_id for run in imported.runs] == ["s0", "s1"]


def test_a_fork_of_a_fork_in_another_project(tmp_path: Path) -> None:
    first = SessionFile("a").prompt().answer("m1", usage=used(1, 0))
    second = first.fork("b").prompt().answer("m2", usage=used(20, 0))
    third = second.fork("c").prompt().answer("m3", usage=used(300, 0))
    for project, file in (("x", third), ("y", second), ("z", first)):
        file.write(tmp_path, project)
    imported = read_traces(tmp_path)
    assert tokens_by_run(imported) == {"a": 1, "b": 20, "c": 300}
    assert imported.report.forks == 2


def test_a_fork_whose_original_is_gone_owns_it_all(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1", usage=used(1, 0))
    imported = read(tmp_path, file.fork("s2").prompt().answer("m2", usage=used(20, 0)))
    assert tokens_by_run(imported) == {"s2": 21}
    assert imported.report.forks == 0


def test_a_copy_s_result_ends_the_tool_where_its_own_file_has_none(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1", tool("t1"))
    fork = file.fork("s2").result("t1", "bad", failed=True)
    step = one(read(tmp_path, file, fork), step_type="tool_call")
    assert (step["run_id"], step["status"], step["error"], step["duration_ms"]) == ("s1", "error", "bad", 1000)


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    file = SessionFile().prompt("fix the bug").answer("m1").prompt("and the next")
    run = read(tmp_path, file).runs.to_arrow().to_pylist()[0]
    assert (run["agent_id"], run["goal"], run["started_at"], run["completed_at"]) == (
        "claude-code", "fix the bug", when(0), when(2),
    )  # fmt: skip
    assert {run[n] for n in ("termination_reason", "policy_snapshot_id", "total_cost_cents", "parent_run_id")} == {None}
    assert [run[n] for n in ("source_format", "agent_version", "project", "cwd", "git_branch")] == [
        "claude-code", "2.1.200", "demo", "/home/user/demo", "main",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        {"content": "Caveat", "isMeta": True},
        {"content": "This session is being continued", "isCompactSummary": True},
        {"content": "look", "isSidechain": True},
        {"content": "<command-name>/clear</command-name>"},
        {"content": "<local-command-stdout>ok"},
        {"content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
        {"content": "  \n "},
        {"content": None},
        {"content": [{"type": "image", "source": {}}]},
    ],
)
def test_what_is_no_prompt_is_no_goal(tmp_path: Path, line: dict[str, Any]) -> None:
    file = SessionFile().prompt(line.pop("content"), **line).prompt([text("the"), {"type": "image"}, text("goal")])
    assert read(tmp_path, file.answer()).runs[0].goal == "the\ngoal"


def test_a_session_that_its_user_has_broken_off(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1", tool("t1")).prompt([text("[Request interrupted by user for tool use]")])
    assert read(tmp_path, file).runs[0].termination_reason == "user_abort"
    assert read(tmp_path, file.prompt("go on")).runs[0].termination_reason is None


def test_a_subagent_s_prompt_and_errors_are_not_the_session_s(tmp_path: Path) -> None:
    main = SessionFile(starts=30).prompt("the goal").answer()
    agent = SessionFile(agent_id="a1").prompt("look").answer("x", isApiErrorMessage=True)
    run = read(tmp_path, main, agent.prompt("[Request interrupted by user]")).runs[0]
    assert (run.goal, run.termination_reason, run.started_at) == ("the goal", None, when(0))


# Times, ids, paths


def test_a_line_without_a_time_has_that_of_the_line_before(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1").answer("m2")
    for wrong in (None, 17, "yesterday", "", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9" * 5000):
        file.lines[2]["timestamp"] = wrong
        assert [s["timestamp"] for s in steps_of(read(tmp_path, file))] == [when(0), when(0)]


def test_an_answer_before_any_time_is_rejected(tmp_path: Path) -> None:
    file = SessionFile().answer("m1").answer("m2")
    del file.lines[0]["timestamp"]
    imported = read(tmp_path, file)
    assert (imported.report.calls, imported.report.rejected) == (1, 1)
    assert str(imported.report.rejections[0]).endswith("s1.jsonl:1: an answer without a time, before any line with one")


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1970-01-01T00:00:00Z"])
def test_the_first_and_the_last_time_there_are(tmp_path: Path, moment: str) -> None:
    file = SessionFile().prompt(timestamp=moment).answer("m1", timestamp=moment)
    imported = read(tmp_path, file)
    imported.load_into(tmp_path / "a.sqlite")
    assert imported.runs[0].started_at == imported.runs[0].completed_at == steps_of(imported)[0]["timestamp"]


def test_times_with_an_offset_are_utc_in_the_tables(tmp_path: Path) -> None:
    file = SessionFile().prompt(timestamp="2026-08-01T14:00:00+02:00").answer("m1", timestamp="2026-08-01T12:00:01")
    step = one(read(tmp_path, file))
    assert (step["timestamp"], step["duration_ms"]) == (when(0), 1000)


def test_lines_without_a_session_are_of_the_file_s(tmp_path: Path) -> None:
    file = SessionFile("the-name").prompt().answer("m1")
    for line in file.lines:
        del line["sessionId"]
    assert tokens_by_run(read(tmp_path, file)) == {"the-name": 15}


def test_lines_without_a_session_are_of_the_one_before_them(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1").answer("m2").answer("m3")
    file.lines[1]["sessionId"] = "s2"
    for line, wrong in zip(file.lines[2:], (None, 7), strict=True):
        line["sessionId"] = wrong
    assert tokens_by_run(read(tmp_path, file)) == {"s1": 0, "s2": 45}


@pytest.mark.parametrize(
    ("cwd", "project"),
    [
        (r"C:\Users\me\code\demo", "demo"), ("C:\\", None), (r"\\server\share\demo", "demo"), ("/", None), ("", None),
        ("/home/me/demo/", "demo"), (None, None), (7, None), ("demo", "demo"),
    ],
)  # fmt: skip
def test_a_project_is_the_last_part_of_the_directory(tmp_path: Path, cwd: object, project: str | None) -> None:
    file = SessionFile().prompt(cwd=cwd).answer("m1", cwd=cwd)
    assert one(read(tmp_path, file))["project"] == project


def test_texts_that_no_database_takes_are_replaced(tmp_path: Path) -> None:
    bad = "a\0b\ud800c"
    file = SessionFile(f"s{bad}").prompt(bad, cwd=f"/{bad}", version=bad, gitBranch=bad)
    file.answer(f"m{bad}", text(bad), tool(f"t{bad}", bad, x=bad), model=bad).result(f"t{bad}", bad, failed=True)
    file.answer("m2", tool("task", "Task")).result("task", said={"agentId": f"a{bad}"})
    file.progress(f"a{bad}", f"t{bad}", SessionFile(agent_id="z").answer(f"p{bad}", model=bad).lines[0])
    (tmp_path / "s1.jsonl").write_bytes(file.content)
    imported = read_traces(tmp_path)
    assert imported.runs[0].run_id == "sa�b�c"
    assert imported.runs[0].goal == "a�b�c"
    assert {s["name"] for s in steps_of(imported)} == {"a�b�c", OPUS, "Task"}
    imported.load_into(tmp_path / "a.sqlite")


ODD = [None, 1, 1.5, True, "", "x", [], {}, [1], [[]], {"a": 1}, [{"type": []}], [{"type": "tool_use", "id": 3}]]
FIELDS = ["type", "uuid", "parentUuid", "sessionId", "timestamp", "cwd", "message", "isSidechain", "agentId", "isMeta",
          "isApiErrorMessage", "toolUseResult", "data", "parentToolUseID", "subtype", "error", "compactMetadata"]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_no_error(tmp_path: Path, field: str) -> None:
    main, agent = with_subagent()
    main.progress("a1", "task", agent.lines[1]).system("api_error").system("compact_boundary", compactMetadata={})
    lines = [line | {field: odd} for line in main.lines for odd in ODD]
    (tmp_path / "s1.jsonl").write_bytes(lines_of(*main.lines, *lines))
    imported = read_traces(tmp_path)
    fates_of(imported)
    assert imported.report.calls >= 2
    imported.load_into(tmp_path / "a.sqlite")


@pytest.mark.parametrize("field", ["id", "model", "role", "stop_reason", "content", "usage"])
def test_a_message_s_field_of_another_type_is_no_error(tmp_path: Path, field: str) -> None:
    file = SessionFile().prompt().answer("m1", tool("t1"))
    message = file.lines[1]["message"]
    odd = [file.lines[1] | {"uuid": f"u{i}", "message": message | {field: value}} for i, value in enumerate(ODD)]
    (tmp_path / "s1.jsonl").write_bytes(lines_of(*file.lines, *odd))
    fates_of(read_traces(tmp_path))


# Which files they are


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"type": "user", "sessionId": "s"}, True),
        ({"type": "user", "parentUuid": None}, True),
        ({"type": "summary", "summary": "x", "leafUuid": "u"}, True),
        ({"type": "file-history-snapshot", "messageId": "m"}, True),
        ({"type": "mode", "mode": "plan", "sessionId": "s"}, True),
        ({"type": "summary"}, False),
        ({"type": "started", "agentId": "x"}, False),
        ({"type": 7, "sessionId": "s"}, False),
        ({"type": "response_item", "sessionId": "s", "payload": {}}, False),
        ({}, False),
    ],
)
def test_which_lines_are_claude_code_s(line: dict[str, Any], found: bool) -> None:
    assert recognises(line) is found


def test_lines_of_unknown_types_are_metadata(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m1")
    for type_ in ("queue-operation", "ai-title", "from-the-future"):
        file.lines.append({"type": type_, "sessionId": "s1", "usage": used()})
    file.lines += [{"type": "summary", "summary": "of another", "leafUuid": "u"}, {}, {"type": {"a": 1}}]
    assert fates_of(read(tmp_path, file)) == (1, 0, 7, 0)


def test_a_file_of_settings_alone_is_a_run_without_steps(tmp_path: Path) -> None:
    path = tmp_path / "s9.jsonl"
    path.write_bytes(lines_of({"type": "summary", "summary": "x", "leafUuid": "u", "timestamp": at(0)}))
    imported = read_traces(path)
    assert tokens_by_run(imported) == {"s9": 0}
    assert imported.trace_steps.num_rows == 0
