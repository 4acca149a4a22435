"""One DEBUG record for each read: its name, its rows and its milliseconds, never a value. Reads nothing itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import closing
from types import TracebackType

import pyarrow as pa

logger = logging.getLogger("exporttools")


class ReadLog:
    """Logs a read when the block ends, whether it came to its end, failed or was stopped.

    Parameters
    ----------
    read : str
        The read's name, such as ``list runs``: what is done and with which records, and no value.

    Attributes
    ----------
    rows : int
        How many rows were read so far, or counted.
    """

    def __init__(self, read: str) -> None:
        self._read = read
        self.rows = 0
        self._seconds = 0.0
        self._since: float | None = None

    def __enter__(self) -> ReadLog:
        self.resume()
        return self

    def pause(self) -> None:
        """Leave out the time until :meth:`resume`, which is the caller's."""
        if self._since is not None:
            self._seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._since = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pause()
        end = "" if kind is None else " (stopped early)" if kind is GeneratorExit else " (failed)"
        logger.debug("%s: rows=%d ms=%.1f%s", self._read, self.rows, 1000 * self._seconds, end)


def logged_batches(read: str, batches: Generator[pa.RecordBatch, None, None]) -> Generator[pa.RecordBatch, None, None]:
    """The batches as they are; logs them when they end, with the time that they took and not their caller's."""
    with ReadLog(read) as log, closing(batches):
        for batch in batches:
            log.rows += batch.num_rows
            log.pause()
            yield batch
            log.resume()
