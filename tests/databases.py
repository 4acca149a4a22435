"""Databases for tests, made by hand and without constraints: some tests need rows that no platform should hold."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from exporttools.records.schema import RECORD_TYPES

T = TypeVar("T")

NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)

_SQL_TYPES = {
    "sqlite": {"string": "TEXT", "int64": "BIGINT", "float64": "FLOAT", "timestamp": "DATETIME"},
    "postgresql": {"string": "text", "int64": "bigint", "float64": "float8", "timestamp": "timestamptz"},
}

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def new_database(server: str) -> str:
    """Create an empty database on a PostgreSQL server; return its URL."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def writable(url: str) -> sa.Engine:
    """An engine of the test's own, to write with."""
    return sa.create_engine(make_url(url).set(drivername="postgresql+psycopg") if "postgresql" in url else url)


def run_sql(url: str, *statements: str) -> None:
    engine = writable(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()


def wal_mode(url: str) -> str:
    """Let an SQLite database have a writer beside its readers, as PostgreSQL does; return the URL."""
    if "sqlite" in url:
        engine = writable(url)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        engine.dispose()
    return url


def stored(url: str, table: str, order: str) -> list[dict[str, Any]]:
    """A table's rows as the database returns them, times as UTC datetimes; read without any code of ours."""
    engine = writable(url)
    with engine.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY {order}")).mappings().all()
    engine.dispose()
    return [{name: _utc(name, value) for name, value in row.items()} for row in rows]


def _utc(name: str, value: Any) -> Any:
    if value is not None and name.endswith(("_at", "timestamp")):
        moment = dt.datetime.fromisoformat(value).replace(tzinfo=dt.UTC) if isinstance(value, str) else value
        return moment.astimezone(dt.UTC)
    return value


def create_native(
    url: str, rows: Rows, *, drop: Mapping[str, Sequence[str]] = {}, extra: Mapping[str, str] = {}
) -> str:
    """Create the four native tables with the given rows, without some columns, with extra ones on the steps; return the URL."""
    engine = writable(url)
    types = _SQL_TYPES[engine.dialect.name]
    with engine.begin() as connection:
        for table, record_type in RECORD_TYPES.items():
            columns = [c for c in record_type.stored_columns() if c.name not in drop.get(table, ())]
            ddl = [f"{column.name} {types[column.type]}" for column in columns]
            if table == "trace_steps":
                ddl += [f"{name} {types[kind]}" for name, kind in extra.items()]
            connection.exec_driver_sql(f"CREATE TABLE {table} ({', '.join(ddl)})")
            for row in rows.get(table, ()):
                insert(connection, table, row)
    engine.dispose()
    return url


def insert(connection: sa.Connection, table: str, row: Mapping[str, Any]) -> None:
    if connection.dialect.name == "sqlite":
        row = {name: _sqlite_value(value) for name, value in row.items()}
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(f":{name}" for name in row)
    connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), dict(row))


def _sqlite_value(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ", timespec="microseconds")
    return value


def incident(**changes: Any) -> dict[str, Any]:
    return {
        "id": "i1", "tenant_id": "acme", "source_run_id": "r1", "severity": "high", "policy_id": "p1",
        "policy_name": "Budget", "violation_type": "budget_exceeded", "created_at": NOON,
    } | changes  # fmt: skip


def run(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": "r1", "tenant_id": "acme", "agent_id": "triage", "goal": "sort the mail", "policy_snapshot_id": "ps1",
        "started_at": NOON, "completed_at": NOON + dt.timedelta(minutes=3), "termination_reason": "budget_exceeded",
        "total_cost_cents": 12,
    } | changes  # fmt: skip


def trace(**changes: Any) -> dict[str, Any]:
    return {"trace_id": "t1", "run_id": "r1", "tenant_id": "acme", "violation_step_index": 1,
            "violation_timestamp": NOON + dt.timedelta(seconds=1)} | changes  # fmt: skip


def step(index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "tenant_id": "acme", "trace_id": "t1", "step_index": index, "timestamp": NOON + dt.timedelta(seconds=index),
        "step_type": "llm_call", "tokens": 100 + index, "cost_cents": 0.5, "duration_ms": 900.25, "status": "ok",
        "content_hash": None,
    } | changes  # fmt: skip


def one_of_each(**changes: Sequence[Mapping[str, Any]]) -> Rows:
    """One incident with its run, its trace and three steps."""
    return {
        "incidents": [incident()],
        "runs": [run()],
        "traces": [trace()],
        "trace_steps": [step(0), step(1, status="error"), step(2)],
    } | changes


def breaks_cursors(test: T) -> T:
    """Mark a test that breaks connections.

    psycopg leaves a server-side cursor open whose connection broke: closing it takes a round trip. What is left of it is
    collected at the test's end, so that no later test is blamed.
    """
    ignored = pytest.mark.filterwarnings(
        "ignore:.*ServerCursor:pytest.PytestUnraisableExceptionWarning", "ignore:.*ServerCursor:ResourceWarning"
    )
    marked: T = pytest.mark.usefixtures("collected")(ignored(test))
    return marked
