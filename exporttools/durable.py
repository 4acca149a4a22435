"""The one way to write a directory: whole or not at all. Knows files; not what is in them."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # Linux: renameat2(2)
_RENAME_EXCL = 4  # macOS: renamex_np(2)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory to fill that becomes `path` at the end of the block, durably, or vanishes with the block's error.

    Parameters
    ----------
    path : Path
        Must not exist; its parent must.

    Yields
    ------
    Path
        A new, empty directory beside `path`.

    Raises
    ------
    FileExistsError
        Something is at `path`, then or when the block ends; it was not touched.
    OSError
        What the file system says; nothing was left behind.

    Notes
    -----
    Every file and directory is synced before the rename and the parent after it, so that after a power failure `path`
    is whole or absent too.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    # Hidden, and named after its process: what a killed one leaves can be told from what is still being written.
    # A name may have 255 bytes, and a character 4.
    partial = path.parent / f".{path.name[:40]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        yield partial
        for directory, _, files in os.walk(partial, topdown=False):
            for file in files:
                _fsync(Path(directory, file))
            _fsync(Path(directory))
        _rename_to_new(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _fsync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():
        return  # Windows has no handle to sync a directory by
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename without ever replacing: a plain rename(2) would take the place of an empty directory."""
    old, new = os.fsencode(source), os.fsencode(target)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE)  # type: ignore[union-attr]
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(old, new, _RENAME_EXCL)
    else:
        failed, code = -1, errno.ENOSYS
        ctypes.set_errno(code)
    if not failed:
        return
    code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(source), None, str(target))
    # A file system without the exclusive rename: looking first leaves a gap in which an empty directory could appear.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)
