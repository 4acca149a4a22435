"""Percentiles of any measures by any keys."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from exporttools.analysis import cost_by, percentiles
from exporttools.errors import ConfigError
from tests.analysis.steps import every_kind, frame, local_kinds, step
from tests.frames import FrameKind, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@every_kind
def test_percentiles_are_those_of_numpy_and_pandas(kind: FrameKind, ledger: pa.Table) -> None:
    found = rows(
        percentiles(kind.make(ledger), "agent_id", "step_type", measures=["cost_cents", "duration_ms", "tokens"])
    ).to_pylist()
    expected = ledger.to_pandas().groupby(["agent_id", "step_type"])[["cost_cents", "duration_ms", "tokens"]]
    assert [(row["agent_id"], row["step_type"]) for row in found] == sorted(expected.groups)
    for row in found:
        group = expected.get_group((row["agent_id"], row["step_type"]))
        assert row["count"] == len(group)
        for measure in group:
            for percent in (50, 90, 95, 99):
                value = row[f"{measure}_p{percent}"]
                assert value == pytest.approx(np.percentile(group[measure], percent), rel=1e-12)
                assert value == pytest.approx(group[measure].quantile(percent / 100), rel=1e-12)


def test_of_all_rows_and_of_runs(ledger: pa.Table) -> None:
    (row,) = percentiles(ledger, percents=[0, 50, 99.9, 100]).to_pylist()
    assert list(row) == [
        "count",
        *(f"{m}_p{p}" for m in ("cost_cents", "duration_ms") for p in ("0", "50", "99.9", "100")),
    ]
    costs = ledger["cost_cents"].to_numpy()
    assert [row["cost_cents_p0"], row["cost_cents_p100"]] == [costs.min(), costs.max()]
    assert row["cost_cents_p99.9"] == pytest.approx(np.percentile(costs, 99.9))
    runs = cost_by(ledger, "agent_id", "run_id")
    of_runs = percentiles(runs, "agent_id", measures=["cost_cents", "steps"]).to_pylist()
    assert sum(row["count"] for row in of_runs) == len(runs)
    mine = [r["cost_cents"] for r in runs.to_pylist() if r["agent_id"] == of_runs[0]["agent_id"]]
    assert of_runs[0]["cost_cents_p90"] == pytest.approx(np.percentile(mine, 90))


@local_kinds
def test_missing_values_are_left_out_and_null_is_a_group(kind: FrameKind) -> None:
    steps = frame(
        step(0, cost_cents=None), step(1, cost_cents=math.nan), step(2, cost_cents=3.0),
        step(3, step_type=None, cost_cents=None),
    )  # fmt: skip
    found = rows(percentiles(kind.make(steps), "step_type", measures=["cost_cents"], percents=[50])).to_pylist()
    assert found == [
        {"step_type": "llm_call", "count": 3, "cost_cents_p50": 3.0},
        {"step_type": None, "count": 1, "cost_cents_p50": None},
    ]
    assert len(rows(percentiles(kind.make(frame()), "step_type"))) == 0


@local_kinds
def test_columns_of_any_name(kind: FrameKind) -> None:
    key, measure = 'the "key", and\'s', 'select "1"; --'
    found = rows(
        percentiles(
            kind.make(pa.table({key: ["a", "a"], measure: [1, 2]})),
            key,
            measures=[measure],
            percents=[50, 99.9999999, 100],
        )
    )
    assert found.column_names == [key, "count", f"{measure}_p50", f"{measure}_p99.9999999", f"{measure}_p100"]
    assert found.to_pylist()[0][f"{measure}_p50"] == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"percents": [50, 101]},
            "percents is [50, 101]; expected a list of numbers from 0 to 100, such as [50, 99.9]",
        ),
        ({"percents": []}, "percents is []; expected a list of numbers from 0 to 100, such as [50, 99.9]"),
        ({"percents": 95}, "percents is 95; expected a list of numbers from 0 to 100, such as [50, 99.9]"),
        ({"percents": "95"}, "percents is '95'; expected a list of numbers from 0 to 100, such as [50, 99.9]"),
        ({"percents": [math.nan]}, "percents is [nan]; expected a list of numbers from 0 to 100, such as [50, 99.9]"),
        ({"measures": "tokens"}, "measures is 'tokens'; expected a list of columns"),
        ({"measures": ["status"]}, "steps: column 'status' is String; expected numbers"),
    ],
)
def test_what_cannot_be_asked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        percentiles(frame(step()), "agent_id", **arguments)
    assert str(caught.value) == message


def test_a_key_is_no_column_of_the_result() -> None:
    with pytest.raises(ConfigError, match="cannot group by 'cost_cents': the result has a column of that name"):
        percentiles(frame(step()), "cost_cents")


def test_percents_of_numpy() -> None:
    found = percentiles(frame(step(), step(1)), percents=np.array([50, 90]), measures=["duration_ms"])  # type: ignore[call-overload]
    assert found.column_names == ["count", "duration_ms_p50", "duration_ms_p90"]
