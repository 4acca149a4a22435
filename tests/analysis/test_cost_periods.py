"""Costs in each period of time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools.analysis import cost_by, cost_over_time, cost_periods
from exporttools.errors import ConfigError
from tests.analysis.steps import NOON, every_kind, frame, local_kinds, step, with_column
from tests.frames import FrameKind, assert_same, rows

# Dask and Spark deprecate things of their own and of each other's.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@local_kinds
def test_empty_periods_are_filled_for_every_group(kind: FrameKind) -> None:
    days = [dt.datetime(2026, 10, day, 23, 59, 59, 999_999, tzinfo=dt.UTC) for day in (5, 5, 8)]
    steps = frame(
        *(step(i, timestamp=day, agent_id=agent) for i, (day, agent) in enumerate(zip(days, "aba", strict=True)))
    )
    found = rows(cost_over_time(kind.make(steps), "1d", "agent_id"))
    assert [(row["period_start"].day, row["agent_id"], row["steps"], row["cost_cents"], row["runs"]) for row in found.to_pylist()] == [
        (5, "a", 1, 0.5, 1), (5, "b", 1, 0.5, 1), (6, "a", 0, 0.0, 0), (6, "b", 0, 0.0, 0),
        (7, "a", 0, 0.0, 0), (7, "b", 0, 0.0, 0), (8, "a", 1, 0.5, 1), (8, "b", 0, 0.0, 0),
    ]  # fmt: skip
    assert len(rows(cost_over_time(kind.make(frame()), "1d", "agent_id"))) == 0


def test_weeks_begin_on_mondays_and_times_before_1970_have_periods() -> None:
    times = [
        dt.datetime(1969, 12, 31, 23, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 4, 23, tzinfo=dt.UTC),
        dt.datetime(1970, 1, 5, tzinfo=dt.UTC),
    ]
    found = cost_over_time(frame(*(step(i, timestamp=time) for i, time in enumerate(times))), "1w").to_pylist()
    assert [(row["period_start"].isoformat(), row["steps"]) for row in found] == [
        ("1969-12-29T00:00:00+00:00", 2), ("1970-01-05T00:00:00+00:00", 1),
    ]  # fmt: skip


def test_periods_add_up_to_the_whole(ledger: pa.Table) -> None:
    found = cost_over_time(ledger, "1h", "step_type")
    assert pc.sum(found["cost_cents"]).as_py() == pytest.approx(pc.sum(ledger["cost_cents"]).as_py())
    assert pc.sum(found["steps"]).as_py() == len(ledger)
    assert len(found) == 6 * len(found["period_start"].unique())


WITHOUT_TIME = frame(
    step(0, agent_id="b", run_id="r1"),
    step(1, agent_id="a", run_id="r2", timestamp=None, cost_cents=4.0),
    step(2, agent_id="a", run_id="r2", timestamp=NOON + dt.timedelta(days=2)),
    step(3, agent_id="a", run_id="r2", timestamp=None, cost_cents=1.0),
)


@every_kind
def test_steps_without_a_time_are_in_a_last_period_without_a_start(kind: FrameKind) -> None:
    found = rows(cost_over_time(kind.make(WITHOUT_TIME), "1d", "agent_id")).to_pylist()
    assert [(row["period_start"] and row["period_start"].day, row["agent_id"], row["cost_cents"], row["steps"], row["runs"]) for row in found] == [
        (5, "a", 0.0, 0, 0), (5, "b", 0.5, 1, 1), (6, "a", 0.0, 0, 0), (6, "b", 0.0, 0, 0), (7, "a", 0.5, 1, 1), (7, "b", 0.0, 0, 0),
        (None, "a", 5.0, 2, 1), (None, "b", 0.0, 0, 0),
    ]  # fmt: skip
    assert rows(cost_over_time(kind.make(WITHOUT_TIME), "1d"))["cost_cents"].to_pylist() == [0.5, 0.0, 0.5, 5.0]


@local_kinds
def test_steps_that_all_lack_a_time(kind: FrameKind) -> None:
    (row,) = rows(cost_over_time(kind.make(WITHOUT_TIME.filter(WITHOUT_TIME["timestamp"].is_null())))).to_pylist()
    assert (row["period_start"], row["cost_cents"], row["steps"]) == (None, 5.0, 2)


def test_a_column_of_times_without_a_type() -> None:
    untyped = with_column(WITHOUT_TIME, "timestamp", pa.nulls(4))
    for data in (untyped, pl.from_arrow(untyped)):
        assert rows(cost_over_time(data))["period_start"].to_pylist() == [None]


@every_kind
def test_several_keys_make_a_long_table_that_adds_up(kind: FrameKind, ledger: pa.Table) -> None:
    found = rows(cost_over_time(kind.make(ledger), "1w", ["agent_id", "model"]))
    assert found.column_names[:3] == ["period_start", "agent_id", "model"]
    groups = {tuple(row.values()) for row in ledger.select(["agent_id", "model"]).to_pylist()}
    assert len(found) == len(groups) * len(found["period_start"].unique())
    assert found.to_pylist() == sorted(
        found.to_pylist(), key=lambda row: (row["period_start"], row["agent_id"], row["model"] or "z")
    )
    for row in cost_by(ledger, "agent_id", "model").to_pylist():
        same = [r for r in found.to_pylist() if (r["agent_id"], r["model"]) == (row["agent_id"], row["model"])]
        assert sum(r["cost_cents"] for r in same) == pytest.approx(row["cost_cents"])
        assert sum(r["steps"] for r in same) == row["steps"]


@pytest.mark.parametrize("zone", ["America/New_York", "Etc/GMT+5", "Asia/Kolkata", "+05:30"])
@pytest.mark.parametrize("unit", ["ns", "us", "s"])
def test_times_of_pandas_in_any_zone(zone: str, unit: str, ledger: pa.Table) -> None:
    data = ledger.to_pandas()
    local = data.assign(timestamp=data["timestamp"].dt.tz_convert(zone).dt.as_unit(unit))
    assert_same(cost_over_time(local, "1h"), cost_over_time(ledger, "1h"))
    in_arrow = data.assign(
        timestamp=pd.Series(
            ledger["timestamp"].cast(pa.timestamp(unit, zone), safe=False),
            dtype=pd.ArrowDtype(pa.timestamp(unit, zone)),
        )
    )
    assert_same(cost_over_time(in_arrow, "1h"), cost_over_time(ledger, "1h"))


@pytest.mark.slow
def test_times_of_dask_in_another_zone(dask_client: Any, ledger: pa.Table) -> None:
    import dask.dataframe

    data = ledger.to_pandas()
    local = data.assign(timestamp=data["timestamp"].dt.tz_convert("America/New_York"))
    partitions: Any = dask.dataframe.from_pandas(local, npartitions=3)  # type: ignore[no-untyped-call]
    assert_same(cost_over_time(partitions, "1h"), cost_over_time(ledger, "1h"))


LONG = frame(step(), step(1, timestamp=NOON.replace(year=2034))).append_column("period_start", pa.array(["x", "y"]))


@pytest.mark.parametrize(
    ("every", "by", "message"),
    [
        ("1 day", None, "every is '1 day'; expected a length of time such as '30min', '6h', '1d' or '1w'"),
        ("0d", None, "every is '0d'; expected a length above zero"),
        ("1d", ["agent_id", 5], "by has 5; expected column names"),
        ("1d", 5, "by has 5; expected column names"),
        ("1d", "period_start", "cannot group by 'period_start': the result has a column of that name"),
    ],
)
def test_periods_that_cannot_be(every: str, by: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cost_over_time(LONG, every, by)
    assert str(caught.value) == message


def test_too_many_periods_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_periods, "MAX_ROWS", 1000)
    with pytest.raises(ConfigError) as caught:
        cost_over_time(LONG, "1min")
    assert str(caught.value) == (
        "every is '1min': 4,207,681 periods from the first step to the last for 1 group are more than 1,000 rows. "
        "Choose longer periods, or fewer steps"
    )
