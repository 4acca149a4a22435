"""The one place where drivers' errors become ours. Opens nothing, reads nothing.

SQLAlchemy, psycopg, sqlite3 and ADBC each raise their own; users of this package see only
:class:`exporttools.errors.StoreError` and its subclasses, with the driver's error as the cause.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote, quote_plus

import adbc_driver_manager
import psycopg
from sqlalchemy.exc import DBAPIError, NoSuchTableError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from exporttools.errors import ConnectionFailed, InconsistentData, QueryTimeout, SchemaMismatch, StoreError
from exporttools.text.inert import one_line


class NoAnswer(psycopg.OperationalError):
    """No driver's: a driver waited too long for the server, and was given up (:mod:`exporttools.database.deadlines`)."""


class _Meaning(NamedTuple):
    """What a driver's error means to a user; `transient` is explained at :class:`exporttools.errors.StoreError`."""

    error: type[StoreError]
    text: str
    transient: bool = False


# By SQLSTATE, or its first characters: PostgreSQL documentation, appendix A.
_BY_SQLSTATE: dict[str, _Meaning] = {
    "57014": _Meaning(QueryTimeout, "the statement was cancelled; raise statement_timeout or narrow the read", True),
    "55P03": _Meaning(QueryTimeout, "timed out waiting for a lock", True),
    "08": _Meaning(ConnectionFailed, "the connection failed", True),
    "28": _Meaning(ConnectionFailed, "the server refused the user or password"),
    "3D000": _Meaning(ConnectionFailed, "the database does not exist"),
    "53300": _Meaning(ConnectionFailed, "the server has no connections left", True),
    "57P": _Meaning(ConnectionFailed, "the server closed the connection", True),
    "42P01": _Meaning(SchemaMismatch, "a table of the layout no longer exists"),
    "42703": _Meaning(SchemaMismatch, "a column of the layout no longer exists"),
    "42501": _Meaning(StoreError, "permission denied; reading needs SELECT on the tables"),
    "25006": _Meaning(StoreError, "the database is open read-only"),
    "40": _Meaning(StoreError, "the read conflicted with a change and was rolled back; try again", True),
    "22": _Meaning(InconsistentData, "a stored value cannot be read"),
}

# libpq has no SQLSTATE for a refused connection, only what the server wrote; any other language ends in _UNREACHABLE.
_REFUSALS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r'FATAL: +database ".*" does not exist'), "3D000"),
    (
        re.compile(r'FATAL: +(\S+ authentication failed|no pg_hba\.conf|role ".*" (does not exist|is not permitted))'),
        "28",
    ),
    (re.compile(r"FATAL: +(sorry, too many clients|too many connections|remaining connection slots)"), "53300"),
)

# By a part of SQLite's messages, which are part of its interface: the codes that go with them are coarser.
_BY_SQLITE_MESSAGE: dict[str, _Meaning] = {
    "interrupted": _Meaning(
        QueryTimeout, "the statement ran longer than statement_timeout; raise it or narrow the read", True
    ),
    "database is locked": _Meaning(QueryTimeout, "timed out waiting for a writer to unlock the database", True),
    "unable to open database file": _Meaning(ConnectionFailed, "the file cannot be opened"),
    "file is not a database": _Meaning(ConnectionFailed, "the file is not an SQLite database"),
    "malformed": _Meaning(ConnectionFailed, "the file is damaged"),
    "disk I/O error": _Meaning(ConnectionFailed, "the file cannot be read"),
    "no such table": _Meaning(SchemaMismatch, "a table of the layout no longer exists"),
    "no such column": _Meaning(SchemaMismatch, "a column of the layout no longer exists"),
    "Could not decode to UTF-8": _Meaning(InconsistentData, "a stored text is not valid UTF-8"),
    "readonly database": _Meaning(StoreError, "the database is open read-only"),
}

_UNREACHABLE = _Meaning(ConnectionFailed, "the server cannot be reached or closed the connection", True)


@contextmanager
def translated_errors(
    label: str, secrets: Sequence[str] = (), explain: Callable[[BaseException], str | None] | None = None
) -> Iterator[None]:
    """Turn every driver's error inside the block into a :class:`StoreError`.

    Parameters
    ----------
    label : str
        The database's name in messages; without a password.
    secrets : sequence of str
        Erased from drivers' messages, should one quote them; see :func:`exporttools.connections.urls.secrets_of`.
    explain : callable, optional
        Says why the database cannot be read, where the driver's error alone does not tell; or None.
    """
    try:
        yield
    except DBAPIError as error:
        raise _translated(error.orig or error, label, secrets, explain) from error
    except PoolTimeout as error:
        text = driver_says(error, secrets)
        raise QueryTimeout(f"{label}: timed out waiting for a free connection in the pool; {text}") from error
    except NoSuchTableError as error:
        raise SchemaMismatch(f"{label}: the table {driver_says(error, secrets)} does not exist") from error
    except SQLAlchemyError as error:
        raise StoreError(f"{label}: {driver_says(error, secrets)}") from error
    except (psycopg.Error, sqlite3.Error, adbc_driver_manager.Error) as error:
        raise _translated(error, label, secrets, explain) from error


def _translated(
    error: BaseException, label: str, secrets: Sequence[str], explain: Callable[[BaseException], str | None] | None
) -> StoreError:
    if isinstance(error, NoAnswer):
        late = QueryTimeout(f"{label}: {error}")
        late.transient = True
        return late
    meaning = _meaning(error)
    if explain is not None and (reason := explain(error)) is not None:
        meaning = _Meaning(ConnectionFailed, reason)
    translated = meaning.error(f"{label}: {meaning.text}. The driver says: {driver_says(error, secrets)}")
    translated.transient = meaning.transient
    return translated


def _meaning(error: BaseException) -> _Meaning:
    text = str(error)
    if isinstance(error, sqlite3.Error):
        known = (meaning for fragment, meaning in _BY_SQLITE_MESSAGE.items() if fragment in text)
        return next(known, _Meaning(StoreError, "SQLite reported an error"))
    refusals = (sqlstate for pattern, sqlstate in _REFUSALS if pattern.search(text))
    sqlstate = str(getattr(error, "sqlstate", None) or next(refusals, ""))
    if sqlstate:
        known = (meaning for code, meaning in _BY_SQLSTATE.items() if sqlstate.startswith(code))
        return next(known, _Meaning(StoreError, f"the server reported SQLSTATE {sqlstate}"))
    if isinstance(error, psycopg.DataError):
        return _BY_SQLSTATE["22"]
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, adbc_driver_manager.OperationalError)):
        return _UNREACHABLE
    return _Meaning(StoreError, "the database driver failed")


def driver_says(error: BaseException, secrets: Sequence[str]) -> str:
    """Return a driver's message in one line, with *** for each secret, however the driver wrote it."""
    text = str(error)
    for form in sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True):
        text = text.replace(form, "***")
    return one_line(text, 400)


def kind_of(error: BaseException) -> str:
    """Return what a driver's error is in our words, for logs: a driver's own may quote statements and the values in them."""
    sqlstate = getattr(error, "sqlstate", None)
    return f"the server reported SQLSTATE {sqlstate}" if sqlstate else _meaning(error).text


def _forms(secret: str) -> Iterator[str]:
    """A secret as it stands, in a URL, and in a libpq connection string."""
    yield secret
    yield quote(secret, safe="")
    yield quote(secret, safe=" +")  # as SQLAlchemy writes it
    yield quote_plus(secret)
    yield secret.replace("\\", "\\\\").replace("'", "\\'")
