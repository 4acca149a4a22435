"""Rollouts of any content are read, each token is counted once, and real sessions have their known totals."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exporttools import read_traces
from exporttools.importing.events import End, Session, Step, Usage
from exporttools.importing.json_records import microseconds
from exporttools.importing.source_files import SourceFile
from tests.importing.codex_lines import (
    CALL,
    FELL,
    LOST,
    ME,
    OWN_TURN,
    PARENT,
    Found,
    event,
    item,
    line,
    meta,
    output,
    read_file,
    read_stream,
    said,
    stamp,
    total,
)

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["c1", ME, stamp(3), "\0", "\ud800_call"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_LINES = [
    meta(0, forked_from_id=PARENT, source={"subagent": {"thread_spawn": {}}}, git={}, cwd="/"),
    event(1, "task_started", turn_id=ME, started_at=1777593600),
    line(1, "turn_context", turn_id=ME, model="m"),
    event(1, "user_message", message="x"),
    event(1, "item_completed", item={"type": "UserMessage", "content": []}),
    event(2, "exec_command_end", call_id="c1", exit_code=1, duration={"secs": 1, "nanos": 5}),
    event(2, "mcp_tool_call_end", call_id="c1", result={"Ok": {"isError": True}}),
    event(2, "error", message="x"),
    event(2, "turn_aborted", reason="interrupted"),
    said(2, "assistant", "x"),
    said(2, "user", "x"),
    item(2, **CALL),
    output(3, text="Exit code: 1\nOutput:\n", success=True),
    output(3, text={"content": "x", "metadata": {"exit_code": 1, "duration_seconds": 1}}),
    total(4, 10, 5, 2, 1, last_token_usage={"input_tokens": 1}),
    line(5, "compacted", message=""),
]


def _spots(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(spot for key, each in inner for spot in _spots(each, (*at, key)))]


_SPOTS = [(i, spot) for i, each in enumerate(_LINES) for spot in _spots(each) if spot]


@given(st.lists(st.tuples(st.sampled_from(_SPOTS), _JSON), max_size=4), st.permutations(_LINES), st.booleans())
def test_whatever_stands_anywhere_is_read(changes: list[Any], shuffled: list[Any], is_shuffled: bool) -> None:
    lines = json.loads(json.dumps(_LINES))
    for (i, spot), value in changes:
        inner = lines[i]
        with suppress(KeyError, IndexError, TypeError):  # another change has taken away what stood around it
            for key in spot[:-1]:
                inner = inner[key]
            inner[spot[-1]] = value
    text = "".join(json.dumps(each) + "\n" for each in (shuffled + lines if is_shuffled else lines + shuffled))
    found = _events_of(text.encode())
    told: list[Step | End | Session] = [*found.steps.values(), *found.ends.values(), found.session]
    texts = [text for each in told for text in astuple(each) if isinstance(text, str)]
    assert "\0" not in "".join(texts).encode().decode()  # and no half of a surrogate pair
    for step in found.steps.values():
        assert isinstance(step.start_us, int)
        usage = step.usage or Usage()
        assert usage.input_tokens >= usage.cache_read_tokens + usage.cache_write_tokens >= 0
        assert usage.output_tokens >= usage.reasoning_tokens >= 0


def _events_of(content: bytes, found: Found | None = None) -> Found:
    return read_stream(io.BytesIO(content), SourceFile(Path(f"rollout-{ME}.jsonl"), len(content), 0), found)


_CALLS = st.lists(
    st.tuples(st.integers(0, 999), st.integers(0, 99), st.booleans(), st.sampled_from("cclr")), max_size=12
)


@given(_CALLS, st.integers(0, 5000), st.sampled_from([(0, 0), (7000, 70)]))
def test_each_token_is_counted_once(calls: list[Any], torn_at: int, base: tuple[int, int]) -> None:
    """Totals that are written again, are lost, or begin anew; a fork's base; and a copy that ends in the middle of a line."""
    kinds = "".join(what for *_, what in calls)
    assume("lr" not in kinds)  # what was lost before the counter began anew is in no total
    lines = [meta(forked_from_id=PARENT), total(0, base[0], 0, base[1])]
    lines.append(event(1, "task_started", turn_id=OWN_TURN))
    read, out = base
    used = [0, 0]
    for more_in, more_out, is_repeated, what in calls:
        if what == "r" and (read or out):
            read = out = 0
            lines.append(total(2))
        read, out = read + more_in, out + more_out
        used = [used[0] + more_in, used[1] + more_out]
        if what != "l":
            lines += [total(2, read, 0, out)] * (2 if is_repeated else 1)
        elif is_repeated:
            lines.append({"type": "event_msg", "payload": {"type": "token_count", "info": None}})
    lines.append(total(3, read, 0, out))
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    found = _events_of(content)
    assert found.used() == (used[0], 0, used[1], 0)
    assert _events_of(content, _events_of(content[:torn_at])).used() == found.used()


@pytest.mark.real
class TestRealSessions:
    """Against totals that were counted independently."""

    def check(self, found: Found, expected: dict[str, Any], forks: int) -> None:
        read, cached, out, reasoning = found.used()
        assert {"input": read - cached, "cache_read": cached, "output": out, "reasoning": reasoning} == expected[
            "tokens"
        ]
        by_model: dict[str, list[Step]] = defaultdict(list)
        for step in found.calls:
            by_model[str(step.model)].append(step)
        models = {m: (len(s), sum(x.usage.tokens for x in s if x.usage)) for m, s in by_model.items()}
        assert models == {
            model: (of["calls"], of["input"] + of["cache_read"] + of["output"])
            for model, of in expected["models"].items()
        }
        tools = found.tools
        assert (len(found.calls), len(tools)) == (expected["llm_calls"], expected["tool_calls"])
        assert sum(step.status == "error" for step in tools) == expected["tool_errors"]
        with_counts = {step.session_id for step in found.calls}
        assert all(step.parent is not None for step in tools if step.session_id in with_counts)
        assert len(found.of("llm_call")) - len(found.calls) == expected["errors"]
        assert (
            len(found.repeated) == expected["re_emits"] + expected["copied_lines"] - forks
        )  # their headings are not copied
        assert (len(found.notes[FELL]), len(found.notes[LOST])) == (expected["resets"], expected["last_differs"])
        assert len(found.of("memory")) == expected["compactions"]
        assert (len(found.sessions), found.bad_numbers, found.rejected) == (expected["sessions"], 0, [])
        assert sum(s.parent_session_id is not None for s in found.sessions.values()) == expected["forks"]
        starts, ends = zip(*((s.started_us, s.ended_us) for s in found.sessions.values()), strict=True)
        assert (min(starts), max(ends)) == (microseconds(expected["first"]), microseconds(expected["last"]))

    @pytest.mark.parametrize("group", ["codex", "codex_made", "codex_logpile"])
    def test_each_file_and_all_together(self, real: Path, group: str) -> None:
        place = real / "sessions"
        expected = json.loads((place / "expected.json").read_bytes())
        together, files = Found(), {name: of for name, of in expected["files"].items() if name.startswith(f"{group}/")}
        for name, of in files.items():
            self.check(read_file(place / name), of, of["forks"])
            read_file(place / name, together)
        assert len(files) == expected["directories"][group]["files"]
        self.check(together, expected["directories"][group], sum(of["forks"] for of in files.values()))


@pytest.mark.real
def test_real_forks_are_counted_in_the_report(real: Path) -> None:
    for group, expected in json.loads((real / "sessions" / "expected.json").read_text())["directories"].items():
        if group.startswith("codex"):
            assert read_traces(real / "sessions" / group, progress=False).report.forks == expected["forks"], group
