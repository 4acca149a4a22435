"""Opening a database, to read only, and one point in time to read at. Knows dialects; no tables, no records.

Nothing is ever written and no file is created: SQLite is opened with ``mode=ro`` and an explicit BEGIN, PostgreSQL
in READ ONLY transactions of REPEATABLE READ.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from exporttools.driver_errors import translated_errors
from exporttools.errors import ConfigError, ConnectionFailed, StoreError
from exporttools.inert import one_line

DatabaseLike = str | os.PathLike[str] | URL | Engine | Callable[[], str | URL]
"""What names a database: a URL, ``env:NAME``, the path of an SQLite file, an Engine, or a function that gives the URL."""

ACCEPTED = (
    "postgresql://user:password@host/database, sqlite:///path/to/file.sqlite, the path of an SQLite file, env:NAME (a variable "
    "that holds one of these), a function that gives one, or a SQLAlchemy Engine"
)

_CONNECT_TIMEOUT_S = 10
_SQLITE_BUSY_TIMEOUT_S = 5.0
_SQLITE_STEPS_BETWEEN_CHECKS = 10_000
_LIKE_A_PATH = re.compile(r"[/\\]|\.(?:db|sqlite3?|s3db)$", re.IGNORECASE)


def resolved(database: DatabaseLike) -> str | os.PathLike[str] | URL | Engine:
    """What a variable or a function names; anything else as it is.

    Raises
    ------
    ConfigError
        The variable is not set.

    Examples
    --------
    >>> resolved(lambda: "agents.sqlite")
    'agents.sqlite'
    """
    if isinstance(database, str) and database.startswith("env:"):
        name = database.removeprefix("env:")
        if not os.environ.get(name):
            raise ConfigError(
                f"the environment variable {one_line(name, 60)!r} is not set; expected a database's URL in it"
            )
        return os.environ[name]
    if callable(database) and not isinstance(database, Engine):
        return database()
    return database


def parse_url(database: str | os.PathLike[str] | URL) -> URL:
    """The URL of a database, checked and with the driver that this package uses.

    Raises
    ------
    ConfigError
        Not a URL, or a dialect other than PostgreSQL and SQLite.

    Examples
    --------
    >>> parse_url("postgres://reader@db.internal/agents").drivername
    'postgresql+psycopg'
    >>> parse_url("agents.sqlite").database
    'agents.sqlite'
    """
    url = _url_of(database)
    dialect = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if dialect == "postgresql":
        driver = url.drivername.partition("+")[2]
        if driver not in ("", "psycopg"):
            raise ConfigError(f"the driver {driver!r} is not used here; write postgresql:// (psycopg 3)")
        if "options" in url.query:
            raise ConfigError(
                "the URL has options=...; poolers refuse it. Set roles' defaults on the server, or statement_timeout="
            )
        return url.set(drivername="postgresql+psycopg")
    if dialect == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigError(
                "an in-memory SQLite database opened here would be empty; pass the Engine that holds it, or a file"
            )
        if url.query or url.database.startswith("file:"):
            raise ConfigError(
                "options in an SQLite URL are not accepted: the file is always opened read-only; give its plain path"
            )
        return url.set(drivername="sqlite+pysqlite")
    raise ConfigError(f"the dialect {one_line(dialect)!r} is not supported; accepted are {ACCEPTED}")


def _url_of(database: str | os.PathLike[str] | URL) -> URL:
    if isinstance(database, URL):
        return database
    if isinstance(database, os.PathLike):
        return URL.create("sqlite", database=os.fspath(database))
    if not isinstance(database, str):
        raise ConfigError(f"a database is given as {ACCEPTED}; not as {type(database).__name__}")
    if "://" in database:
        try:
            return make_url(database)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            # The text may hold a password, so only the part before it is repeated.
            scheme = one_line(database.partition("://")[0], 40)
            raise ConfigError(
                f"the URL that starts with {scheme!r}:// cannot be read; accepted are {ACCEPTED}"
            ) from error
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:", database) or not (
        _LIKE_A_PATH.search(database) or Path(database).is_file()
    ):
        shown = one_line(database, 60) if "@" not in database else "(not shown: it may hold a password)"
        raise ConfigError(f"not a database URL: {shown!r}; accepted are {ACCEPTED}")
    return URL.create("sqlite", database=database)


def safe_label(url: URL) -> str:
    """What messages and reprs call the database: host and database, never user or password.

    Examples
    --------
    >>> safe_label(parse_url("postgresql://reader:secret@db.internal:5433/agents"))
    'postgresql://db.internal:5433/agents'
    """
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{one_line(url.database or ':memory:', 300)}"
    hosts = url.host or url.query.get("host") or "localhost"
    host = hosts if isinstance(hosts, str) else ",".join(hosts)
    return f"postgresql://{one_line(host, 200)}{f':{url.port}' if url.port else ''}/{one_line(url.database or '', 100)}"


def libpq_conninfo(url: URL) -> str:
    """The connection string of a PostgreSQL URL for drivers built on libpq. Holds the password: never show it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class Database:
    """A database opened to read only. Safe to share between threads: each reads in its own transaction.

    Parameters
    ----------
    database : str, path, URL or Engine
        See :data:`ACCEPTED`. An Engine's own pool and settings are used and left as they are.
    statement_timeout : float, optional
        Seconds that one statement may run; None: the server's own limit.
    label : str, optional
        What messages and reprs call it, instead of host and database.

    Raises
    ------
    ConfigError
        See :func:`parse_url`; or `statement_timeout` is not a positive number.
    """

    def __init__(
        self, database: DatabaseLike, *, statement_timeout: float | None = None, label: str | None = None
    ) -> None:
        if statement_timeout is not None and not 0 < statement_timeout < 1e6:
            raise ConfigError(
                f"statement_timeout is {statement_timeout!r}; expected seconds, above 0 and below a million, or None"
            )
        self.statement_timeout = statement_timeout
        database = resolved(database)
        if isinstance(database, Engine):
            if database.dialect.name not in ("postgresql", "sqlite") or database.dialect.is_async:
                raise ConfigError(
                    f"an Engine of {database.dialect.name}+{database.dialect.driver} is not supported; accepted are {ACCEPTED}"
                )
            if database.dialect.name == "postgresql" and database.dialect.driver != "psycopg":
                raise ConfigError(
                    f"the driver {database.dialect.driver!r} is not used here; make the Engine with postgresql+psycopg://"
                )
            self._url, self.engine = database.url, database
        else:
            self._url = parse_url(database)
            self.engine = _engine(self._url)
            weakref.finalize(self, self.engine.dispose)
        self.label = label or safe_label(self._url)
        self._local = threading.local()

    def __repr__(self) -> str:
        return f"<Database {self.label}>"

    @property
    def has_password(self) -> bool:
        """Whether its URL holds one."""
        return bool(self._url.password) or "password" in self._url.query

    @property
    def dialect(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return self.engine.dialect.name

    def translated_errors(self) -> Any:
        """See :func:`exporttools.driver_errors.translated_errors`, for this database."""
        return translated_errors(self.label, self._url.password)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a read-only transaction: the one of this thread's open :meth:`snapshot`, else a new one.

        Raises
        ------
        ConnectionFailed
            The database cannot be reached or refuses.
        """
        pinned: Connection | None = getattr(self._local, "pinned", None)
        if pinned is not None:
            yield pinned
            return
        with self.translated_errors():
            connection = self._connect()
        try:
            with self.translated_errors():
                restore = self._begin(connection)
            try:
                yield connection
            finally:
                with self.translated_errors():
                    connection.rollback()
                    restore()
        finally:
            connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """One point in time: every :meth:`transaction` of this thread inside the block reads at it."""
        with self.transaction() as connection:
            if getattr(self._local, "pinned", None) is connection:
                yield connection
                return
            # Both databases take their snapshot at a transaction's first read, not at BEGIN.
            first_read = "SELECT count(*) FROM sqlite_schema" if self.dialect == "sqlite" else "SELECT 1"
            with self.translated_errors():
                connection.execute(text(first_read))
            self._local.pinned = connection
            try:
                yield connection
            finally:
                self._local.pinned = None

    def server_version(self, connection: Connection) -> str:
        """The server's version as it writes it, such as ``18.1``."""
        if self.dialect == "sqlite":
            return sqlite3.sqlite_version
        with self.translated_errors():
            return str(connection.execute(text("SHOW server_version")).scalar_one())

    def snapshot_id(self, connection: Connection) -> str | None:
        """The database's own name of the transaction's point in time, where it has one."""
        if self.dialect == "sqlite":
            return None
        with self.translated_errors():
            return str(connection.execute(text("SELECT pg_current_snapshot()")).scalar_one())

    def sorts_by_code_points(self, connection: Connection, tables: Sequence[str]) -> bool:
        """Whether text in these tables sorts by its code points without a COLLATE."""
        if self.dialect == "sqlite":
            return False  # a column may be declared NOCASE, which nothing tells
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

    def _connect(self) -> Connection:
        if self.dialect == "sqlite":
            _require_file(self._url, self.label)
            return self.engine.connect()
        return self.engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def _begin(self, connection: Connection) -> Callable[[], None]:
        """Start the transaction; gives what puts the connection back as it was."""
        driver: Any = connection.connection.driver_connection
        if self.dialect == "sqlite":
            return _begin_sqlite(driver, self.statement_timeout)
        if driver.info.parameter_status("TimeZone") not in ("UTC", "Etc/UTC", "GMT"):
            # Times at both ends of the calendar leave what datetime can hold in any other zone.
            connection.execute(text("SET LOCAL TIME ZONE 'UTC'"))
        if self.statement_timeout is not None:
            # SET LOCAL ends with the transaction: behind a pooler, a plain SET would leak to another client.
            connection.execute(text(f"SET LOCAL statement_timeout = {max(1, round(self.statement_timeout * 1000))}"))
        return lambda: None


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        path = url.database or ""

        def connect_read_only() -> sqlite3.Connection:
            uri = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
            return sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=_SQLITE_BUSY_TIMEOUT_S)

        return create_engine(url, creator=connect_read_only, poolclass=QueuePool)
    connect_args: dict[str, Any] = {
        # Server-side prepared statements do not survive a pooler in transaction mode.
        "prepare_threshold": None,
    }
    if "connect_timeout" not in url.query:
        connect_args["connect_timeout"] = _CONNECT_TIMEOUT_S
    if "application_name" not in url.query:
        connect_args["application_name"] = "exporttools"
    return create_engine(url, connect_args=connect_args, pool_pre_ping=True)


def _require_file(url: URL, label: str) -> None:
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        path = Path(url.database)
        if not path.is_file():
            found = "a directory is there" if path.is_dir() else "no such file"
            raise ConnectionFailed(f"{label}: {found}; expected an SQLite database. Nothing was created.")


def _begin_sqlite(driver: sqlite3.Connection, statement_timeout: float | None) -> Callable[[], None]:
    """BEGIN by hand: sqlite3's own transactions start at the first write, which never comes, so reads would not agree."""
    if driver.in_transaction:
        raise StoreError(
            "the Engine's connection has an open transaction; commit it, or give an Engine with a connection for each thread"
        )
    isolation_level = driver.isolation_level
    query_only = driver.execute("PRAGMA query_only").fetchone()[0]
    driver.create_function("exporttools_utc_us", 1, utc_microseconds, deterministic=True)
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


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def parse_utc(stored: str) -> dt.datetime:
    """A time as SQLite databases store it, ISO 8601 with ``T`` or a space; without an offset it is UTC.

    Raises
    ------
    ValueError
        Not such a time.

    Examples
    --------
    >>> parse_utc("2026-10-05T14:00:00+02:00").isoformat()
    '2026-10-05T12:00:00+00:00'
    """
    moment = dt.datetime.fromisoformat(stored)
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def utc_microseconds(stored: object) -> int | None:
    """Microseconds since 1970 of a time as SQLite stores it; None for what is none. Texts of mixed forms sort by it."""
    try:
        return (parse_utc(stored) - _EPOCH) // _MICROSECOND if isinstance(stored, str) else None
    except (ValueError, OverflowError):
        return None
