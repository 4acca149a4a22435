"""The four native tables as they are created: columns, keys, indexes. Writes no rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import AddConstraint, CreateIndex, CreateTable

from exporttools.errors import ConfigError
from exporttools.loading.targets import Target
from exporttools.records.schema import ARROW_TYPES, RECORD_TYPES, Column, column_of
from exporttools.text.inert import one_line

INDEXES: dict[str, tuple[str, ...]] = {
    "incidents": ("created_at",),
    "runs": ("started_at",),
    "traces": ("tenant_id", "run_id"),
}
"""The columns of each table's index, beyond the primary keys: what reads filter and sort by."""


class TableMaker:
    """Creates the native tables that a database lacks, and checks the columns of those that it has."""

    def __init__(self, target: Target, label: str) -> None:
        self._target, self._label = target, label
        self._made: list[sa.Table] = []

    def require(self, table: str, schema: pa.Schema) -> None:
        """Create a table for rows of a schema, or require that the existing one has their columns.

        Raises
        ------
        ConfigError
            The rows lack a column of the record, or the table one of theirs.
        """
        columns = _columns(table, schema)
        found = self._target.column_names(table)
        missing = [column.name for column in columns if column.name not in found]
        if found and missing:
            raise ConfigError(
                f"{self._label}: the existing table {table} has no column {', '.join(missing)}; "
                f"found {', '.join(one_line(name, 60) for name in found)}. Nothing was written."
            )
        if not found:
            made = _sql_table(table, columns, self._target.sql_types)
            self._run(CreateTable(_with_key(made) if self._target.key_at_once else made))
            self._made.append(made)

    def finish(self) -> None:
        """Add keys and indexes to the tables that were created, after their rows."""
        for made in self._made:
            if not self._target.key_at_once:
                self._run(AddConstraint(_with_key(made).primary_key))
            for index in made.indexes:
                self._run(CreateIndex(index))
        self._made.clear()

    def _run(self, statement: sa.sql.ClauseElement) -> None:
        self._target.execute(self.sql(statement))

    def sql(self, statement: sa.sql.ClauseElement) -> str:
        """A statement in the database's words, with literal values."""
        return str(statement.compile(dialect=self._target.dialect, compile_kwargs={"literal_binds": True}))


def _columns(table: str, schema: pa.Schema) -> list[Column]:
    """The table's columns in the order of the rows, which must include all of the record's columns with their types."""
    known = {column.name: column for column in RECORD_TYPES[table].stored_columns()}
    wrong = [
        f"{name} {column.type}"
        for name, column in known.items()
        if schema.get_all_field_indices(name) == [] or schema.field(name).type != ARROW_TYPES[column.type]
    ]
    if wrong:
        raise ConfigError(
            f"{table}: the rows lack the columns {', '.join(wrong)}; found {described(schema)}. Nothing was written."
        )
    return [known.get(field.name) or column_of(field) for field in schema]


def described(schema: pa.Schema) -> str:
    """Columns with their types, for messages."""
    return ", ".join(f"{one_line(field.name, 60)} {field.type}" for field in schema)


def _sql_table(table: str, columns: Sequence[Column], sql_types: dict[str, Any]) -> sa.Table:
    made = sa.Table(
        table,
        sa.MetaData(),
        *(sa.Column(column.name, sql_types[column.type], nullable=column.nullable) for column in columns),
    )
    if table in INDEXES:
        sa.Index(f"ix_{table}_{INDEXES[table][-1]}", *(made.c[name] for name in INDEXES[table]))
    return made


def _with_key(made: sa.Table) -> sa.Table:
    copy = made.to_metadata(sa.MetaData())
    copy.append_constraint(sa.PrimaryKeyConstraint(*RECORD_TYPES[made.name].stored_key))
    return copy
