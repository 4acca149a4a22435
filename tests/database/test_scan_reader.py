"""Scans that fail after their first batch: the error is ours, whoever reads, and the connection is given back."""

from __future__ import annotations

import datetime as dt
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import psycopg
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from matplotlib import pyplot as plt
from sqlalchemy import make_url

from exporttools import ConnectionFailed, ExportBundleStore, InconsistentData, StoreError, analysis, plots
from exporttools.database import readers
from exporttools.database.scan_reader import ScanReader
from tests.analysis.calls import ONE
from tests.databases import NOON, breaks_cursors, create_native, one_of_each, run_sql, step

STEPS, BAD = 500, 490
FAULT = f"trace_steps: row tenant_id='acme', trace_id='t1', step_index={BAD} has tokens = NULL"


def by_duckdb(reader: ScanReader) -> int:
    with duckdb.connect() as connection:
        return len(connection.sql("SELECT * FROM reader WHERE step_index >= 0").fetchall())


BY_PYARROW: dict[str, Callable[[Any], Any]] = {
    "read_all": lambda reader: reader.read_all(),
    "read_pandas": lambda reader: reader.read_pandas(),
    "iteration": lambda reader: list(reader),
    "read_next_batch": lambda reader: [reader.read_next_batch() for _ in range(STEPS)],
    "iter_batches": lambda reader: list(reader.iter_batches_with_custom_metadata()),
    "cast": lambda reader: reader.cast(reader.schema).read_all(),
    "Table": lambda reader: pa.Table.from_batches(reader),
    "polars.from_arrow": pl.from_arrow,
}
BY_C_STREAM: dict[str, Callable[[Any], Any]] = {
    "pa.table": pa.table,
    "pandas": pd.DataFrame.from_arrow,
    "polars": pl.DataFrame,
    "duckdb": lambda reader: by_duckdb(reader),
}
EVERY = {**BY_PYARROW, **BY_C_STREAM}
PLOTS: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(plots, name) for name in plots.__all__ if name != "what_changed"},
    "compare_runs": lambda reader: plots.compare_runs(reader, reader),
    "anomalies": lambda reader: plots.anomalies(reader, analysis.baseline(reader)),
}

COUNTED: dict[str, Callable[[Any], int]] = {
    "read_all": lambda reader: reader.read_all().num_rows,
    "iteration": lambda reader: sum(batch.num_rows for batch in reader),
    "cast": lambda reader: reader.cast(reader.schema).read_all().num_rows,
    "pa.table": lambda reader: pa.table(reader).num_rows,
    "pandas": lambda reader: len(pd.DataFrame.from_arrow(reader)),
    "polars": lambda reader: len(pl.DataFrame(reader)),
    "duckdb": lambda reader: by_duckdb(reader),
}

by_pyarrow = pytest.mark.parametrize("read", BY_PYARROW.values(), ids=BY_PYARROW)
by_c_stream = pytest.mark.parametrize("read", BY_C_STREAM.values(), ids=BY_C_STREAM)
every = pytest.mark.parametrize("read", EVERY.values(), ids=EVERY)


@pytest.fixture(scope="module")
def urls(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A database of each kind, only to be read, where one of the last steps has a value that it must not have."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE late")
    steps = [step(index, tokens=None if index == BAD else 1) for index in range(STEPS)]
    urls = {
        "sqlite": f"sqlite:///{tmp_path_factory.mktemp('scans') / 'late.sqlite'}",
        "postgresql": make_url(postgres_server).set(database="late").render_as_string(hide_password=False),
    }
    return {name: create_native(url, one_of_each(trace_steps=steps)) for name, url in urls.items()}


@pytest.fixture(params=["sqlite", "postgresql by rows", "postgresql in bulk"])
def store(request: pytest.FixtureRequest, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ExportBundleStore:
    """Reads in batches of a tenth of the steps, by each reader."""
    dialect, _, reader = request.param.partition(" ")
    monkeypatch.setattr(readers, "ROWS_PER_FETCH", STEPS // 10)
    monkeypatch.setattr(readers, "_BULK_BATCH_BYTES", 10_000)
    if reader == "by rows":
        monkeypatch.setattr(readers.BulkReader, "_joined", lambda *_: None)
    return ExportBundleStore(urls[dialect])


def good_scan(store: ExportBundleStore) -> ScanReader:
    """A scan of all steps before the bad one."""
    return store.scan_trace_steps(until=NOON + dt.timedelta(seconds=BAD))  # type: ignore[no-any-return]


def connections_of(store: ExportBundleStore) -> int:
    return int(store._reader.database.engine.pool.checkedout())  # type: ignore[attr-defined]


@by_pyarrow
def test_pyarrow_raises_our_error(read: Callable[[Any], Any], store: ExportBundleStore) -> None:
    reader = store.scan_trace_steps()
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.read_next_batch().num_rows > 0
    with pytest.raises(InconsistentData) as caught:
        read(reader)
    assert str(caught.value).startswith(FAULT)
    assert (caught.value.table, caught.value.column) == ("trace_steps", "tokens")
    assert connections_of(store) == 0


@by_c_stream
def test_others_raise_an_error_that_repeats_ours(read: Callable[[Any], Any], store: ExportBundleStore) -> None:
    reader = store.scan_trace_steps()
    with pytest.raises((pa.ArrowException, OSError, pl.exceptions.PolarsError, duckdb.Error)) as caught:
        read(reader)
    assert FAULT in str(caught.value)
    assert connections_of(store) == 0


@every
def test_a_with_block_raises_our_error_whoever_reads(read: Callable[[Any], Any], store: ExportBundleStore) -> None:
    with pytest.raises(InconsistentData) as caught, store.scan_trace_steps() as reader:
        read(reader)
    assert str(caught.value).startswith(FAULT)


def test_what_is_written_from_a_scan(store: ExportBundleStore, tmp_path: Path) -> None:
    with pytest.raises(InconsistentData, match=FAULT):
        ds.write_dataset(store.scan_trace_steps(), tmp_path / "steps", format="parquet")


def test_another_error_in_the_block_stays(store: ExportBundleStore) -> None:
    with pytest.raises(ZeroDivisionError), store.scan_trace_steps() as reader:
        with suppress(InconsistentData):
            reader.read_all()
        1 / 0  # noqa: B018


def test_reading_on_after_an_error_is_not_the_end(store: ExportBundleStore) -> None:
    reader = store.scan_trace_steps()
    with pytest.raises(InconsistentData, match=FAULT):
        reader.read_all()
    for _ in range(2):
        with pytest.raises(pa.ArrowInvalid, match="^the scan is closed; begin a new one"):
            reader.read_all()


@pytest.mark.parametrize("read", [BY_PYARROW["read_all"], BY_C_STREAM["duckdb"]], ids=["read_all", "duckdb"])
def test_a_failed_scan_is_not_kept_in_memory(read: Callable[[Any], Any], store: ExportBundleStore) -> None:
    def fail() -> weakref.ref[ScanReader]:
        reader = store.scan_trace_steps()
        with suppress(InconsistentData, duckdb.Error):
            read(reader)
        return weakref.ref(reader)

    failed = fail()
    gc.collect()
    assert failed() is None


@pytest.mark.parametrize("function", ONE.values(), ids=ONE)
def test_every_analysis_raises_our_error(function: Callable[[Any], Any], store: ExportBundleStore) -> None:
    with pytest.raises(InconsistentData, match=FAULT):
        function(store.scan_trace_steps())


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_every_plot_raises_our_error(plot: Callable[[Any], Any], store: ExportBundleStore) -> None:
    before = plt.get_fignums()
    with pytest.raises(InconsistentData, match=FAULT):
        plot(store.scan_trace_steps())
    assert plt.get_fignums() == before


@pytest.mark.parametrize("read", COUNTED.values(), ids=COUNTED)
def test_whoever_reads_gets_every_row(read: Callable[[Any], int], store: ExportBundleStore) -> None:
    reader = good_scan(store)
    assert reader.schema.field("cost_cents").metadata[b"unit"] == b"US cents"
    assert read(reader) == BAD
    assert connections_of(store) == 0


def test_closing_gives_the_connection_back(store: ExportBundleStore) -> None:
    for close in (lambda reader: reader.close(), lambda reader: closing(reader).__exit__(None, None, None)):
        reader = store.scan_trace_steps()
        reader.read_next_batch()
        assert connections_of(store) == 1
        close(reader)
        assert connections_of(store) == 0
        with pytest.raises(pa.ArrowInvalid, match="^the scan is closed; begin a new one"):
            reader.read_next_batch()
        reader.close()


def killed(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


@pytest.fixture(params=["rows", "bulk"])
def long_scan(
    request: pytest.FixtureRequest, fresh_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, ScanReader]]:
    """A scan of more than sockets hold, after its first batch."""
    create_native(fresh_postgres_url, one_of_each())
    run_sql(
        fresh_postgres_url,
        "INSERT INTO trace_steps SELECT 'acme', 't1', i, now(), 'x', 1, 1, 1, 'ok', repeat('x', 200)"
        " FROM generate_series(10, 200000) AS i",
    )
    if request.param == "rows":
        monkeypatch.setattr(readers.BulkReader, "_joined", lambda *_: None)
    store = ExportBundleStore(fresh_postgres_url)
    reader = store.scan_trace_steps()
    reader.read_next_batch()
    yield fresh_postgres_url, reader
    reader.close()
    assert connections_of(store) == 0


@breaks_cursors
@pytest.mark.parametrize("read", [BY_PYARROW["read_all"], BY_C_STREAM["duckdb"]], ids=["read_all", "duckdb"])
def test_a_server_that_goes_away(read: Callable[[Any], Any], long_scan: tuple[str, ScanReader]) -> None:
    url, scan = long_scan
    killed(url)
    with pytest.raises(ConnectionFailed, match="closed the connection. The driver says: ") as caught, scan as reader:
        read(reader)
    assert isinstance(caught.value, StoreError)
    assert caught.value.transient
