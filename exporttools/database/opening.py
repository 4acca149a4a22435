"""Opening a database read-only, and reading it at one point in time. Knows dialects; no tables, no records.

Nothing is ever written and no file is created: SQLite is opened with ``mode=ro`` and an explicit BEGIN, PostgreSQL
in READ ONLY transactions of REPEATABLE READ.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, text

from exporttools.connections.driver_errors import translated_errors
from exporttools.connections.urls import (
    ACCEPTED,
    DatabaseLike,
    is_directory,
    is_file,
    parse_url,
    resolved,
    safe_label,
    secrets_of,
)
from exporttools.database.deadlines import limit_waits
from exporttools.database.forks import Opener, close_before_fork, leave_to_parent, renew_after_fork, sqlite_read
from exporttools.database.sqlite_files import why_unreadable
from exporttools.errors import ConfigError, ConnectionFailed, StoreError
from exporttools.text.inert import one_line
from exporttools.times import epoch_us, parse_utc

CONNECT_TIMEOUT_S = 10
"""How long to wait for a connection where nothing says otherwise."""

_CONNECT_DEFAULTS: dict[str, Any] = {
    "application_name": "exporttools",
    "connect_timeout": CONNECT_TIMEOUT_S,  # seconds, as are the next two
    # A server that is gone is noticed within a minute, also by a read without a statement_timeout.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
"""What a URL may say, and else is so (PostgreSQL documentation, "Parameter Key Words")."""
_SQLITE_BUSY_TIMEOUT_S = 5.0
_SQLITE_STEPS_BETWEEN_CHECKS = 10_000


class Database:
    """A database opened read-only. Safe to share between threads: each reads in its own transaction.

    Parameters
    ----------
    database : str, path, URL or Engine
        See :data:`exporttools.connections.urls.DatabaseLike`. An Engine's own pool and settings are used and left as
        they are; only in a child process, after a fork, its pool is replaced by ``engine.dispose(close=False)``.
    statement_timeout : float, optional
        Seconds that one statement may run; by default the server's own limit. A PostgreSQL server whose answer takes
        longer than that and :data:`exporttools.database.deadlines.GRACE_S` is given up.
    rls_setting : str, optional
        The setting that :meth:`set_tenant` sets.
    label : str, optional
        The database's name in messages and reprs; by default its host and database.

    Raises
    ------
    ConfigError
        See :func:`exporttools.connections.urls.parse_url`; or `statement_timeout` is not a positive number; or
        `rls_setting` is not the name of a custom setting, or the database is SQLite, which has none.
    """

    def __init__(
        self,
        database: DatabaseLike,
        *,
        statement_timeout: float | None = None,
        rls_setting: str | None = None,
        label: str | None = None,
    ) -> None:
        if statement_timeout is not None and not 0 < statement_timeout < 1e6:
            raise ConfigError(
                f"statement_timeout is {statement_timeout!r}; expected seconds, more than 0 and less than a million, or None"
            )
        self.statement_timeout = statement_timeout
        database = resolved(database)
        self.is_own_engine = not isinstance(database, Engine)
        if isinstance(database, Engine):
            if database.dialect.name not in ("postgresql", "sqlite") or database.dialect.is_async:
                raise ConfigError(
                    f"an Engine of {database.dialect.name}+{database.dialect.driver} is not supported; expected {ACCEPTED}"
                )
            if database.dialect.name == "postgresql" and database.dialect.driver != "psycopg":
                raise ConfigError(
                    f"the driver {database.dialect.driver!r} is not supported; create the Engine with postgresql+psycopg://"
                )
            self._url, self.engine = database.url, database
        else:
            self._url = parse_url(database)
            self.engine = _engine(self._url, statement_timeout)
            weakref.finalize(self, _dispose, self.engine, Opener())
        self.rls_setting = rls_setting
        if rls_setting is not None:
            _require_custom_setting(rls_setting, self.dialect)
        self._owns_engine = not isinstance(database, Engine)
        self.label = label or safe_label(self._url)
        self._local = threading.local()
        renew_after_fork(self, Database._renew)
        if self._owns_engine and self.dialect == "sqlite":
            close_before_fork(self, lambda database: database.engine.dispose())

    def __repr__(self) -> str:
        return f"<Database {self.label}>"

    @property
    def has_password(self) -> bool:
        """Whether the URL holds a password."""
        return bool(secrets_of(self._url))

    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return self.engine.dialect.name

    def translated_errors(self) -> Any:
        """See :func:`exporttools.connections.driver_errors.translated_errors`, for this database."""
        explain = (lambda error: why_unreadable(self._url.database or "", error)) if self.dialect == "sqlite" else None
        return translated_errors(self.label, secrets_of(self._url), explain)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a read-only transaction: the one of this thread's open :meth:`snapshot`, else a new one.

        Raises
        ------
        ConnectionFailed
            The database cannot be reached or refuses the connection.
        """
        pinned: tuple[Connection, Opener] | None = getattr(self._local, "pinned", None)
        if pinned is not None:
            connection, opener = pinned
            opener.require_this_process(self.label)
            yield connection
            return
        with sqlite_read(self.label) if self.dialect == "sqlite" else nullcontext():
            opener = Opener()
            with self.translated_errors():
                connection = self._connect()
            try:
                with self.translated_errors():
                    restore = self._begin(connection)
                try:
                    yield connection
                finally:
                    if opener.is_this_process:
                        with self.translated_errors():
                            connection.rollback()
                            restore()
            finally:
                if opener.is_this_process:
                    connection.close()
                else:
                    leave_to_parent(connection)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One point in time: every :meth:`transaction` of this thread inside the block reads at it."""
        with self.transaction() as connection:
            if getattr(self._local, "pinned", None) is not None:
                yield connection
                return
            # Both databases take their snapshot at a transaction's first read, not at BEGIN.
            first_read = "SELECT count(*) FROM sqlite_schema" if self.dialect == "sqlite" else "SELECT 1"
            with self.translated_errors():
                connection.execute(text(first_read))
            self._local.pinned = connection, Opener()
            try:
                yield connection
            finally:
                self._local.pinned = None

    def set_tenant(self, connection: Connection, tenant: str | None) -> None:
        """Tell row-level security policies the tenant to read, until the transaction ends. Nothing without an `rls_setting`.

        A transaction may be one of several tenants' reads, in turn; so each read sets it, and sets it again after a pause.

        Raises
        ------
        ConfigError
            There is no tenant: the policies would let no row through, and nothing would say so.
        """
        if self.rls_setting is None:
            return
        if tenant is None:
            raise ConfigError(
                f"with rls_setting={self.rls_setting!r}, rows are read for one tenant; name it in the call where it takes "
                "tenant_id=, or read through store.for_tenant(...). To read all tenants, by a role that may, make a store "
                "without rls_setting"
            )
        with self.translated_errors():
            connection.execute(_SET_LOCAL, {"name": self.rls_setting, "value": tenant})

    def server_version(self, connection: Connection) -> str:
        """Return the server's version in its own words, such as ``18.1``."""
        if self.dialect == "sqlite":
            return sqlite3.sqlite_version
        with self.translated_errors():
            return str(connection.execute(text("SHOW server_version")).scalar_one())

    def snapshot_id(self, connection: Connection) -> str | None:
        """Return the database's own name of the transaction's snapshot, or None for SQLite."""
        if self.dialect == "sqlite":
            return None
        with self.translated_errors():
            return str(connection.execute(text("SELECT pg_current_snapshot()")).scalar_one())

    def sorts_by_code_points(self, connection: Connection, tables: Sequence[str]) -> bool:
        """Whether text in these tables sorts by code points without a COLLATE."""
        if self.dialect == "sqlite":
            return False  # a column may be declared NOCASE, and reflection does not say
        with self.translated_errors():
            return bool(
                connection.execute(
                    text(
                        "SELECT datlocprovider IN ('b', 'c') AND datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8')"
                        " AND NOT EXISTS (SELECT FROM pg_attribute JOIN pg_collation AS c ON c.oid = attcollation"
                        "  WHERE attrelid = ANY (SELECT to_regclass(unnest(CAST(:tables AS text[]))))"
                        "  AND c.collname NOT IN ('default', 'C', 'POSIX'))"
                        " FROM pg_database WHERE datname = current_database()"
                    ),
                    {"tables": list(tables)},
                ).scalar_one()
            )

    def _renew(self) -> None:
        """In a child process: leave the parent's connections to it. A pinned one stays, and refuses to be used."""
        leave_to_parent(self.engine.pool)
        if self._owns_engine:
            leave_to_parent(self.engine)
            # A lock of the old one may have been held by a thread that is not here.
            self.engine = _engine(self._url, self.statement_timeout)
            weakref.finalize(self, _dispose, self.engine, Opener())
        elif self.dialect != "sqlite" or self._url.database not in (None, "", ":memory:"):
            # As SQLAlchemy asks for. A database in memory was copied with the process: it is the child's own.
            self.engine.dispose(close=False)

    def _connect(self) -> Connection:
        if self.dialect == "sqlite":
            _require_file(self._url, self.label)
            return self.engine.connect()
        return self.engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _begin(self, connection: Connection) -> Callable[[], None]:
        """Start the transaction; return a function that restores the connection's settings."""
        driver: Any = connection.connection.driver_connection
        if self.dialect == "sqlite":
            return _begin_sqlite(driver, self.statement_timeout)
        lift = limit_waits(driver, self.statement_timeout) if not self.is_own_engine else lambda: None
        try:
            self._set(connection, driver)
        except BaseException:
            lift()
            raise
        return lift

    def _set(self, connection: Connection, driver: Any) -> None:
        """Set what the transaction needs."""
        if driver.info.parameter_status("TimeZone") not in ("UTC", "Etc/UTC", "GMT"):
            # In any other zone, times at the calendar's ends are outside the range of datetime.
            connection.execute(text("SET LOCAL TIME ZONE 'UTC'"))
        if self.statement_timeout is not None:
            # SET LOCAL ends with the transaction: behind a pooler, a plain SET would leak to another client.
            connection.execute(text(f"SET LOCAL statement_timeout = {max(1, round(self.statement_timeout * 1000))}"))


# SET LOCAL, in a form that takes parameters.
_SET_LOCAL = text("SELECT set_config(:name, :value, true)")

# PostgreSQL's own settings have no prefix.
_CUSTOM_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+")


def _require_custom_setting(name: object, dialect: str) -> None:
    if not isinstance(name, str) or not _CUSTOM_SETTING.fullmatch(name):
        raise ConfigError(
            f"rls_setting is {one_line(repr(name), 80)}; expected the name of a setting that your policies read, with a prefix "
            "and a dot, such as 'app.tenant_id'"
        )
    if dialect == "sqlite":
        raise ConfigError(
            f"rls_setting is {name!r}, but SQLite has no row-level security; leave it out, or name a PostgreSQL database"
        )


def _dispose(engine: Engine, opener: Opener) -> None:
    if opener.is_this_process:
        engine.dispose()


def _engine(url: URL, statement_timeout: float | None) -> Engine:
    if url.get_backend_name() == "sqlite":
        path = url.database or ""

        def connect_read_only() -> sqlite3.Connection:
            uri = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
            return sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=_SQLITE_BUSY_TIMEOUT_S)

        return create_engine(url, creator=connect_read_only, poolclass=QueuePool)
    connect_args = {name: value for name, value in _CONNECT_DEFAULTS.items() if name not in url.query}
    # Server-side prepared statements do not survive a pooler in transaction mode.
    engine = create_engine(url, connect_args=connect_args | {"prepare_threshold": None}, pool_pre_ping=True)
    # The first to hear of a connection: SQLAlchemy asks it things before any transaction of ours.
    event.listen(engine, "connect", lambda driver, _: limit_waits(driver, statement_timeout), insert=True)
    return engine


def _require_file(url: URL, label: str) -> None:
    name = url.database or ":memory:"
    if name == ":memory:" or name.startswith("file:") or is_file(name):
        return
    found = "it is a directory" if is_directory(name) else "no such file"
    raise ConnectionFailed(f"{label}: {found}; expected an SQLite database. Nothing was created.")


def _begin_sqlite(driver: sqlite3.Connection, statement_timeout: float | None) -> Callable[[], None]:
    """BEGIN by hand: sqlite3 starts its own transactions only at a write, so that reads would not agree."""
    if driver.in_transaction:
        raise StoreError(
            "the Engine's connection has an open transaction; commit it, or pass an Engine with a connection per thread"
        )
    isolation_level = driver.isolation_level
    query_only = driver.execute("PRAGMA query_only").fetchone()[0]
    driver.create_function("exporttools_utc_us", 1, _stored_us, deterministic=True)
    driver.isolation_level = None
    driver.execute("PRAGMA query_only = ON")
    if statement_timeout is not None:
        deadline = time.monotonic() + statement_timeout
        driver.set_progress_handler(lambda: int(time.monotonic() > deadline), _SQLITE_STEPS_BETWEEN_CHECKS)
    driver.execute("BEGIN")

    def restore() -> None:
        driver.set_progress_handler(None, 0)
        driver.execute(f"PRAGMA query_only = {query_only}")
        driver.isolation_level = isolation_level

    return restore


def _stored_us(stored: object) -> int | None:
    """Microseconds since 1970 of a time that SQLite stores as text, NULL for anything else; texts of mixed forms sort by it."""
    try:
        return epoch_us(parse_utc(stored)) if isinstance(stored, str) else None
    except (ValueError, OverflowError):
        return None
