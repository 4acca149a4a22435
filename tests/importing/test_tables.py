"""Sessions as the native tables: rows, costs, tokens by kind, incidents, sums, and digests that no order of files changes."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyarrow as pa
import pytest

from exporttools import ImportedTraces, cost_by, read_bundle, read_traces, timeline, verify_bundle, write_bundle
from exporttools.importing.events import Session, Step, Usage
from exporttools.importing.incident_rules import INCIDENT_RULES
from exporttools.importing.resolving import SessionSteps
from exporttools.importing.tables import SCHEMAS, TableWriter, project_of
from exporttools.records.schema import RECORD_TYPES
from exporttools.records.validity import Origin, require_valid
from exporttools.times import epoch_us
from tests.importing.sessions import HAIKU, NOON, OPUS, SessionFile, read, steps_of, tool, used, when


def step(key: str = "k", *, at: float = 0, kind: str = "llm_call", usage: Usage | None = None, **more: Any) -> Step:
    return Step(1, key, "s", kind, epoch_us(NOON) + round(at * 1e6), usage=usage, **more)


def written(
    *steps: Step, prices: Any = None, budget: float | None = None, **about: Any
) -> tuple[dict[str, pa.Table], TableWriter]:
    """The tables of one session."""
    writer = TableWriter(prices, tuple(INCIDENT_RULES), budget)
    session = SessionSteps(Session("s", **about), "claude-code", list(steps), [None] * len(steps))
    return writer.tables([session]), writer


def test_the_tables_have_the_records_columns_and_the_well_known_extra_ones(tmp_path: Path) -> None:
    imported = read(tmp_path, SessionFile().prompt().answer("m", tool("t")).result("t", failed=True))
    for table, record_type in RECORD_TYPES.items():
        rows = imported._stored[table]
        assert rows.schema.equals(SCHEMAS[table], check_metadata=True)
        assert rows.column_names == [c.name for c in record_type.stored_columns(record_type.extra)]
        require_valid(rows, record_type.stored_columns(), origin=Origin(table), key=record_type.stored_key)
    names = ["tenant_id", "run_id", "trace_id", "agent_id", *SCHEMAS["trace_steps"].names[2:]]
    assert imported.trace_steps.column_names == names
    assert {row["tenant_id"] for row in imported.trace_steps.to_pylist()} == {"local"}


def test_a_step_s_row() -> None:
    usage = Usage(100, 20, 30, 40, 15, 5)
    tables, _ = written(
        step(usage=usage, end_us=epoch_us(NOON) + 1_500_250, name="n", model="m", status="error", error="e",
             content_hash="h", agent="a"), cwd="/home/user/demo",
    )  # fmt: skip
    assert tables["trace_steps"].to_pylist() == [{
        "tenant_id": "local", "trace_id": "s", "step_index": 0, "timestamp": NOON, "step_type": "llm_call", "tokens": 120,
        "cost_cents": 0.0, "duration_ms": 1500.25, "status": "error", "content_hash": "h", "name": "n", "model": "m",
        "error": "e", "parent_step_index": None, "cost_source": "none", "price_basis": None, "input_tokens": 100,
        "output_tokens": 20, "cache_read_tokens": 30, "cache_write_tokens": 40, "cache_write_1h_tokens": 15,
        "reasoning_tokens": 5, "subagent": "a", "project": "demo",
    }]  # fmt: skip


def test_a_step_that_ends_before_it_starts_or_never_takes_no_time() -> None:
    tables, _ = written(step("a", end_us=0), step("b"))
    assert tables["trace_steps"]["duration_ms"].to_pylist() == [0.0, 0.0]
    assert tables["trace_steps"]["input_tokens"].to_pylist() == [None, None]


def test_a_run_s_and_a_trace_s_row() -> None:
    about = {"started_us": epoch_us(NOON), "ended_us": epoch_us(NOON) + 1, "agent_id": "claude-code", "goal": "g",
             "termination_reason": "error", "parent_session_id": "p", "cwd": "/x/y", "git_branch": "b", "agent_version": "1"}  # fmt: skip
    tables, _ = written(step(at=5), step("f", at=6, status="error"), **about)
    (run,) = tables["runs"].to_pylist()
    assert run == {
        "run_id": "s", "tenant_id": "local", "agent_id": "claude-code", "goal": "g", "policy_snapshot_id": None,
        "started_at": NOON, "completed_at": NOON + dt.timedelta(microseconds=1), "termination_reason": "error",
        "total_cost_cents": None, "source_format": "claude-code", "agent_version": "1", "parent_run_id": "p", "project": "y",
        "cwd": "/x/y", "git_branch": "b",
    }  # fmt: skip
    assert tables["traces"].to_pylist() == [{
        "trace_id": "s", "run_id": "s", "tenant_id": "local", "violation_step_index": 1, "violation_timestamp": when(6),
    }]  # fmt: skip
    assert tables["incidents"].to_pylist() == [{
        "id": "s:step_error", "tenant_id": "local", "source_run_id": "s", "severity": "high", "policy_id": None,
        "policy_name": None, "violation_type": "step_error", "created_at": when(6),
    }]  # fmt: skip


def test_the_trace_s_violation_is_the_first_of_its_incidents() -> None:
    same = [step(f"t{i}", at=i, kind="tool_call", content_hash="h") for i in range(6)]
    tables, _ = written(*same, step("f", at=9, status="error", usage=Usage(1), cost_usd=0.5), budget=10.0)
    assert [row["id"] for row in tables["incidents"].to_pylist()] == ["s:step_error", "s:loop", "s:budget_exceeded"]
    assert tables["traces"]["violation_step_index"].to_pylist() == [1]


# Costs


def test_where_costs_come_from() -> None:
    from exporttools.analysis.prices import PriceList

    million = Usage(10**6)
    tables, writer = written(
        step("stated", usage=million, cost_usd=0.25, model=OPUS), step("estimated", usage=million, cost_usd=0.25, cost_basis="a guess"),
        step("priced", usage=million, model=OPUS, provider="anthropic"), step("unknown", usage=million, model="nope-1"),
        step("no model", usage=million), step("tier", usage=million, model=OPUS, provider="anthropic", tier="galactic"),
        step("no tokens", usage=Usage(), model=OPUS, is_lower_bound=True), step("tool", kind="tool_call"),
        step("more", usage=million, model=HAIKU, provider="anthropic", is_lower_bound=True), prices=PriceList(),
    )  # fmt: skip
    steps = tables["trace_steps"].to_pylist()
    assert [(s["cost_source"], s["cost_cents"]) for s in steps] == [
        ("reported", 25.0), ("reported", 25.0), ("priced", 500.0), ("none", 0.0), ("none", 0.0), ("none", 0.0), (None, 0.0),
        (None, 0.0), ("priced", 100.0),
    ]  # fmt: skip
    assert [s["price_basis"] for s in steps[:2]] == [None, "a guess"]
    assert steps[2]["price_basis"].endswith("claude-opus-4-6")
    billing = writer.billing
    assert (billing.reported, billing.priced, billing.lower_bounds) == (2, 2, 1)
    assert billing.unpriced == {"nope-1": 1, "unknown model": 1, OPUS: 1}
    assert billing.unknown_tiers == {f"{OPUS}, galactic": 1}
    assert writer.cost_cents == 650.0


def test_without_prices_costs_are_not_known(tmp_path: Path) -> None:
    imported = read(tmp_path, SessionFile().prompt().answer(), price=False)
    assert [(s["cost_source"], s["cost_cents"], s["price_basis"]) for s in steps_of(imported)] == [("none", 0.0, None)]
    assert imported.report.unpriced == {OPUS: 1}


def test_sums_are_exact_and_rounded_once() -> None:
    costs = [0.1, 1e16, 0.7, -1e16, 0.2] * 3
    steps = [step(f"k{i}", usage=Usage(1), cost_usd=cost / 100) for i, cost in enumerate(costs)]
    _, writer = written(*steps)
    assert writer.cost_cents == math.fsum(step.cost_usd * 100 for step in steps if step.cost_usd is not None)
    assert writer.by_session()["cost_cents"].to_pylist() == [writer.cost_cents]


# Sums by session and day


def test_sums_by_session_and_by_day(tmp_path: Path) -> None:
    late = SessionFile("late", starts=11 * 3600 + 3590).prompt().wait(8).answer("a", usage=used(10**6, 0)).wait(2)
    late.prompt().answer("b", tool("t"), usage=used(2 * 10**6, 0)).result("t", failed=True)
    imported = read(tmp_path, late, SessionFile("early").prompt().answer("c", usage=used(3, 4)))
    assert imported.report.by_day.to_pylist() == [
        {"day": dt.date(2026, 8, 1), "calls": 2, "tokens": 1_000_007, "cost_cents": 500.0115},
        {"day": dt.date(2026, 8, 2), "calls": 1, "tokens": 2_000_000, "cost_cents": 1000.0},
    ]
    by_session = imported.report.by_session.to_pylist()
    assert [row["run_id"] for row in by_session] == ["early", "late"]
    assert by_session[1] == {
        "run_id": "late", "source_format": "claude-code", "project": "demo", "started_at": when(11 * 3600 + 3590),
        "completed_at": when(12 * 3600 + 4), "calls": 2, "tool_calls": 1, "failed": 1, "tokens": 3_000_000,
        "cost_cents": 1500.0,
    }  # fmt: skip
    totals = (imported.report.calls, sum(imported.report.tokens[n] for n in ("input_tokens", "output_tokens")))
    assert totals == (3, 3_000_007)
    assert sum(row["cost_cents"] for row in by_session) == pytest.approx(imported.report.cost_cents)


@pytest.mark.parametrize(
    ("cwd", "project"),
    [
        ("/home/user/demo", "demo"),
        (r"D:\code\demo", "demo"),
        ("C:/x/demo", "demo"),
        ("/", None),
        (".", None),
        (None, None),
    ],
)
def test_projects(cwd: str | None, project: str | None) -> None:
    assert project_of(cwd) == project


# Digests, and what the tables are for


def the_digests(imported: ImportedTraces) -> dict[str, str]:
    return dict(zip((run.run_id for run in imported.runs), imported._digests, strict=True))


def test_a_digest_is_of_all_that_is_written_and_of_nothing_else(tmp_path: Path) -> None:
    files = [SessionFile(name, starts=i).prompt().answer(f"m{i}") for i, name in enumerate(("s1", "s2"))]
    before = the_digests(read(tmp_path / "a", *files))
    assert the_digests(read(tmp_path / "elsewhere", *files[::-1])) == before
    assert the_digests(read(tmp_path / "a", price=False)).keys() == before.keys()
    assert not set(the_digests(read(tmp_path / "a", price=False)).values()) & set(before.values())
    files[0].prompt("on")  # the session ends later, and has no other step
    after = the_digests(read(tmp_path / "a", *files))
    assert {name for name in before if before[name] != after[name]} == {"s1"}


def test_many_steps_in_one_session_and_in_many(tmp_path: Path) -> None:
    big = SessionFile("big").prompt()
    for i in range(9_000):
        big.answer(f"m{i}", tool(f"t{i}"), usage=used(1, 0))
    small = [SessionFile(f"s{i}", starts=i).prompt().answer(f"x{i}", usage=used(1, 0)) for i in range(300)]
    path = tmp_path / "all.jsonl"
    path.write_bytes(b"".join(file.content for file in (*small[:150], big, *small[150:])))
    imported = read_traces(path)
    assert (imported.trace_steps.num_rows, len(imported.runs)) == (18_300, 301)
    counts = imported.trace_steps.group_by("run_id").aggregate([([], "count_all")]).to_pydict()
    assert dict(zip(counts["run_id"], counts["count_all"], strict=True)) == {"big": 18_000} | {
        f"s{i}": 1 for i in range(300)
    }
    bundle = imported.get_export_bundle("big")
    assert bundle is not None
    assert (len(bundle.steps), bundle.steps[17_999].step_index, bundle.steps[0].tokens) == (18_000, 17_999, 1)


def test_everything_takes_the_tables_as_they_are(tmp_path: Path) -> None:
    file = SessionFile().prompt().answer("m", tool("t"), usage=used(10**6, 0)).result("t", failed=True)
    imported = read(tmp_path, file, SessionFile("s2", starts=99).prompt().answer("x"))
    found = cost_by(imported.trace_steps, "project", "model")
    assert found["cost_cents"].to_pylist() == [pytest.approx(500.0175), 0.0]
    for identifier in ("s1", "s1:step_error"):
        bundle = imported.get_export_bundle(identifier)
        assert bundle is not None
        assert (bundle.incident is None) == (identifier == "s1")
        timeline(bundle)
        plt.close("all")
        path = write_bundle(bundle, tmp_path / identifier.replace(":", "-"))
        assert verify_bundle(path).verdict == "intact, unsigned"
        assert read_bundle(path).content_digest == bundle.content_digest
    assert imported.get_export_bundle("nobody") is None
    assert repr(imported) == "<ImportedTraces: 2 runs, 3 steps, 1 incidents>"
