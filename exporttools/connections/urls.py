"""The ways to name a database: a URL, a path, an environment variable, an Engine. Opens nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

DatabaseLike = str | os.PathLike[str] | URL | Engine | Callable[[], str | URL]
"""A URL, ``env:NAME``, the path of an SQLite file, an Engine, or a function that returns the URL."""

ACCEPTED = (
    "postgresql://user:password@host/database, sqlite:///path/to/file.sqlite, the path of an SQLite file, env:NAME (a variable "
    "that holds one of these), a function that returns one, or a SQLAlchemy Engine"
)

_LIKE_A_PATH = re.compile(r"[/\\]|\.(?:db|sqlite3?|s3db)$", re.IGNORECASE)


def resolved(database: DatabaseLike) -> str | os.PathLike[str] | URL | Engine:
    """Return the database that ``env:NAME`` or a function names, and anything else unchanged.

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
            raise ConfigError(f"the environment variable {one_line(name, 60)!r} is not set; set it to a database URL")
        return os.environ[name]
    if callable(database) and not isinstance(database, Engine):
        return database()
    return database


def parse_url(database: str | os.PathLike[str] | URL) -> URL:
    """Check a database's URL and set the driver that this package uses.

    Raises
    ------
    ConfigError
        Not a URL, or one of another database than PostgreSQL and SQLite.

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
            raise ConfigError(f"the driver {driver!r} is not supported; use postgresql:// (psycopg 3)")
        if "options" in url.query:
            raise ConfigError(
                "the URL has options=..., which connection poolers refuse; set defaults for the role on the server, or use "
                "statement_timeout="
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
    raise ConfigError(f"the dialect {one_line(dialect)!r} is not supported; expected {ACCEPTED}")


def _url_of(database: str | os.PathLike[str] | URL) -> URL:
    if isinstance(database, URL):
        return database
    if isinstance(database, os.PathLike):
        return URL.create("sqlite", database=os.fspath(database))
    if not isinstance(database, str):
        raise ConfigError(f"database is of type {type(database).__name__}; expected {ACCEPTED}")
    if "://" in database:
        try:
            return make_url(database)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            # The text may hold a password, so only the part before it is repeated.
            scheme = one_line(database.partition("://")[0], 40)
            raise ConfigError(
                f"the URL that starts with {scheme!r}:// cannot be parsed; expected {ACCEPTED}"
            ) from error
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:", database) or not (
        _LIKE_A_PATH.search(database) or Path(database).is_file()
    ):
        shown = one_line(database, 60) if "@" not in database else "(not shown: it may hold a password)"
        raise ConfigError(f"not a database URL: {shown!r}; expected {ACCEPTED}")
    return URL.create("sqlite", database=database)


def safe_label(url: URL) -> str:
    """Name the database for messages and reprs: host and database, never user or password.

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
    """Return a PostgreSQL URL as libpq reads it. It holds the password: never show it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
