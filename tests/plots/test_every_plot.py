"""What holds for every plot of the analysis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import matplotlib.pyplot as plt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from matplotlib.axes import Axes

from exporttools import ExportBundleStore, SnapshotTable, TraceStepSnapshot, analysis, plots
from exporttools.errors import ColumnNotFound, DuplicateColumn
from tests.analysis.steps import doubled
from tests.plots.drawings import HOSTILE, NOON
from tests.plots.fleets import frame, said


def judged(data: Any, **options: Any) -> Axes:
    rows = data.to_arrow() if isinstance(data, SnapshotTable) else data
    return plots.anomalies(data, analysis.baseline(rows, by=["step_type"]), **options)


PLOTS: dict[str, Callable[..., Axes]] = {
    "cost_breakdown": plots.cost_breakdown,
    "cost_over_time": lambda data, **options: plots.cost_over_time(data, by="step_type", **options),
    "compare_runs": lambda data, **options: plots.compare_runs(data, data, **options),
    "anomalies": judged,
}


every_plot = pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)


FRAMES = {
    "empty": frame(),
    "one": frame({}),
    "free": frame({"cost_cents": 0.0}, {"cost_cents": 0.0}),
    "nothing spent": frame({"cost_cents": 0.0, "tokens": 0, "duration_ms": 0.0}),
    "years apart": frame({}, {"timestamp": NOON.replace(year=2100)}),
    "hostile": frame(*({"step_type": text} for text in HOSTILE)),
    "many types": frame(*({"step_type": f"type {i}", "cost_cents": float(i)} for i in range(10_000))),
}


@every_plot
@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_whatever_the_frame_holds_is_drawn(plot: Callable[..., Axes], data: pa.Table) -> None:
    text = said(plot(data))
    assert not {"\x1b", "\u202e"} & set(text)
    assert max(map(len, text.splitlines())) < 250


@every_plot
def test_the_axes_given_are_drawn_in_and_others_left_alone(plot: Callable[..., Axes]) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    before = len(right.get_children())
    assert plot(frame({}, {"step_type": "tool_call"}), ax=left) is left
    assert len(right.get_children()) == before
    assert figure.axes[:2] == [left, right]


@every_plot
def test_a_cut_is_said(plot: Callable[..., Axes]) -> None:
    steps = frame({}, {"step_type": "tool_call"})
    table = SnapshotTable(TraceStepSnapshot, _own(steps), total=9)
    assert "first 2 of 9 steps" in said(plot(table))


def _own(steps: pa.Table) -> pa.Table:
    schema = TraceStepSnapshot.RECORD_TYPE.arrow_schema()
    columns = [
        steps[name] if name in steps.column_names else pa.nulls(len(steps), pa.string()) for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)


@every_plot
def test_a_missing_column_is_named(plot: Callable[..., Axes]) -> None:
    with pytest.raises(ColumnNotFound, match="no column .*duration_ms.*; found tenant_id, "):
        plot(frame({}).drop_columns(["duration_ms"]))


DOUBLED = {
    "pandas": lambda table, name: pd.concat([table.to_pandas(), table.to_pandas()[[name]]], axis=1),
    "pyarrow": doubled,
    "duckdb": lambda table, name: duckdb.from_arrow(table).project(f"*, {name}"),
}
EVERY_PUBLIC_PLOT: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(plots, name) for name in plots.__all__},
    "compare_runs": lambda data: plots.compare_runs(data, data),
    "anomalies": lambda data: plots.anomalies(data, analysis.baseline(frame({}))),
}


@pytest.mark.parametrize("kind", DOUBLED)
@pytest.mark.parametrize("name", [name for name in plots.__all__ if name != "what_changed"])
def test_two_columns_of_one_name_are_refused_by_every_plot(name: str, kind: str) -> None:
    with pytest.raises(DuplicateColumn) as caught:
        EVERY_PUBLIC_PLOT[name](DOUBLED[kind](frame({}), "tokens"))
    what = "run a" if name == "compare_runs" else "steps"
    assert str(caught.value).replace(what, "steps") == (
        "steps: more than one column is named tokens; rename or drop all but one"
    )
    assert plt.get_fignums() == []


@pytest.mark.parametrize("kind", DOUBLED)
def test_two_columns_of_one_name_are_refused_in_what_plots_are_made_of(kind: str) -> None:
    changes = pa.table({"step_type": ["a"], "name": ["b"], "cause": ["c"], "cost_cents": [1.0], "duration_ms": [1.0]})
    with pytest.raises(DuplicateColumn, match="^contributions: more than one column is named cause;"):
        plots.what_changed(DOUBLED[kind](changes, "cause"))
    usual = analysis.baseline(frame({}))
    with pytest.raises(DuplicateColumn, match="^baseline: more than one column is named count;"):
        plots.anomalies(frame({}), DOUBLED[kind](usual, "count"))


@every_plot
def test_frames_of_other_kinds_are_drawn_alike(plot: Callable[..., Axes]) -> None:
    steps = frame({}, {"step_type": "tool_call", "cost_cents": 2.0})
    texts = {said(plot(data)) for data in (steps, pl.from_arrow(steps), pl.from_arrow(steps).lazy(), steps.to_pandas())}  # type: ignore[union-attr]
    assert len(texts) == 1


def test_without_costs_tokens_are_shown_and_that_is_said() -> None:
    for plot in (plots.cost_breakdown, plots.cost_over_time):
        ax = plot(FRAMES["free"])
        assert "tokens" in f"{ax.get_xlabel()}{ax.get_ylabel()}"
        assert "no step has a cost, so tokens are shown" in said(ax)


@pytest.mark.real
def test_real_agents_are_drawn(real: Path) -> None:
    store = ExportBundleStore(real / "agents.sqlite")
    steps = store.scan_trace_steps().read_all()
    for ax in (plots.cost_breakdown(steps, by="agent_id"), plots.cost_over_time(steps, "1w", "tenant_id"),
               plots.anomalies(steps, analysis.baseline(steps))):  # fmt: skip
        assert "998 steps" in said(ax)
    incidents = store.list_incidents()
    said(plots.compare_runs(*(store.get_export_bundle(incident.id) for incident in incidents[:2])))
