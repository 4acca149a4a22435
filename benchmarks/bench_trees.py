"""The tree of steps and sums that count each cent once, compared with SQL written by hand: part of ``make bench``.

    python benchmarks/bench_trees.py [--traces 100000] [--rounds 3]

A fleet of traces of 49 steps each: an agent, seven chains that repeat the usage of their six calls, all in DuckDB. The SQL gives the same
answer on this data, where it may trust that levels are three and that only calls spend.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from exporttools.analysis import cost_by, step_tree

STEPS, CHAINS, CALLS = 49, 6, 7  # an agent, six chains, and seven calls in each

TREE = """
    WITH RECURSIVE above AS (
      SELECT trace_id, step_index, parent_step_index AS ancestor FROM steps WHERE parent_step_index IS NOT NULL
      UNION ALL
      SELECT above.trace_id, above.step_index, steps.parent_step_index FROM above
        JOIN steps ON steps.trace_id = above.trace_id AND steps.step_index = above.ancestor
        WHERE steps.parent_step_index IS NOT NULL
    ),
    depths AS (SELECT trace_id, step_index, count(*) AS depth FROM above GROUP BY ALL),
    below AS (
      SELECT above.trace_id, above.ancestor AS step_index, count(*) AS descendants,
        sum(s.cost_cents) FILTER (s.step_type = 'llm_call') AS cents, sum(s.tokens) FILTER (s.step_type = 'llm_call') AS tokens
      FROM above JOIN steps AS s USING (trace_id, step_index) GROUP BY ALL
    ),
    children AS (
      SELECT c.trace_id, c.parent_step_index AS step_index,
        greatest(epoch_us(c.timestamp), epoch_us(p.timestamp)) AS began,
        least(epoch_us(c.timestamp) + c.duration_ms * 1000, epoch_us(p.timestamp) + p.duration_ms * 1000) AS ended
      FROM steps AS c JOIN steps AS p ON p.trace_id = c.trace_id AND p.step_index = c.parent_step_index
    ),
    reached AS (
      SELECT trace_id, step_index, began, ended, max(ended) OVER (
        PARTITION BY trace_id, step_index ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
      FROM children
    ),
    covered AS (
      SELECT trace_id, step_index, sum(greatest(0, ended - greatest(began, coalesce(before, began)))) / 1000 AS ms
      FROM reached GROUP BY ALL
    )
    SELECT s.trace_id, s.step_index, coalesce(depth, 0) AS depth, coalesce(descendants, 0) AS descendants,
      CASE WHEN below.tokens > 0 AND abs(s.tokens - below.tokens) <= 0.02 * below.tokens THEN 0 ELSE s.cost_cents END AS own_cost_cents,
      CASE WHEN below.tokens > 0 AND abs(s.tokens - below.tokens) <= 0.02 * below.tokens THEN 0 ELSE s.tokens END AS own_tokens,
      s.duration_ms - coalesce(covered.ms, 0) AS own_duration_ms
    FROM steps AS s LEFT JOIN depths USING (trace_id, step_index) LEFT JOIN below USING (trace_id, step_index)
      LEFT JOIN covered USING (trace_id, step_index)
"""


def fleet(traces: int) -> pa.Table:
    """Traces of an agent, its chains and their calls; each chain and the agent repeat the usage below them."""
    random = np.random.default_rng(14)
    rows = traces * STEPS
    place = np.arange(rows) % STEPS
    parent = np.where(place <= CHAINS, 0, (place - CHAINS - 1) // CALLS + 1)
    is_call = place > CHAINS
    tokens = np.where(is_call, random.integers(100, 4000, rows), 0).reshape(traces, STEPS)
    start = np.where(is_call, random.integers(0, 50, rows), 0).reshape(traces, STEPS).astype(np.int64)
    duration = np.where(is_call, random.random(rows) * 900 + 20, 0.0).reshape(traces, STEPS)
    for chain in range(1, CHAINS + 1):
        calls = slice(CHAINS + 1 + (chain - 1) * CALLS, CHAINS + 1 + chain * CALLS)
        start[:, calls] += 7000 * chain + 1000 * np.arange(CALLS)
        start[:, chain], duration[:, chain] = 7000 * chain, 7000.0
        tokens[:, chain] = tokens[:, calls].sum(axis=1)
    tokens[:, 0], duration[:, 0] = tokens[:, 1 : CHAINS + 1].sum(axis=1), 7000.0 * (CHAINS + 2)
    names = np.array(["agent", "chain", "llm_call"])
    trace = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(traces, dtype=np.int32), STEPS), [f"trace-{n:08}" for n in range(traces)]
    )
    started_us = (
        1_790_000_000_000_000 + np.repeat(np.arange(traces, dtype=np.int64), STEPS) * 60_000_000 + start.ravel() * 1000
    )
    return pa.table(
        {
            "tenant_id": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["acme"]).cast(pa.string()),
            "run_id": trace.cast(pa.string()), "trace_id": trace.cast(pa.string()),
            "step_index": place.astype(np.int64), "parent_step_index": pa.array(parent, pa.int64(), mask=place == 0),
            "timestamp": pa.array(started_us).cast(pa.timestamp("us", "UTC")),
            "step_type": pa.array(names[np.where(place == 0, 0, np.where(is_call, 2, 1))]),
            "tokens": tokens.ravel().astype(np.int64), "cost_cents": tokens.ravel() * 0.0015, "duration_ms": duration.ravel(),
        }
    )  # fmt: skip


def main(traces: int, rounds: int) -> None:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    steps = fleet(traces)
    connection.register("arrow_steps", steps)
    connection.execute("CREATE TABLE steps AS FROM arrow_steps")
    relation = connection.table("steps")
    ours = step_tree(relation).aggregate(
        "sum(depth), sum(descendants), sum(own_cost_cents), sum(own_tokens), sum(own_duration_ms)"
    )
    sql = connection.sql(
        f"SELECT sum(depth), sum(descendants), sum(own_cost_cents), sum(own_tokens), sum(own_duration_ms) FROM ({TREE})"
    )
    for mine, by_hand in zip(ours.fetchall()[0], sql.fetchall()[0], strict=True):
        assert abs(mine - by_hand) <= 1e-9 * abs(by_hand), (mine, by_hand)
    naive = "SELECT step_type, sum(cost_cents), sum(tokens), count(DISTINCT run_id) FROM steps GROUP BY ALL"
    candidates: dict[str, Any] = {
        "step_tree, DuckDB relation": lambda: step_tree(relation).to_arrow_table(),
        "the same by hand in SQL": lambda: connection.sql(TREE).to_arrow_table(),
        "step_tree, pyarrow": lambda: step_tree(steps),
        "cost_by step_type, each cent once, DuckDB relation": lambda: cost_by(relation, "step_type").fetchall(),
        "a sum that counts twice, by hand in SQL": lambda: connection.sql(naive).fetchall(),
    }
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, call in candidates.items():
            began = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - began)
    print(f"trees of {len(steps):,} steps in {traces:,} traces, in seconds")
    for name, seconds in best.items():
        print(f"  {name:<52} {seconds:6.2f}")
    by_hand = best["the same by hand in SQL"]
    print(f"  step_tree takes {best['step_tree, DuckDB relation'] / by_hand:.2f} times as long as by hand (at most 1.5), "
          f"from pyarrow {best['step_tree, pyarrow'] / by_hand:.2f}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    main(asked.traces, asked.rounds)
