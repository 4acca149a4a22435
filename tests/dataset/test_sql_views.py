"""Datasets in SQL: the views, the ledger, and names that SQL would confuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from exporttools import (
    ConfigError,
    ExportBundleStore,
    export_dataset,
    open_dataset,
)
from exporttools.dataset.manifest import UNDATED
from tests.databases import NOON, create_native, run, step, trace
from tests.dataset.handmade import (
    DAY,
    HOUR,
    MIDNIGHT,
    HandmadeDataset,
)


def test_sql_over_tables_without_rows(tmp_path: Path) -> None:
    url = create_native(f"sqlite:///{tmp_path / 'db.sqlite'}", {"runs": [run()]})
    export_dataset(ExportBundleStore(url), tmp_path / "d", progress=False)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.sql("select * from ledger").fetchall() == []
    assert dataset.sql("select day, started_at, total_cost_cents from runs").fetchall() == [("2026-10-05", NOON, 12)]
    assert dataset.to_arrow("incidents").num_rows == 0


def test_no_step_is_lost_where_its_run_or_trace_is(handmade: HandmadeDataset) -> None:
    dataset = handmade.commit(
        0,
        [
            handmade.part_file("runs", run(run_id="r1")),
            handmade.part_file("traces", trace(trace_id="t1"), trace(trace_id="t2", run_id="gone")),
            handmade.part_file("trace_steps", *(step(0, trace_id=f"t{i}") for i in (1, 2, 3))),
        ],
    )
    rows = dataset.sql("select trace_id, run_id, termination_reason from ledger order by 1").fetchall()
    assert rows == [("t1", "r1", "budget_exceeded"), ("t2", "gone", None), ("t3", None, None)]


def test_runs_without_a_day_are_read_beside_those_with_one(handmade: HandmadeDataset) -> None:
    dataset = handmade.commit(
        0,
        [
            handmade.part_file("runs", run()),
            handmade.part_file("runs", run(run_id="r2", started_at=None), of_day=UNDATED),
        ],
    )
    assert dataset.sql("select run_id, day from runs order by 1").fetchall() == [("r1", DAY), ("r2", UNDATED)]
    assert dataset.sql("select typeof(day) from runs limit 1").fetchall() == [("VARCHAR",)]
    assert dataset.verify().findings == ()


def test_times_are_utc_whatever_the_machine_thinks(handmade: HandmadeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    dataset = handmade.commit(0, [handmade.part_file("runs", run(started_at=MIDNIGHT))])
    assert dataset.sql("select started_at::text, started_at::date::text from runs").fetchall() == [
        ("2026-10-05 00:00:00+00", DAY)
    ]


def test_a_mistake_in_a_query_is_duckdbs_own_error(handmade: HandmadeDataset) -> None:
    dataset = open_dataset(handmade.place)
    with pytest.raises(duckdb.ParserException, match="syntax error"):
        dataset.sql("selec 1").fetchall()
    with pytest.raises(duckdb.CatalogException, match="steps does not exist"):
        dataset.sql("select * from steps")


def test_a_day_asked_for_reads_its_files_alone(handmade: HandmadeDataset) -> None:
    for day in range(4):
        at = MIDNIGHT + 24 * day * HOUR
        part_file = handmade.part_file("runs", run(run_id=f"r{day}", started_at=at), of_day=at.date().isoformat())
        dataset = handmade.commit(24 * day, [part_file], hours=24)
    plan = dataset.sql("explain analyze select run_id from runs where day = '2026-10-06'").fetchall()[0][1]
    assert "Total Files Read: 1 " in plan


@pytest.mark.parametrize("name", ["[x]", "x*y", "x?y", 'it\'s "x"', "50%20off", "a\\b", "tenant_id=7", "day=1"])
def test_a_dataset_in_a_directory_with_any_name(tmp_path: Path, name: str) -> None:
    """As patterns, three of the names are those of the other two directories, whose files have the same names."""
    handmade = HandmadeDataset(tmp_path / name)
    for hour in (0, 1):
        part_file = handmade.part_file("runs", run(run_id=f"r{hour}"))
        dataset = handmade.commit(hour, [part_file])
    for other in ("x", "xzy"):
        shutil.copytree(tmp_path / name, tmp_path / other)
    paths = dataset.sql("select count(*), min(day), min(tenant_id) from runs").fetchall()
    assert paths == [(2, DAY, "acme")]
    assert dataset.to_arrow("runs").num_rows == 2
    shutil.rmtree(tmp_path / "x")
    shutil.rmtree(tmp_path / "xzy")
    merged = dataset.compact()
    assert (merged.sql("select count(*) from runs").fetchall(), merged.verify().findings) == ([(2,)], ())


@pytest.mark.parametrize("name", ["STATUS", "day", "Day", "Trace_Id"])
def test_columns_that_sql_cannot_distinguish_are_refused_only_there(handmade: HandmadeDataset, name: str) -> None:
    """DuckDB ignores case: it would return one column's values for the other, and merge them so."""
    for hour in (0, 1):
        part_file = handmade.part_file(
            "trace_steps", step(0, trace_id=f"t{hour}", **{name: "mine"}), **{name: "string"}
        )
        dataset = handmade.commit(hour, [part_file], **{name: "string"})
    with pytest.raises(
        ConfigError,
        match=f"trace_steps has a column '{name}' that SQL cannot distinguish from '{name.lower()}'; read it with to_arrow or scan, or rename it in the layout",
    ):
        dataset.sql("select 1")
    merged = dataset.compact()
    assert len(merged.files("trace_steps")) == 1
    assert merged.to_arrow("trace_steps", columns=[name, "status"]).to_pylist() == [{name: "mine", "status": "ok"}] * 2
