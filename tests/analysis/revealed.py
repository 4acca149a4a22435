"""What a type checker makes of the analysis. `test_types.py` compares it with the comments; nothing here is run."""

from __future__ import annotations

from typing import Any, reveal_type

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa

import exporttools as et


def frames(
    pandas: pd.DataFrame, polars: pl.DataFrame, lazy: pl.LazyFrame, arrow: pa.Table, relation: duckdb.DuckDBPyRelation
) -> None:
    reveal_type(et.cost_by(pandas, "agent_id"))  # pandas.core.frame.DataFrame
    reveal_type(et.cost_by(polars, "agent_id"))  # polars.dataframe.frame.DataFrame
    reveal_type(et.cost_by(lazy, "agent_id"))  # polars.lazyframe.frame.LazyFrame
    reveal_type(et.cost_by(arrow, "agent_id"))  # Any
    reveal_type(et.cost_by(relation, "agent_id"))  # duckdb._relation.DuckDBPyRelation


def records(table: et.SnapshotTable[et.TraceStepSnapshot], bundle: et.ExportBundle) -> None:
    reveal_type(et.cost_by(table, "step_type"))  # Any
    reveal_type(et.cost_by(bundle, "step_type"))  # Any


def functions(steps: pl.DataFrame, bundle: et.ExportBundle) -> None:
    reveal_type(et.cost_over_time(steps, "1h", "agent_id"))  # polars.dataframe.frame.DataFrame
    reveal_type(et.percentiles(steps, "agent_id", percents=[50]))  # polars.dataframe.frame.DataFrame
    reveal_type(et.reprice(steps, "o3"))  # polars.dataframe.frame.DataFrame
    reveal_type(et.top_runs(steps, 5, by="tokens"))  # polars.dataframe.frame.DataFrame
    reveal_type(et.reconcile_costs(steps, steps))  # polars.dataframe.frame.DataFrame
    reveal_type(et.baseline(steps, by=["agent_id"]))  # polars.dataframe.frame.DataFrame
    reveal_type(et.anomalies(steps, et.baseline(bundle)))  # polars.dataframe.frame.DataFrame
    reveal_type(et.run_profiles(steps))  # polars.dataframe.frame.DataFrame
    reveal_type(et.run_totals(steps))  # polars.dataframe.frame.DataFrame
    reveal_type(et.repeated_calls(steps))  # polars.dataframe.frame.DataFrame
    reveal_type(et.compare_runs(steps, bundle, by="step_type"))  # polars.dataframe.frame.DataFrame
    reveal_type(et.what_changed(bundle, steps))  # polars.dataframe.frame.DataFrame


def mistakes(steps: pl.DataFrame) -> Any:
    et.cost_by([1, 2], "agent_id")  # error
    et.top_runs(steps, by="price")  # error
    et.compare_runs(steps, steps, by="agent")  # error
