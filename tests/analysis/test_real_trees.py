"""Traces that real platforms wrote, whose spans repeat what is below them: totals equal those counted independently."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools.analysis import cost_by, step_tree, top_runs

pytestmark = pytest.mark.real

# What the databases' own page counts: prompt and completion tokens, and US cents.
PHOENIX_TOKENS, PHOENIX_CENTS = 18_918 + 1_098, 0.14418
MLFLOW_TOKENS, MLFLOW_CENTS = 18_037 + 1_076, 6.5691


def numbered(spans: list[dict[str, Any]]) -> pa.Table:
    """Spans with the ids of their parents as steps, numbered in each trace by their start."""
    spans.sort(key=lambda span: (span["trace_id"], span["timestamp"], span["span_id"]))
    place: dict[tuple[str, str | None], int] = {}
    for span in spans:
        place[span["trace_id"], span["span_id"]] = sum(trace == span["trace_id"] for trace, _ in place)
    for span in spans:
        span["step_index"] = place[span["trace_id"], span["span_id"]]
        span["parent_step_index"] = place.get((span["trace_id"], span["parent_id"]))
        span["run_id"] = span["trace_id"]
    return pa.Table.from_pylist(spans).drop_columns(["span_id", "parent_id"])


@pytest.fixture
def phoenix(real: Path, tmp_path: Path) -> pa.Table:
    """A step's tokens are those that Phoenix calls cumulative: its own and all below it."""
    database = sqlite3.connect(shutil.copy(real / "databases/phoenix/phoenix.db", tmp_path))
    rows = database.execute(
        "SELECT spans.trace_rowid, span_id, parent_id, span_kind, status_code, start_time, end_time, total_cost, "
        "cumulative_llm_token_count_prompt + cumulative_llm_token_count_completion "
        "FROM spans LEFT JOIN span_costs ON span_costs.span_rowid = spans.id"
    ).fetchall()
    database.close()
    spans = []
    for trace, span, parent, kind, status, start, end, dollars, tokens in rows:
        began, ended = (dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC) for text in (start, end))
        spans.append(
            {
                "trace_id": str(trace), "span_id": span, "parent_id": parent, "step_type": kind, "status": status,
                "timestamp": began, "duration_ms": (ended - began) / dt.timedelta(milliseconds=1),
                "cost_cents": (dollars or 0.0) * 100, "tokens": tokens,
            }
        )  # fmt: skip
    return numbered(spans)


@pytest.fixture
def mlflow(real: Path, tmp_path: Path) -> pa.Table:
    """MLflow sums up usage for each trace; here that stands on the root span as well, as its UI shows it."""
    database = sqlite3.connect(shutil.copy(real / "databases/mlflow/mlflow.db", tmp_path))
    totals = {
        row[0]: row[1:]
        for row in database.execute("SELECT request_id, input_tokens + output_tokens, total_cost FROM trace_info")
    }
    spans = []
    for trace, span, parent, kind, status, start, end, content in database.execute(
        "SELECT trace_id, span_id, parent_span_id, type, status, start_time_unix_nano, end_time_unix_nano, content FROM spans"
    ):
        attributes = json.loads(content)["attributes"]
        usage, cost = (json.loads(attributes.get(name, "{}")) for name in ("mlflow.chat.tokenUsage", "mlflow.llm.cost"))
        tokens, dollars = (usage.get("total_tokens", 0), cost.get("total_cost", 0.0)) if parent else totals[trace]
        spans.append(
            {
                "trace_id": trace, "span_id": span, "parent_id": parent, "step_type": kind, "status": status,
                "timestamp": dt.datetime.fromtimestamp(start / 1e9, dt.UTC), "duration_ms": (end - start) / 1e6,
                "cost_cents": (dollars or 0.0) * 100, "tokens": tokens or 0,
            }
        )  # fmt: skip
    database.close()
    return numbered(spans)


def test_phoenix_repeats_tokens_on_every_level(phoenix: pa.Table) -> None:
    assert pc.sum(phoenix["tokens"]).as_py() == 2 * PHOENIX_TOKENS
    (found,) = cost_by(phoenix).to_pylist()
    assert (found["tokens"], found["roll_ups"], found["ambiguous"], found["failed"]) == (PHOENIX_TOKENS, 9, 0, 3)
    assert found["cost_cents"] == pytest.approx(PHOENIX_CENTS)
    by_type = {row["step_type"]: row["tokens"] for row in cost_by(phoenix, "step_type").to_pylist()}
    assert by_type == {"LLM": PHOENIX_TOKENS, "AGENT": 0, "TOOL": 0, "RETRIEVER": 0}


def test_mlflow_repeats_tokens_and_costs_on_the_root(mlflow: pa.Table) -> None:
    assert pc.sum(mlflow["tokens"]).as_py() == 2 * MLFLOW_TOKENS
    (found,) = cost_by(mlflow).to_pylist()
    assert (found["tokens"], found["roll_ups"], found["ambiguous"], found["failed"]) == (MLFLOW_TOKENS, 9, 0, 4)
    assert found["cost_cents"] == pytest.approx(MLFLOW_CENTS)
    assert sum(row["tokens"] for row in top_runs(mlflow, 100).to_pylist()) == MLFLOW_TOKENS


def test_the_trees_of_both(phoenix: pa.Table, mlflow: pa.Table) -> None:
    for table in (phoenix, mlflow):
        tree = step_tree(table)
        assert sorted(set(tree["depth"].to_pylist())) == [0, 1]
        assert pc.sum(tree["descendants"]).as_py() == len(table) - 9
        # The critical path of a trace is as long as its root, which waits for all below it.
        for root in tree.filter(pc.equal(tree["depth"], 0)).to_pylist():
            own = tree.filter(pc.equal(tree["trace_id"], root["trace_id"]))
            assert pc.sum(own["critical_ms"]).as_py() == pytest.approx(root["duration_ms"], abs=0.01)
            assert pc.sum(own["own_duration_ms"]).as_py() == pytest.approx(root["duration_ms"], abs=0.01)
