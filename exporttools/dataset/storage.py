"""What a dataset asks of the place where its files lie: names and bytes. Knows no file system and no object store.

Beyond reading and writing, a dataset needs one guarantee: a file is created only if none of that name exists, whoever
else tries at the same moment. On disk link(2) and rename give it, in object stores a conditional put; storage without
it is refused before anything depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from io import BufferedReader
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

if TYPE_CHECKING:
    import duckdb
    import pyarrow.fs


class NewPartFile(Protocol):
    """A part file being written, not yet in its place.

    Attributes
    ----------
    file : BinaryIO
        On a local disk; open for writing, reading and seeking.
    """

    file: BinaryIO

    def publish(self, path: str) -> None:
        """Put the whole file at `path`, which is named by its content and may exist already. Closes `file`."""


@runtime_checkable
class Storage(Protocol):
    """Files by their path relative to the dataset, with ``/``. Picklable.

    Any method may raise an OSError when the storage fails.

    Attributes
    ----------
    url : str
        The dataset's location for messages, without secrets.
    """

    url: str

    def read(self, path: str) -> bytes:
        """Return a file's bytes, or raise FileNotFoundError."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Create a file, durably and whole, or raise FileExistsError; of two simultaneous calls, one raises."""

    def new_part_file(self) -> AbstractContextManager[NewPartFile]:
        """Open a file for writing; it is removed when the block ends, unless it was published."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield path and size in bytes of each file below a prefix that ends in ``/``, at any depth."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file if it exists."""

    def open(self, path: str) -> BufferedReader:
        """Open a file for reading and seeking, or raise FileNotFoundError."""
        ...

    def location(self, path: str) -> str:
        """Return the path or URL under which other programs find a file."""
        ...

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """Return the file system through which pyarrow reads :meth:`arrow_path`."""
        ...

    def arrow_path(self, path: str) -> str:
        """Return a file's path within :meth:`arrow_filesystem`."""
        ...

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read :meth:`location`."""
