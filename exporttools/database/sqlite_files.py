"""Why an SQLite file cannot be read, where SQLite itself does not say. Opens no database."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from exporttools.text.inert import one_line

_WAL_REFUSED = ("SQLITE_CANTOPEN", "SQLITE_READONLY")
_READ_FORMAT_AT, _WAL = 19, 2


def why_unreadable(path: str, error: BaseException) -> str | None:
    """Explain an error of a file in WAL mode whose directory cannot be written; None for any other.

    Even to read, SQLite needs the write-ahead log and its index beside such a file, and makes them where they are not
    (https://sqlite.org/wal.html#read_only_databases).
    """
    # Errors that the sqlite3 module raises by itself have no name.
    if not isinstance(error, sqlite3.Error) or not getattr(error, "sqlite_errorname", "").startswith(_WAL_REFUSED):
        return None
    directory = Path(path).absolute().parent
    if not _is_wal(path) or os.access(directory, os.W_OK):
        return None
    return (
        f"the file is in WAL mode, so that SQLite writes beside it even to read, and you may not write to the directory "
        f"{one_line(directory, 300)}. Get write access to the directory; or copy the file, with its -wal file if there is one, "
        "to a directory of yours, and open the copy; or have its owner run PRAGMA journal_mode = DELETE"
    )


def _is_wal(path: str) -> bool:
    """Whether the file says that it is to be read through a write-ahead log (https://sqlite.org/fileformat2.html §1.3.3)."""
    try:
        with Path(path).open("rb") as file:
            header = file.read(_READ_FORMAT_AT + 1)
    except OSError:
        return False
    return header[_READ_FORMAT_AT:] == bytes([_WAL])
