"""Plots of costs, comparisons, anomalies and changes: what is drawn, read back from the artists and never from pixels."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import polars as pl
import pyarrow as pa
import pytest
from matplotlib.axes import Axes

from exporttools import ExportBundle, ExportBundleStore, SnapshotTable, TraceStepSnapshot, analysis, plots
from exporttools.errors import ConfigError

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)
HOSTILE = [r"$\frac{$", "two\nlines", "\x1b[31mred\x1b[0m", "x" * 300, "\U0001f9ff 中文 \u202eabc", r"$x^2$", ""]

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("tenant_id", "run_id", "trace_id", "agent_id")),
        ("step_index", pa.int64()), ("timestamp", pa.timestamp("us", "UTC")), ("step_type", pa.string()),
        ("tokens", pa.int64()), ("cost_cents", pa.float64()), ("duration_ms", pa.float64()), ("status", pa.string()),
    ]
)  # fmt: skip


def frame(*changes: dict[str, Any]) -> pa.Table:
    usual = {
        "tenant_id": "acme", "run_id": "r1", "trace_id": "t1", "agent_id": "a", "step_type": "llm_call", "tokens": 10,
        "cost_cents": 0.5, "duration_ms": 100.0, "status": "ok",
    }  # fmt: skip
    rows = [{"step_index": i, "timestamp": NOON + dt.timedelta(seconds=i)} | usual | c for i, c in enumerate(changes)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def changed(*rows: dict[str, Any]) -> pa.Table:
    usual = {"step_type": "llm_call", "name": None, "cause": "dearer tokens", "cost_cents": 2.0, "duration_ms": 0.0}
    schema = pa.schema([(n, pa.float64() if n in ("cost_cents", "duration_ms") else pa.string()) for n in usual])
    return pa.Table.from_pylist([usual | row for row in rows], schema=schema)


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


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    before = copy.deepcopy(dict(mpl.rcParams))
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


@pytest.fixture(scope="module")
def store(sample_urls: dict[str, str]) -> ExportBundleStore:
    return ExportBundleStore(sample_urls["sqlite"])


def said(ax: Axes) -> str:
    """All text of the figure that the Axes is in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    texts = [text.get_text() for panel in figure.axes for text in panel.findobj(mpl.text.Text)]
    return "\n".join(texts)


def bars(ax: Axes, gid: str | None = None) -> list[float]:
    return [round(bar.get_width(), 6) for bar in ax.patches if gid is None or bar.get_gid() == gid]  # type: ignore[attr-defined]


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
    with pytest.raises(ConfigError, match="no column .*duration_ms.*; found tenant_id, "):
        plot(frame({}).drop_columns(["duration_ms"]))


@every_plot
def test_frames_of_other_kinds_are_drawn_alike(plot: Callable[..., Axes]) -> None:
    steps = frame({}, {"step_type": "tool_call", "cost_cents": 2.0})
    texts = {said(plot(data)) for data in (steps, pl.from_arrow(steps), pl.from_arrow(steps).lazy(), steps.to_pandas())}  # type: ignore[union-attr]
    assert len(texts) == 1


def test_a_breakdown_is_sorted_with_shares_and_the_rest_folded() -> None:
    steps = frame(*({"agent_id": f"agent {i}", "cost_cents": float(100 - i)} for i in range(20)))
    ax = plots.cost_breakdown(steps, by="agent_id", limit=5)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[:4] == ["agent 0", "agent 1", "agent 2", "agent 3"]
    assert names[4].startswith("other (16")
    assert bars(ax)[:4] == [100.0, 99.0, 98.0, 97.0]
    assert ax.get_xlabel() == "US cents"
    assert "total 1,810.00 US cents" in said(ax)
    assert "100.00 US cents · 6%" in said(ax)


def test_without_costs_tokens_are_shown_and_that_is_said() -> None:
    for plot in (plots.cost_breakdown, plots.cost_over_time):
        ax = plot(FRAMES["free"])
        assert "tokens" in f"{ax.get_xlabel()}{ax.get_ylabel()}"
        assert "no step has a cost, so tokens are shown" in said(ax)


def test_periods_add_up(store: ExportBundleStore) -> None:
    steps = store.scan_trace_steps().read_all()
    ax = plots.cost_over_time(steps, "1d", "agent_id", limit=3)
    text = said(ax)
    assert "total 15,630.89 US cents" in text
    assert "14 periods of 1 d" in text
    assert "other (4" in text
    assert "US cents per 1 d" in ax.get_ylabel()
    assert "UTC" in ax.get_xlabel()


def test_two_runs_are_told_apart_and_differ_by_what_is_said(store: ExportBundleStore) -> None:
    a, b = (store.get_export_bundle(f"inc-0000-{number}") for number in (4, 6))
    ax = plots.compare_runs(a, b)
    text = said(ax)
    assert "a: 28 steps, 6.794 US cents" in text
    assert "b: 53 steps, 68.71 US cents" in text
    assert "1 ended otherwise" in text
    assert "−21 min 44 s" in text
    hatches = {bar.get_gid(): bar.get_hatch() for bar in ax.patches}
    assert hatches == {"run a": None, "run b": "////"}


def test_anomalies_are_marked_and_the_worst_named(store: ExportBundleStore) -> None:
    steps = store.scan_trace_steps().read_all()
    ax = plots.anomalies(steps, analysis.baseline(steps), limit=4)
    found = analysis.anomalies(steps, analysis.baseline(steps, measures=["duration_ms"]))
    assert ax.get_yticklabels()[0].get_text() == "ops-responder · tool_call"
    marked = sum(len(points.get_offsets()) for points in ax.collections if points.get_gid() == "unusual")
    assert marked == sum(z is not None for z in found["z"].to_pylist())
    assert next(text.get_text() for text in ax.texts if text.get_gid() == "run") == "run-0000-269"
    assert ax.get_xscale() == "log"
    assert "groups not shown" in said(ax)
    with pytest.raises(ConfigError, match="measure is 'weight'; the baseline has cost_cents, tokens, duration_ms"):
        plots.anomalies(steps, analysis.baseline(steps), measure="weight")


def test_a_waterfall_goes_from_a_normal_run_to_this_one(store: ExportBundleStore) -> None:
    bundle = store.get_export_bundle("inc-0000-5")
    assert bundle is not None
    changes = analysis.what_changed(bundle, store.scan_trace_steps().read_all())
    ax = plots.what_changed(changes, bundle=bundle, limit=5)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert (names[0], names[1], names[-2][:8], names[-1]) == (
        "a normal run",
        "dearer tokens\nllm_call",
        "all else",
        "this run",
    )
    (end,), (begin,) = bars(ax, "this run"), bars(ax, "normal")
    assert end == pytest.approx(bundle.totals["cost_cents"], abs=1e-5)
    assert end - begin == pytest.approx(sum(bars(ax, "more")) + sum(bars(ax, "less")), abs=1e-4)
    assert "+97.56¢" in said(ax)
    (time,) = [panel for panel in ax.figure.axes if panel is not ax]
    assert time.get_xlabel() == "seconds from first start to last end"


def test_a_waterfall_of_little_or_hostile() -> None:
    assert "difference" in said(plots.what_changed(changed()))
    hostile = changed(*({"cause": text, "name": text, "step_type": text, "cost_cents": -1.0} for text in HOSTILE))
    assert "\x1b" not in said(plots.what_changed(hostile))
    only = ExportBundle()
    assert "a normal run" in said(plots.what_changed(changed({}), bundle=only))
    with pytest.raises(ConfigError, match="contributions: no column cause; found step_type"):
        plots.what_changed(changed({}).drop_columns(["cause"]))
    with pytest.raises(ConfigError, match="limit is 0; expected a whole number from 1 on"):
        plots.what_changed(changed({}), limit=0)
    with pytest.raises(ConfigError, match="bundle is a str; expected an ExportBundle or None"):
        plots.what_changed(changed({}), bundle="inc-1")  # type: ignore[arg-type]


@pytest.mark.real
def test_real_agents_are_drawn(real: Path) -> None:
    store = ExportBundleStore(real / "agents.sqlite")
    steps = store.scan_trace_steps().read_all()
    for ax in (plots.cost_breakdown(steps, by="agent_id"), plots.cost_over_time(steps, "1w", "tenant_id"),
               plots.anomalies(steps, analysis.baseline(steps))):  # fmt: skip
        assert "998 steps" in said(ax)
    incidents = store.list_incidents()
    said(plots.compare_runs(*(store.get_export_bundle(incident.id) for incident in incidents[:2])))
