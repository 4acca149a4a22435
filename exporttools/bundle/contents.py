"""Opens a bag's files, once and safely, from a directory or from a zip file. Knows no manifest and no records.

Each entry is checked before it is opened, and opened without following a link or waiting for a pipe; a file or directory
that is swapped for another in between is noticed. A large file with holes, which costs nothing to send and gigabytes to
read, is refused. Only a bundle's own names are accepted, spelled exactly like that: that
excludes ``..``, absolute paths, and names that differ from a bundle's own in case or Unicode form.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from exporttools.bundle.archive import Member, read_archive
from exporttools.errors import BundleUnreadable
from exporttools.files.findings import Finding
from exporttools.text.inert import quoted

MOST_ENTRIES = 1000
"""How many entries of a directory are checked; a bundle has eleven in all."""

_LARGE_BYTES = 256 << 20

_WITHOUT_HOLES = "a file whose bytes are all on the disk"

# os.open adds O_CLOEXEC itself (PEP 446).
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_HOLDS_DIRECTORIES = os.scandir in os.supports_fd and os.open in os.supports_dir_fd  # not on Windows
# The errors of open() if the entry has become a link or a socket, is gone, or is not a directory.
_SWAPPED = (errno.ELOOP, errno.EMLINK, errno.ENOENT, errno.ENOTDIR, errno.ENXIO)


class FileSlice(io.RawIOBase):
    """A range of bytes of an open file, read-only and seekable; several slices may share a descriptor.

    Parameters
    ----------
    descriptor : int
        Stays open when the slice is closed. Close the slice first: the number may soon be another file's.
    start, size : int
        In bytes.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        super().__init__()
        self.size = size
        self._descriptor = descriptor
        self._start = start
        self._position = 0
        self._held = b""
        self._held_from = size

    def hold_end(self, size: int) -> None:
        """Read the last `size` bytes now, and from now on take them from memory, whatever becomes of the file."""
        self.seek(max(0, self.size - size))
        held_from, self._held = self._position, self.read()
        self._held_from = held_from
        self.seek(0)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position from the start of the slice."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, as in any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes; by default all that are left.

        Memory is bounded by the bytes there are: `size` may come from a file that lies.
        """
        left = max(0, self.size - self._position)
        return super().read(left if size < 0 else min(size, left)) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the bytes go.

        Raises
        ------
        OSError
            The file was truncated since it was opened.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        view = memoryview(buffer).cast("B")[: max(0, self.size - self._position)]
        filled = 0
        while filled < len(view):
            if (held := self._position - self._held_from) >= 0:
                piece = self._held[held : held + len(view) - filled]
                view[filled : filled + len(piece)] = piece
                count = len(piece)
            else:
                count = _read_at(self._descriptor, view[filled : filled - held], self._start + self._position)
            if count == 0:
                raise OSError(errno.EIO, "the file was truncated while being read")
            filled += count
            self._position += count
        return filled


def _read_at(descriptor: int, view: memoryview, position: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], position)
    os.lseek(descriptor, position, os.SEEK_SET)  # Windows; no two threads read one bundle's files at a time
    piece = os.read(descriptor, len(view))
    view[: len(piece)] = piece
    return len(piece)


@dataclass(frozen=True, slots=True)
class BagFiles:
    """The usable files of a bag by name, all names that there are, findings, and a zip file's top directory."""

    files: Mapping[str, FileSlice]
    findings: tuple[Finding, ...]
    names: Collection[str] = ()
    base: str | None = None


@contextmanager
def open_bag(path: Path, *, required: Mapping[str, int], optional: Mapping[str, int]) -> Iterator[BagFiles]:
    """Open the files of a bag.

    Parameters
    ----------
    path : Path
        A directory, or a zip file.
    required, optional : mapping of str to int
        The names that a bag must have and may have, with the most bytes of each.

    Yields
    ------
    BagFiles
        Open until the end of the block.

    Raises
    ------
    BundleUnreadable
        The path is neither a directory nor a zip file.
    OSError
        The file system refused.
    """
    with ExitStack() as stack:
        if os.path.isdir(path):  # unlike Path.is_dir, never an error: a name may be too long  # noqa: PTH112
            yield _open_directory(path, required, optional, stack)
        elif os.path.isfile(path):  # noqa: PTH113
            yield _open_archive(path, required, optional, stack)
        else:
            found = "something else" if os.path.lexists(path) else "nothing"
            raise BundleUnreadable(
                f"{quoted(os.fspath(path))}: expected a bundle, which is a directory or a zip file; found {found}"
            )


def _open(path: str | Path, flags: int, directory: int | None, stack: ExitStack) -> tuple[int, os.stat_result]:
    descriptor = os.open(path, _FLAGS | flags, dir_fd=directory)
    stack.callback(os.close, descriptor)
    return descriptor, os.fstat(descriptor)


def _has_hole(descriptor: int, size: int) -> bool:
    """Whether a large file has a hole: bytes that take no place on the disk. What is compressed has none."""
    if size < _LARGE_BYTES or not hasattr(os, "SEEK_HOLE"):  # not on Windows
        return False
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < size
    except OSError:  # the file system cannot tell
        return False


def _open_directory(bag: Path, required: Mapping[str, int], optional: Mapping[str, int], stack: ExitStack) -> BagFiles:
    known = {**required, **optional}
    findings: list[Finding] = []
    files: dict[str, FileSlice] = {}
    seen: set[str] = set()
    directories = {name.split("/")[0] for name in known if "/" in name}
    for relative, path, directory in _entries(bag, directories, findings, stack):
        seen.add(relative)
        before = os.stat(path, dir_fd=directory, follow_symlinks=False)
        if relative not in known:
            expected = _alike(relative, [*known, *directories])
            findings.append(Finding("unexpected", relative, expected, _kind(before.st_mode)))
        elif not stat.S_ISREG(before.st_mode):
            findings.append(Finding("not-a-file", relative, "a regular file", _kind(before.st_mode)))
        else:
            try:
                descriptor, after = _open(path, _NO_LINK, directory, stack)
            except OSError as error:
                if error.errno not in _SWAPPED:
                    raise
                after = None
            if after is None or not stat.S_ISREG(after.st_mode) or not os.path.samestat(before, after):
                findings.append(
                    Finding("not-a-file", relative, "the file that was there a moment ago", "a different file")
                )
            elif after.st_nlink > 1:  # through its other name it could change at any time, unseen
                found = f"a file with {after.st_nlink} hard links"
                findings.append(Finding("linked", relative, "a file with one name", found))
            elif after.st_size > known[relative]:
                expected = f"at most {known[relative]:,} bytes"
                findings.append(Finding("too-large", relative, expected, f"{after.st_size:,} bytes"))
            elif _has_hole(descriptor, after.st_size):
                findings.append(Finding("too-large", relative, _WITHOUT_HOLES, f"{after.st_size:,} bytes with holes"))
            else:
                files[relative] = stack.enter_context(FileSlice(descriptor, 0, after.st_size))
    findings += [Finding("missing", name, "a file", "nothing") for name in sorted(required.keys() - seen)]
    return BagFiles(files, tuple(findings), seen)


def _entries(
    bag: Path, directories: set[str], findings: list[Finding], stack: ExitStack
) -> Iterator[tuple[str, str, int | None]]:
    """The entries of a bag and of its own directories: the name relative to the bag, the path, and the open parent.

    Directories are held open, and entries are opened relative to them: nobody can put another directory in their place.
    """
    pending: list[tuple[str, str, int | None]] = [("", os.fspath(bag), None)]
    while pending:
        prefix, path, parent = pending.pop()
        held = None
        if _HOLDS_DIRECTORIES:
            try:  # the caller's own path may be a link
                held, _ = _open(path, os.O_DIRECTORY | (_NO_LINK if prefix else 0), parent, stack)
            except OSError as error:
                if not prefix or error.errno not in _SWAPPED:
                    raise
                expected = "the directory that was there a moment ago"
                findings.append(Finding("not-a-file", prefix.rstrip("/"), expected, "a different one"))
                continue
        with os.scandir(path if held is None else held) as scan:
            entries = list(islice(scan, MOST_ENTRIES + 1))
        if len(entries) > MOST_ENTRIES:
            findings.append(Finding("too-many", prefix or ".", f"at most {MOST_ENTRIES:,} entries", "more"))
        for entry in sorted(entries[:MOST_ENTRIES], key=lambda entry: entry.name):
            relative = f"{prefix}{entry.name}"
            if relative in directories and entry.is_dir(follow_symlinks=False):
                pending.append((f"{relative}/", entry.path, held))
            else:
                yield relative, entry.path, held  # the path is the bare name if its directory is held open


def _alike(name: str, known: Iterable[str]) -> str:
    """What to expect instead of an unknown name: the known name that it folds to, or nothing."""

    def folded(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold()

    same = [other for other in known if folded(other) == folded(name)]
    return f"{same[0]}, spelled exactly like that" if same else "no file of that name"


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a pipe"),
    )
    return next((name for test, name in kinds if test(mode)), "a special file")


def _open_archive(path: Path, required: Mapping[str, int], optional: Mapping[str, int], stack: ExitStack) -> BagFiles:
    descriptor, status = _open(path, 0, None, stack)  # the caller's own path may be a link
    archive = stack.enter_context(FileSlice(descriptor, 0, status.st_size))
    # A file named .zip that does not begin like one is a damaged bundle, not another kind of file.
    if archive.read(4) != b"PK\x03\x04" and path.suffix != ".zip":
        raise BundleUnreadable(
            f"{quoted(os.fspath(path))}: expected a bundle, which is a directory or a zip file; found another file"
        )
    if _has_hole(descriptor, status.st_size):
        found = f"{status.st_size:,} bytes with holes"
        return BagFiles({}, (Finding("too-large", path.name, _WITHOUT_HOLES, found),))
    known = {**required, **optional}
    base, members, findings = read_archive(archive, path.name)
    files: dict[str, FileSlice] = {}
    for member in members:
        if problem := _problem(member, known):
            findings.append(problem)
        else:
            files[member.name] = stack.enter_context(FileSlice(descriptor, member.start, member.size))
    seen = {member.name for member in members}
    if not findings:
        findings += [Finding("missing", name, "a file", "nothing") for name in sorted(required.keys() - seen)]
    return BagFiles({} if findings else files, tuple(findings), seen, base)


def _problem(member: Member, known: Mapping[str, int]) -> Finding | None:
    if member.name not in known:
        return Finding("unexpected", member.name, _alike(member.name, known), "a file")
    if member.size > known[member.name]:
        return Finding("too-large", member.name, f"at most {known[member.name]:,} bytes", f"{member.size:,} bytes")
    return None
