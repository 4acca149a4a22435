"""The totals of rows, whatever the batches, and keys that must ascend."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporttools import ConfigError, IncidentSnapshot, InconsistentData, RunSnapshot, SnapshotTable, TraceStepSnapshot
from exporttools.files.digests import table_digest
from exporttools.records.exact_sums import BATCH_ROWS
from exporttools.records.row_totals import RowTotals, first_step_back
from exporttools.records.schema import INCIDENTS, RUNS, TRACE_STEPS
from exporttools.records.statuses import means_failed
from tests.databases import NOON, incident
from tests.records.rounding import rounded
from tests.steps import a_step, steps_of, with_extra

EARLY, LATE = dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
STEPS = st.lists(
    st.builds(
        a_step,
        cost_cents=st.floats(0, allow_infinity=False),
        tokens=st.integers(0, 2**63 - 1),
        timestamp=st.datetimes(timezones=st.just(dt.UTC)),
        status=st.sampled_from(["error", "timeout", "Cancelled", "STATUS_CODE_ERROR", "ok", "", "errors", "blocked"]),
    ),
    max_size=8,
)


@settings(deadline=None)  # the first example loads what Arrow's compute functions need
@given(STEPS, st.lists(st.integers(0, 8)))
@example([], [])
@example([], [0])
def test_totals_follow_from_the_rows(records: list[TraceStepSnapshot], cuts: list[int]) -> None:
    table = steps_of(*records).to_arrow()
    table = table.set_column(0, table.schema.field(0), pa.array(range(len(records)), pa.int64()))
    edges = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    totals = RowTotals(TRACE_STEPS, table.schema)
    for start, end in itertools.pairwise(edges):
        for batch in table.slice(start, end - start).to_batches() or [pa.record_batch([[]] * 8, schema=table.schema)]:
            totals.update(batch)
    times = [record.timestamp for record in records]
    for found in (totals, RowTotals.of(TRACE_STEPS, table)):
        assert found.rows == len(records)
        assert found.content_digest == table_digest("trace_steps", table)
        assert found.sums == {
            "tokens": sum(record.tokens for record in records),
            "cost_cents": rounded([record.cost_cents for record in records]),
            "duration_ms": 900.25 * len(records),
        }
        assert found.failed == sum(means_failed(record.status) for record in records)
        assert found.time_range == ((min(times), max(times)) if times else None)


def test_the_time_range_is_of_all_years_in_utc() -> None:
    found = RowTotals.of(TRACE_STEPS, steps_of(a_step(0, timestamp=LATE), a_step(1, timestamp=EARLY)).to_arrow())
    assert found.time_range == (EARLY, LATE)
    assert [time.tzinfo for time in found.time_range] == [dt.UTC, dt.UTC]


def test_totals_grow_with_the_rows() -> None:
    table = steps_of(a_step(0), a_step(1, status="failed")).to_arrow()
    totals = RowTotals(TRACE_STEPS, table.schema)
    assert (totals.rows, totals.sums, totals.failed, totals.time_range) == (
        0, {"tokens": 0, "cost_cents": 0.0, "duration_ms": 0.0}, 0, None,
    )  # fmt: skip
    for row in range(2):
        totals.update(table.slice(row, 1).to_batches()[0])
        assert (totals.rows, totals.failed, totals.sums["cost_cents"]) == (row + 1, row, 0.5 * (row + 1))
        assert totals.content_digest == table_digest("trace_steps", table.slice(0, row + 1))
    with pytest.raises(TypeError):
        totals.sums["tokens"] = 0  # type: ignore[index]


def test_a_record_type_without_status_and_time() -> None:
    found = RowTotals.of(INCIDENTS, IncidentSnapshot(**incident()).to_arrow())
    assert (found.rows, found.sums, found.failed, found.time_range) == (1, {}, 0, None)


def test_nulls_are_counted_in_every_column() -> None:
    hashes, models = ["a", None, None, "b"], pa.array([None, "m", None, None])
    table = with_extra(steps_of(*(a_step(i, content_hash=text) for i, text in enumerate(hashes))), model=models)
    totals = RowTotals(TRACE_STEPS, table.schema)
    assert totals.nulls == dict.fromkeys(table.schema.names, 0)
    for start in (0, 1, 3):  # batches of 1, 2 and 1 row
        totals.update(table[start : 2 * start + 1].to_arrow().to_batches()[0])
    assert totals.nulls == dict.fromkeys(table.schema.names, 0) | {"content_hash": 2, "model": 3}
    with pytest.raises(TypeError):
        totals.nulls["model"] = 0  # type: ignore[index]


def test_an_extra_column_is_not_the_records_own() -> None:
    runs = SnapshotTable.from_records(RunSnapshot, [RunSnapshot("b", "t"), RunSnapshot("a", "t", total_cost_cents=3)])
    more = with_extra(
        runs, status=pa.array(["error", "error"]), timestamp=pa.array(["x", "y"]), tokens=pa.array([1, 2])
    )
    found = RowTotals.of(RUNS, more.to_arrow())
    assert (found.sums, found.failed, found.time_range) == ({"total_cost_cents": 3}, 0, None)
    assert found.content_digest == table_digest("runs", more.to_arrow())
    assert found.content_digest != RowTotals.of(RUNS, runs.to_arrow()).content_digest


# The order


def _table(*indexes: int) -> pa.Table:
    table = steps_of(*(a_step(i) for i in range(len(indexes)))).to_arrow()
    return table.set_column(0, table.schema.field(0), pa.array(indexes, pa.int64()))


@pytest.mark.parametrize(
    ("batches", "found", "before"),
    [
        ([[0, 2, 1]], 1, 2),
        ([[0, 1, 1]], 1, 1),
        ([[0, 1], [1, 2]], 1, 1),
        ([[5], [], [4]], 4, 5),
        ([[0], [1], [2], [0]], 0, 2),
        ([[2**63 - 1, -(2**63)]], -(2**63), 2**63 - 1),
        ([[2**63 - 1], [-(2**63)]], -(2**63), 2**63 - 1),
    ],
)
def test_steps_that_do_not_ascend_are_refused(batches: list[list[int]], found: int, before: int) -> None:
    totals = RowTotals(TRACE_STEPS, TRACE_STEPS.arrow_schema())
    with pytest.raises(InconsistentData) as caught:
        for indexes in batches:
            for batch in _table(*indexes).to_batches():
                totals.update(batch)
    assert str(caught.value) == (
        f"trace_steps: row step_index={found} has step_index = {found} after {before}; expected strictly ascending order"
    )
    assert (caught.value.table, caught.value.key, caught.value.column) == (
        "trace_steps", f"step_index={found}", "step_index",
    )  # fmt: skip


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=5), max_size=4))
def test_where_keys_first_step_back(chunks: list[list[int]]) -> None:
    keys = list(itertools.chain(*chunks))
    expected = next(((i, a, b) for i, (a, b) in enumerate(itertools.pairwise(keys), 1) if b <= a), None)
    assert first_step_back(pa.chunked_array(chunks, pa.int64())) == expected


@given(st.integers(0, 5), st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=5))
def test_where_keys_first_step_back_after_another(before: int, keys: list[int]) -> None:
    pairs = enumerate(itertools.pairwise([before, *keys]))
    expected = next(((i, a, b) for i, (a, b) in pairs if b <= a), None)
    assert first_step_back(pa.array(keys, pa.int64()), after=before) == expected


def test_gaps_and_keys_below_zero_ascend() -> None:
    assert RowTotals.of(TRACE_STEPS, _table(-(2**63), -1, 0, 7, 2**63 - 1)).rows == 5


def test_batches_beyond_one_block_are_in_order_too() -> None:
    index = np.arange(2 * BATCH_ROWS + 3)
    rows = len(index)
    columns: list[Any] = [
        index, pa.array([NOON] * rows, pa.timestamp("us", "UTC")), ["llm_call"] * rows, index, np.full(rows, 0.1),
        np.full(rows, 1.0), ["error"] * rows, pa.nulls(rows, pa.string()),
    ]  # fmt: skip
    schema = TRACE_STEPS.arrow_schema()
    table = pa.table(columns, schema=schema)
    whole = RowTotals(TRACE_STEPS, schema)
    whole.update(table.to_batches()[0])
    for found in (whole, RowTotals.of(TRACE_STEPS, table)):
        assert (found.rows, found.failed, found.time_range) == (rows, rows, (NOON, NOON))
        assert found.sums == {
            "tokens": rows * (rows - 1) // 2, "cost_cents": math.fsum([0.1] * rows), "duration_ms": float(rows),
        }  # fmt: skip
        assert found.content_digest == table_digest("trace_steps", table)
    columns[0] = np.concatenate([index[:-1], [5]])
    with pytest.raises(InconsistentData, match=f"step_index = 5 after {rows - 2}; expected strictly ascending order$"):
        RowTotals.of(TRACE_STEPS, pa.table(columns, schema=schema))


# What is refused


def test_a_batch_of_other_columns_is_refused() -> None:
    totals = RowTotals(TRACE_STEPS, TRACE_STEPS.arrow_schema())
    with pytest.raises(
        ConfigError, match="^trace_steps: expected rows of step_index: int64, .*; found run_id: string, "
    ):
        totals.update(RunSnapshot("r", "t").to_arrow().to_batches()[0])
    assert totals.rows == 0


def test_nan_is_refused() -> None:
    table = _table(0)
    i = table.column_names.index("cost_cents")
    with pytest.raises(InconsistentData, match="^trace_steps: row 0 has cost_cents = nan; expected a number$"):
        RowTotals.of(TRACE_STEPS, table.set_column(i, table.schema.field(i), pa.array([math.nan])))
