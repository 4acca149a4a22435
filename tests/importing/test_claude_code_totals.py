"""Real sessions of Claude Code have the totals that were counted independently, alone, by project and together."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from exporttools import ImportedTraces, read_traces
from exporttools.importing.json_records import microseconds
from exporttools.times import epoch_us
from tests.importing.sessions import fates_of, steps_of

pytestmark = pytest.mark.real


def counted(imported: ImportedTraces) -> dict[str, Any]:
    """What the independent counters count."""
    report, steps = imported.report, steps_of(imported)
    tokens = report.tokens
    written, hour = tokens["cache_write_tokens"], tokens["cache_write_1h_tokens"]
    calls = [step for step in steps if step["step_type"] == "llm_call"]
    tools = [step for step in steps if step["step_type"] in ("tool_call", "agent")]
    answers = [step for step in calls if step["name"] is not None]
    models: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for step in answers:
        if step["model"] is not None:
            models[step["model"]].append(step)
    starts = [run.started_at for run in imported.runs if run.started_at is not None]
    return {
        "lines": report.records, "bad_lines": report.rejected, "bad_numbers": report.bad_numbers,
        "messages": len(answers), "messages_with_tokens": sum(step["model"] is not None for step in answers),
        "synthetic": sum(step["name"] == "<synthetic>" for step in calls),
        "duplicates_dropped": report.usages - report.calls,
        "sidechain_messages": sum(step["subagent"] is not None for step in answers),
        "tokens": {
            "input": tokens["input_tokens"] - tokens["cache_read_tokens"] - written,
            "cache_read": tokens["cache_read_tokens"], "cache_write_5m": written - hour, "cache_write_1h": hour,
            "output": tokens["output_tokens"],
        },
        "tokens_total": tokens["input_tokens"] + tokens["output_tokens"],
        "models": {model: (len(of), sum(step["tokens"] for step in of)) for model, of in models.items()},
        "tool_calls": len(tools), "tool_errors": sum(step["status"] == "error" for step in tools),
        "api_errors": sum(step["name"] == "<synthetic>" and step["status"] == "error" for step in calls),
        "sessions": report.sessions, "subagents": report.subagents,
        "first": min(map(epoch_us, starts), default=None),
    }  # fmt: skip


def expected(of: dict[str, Any]) -> dict[str, Any]:
    kinds = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output")
    models = {m: (x["messages"], sum(x[kind] for kind in kinds)) for m, x in of["models"].items()}
    same = {"lines", "bad_lines", "bad_numbers", "messages", "messages_with_tokens", "synthetic", "duplicates_dropped",
            "sidechain_messages", "tokens", "tokens_total", "tool_calls", "tool_errors", "api_errors", "sessions", "subagents"}  # fmt: skip
    return {name: of[name] for name in same} | {"models": models, "first": microseconds(of["first"])}


@pytest.mark.parametrize("kind", ["directories", "groups", "files"])
def test_totals(real: Path, kind: str) -> None:
    place = real / "sessions"
    totals = json.loads((place / "expected.json").read_bytes())[kind]
    ours = {name: of for name, of in totals.items() if name.startswith("claude_code")}
    assert len(ours) == {"directories": 2, "groups": 28, "files": 48}[kind]
    for name, of in ours.items():
        imported = read_traces(place / name)
        assert counted(imported) == expected(of), name
        fates_of(imported)


def test_every_project_adds_up_to_all(real: Path) -> None:
    """No message is in two projects but those of made-fork and its fork elsewhere."""
    projects = sorted((real / "sessions/claude_code/projects").iterdir())
    assert len(projects) == 19
    together = read_traces(real / "sessions/claude_code").report
    apart = [read_traces(project).report for project in projects]
    assert sum(report.calls for report in apart) == together.calls
    assert {n: sum(r.tokens[n] for r in apart) for n in together.tokens} == together.tokens
    assert sum(report.cost_cents for report in apart) == pytest.approx(together.cost_cents)


def test_a_real_session_with_subagents(real: Path) -> None:
    imported = read_traces(real / "sessions/claude_code/projects/subagents")
    steps = steps_of(imported)
    started = {i for i, step in enumerate(steps) if step["step_type"] == "agent"}
    firsts = [step for step in steps if step["subagent"] is not None and step["parent_step_index"] in started]
    assert {step["subagent"] for step in firsts} == {step["subagent"] for step in steps} - {None}
    assert all(step["parent_step_index"] is None or step["parent_step_index"] < i for i, step in enumerate(steps))
    assert imported.report.unpriced == {}
    assert imported.report.priced == sum(step["cost_source"] == "priced" for step in steps) > 0
