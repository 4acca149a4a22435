"""Reads records from one database, by one layout, within one tenant: filtered, ordered, limited, and never silently cut.

What to read is for the stores to say.
"""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.sql import ColumnElement

from exporttools.connections.urls import DatabaseLike
from exporttools.database.binding import BoundLayout, BoundSource, bind
from exporttools.database.layouts import Layout
from exporttools.database.opening import Database
from exporttools.database.read_log import logger
from exporttools.database.readers import BulkReader, read_table, select_all, select_count
from exporttools.database.stored_times import StoredTime, TimeForm, data_version
from exporttools.errors import ConfigError, InconsistentData, TenantMismatch
from exporttools.records.schema import RECORD_TYPES, Column
from exporttools.records.snapshot_table import SnapshotTable, SnapshotType
from exporttools.records.validity import Origin
from exporttools.text.inert import one_line
from exporttools.text.words import plural

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy import Select

Order = Literal["newest", "oldest"]

T = TypeVar("T", bound=SnapshotType)


class ScopedReader:
    """Reads records from a database by its layout, limited to a tenant.

    Parameters
    ----------
    database : str, path, URL, Engine or Database
    tenant_id : str, optional
        The tenant that every read is limited to.
    layout : Layout or {"auto", "native", "aos"}
    tables : collection of str
        The records that are read, by native table name.
    statement_timeout : float, optional
        Seconds that one statement may run.
    rls_setting : str, optional
        The setting that tells row-level security policies the tenant.
    label : str, optional
        The database's name in messages and reprs.
    """

    def __init__(
        self,
        database: DatabaseLike,
        *,
        tenant_id: str | None,
        layout: Layout | str,
        tables: Collection[str],
        statement_timeout: float | None,
        rls_setting: str | None = None,
        label: str | None = None,
    ) -> None:
        self.tenant_id = None if tenant_id is None else require_id("tenant_id", tenant_id)
        self.database = Database(database, statement_timeout=statement_timeout, rls_setting=rls_setting, label=label)
        self.bulk = BulkReader(self.database)
        self.layout = layout
        self._tables = tables
        # What the readers of all tenants share. Of two threads that match the layout at once, the first one's is used by both.
        self._matched: list[tuple[BoundLayout, bool]] = []  # and whether the database sorts text by code points anyway
        self._unique: set[tuple[str, str | None]] = set()  # the tables and tenants whose keys were counted
        self._unowned: dict[str, int] = {}  # how many rows without a tenant each table has, once they are counted
        self._advised: set[str] = set()  # the indexes that the log has said to add

    def for_tenant(self, tenant_id: str) -> ScopedReader:
        """A reader of one tenant that shares the connections, and what is known of the database.

        Raises
        ------
        TenantMismatch
            This reader is limited to another tenant.
        """
        reader = copy.copy(self)
        reader.tenant_id = self.tenant(require_id("tenant_id", tenant_id))
        return reader

    @property
    def description(self) -> str:
        """Database, layout, tenant, and the rows of the default tenant once they are counted, for reprs; no password."""
        bound = self._matched[0][0] if self._matched else None
        layout = bound.name if bound else getattr(self.layout, "name", self.layout)
        setting = self.database.rls_setting
        scope = "all tenants" if setting is None else "no tenant, so each call names one"
        if self.tenant_id is not None:
            scope = f"tenant {one_line(self.tenant_id, 60)!r}"
        scope += f" · row-level security by {setting}" if setting else ""
        owner = bound.default_tenant if bound else None
        counts = [(self._unowned.get(table, 0), record_type) for table, record_type in RECORD_TYPES.items()]
        unowned = ", ".join(plural(n, kind.noun, kind.plural) for n, kind in counts if n)
        unowned = unowned if self.tenant_id in (None, owner) else ""
        owned = f" · {unowned} without a tenant read as tenant {one_line(repr(owner), 60)}" if unowned else ""
        return f"{self.database.label} · layout {layout} · {scope}{owned}"

    def bound(self, connection: Connection) -> BoundLayout:
        """The layout as matched with the database; matched once."""
        if not self._matched:
            found = bind(self.database, connection, self.layout, self._tables)
            plain = self.database.sorts_by_code_points(connection, [source.table for source in found.sources.values()])
            self._matched.append((found, plain))
        return self._matched[0][0]

    def columns(self, table: str) -> tuple[Column, ...]:
        """The columns that can be read of a table. No row is read."""
        if table not in self._tables:
            raise ConfigError(f"table is {one_line(repr(table), 60)}; expected one of {', '.join(self._tables)}")
        with self.database.transaction() as connection:
            return self.bound(connection).sources[table].columns

    @contextmanager
    def transaction(self, tenant: str | None) -> Iterator[Connection]:
        """Like :meth:`Database.transaction`, to read a tenant's rows, or all tenants'; see :meth:`Database.set_tenant`."""
        with self.database.transaction() as connection:
            self.database.set_tenant(connection, tenant)
            yield connection

    def tenant(self, tenant_id: str | None) -> str | None:
        """Return the tenant to read: the call's or the store's, or None for all tenants.

        Raises
        ------
        TenantMismatch
            The call names a tenant that is not the store's.
        """
        if tenant_id is None:
            return self.tenant_id
        require_id("tenant_id", tenant_id)
        if self.tenant_id is not None and tenant_id != self.tenant_id:
            raise TenantMismatch(
                f"the store is scoped to tenant {self.tenant_id!r}; the call asks for {one_line(tenant_id)!r}. "
                f"Create a store for that tenant, or one without tenant_id"
            )
        return tenant_id

    def one(self, snapshot_type: type[T], column: str, value: str, tenant: str | None) -> SnapshotTable[T]:
        """Return the row with this key, as a table of at most one row.

        Raises
        ------
        InconsistentData
            Several rows have this key: several tenants have one, or the key is not unique.
        """
        with self.transaction(tenant) as connection:
            source = self.bound(connection).sources[snapshot_type.RECORD_TYPE.table]
            rows = self.rows(connection, snapshot_type, [source.among(column, [value])], tenant, read="get", fetch=2)
        tenants = sorted({str(row.tenant_id) for row in rows})  # type: ignore[attr-defined]
        key = f"{column}={value!r}"
        if len(tenants) > 1:
            raise InconsistentData(
                f"{source.table}: {key} is in several rows, of tenants {', '.join(map(repr, tenants))}; "
                f"expected one. Name the tenant: ExportBundleStore(..., tenant_id=...)",
                table=source.table, key=key, column=column,
            )  # fmt: skip
        if len(rows) > 1:
            raise _repeated(source, tenants[0], key)
        return rows

    def require_unique_keys(
        self,
        connection: Connection,
        sources: Sequence[BoundSource],
        tenant: str | None,
        *where: ColumnElement[bool],
    ) -> None:
        """Require that no two rows of a tenant have the same key, so that no join multiplies rows and no sum counts twice.

        Free where a unique index says so. Otherwise the rows are counted by key, once for each tenant read.

        Parameters
        ----------
        sources : sequence of BoundSource
        tenant : str or None
            The tenant whose rows are read, or None for all.
        *where : conditions
            The rows that are read, where only a few of them are: those are counted at every call.

        Raises
        ------
        InconsistentData
            Names the table and the first such key.
        """
        for source in sources:
            table = source.record_type.table
            if not where:
                self._count_unowned(connection, source, tenant)
            if source.has_unique_keys or {(table, None), (table, tenant)} & self._unique:
                continue
            own = [] if tenant is None else self.is_tenant(source, tenant)
            repeated = (
                source.select([])
                .add_columns(*source.key)
                .where(*own, *where, *(expression.is_not(None) for expression in source.key))
                .group_by(*source.key)
                .having(sa.func.count() > 1)
                .limit(1)
            )
            for owner, *values in select_all(self.database, connection, repeated, read=f"prove keys of {table}"):
                names = source.record_type.stored_key
                raise _repeated(
                    source, owner, ", ".join(f"{n}={one_line(repr(v))}" for n, v in zip(names, values, strict=True))
                )
            if not where:
                self._unique.add((table, tenant))

    def time(
        self,
        connection: Connection,
        source: BoundSource,
        name: str,
        tenant: str | None,
        *filters: ColumnElement[bool],
        among: Select[Any] | None = None,
    ) -> StoredTime:
        """A time column of the rows that pass the filters, proved to be comparable.

        Free in PostgreSQL, whose types say so. In SQLite, where a column holds anything, the rows are looked through. Of all
        rows of a tenant, that is remembered until the data change; a filter's rows are looked through at every call.

        Parameters
        ----------
        source : BoundSource
            Has the column.
        tenant : str or None
            The tenant whose rows are read, or None for all.
        *filters : conditions
        among : Select, optional
            The tenant's rows joined with all that the filters refer to, without columns; by default the source's own.

        Raises
        ------
        InconsistentData
            Values are not times. Names the table and the column, counts them, and shows one.
        """
        time = source.time(name)
        if self.database.dialect != "sqlite":
            return time
        proofs = connection.info.setdefault("exporttools.times", WeakKeyDictionary()).setdefault(source, {})
        with self.database.translated_errors():
            version = data_version(connection)
            for whose in (tenant, None):
                known, form = proofs.get((name, whose), (None, None))
                if known == version:
                    return replace(time, form=form)
            rows = source.select([]).where(*([] if tenant is None else self.is_tenant(source, tenant)))
            if filters:
                form = _common_form(connection, source, name, (rows if among is None else among).where(*filters))
            else:
                form = _common_form(connection, source, name, rows)
                proofs[name, tenant] = version, form
        self._advise(source, name, form, tenant)
        return replace(time, form=form)

    def _advise(self, source: BoundSource, name: str, form: TimeForm | None, tenant: str | None) -> None:
        """Say once which index is missing."""
        missing = None if form is None else source.missing_index(one_tenant=tenant is not None)
        if missing is not None and missing not in self._advised:
            self._advised.add(missing)
            logger.info(
                "%s: lists by %s read all of %s, which has no index for it. To add one: %s",
                self.database.label, name, source.table, missing,
            )  # fmt: skip

    def unowned_rows(
        self, connection: Connection, tenant: str | None, tables: Collection[str] | None = None
    ) -> dict[str, int]:
        """Count the rows without a tenant, which are read as the layout's default tenant's.

        Parameters
        ----------
        tenant : str or None
            The tenant whose rows are read, or None for all.
        tables : collection of str, optional
            Native table names; by default all.

        Returns
        -------
        dict of str to int
            By native table name; tables that have no such rows are left out. Empty where another tenant's rows are read.
        """
        for name in self._tables if tables is None else tables:
            self._unowned.pop(name, None)  # as it is now, not as it was at the first read
        counts = {
            name: self._count_unowned(connection, source, tenant)
            for name, source in self.bound(connection).sources.items()
            if tables is None or name in tables
        }
        return {name: count for name, count in counts.items() if count}

    def _count_unowned(self, connection: Connection, source: BoundSource, tenant: str | None) -> int:
        """Counted once for all: the description says it."""
        table, unowned = source.record_type.table, source.unowned
        if unowned is None or tenant not in (None, unowned.tenant):
            return 0
        if table not in self._unowned:
            self._unowned[table] = self._count(connection, source, unowned.condition)
        return self._unowned[table]

    def _count(self, connection: Connection, source: BoundSource, condition: ColumnElement[bool]) -> int:
        counted = source.select([]).add_columns(sa.func.count()).where(condition)
        return select_count(
            self.database, connection, counted, read=f"count {source.record_type.table} without a tenant"
        )

    def require_owners(self, connection: Connection, rows: pa.Table | pa.RecordBatch, source: BoundSource) -> None:
        """Require that every row has a tenant.

        Raises
        ------
        InconsistentData
            Says how many rows of the source have none.
        """
        if "tenant_id" in rows.schema.names and rows["tenant_id"].null_count:
            raise without_tenant(source, self._count(connection, source, source["tenant_id"].is_(None)))

    def rows(
        self,
        connection: Connection,
        snapshot_type: type[T],
        where: Sequence[ColumnElement[bool]],
        tenant: str | None,
        *,
        read: str,
        order: Sequence[ColumnElement[Any]] = (),
        lookup: tuple[BoundSource, ColumnElement[bool]] | None = None,
        fetch: int | None = None,
        limit: int | None = None,
        keys: Sequence[ColumnElement[bool]] = (),
    ) -> SnapshotTable[T]:
        """Read rows of a record. Both `limit` and `fetch` stop the read; `limit` also counts the rows there are.

        Parameters
        ----------
        read : str
            What the log calls it, with the records: ``list``.
        keys : sequence of conditions, optional
            The rows whose keys are proved unique; by default all of the source. With `fetch`, the caller looks itself.
        lookup : tuple of BoundSource and condition, optional
            Another source, joined on the condition, that `where` and `order` may refer to.
        """
        source = self.bound(connection).sources[snapshot_type.RECORD_TYPE.table]
        own = [] if tenant is None else self.is_tenant(source, tenant)
        if fetch is None:
            joined = [source] if lookup is None else [source, lookup[0]]
            self.require_unique_keys(connection, joined, tenant, *keys)
        statement = source.select(source.columns, joined=lookup).where(*own, *where)
        asked = fetch if limit is None else limit + 1
        record_type, origin = source.record_type, Origin(source.table)
        table = read_table(
            self.database,
            connection,
            statement.order_by(*order).limit(asked),
            source.columns,
            read=f"{read} {record_type.table}",
            origin=origin,
            key=record_type.key,
        )
        total = None
        if limit is not None and table.num_rows > limit:
            table = table.slice(0, limit)
            counted = statement.with_only_columns(sa.func.count(), maintain_column_froms=True)
            total = select_count(self.database, connection, counted, read=f"count {record_type.table}")
        self.require_owners(connection, table, source)
        _require_tenant(table, tenant, source)
        return SnapshotTable(snapshot_type, table, total=total, origin=origin)

    def by_text(self, expression: ColumnElement[Any]) -> ColumnElement[Any]:
        """Text as an expression that sorts by code points, whatever the database's locale; call :meth:`bound` first.

        Without a COLLATE where the database sorts so anyway, so that it can use its indexes.
        """
        exact = "BINARY" if self.database.dialect == "sqlite" else "C"
        _, plain = self._matched[0]
        return expression if plain else sa.collate(expression, exact)

    def is_tenant(self, source: BoundSource, tenant: str) -> list[ColumnElement[bool]]:
        """The conditions that a row is the tenant's, also where the column's collation ignores case."""
        return [source.among("tenant_id", [tenant])]

    def ordered(
        self, order: Order, moment: ColumnElement[Any], tie_break: ColumnElement[Any]
    ) -> list[ColumnElement[Any]]:
        """A total order: by time, then by key; rows without a time come last."""
        if order not in ("newest", "oldest"):
            raise ConfigError(f"order is {order!r}; expected 'newest' or 'oldest'")
        text = self.by_text(tie_break)
        if order == "newest":
            return [moment.desc().nulls_last(), text.desc()]
        return [moment.asc().nulls_last(), text.asc()]


def _common_form(connection: Connection, source: BoundSource, name: str, rows: Select[Any]) -> TimeForm | None:
    """The form of all times of the rows, or None if there are several; InconsistentData if any is not a time."""
    time, forms = source.time(name), set[TimeForm]()
    others = rows.add_columns(time.stored).where(time.stored.is_not(None)).limit(1)
    while True:
        other = connection.execute(others.where(sa.not_(time.is_of(forms))) if forms else others).first()
        if other is None:
            return next(iter(forms or [TimeForm(" ", 6, "")])) if len(forms) < 2 else None
        form = TimeForm.of(other[0])
        if form is None or form in forms:
            break
        forms.add(form)
    wrong = rows.where(time.is_unreadable(forms))
    count = int(connection.execute(wrong.add_columns(sa.func.count())).scalar_one())
    if not count:
        return None
    *values, value = connection.execute(wrong.add_columns(*source.key[1:], time.stored).limit(1)).one()
    names = source.record_type.stored_key
    key = ", ".join(f"{n}={one_line(repr(v), 100)}" for n, v in zip(names, values, strict=True))
    raise InconsistentData(
        f"{source.table}: {plural(count, 'row has', 'rows have')} a {name} that is not a time, such as "
        f"{one_line(repr(value), 100)} in row {key}; expected a time such as '2026-10-05 12:00:00.000000'. What is not a time "
        f"can be neither compared nor sorted: fix it at its source, or convert the column in a layout of your own: "
        f"Field({name!r}, convert=...)",
        table=source.table, key=key, column=name,
    )  # fmt: skip


def _repeated(source: BoundSource, tenant: object, key: str) -> InconsistentData:
    joins = f" once, or a join ({', '.join(source.joined)}) that matches at most one row" if source.joined else " once"
    return InconsistentData(
        f"{source.table}: {key} is in several rows of tenant {one_line(repr(tenant))}; expected each key{joins}. Sums would "
        f"count it several times: remove the repeated rows, or name a table or view without them in a layout",
        table=source.table, key=key, column=source.record_type.key[-1],
    )  # fmt: skip


def without_tenant(source: BoundSource, count: int) -> InconsistentData:
    """Return the error that rows of a source have NULL as their tenant."""
    rows = plural(count, "row has", "rows have")
    if source.tenant_table == source.table:
        remedy = (
            "Name a tenant to leave them out, or say in a layout whose they are: "
            "dataclasses.replace(layout, default_tenant='...')"
        )
    else:
        remedy = (
            f"It is read from {source.tenant_table!r}, which has no matching row, or NULL in it. "
            f"Name a tenant to leave them out"
        )
    return InconsistentData(
        f"{source.table}: {rows} tenant_id = NULL; expected a string, never NULL. {remedy}",
        table=source.table, column="tenant_id",
    )  # fmt: skip


def _require_tenant(table: pa.Table, tenant: str | None, source: BoundSource) -> None:
    """With a case-insensitive collation, WHERE tenant_id = 'acme' also returns rows of 'ACME'."""
    if tenant is None or "tenant_id" not in table.column_names:
        return
    others = pc.unique(table["tenant_id"]).to_pylist()
    if any(other != tenant for other in others):
        raise TenantMismatch(
            f"{source.table}: the database returned rows of tenants {', '.join(map(repr, sorted(map(str, others))))} for "
            f"{tenant!r}; does tenant_id have a case-insensitive collation? All of these rows were withheld"
        )


def require_id(name: str, value: object) -> str:
    """Return an id that a caller passed.

    Raises
    ------
    ConfigError
        It is not a str, or a str that no database can store.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {one_line(repr(value), 80)}; expected a str")
    if "\0" in value or any(0xD800 <= ord(c) < 0xE000 for c in value):
        raise ConfigError(f"{name} is {one_line(repr(value), 80)}; expected a str without NUL or lone surrogates")
    return value


def require_period(
    since: dt.datetime | None, until: dt.datetime | None
) -> tuple[dt.datetime | None, dt.datetime | None]:
    """Return a half-open period [since, until) in UTC.

    Raises
    ------
    ConfigError
        A bound is not a datetime or is naive, or `since` is not before `until`.
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
    """The same time as a plain datetime: drivers do not accept its subclass pandas.Timestamp."""
    utc = moment.astimezone(dt.UTC)
    return dt.datetime(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second, utc.microsecond, tzinfo=dt.UTC)


def require_limit(limit: int | None) -> int | None:
    """Return a limit on rows.

    Raises
    ------
    ConfigError
        It is negative or not an integer.
    """
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit < 2**62:
        raise ConfigError(f"limit is {limit!r}; expected an integer >= 0, or None for no limit")
    return limit


def choices(name: str, value: str | Collection[str] | None) -> list[str] | None:
    """Return a filter's values as a list, or None for no filter.

    Raises
    ------
    ConfigError
        A value is not a str.
    """
    if value is None:
        return None
    values = [value] if isinstance(value, str) else list(value)
    return [require_id(name, item) for item in values]
