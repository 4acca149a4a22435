"""Steps of any kind of frame as arrays to draw: types that are folded, the violation, values that are refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import duckdb
import matplotlib.pyplot as plt
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
from matplotlib.dates import date2num

from exporttools.errors import ColumnTypeMismatch, ConfigError, InconsistentData
from exporttools.plots import timeline
from exporttools.plots.step_data import MAX_LANES, OTHER_COLOR
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import RunSnapshot
from tests.plots.drawings import (
    FIVE,
    NOON,
    Plot,
    both,
    bundle,
    collections,
    everything_drawn,
    face_colors,
    figure,
    lanes,
    rectangles,
    step,
    table,
    texts,
)


def test_beyond_a_dozen_the_rarest_types_are_folded() -> None:
    rare = [step(100 + i, 100 + i, step_type=f"rare {i}", cost_cents=0.0) for i in range(6)]
    common = [step(i, i, step_type=f"common {i % 11}") for i in range(99)]
    ax = timeline(table(*common, *rare))
    assert len(lanes(ax)) == MAX_LANES
    assert lanes(ax)[-1] == "other (6 types)"
    assert {f"common {i}" for i in range(11)} <= set(lanes(ax))
    others = [r for r in rectangles(ax, "steps") if r[2] > MAX_LANES - 1.5]
    assert len(others) == 6
    (bars,) = collections(ax, "steps")
    assert face_colors(bars).count(OTHER_COLOR) == 6


def test_a_dozen_types_are_all_named() -> None:
    ax = timeline(table(*(step(i, i, step_type=f"type {i % 12}") for i in range(24))))
    assert lanes(ax) == [f"type {i}" for i in range(12)]


@pytest.mark.parametrize("special", [{"cost_cents": 99.0}, {"status": "error"}, {"violation": True}])
def test_a_rare_type_keeps_its_lane_where_it_matters(special: dict[str, Any]) -> None:
    violation = 300 if special.pop("violation", False) else None
    common = [step(i, i, step_type=f"common {i % 15}") for i in range(300)]
    rare = step(300, 300, **({"step_type": "rare", "cost_cents": 0.0} | special))
    ax = timeline(table(*common, rare), violation_step_index=violation)
    assert "rare" in lanes(ax)
    assert lanes(ax)[-1] == "other (5 types)"


def test_an_argument_names_the_violation_of_a_frame_or_instead_of_the_bundles() -> None:
    assert "violation: step 3 · guardrail · ok" in texts(timeline(FIVE, violation_step_index=3))
    assert "violation: step 3 · guardrail · ok" in texts(timeline(bundle(FIVE, 1), violation_step_index=3))
    assert "violation: step 3 · guardrail · ok" in texts(timeline(FIVE, violation_step_index=np.int64(3)))  # type: ignore[arg-type]


def test_a_violation_that_is_not_among_the_steps_is_said() -> None:
    ax = timeline(FIVE, violation_step_index=20_000)
    assert "violation: step 20,000, not among these steps" in texts(ax)
    assert not [x for x in ax.lines if x.get_gid() == "violation"]


def test_a_violation_known_only_by_its_time_is_marked_there() -> None:
    when = NOON + dt.timedelta(seconds=3)
    ax = timeline(bundle(FIVE, violation_timestamp=when))
    (line,) = [x for x in ax.lines if x.get_gid() == "violation"]
    assert line.get_xdata()[0] == pytest.approx(date2num(when))  # type: ignore[index]
    assert "violation (its step is not recorded)" in texts(ax)
    away = timeline(bundle(FIVE, violation_timestamp=NOON + dt.timedelta(days=3)))
    assert "violation: outside the time range of these steps" in texts(away)


def test_no_violation_no_mark() -> None:
    ax = timeline(bundle(FIVE))
    assert "violation" not in texts(ax)
    assert [x.get_gid() for x in figure(ax).axes[1].lines] == []
    assert [x.get_gid() for x in ax.lines] == []


def test_a_violation_that_is_no_integer_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        timeline(FIVE, violation_step_index="7")  # type: ignore[arg-type]
    assert str(caught.value) == "violation_step_index is '7'; expected an integer or None"


FRAMES: dict[str, Callable[[SnapshotTable[Any]], Any]] = {
    "table": lambda s: s,
    "arrow": lambda s: s.to_arrow(),
    "pandas": lambda s: s.to_pandas(),
    "pandas object": lambda s: s.to_pandas().astype({"step_type": object, "status": "category"}),
    "pandas nanoseconds": lambda s: s.to_pandas().astype({"timestamp": "datetime64[ns, Europe/Zurich]"}),
    "polars": lambda s: pl.DataFrame(s.to_arrow()),
    "polars lazy": lambda s: pl.LazyFrame(s.to_arrow()),
    "narwhals": lambda s: nw.from_native(s.to_pandas()),
    "record batch": lambda s: s.to_arrow().to_batches()[0],
    "reader": lambda s: s.to_arrow().to_reader(),
    "narrow types": lambda s: pl.DataFrame(s.to_arrow()).cast({"step_index": pl.Int32, "cost_cents": pl.Float32}),
    "further columns": lambda s: s.to_pandas().assign(model="m", parent_step_index=0),
    "without the hash": lambda s: s.to_arrow().drop_columns("content_hash"),
    "bundle": lambda s: bundle(s),
}


@both
@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_frame_gives_the_same_picture(plot: Plot, kind: str) -> None:
    title = {"title": "the same"}
    assert everything_drawn(plot(FRAMES[kind](FIVE), **title)) == everything_drawn(plot(FIVE, **title))


@both
def test_a_duckdb_relation_gives_the_same_picture(plot: Plot) -> None:
    arrow = FIVE.to_arrow()
    with duckdb.connect() as connection:
        relation = connection.from_arrow(arrow)
        assert everything_drawn(plot(relation)) == everything_drawn(plot(FIVE))


@both
def test_inputs_are_unchanged(plot: Plot) -> None:
    frame = FIVE.to_pandas().iloc[::-1]
    before = frame.copy(deep=True)
    arrow = FIVE.to_arrow()
    plot(frame)
    plot(arrow)
    pd.testing.assert_frame_equal(frame, before)
    assert arrow.equals(table(*FIVE).to_arrow())


@both
def test_a_missing_column_is_named_with_those_there_are(plot: Plot) -> None:
    frame = FIVE.to_pandas().drop(columns=["duration_ms", "status"])
    with pytest.raises(ConfigError) as caught:
        plot(frame)
    assert str(caught.value) == (
        "steps: no column duration_ms, status; found step_index, timestamp, step_type, tokens, cost_cents, content_hash"
    )


@both
def test_what_is_no_frame_is_refused(plot: Plot) -> None:
    with pytest.raises(ConfigError) as caught:
        plot([1, 2, 3])
    assert str(caught.value) == (
        "cannot read steps from list; expected a SnapshotTable, an ExportBundle or a frame that Narwhals "
        "knows (pandas, Polars, pyarrow, DuckDB, Dask, PySpark, ...)"
    )
    with pytest.raises(ConfigError, match="^steps: no column step_index, .*; found run_id, tenant_id, "):
        plot(SnapshotTable.from_records(RunSnapshot, [RunSnapshot("r1", "acme")]))


def test_naive_times_and_wrong_types_are_refused() -> None:
    frame = FIVE.to_pandas()
    with pytest.raises(ColumnTypeMismatch) as caught:
        timeline(frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None)))
    assert str(caught.value) == (
        "steps: column 'timestamp' is Datetime(time_unit='us', time_zone=None); expected times with a time zone, such as UTC"
    )
    with pytest.raises(ColumnTypeMismatch, match="^steps: column 'cost_cents' is String; expected numbers$"):
        timeline(frame.assign(cost_cents="much"))


@pytest.mark.parametrize(
    ("bad", "found"), [(float("nan"), "NULL"), (None, "NULL"), (float("inf"), "inf"), (-1.0, "-1.0")]
)
def test_values_that_their_column_forbids_are_refused(bad: float | None, found: str) -> None:
    frame = pl.DataFrame(FIVE.to_arrow()).with_columns(duration_ms=pl.lit(bad, pl.Float64))
    with pytest.raises(
        InconsistentData, match=f"^steps: row step_index=0 has duration_ms = {found}; expected "
    ) as caught:
        timeline(frame)
    assert (caught.value.table, caught.value.column) == ("steps", "duration_ms")
    assert plt.get_fignums() == []
