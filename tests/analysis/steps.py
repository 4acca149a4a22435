"""Steps to analyse, made by hand, and the kinds of frame that tests run on."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from tests.frames import EAGER, KINDS, LAZY

every_kind = pytest.mark.parametrize("kind", KINDS, indirect=True)
local_kinds = pytest.mark.parametrize("kind", [*EAGER, *LAZY], indirect=True)
NOON = dt.datetime(2026, 10, 5, 12, tzinfo=dt.UTC)

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("tenant_id", "run_id", "trace_id", "agent_id")),
        ("step_index", pa.int64()), ("timestamp", pa.timestamp("us", "UTC")), ("step_type", pa.string()),
        ("tokens", pa.int64()), ("cost_cents", pa.float64()), ("duration_ms", pa.float64()), ("status", pa.string()),
        ("content_hash", pa.string()),
    ]
)  # fmt: skip


def step(index: int = 0, **changes: Any) -> dict[str, Any]:
    values = {
        "tenant_id": "acme", "run_id": "r1", "trace_id": "t1", "agent_id": "a", "step_index": index,
        "timestamp": NOON + dt.timedelta(seconds=index), "step_type": "llm_call", "tokens": 10, "cost_cents": 0.5,
        "duration_ms": 100.0, "status": "ok", "content_hash": None,
    }  # fmt: skip
    return values | changes


def frame(*steps: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(steps), schema=SCHEMA)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def doubled(table: pa.Table, name: str) -> pa.Table:
    """A table with two columns of one name."""
    return pa.Table.from_arrays([*table.columns, table[name]], names=[*table.column_names, name])
