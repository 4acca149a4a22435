"""A session in its own format and converted into another: each token once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exporttools import read_traces

AT = "2026-08-01T10:00:0{}.000Z"
OWN = {
    "type": "assistant", "sessionId": "s1", "uuid": "u1", "timestamp": AT.format(1),
    "message": {"id": "msg_1", "model": "claude-sonnet-4-6", "stop_reason": "end_turn",
                "usage": {"input_tokens": 90, "output_tokens": 10}},
}  # fmt: skip


def converted(session_id: str) -> dict[str, Any]:
    step = {"step_id": 1, "source": "agent", "timestamp": AT.format(1), "message": "done", "model_name": "claude-sonnet-4-6",
            "metrics": {"prompt_tokens": 90, "completion_tokens": 10}}  # fmt: skip
    agent = {"name": "claude-code", "version": "2", "model_name": "claude-sonnet-4-6"}
    return {"schema_version": "ATIF-v1.6", "session_id": session_id, "agent": agent, "steps": [step]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s1.jsonl").write_text(json.dumps(OWN) + "\n")
    return tmp_path


def test_a_conversion_of_a_session_that_is_here_counts_nothing(folder: Path) -> None:
    alone = read_traces(folder, progress=False)
    (folder / "s1.trajectory.json").write_text(json.dumps(converted("s1")))
    both = read_traces(folder, progress=False)
    assert both.runs == alone.runs
    assert both.trace_steps.equals(alone.trace_steps)
    report = both.report
    assert report.notes == {"sessions that are here in their own format too, whose conversion is not counted": 1}
    assert (report.usages, report.calls) == (2, 1)
    assert report.records == report.counted + report.copies + report.metadata + report.rejected == 2


def test_a_conversion_of_another_session_counts(folder: Path) -> None:
    (folder / "s2.trajectory.json").write_text(json.dumps(converted("s2")))
    assert read_traces(folder, progress=False).report.tokens["output_tokens"] == 20
