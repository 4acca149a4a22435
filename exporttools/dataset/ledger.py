"""The view `ledger`: each step beside its run, for questions about cost. Each cent, token and millisecond is in it once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from exporttools.errors import ConfigError
from exporttools.records.roll_ups import AMOUNTS, PLACE, find_roll_ups
from exporttools.text.inert import one_line, sql_identifier

if TYPE_CHECKING:
    import duckdb

_ROLLED_UP = "exporttools_rolled_up"


def create_ledger(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> None:
    """Create the view where the views of the tables are.

    If steps are parts of others, those of their traces are read, to find what they repeat.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
    schema : pyarrow.Schema
        That of the view ``trace_steps``.

    Raises
    ------
    ConfigError
        A step's column has the name of one that the ledger adds.
    """
    steps = [name for name in schema.names if name not in ("tenant_id", "trace_id")]
    nested = "parent_step_index" in steps and schema.field("parent_step_index").type == pa.int64()
    amounts = _find_rolled_up(connection, steps) if nested else []
    connection.execute(f"CREATE VIEW ledger AS {_ledger_view(steps, amounts)}")


def _find_rolled_up(connection: duckdb.DuckDBPyConnection, steps: Sequence[str]) -> list[str]:
    """Create the table of what steps repeat of their parts, and return its amounts; none if no step is part of another."""
    amounts = [name for name in AMOUNTS if name in steps]
    nested = connection.sql(_nested_steps([*PLACE, *amounts])).to_arrow_table()
    if not len(nested):
        return []
    keys = ("tenant_id", "trace_id")
    codes = [nested[name].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64) for name in keys]
    found = find_roll_ups(nested, codes[0] * (int(codes[1].max()) + 1) + codes[1])
    if found is None:
        return []
    rows = found.code > 0
    for left_out in found.left_out.values():
        rows |= left_out != 0
    columns = {name: nested[name] for name in (*keys, "step_index")} | {
        name: pa.array(found.left_out[name]) if name in found.left_out else pa.nulls(len(nested), pa.int64())
        for name in amounts
    }
    exporttools_found = pa.table(columns | {"roll_up": found.words}).filter(pa.array(rows))
    connection.register("exporttools_found", exporttools_found)
    connection.execute(f"CREATE TABLE {_ROLLED_UP} AS FROM exporttools_found")
    connection.unregister("exporttools_found")
    return amounts


def _ledger_view(step_columns: Sequence[str], rolled_up: Sequence[str] = ()) -> str:
    """Return the SELECT of each step, with these columns of it, beside its run.

    Parameters
    ----------
    step_columns : sequence of str
    rolled_up : sequence of str
        The amounts of which :data:`_ROLLED_UP` says how much steps repeat of their parts: of these, each step's own.

    Raises
    ------
    ConfigError
        A step's column has the name of one that the ledger adds.
    """
    added = ["roll_up", *(f"rolled_up_{name}" for name in rolled_up)] if rolled_up else []
    if taken := [name for name in step_columns if name.lower() in added]:
        raise ConfigError(
            f"trace_steps has a column {one_line(repr(taken[0]), 80)}, whose name the ledger needs; rename it in the layout, "
            f"or query trace_steps"
        )
    own = [
        f"s.{sql_identifier(name)} - coalesce(u.{sql_identifier(name)}, 0) AS {sql_identifier(name)}"
        if name in rolled_up
        else f"s.{sql_identifier(name)}"
        for name in step_columns
    ]
    if rolled_up:
        own += ["u.roll_up", *(f"coalesce(u.{name}, 0) AS rolled_up_{name}" for name in rolled_up)]
    join = (
        f"LEFT JOIN {_ROLLED_UP} AS u "
        "ON u.tenant_id = s.tenant_id AND u.trace_id = s.trace_id AND u.step_index = s.step_index "
    )
    return (
        "SELECT s.tenant_id, t.run_id, s.trace_id, r.agent_id, s.day, "  # noqa: S608 - quoted
        f"r.started_at, r.completed_at, r.termination_reason, {', '.join(own)} FROM trace_steps AS s "
        f"{join if rolled_up else ''}"
        "LEFT JOIN traces AS t ON t.tenant_id = s.tenant_id AND t.trace_id = s.trace_id "
        "LEFT JOIN runs AS r ON r.tenant_id = t.tenant_id AND r.run_id = t.run_id"
    )


def _nested_steps(columns: Sequence[str]) -> str:
    """Return the SELECT of the steps of all traces in which a step is part of another, with these columns."""
    selected = ", ".join(map(sql_identifier, columns))
    return (
        f"SELECT tenant_id, trace_id, {selected} FROM trace_steps SEMI JOIN "  # noqa: S608 - quoted
        "(SELECT DISTINCT tenant_id, trace_id FROM trace_steps WHERE parent_step_index IS NOT NULL) USING (tenant_id, trace_id)"
    )
