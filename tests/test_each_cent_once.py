"""PROMISES row 24: a root span that repeats its trace's usage changes no total of any function, bundle, report, dataset or command."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from exporttools import (
    ExportBundle,
    ExportBundleStore,
    anomalies,
    baseline,
    compare_runs,
    cost_by,
    cost_over_time,
    export_dataset,
    open_dataset,
    plots,
    read_bundle,
    reconcile_costs,
    repeated_calls,
    run_totals,
    top_runs,
    verify_bundle,
    what_changed,
    write_bundle,
)
from exporttools.loading import load_tables
from exporttools.sample import sample_tables
from tests.cli.invoking import call
from tests.databases import new_database
from tests.nested import wrapped_tables

RUNS = 300
AMOUNTS = ("cost_cents", "tokens")


class Both:
    """The sample's first runs as they are, and inside root spans that repeat their usage."""

    def __init__(self, flat: str, nested: str) -> None:
        self.urls = (flat, nested)
        self.stores = (ExportBundleStore(flat), ExportBundleStore(nested))

    def steps(self) -> list[pa.Table]:
        return [store.scan_trace_steps().read_all() for store in self.stores]

    def bundles(self, incident_id: str) -> list[ExportBundle]:
        found = [store.get_export_bundle(incident_id) for store in self.stores]
        assert all(found)
        return found  # type: ignore[return-value]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    directory = tmp_path_factory.mktemp("nested")
    tables = sample_tables(runs=RUNS)
    urls = []
    for name, content in (("flat", tables), ("nested", wrapped_tables(tables))):
        url = f"sqlite:///{directory / name}.sqlite"
        if request.param == "postgresql":
            url = new_database(request.getfixturevalue("postgres_server"))
        load_tables(url, content.items())
        urls.append(url)
    return Both(*urls)


def same(found: Any, expected: Any) -> None:
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_naive_sum_is_twice_as_much(both: Both) -> None:
    flat, nested = both.steps()
    for name in AMOUNTS:
        same(pc.sum(nested[name]).as_py(), 2 * pc.sum(flat[name]).as_py())
    (found,) = cost_by(nested, roll_ups="count").to_pylist()
    same(found["cost_cents"], 2 * pc.sum(flat["cost_cents"]).as_py())


@pytest.mark.parametrize("keys", [(), ("agent_id",), ("tenant_id", "agent_id"), ("model",)])
def test_cost_by(both: Both, keys: tuple[str, ...]) -> None:
    flat, nested = (
        {
            tuple(row[key] for key in keys): [row[name] for name in (*AMOUNTS, "runs")]
            for row in cost_by(steps, *keys).to_pylist()
        }
        for steps in both.steps()
    )
    for key, amounts in flat.items():
        if key != (None,):  # root spans have no model, as tool calls have none
            same(nested[key], amounts)


def test_root_spans_are_named_as_what_was_left_out(both: Both) -> None:
    found = {row["step_type"]: row for row in cost_by(both.steps()[1], "step_type").to_pylist()}
    traces = both.stores[0].list_traces()
    assert found["agent"]["steps"] == len(traces)
    same([found["agent"][name] for name in AMOUNTS], [0, 0])
    spending = sum(row["roll_ups"] for row in top_runs(both.steps()[1], 1000).to_pylist())
    assert found["agent"]["roll_ups"] == spending > 0
    assert found["agent"]["ambiguous"] == 0


def test_sums_over_time_and_by_run(both: Both) -> None:
    for call_ in (lambda steps: cost_over_time(steps, "1d", "agent_id"), lambda steps: top_runs(steps, 1000)):
        flat, nested = (call_(steps).to_pylist() for steps in both.steps())
        keys = [name for name in ("period_start", "agent_id", "tenant_id", "run_id") if name in flat[0]]
        by_key = {tuple(row[key] for key in keys): row for row in nested}
        assert len(by_key) == len(flat)
        for row in flat:
            same([by_key[tuple(row[key] for key in keys)][name] for name in AMOUNTS], [row[name] for name in AMOUNTS])


def test_reconciliation(both: Both) -> None:
    flat, nested = (
        {
            (row["tenant_id"], row["run_id"]): (row["finding"], pytest.approx(row["step_cost_cents"]))
            for row in reconcile_costs(store.list_runs().to_arrow(), steps).to_pylist()
        }
        for store, steps in zip(both.stores, both.steps(), strict=True)
    )
    assert flat == nested


def test_bundles_written_read_and_verified(both: Both, tmp_path: Path) -> None:
    flat, nested = both.bundles("inc-0000-1")
    assert nested.totals["steps"] == flat.totals["steps"] + 1
    for name in ("failed", *AMOUNTS):
        same(nested.totals[name], flat.totals[name])
    assert (nested.rolled_up["steps"], nested.rolled_up["tokens"]) == (1, flat.totals["tokens"])
    assert flat.rolled_up == {"steps": 0, "ambiguous": 0, "tokens": 0, "cost_cents": 0.0, "duration_ms": 0.0}
    path = write_bundle(nested, tmp_path / "nested")
    assert verify_bundle(path)
    assert read_bundle(path).totals == nested.totals
    stated = json.loads((path / "data/bundle.json").read_text())
    assert stated["totals"]["tokens"] == flat.totals["tokens"]
    raw = pc.sum(nested.steps.to_arrow()["tokens"]).as_py()
    assert raw == stated["totals"]["tokens"] + stated["rolled_up"]["tokens"]
    assert nested.steps.sums["tokens"] == flat.steps.sums["tokens"]


def test_datasets(both: Both, tmp_path: Path) -> None:
    totals, by_frame = [], []
    for number, store in enumerate(both.stores):
        export_dataset(store, tmp_path / f"d{number}", window="30d", progress=False)
        dataset = open_dataset(tmp_path / f"d{number}")
        totals.append(dataset.sql("SELECT sum(cost_cents), sum(tokens) FROM Ledger").fetchall()[0])
        by_frame.append(cost_by(dataset.sql("from ledger")).select("cost_cents", "tokens").fetchall()[0])
        one = open_dataset(tmp_path / f"d{number}", tenant_id=dataset.tenants[0])
        totals.append(one.sql("select sum(cost_cents), sum(tokens) from ledger").fetchall()[0])
    same(totals[2], totals[0])
    same(totals[3], totals[1])
    same(by_frame[1], by_frame[0])
    same(by_frame[1], totals[0])
    nested = open_dataset(tmp_path / "d1")
    raw, left_out, kinds = nested.sql(
        "select sum(tokens + rolled_up_tokens), sum(rolled_up_tokens), list_sort(list(distinct roll_up) filter (roll_up is not null)) from ledger"
    ).fetchall()[0]
    assert (raw, left_out, kinds) == (2 * totals[0][1], totals[0][1], ["whole"])
    assert nested.sql("select sum(tokens) from trace_steps").fetchall() == [(raw,)]
    same(cost_by(nested.sql("from ledger"), roll_ups="count").fetchall()[0][0], 2 * totals[0][0])


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def caption(ax: Any) -> str:
    """The line of facts below a plot's title: how many steps, and what they cost."""
    texts = [text.get_text() for each in ax.figure.axes for text in each.texts]
    return next(text for text in texts if re.match(r"\d+ steps · ", text))


@pytest.mark.parametrize("plot", ["cost_breakdown", "cost_over_time", "cumulative_cost", "timeline"])
def test_plots_say_the_same_totals(both: Both, plot: str) -> None:
    flat, nested = (caption(getattr(plots, plot)(bundle)) for bundle in both.bundles("inc-0000-2"))
    (total,) = re.findall(r"[\d,.]+ US cents", flat)
    assert re.findall(r"[\d,.]+ US cents", nested) == [total]
    assert ("1 roll-up left out" in nested) == (plot == "cost_breakdown")


def test_commands(both: Both) -> None:
    times = sorted(both.steps()[0]["timestamp"].to_pylist())
    until = ["--until", times[len(times) // 2].isoformat()]
    for arguments in (["cost"], ["cost", "--by", "tenant_id"], ["cost", "--every", "1d"], ["cost", *until]):
        flat, nested = (json.loads(call(*arguments, "--database", url, "--format", "json").stdout) for url in both.urls)
        assert len(nested) == len(flat)
        for one, other in zip(nested, flat, strict=True):
            same([one[name] for name in AMOUNTS], [other[name] for name in AMOUNTS])
    flat, nested = (
        json.loads(call("show", "inc-0000-1", "--database", url, "--format", "json").stdout) for url in both.urls
    )
    for name in AMOUNTS:
        same(nested["totals"][name], flat["totals"][name])
    assert nested["rolled_up"]["steps"] == 1
    for_people = call("show", "inc-0000-1", "--database", both.urls[1]).stdout
    assert "US cents left out, which 1 step repeats of its parts" in re.sub(r"\s+", " ", for_people)


@pytest.mark.parametrize("step_type", ["agent", "request"])
def test_commands_over_a_time_that_cuts_traces(step_type: str, tmp_path: Path) -> None:
    """The parts that a root span repeats may have started after the end of the time asked for: they are left out of it all the same."""
    tables = sample_tables(runs=60)
    times = sorted(tables["trace_steps"]["timestamp"].to_pylist())
    cut = times[len(times) // 2]
    contents = {"flat": tables, "nested": wrapped_tables(tables, step_type=step_type)}
    for name, content in contents.items():
        load_tables(f"sqlite:///{tmp_path / name}.sqlite", content.items())
    assert any(
        row["step_index"] == 0
        and row["timestamp"] < cut < row["timestamp"] + dt.timedelta(milliseconds=row["duration_ms"])
        for row in contents["nested"]["trace_steps"].to_pylist()
    )
    for command in (["cost", "--by", "tenant_id"], ["cost", "--by", "tenant_id", "--every", "1d"]):
        for limits in (["--until", cut.isoformat()], ["--since", cut.isoformat()]):
            flat, nested = (
                json.loads(
                    call(
                        *command, *limits, "--database", f"sqlite:///{tmp_path / name}.sqlite", "--format", "json"
                    ).stdout
                )
                for name in contents
            )
            assert len(nested) == len(flat) > 0
            for one, other in zip(nested, flat, strict=True):
                same([one[name] for name in (*AMOUNTS, "runs")], [other[name] for name in (*AMOUNTS, "runs")])


def test_what_is_unusual_is_the_same(both: Both) -> None:
    """Root spans are no rows that anybody is called for, and hide none."""
    of_steps, of_runs, elapsed = [], [], []
    for steps in both.steps():
        found = anomalies(steps, baseline(steps)).to_pylist()
        of_steps.append(
            {
                (row["trace_id"], row["timestamp"], row["measure"])
                for row in found
                if row["measure"] and row["step_type"] != "agent"
            }
        )
        totals = run_totals(steps)
        found = anomalies(totals, baseline(totals)).to_pylist()
        of_runs.append(
            {(row["run_id"], row["measure"], round(row["value"], 6)) for row in found if row["measure"] in AMOUNTS}
        )
        elapsed.append({row["run_id"]: row["elapsed_ms"] for row in totals.to_pylist()})
        plots.anomalies(steps, baseline(steps), measure="tokens")
    assert of_steps[0] == of_steps[1] != set()
    assert of_runs[0] == of_runs[1]
    assert elapsed[1] == pytest.approx(elapsed[0])


def test_compared_runs_cost_the_same(both: Both) -> None:
    sums = []
    for first, second in zip(both.bundles("inc-0000-1"), both.bundles("inc-0000-2"), strict=True):
        found = compare_runs(first, second, by="step_type").to_pylist()
        sums.append(
            [sum(row[f"{name}_{side}"] or 0 for row in found) for name in AMOUNTS for side in ("a", "b", "difference")]
        )
    same(sums[1], sums[0])


def test_repeated_calls_are_found_and_cost_the_same(both: Both) -> None:
    flat, nested = (repeated_calls(steps) for steps in both.steps())
    assert len(flat) == len(nested) > 0
    names = [
        "trace_id",
        "kind",
        "times",
        "failed",
        "cost_cents",
        "wasted_cost_cents",
        "wasted_duration_ms",
        "waiting_ms",
    ]
    for one, other in zip(flat.select(names).to_pylist(), nested.select(names).to_pylist(), strict=True):
        assert other == pytest.approx(one)


@pytest.mark.parametrize("usage", [True, False])
def test_what_changed_blames_what_it_blames_without_root_spans(usage: bool, tmp_path: Path) -> None:
    """A root span of no cost, or one that repeats its trace's, took all the time of its trace."""
    tables = sample_tables(runs=300)
    incidents, causes = [f"inc-0000-{n}" for n in range(1, 7)], []
    for name, content in (("flat", tables), ("nested", wrapped_tables(tables, usage=usage))):
        load_tables(f"sqlite:///{tmp_path / name}.sqlite", content.items())
        store = ExportBundleStore(f"sqlite:///{tmp_path / name}.sqlite")
        fleet = store.scan_trace_steps().read_all()
        bundles = [store.get_export_bundle(incident) for incident in incidents]
        causes.append([what_changed(bundle, fleet).to_pylist() for bundle in bundles if bundle is not None])
    for flat, nested in zip(*causes, strict=True):
        reasons = [re.sub(r"step \d+", "step N", found[0]["reason"]) for found in (flat, nested)]
        assert reasons[0] == reasons[1]
        for name in ("cost_cents", "duration_ms"):
            same(sum(row[name] for row in nested), sum(row[name] for row in flat))
