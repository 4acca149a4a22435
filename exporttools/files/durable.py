"""The one way to write a directory or a file: whole or not at all. Knows nothing of what is in it.

Until it is complete, it lies beside its target as ``.NAME.HEX.exporttools-partial``. Its writer holds a lock on it
(flock(2)), which the kernel releases when the process ends, however it ends. So a partial that can be locked belongs to
no living process, even if pids were reused or the writer ran in another container, and the next write into the same
directory removes it. Without such locks (Windows, NFS) the partials of killed processes stay; everything else works.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

if sys.platform != "win32":
    import fcntl

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # Linux: renameat2(2)
_RENAME_EXCL = 4  # macOS: renamex_np(2)

_NAME_CHARACTERS = 40  # a name may have 255 bytes, and a character 4
_PARTIAL = re.compile(rf"\..{{0,{_NAME_CHARACTERS}}}\.[0-9a-f]{{16}}\.exporttools-partial", re.DOTALL)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory that becomes `path` at the end of the block, or is removed if the block raises.

    Every file and directory is synced before the rename, and the parent after it: after a power failure, too, `path` is
    either whole or absent.

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
        Something is at `path`, now or when the block ends; it was left unchanged.
    OSError
        The file system refused; nothing was left behind.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_directory(Path(parent, "letters")) as directory:
    ...         written = (directory / "a.txt").write_text("a")
    ...     Path(parent, "letters", "a.txt").read_text()
    'a'
    """
    _require_absent(path)
    with _partial(path, Path.mkdir) as partial:
        yield partial
        _publish(partial, path)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that becomes `path` at the end of the block, as with :func:`new_directory`.

    Yields
    ------
    BinaryIO
        A new, empty file beside `path`, open for writing, reading and seeking. The block may close it.

    Raises
    ------
    FileExistsError, OSError
        As :func:`new_directory` does.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_file(Path(parent, "letters.json")) as file:
    ...         written = file.write(b'["a"]')
    ...     Path(parent, "letters.json").read_text()
    '["a"]'
    """
    _require_absent(path)
    with _partial(path, lambda partial: partial.touch(exist_ok=False)) as partial:
        with partial.open("r+b") as file:
            yield file
        _publish(partial, path)


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces the one at `path`, if any, at the end of the block; on an error, the old one stays.

    For what can be made again, such as a report; evidence is never replaced.

    Raises
    ------
    OSError
        The file system refused; what was at `path` is unchanged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     target = Path(parent, "report.html")
    ...     for text in (b"old", b"new"):
    ...         with replaced_file(target) as file:
    ...             written = file.write(text)
    ...     target.read_text()
    'new'
    """
    with _partial(path, lambda partial: partial.touch(exist_ok=False)) as partial:
        with partial.open("r+b") as file:
            yield file
        fsync(partial)
        partial.replace(path)
        fsync(path.parent)


class StagedFile:
    """A file that is being written and has no name yet.

    Attributes
    ----------
    file : BinaryIO
        Open for writing, reading and seeking.
    """

    def __init__(self, partial: Path, file: BinaryIO) -> None:
        self._partial = partial
        self.file = file

    def publish(self, path: Path) -> None:
        """Close the file and move it to `path`, durably.

        Raises
        ------
        FileExistsError
            `path` already exists; it was left unchanged.
        """
        self.file.close()
        _publish(self._partial, path)


@contextmanager
def staged_file(beside: Path) -> Iterator[StagedFile]:
    """Yield a file whose path is known only once it is written, such as one named after its content.

    It is removed at the end of the block unless it was published.

    Parameters
    ----------
    beside : Path
        The file is written into this path's directory, which must be on the file system that it is published to.
    """
    with _partial(beside, lambda partial: partial.touch(exist_ok=False)) as partial, partial.open("r+b") as file:
        yield StagedFile(partial, file)


@contextmanager
def scratch_directory(beside: Path) -> Iterator[Path]:
    """Yield a new, empty directory beside a path for working files; it is removed at the end of the block.

    Raises
    ------
    OSError
        The directory cannot be made.
    """
    with _partial(beside, Path.mkdir) as partial:
        yield partial


def fsync(path: Path) -> None:
    """Write a file, or the names in a directory, through to the disk, so that they survive a power failure.

    Some file systems cannot sync a directory and say so. That is not an error: its names are as durable as the file
    system makes them.

    Raises
    ------
    OSError
        A file cannot be synced, or a directory fails to sync for another reason.
    """
    if sys.platform == "win32" and path.is_dir():
        return  # Windows cannot sync a directory
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


@contextmanager
def _partial(beside: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Something new and locked beside a path; it is removed at the end of the block unless it was renamed."""
    _sweep(beside.parent)
    with ExitStack() as lock:
        partial = _make_locked(beside, make, lock)
        try:
            yield partial
        finally:
            _remove(partial)


def _partial_path(beside: Path) -> Path:
    return beside.parent / f".{beside.name[:_NAME_CHARACTERS]}.{secrets.token_hex(8)}.exporttools-partial"


def _make_locked(beside: Path, make: Callable[[Path], None], lock: ExitStack) -> Path:
    for _ in range(10):
        partial = _partial_path(beside)
        make(partial)
        try:
            lock.enter_context(_locked(partial))
        except (BlockingIOError, FileNotFoundError):  # another process's sweep got there before the lock
            _remove(partial)
            continue
        except OSError:  # no locks here: ENOLCK, ENOTSUP; EBADF on NFS, which locks only files open for writing
            pass
        return partial
    raise BlockingIOError(errno.EAGAIN, "other processes swept each of 10 new partials", str(beside))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file or directory; BlockingIOError if another holds it, OSError where there are no locks.

    A forked child shares it: if the writer is killed, its partial stays for as long as the child lives. A program that
    the writer executes does not share it (PEP 446).
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):  # renamed or removed before it was locked
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        yield
    finally:
        os.close(descriptor)


def _sweep(directory: Path) -> None:
    """Remove the partials of dead processes, as far as possible: a failure here must not stop a write."""
    with suppress(OSError):
        for path in [path for path in directory.iterdir() if _PARTIAL.fullmatch(path.name)]:
            # Renamed first: on some network file systems a lock holds on one machine only. A writer on another machine
            # then finds its partial gone and fails; were it emptied in place, half of it could still be published.
            with suppress(OSError), _locked(path):
                _remove(path.rename(_partial_path(path.with_name("stale"))))


def _remove(path: Path) -> None:
    """Remove a file or a directory as far as possible; a later sweep does the rest."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _publish(partial: Path, path: Path) -> None:
    _fsync_tree(partial)
    _rename_to_new(partial, path)
    try:
        fsync(path.parent)
    except BaseException:
        path.rename(partial)  # not removed in place, where a reader could see half of it
        raise


def _fsync_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _fsync_tree(child)
    fsync(path)


def _rename_to_new(source: Path, target: Path) -> None:
    """Rename without ever replacing, unlike rename(2), which replaces a file or an empty directory."""
    old, new = os.fsencode(source), os.fsencode(target)
    libc: Any = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(old, new, _RENAME_EXCL)
    else:
        failed = -1
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return
    code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(source), None, str(target))
    # The file system has no exclusive rename (NFS). link(2) does not replace either.
    try:
        os.link(source, target)
    except OSError:  # a directory; no links on this file system; or the target exists
        # Looking first leaves a gap in which a file or an empty directory could appear.
        _require_absent(target)
        source.rename(target)
    else:
        _remove(source)
