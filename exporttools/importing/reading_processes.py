"""Several files at a time, by processes that do nothing else: in one process, Python reads one line after another.

They run this package's code only: not the user's script once more, as those of ``multiprocessing`` may, and no copy of this
process with its threads and locks. One that ends too early is an error; where none can be started, this process reads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, cast

import exporttools
from exporttools.errors import TraceImportError
from exporttools.importing.file_extracts import READY, Extract, answered, order, read_found
from exporttools.importing.source_files import SourceFile
from exporttools.text.inert import one_line

Found = tuple[SourceFile, bool]
"""A file to read, and whether it was named."""

_MOST_PROCESSES = 4
_BYTES_FOR_A_PROCESS = 16 << 20
"""From how much on it pays to start one: that takes as long as reading a tenth of this."""
_BYTES_AT_ONCE = 2 << 20

_MAIN = """
import sys
sys.path[:] = sys.argv[1:]
from exporttools.importing.file_extracts import main
main()
"""


def read_files(files: Iterable[Found], format_name: str | None) -> Iterator[tuple[SourceFile, Extract | None]]:
    """Read files, in any order.

    Parameters
    ----------
    files : iterable of (SourceFile, bool)
    format_name : str or None
        See :func:`exporttools.importing.file_extracts.read_found`.

    Yields
    ------
    SourceFile
    Extract or None
        None for a file that is to be skipped.

    Raises
    ------
    TraceImportError
        A file that was named cannot be read or is not of the format, or a process has ended too early.
    """
    files = sorted(files, key=lambda found: -found[0].size_bytes)  # so that the last to be waited for are small
    worthwhile = sum(file.size_bytes for file, _ in files) // _BYTES_FOR_A_PROCESS
    processes = min(_processors(), _MOST_PROCESSES, worthwhile)
    if processes > 1:
        yield from _Readers(files, format_name, processes).results()
    else:
        yield from _read_here(files, format_name, with_reads=worthwhile < 2)


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return (os.cpu_count() or 1) if affinity is None else len(affinity(0))


def _read_here(
    files: Iterable[Found], format_name: str | None, *, with_reads: bool = False
) -> Iterator[tuple[SourceFile, Extract | None]]:
    for file, named in files:
        read = read_found(file, format_name, named=named)
        yield file, None if read is None else Extract.of(read, with_read=with_reads)


class _Readers:
    """Processes that read files, and for each of them a thread that waits for its answers."""

    def __init__(self, files: Iterable[Found], format_name: str | None, processes: int) -> None:
        self._left, self._format_name, self._count = deque(files), format_name, processes
        self._results: SimpleQueue[tuple[SourceFile, Extract | None] | BaseException | None] = SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []

    def results(self) -> Iterator[tuple[SourceFile, Extract | None]]:
        threads = [threading.Thread(target=self._attend, daemon=True) for _ in range(self._count)]
        for thread in threads:
            thread.start()
        running = len(threads)
        try:
            while running:
                result = self._results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    running -= 1
                else:
                    yield result
        finally:
            self._left.clear()
            for process in self._processes:
                process.kill()
            for thread in threads:
                thread.join()

    def _attend(self) -> None:
        """Have a process read, a few files at a time, until none are left."""
        try:
            process = _started()
            if process is None:
                while some := self._some():
                    for result in _read_here(some, self._format_name):
                        self._results.put(result)
            else:
                self._processes.append(process)
                with process:
                    while some := self._some():
                        self._have_read(process, some)
            self._results.put(None)
        except BaseException as error:  # noqa: BLE001  # raised by whoever takes the results
            self._results.put(error)

    def _some(self) -> list[Found]:
        some: list[Found] = []
        size_bytes = 0
        try:
            while size_bytes < _BYTES_AT_ONCE:
                some.append(self._left.popleft())
                size_bytes += some[-1][0].size_bytes
        except IndexError:
            pass
        return some

    def _have_read(self, process: subprocess.Popen[bytes], files: list[Found]) -> None:
        orders, path = cast("BinaryIO", process.stdin), files[0][0].path
        try:
            orders.write(order(files, self._format_name))
            orders.flush()
            for file, _ in files:
                path = file.path
                self._results.put((file, answered(cast("BinaryIO", process.stdout))))
        except (EOFError, OSError):
            process.kill()
            with suppress(OSError):  # what it was not told any more
                orders.close()
            raise TraceImportError(
                f"{one_line(path)}: the process that was reading it has ended, with exit code {process.wait()}, and nothing "
                "was imported; expected an answer. Is there enough memory?"
            ) from None


def _started() -> subprocess.Popen[bytes] | None:
    """A process that is ready; None where there can be none: this program may not be run by a Python of its own."""
    if getattr(sys, "frozen", False) or "python" not in Path(sys.executable or "").name.lower():
        return None
    room = str(Path(exporttools.__path__[0]).parent)
    try:
        process = subprocess.Popen(  # noqa: S603  # this very Python, with the package's own code
            [sys.executable, "-I", "-S", "-c", _MAIN, room, *map(str, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    except OSError:
        return None
    if cast("BinaryIO", process.stdout).readline() == READY:
        return process
    with process:
        process.kill()
    return None
