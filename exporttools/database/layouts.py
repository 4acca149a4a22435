"""Where a database keeps the four records: for each a table (or a join) and, for each column, what yields it.

A :class:`Layout` is data. :func:`bind` holds it against a live database and gives :class:`BoundSource` objects to select from.
What is not there reads NULL where the record allows it, and is an error that names it where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

from exporttools.errors import ConfigError
from exporttools.records.schema import RECORD_TYPES, Column


@dataclass(frozen=True, slots=True)
class Field:
    """A column of the source's table, or of a joined one.

    Parameters
    ----------
    column : str
        The stored column's name.
    table : str, optional
        The joined table that has it; None: the source's own.
    convert : callable, optional
        From the stored column to the SQL expression to read, for another type or unit.
    """

    column: str
    table: str | None = None
    convert: Callable[[Any], ColumnElement[Any]] | None = None


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in every row, for what a database does not keep."""

    value: str | int | float


@dataclass(frozen=True, slots=True)
class Join:
    """A table to look further columns up in; rows without a match read NULL there.

    Parameters
    ----------
    table : str
    on : mapping of str to str
        From the joined table's column to the source's column that it equals.
    """

    table: str
    on: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one record lives.

    Parameters
    ----------
    table : str
        The table or view, ``schema.table`` where it is not on the search path.
    columns : mapping, optional
        From a record's column to a stored column's name, a :class:`Field` or a :class:`Constant`. What is left out is
        stored under the record's own name.
    joins : tuple of Join, optional
    where : tuple of Field, optional
        Conditions (by ``convert``) on every row; one whose column the database lacks is passed over.
    extra : tuple of Column, optional
        Further columns to read where the database has them; mapped by `columns` like the others.
    started_at : str or Field, optional
        Traces only: when the trace started, to tell a run's last trace. None: when its first step did.
    """

    table: str
    columns: Mapping[str, str | Field | Constant] = field(default_factory=dict)
    joins: tuple[Join, ...] = ()
    where: tuple[Field, ...] = ()
    extra: tuple[Column, ...] = ()
    started_at: str | Field | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a database keeps the four records.

    Examples
    --------
    A database whose incidents are called alerts, else as ours:

    >>> from dataclasses import replace
    >>> mine = replace(NATIVE, name="mine", incidents=Source("alerts", {"id": "alert_id", "violation_type": "kind"}))
    >>> mine.incidents.table
    'alerts'
    """

    name: str
    incidents: Source
    runs: Source
    traces: Source
    trace_steps: Source

    def __post_init__(self) -> None:
        for record_type in RECORD_TYPES.values():
            source: Source = getattr(self, record_type.table)
            known = {column.name for column in record_type.stored_columns(source.extra)}
            unknown = [name for name in source.columns if name not in known]
            if unknown:
                raise ConfigError(
                    f"layout {self.name!r}: {record_type.table} maps {', '.join(unknown)}, which it does not have; "
                    f"accepted are {', '.join(sorted(known))} (declare further ones in extra=)"
                )


NATIVE = Layout(
    name="native",
    incidents=Source("incidents"),
    runs=Source("runs"),
    traces=Source("traces"),
    trace_steps=Source("trace_steps", extra=RECORD_TYPES["trace_steps"].extra),
)
"""Our own four tables, columns as in :mod:`exporttools.records.schema`."""


def _cents(usd: Any) -> ColumnElement[Any]:
    return sa.cast(sa.func.round(usd * 100), sa.BigInteger)


def _is_null(column: Any) -> ColumnElement[Any]:
    condition: ColumnElement[Any] = column.is_(None)
    return condition


AOS = Layout(
    name="aos",
    incidents=Source(
        "incidents",
        columns={
            "policy_id": Field("violation_policy_id", table="runs"),
            "policy_name": Field("policy_name"),
            "violation_type": "trigger_type",
        },
        joins=(Join("runs", on={"id": "source_run_id", "tenant_id": "tenant_id"}),),
    ),
    runs=Source("runs", columns={"run_id": "id", "total_cost_cents": Field("estimated_cost_usd", convert=_cents)}),
    traces=Source("aos_traces", where=(Field("archived_at", convert=_is_null),), started_at="started_at"),
    trace_steps=Source(
        "aos_trace_steps",
        columns={
            "tenant_id": Field("tenant_id", table="aos_traces"),
            "step_type": "skill_name",
            "tokens": Constant(0),
            "content_hash": "output_hash",
        },
        joins=(Join("aos_traces", on={"trace_id": "trace_id"}),),
        where=(Field("archived_at", convert=_is_null), Field("archived_at", table="aos_traces", convert=_is_null)),
        extra=(
            Column("outcome_category", "string", True, "the platform's kind of outcome"),
            Column("outcome_code", "string", True, "the platform's code of the outcome"),
            Column("retry_count", "int64", True, "how often the step was tried again"),
        ),
    ),
)
"""The agent platform's own tables: ``incidents``, ``runs``, ``aos_traces``, ``aos_trace_steps``."""

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NATIVE, AOS)}
"""The layouts that come with the package, by name, in the order in which ``auto`` tries them."""
