"""How often `anomalies` is wrong: normal rows that it reports, and runs 3 times dearer that it misses.

    python benchmarks/bench_unusual.py [--fleets 40] [--seeds 10]

A cell has false alarms among 1,000 normal rows, and the share found of rows that are 3 times dearer.

Each fleet has groups of rows from one distribution, a baseline of n rows each, and other rows that are judged. The three
measures of a row are independent, which makes most false alarms. The floors in money and time are off.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools import ExportBundleStore
from exporttools.analysis import anomalies, baseline, run_profiles, run_totals
from exporttools.sample import load_sample

MEASURES = ("cost_cents", "tokens", "duration_ms")
OFF: dict[str, Any] = {"at_least_cents": 0, "at_least_ms": 0, "at_least_tokens": 0}
Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]


def lognormal(sigma: float) -> Draw:
    return lambda random, shape: random.lognormal(3.0, sigma, shape)


def pareto(alpha: float) -> Draw:
    return lambda random, shape: 20 * (1 + random.pareto(alpha, shape))


def bimodal(slow: float) -> Draw:
    return lambda random, shape: random.lognormal(3.0, 0.3, shape) * np.where(random.random(shape) < slow, 50.0, 1.0)


def with_zeros(draw: Draw, share: float) -> Draw:
    return lambda random, shape: draw(random, shape) * (random.random(shape) >= share)


def of_runs(steps: int) -> Draw:
    """The steps of runs, which resemble each other: runs vary by more than the steps of one."""

    def draw(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
        runs = random.normal(3.0, 0.5, (*shape[:-1], -(-shape[-1] // steps)))
        return np.exp(np.repeat(runs, steps, axis=-1)[..., : shape[-1]] + random.normal(0, 0.3, shape))

    return draw


DISTRIBUTIONS: dict[str, Draw] = {
    **{f"lognormal, sigma {sigma}": lognormal(sigma) for sigma in (0.15, 0.3, 0.6, 1.2)},
    **{f"Pareto, alpha {alpha}": pareto(alpha) for alpha in (1, 2, 3)},
    "bimodal, 30 % slow": bimodal(0.3),
    "bimodal, 10 % slow": bimodal(0.1),
    "lognormal 0.6, 60 % zeros": with_zeros(lognormal(0.6), 0.6),
    "Pareto 2, 60 % zeros": with_zeros(pareto(2), 0.6),
    "constant": lambda _, shape: np.full(shape, 20.0),
}

UNKNOWABLE: dict[str, Draw] = {
    "bimodal, 5 % slow": bimodal(0.05),
    "lognormal 0.6, 95 % zeros": with_zeros(lognormal(0.6), 0.95),
    "steps of runs of 10": of_runs(10),
    "steps of runs of 50": of_runs(50),
}
"""Where a small baseline does not show what is normal."""


def frame(values: Any) -> pa.Table:
    """Rows of shape (measures, groups, rows) as a frame, a group an agent."""
    _, groups, rows = values.shape
    agents = np.repeat([f"agent {number}" for number in range(groups)], rows)
    steps = {"agent_id": agents, "step_type": np.full(len(agents), "llm_call"), "step_index": np.arange(len(agents))}
    return pa.table(steps | {name: values[place].ravel() for place, name in enumerate(MEASURES)})


def reported(rows: pa.Table, usual: pa.Table, at_least: int) -> set[int]:
    found = anomalies(rows, usual, at_least=at_least, **OFF)
    return {index for index in found["step_index"].to_pylist() if index is not None}


def judge(
    random: np.random.Generator,
    draws: list[Draw],
    rows: int,
    *,
    fleets: int,
    anomalous: float = 0.0,
    same: bool = False,
) -> tuple[float, float]:
    """False alarms among 1,000 normal rows, and the share of rows found that are 3 times dearer."""
    alarms = normal = found = dearer = 0
    for _ in range(fleets):
        known = np.stack([draw(random, (3, rows)) for draw in draws], axis=1)
        bad = random.random(known.shape[1:]) < anomalous
        known[0][bad] *= random.uniform(3, 30, bad.sum())
        usual = baseline(frame(known), by=["agent_id", "step_type"])
        judged = known if same else np.stack([draw(random, (3, 1000)) for draw in draws], axis=1)
        good = ~bad.ravel() if same else np.ones(judged[0].size, np.bool_)
        named = reported(frame(judged), usual, min(rows, 20))
        alarms += sum(good[index] for index in named)
        normal += int(good.sum())
        changed = np.stack([draw(random, (3, 100)) for draw in draws], axis=1)
        changed[0] *= 3
        found += len(reported(frame(changed), usual, min(rows, 20)))
        dearer += changed[0].size
    return 1000 * alarms / normal, found / dearer


SIZES = (20, 30, 100, 1000)
OTHERS = (
    "lognormal, sigma 0.15",
    "lognormal, sigma 0.6",
    "Pareto, alpha 2",
    "bimodal, 30 % slow",
    "lognormal 0.6, 60 % zeros",
)


def bench_distributions(fleets: int) -> None:
    random = np.random.default_rng(14)
    twelve = {f"{name}; 12 groups": [draw] * 12 for name, draw in DISTRIBUTIONS.items()}
    few = {name: draws for name, draws in twelve.items() if name.removesuffix("; 12 groups") in OTHERS}
    unknowable = {name: [draw] for name, draw in UNKNOWABLE.items()}
    unknowable |= {f"{name}; 12 groups": [draw] * 12 for name, draw in UNKNOWABLE.items()}
    mixed = {"all of them, a group each": list(DISTRIBUTIONS.values())}
    tables: dict[str, tuple[dict[str, list[Draw]], dict[str, Any]]] = {
        "other rows": ({name: [draw] for name, draw in DISTRIBUTIONS.items()} | twelve | mixed, {}),
        "the baseline's own rows": (few, {"same": True}),
        "1 % of the baseline 3 to 30 times dearer": (few, {"anomalous": 0.01}),
        "5 % of the baseline 3 to 30 times dearer": (few, {"anomalous": 0.05}),
        "other rows, of what a small baseline does not show": (unknowable, {}),
    }
    for how, (kinds, options) in tables.items():
        print(f"\n{how + ', by rows in the baseline of a group':<62}" + "".join(f"{size:>14,}" for size in SIZES))
        for name, draws in kinds.items():
            cells = []
            for size in SIZES:
                count = 5 * fleets if len(draws) == 1 else max(2, fleets // 2)
                alarms, recall = judge(random, draws, size, fleets=count, **options)
                cells.append(f"{alarms:7.2f} /{recall:5.2f}")
            print(f"  {name:<60}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


def bench_sample(seeds: int) -> None:
    """Runs of sample fleets, each tenth made 3 times dearer, or slower, in all its steps."""
    changes = {
        "cost 3 times": ("cost_cents",), "cost and tokens 3 times": ("cost_cents", "tokens"), "time 3 times": ("duration_ms",),
        "all 3 times": ("cost_cents", "tokens", "duration_ms"), "as they are": (),
    }  # fmt: skip
    found, judged = Counter[str](), Counter[str]()
    for seed in range(2000, 2000 + seeds):
        with tempfile.TemporaryDirectory(prefix="et-bench-") as directory:
            url = f"sqlite:///{directory}/fleet.sqlite"
            load_sample(url, runs=300, seed=seed)
            store = ExportBundleStore(url)
            steps = store.scan_trace_steps().read_all()
            planted = {incident.source_run_id for incident in store.list_incidents()}
        creep = (pc.field("agent_id") == "data-analyst") & (pc.field("tenant_id") == "borealis-bank")
        planted |= set(steps.filter(creep)["run_id"].to_pylist())
        usual_totals = baseline(run_totals(steps.filter(~creep)))
        usual_profiles = baseline(run_profiles(steps.filter(~creep), at_least=5))
        runs = sorted(set(steps["run_id"].to_pylist()) - planted)
        for name, columns in changes.items():
            chosen = runs[seed % 10 :: 10] if columns else runs
            changed = steps.filter(pc.is_in(steps["run_id"], pa.array(chosen)))
            for column in columns:
                values = pc.multiply(changed[column], 3)
                changed = changed.set_column(changed.column_names.index(column), column, values)
            totals = anomalies(run_totals(changed), usual_totals)
            profiles = anomalies(run_profiles(changed, at_least=5), usual_profiles)
            found[name] += len({*totals["run_id"].to_pylist(), *profiles["run_id"].to_pylist()} - {None})
            judged[name] += len(chosen)
    print(f"\nof the runs in {seeds} sample fleets of 300 runs, found by their totals or mean steps")
    for name in changes:
        print(f"  {name:<26} {found[name]:>5,} of {judged[name]:>5,}: {found[name] / judged[name]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=10)
    asked = parser.parse_args()
    bench_sample(asked.seeds)
    bench_distributions(asked.fleets)
