from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from exporttools.importing.codex import CODEX
from exporttools.importing.events import Rejected, Session, Usage, content_hash
from tests.importing.codex_lines import (
    CALL,
    FELL,
    LOST,
    ME,
    OWN_TURN,
    PARENT,
    PARENT_TURN,
    UNCOUNTED,
    Found,
    event,
    item,
    line,
    meta,
    output,
    read_file,
    said,
    stamp,
    total,
    us,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"rollout-2026-05-01T02-00-00-{ME}.jsonl"


@pytest.fixture
def read(path: Path) -> Any:
    def write_and_read(*lines: Any) -> Found:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_file(path)

    return write_and_read


class TestRecognising:
    @pytest.mark.parametrize(
        "value",
        [
            meta(),
            event(0, "token_count"),
            line(0, "turn_context"),
            {"record_type": "state"},
            {"id": ME, "timestamp": stamp(0), "instructions": None, "git": {}},
        ],
    )
    def test_lines_of_rollouts(self, value: dict[str, Any]) -> None:
        assert CODEX.recognises(value)

    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"type": "user", "sessionId": "a", "timestamp": stamp(0)},
            {"type": ["session_meta"], "payload": {}, "timestamp": stamp(0)},
            {"type": "session_meta", "payload": [], "timestamp": stamp(0)},
            {"type": "message", "role": "user", "content": []},
            {"id": 7, "timestamp": stamp(0), "instructions": None},
        ],
    )
    def test_others(self, value: dict[str, Any]) -> None:
        assert not CODEX.recognises(value)


class TestTotals:
    def test_a_call_is_what_the_total_has_grown_by(self, read: Any) -> None:
        found = read(meta(), total(1, 100, 40, 10, 3), total(2, 300, 200, 25, 3))
        assert [step.usage for step in found.calls] == [Usage(100, 10, 40, reasoning_tokens=3), Usage(200, 15, 160)]
        assert found.calls[0].provider == "openai"

    def test_writes_to_caches_are_a_part_of_the_input(self, read: Any) -> None:
        counted = total(1, 100, 40, 10)
        counted["payload"]["info"]["total_token_usage"]["cache_write_input_tokens"] = 25
        assert read(meta(), counted).calls[0].usage == Usage(100, 10, 40, 25)

    def test_parts_are_never_more_than_the_whole(self, read: Any) -> None:
        counted = total(1, 10, 8, 5, 9)
        counted["payload"]["info"]["total_token_usage"]["cache_write_input_tokens"] = 7
        assert read(meta(), counted).calls[0].usage == Usage(10, 5, 8, 2, reasoning_tokens=5)
        assert read(meta(), total(1, 10, 40, 5)).calls[0].usage == Usage(10, 5, 10)

    def test_the_same_total_again_is_no_call(self, read: Any) -> None:
        found = read(meta(), total(1, 100, 0, 10), total(2, 100, 0, 10), total(3, 100, 0, 10))
        assert (found.used(), found.repeated) == ((100, 0, 10, 0), [3, 4])

    def test_limits_alone_are_nothing(self, read: Any) -> None:
        found = read(meta(), event(1, "token_count", info=None, rate_limits={}), event(2, "token_count"))
        assert not found.steps and not found.repeated and not found.notes

    def test_a_total_that_falls_counts_from_zero(self, read: Any) -> None:
        found = read(meta(), total(1, 100, 50, 10), total(2, 30, 0, 5), total(3, 50, 0, 9))
        assert [step.usage.tokens for step in found.calls] == [110, 35, 24]
        assert len(found.notes[FELL]) == 1

    def test_equal_totals_before_and_after_a_fall_are_two_calls(self, read: Any) -> None:
        found = read(meta(), total(1, 100), total(2, 0), total(3, 100))
        assert [step.usage.tokens for step in found.calls] == [100, 100]

    def test_a_full_context_window_is_no_call(self, read: Any) -> None:
        full = total(2)
        full["payload"]["info"]["total_token_usage"]["total_tokens"] = 258_400
        found = read(meta(), total(1, 1000, 800, 10), full, total(3, 40, 30, 5))
        assert (found.used(), len(found.notes[FELL])) == ((1040, 830, 15, 0), 1)

    def test_a_count_that_was_never_written_is_in_the_next(self, read: Any) -> None:
        last = {"input_tokens": 100, "output_tokens": 10}
        found = read(meta(), total(1, 100, 0, 10, last_token_usage=last), total(2, 500, 0, 30, last_token_usage=last))
        assert (found.used(), len(found.notes[LOST])) == ((500, 0, 30, 0), 1)

    @pytest.mark.parametrize("bad", ["90", -1, 2.5, True, {}, 2**60])
    def test_a_foreign_number_is_made_up_for_by_the_next_total(self, read: Any, bad: Any) -> None:
        found = read(meta(), total(1, 50, 0, 5), total(2, bad, 0, 9), total(3, 100, 0, 10))
        assert (found.used(), found.bad_numbers, len(found.notes)) == ((100, 0, 10, 0), 1, 0)

    def test_a_missing_number_has_not_moved(self, read: Any) -> None:
        found = read(meta(), total(1, 50, 20, 5), total(2, 60, None, 9), total(3, 100, 30, 10))
        assert (found.used(), found.bad_numbers) == ((100, 30, 10, 0), 0)

    def test_without_a_time_it_is_rejected_and_the_next_total_has_it(self, read: Any) -> None:
        timeless = [meta(), total(1, 70, 0, 7)]
        for each in timeless:
            each["timestamp"] = "yesterday"
        timeless[0]["payload"]["timestamp"] = None
        found = read(*timeless, total(2, 100, 0, 10))
        assert found.used() == (100, 0, 10, 0)
        assert found.rejected == [Rejected(2, "a count of tokens without a time, before any line with one")]

    def test_models_by_turn(self, read: Any) -> None:
        found = read(
            *(meta(), line(1, "turn_context", model="gpt-a"), total(2, 10)),
            *(line(3, "turn_context", model=["?"]), total(4, 20), line(5, "turn_context", model="gpt-b"), total(6, 30)),
        )
        assert [(step.model, step.name) for step in found.calls] == [("gpt-a",) * 2, ("gpt-a",) * 2, ("gpt-b",) * 2]


class TestForks:
    def copied(self, turn: str = PARENT_TURN, started_at: float | None = None) -> list[dict[str, Any]]:
        return [
            meta(10.5, PARENT),
            event(10.6, "task_started", turn_id=turn, started_at=started_at),
            line(10.7, "turn_context", turn_id=turn, model="gpt-parent"),
            said(10.7, "user", "the parent's task"),
            item(10.8, **CALL),
            total(75, 1000, 500, 100),
        ]

    def own(self, turn: str = OWN_TURN, started_at: float | None = None) -> list[dict[str, Any]]:
        return [
            event(90, "task_started", turn_id=turn, started_at=started_at),
            said(91, "user", "my task"),
            total(95, 1500, 700, 120),
        ]

    def test_own_work_begins_at_the_first_turn_that_is_not_older(self, read: Any) -> None:
        found = read(meta(10.5, forked_from_id=PARENT), *self.copied(), *self.own())
        assert found.used() == (500, 200, 20, 0)
        assert found.repeated == [2, 3, 4, 5, 6, 7]
        assert not found.tools
        session = found.session
        assert (session.session_id, session.parent_session_id, session.goal) == (ME, PARENT, "my task")
        assert (session.started_us, session.ended_us) == (us(10.5), us(95))
        assert [step.model for step in found.calls] == ["gpt-parent"]

    @pytest.mark.parametrize("started_at", [us(10) / 1e6, us(10.9) / 1e6, us(90) / 1e6])
    def test_where_ids_are_no_times_the_start_in_whole_seconds_tells(self, read: Any, started_at: float) -> None:
        copied = self.copied("old", us(0) / 1e6)
        found = read(meta(10.5, forked_from_id=PARENT), *copied, *self.own("new", started_at))
        assert found.used() == (500, 200, 20, 0)

    def test_a_turn_of_the_same_millisecond_is_the_forks_own(self, read: Any) -> None:
        own = self.own(ME[:-1] + "f")
        assert read(meta(10.5, forked_from_id=PARENT), *self.copied(), *own).used() == (500, 200, 20, 0)

    def test_without_a_turn_of_its_own_nothing_counts(self, read: Any) -> None:
        found = read(meta(10.5, forked_from_id=PARENT), *self.copied(), *self.own("new", None))
        assert not found.steps
        assert found.session.parent_session_id == PARENT

    def test_where_the_turns_first_line_is_torn_its_settings_tell(self, read: Any) -> None:
        settings = line(90, "turn_context", turn_id=OWN_TURN, model="gpt-own")
        found = read(meta(10.5, forked_from_id=PARENT), *self.copied(), "torn", settings, *self.own()[1:])
        assert [(step.model, step.usage) for step in found.calls] == [("gpt-own", Usage(500, 20, 200))]

    def test_a_heading_of_another_below_the_own_tells_of_a_copy_too(self, read: Any) -> None:
        found = read(meta(10.5), *self.copied(), *self.own())
        assert (found.used(), found.session.parent_session_id) == ((500, 200, 20, 0), PARENT)

    def test_a_subagent_is_a_run_of_its_own_and_may_have_copied_nothing(self, read: Any) -> None:
        source = {"subagent": {"thread_spawn": {"parent_thread_id": PARENT, "depth": 1}}}
        found = read(meta(10.5, source=source), *self.own())
        assert (found.used(), found.session.parent_session_id) == ((1500, 700, 120, 0), PARENT)
        found = read(meta(10.5, source=source), *self.copied()[1:], *self.own())
        assert (found.used(), found.session.parent_session_id) == ((500, 200, 20, 0), PARENT)

    def test_other_subagents_copy_nothing(self, read: Any) -> None:
        found = read(meta(0, source={"subagent": "review"}, parent_thread_id=PARENT), total(1, 10))
        assert (found.used(), found.session.parent_session_id) == ((10, 0, 0, 0), PARENT)

    def test_the_counter_may_begin_anew_in_a_fork(self, read: Any) -> None:
        found = read(meta(10.5, forked_from_id=PARENT), *self.copied(), *self.own()[:2], total(95, 7, 0, 1))
        assert found.used() == (7, 0, 1, 0)

    def test_a_further_heading_of_a_resumed_session_is_nothing(self, read: Any) -> None:
        found = read(meta(), total(1, 10), meta(50), meta(51, PARENT), total(52, 25))
        assert (found.used(), found.session.session_id, found.repeated) == ((25, 0, 0, 0), ME, [])


class TestCalls:
    def test_from_what_was_asked_to_the_last_line_of_the_answer(self, read: Any) -> None:
        found = read(
            *(meta(), event(1, "task_started"), said(2, "user", "go"), item(4, type="reasoning"), item(5, **CALL)),
            *(output(8), total(9, 10), said(11, "assistant", "done"), total(12, 30)),
        )
        assert [(s.start_us, s.end_us) for s in found.calls] == [(us(2), us(5)), (us(8), us(11))]
        assert [s.content_hash for s in found.calls] == [None, content_hash("llm_call", None, ["done"])]

    def test_without_lines_from_the_count_before(self, read: Any) -> None:
        found = read(meta(), event(1, "task_started"), total(3, 10), total(7, 20))
        assert [(s.start_us, s.end_us) for s in found.calls] == [(us(1), us(3)), (us(3), us(7))]

    def test_one_answer_after_another_without_tools(self, read: Any) -> None:
        found = read(
            meta(),
            said(1, "user", "go"),
            said(3, "assistant", "a"),
            total(4, 10),
            said(6, "assistant", "b"),
            total(7, 20),
        )
        assert [(s.start_us, s.end_us) for s in found.calls] == [(us(1), us(3)), (us(3), us(6))]

    def test_an_answer_without_a_count(self, read: Any) -> None:
        found = read(meta(), said(1, "assistant", "a"), item(2, **CALL), event(5, "task_started"), total(7, 10))
        assert [(s.start_us, s.end_us) for s in found.calls] == [(us(5), us(7))]
        assert [s.parent for s in found.tools] == [None]
        assert len(found.notes[UNCOUNTED]) == 1
        assert len(read(meta(), total(1, 10), said(2, "assistant", "torn")).notes[UNCOUNTED]) == 1

    def test_errors(self, read: Any) -> None:
        found = read(meta(), said(1, "user", "go"), event(3, "error", message="limit\0", codex_error_info={}))
        (step,) = found.of("llm_call")
        assert (step.status, step.error, step.usage, step.start_us, step.end_us) == (
            "error",
            "limit\ufffd",
            None,
            us(1),
            us(3),
        )
        assert found.session.termination_reason == "error"

    def test_interruptions(self, read: Any) -> None:
        aborted = [meta(), event(1, "task_started"), event(2, "turn_aborted", reason="interrupted")]
        assert read(*aborted).session.termination_reason == "user_abort"
        assert read(*aborted, event(3, "task_started")).session.termination_reason is None
        assert read(meta(), event(2, "turn_aborted", reason="replaced")).session.termination_reason is None

    def test_compactions(self, read: Any) -> None:
        found = read(meta(), line(4, "compacted", message="", replacement_history=[item(0, **CALL)]))
        (step,) = found.steps.values()
        assert (step.step_type, step.name, step.start_us) == ("memory", "compaction", us(4))
        assert list(found.notes) == ["compactions, whose own tokens may be in no count"]


class TestTools:
    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("Chunk ID: 1\nWall time: 0.4 seconds\nProcess exited with code 0\nOutput:\nExit code: 1\n", None),
            ("Chunk ID: 1\nWall time: 0.4 seconds\nProcess exited with code 2\nOutput:\nno such file\n", "exit code 2: no such file"),
            ("Exit code: 1\nWall time: 3 seconds\nOutput:\n", "exit code 1"),
            ("Exit code: -9\nWall time: 3 seconds\nOutput:\nkilled", "exit code -9: killed"),
            ("Wall time: 1.0 seconds\nProcess running with session ID 42\nOutput:\nProcess exited with code 1", None),
            ("the log says\nProcess exited with code 1", None),
            (json.dumps({"output": "oh", "metadata": {"exit_code": 127, "duration_seconds": 0.1}}), "exit code 127: oh"),
            (json.dumps({"output": "fine", "metadata": {"exit_code": 0}}), None),
            ('{"output": "cut', None),
            ('{"metadata": cut', None),
            ({"content": "denied", "success": False}, "denied"),
            ({"output": "bad", "metadata": {"exit_code": 1}}, "exit code 1: bad"),
            ([{"type": "input_text", "text": "Exit code: 3\nOutput:\nx"}, {"type": "input_image"}], "exit code 3: x"),
            (None, None),
            (7, None),
        ],
    )  # fmt: skip
    def test_how_it_went_by_the_output(self, read: Any, text: Any, error: str | None) -> None:
        found = read(meta(), item(1, **CALL), output(3, text=text), total(4, 10))
        (end,) = found.ends.values()
        assert (end.status, end.error, end.end_us, end.record) == ("ok" if error is None else "error", error, us(3), 3)

    @pytest.mark.parametrize(
        ("payload", "error"),
        [
            ({"type": "exec_command_end", "exit_code": 1, "stderr": "broken"}, "broken"),
            ({"type": "exec_command_end", "exit_code": 0, "stderr": "a warning"}, None),
            ({"type": "patch_apply_end", "success": False, "stderr": "no match"}, "no match"),
            ({"type": "patch_apply_end", "success": True}, None),
            ({"type": "mcp_tool_call_end", "result": {"Err": "refused"}}, "refused"),
            ({"type": "mcp_tool_call_end", "result": {"Ok": {"content": [], "isError": True}}}, ""),
            ({"type": "mcp_tool_call_end", "result": {"Ok": {"content": []}}}, None),
        ],
    )
    def test_how_it_went_by_an_event(self, read: Any, payload: dict[str, Any], error: str | None) -> None:
        found = read(meta(), item(1, **CALL), line(2, "event_msg", call_id="c1", **payload), output(3, text=""))
        (end,) = found.ends.values()
        assert (end.status, end.error, end.record) == ("ok" if error is None else "error", error or None, 4)

    def test_without_a_time_of_its_own_it_ends_when_the_command_did(self, read: Any) -> None:
        ended = event(2, "exec_command_end", call_id="c1", exit_code=0, duration={"secs": 2, "nanos": 500_000_000})
        timeless = output(0, text="Exit code: 0\nWall time: 9 seconds\nOutput:\n") | {"timestamp": None}
        assert [end.end_us for end in read(meta(), item(1, **CALL), ended, timeless).ends.values()] == [us(3.5)]
        assert [end.end_us for end in read(meta(), item(1, **CALL), timeless).ends.values()] == [us(10)]

    def test_a_call_is_part_of_the_answer_that_is_counted_next(self, read: Any) -> None:
        other = CALL | {"call_id": "c2"}
        found = read(
            meta(),
            item(1, **CALL),
            output(2),
            total(3, 10),
            item(4, **other),
            total(5, 10),
            total(6, 20),
            output(7, "c2"),
        )
        assert [(s.parent, s.start_us, s.status) for s in found.tools] == [
            (found.calls[0].key, us(1), "ok"),
            (found.calls[1].key, us(4), "ok"),
        ]

    def test_without_an_output_it_is_unfinished(self, read: Any) -> None:
        found = read(meta(), item(1, **CALL), total(2, 10), output(3, "another"))
        assert [s.status for s in found.tools] == ["unfinished"]

    def test_names(self, read: Any) -> None:
        found = read(
            meta(),
            item(1, type="function_call", name="spawn_agent", call_id="a", arguments="{}"),
            item(1, type="function_call", namespace="mcp__files__", name="read", call_id="b", arguments="{}"),
            item(1, type="local_shell_call", call_id="c", action={}),
            item(1, type="custom_tool_call", name="apply_patch\ud800", call_id="d", input="*** Begin Patch"),
        )
        assert [(s.step_type, s.name) for s in found.tools] == [
            ("agent", "spawn_agent"),
            ("tool_call", "mcp__files__read"),
            ("tool_call", "local_shell"),
            ("tool_call", "apply_patch\ufffd"),
        ]

    def test_tools_at_the_models_side_have_ended(self, read: Any) -> None:
        search = item(2, type="web_search_call", status="completed", action={"query": "x"})
        image = item(3, type="image_generation_call", id="ig_1", status="failed")
        found = read(meta(), search, search, image, total(4, 10))
        assert [(s.name, s.status, s.end_us) for s in found.tools] == [
            *[("web_search", "ok", us(2))] * 2,
            ("image_generation", "error", us(3)),
        ]
        assert len(found.notes["web searches, which cost extra and are not in the cost"]) == 2

    def test_a_line_written_twice_is_one_call_and_an_id_used_again_is_another(self, read: Any) -> None:
        found = read(meta(), item(1, **CALL), item(1, **CALL), output(2), output(2), item(5, **CALL), output(6))
        assert [(s.start_us, s.status) for s in found.tools] == [(us(1), "ok"), (us(5), "ok")]
        assert [end.end_us for end in found.ends.values()] == [us(2), us(6)]
        assert found.repeated == [3]

    def test_hashes_are_of_what_was_asked(self, read: Any) -> None:
        asked = ['{"a": 1, "b": 2}', '{"b":2,"a":1}', '{"a": 2}', "{torn", "[" * 300 + "]" * 300]
        lines = [item(i, **CALL | {"call_id": str(i), "arguments": text}) for i, text in enumerate(asked)]
        first, same, other, torn, deep = (s.content_hash for s in read(meta(), *lines).tools)
        assert first == same == content_hash("tool_call", "shell", {"a": 1, "b": 2})
        assert len({first, other, torn}) == 3
        assert deep is None

    def test_without_a_time_it_is_rejected(self, read: Any) -> None:
        timeless = [
            {"type": "response_item", "payload": CALL},
            {"type": "event_msg", "payload": {"type": "error"}},
            {"type": "compacted", "payload": {}},
        ]
        reasons = [rejected.reason for rejected in read(*timeless).rejected]
        assert reasons == [
            f"{what} without a time, before any line with one" for what in ("a tool's call", "an error", "a compaction")
        ]


class TestSessions:
    def test_a_heading_may_say_its_time_itself(self, read: Any) -> None:
        found = read(meta(3) | {"timestamp": None}, total(4, 10) | {"timestamp": "?"})
        assert (found.session.started_us, [step.end_us for step in found.calls]) == (us(3), [us(3)])

    def test_heading(self, read: Any) -> None:
        found = read(meta(3, cwd="/home/user/demo", cli_version="0.130.0", git={"branch": "main"}), total(8, 1))
        assert found.session == Session(
            ME, us(3), us(8), "codex", cwd="/home/user/demo", git_branch="main", agent_version="0.130.0"
        )

    @pytest.mark.parametrize(
        "prompt",
        [
            event(2, "user_message", message="<b>fix</b> it"),
            event(2, "user_message", message="# Context\nopen: a.py\n## My request for Codex:\n<b>fix</b> it\n"),
            event(2, "item_completed", item={"type": "UserMessage", "content": [{"type": "text", "text": "<b>fix</b> it"}]}),
        ],
    )  # fmt: skip
    def test_goal(self, read: Any, prompt: dict[str, Any]) -> None:
        injected = [said(1, "user", text) for text in ("# AGENTS.md instructions for /x", "<environment_context>")]
        assert read(meta(), *injected, prompt, said(9, "user", "later")).session.goal == "<b>fix</b> it"

    def test_goal_by_the_conversation_alone(self, read: Any) -> None:
        assert (
            read(meta(), said(1, "developer", "rules"), said(2, "user", "<x>"), said(3, "user", "go")).session.goal
            == "go"
        )

    def test_without_a_heading_the_files_name_tells(self, read: Any, path: Path) -> None:
        assert read(total(1, 10)).session.session_id == ME
        named = path.rename(path.with_name("mine.jsonl"))
        assert read_file(named).session.session_id == "mine"

    def test_a_heading_that_comes_too_late_changes_no_key(self, read: Any) -> None:
        found = read("torn", total(1, 10), meta(2, "another"), total(3, 20))
        assert (list(found.sessions), {step.session_id for step in found.calls}) == ([ME], {ME})

    def test_before_there_were_envelopes(self, read: Any) -> None:
        context = "<environment_context>\n  <cwd>/home/user/demo</cwd>\n</environment_context>"
        found = read(
            {"id": "old", "timestamp": stamp(5), "instructions": "", "git": {"branch": "b"}},
            *({"record_type": "state"}, {"type": "message", "role": "user", "content": [{"text": context}]}),
            {"type": "message", "role": "user", "content": "go"},
            *(CALL, {"type": "function_call_output", "call_id": "c1", "output": "Wall time: 1.5 seconds\nOutput:\n"}),
        )
        assert found.session == Session("old", us(5), us(5), "codex", "go", cwd="/home/user/demo", git_branch="b")
        assert [(s.start_us, s.status) for s in found.tools] == [(us(5), "ok")]
        assert [end.end_us for end in found.ends.values()] == [us(6.5)]
        assert list(found.notes) == ["sessions of an old version, which wrote no tokens"]

    def test_an_archived_copy_packed_or_not_counts_nothing_more(self, path: Path, tmp_path: Path) -> None:
        lines = [
            meta(),
            item(1, **CALL),
            output(2),
            total(3, 10),
            total(4, 5),
            item(5, type="web_search_call"),
            total(6, 25),
            total(6, 25),
        ]
        whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
        path.write_bytes(whole)
        once = read_file(path)
        for part in (whole, whole[: len(whole) // 2]):
            packed = tmp_path / "archived" / f"{path.name}.zst"
            packed.parent.mkdir(exist_ok=True)
            with pa.output_stream(str(packed), compression="zstd") as stream:
                stream.write(part)
            both = read_file(path, read_file(packed))
            assert both.used() == once.used() == (35, 0, 0, 0)
            assert both.steps.keys() == once.steps.keys()
            assert {what: len(about) for what, about in both.notes.items() if what != UNCOUNTED} == {
                what: len(about) for what, about in once.notes.items()
            }
