"""The made-up fleet: the same for a seed, as documented, believable, and with every planted incident findable in the data."""

from __future__ import annotations

import gzip
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from exporttools.errors import ConfigError
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, RecordType
from exporttools.records.statuses import FAILED_STATUSES
from exporttools.records.validity import Origin, require_valid
from exporttools.sample import load_sample, sample_block, sample_blocks, sample_tables, write_sample
from exporttools.sample.blocks import STEP_EXTRA
from exporttools.sample.fleet import AGENTS, FIRST_DAY, MODELS
from tests.databases import stored, writable
from tests.records.columns import STORED_COLUMNS, shown

DATA = Path(__file__).parents[2] / "data"

# Any seed, block and size has the same plants.
BLOCKS = [(7, 0, 300), (7, 1, 300), (8, 41, 299), (3, 9, 50)]


class Block:
    """A block's tables as frames, and its steps with their run."""

    def __init__(self, seed: int, number: int, runs: int) -> None:
        self.tables = sample_block(seed, number, runs)
        frames = {table: rows.to_pandas() for table, rows in self.tables.items()}
        self.incidents = frames["incidents"].set_index("id")
        self.runs = frames["runs"].set_index("run_id")
        self.traces = frames["traces"]
        run_of = self.traces.set_index("trace_id").run_id
        self.steps = frames["trace_steps"].assign(run_id=lambda steps: steps.trace_id.map(run_of))
        self.prefix = f"inc-{number:04d}-"

    def run_of(self, incident: int) -> Any:
        return self.runs.loc[self.incidents.source_run_id[f"{self.prefix}{incident}"]]

    def steps_of(self, incident: int) -> pd.DataFrame:
        mine: pd.DataFrame = self.steps[self.steps.run_id == self.run_of(incident).name]
        return mine.reset_index(drop=True)

    def violation_of(self, incident: int) -> int:
        """The index of the first step that went wrong, after checking that its time is that step's."""
        (trace,) = self.traces[self.traces.run_id == self.run_of(incident).name].itertuples()
        step = self.steps_of(incident).loc[trace.violation_step_index]
        assert step.step_index == trace.violation_step_index
        assert step.timestamp == trace.violation_timestamp
        return int(step.step_index)


@pytest.fixture(scope="module", params=BLOCKS, ids=lambda block: "-".join(map(str, block)))
def block(request: pytest.FixtureRequest) -> Block:
    return Block(*request.param)


@pytest.fixture(scope="module")
def readme() -> str:
    return (DATA / "README.md").read_text(encoding="utf-8")


# The same rows


def test_the_committed_sample_is_the_one_that_the_code_makes(sample: dict[str, pa.Table]) -> None:
    for table, rows in sample.items():
        order = "trace_id, step_index" if table == "trace_steps" else RECORD_TYPES[table].key[0]
        assert stored(f"sqlite:///{DATA / 'sample.sqlite'}", table, order) == rows.to_pylist()


def test_the_committed_sample_has_the_tables_that_a_new_one_has(tmp_path: Path) -> None:
    load_sample(tmp_path / "new.sqlite", progress=False)
    tables = []
    for path in (DATA / "sample.sqlite", tmp_path / "new.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            tables.append(connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall())
    assert tables[0] == tables[1]


def test_the_committed_sample_is_small() -> None:
    assert len(gzip.compress((DATA / "sample.sqlite").read_bytes())) < 1_000_000


def test_a_block_is_a_pure_function_of_its_arguments() -> None:
    first, again = sample_block(7, 2, 60), sample_block(7, 2, 60)
    assert first == again
    for other in (sample_block(8, 2, 60), sample_block(7, 3, 60), sample_block(7, 2, 61)):
        assert other["trace_steps"] != first["trace_steps"]


def test_the_default_sample_has_the_documented_size(sample: dict[str, pa.Table]) -> None:
    assert sample["incidents"].num_rows == 8
    assert sample["runs"].num_rows == 300
    assert 14_000 < sample["trace_steps"].num_rows < 16_000


def test_any_number_of_runs_is_made_of_few_blocks_of_about_one_size() -> None:
    assert [block["runs"].num_rows for block in sample_blocks(300)] == [300]
    assert [block["runs"].num_rows for block in sample_blocks(301)] == [151, 150]
    assert [block["runs"].num_rows for block in sample_blocks(50)] == [50]


def test_rows_come_in_key_order_across_blocks() -> None:
    tables = sample_tables(701)
    for table, record_type in RECORD_TYPES.items():
        key = list(record_type.stored_key)
        frame = tables[table].select(key).to_pandas()
        assert not frame.duplicated().any()
        assert frame.equals(frame.sort_values(key, ignore_index=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"runs": 49},
            r"runs is 49; expected an integer from 50 \(to have room for the planted incidents\) to 3,000,000",
        ),
        ({"runs": 3_000_001}, "runs is 3000001; expected"),
        ({"seed": -1}, "seed is -1; expected an integer from 0 to 4,294,967,295"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_tables(**arguments)


@pytest.mark.parametrize(
    ("block", "runs", "message"),
    [
        (-1, 300, "block is -1; expected an integer from 0 to 9,999"),
        (10_000, 300, "block is 10000; expected an integer from 0 to 9,999"),
        (0, 301, "runs is 301; expected an integer from 50 to 300"),
    ],
)
def test_blocks_out_of_range_are_refused(block: int, runs: int, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        sample_block(7, block, runs)


# Believable


def test_the_schema_is_the_records_own_and_holds(block: Block) -> None:
    for table, record_type in RECORD_TYPES.items():
        rows = block.tables[table]
        columns = record_type.stored_columns(STEP_EXTRA if table == "trace_steps" else ())
        extra = ["name: string", "model: string", "error: string"] if table == "trace_steps" else []
        assert shown(rows.schema) == STORED_COLUMNS[table] + extra
        assert [field.metadata[b"doc"].decode() for field in rows.schema] == [column.doc for column in columns]
        require_valid(rows, columns, origin=Origin(table), key=record_type.key)
    assert len(block.tables) == len(RECORD_TYPES) == 4


def test_every_reference_is_to_a_row_of_the_same_tenant(block: Block) -> None:
    tenant_of_run, tenant_of_trace = block.runs.tenant_id, block.traces.set_index("trace_id").tenant_id
    incidents = block.incidents.dropna(subset="source_run_id")
    assert (incidents.tenant_id == incidents.source_run_id.map(tenant_of_run)).all()
    assert (block.traces.tenant_id == block.traces.run_id.map(tenant_of_run)).all()
    assert (block.steps.tenant_id == block.steps.trace_id.map(tenant_of_trace)).all()


def test_steps_follow_each_other_within_their_run(block: Block) -> None:
    steps = block.steps
    end = steps.timestamp + pd.to_timedelta((steps.duration_ms * 1000).round().astype("int64"), unit="us")
    for _, run_steps in steps.assign(end=end).groupby("run_id"):
        assert (run_steps.timestamp.to_numpy()[1:] >= run_steps.end.to_numpy()[:-1]).all()
    dated = steps.run_id.map(block.runs.started_at)
    ended = steps.run_id.map(block.runs.completed_at)
    assert (steps.timestamp >= dated)[dated.notna()].all()
    assert (end <= ended)[ended.notna()].all()
    assert (steps.groupby("trace_id").step_index.diff().dropna() == 1).all()


def test_costs_are_exact_in_six_decimals_and_follow_from_the_model(block: Block) -> None:
    steps = block.steps
    assert (steps.cost_cents == steps.cost_cents.round(6)).all()
    dearest = {model.name: max(model.input_cents_per_million, model.output_cents_per_million) for model in MODELS}
    cheapest = {model.name: min(model.input_cents_per_million, model.output_cents_per_million) for model in MODELS}
    called = steps[steps.model.notna()]
    assert (called.cost_cents * 1e6 <= called.tokens * called.model.map(dearest) + 1e-3).all()
    assert (called.cost_cents * 1e6 >= called.tokens * called.model.map(cheapest) - 1e-3).all()
    uncalled = steps[steps.model.isna()]
    assert (uncalled.tokens == 0).all()
    assert set(uncalled.cost_cents) <= {0.0, 0.5}


def test_what_is_ordinary_has_no_look_of_a_plant(block: Block) -> None:
    planted = {block.run_of(number).name for number in (1, 2, 3, 4, 6)}
    ordinary = block.steps[~block.steps.run_id.isin(planted)]
    assert ordinary.groupby("content_hash").size().max() <= 2
    assert set(ordinary.status) <= {"ok", "error"}
    assert ordinary[ordinary.step_type == "tool_call"].duration_ms.max() < 40_000
    reasons = set(block.runs.drop(list(planted)).termination_reason.dropna())
    assert reasons <= {"completed", "user_abort", "system_failure"}
    faults = ordinary.status.isin(FAILED_STATUSES)
    assert 0.002 < faults.mean() < 0.02
    assert (ordinary.error.notna() == faults).all()


def test_a_fault_is_followed_by_the_same_call_which_works(block: Block) -> None:
    repeated = block.steps[block.steps.content_hash.duplicated(keep=False) & block.steps.content_hash.notna()]
    pairs = [pair for _, pair in repeated.groupby("content_hash") if len(pair) == 2]
    assert pairs
    for pair in pairs:
        assert list(pair.status) == ["error", "ok"]
        assert pair.step_index.diff().iloc[1] == 1
        assert pair[["step_type", "name", "model", "trace_id"]].drop_duplicates().shape[0] == 1


def test_latencies_have_heavy_tails_and_contexts_grow(sample: dict[str, pa.Table]) -> None:
    steps = sample["trace_steps"].to_pandas()
    llm = steps[(steps.step_type == "llm_call") & (steps.status == "ok")]
    assert llm.duration_ms.quantile(0.99) > 4 * llm.duration_ms.median()
    assert llm[llm.step_index.between(20, 30)].tokens.median() > 1.5 * llm[llm.step_index < 5].tokens.median()


def test_runs_start_in_office_hours_and_on_weekdays(sample: dict[str, pa.Table]) -> None:
    started = sample["runs"].to_pandas().started_at.dropna()
    assert started.min() >= FIRST_DAY
    assert started.max() < FIRST_DAY + pd.Timedelta(days=14)
    assert started.dt.hour.between(8, 17).mean() > 0.6
    assert (started.dt.day_of_week >= 5).mean() < 0.2


def test_some_runs_are_open_queued_undated_or_retried(block: Block) -> None:
    runs, traced = block.runs, set(block.traces.run_id)
    unfinished = runs[runs.completed_at.isna()]
    assert unfinished[["termination_reason", "total_cost_cents"]].isna().all(axis=None)
    is_open = unfinished.started_at.notna()
    assert is_open.sum() >= 2
    assert set(unfinished[is_open].index) <= traced
    assert (~is_open).any()
    assert not set(unfinished[~is_open].index) & traced
    undated = runs[runs.started_at.isna() & runs.completed_at.notna()]
    assert 1 <= len(undated) < len(runs) / 20
    assert set(undated.index) <= traced
    assert block.traces.run_id.duplicated().any()


# What is planted


def test_there_are_eight_incidents_of_which_one_is_critical(block: Block) -> None:
    assert list(block.incidents.index) == [f"{block.prefix}{number}" for number in range(1, 9)]
    assert list(block.incidents.index[block.incidents.severity == "critical"]) == [f"{block.prefix}1"]
    assert set(block.incidents.severity) == {"low", "medium", "high", "critical"}
    with_policy = block.incidents.policy_id.notna()
    assert (with_policy == block.incidents.policy_name.notna()).all()
    ended = block.incidents.source_run_id.map(block.runs.completed_at)
    assert (block.incidents.created_at > ended)[ended.notna()].all()


def test_1_a_runaway_loop_spends_the_budget(block: Block) -> None:
    steps, first = block.steps_of(1), block.violation_of(1)
    assert block.run_of(1).termination_reason == "budget_exceeded"
    repeats = steps.groupby("content_hash").size().nlargest(3)
    assert (repeats.iloc[:2] >= 150).all()
    assert repeats.iloc[2] <= 2
    loop = steps[steps.content_hash.isin(repeats.index[:2])]
    assert loop.step_index.min() == first
    assert set(loop.step_type) == {"llm_call", "tool_call"}
    last = steps.iloc[-1]
    assert (last.step_type, last.status) == ("guardrail", "blocked")
    # The last round passes the budget, and no round before it.
    spent = steps.cost_cents.cumsum()
    assert spent.iloc[-1] > 1000 > spent.iloc[-4]
    assert block.run_of(1).total_cost_cents >= 1000


def test_2_a_retry_storm_repeats_one_failing_call(block: Block) -> None:
    steps, first = block.steps_of(2), block.violation_of(2)
    storm = steps.iloc[first:]
    assert block.run_of(2).termination_reason == "system_failure"
    assert 22 <= len(storm) <= 28
    assert set(storm.status) == {"error"}
    assert storm.content_hash.nunique() == 1
    assert set(storm.name) == {"post_ledger"}
    gaps_s = storm.timestamp.diff().dropna().dt.total_seconds()
    assert gaps_s.iloc[0] < 1
    assert 8 < gaps_s.iloc[-1] < 9


def test_3_a_guardrail_blocks(block: Block) -> None:
    steps, first = block.steps_of(3), block.violation_of(3)
    assert block.run_of(3).termination_reason == "policy_block"
    assert first == len(steps) - 1 == 15
    assert (steps.step_type[first], steps.status[first]) == ("guardrail", "blocked")
    assert block.incidents.policy_id[f"{block.prefix}3"] == "pol-refund-limit"


def test_4_a_slow_tool_times_out(block: Block) -> None:
    steps, first = block.steps_of(4), block.violation_of(4)
    assert block.run_of(4).termination_reason == "timeout"
    assert steps.status.iloc[-1] == "timeout"
    tools = block.steps[block.steps.step_type == "tool_call"]
    tools = tools.assign(agent_id=tools.run_id.map(block.runs.agent_id), log_ms=np.log(tools.duration_ms))
    mine = tools[tools.agent_id == "ops-responder"]
    deviation = mine.log_ms - mine.log_ms.median()
    z = deviation / (1.4826 * deviation.abs().median())
    slowest = mine[z > 4]
    assert set(slowest.run_id) == {block.run_of(4).name}
    assert slowest.step_index.min() == first
    assert len(slowest) == 5


def test_5_one_agent_of_one_tenant_got_dearer_after_its_model_changed(block: Block) -> None:
    change = FIRST_DAY + pd.Timedelta(days=8)
    run, steps = block.run_of(5), block.steps_of(5)
    assert (run.tenant_id, run.agent_id, run.termination_reason) == ("borealis-bank", "data-analyst", "completed")
    assert run.started_at >= change
    assert steps.step_type[block.violation_of(5)] == "llm_call"
    analysts = block.runs[block.runs.agent_id == "data-analyst"]
    main_models = block.steps[(block.steps.step_type == "plan")].groupby("run_id").model.agg(set)
    changed = (analysts.tenant_id == "borealis-bank") & (analysts.started_at >= change)
    known = analysts.started_at.notna() & analysts.index.isin(main_models.index)
    models = analysts.index.to_series().map(main_models)
    assert all(models[changed & known] == {"heron-3"})
    assert all(models[~changed & known] == {"lark-2"})
    costs = block.steps.groupby("run_id").cost_cents.sum()
    before = analysts[~changed & known].index.map(costs)
    assert costs[run.name] > 3 * before.to_series().median()


def test_6_a_rate_limit_refuses_the_model(block: Block) -> None:
    steps, first = block.steps_of(6), block.violation_of(6)
    refused = steps.iloc[first:]
    assert block.run_of(6).termination_reason == "rate_limited"
    assert len(refused) == 7
    assert set(refused.step_type) == {"llm_call"}
    assert refused.error.str.startswith("HTTP 429").all()
    assert refused[["tokens", "cost_cents"]].eq(0).all(axis=None)


def test_7_an_incident_has_no_run(block: Block) -> None:
    assert block.incidents.source_run_id.isna().sum() == 1
    assert pd.isna(block.incidents.source_run_id[f"{block.prefix}7"])


def test_8_an_incident_s_run_has_no_trace(block: Block) -> None:
    run = block.run_of(8)
    assert run.name not in set(block.traces.run_id)
    assert (run.termination_reason, run.total_cost_cents) == ("system_failure", 0)


def test_exactly_two_recorded_totals_miss_something(block: Block) -> None:
    spent = block.steps.groupby("run_id").cost_cents.sum().reindex(block.runs.index, fill_value=0.0)
    difference = (spent - block.runs.total_cost_cents).dropna()
    wrong = difference[difference.abs() > 0.5 + 1e-9]
    assert len(wrong) == 2
    assert (wrong > 1).all()
    assert not set(wrong.index) & set(block.incidents.source_run_id)
    retried = block.traces[block.traces.run_id.duplicated()].run_id
    (two_traces,) = set(wrong.index) & set(retried)
    (unbilled,) = set(wrong.index) - {two_traces}
    steps = block.steps
    first_trace = block.traces[block.traces.run_id == two_traces].trace_id.min()
    assert wrong[two_traces] == pytest.approx(steps[steps.trace_id == first_trace].cost_cents.sum(), abs=0.5)
    searches = steps[(steps.run_id == unbilled) & (steps.name == "web_search")]
    assert wrong[unbilled] == pytest.approx(searches.cost_cents.sum(), abs=0.5)


# Handing on


def test_write_sample_writes_block_by_block_what_sample_tables_gives(tmp_path: Path) -> None:
    paths = write_sample(tmp_path / "new" / "folder", runs=301, seed=3)
    assert [path.name for path in paths] == [f"{table}.parquet" for table in RECORD_TYPES]
    tables = sample_tables(301, seed=3)
    assert {path.stem: pq.read_table(path) for path in paths} == tables


def test_load_sample_fills_a_database_and_says_how_many_rows(
    fresh_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = load_sample(fresh_url, runs=301, seed=3)
    assert counts == {table: rows.num_rows for table, rows in sample_tables(301, seed=3).items()}
    engine = writable(fresh_url)
    with engine.connect() as connection:
        stored = {
            table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() for table in RECORD_TYPES
        }
    engine.dispose()
    assert stored == counts
    assert capsys.readouterr() == ("", "")


def test_load_sample_shows_a_bar_on_a_terminal_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_sample(tmp_path / "quiet.sqlite", runs=50, progress=False)
    assert capsys.readouterr().err == ""
    load_sample(tmp_path / "shown.sqlite", runs=50)
    out, err = capsys.readouterr()
    assert out == ""
    assert "50.0/50.0" in err


# The data dictionary


def table_after(heading: str, text: str) -> list[list[str]]:
    """The rows of the first Markdown table after a heading, without its header."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("record_type", RECORD_TYPES.values(), ids=lambda record_type: record_type.table)
def test_the_data_dictionary_says_what_the_schema_says(record_type: RecordType, readme: str) -> None:
    extra = STEP_EXTRA if record_type.table == "trace_steps" else ()
    expected = [
        [f"`{c.name}`", c.type, "yes" if c.nullable else "no", c.unit or "", c.doc]
        for c in record_type.stored_columns(extra)
    ]
    assert table_after(f"### {record_type.table}", readme) == expected
    assert {row[1] for row in expected} <= set(ARROW_TYPES)


def test_the_documented_prices_and_agents_are_the_fleet_s(readme: str) -> None:
    world = readme.split("## The world\n", 1)[1]
    agents = table_after("`cobalt-health`.", world)
    assert [row[:3] for row in agents] == [[f"`{a.name}`", f"`{a.model}`", f"`{a.planner}`"] for a in AGENTS]
    assert [row[3] for row in agents] == [", ".join(f"`{tool.name}`" for tool in agent.tools) for agent in AGENTS]
    prices = table_after("retrievals use `wren-embed`.", world)
    expected = [[f"`{m.name}`", f"{m.input_cents_per_million:,}", f"{m.output_cents_per_million:,}"] for m in MODELS]
    assert prices == expected


def test_the_documented_incidents_are_the_sample_s(readme: str, sample: dict[str, pa.Table]) -> None:
    documented = [row[:3] for row in table_after("## What is planted", readme)]
    incidents = sample["incidents"].to_pylist()
    assert documented == [
        [f"`{i['id']}`", f"`{i['source_run_id']}`" if i["source_run_id"] else "none", i["severity"]] for i in incidents
    ]
    counts = table_after("# The sample: a made-up fleet of agents", readme)
    assert counts == [[f"`{table}`", f"{rows.num_rows:,}"] for table, rows in sample.items()]


def test_the_documented_wrong_totals_are_the_sample_s(readme: str) -> None:
    block = Block(7, 0, 300)
    spent = block.steps.groupby("run_id").cost_cents.sum()
    found = re.findall(r"- `(run-\d+-\d+)` \(recorded (\d+), steps ([\d.]+) US cents\)", readme)
    assert len(found) == 2
    for run_id, recorded, steps_cents in found:
        assert (block.runs.total_cost_cents[run_id], f"{spent[run_id]:.2f}") == (int(recorded), steps_cents)
