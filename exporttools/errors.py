"""Every error that exporttools raises on purpose. Only error classes belong here: no imports, no logic.

::

    ExportToolsError
    ├── ConfigError             a bad argument, URL or option
    │   ├── ColumnNotFound
    │   ├── ColumnTypeMismatch
    │   └── DuplicateColumn
    ├── StoreError              a database that cannot be read, or not as asked
    │   ├── ConnectionFailed
    │   ├── SchemaMismatch
    │   ├── QueryTimeout
    │   ├── TenantMismatch
    │   └── InconsistentData
    ├── BundleError             a bundle that cannot be written or read
    │   ├── BundleExists
    │   ├── BundleUnreadable
    │   └── VerificationFailed
    ├── DatasetError            a dataset that cannot be written or read
    │   ├── DatasetUnreadable
    │   ├── DestinationConflict
    │   └── ExportInterrupted
    ├── TraceImportError        sessions or traces of another tool that cannot be imported
    │   └── UnrecognisedTrace
    ├── ReportError             a report that could not be made
    └── MissingExtra            an optional dependency that is not installed

A message says what went wrong and where, what was expected, what was found and what to do next. It never shows
a URL's password. A lookup that finds nothing is not an error: it returns ``None`` or an empty table.
"""

from __future__ import annotations

from typing import Any


class ExportToolsError(Exception):
    """The base class of every error that exporttools raises on purpose."""


class ConfigError(ExportToolsError, ValueError):
    """A bad argument, URL or option, or a naive datetime. Names the value and what is accepted."""


class ColumnNotFound(ConfigError):
    """A frame lacks a column. The message lists the columns that it has.

    Attributes
    ----------
    missing, available : tuple of str
        The columns that were looked for and not found, and all the frame's columns.
    """

    def __init__(self, message: str, *, missing: tuple[str, ...] = (), available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing
        self.available = available


class ColumnTypeMismatch(ConfigError):
    """A frame's column has another type than the one needed, or a value that does not fit it.

    Attributes
    ----------
    column, found, expected : str
        The column, its type, and what it was needed as.
    """

    def __init__(self, message: str, *, column: str = "", found: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.column = column
        self.found = found
        self.expected = expected


class DuplicateColumn(ConfigError):
    """A frame has several columns of one name.

    Attributes
    ----------
    duplicates, available : tuple of str
        The names that several columns have, and all the frame's columns.
    """

    def __init__(self, message: str, *, duplicates: tuple[str, ...] = (), available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.duplicates = duplicates
        self.available = available


class StoreError(ExportToolsError):
    """A database cannot be read, or not in the way that was asked for.

    Attributes
    ----------
    transient : bool
        Whether the same read may succeed if retried, as after a lost connection, a conflict or a timeout.
    """

    transient: bool = False


class ConnectionFailed(StoreError):
    """The database cannot be reached or refuses the connection. Names host and database, never the password."""


class SchemaMismatch(StoreError):
    """The database's tables do not match the layout. Names what was expected and what was found."""


class QueryTimeout(StoreError):
    """A statement ran longer than ``statement_timeout`` or waited too long for a lock."""


class TenantMismatch(StoreError):
    """A call names a tenant other than the one the store is scoped to."""


class InconsistentData(StoreError):
    """A stored value breaks a rule of its column.

    Attributes
    ----------
    table, key, column : str
        Where the value is: the table, the row's key as text, and the column.
    """

    def __init__(self, message: str, *, table: str = "", key: str = "", column: str = "") -> None:
        super().__init__(message)
        self.table = table
        self.key = key
        self.column = column

    def __reduce__(self) -> tuple[Any, ...]:
        # Keeps the attributes when a worker process sends the error back.
        state = {"table": self.table, "key": self.key, "column": self.column}
        return type(self), self.args, state


class BundleError(ExportToolsError):
    """A bundle cannot be written or read."""


class BundleExists(BundleError, FileExistsError):
    """The destination already exists; nothing there was changed."""


class BundleUnreadable(BundleError):
    """The path is not a bundle, or its format is unknown to this version."""


class VerificationFailed(BundleError):
    """A bundle's files do not match what the bundle says about them.

    Attributes
    ----------
    findings : tuple
        Every problem found, each a :class:`exporttools.bundle.Finding`.
    """

    def __init__(self, message: str, findings: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.findings)


class DatasetError(ExportToolsError):
    """A dataset cannot be written or read."""


class DatasetUnreadable(DatasetError):
    """The path is not a dataset, lacks what was asked for, or has a damaged file."""


class DestinationConflict(DatasetError):
    """Another export is writing to the destination, or has written something else there. Its commits were not changed."""


class ExportInterrupted(DatasetError):
    """An export stopped before it finished. Its commits are intact, and running it again resumes it."""


class TraceImportError(ExportToolsError):
    """Sessions or traces of another tool that cannot be imported. Names the file and the place in it."""


class UnrecognisedTrace(TraceImportError):
    """A file that is in none of the formats, or not in the one named. Says what was expected and what was found."""


class ReportError(ExportToolsError):
    """A report could not be made: its notebook failed (names the cell and its error), or its file could not be written."""


class MissingExtra(ExportToolsError, ImportError):
    """An optional dependency is not installed. Names the exact pip command."""

    def __init__(self, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs packages that are not installed: pip install 'exporttools[{extra}]'")
        self.extra = extra
        self.purpose = purpose

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.extra, self.purpose)
