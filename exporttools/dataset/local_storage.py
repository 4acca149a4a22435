"""A dataset's files in a directory of a local or mounted file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from exporttools.dataset.storage import NewPartFile
from exporttools.files.durable import StagedFile, fsync, new_file, staged_file

if TYPE_CHECKING:
    import duckdb
    import pyarrow.fs


class LocalStorage:
    """Files in a directory; see :class:`Storage` for its methods.

    Parameters
    ----------
    root : Path
        Absolute.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        """See :class:`Storage`."""
        return (self._root / path).read_bytes()

    def create(self, path: str, data: bytes) -> None:
        """See :class:`Storage`."""
        target = self._root / path
        _make_directories(target.parent, self._root)
        with new_file(target) as file:
            file.write(data)

    @contextmanager
    def new_part_file(self) -> Iterator[NewPartFile]:
        """See :class:`Storage`."""
        with staged_file(self._root / "part") as staged:
            yield _LocalPartFile(self._root, staged)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :class:`Storage`."""
        for directory, _, names in os.walk(self._root / prefix, onerror=_raise_unless_absent):
            for name in sorted(names):
                path = Path(directory, name)
                try:
                    size = path.lstat().st_size
                except FileNotFoundError:  # a partial file that was renamed meanwhile
                    continue
                yield path.relative_to(self._root).as_posix(), size

    def delete(self, path: str) -> None:
        """See :class:`Storage`."""
        (self._root / path).unlink(missing_ok=True)

    def open(self, path: str) -> BufferedReader:
        """See :class:`Storage`."""
        return (self._root / path).open("rb")

    def location(self, path: str) -> str:
        """See :class:`Storage`."""
        return str(self._root / path)

    def arrow_filesystem(self) -> pyarrow.fs.FileSystem:
        """See :class:`Storage`."""
        import pyarrow.fs

        return pyarrow.fs.LocalFileSystem()

    def arrow_path(self, path: str) -> str:
        """See :class:`Storage`."""
        return self.location(path)

    def register(self, connection: duckdb.DuckDBPyConnection) -> None:
        """See :class:`Storage`; DuckDB needs no help with directories."""


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


class _LocalPartFile:
    def __init__(self, root: Path, staged: StagedFile) -> None:
        self._root, self._staged = root, staged
        self.file = staged.file

    def publish(self, path: str) -> None:
        target = self._root / path
        _make_directories(target.parent, self._root)
        size = self.file.seek(0, os.SEEK_END)
        try:
            self._staged.publish(target)
        except FileExistsError:
            if target.stat().st_size != size:
                raise


def _make_directories(directory: Path, root: Path) -> None:
    """Make directories that survive a power failure: each is synced into its parent."""
    if directory == root or directory.is_dir():
        return
    _make_directories(directory.parent, root)
    directory.mkdir(exist_ok=True)
    fsync(directory.parent)
