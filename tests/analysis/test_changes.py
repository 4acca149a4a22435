"""What explains how a run differs from normal ones."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import ExportBundle, RunSnapshot
from exporttools.analysis import (
    what_changed,
)
from exporttools.errors import ConfigError

CAUSES = {
    1: ("repeated calls", "llm_call", None),
    2: ("repeated calls", "tool_call", "post_ledger"),
    3: ("ended early", "guardrail", "check_policy"),
    4: ("slower calls", "tool_call", "fetch_logs"),
    5: ("dearer tokens", "llm_call", None),
    6: ("repeated calls", "llm_call", None),
}


@pytest.mark.parametrize("number", CAUSES)
def test_the_planted_cause_is_ranked_first(number: int, ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    first = what_changed(bundles[number], ledger).to_pylist()[0]
    assert (first["cause"], first["step_type"], first["name"]) == CAUSES[number]


@pytest.mark.parametrize("number", [1, 3, 4, 6])  # none of whose agent's other traces is left out as unusual
def test_contributions_add_up(number: int, ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    run, steps = bundles[number].run, bundles[number].steps.to_pandas()
    assert run is not None
    found = what_changed(bundles[number], ledger)
    others = ledger.filter(
        pc.and_(pc.equal(ledger["agent_id"], run.agent_id), pc.not_equal(ledger["run_id"], run.run_id))
    )
    rows = others.to_pandas()
    traces = rows.assign(end=ends(rows)).groupby("trace_id")
    normal = traces.agg(cents=("cost_cents", "sum"), start=("timestamp", "min"), end=("end", "max"))
    elapsed = ends(steps).max() - steps["timestamp"].min() - (normal["end"] - normal["start"]).mean()
    assert pc.sum(found["cost_cents"]).as_py() == pytest.approx(steps["cost_cents"].sum() - normal["cents"].mean())
    assert pc.sum(found["duration_ms"]).as_py() == pytest.approx(elapsed / pd.Timedelta(milliseconds=1))


def ends(steps: pd.DataFrame) -> pd.Series:
    return steps["timestamp"] + pd.to_timedelta(steps["duration_ms"].round(3) * 1000, unit="us")


REASONS = [
    (1, "repeated calls", "repeated earlier calls of llm_call 190 times; usually 0.059"),
    (1, "ended early", "ended with step 406, guardrail check_policy, blocked; 38.2 fewer calls than usual"),
    (1, "fewer tokens per call", "5,701 tokens per call of llm_call, usually 8,236"),
    (1, "dearer tokens", "0.303 US cents per 1,000 tokens of llm_call, usually 0.302"),
    (1, "dearer calls", "0.5 US cents per call of tool_call web_search, usually 0.49"),
    (1, "faster calls", "3,739 ms per call of llm_call, usually 4,576"),
    (1, "shorter waiting", "8 ms before each tool_call fetch_page, usually 14"),
    (2, "more calls", "3 of tool_call post_ledger, usually 1.14"),
    (5, "fewer calls", "2 of retrieval table_catalogue, usually 3.32"),
]


@pytest.mark.parametrize(("number", "cause", "reason"), REASONS, ids=[cause for _, cause, _ in REASONS])
def test_the_words_of_each_cause(
    number: int, cause: str, reason: str, ledger: pa.Table, bundles: dict[int, ExportBundle]
) -> None:
    found = what_changed(bundles[number], ledger).to_pylist()
    assert reason in [row["reason"] for row in found if row["cause"] == cause]


def test_the_words_of_a_changed_model(ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    assert what_changed(bundles[5], fleet=ledger)["reason"][0].as_py().endswith("(heron-3 instead of lark-2)")


def test_bundles_that_cannot_be_explained(ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    with pytest.raises(
        ConfigError, match="what_changed needs a run and its steps; this bundle is missing run, trace, steps"
    ):
        what_changed(bundles[7], ledger)
    with pytest.raises(ConfigError, match="this bundle is missing trace, steps"):
        what_changed(bundles[8], ledger)
    with pytest.raises(
        ConfigError,
        match="^fleet: 0 normal traces of agent 'research-scout'; expected at least 5. Pass more of its runs, or a smaller at_least$",
    ):
        what_changed(bundles[1], ledger.slice(0, 0))
    with pytest.raises(ConfigError, match="^bundle is a Table; expected an ExportBundle$"):
        what_changed(ledger, ledger)
    unnamed = ExportBundle(run=RunSnapshot("r9", "acme"))
    with pytest.raises(ConfigError, match="this bundle is missing incident, trace, steps"):
        what_changed(unnamed, ledger)


def test_names_that_one_side_lacks_tell_nothing_apart(ledger: pa.Table, bundles: dict[int, ExportBundle]) -> None:
    found = what_changed(bundles[4], ledger.drop_columns(["name", "model"])).to_pylist()
    assert (found[0]["cause"], found[0]["step_type"], found[0]["name"]) == ("slower calls", "tool_call", None)
