"""The ways to name a database: a URL, a path, an environment variable, an Engine. Opens nothing.

A text that cannot be parsed may hold a password anywhere, so no message repeats any of it, except a scheme that is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from psycopg.pq import Conninfo
from sqlalchemy import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError

from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

DatabaseLike = str | os.PathLike[str] | URL | Engine | Callable[[], str | URL]
"""A URL, ``env:NAME``, the path of an SQLite file, an Engine, or a function that returns the URL."""

ACCEPTED = (
    "postgresql://user:password@host/database, sqlite:///path/to/file.sqlite, the path of an SQLite file, env:NAME (a variable "
    "that holds one of these), a function that returns one, or a SQLAlchemy Engine"
)

_KNOWN_SCHEMES = ("postgresql", "postgres", "sqlite", "mysql", "mariadb", "mssql", "oracle", "duckdb")
_KNOWN_DRIVERS = ("psycopg", "psycopg2", "psycopg2cffi", "asyncpg", "pg8000")
"""What messages may repeat of a text that may hold a password."""

_LIBPQ_OPTIONS = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())
_PSYCOPG_OPTIONS = frozenset({"autocommit", "prepare_threshold"})
_SECRET_OPTIONS = re.compile("passw|secret|scram|token")

_LIKE_A_PATH = re.compile(r"[/\\]|\.(?:db|sqlite3?|s3db)$", re.IGNORECASE)
_HIDDEN = "***"


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
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(
                "env: is not followed by a variable's name, such as env:AGENTS_DB (not shown: it may hold a password)"
            )
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
    scheme, _, driver = url.drivername.partition("+")
    if scheme in ("postgresql", "postgres"):
        if driver not in ("", "psycopg"):
            shown = f"the driver {driver!r}" if driver in _KNOWN_DRIVERS else "the URL's driver"
            raise ConfigError(f"{shown} is not supported; use postgresql:// (psycopg 3)")
        if "options" in url.query:
            raise ConfigError(
                "the URL has options=..., which connection poolers refuse; set defaults for the role on the server, or use "
                "statement_timeout="
            )
        if not url.query.keys() <= _LIBPQ_OPTIONS | _PSYCOPG_OPTIONS:
            raise ConfigError(
                "the URL has an option that libpq does not know (not shown: it may be part of a password); see libpq's "
                "parameter key words, and write & in a password as %26"
            )
        return url.set(drivername="postgresql+psycopg")
    if scheme == "sqlite":
        if url.username is not None or url.host is not None:
            raise ConfigError("an SQLite URL has three slashes before its path: sqlite:///path/to/file.sqlite")
        if not url.database or url.database == ":memory:":
            raise ConfigError(
                "an in-memory SQLite database opened here would be empty; pass the Engine that holds it, or a file"
            )
        if url.query or url.database.startswith("file:"):
            raise ConfigError(
                "options in an SQLite URL are not accepted: the file is always opened read-only; give its plain path"
            )
        return url.set(drivername="sqlite+pysqlite")
    shown = f"the dialect {scheme!r}" if scheme in _KNOWN_SCHEMES else "the URL's dialect"
    raise ConfigError(f"{shown} is not supported; expected {ACCEPTED}")


def _url_of(database: str | os.PathLike[str] | URL) -> URL:
    if isinstance(database, URL):
        return database
    if isinstance(database, os.PathLike):
        return URL.create("sqlite", database=os.fspath(database))
    if not isinstance(database, str):
        raise ConfigError(f"database is of type {type(database).__name__}; expected {ACCEPTED}")
    if _is_path(database):
        return URL.create("sqlite", database=database)
    scheme, separator, rest = database.partition("://")
    url = _parsed(database, rest) if separator else None
    if url is None and separator and scheme.partition("+")[0] in _KNOWN_SCHEMES:
        raise ConfigError(
            f"the URL that starts with {scheme.partition('+')[0]}:// cannot be parsed; in a user name, a password and an option "
            f"write @ as %40, ? as %3F and = as %3D; expected {ACCEPTED}"
        )
    if url is None:
        raise ConfigError(
            f"database is neither a URL nor the path of a file (not shown: it may hold a password); expected {ACCEPTED}"
        )
    return url


def _is_path(database: str) -> bool:
    if is_file(database):
        return True
    without_drive = re.sub(r"^[A-Za-z]:(?=[/\\])", "", database)
    # Other than a file that exists, a path with one of these is a URL or a libpq connection string with a mistake in it.
    return bool(_LIKE_A_PATH.search(database)) and not re.search("[@=:]", without_drive)


def is_file(name: str) -> bool:
    """Return whether a file has this name, which may be any text, also one that no file can have."""
    return os.path.isfile(name)  # noqa: PTH113  # Path.is_file raises for long texts, and repeats them


def is_directory(name: str) -> bool:
    """Like :func:`is_file`, for a directory."""
    return os.path.isdir(name)  # noqa: PTH112


def _parsed(database: str, rest: str) -> URL | None:
    """The URL, or None if it is not one, or if what SQLAlchemy takes for host, database or option may be part of a password."""
    user, at, place = ("", "", rest) if database.startswith("sqlite") else rest.rpartition("@")
    place, _, options = place.partition("?")
    if at and ("@" in user or "/" in user.partition(":")[0] or re.search(r"\?.*=|passw\w*=", user)):
        return None
    if not database.startswith("sqlite") and re.search(r"[=\s]", place):
        return None
    if options and not all("=" in option for option in options.split("&")):
        return None
    try:
        return make_url(database)
    except (ArgumentError, ValueError):  # their texts may repeat a part of the password
        return None


def safe_label(url: URL) -> str:
    """Name the database for messages and reprs: host and database, never user or password.

    Where a host, a database or an absent file's path has an @ or =, it may be part of a password, and *** stands for it.

    Examples
    --------
    >>> safe_label(parse_url("postgresql://reader:secret@db.internal:5433/agents"))
    'postgresql://db.internal:5433/agents'
    """
    if url.get_backend_name() == "sqlite":
        path = url.database or ":memory:"
        return f"sqlite:///{_HIDDEN if secrets_of(url) else one_line(path, 300)}"
    *hosts, database = (_HIDDEN if _is_doubtful(name) else name for name in (*_hosts(url), url.database or ""))
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{one_line(','.join(hosts), 200)}{port}/{one_line(database, 100)}"


def secrets_of(url: URL) -> tuple[str, ...]:
    """Return all of a URL that no message may repeat: its passwords, and what may be part of one by a mistake in the URL.

    Examples
    --------
    >>> secrets_of(parse_url("postgresql://reader:hunter2@db.internal/agents?sslpassword=hunter3"))
    ('hunter2', 'hunter3')
    """
    found = [str(url.password)] if url.password else []
    for name, values in url.query.items():
        if _SECRET_OPTIONS.search(name):
            found += [values] if isinstance(values, str) else values
    names = (url.database or "",) if url.get_backend_name() == "sqlite" else (*_hosts(url), url.database or "")
    found += [name for name in names if _is_doubtful(name) and not is_file(name)]
    return tuple(found)


def _hosts(url: URL) -> tuple[str, ...]:
    hosts = url.host or url.query.get("host") or "localhost"
    return (hosts,) if isinstance(hosts, str) else tuple(hosts)


def _is_doubtful(name: str) -> bool:
    """Whether a part of a URL may be part of a password: an @ or = in one that is not escaped ends up there."""
    return "@" in name or "=" in name


def libpq_conninfo(url: URL) -> str:
    """Return a PostgreSQL URL as libpq reads it. It holds the password: never show it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
