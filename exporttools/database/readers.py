"""Two readers that return Arrow from one SELECT: ADBC for PostgreSQL in bulk, a driver's rows for everything else.

Both return exactly the declared columns. Neither knows layouts or records.
"""

from __future__ import annotations

import datetime as dt
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, Select, func, literal_column, select, text
from sqlalchemy.dialects import postgresql

from exporttools.connections.driver_errors import NoAnswer, kind_of
from exporttools.database.deadlines import Calls
from exporttools.database.forks import Opener, leave_to_parent, renew_after_fork
from exporttools.database.opening import CONNECT_TIMEOUT_S, Database
from exporttools.database.read_log import ReadLog, logged_batches, logger
from exporttools.database.session_equality import SessionsDiffer, custom_settings, make_equal, set_local
from exporttools.errors import InconsistentData
from exporttools.records.schema import ARROW_TYPES, Column
from exporttools.records.validity import Origin
from exporttools.text.inert import one_line
from exporttools.times import parse_utc

ROWS_PER_FETCH = 4096
"""How many rows are Python objects at a time; with more, most of the time goes to the garbage collector."""

BULK_ROWS = 2_000
"""From this many rows, ADBC is the faster reader (benchmarks/bench_reads.py, "crossover")."""

_BULK_BATCH_BYTES = 2 << 20


def read_table(
    database: Database,
    connection: Connection,
    statement: Select[Any],
    columns: Sequence[Column],
    *,
    read: str,
    origin: Origin,
    key: Sequence[str] = (),
) -> pa.Table:
    """Read all rows of a SELECT through the driver's rows.

    Parameters
    ----------
    database, connection
        The connection is in a transaction of the database.
    statement : sqlalchemy.Select
        Selects `columns` in order, under their names.
    columns : sequence of Column
    read : str
        The read's name in the log, such as ``list runs``.
    origin : Origin
        Where the rows come from, for error messages.
    key : sequence of str
        The columns that identify a row in error messages.

    Raises
    ------
    InconsistentData
        A value is not of its column's type.
    """
    batches = stream_rows(database, connection, statement, columns, read=read, origin=origin, key=key, ahead=True)
    return pa.Table.from_batches(batches, schema=nullable_schema(columns))


def stream_rows(
    database: Database,
    connection: Connection,
    statement: Select[Any],
    columns: Sequence[Column],
    *,
    read: str,
    origin: Origin,
    key: Sequence[str] = (),
    ahead: bool = False,
    tenant: str | None = None,
) -> Generator[pa.RecordBatch, None, None]:
    """Like :func:`read_table`, batch by batch; closing the iterator closes the cursor.

    Parameters
    ----------
    ahead : bool
        Whether the server may send all rows at once, which is faster if they fit into memory.
    tenant : str, optional
        See :meth:`Database.set_tenant`. Needed unless `ahead`: the server looks at the policies as it sends the rows.
    """
    batches = _rows(database, connection, statement, columns, origin=origin, key=key, ahead=ahead, tenant=tenant)
    return logged_batches(f"{read} by rows", batches)


def _rows(
    database: Database,
    connection: Connection,
    statement: Select[Any],
    columns: Sequence[Column],
    *,
    origin: Origin,
    key: Sequence[str],
    ahead: bool,
    tenant: str | None,
) -> Generator[pa.RecordBatch, None, None]:
    schema = nullable_schema(columns)
    names = schema.names
    held = database.dialect == "postgresql" and not ahead  # SQLite returns rows one by one anyway
    options = {"stream_results": True, "max_row_buffer": ROWS_PER_FETCH} if held else {}
    if held:
        database.set_tenant(connection, tenant)
    with database.translated_errors():
        result = connection.execute(statement, execution_options=options)
        # The driver's own rows, unless SQLAlchemy has buffered the first of them: unpacking SQLAlchemy's rows costs as
        # much as reading them.
        cursor: Any = result if held else result.cursor
        opener = Opener()
        try:
            while rows := cursor.fetchmany(ROWS_PER_FETCH):
                values = list(zip(*rows, strict=True))
                where = _RowNames(origin, {name: values[names.index(name)] for name in key if name in names})
                arrays = [_array(column, values[i], where) for i, column in enumerate(columns)]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                opener.require_this_process(database.label)
                if held:
                    database.set_tenant(connection, tenant)
        finally:
            if opener.is_this_process:
                result.close()
            else:
                leave_to_parent(result)


def nullable_schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of rows as they arrive, NULLs included; :mod:`exporttools.records.validity` checks for NULLs later."""
    return pa.schema([column.arrow_field.with_nullable(True) for column in columns])


def select_all(database: Database, connection: Connection, statement: Select[Any], *, read: str) -> Sequence[Any]:
    """All rows of a SELECT of a few, such as counts by a key; `read` is its name in the log."""
    with ReadLog(read) as log, database.translated_errors():
        rows = connection.execute(statement).all()
        log.rows = len(rows)
        return rows


def select_count(database: Database, connection: Connection, statement: Select[Any], *, read: str) -> int:
    """The count that a SELECT of one gives; `read` is its name in the log."""
    with ReadLog(read) as log, database.translated_errors():
        log.rows = int(connection.execute(statement).scalar_one())
        return log.rows


def count_rows(
    database: Database, connection: Connection, statement: Select[Any], *, read: str, limit: int | None = None
) -> int:
    """Count the rows of a SELECT, up to `limit`; costs no more than reading as many index entries."""
    probe: Select[Any] = (
        statement.with_only_columns(literal_column("1"), maintain_column_froms=True).order_by(None).limit(limit)
    )
    return select_count(database, connection, select(func.count()).select_from(probe.subquery()), read=f"count {read}")


def require_count(what: str, expected: int, found: int) -> None:
    """Raise InconsistentData if the rows read are not as many as were counted in the same snapshot."""
    if expected != found:
        raise InconsistentData(
            f"{what}: {found:,} rows were read, but {expected:,} were counted in the same snapshot; "
            "does a join of the layout match several rows? None of these rows was kept"
        )


class _RowNames:
    """Names the rows of a fetch in error messages."""

    def __init__(self, origin: Origin, keys: dict[str, tuple[Any, ...]]) -> None:
        self._origin = origin
        self._keys = keys

    def fault(self, column: Column, row: int, value: object) -> InconsistentData:
        """Return the error that a row's value is not of its column's type."""
        key = ", ".join(f"{name}={one_line(repr(values[row]), 100)}" for name, values in self._keys.items())
        return self._origin.fault(key or f"row {row}", column.name, one_line(repr(value), 100), _EXPECTED[column.type])


_EXPECTED = {
    "string": "text",
    "int64": "an integer of at most 64 bits",
    "float64": "a number",
    "timestamp": "a time such as '2026-10-05 12:00:00.000000'",
}

_ACCEPTED: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "int64": lambda value: isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63,
    "float64": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "timestamp": lambda value: isinstance(value, dt.datetime) or _is_time(value),
}


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(parse_utc(value))
    except (ValueError, OverflowError):
        return False


def _array(column: Column, values: Sequence[Any], where: _RowNames) -> pa.Array:
    """A column of a fetch. The type is inferred first: given the type, pyarrow turns 1.5 into 1 and bytes into text."""
    target = ARROW_TYPES[column.type]
    try:
        inferred = pa.array(values)
        if inferred.type == target or pa.types.is_null(inferred.type):
            return inferred.cast(target)
        if column.type == "float64" and pa.types.is_integer(inferred.type):
            return inferred.cast(target)
        if column.type == "timestamp" and pa.types.is_timestamp(inferred.type):
            return inferred.cast(target)
        if column.type == "timestamp" and pa.types.is_string(inferred.type):
            return _times(inferred, values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, OverflowError, UnicodeEncodeError) as error:
        raise _first_fault(column, values, where) from error
    raise _first_fault(column, values, where)


def _times(texts: pa.Array, values: Sequence[str | None]) -> pa.Array:
    """Times that SQLite stores as text. Arrow parses the usual form at once; other ISO 8601 forms are parsed one by one."""
    try:
        return texts.cast(pa.timestamp("us")).cast(ARROW_TYPES["timestamp"])
    except pa.ArrowInvalid:
        return pa.array([value if value is None else parse_utc(value) for value in values], ARROW_TYPES["timestamp"])


def _first_fault(column: Column, values: Sequence[Any], where: _RowNames) -> InconsistentData:
    accepted = _ACCEPTED[column.type]
    row = next((i for i, value in enumerate(values) if value is not None and not accepted(value)), 0)
    return where.fault(column, row, values[row])


class BulkReader:
    """Reads a SELECT of a PostgreSQL database through ADBC's binary COPY, in the snapshot of another transaction.

    One connection is kept for the next read, without an open transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: list[_Second] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)
        renew_after_fork(self, BulkReader._renew)

    @contextmanager
    def session(self, connection: Connection, tenant: str | None = None) -> Iterator[BulkSession | None]:
        """Read in the snapshot of the connection's transaction, on a second connection that sees what the first one sees.

        Parameters
        ----------
        connection
        tenant : str, optional
            See :meth:`Database.set_tenant`; the connection's transaction was told it.

        Yields
        ------
        BulkSession or None
            None if a second connection cannot join the snapshot (the server has no connections left, or a pooler or
            proxy is in between) or cannot be made the first one's equal. The caller then reads rows.
        """
        with self._database.translated_errors():
            snapshot, backend = connection.execute(text("SELECT pg_export_snapshot(), pg_backend_pid()")).one()
            second = self._joined(connection, snapshot, backend, tenant)
        if second is None:
            yield None
            return
        session = BulkSession(self._database, second, connection, tenant)
        opener = Opener()
        keep = False
        try:
            yield session
            if session.idle:
                with self._database.translated_errors():
                    second.end()
                keep = True
        finally:
            if opener.is_this_process:
                self._release(second, keep=keep)
            else:
                leave_to_parent(second)

    def read_table(
        self,
        connection: Connection,
        statement: Select[Any],
        columns: Sequence[Column],
        *,
        read: str,
        origin: Origin,
        tenant: str | None,
    ) -> pa.Table | None:
        """Read all rows of a SELECT in the snapshot of the connection's transaction, or return None like :meth:`session`."""
        with self.session(connection, tenant) as session:
            if session is None:
                return None
            batches = session.batches(statement, columns, read=read, origin=origin)
            return pa.Table.from_batches(batches, schema=nullable_schema(columns))

    def _renew(self) -> None:
        """In a child process: leave the kept connection to the parent, which closing it would disconnect."""
        leave_to_parent([*self._idle])
        self._idle.clear()
        self._lock = threading.Lock()

    def _joined(self, connection: Connection, snapshot: str, backend: int, tenant: str | None) -> _Second | None:
        """A second connection in the exported snapshot, equal to the first one; or None."""
        for fresh in (False, True):  # a kept connection may have died meanwhile, so a new one is tried after it
            second = None
            try:
                second = self._acquire(connection, fresh=fresh)
                if second is None:
                    continue
                second.begin(snapshot)
                self._make_equal(connection, second, backend, tenant)
            except (adbc_driver_manager.Error, SessionsDiffer, NoAnswer) as error:
                if second is not None:
                    self._release(second, keep=False)
                if isinstance(error, NoAnswer):
                    raise
                if fresh:
                    logger.info("%s: reading rows, since %s", self._database.label, _why(error))
            else:
                return second
        return None

    def _make_equal(self, connection: Connection, second: _Second, backend: int, tenant: str | None) -> None:
        def first(statement: str) -> Sequence[Sequence[Any]]:
            with self._database.translated_errors():
                return connection.exec_driver_sql(statement, execution_options={"no_parameters": True}).all()

        setting = self._database.rls_setting
        if setting is not None and tenant is not None:
            # Before they are compared, so that what is remembered of two connections holds for every tenant.
            second.rows(set_local({setting: tenant}))
        driver: Any = connection.connection.driver_connection
        # A pooler tells its clients a number of its own. It lends a connection for a transaction, perhaps one that another
        # client has set up meanwhile.
        is_pooled = backend != driver.info.backend_pid
        if is_pooled or not self._database.is_own_engine or backend not in second.changes:
            custom = custom_settings(first)
            if custom is None:
                raise SessionsDiffer("code in the database computes the names of the settings that it reads")
            custom = (*custom, setting) if setting is not None else custom
            second.changes[backend] = make_equal(first, second.rows, custom=custom)
        elif changes := second.changes[backend]:
            # Nobody but us has this connection: what was proved of it once still holds.
            second.rows(changes)

    def _acquire(self, connection: Connection, *, fresh: bool) -> _Second | None:
        with self._lock:
            if not fresh:
                return self._idle.pop() if self._idle else None
        conninfo, opened = _conninfo(connection.connection.driver_connection), list[Any]()
        call = Calls(self._database.statement_timeout)
        try:
            call(lambda: opened.append(adbc.connect(conninfo, autocommit=True)))
        except NoAnswer:  # from a pooler, say, all of whose connections are lent: the first one can go on by itself
            call.finally_call(lambda: [connection.close() for connection in opened])
            call.end()
            logger.info("%s: reading rows, since a second connection was not opened in time", self._database.label)
            return None
        return _Second(opened[0], call)

    def _release(self, second: _Second, *, keep: bool) -> None:
        with self._lock:
            if keep and not self._idle:
                self._idle.append(second)
                return
        second.close()


class _Second:
    """A connection of ADBC's own.

    Attributes
    ----------
    call : Calls
        Makes every call that may wait for the server.
    changes : dict
        By the backend of a first connection that it was proved equal to: the statement that makes it so.
    """

    def __init__(self, connection: Any, call: Calls) -> None:
        self.adbc, self.call = connection, call
        self.changes: dict[int, str | None] = {}

    def begin(self, snapshot: str) -> None:
        """Begin a transaction in a snapshot that another one has exported.

        ADBC begins it in one message. In BEGIN as a statement, which it prepares, describes and executes one after the other,
        a pooler may take each to another connection.
        """
        self.call(self.adbc.adbc_connection.set_autocommit, False)
        self.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY", f"SET TRANSACTION SNAPSHOT '{snapshot}'")

    def end(self) -> None:
        """End the transaction."""
        self.call(self.adbc.adbc_connection.set_autocommit, True)

    def rows(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; all rows of the last."""

        def run() -> list[tuple[Any, ...]]:
            with self.adbc.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []

        return self.call(run)

    def close(self) -> None:
        """Close it. It may be broken already, and closing it may fail."""
        with suppress(adbc_driver_manager.Error, NoAnswer):
            self.call.finally_call(self.adbc.close)
        self.call.end()


def _why(error: Exception) -> str:
    if isinstance(error, SessionsDiffer):
        return f"a second connection would not see what the first one sees: {one_line(error)}"
    return f"ADBC could not join the snapshot: {kind_of(error)}"


class BulkSession:
    """An ADBC transaction in a snapshot, for one SELECT after another.

    Attributes
    ----------
    idle : bool
        Whether every SELECT was read to its end. Otherwise the connection is in mid-COPY and cannot be reused.
    """

    def __init__(self, database: Database, joined: _Second, connection: Connection, tenant: str | None) -> None:
        self._database, self._joined, self._connection, self._tenant = database, joined, connection, tenant
        self.idle = True

    def batches(
        self, statement: Select[Any], columns: Sequence[Column], *, read: str, origin: Origin
    ) -> Generator[pa.RecordBatch, None, None]:
        """The rows of a SELECT of `columns`, which the log calls `read`; closing the iterator early gives up the connection.

        On an Engine of the caller's, whose connections others may have set up, the rows are counted on the first one too.

        Raises
        ------
        InconsistentData
            The first connection counts another number of rows in the same snapshot.
        """
        return logged_batches(f"{read} in bulk", self._batches(statement, columns, read, origin))

    def _batches(
        self, statement: Select[Any], columns: Sequence[Column], read: str, origin: Origin
    ) -> Generator[pa.RecordBatch, None, None]:
        schema = nullable_schema(columns)
        expected, rows = None, 0
        if not self._database.is_own_engine:
            self._database.set_tenant(self._connection, self._tenant)
            expected = count_rows(self._database, self._connection, statement, read=read)
        self.idle = False
        opener = Opener()
        with self._database.translated_errors(), _cursor(self._joined, opener) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BULK_BATCH_BYTES)})
            self._joined.call(cursor.execute, _literal_sql(statement, self._connection))
            # Not fetch_record_batch(), whose reader loses ADBC's errors with their SQLSTATE (arrow-adbc issue 1523).
            while (batch := self._joined.call(next, cursor._results.reader, None)) is not None:  # noqa: SLF001
                rows += batch.num_rows
                yield (
                    batch.cast(schema)
                    if batch.schema.types != schema.types
                    else batch.from_arrays(batch.columns, schema=schema)
                )
                opener.require_this_process(self._database.label)
        self.idle = True
        if expected is not None:
            require_count(origin.table, expected, rows)


@contextmanager
def _cursor(joined: _Second, opener: Opener) -> Iterator[Any]:
    cursor = joined.adbc.cursor()
    try:
        yield cursor
    finally:
        if opener.is_this_process:
            joined.call.finally_call(cursor.close)
        else:
            leave_to_parent(cursor)


def _close_all(connections: list[_Second]) -> None:
    while connections:
        connections.pop().close()


def _conninfo(driver: Any) -> str:
    """The driver's connection parameters, with the server it reached: the second must not go to another of a list."""
    parameters = (
        {"connect_timeout": str(CONNECT_TIMEOUT_S)}
        | driver.info.get_parameters()
        | {"host": driver.info.host, "port": str(driver.info.port)}
    )
    parameters.pop("hostaddr", None)
    return make_conninfo("", **parameters, password=driver.info.password)


def _literal_sql(statement: Select[Any], connection: Connection) -> str:
    """The SELECT with literal values, rendered by SQLAlchemy: ADBC does not use COPY for bound parameters."""
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]  # named: a % in a value stays one %
    dialect._backslash_escapes = connection.dialect._backslash_escapes  # type: ignore[attr-defined]  # noqa: SLF001
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
