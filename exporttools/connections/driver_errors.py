"""The one boundary at which drivers' errors become ours. Opens nothing, reads nothing.

SQLAlchemy, psycopg, sqlite3 and ADBC each raise their own; callers of this package see only
:class:`exporttools.errors.StoreError` and what is below it, with the driver's error as the cause.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_manager
import psycopg
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from exporttools.errors import ConnectionFailed, InconsistentData, QueryTimeout, SchemaMismatch, StoreError
from exporttools.text.inert import one_line

# SQLSTATE classes and codes: PostgreSQL documentation, appendix A.
_BY_SQLSTATE: tuple[tuple[str, type[StoreError], str], ...] = (
    ("57014", QueryTimeout, "the statement was cancelled; raise statement_timeout or narrow the read"),
    ("55P03", QueryTimeout, "a lock was not to be had in time"),
    ("08", ConnectionFailed, "the connection failed"),
    ("28", ConnectionFailed, "the server refused the user or password"),
    ("3D000", ConnectionFailed, "there is no such database"),
    ("53300", ConnectionFailed, "the server has no connection left"),
    ("57P", ConnectionFailed, "the server ended the connection"),
    ("42P01", SchemaMismatch, "a table of the layout is gone"),
    ("42703", SchemaMismatch, "a column of the layout is gone"),
    ("42501", StoreError, "the user lacks the right to read; grant SELECT"),
    ("25006", StoreError, "the database was opened to read only"),
    ("40", StoreError, "the read conflicted with a change and was rolled back; read again"),
    ("22", InconsistentData, "a stored value cannot be read"),
)

_TRANSIENT_SQLSTATES = ("40", "08", "57P", "57014", "55P03", "53300")

# SQLite's messages, which are part of its interface: the codes that go with them are coarser.
_BY_SQLITE_MESSAGE: tuple[tuple[str, type[StoreError], str], ...] = (
    ("interrupted", QueryTimeout, "the statement ran longer than statement_timeout; raise it or narrow the read"),
    ("database is locked", QueryTimeout, "a writer kept the database locked"),
    ("unable to open database file", ConnectionFailed, "the file cannot be opened"),
    ("file is not a database", ConnectionFailed, "the file is no SQLite database"),
    ("malformed", ConnectionFailed, "the file is damaged"),
    ("disk I/O error", ConnectionFailed, "the file cannot be read"),
    ("no such table", SchemaMismatch, "a table of the layout is gone"),
    ("no such column", SchemaMismatch, "a column of the layout is gone"),
    ("Could not decode to UTF-8", InconsistentData, "a stored text is not UTF-8"),
    ("readonly database", StoreError, "the database was opened to read only"),
)


@contextmanager
def translated_errors(label: str, password: str | None = None) -> Iterator[None]:
    """Turn every driver's error inside the block into a :class:`StoreError`.

    Parameters
    ----------
    label : str
        What messages call the database; without a password.
    password : str, optional
        Erased from drivers' messages, should one quote it.
    """
    try:
        yield
    except DBAPIError as error:
        raise _translate(error.orig or error, label, password) from error
    except PoolTimeout as error:
        raise QueryTimeout(f"{label}: no connection of the pool became free; {_said(error, password)}") from error
    except NoSuchTableError as error:
        raise SchemaMismatch(f"{label}: no table {_said(error, password)}") from error
    except SQLAlchemyError as error:
        raise StoreError(f"{label}: {_said(error, password)}") from error
    except (psycopg.Error, sqlite3.Error, adbc_driver_manager.Error) as error:
        raise _translate(error, label, password) from error


def _translate(error: BaseException, label: str, password: str | None) -> StoreError:
    kind, meaning = _meaning(error)
    translated = kind(f"{label}: {meaning}. The driver says: {_said(error, password)}")
    translated.transient = _is_transient(error)
    return translated


def _is_transient(error: BaseException) -> bool:
    """Whether the same read may succeed when it is tried again: see :attr:`exporttools.errors.StoreError.transient`."""
    if isinstance(error, sqlite3.Error):
        return any(fragment in str(error) for fragment in ("interrupted", "database is locked"))
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate:
        return str(sqlstate).startswith(_TRANSIENT_SQLSTATES)
    return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, adbc_driver_manager.OperationalError))


def _meaning(error: BaseException) -> tuple[type[StoreError], str]:
    if isinstance(error, (sqlite3.Error, UnicodeDecodeError)):
        for fragment, kind, meaning in _BY_SQLITE_MESSAGE:
            if fragment in str(error):
                return kind, meaning
        return StoreError, "SQLite failed"
    sqlstate: Any = getattr(error, "sqlstate", None)
    if sqlstate:
        for code, kind, meaning in _BY_SQLSTATE:
            if str(sqlstate).startswith(code):
                return kind, meaning
        return StoreError, f"the server answered with SQLSTATE {sqlstate}"
    if isinstance(error, psycopg.DataError):
        return InconsistentData, "a stored value cannot be read"
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, adbc_driver_manager.OperationalError)):
        return ConnectionFailed, "the server cannot be reached or ended the connection"
    return StoreError, "the read failed"


def _said(error: BaseException, password: str | None) -> str:
    text = str(error)
    if password:
        text = text.replace(password, "***")
    return one_line(text, 400)
