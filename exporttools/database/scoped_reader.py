"""Reads of records from one database, by one layout, within one tenant: filtered, ordered, limited, never short in
silence. What to ask for is the stores' business.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.sql import ColumnElement

from exporttools.connections.urls import DatabaseLike
from exporttools.database.binding import BoundLayout, BoundSource, bind
from exporttools.database.layouts import Layout
from exporttools.database.opening import Database
from exporttools.database.readers import read_table
from exporttools.errors import ConfigError, InconsistentData, TenantMismatch
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType
from exporttools.records.validity import Origin
from exporttools.text.inert import one_line

if TYPE_CHECKING:
    import pyarrow as pa

Order = Literal["newest", "oldest"]

T = TypeVar("T", bound=SnapshotType)


class ScopedReader:
    """A database, how it keeps records, and whose may be read.

    Parameters
    ----------
    database : str, path, URL, Engine or Database
    tenant_id : str, optional
        The tenant that every read is limited to.
    layout : Layout or {"auto", "native", "aos"}
    tables : collection of str
        The records that are read here, by native table name.
    statement_timeout : float, optional
        Seconds that one statement may run.
    label : str, optional
        What messages and reprs call the database.
    """

    def __init__(
        self,
        database: DatabaseLike,
        *,
        tenant_id: str | None,
        layout: Layout | str,
        tables: Collection[str],
        statement_timeout: float | None,
        label: str | None = None,
    ) -> None:
        self.tenant_id = None if tenant_id is None else require_id("tenant_id", tenant_id)
        self.database = Database(database, statement_timeout=statement_timeout, label=label)
        self.layout = layout
        self._tables = tables
        self._bound: BoundLayout | None = None
        self._plain_order = False
        self._lock = threading.Lock()

    @property
    def description(self) -> str:
        """Database, layout and tenant, for reprs; no password."""
        layout = self._bound.name if self._bound else getattr(self.layout, "name", self.layout)
        scope = "all tenants" if self.tenant_id is None else f"tenant {one_line(self.tenant_id, 60)!r}"
        return f"{self.database.label} · layout {layout} · {scope}"

    def bound(self, connection: Connection) -> BoundLayout:
        """The layout as found in the database; looked up once."""
        if self._bound is None:
            found = bind(self.database, connection, self.layout, self._tables)
            plain = self.database.sorts_by_code_points(connection, [source.table for source in found.sources.values()])
            with self._lock:
                self._plain_order = plain
                self._bound = self._bound or found
        return self._bound

    def tenant(self, tenant_id: str | None) -> str | None:
        """The tenant to read: the call's, held against the store's.

        Raises
        ------
        TenantMismatch
            The call names another tenant than the store's.
        """
        if tenant_id is None:
            return self.tenant_id
        require_id("tenant_id", tenant_id)
        if self.tenant_id is not None and tenant_id != self.tenant_id:
            raise TenantMismatch(
                f"the store is scoped to tenant {self.tenant_id!r}; the call asks for {one_line(tenant_id)!r}. "
                f"Make a store for that tenant, or one without tenant_id"
            )
        return tenant_id

    def one(self, snapshot_type: type[T], column: str, value: str, tenant: str | None) -> SnapshotTable[T]:
        """The row whose key is `value`, as a table of at most one row.

        Raises
        ------
        InconsistentData
            Several rows have that key: of several tenants, or a key that is none.
        """
        with self.database.transaction() as connection:
            source = self.bound(connection).sources[snapshot_type.RECORD_TYPE.table]
            rows = self.rows(connection, snapshot_type, [source[column] == value], tenant, fetch=2)
        if len(rows) > 1:
            tenants = sorted({str(row.tenant_id) for row in rows})  # type: ignore[attr-defined]
            key = f"{column}={value!r}"
            raise InconsistentData(
                f"{source.table}: {key} stands in several rows, of tenants {', '.join(map(repr, tenants))}; "
                f"expected one. Name the tenant: ExportBundleStore(..., tenant_id=...)",
                table=source.table, key=key, column=column,
            )  # fmt: skip
        return rows

    def rows(
        self,
        connection: Connection,
        snapshot_type: type[T],
        where: Sequence[ColumnElement[bool]],
        tenant: str | None,
        *,
        order: Sequence[ColumnElement[Any]] = (),
        lookup: tuple[BoundSource, ColumnElement[bool]] | None = None,
        fetch: int | None = None,
        limit: int | None = None,
    ) -> SnapshotTable[T]:
        """Rows of a record; `limit` cuts and counts what it cut, `fetch` just stops.

        Parameters
        ----------
        lookup : tuple of BoundSource and condition, optional
            Another source that `where` and `order` may name.
        """
        source = self.bound(connection).sources[snapshot_type.RECORD_TYPE.table]
        own = [source["tenant_id"] == tenant] if tenant is not None else []
        statement = source.select(source.columns, joined=lookup).where(*own, *where)
        asked = fetch if limit is None else limit + 1
        record_type, origin = source.record_type, Origin(source.table)
        table = read_table(
            self.database,
            connection,
            statement.order_by(*order).limit(asked),
            source.columns,
            origin=origin,
            key=record_type.key,
        )
        total = None
        if limit is not None and table.num_rows > limit:
            table = table.slice(0, limit)
            with self.database.translated_errors():
                counted = statement.with_only_columns(sa.func.count(), maintain_column_froms=True)
                total = int(connection.execute(counted).scalar_one())
        _require_tenant(table, tenant, source)
        return SnapshotTable(snapshot_type, table, total=total, origin=origin)

    def by_text(self, expression: ColumnElement[Any]) -> ColumnElement[Any]:
        """Text to sort by its code points in every database, whatever its locale. Knows it once :meth:`bound` was called.

        Where the database does so anyway nothing is said, since its indexes are then of use.
        """
        return expression if self._plain_order else sa.collate(expression, self._exact)

    @property
    def _exact(self) -> str:
        """The collation by which only the same text is equal."""
        return "BINARY" if self.database.dialect == "sqlite" else "C"

    def is_tenant(self, source: BoundSource, tenant: str) -> list[ColumnElement[bool]]:
        """The condition that a row is the tenant's, whatever its column's collation takes for equal."""
        column = source["tenant_id"]
        return [column == tenant, sa.collate(column, self._exact) == tenant]

    def ordered(
        self, order: Order, moment: ColumnElement[Any], tie_break: ColumnElement[Any]
    ) -> list[ColumnElement[Any]]:
        """By time, those without one last, ties by key: a total order."""
        if order not in ("newest", "oldest"):
            raise ConfigError(f"order is {order!r}; accepted are 'newest' and 'oldest'")
        text = self.by_text(tie_break)
        if order == "newest":
            return [moment.desc().nulls_last(), text.desc()]
        return [moment.asc().nulls_last(), text.asc()]


def _require_tenant(table: pa.Table, tenant: str | None, source: BoundSource) -> None:
    """A case-insensitive collation lets WHERE tenant_id = 'acme' give rows of 'ACME'."""
    if tenant is None or "tenant_id" not in table.column_names:
        return
    others = pc.unique(table["tenant_id"]).to_pylist()
    if any(other != tenant for other in others):
        raise TenantMismatch(
            f"{source.table}: the database gave rows of tenants {', '.join(map(repr, sorted(map(str, others))))} for {tenant!r}; "
            f"does tenant_id have a case-insensitive collation? None of them is given out"
        )


def require_id(name: str, value: object) -> str:
    """An id as given by a caller.

    Raises
    ------
    ConfigError
        Not a text that a database could hold.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {one_line(repr(value), 80)}; expected a str")
    if "\0" in value or any(0xD800 <= ord(c) < 0xE000 for c in value):
        raise ConfigError(f"{name} is {one_line(repr(value), 80)}; expected text without NUL and lone surrogates")
    return value


def require_period(
    since: dt.datetime | None, until: dt.datetime | None
) -> tuple[dt.datetime | None, dt.datetime | None]:
    """A half-open period [since, until), in UTC.

    Raises
    ------
    ConfigError
        A bound is no datetime or naive, or `since` is not before `until`.
    """
    bounds: list[dt.datetime | None] = []
    for name, moment in (("since", since), ("until", until)):
        if moment is None:
            bounds.append(None)
            continue
        if not isinstance(moment, dt.datetime):
            raise ConfigError(f"{name} is {one_line(repr(moment), 80)}; expected a datetime with a time zone, or None")
        if moment.utcoffset() is None:
            raise ConfigError(
                f"{name} is {moment!r}, a naive datetime; give it a time zone, such as tzinfo=datetime.UTC"
            )
        bounds.append(_plain_utc(moment))
    start, end = bounds
    if start is not None and end is not None and start >= end:
        raise ConfigError(
            f"since is {start.isoformat()}, until is {end.isoformat()}; expected since before until: [since, until)"
        )
    return start, end


def _plain_utc(moment: dt.datetime) -> dt.datetime:
    """The same moment as a plain datetime: a pandas Timestamp is one that drivers do not know."""
    utc = moment.astimezone(dt.UTC)
    return dt.datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=dt.UTC)


def require_limit(limit: int | None) -> int | None:
    """A limit on rows.

    Raises
    ------
    ConfigError
        Negative, or no integer.
    """
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit < 2**62:
        raise ConfigError(f"limit is {limit!r}; expected an integer of at least 0, or None for all")
    return limit


def choices(name: str, value: str | Collection[str] | None) -> list[str] | None:
    """A filter's values: one text or several; None: no filter.

    Raises
    ------
    ConfigError
        A value is no text.
    """
    if value is None:
        return None
    values = [value] if isinstance(value, str) else list(value)
    return [require_id(name, item) for item in values]
