"""Frames of every kind from Arrow tables, and back; the engines among them are real and of this session's own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import narwhals as nw
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

EAGER = ("pandas", "pandas-arrow", "polars", "pyarrow")
LAZY = ("polars-lazy", "duckdb")
ENGINES = tuple(pytest.param(name, marks=pytest.mark.slow) for name in ("dask", "pyspark"))
KINDS = (*EAGER, *LAZY, *ENGINES)

# Far from UTC, with a summer time that ends within the tests' data: no answer may depend on it.
SESSION_TIME_ZONE = "America/New_York"


@dataclass(frozen=True)
class FrameKind:
    """How to make frames of one kind."""

    name: str
    make: Callable[[pa.Table], Any]


def frame_kind(name: str, request: pytest.FixtureRequest) -> FrameKind:
    """The kind of that name; starts its engine where it has one."""
    if name == "pandas":
        return FrameKind(name, lambda table: table.to_pandas())
    if name == "pandas-arrow":
        return FrameKind(name, lambda table: table.to_pandas(types_mapper=pd.ArrowDtype))
    if name == "polars":
        return FrameKind(name, pl.from_arrow)
    if name == "polars-lazy":
        return FrameKind(name, lambda table: pl.from_arrow(table).lazy())
    if name == "pyarrow":
        return FrameKind(name, lambda table: table)
    if name == "duckdb":
        connection = duckdb.connect()
        connection.execute(f"SET TimeZone = '{SESSION_TIME_ZONE}'")
        return FrameKind(name, connection.from_arrow)
    if name == "dask":
        request.getfixturevalue("dask_client")
        import dask.dataframe

        return FrameKind(name, lambda table: dask.dataframe.from_pandas(table.to_pandas(), npartitions=3))
    return FrameKind(name, request.getfixturevalue("spark").createDataFrame)


@contextmanager
def dask_cluster() -> Iterator[Any]:
    """A cluster of two workers, as a client that is the default for Dask's frames."""
    distributed = pytest.importorskip("distributed", reason="the extra `distributed` is not installed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def start_spark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A local session of two cores."""
    pytest.importorskip("pyspark", reason="the extra `distributed` is not installed")
    if shutil.which("java") is None:
        pytest.skip("PySpark needs Java, and there is no java on this machine")
    from pyspark.sql import SparkSession

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    options = {
        "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "4", "spark.log.level": "ERROR",
        "spark.driver.host": "127.0.0.1", "spark.sql.session.timeZone": SESSION_TIME_ZONE,
        "spark.ui.showConsoleProgress": "false",
    }  # fmt: skip
    return SparkSession.builder.master("local[2]").config(map=options).getOrCreate()


def rows(frame: Any) -> pa.Table:
    """A frame's rows in Arrow's plain types, floats without NaN."""
    data = nw.from_native(frame)
    if isinstance(data, nw.LazyFrame):
        names = data.collect_schema().names()
        data = data.collect("pyarrow").select(names)
    table = data.to_arrow()
    columns = []
    for column in table.columns:
        values = column
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
            values = values.cast(pa.string())
        if pa.types.is_timestamp(values.type):
            values = values.cast(pa.timestamp("us", "UTC"), safe=False)
        if pa.types.is_floating(values.type):
            values = pa.chunked_array([pa.array(values.to_numpy(), pa.float64(), from_pandas=True)])
        columns.append(values)
    return pa.table(columns, names=table.column_names)


def assert_same(found: Any, expected: pa.Table) -> None:
    """The same rows in the same order; floats to a millionth of a cent or millisecond."""
    table = rows(found)
    assert table.column_names == expected.column_names
    assert len(table) == len(expected)
    for name in expected.column_names:
        assert table[name].to_pylist() == [_about(value) for value in expected[name].to_pylist()], name


def _about(value: Any) -> Any:
    """What equals a value: for a float, also its neighbours."""
    return pytest.approx(value, abs=1e-6, rel=1e-12) if isinstance(value, float) else value
