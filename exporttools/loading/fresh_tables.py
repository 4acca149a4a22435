"""Creates the four native tables and fills them in bulk. Reads none of their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
import sqlalchemy as sa

from exporttools.errors import ConfigError
from exporttools.loading.native_tables import TableMaker, described
from exporttools.loading.targets import DatabaseName, Target, open_target
from exporttools.records.schema import RECORD_TYPES, arrow_schema
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

Batches = Iterable[tuple[str, pa.Table]]
"""Names of native tables, each with some of its rows."""


def load_tables(
    database: DatabaseName, batches: Batches, *, on_rows: Callable[[str, int], None] | None = None
) -> dict[str, int]:
    """Create the four native tables and fill them; tables that exist already must be empty.

    Parameters
    ----------
    database : str, path or URL
        ``postgresql://...``, ``sqlite:///...`` or the path of an SQLite file, which is created if it does not exist.
    batches : iterable of (str, pyarrow.Table)
        Consumed one at a time, so that only one batch is in memory. A table's first batch decides which extra columns it
        has beyond the record's (:data:`exporttools.records.schema.RECORD_TYPES`); later batches must have the same.
    on_rows : callable, optional
        Called with the table and the number of rows after each batch.

    Returns
    -------
    dict of str to int
        How many rows were written to each of the four tables.

    Raises
    ------
    ConfigError
        A table already has rows, lacks columns, or a batch does not have its table's columns. Nothing was written.
    InconsistentData
        A column forbids one of its values. Nothing was written.
    StoreError
        The database failed. Nothing was written.

    Examples
    --------
    >>> import datetime as dt, tempfile
    >>> from exporttools.records.schema import INCIDENTS
    >>> incident = {"id": "inc-1", "tenant_id": "acme", "created_at": dt.datetime(2026, 10, 5, tzinfo=dt.UTC)}
    >>> rows = pa.Table.from_pylist([incident], schema=INCIDENTS.arrow_schema())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     load_tables(f"{folder}/agents.sqlite", [("incidents", rows)])
    {'incidents': 1, 'runs': 0, 'traces': 0, 'trace_steps': 0}
    """
    with open_target(database) as (target, label):
        load = _Load(target, label)
        for table, rows in batches:
            load.append(table, rows)
            if on_rows is not None:
                on_rows(table, rows.num_rows)
        load.finish()
        return load.row_counts


class _Load:
    """One load: the tables that were filled, and how many rows were written to each."""

    def __init__(self, target: Target, label: str) -> None:
        self._target, self._label = target, label
        self._maker = TableMaker(target, label)
        self._schemas: dict[str, pa.Schema] = {}
        self.row_counts = dict.fromkeys(RECORD_TYPES, 0)
        self._require_empty()

    def append(self, table: str, rows: pa.Table) -> None:
        """Write some rows; a table's first rows create the table."""
        if table not in RECORD_TYPES:
            accepted = ", ".join(RECORD_TYPES)
            raise ConfigError(
                f"there is no native table {one_line(table)!r}; expected {accepted}. Nothing was written."
            )
        if table not in self._schemas:
            self._begin_table(table, rows.schema)
        expected = self._schemas[table]
        if not rows.schema.equals(expected):
            raise ConfigError(
                f"{table}: a batch has the columns {described(rows.schema)}; the first batch had {described(expected)}. "
                f"Nothing was written."
            )
        record_type = RECORD_TYPES[table]
        require_valid(rows, record_type.stored_columns(), origin=Origin(table), key=record_type.stored_key)
        self._target.append(table, rows)
        self.row_counts[table] += rows.num_rows

    def finish(self) -> None:
        """Create the tables that got no rows, then keys and indexes, and update the planner's statistics."""
        for table, record_type in RECORD_TYPES.items():
            if table not in self._schemas:
                self._begin_table(table, arrow_schema(record_type.stored_columns()))
        self._maker.finish()
        self._target.execute("ANALYZE")

    def _begin_table(self, table: str, schema: pa.Schema) -> None:
        self._maker.require(table, schema)
        self._schemas[table] = schema

    def _require_empty(self) -> None:
        filled = []
        for table in RECORD_TYPES:
            one_row = sa.select(sa.literal(1)).select_from(sa.table(table)).limit(1)
            if self._target.column_names(table) and self._target.query(self._maker.sql(one_row)):
                filled.append(table)
        if filled:
            raise ConfigError(
                f"{self._label} already has rows in {', '.join(filled)}; expected the tables {', '.join(RECORD_TYPES)} "
                f"to be missing or empty. Nothing was written."
            )
