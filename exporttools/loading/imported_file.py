"""What is known of a file that was imported. No driver may come in here: imports that load nothing have this too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file that was imported, as one import leaves it to the next.

    Attributes
    ----------
    path : str
    size_bytes, mtime_ns : int
        As it was when it was read.
    content : bytes
        What was read from it.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    content: bytes
