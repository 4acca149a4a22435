"""Filling a database: the same rows come back, nothing is ever half written or overwritten."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools.errors import ConfigError, ConnectionFailed, InconsistentData, StoreError
from exporttools.loading import load_tables
from exporttools.records.schema import INCIDENTS, RECORD_TYPES, RUNS, TRACE_STEPS, TRACES
from exporttools.sample import sample_block
from tests.databases import run_sql, stored, writable

EARLIEST = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
LATEST = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
HOSTILE = '\'; DROP TABLE runs; -- "x" %s %% \\ \n\t\x1b[31m Ünïcödé 🦜'


def tables_in(url: str) -> list[str]:
    engine = writable(url)
    names = sorted(sa.inspect(engine).get_table_names())
    engine.dispose()
    return names


def incidents(*ids: str, **values: Any) -> pa.Table:
    rows = [{"id": i, "tenant_id": "acme", "created_at": LATEST.replace(year=2026), **values} for i in ids]
    return pa.Table.from_pylist(rows, schema=INCIDENTS.arrow_schema())


def broken_after(table: str, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    yield table, rows
    raise RuntimeError("the source broke")


@pytest.fixture(scope="module")
def small_block() -> dict[str, pa.Table]:
    return sample_block(5, 0, runs=50)


def test_the_rows_that_go_in_come_out(fresh_url: str, small_block: dict[str, pa.Table]) -> None:
    counts = load_tables(fresh_url, small_block.items())
    assert counts == {table: rows.num_rows for table, rows in small_block.items()}
    for table, rows in small_block.items():
        order = "trace_id, step_index" if table == "trace_steps" else RECORD_TYPES[table].key[0]
        assert stored(fresh_url, table, order) == rows.to_pylist()


def test_extremes_and_hostile_text_come_out_as_they_went_in(fresh_url: str) -> None:
    runs = [
        {
            "run_id": HOSTILE, "tenant_id": "", "agent_id": "a", "goal": "🦜" * 10_000, "policy_snapshot_id": None,
            "started_at": EARLIEST, "completed_at": LATEST, "termination_reason": "NULL", "total_cost_cents": 2**63 - 1,
        },
        {**dict.fromkeys(RUNS.names), "run_id": "z", "tenant_id": "t"},
    ]  # fmt: skip
    step = {
        "tenant_id": "t", "trace_id": HOSTILE, "step_index": 0, "timestamp": EARLIEST, "step_type": "x", "tokens": 0,
        "cost_cents": 5e-324, "duration_ms": 1.7976931348623157e308, "status": "ok", "content_hash": None,
    }  # fmt: skip
    context = [column.arrow_field for column in TRACE_STEPS.context]
    steps = pa.Table.from_pylist([step], schema=pa.schema([*context, *TRACE_STEPS.arrow_schema()]))
    load_tables(fresh_url, [("runs", pa.Table.from_pylist(runs, schema=RUNS.arrow_schema())), ("trace_steps", steps)])
    assert stored(fresh_url, "runs", "goal IS NULL") == runs
    assert stored(fresh_url, "trace_steps", "step_index") == [step]


KEYS_AND_INDEXES: dict[str, tuple[list[str], list[list[str]]]] = {
    "incidents": (["id"], [["created_at"]]),
    "runs": (["run_id"], [["started_at"]]),
    "traces": (["trace_id"], [["tenant_id", "run_id"]]),
    "trace_steps": (["trace_id", "step_index"], []),
}


def test_columns_types_keys_and_indexes_are_the_schema_s(fresh_url: str, small_block: dict[str, pa.Table]) -> None:
    load_tables(fresh_url, small_block.items())
    types = {
        "sqlite": {"string": "TEXT", "int64": "BIGINT", "float64": "FLOAT", "timestamp": "DATETIME"},
        "postgresql": {"string": "TEXT", "int64": "BIGINT", "float64": "DOUBLE PRECISION", "timestamp": "TIMESTAMP"},
    }
    engine = writable(fresh_url)
    inspector = sa.inspect(engine)
    for table, record_type in RECORD_TYPES.items():
        extra = [c for c in record_type.extra if c.name in ("name", "model", "error")]
        expected = [(c.name, types[engine.dialect.name][c.type], c.nullable) for c in record_type.stored_columns(extra)]
        assert [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)] == expected
        key, indexes = KEYS_AND_INDEXES[table]
        assert inspector.get_pk_constraint(table)["constrained_columns"] == key
        assert [index["column_names"] for index in inspector.get_indexes(table)] == indexes
    engine.dispose()


def test_postgresql_times_have_a_time_zone(fresh_postgres_url: str) -> None:
    load_tables(fresh_postgres_url, [])
    engine = writable(fresh_postgres_url)
    types = {column["name"]: column["type"] for column in sa.inspect(engine).get_columns("runs")}
    assert types["started_at"].timezone is True  # type: ignore[attr-defined]
    engine.dispose()


def test_extra_columns_keep_their_names_and_values(fresh_url: str) -> None:
    name = 'we"ird; 100% näme'
    rows = incidents("i1", "i2").append_column(name, pa.array([7, None], pa.int64()))
    load_tables(fresh_url, [("incidents", rows)])
    assert [row[name] for row in stored(fresh_url, "incidents", "id")] == [7, None]


def test_no_rows_make_four_empty_tables(fresh_url: str) -> None:
    assert load_tables(fresh_url, []) == dict.fromkeys(RECORD_TYPES, 0)
    assert tables_in(fresh_url) == sorted(RECORD_TYPES)


def test_batches_are_taken_one_at_a_time_and_told(fresh_url: str) -> None:
    log: list[object] = []

    def batches() -> Iterator[tuple[str, pa.Table]]:
        for number in range(3):
            log.append(f"made {number}")
            yield "incidents", incidents(f"i{number}a", f"i{number}b")

    counts = load_tables(fresh_url, batches(), on_rows=lambda table, rows: log.append((table, rows)))
    assert log == ["made 0", ("incidents", 2), "made 1", ("incidents", 2), "made 2", ("incidents", 2)]
    assert counts["incidents"] == 6


def test_empty_tables_that_are_there_are_filled(fresh_url: str, small_block: dict[str, pa.Table]) -> None:
    load_tables(fresh_url, [(table, rows.slice(0, 0)) for table, rows in small_block.items()])
    counts = load_tables(fresh_url, small_block.items())
    assert len(stored(fresh_url, "trace_steps", "trace_id")) == counts["trace_steps"] > 0


def test_tables_with_rows_are_refused_and_left_as_they_are(fresh_url: str) -> None:
    load_tables(fresh_url, [("incidents", incidents("i1"))])
    message = (
        r"already has rows in incidents; expected the tables incidents, runs, traces, trace_steps "
        r"to be missing or empty\. Nothing was written\."
    )
    with pytest.raises(ConfigError, match=message):
        load_tables(fresh_url, [("runs", pa.Table.from_pylist([], schema=RUNS.arrow_schema()))])
    assert [row["id"] for row in stored(fresh_url, "incidents", "id")] == ["i1"]


def test_an_empty_table_that_lacks_columns_is_refused(fresh_url: str) -> None:
    run_sql(fresh_url, "CREATE TABLE incidents (id text, tenant_id text)")
    message = (
        r"the existing table incidents has no column source_run_id, .*; found id, tenant_id\. Nothing was written\."
    )
    with pytest.raises(ConfigError, match=message):
        load_tables(fresh_url, [("incidents", incidents("i1"))])
    assert tables_in(fresh_url) == ["incidents"]
    assert stored(fresh_url, "incidents", "id") == []


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_a_load_that_fails_leaves_nothing(fresh_url: str, there: bool) -> None:
    if there:
        run_sql(fresh_url, "CREATE TABLE mine (x text)")
    before = found_at(fresh_url)
    with pytest.raises(RuntimeError, match="the source broke"):
        load_tables(fresh_url, broken_after("incidents", incidents("i1")))
    assert found_at(fresh_url) == before
    assert ("mine" in before) == there


def test_rows_with_the_same_key_are_refused_and_nothing_is_left(fresh_url: str) -> None:
    with pytest.raises(StoreError, match=r"unique|UNIQUE"):
        load_tables(fresh_url, [("incidents", incidents("i1")), ("incidents", incidents("i1"))])
    assert found_at(fresh_url) == []


def test_values_that_a_column_forbids_are_refused_and_nothing_is_left(fresh_url: str) -> None:
    trace = {"trace_id": "t1", "run_id": "r1", "tenant_id": "acme", "violation_step_index": -1}
    rows = pa.Table.from_pylist([trace], schema=TRACES.arrow_schema())
    with pytest.raises(InconsistentData, match="trace_id='t1' has violation_step_index = -1; expected at least 0"):
        load_tables(fresh_url, [("incidents", incidents("i1")), ("traces", rows)])
    assert found_at(fresh_url) == []


def found_at(url: str) -> list[str]:
    """A database's tables; with SQLite's, the files in its directory, which may not have one yet."""
    if not url.startswith("sqlite"):
        return tables_in(url)
    path = Path(str(make_url(url).database))
    return [file.name for file in path.parent.iterdir()] + (tables_in(url) if path.exists() else [])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            [("spans", incidents("i1"))],
            "there is no native table 'spans'; expected incidents, runs, traces, trace_steps. Nothing was written.",
        ),
        (
            [("incidents", incidents("i1").drop_columns("severity"))],
            "incidents: the rows lack the columns severity string; found id",
        ),
        (
            [("incidents", incidents("i1")), ("incidents", incidents("i2").append_column("x", pa.array(["y"])))],
            "incidents: a batch has the columns .*, x string; the first batch had id string",
        ),
        (
            [("incidents", incidents("i1").append_column("x", pa.array([True])))],
            "column 'x' is of type bool; expected one of",
        ),
    ],
)
def test_batches_of_other_columns_are_refused(
    fresh_url: str, batches: list[tuple[str, pa.Table]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_tables(fresh_url, batches)
    assert found_at(fresh_url) == []


# One database only


def test_a_new_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "agents.sqlite"

    def batches() -> Iterator[tuple[str, pa.Table]]:
        yield "incidents", incidents("i1")
        assert not path.exists()
        yield "incidents", incidents("i2")

    load_tables(path, batches())
    assert [file.name for file in tmp_path.iterdir()] == ["agents.sqlite"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_file_that_appears_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "agents.sqlite"

    def batches() -> Iterator[tuple[str, pa.Table]]:
        path.write_bytes(b"somebody else's")
        yield "incidents", incidents("i1")

    with pytest.raises(
        ConfigError,
        match="was created by someone else during the load; that file was left unchanged. Nothing was written.",
    ):
        load_tables(path, batches())
    assert path.read_bytes() == b"somebody else's"
    assert list(tmp_path.iterdir()) == [path]


def test_other_tables_of_an_sqlite_file_stay(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'agents.sqlite'}"
    run_sql(url, "CREATE TABLE mine (x text)", "INSERT INTO mine VALUES ('kept')")
    load_tables(url, [("incidents", incidents("i1"))])
    assert stored(url, "mine", "x") == [{"x": "kept"}]
    assert tables_in(url) == sorted([*RECORD_TYPES, "mine"])


def test_sqlite_times_are_the_text_that_sqlalchemy_writes(tmp_path: Path) -> None:
    path = tmp_path / "agents.sqlite"
    rows = incidents("i1", created_at=dt.datetime(2026, 10, 5, 8, tzinfo=dt.UTC))
    load_tables(path, [("incidents", rows)])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT created_at FROM incidents").fetchone() == ("2026-10-05 08:00:00.000000",)
    connection.close()


def test_a_file_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "agents.sqlite"
    with pytest.raises(ConnectionFailed) as caught:
        load_tables(path, [("incidents", incidents("i1"))])
    assert str(caught.value) == f"sqlite:///{path}: the file cannot be created: No such file or directory"
    assert not path.parent.exists()


def test_a_file_that_is_not_a_database_is_left_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "agents.sqlite"
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(
        ConnectionFailed, match=r"agents\.sqlite: the file is not an SQLite database\. The driver says: "
    ):
        load_tables(path, [("incidents", incidents("i1"))])
    assert path.read_bytes() == b"not a database " * 100


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="nowhere") as caught:
        load_tables(f"postgresql://me:hunter2@/nowhere?host={tmp_path}", [("incidents", incidents("i1"))])
    assert "hunter2" not in str(caught.value)
