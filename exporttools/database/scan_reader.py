"""What a scan returns: a ``pyarrow.RecordBatchReader`` that keeps our errors and ends the read when it is closed.

pyarrow has two readers of Python's batches. One keeps the errors' types, but closing it does not end the iterator behind
it, nor give its connection back; the other goes through Arrow's C stream, which carries an error's text alone. This one
reads Arrow's IPC stream, which is written as it is read: for one copy in memory it has both. It knows no database.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

import pyarrow as pa

_Keep = Callable[[BaseException], None]


class ScanReader(pa.RecordBatchStreamReader):  # type: ignore[misc]
    """A RecordBatchReader over batches that may fail, or be given up, midway.

    Whatever reads it in pyarrow (iteration, ``read_all``, ``cast``, ``pyarrow.dataset.write_dataset``) raises the error of
    the batches itself. A library that takes it through Arrow's C stream raises an error of its own that repeats ours, and
    leaving a ``with`` block then raises ours in its place.

    Parameters
    ----------
    schema : pyarrow.Schema
        That of every batch.
    batches : generator of pyarrow.RecordBatch
        Closed with the reader.

    Examples
    --------
    >>> schema = pa.schema({"tokens": pa.int64()})
    >>> rows = pa.RecordBatch.from_pylist([{"tokens": 7}], schema=schema)
    >>> with ScanReader(schema, (batch for batch in [rows])) as reader:
    ...     reader.read_all().to_pylist()
    [{'tokens': 7}]
    """

    def __init__(self, schema: pa.Schema, batches: Generator[pa.RecordBatch, None, None]) -> None:
        self._fault: BaseException | None = None
        self._stream = _Stream(schema, batches, weakref.WeakMethod(self._keep))
        super().__init__(pa.PythonFile(self._stream, mode="r"))

    def close(self) -> None:
        """End the read, and release its connection at once."""
        self._stream.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        fault, self._fault = self._fault, None
        if fault is not None and error is not fault and isinstance(error, Exception) and str(fault) in str(error):
            raise fault

    def _keep(self, fault: BaseException) -> None:
        self._fault = fault


class _Stream:
    """The batches as an IPC stream that can be read once: a file, as pyarrow knows it.

    It tells the reader of an error, and does not hold it: pyarrow holds the stream where Python's garbage collector does
    not see it, and the error's traceback holds the reader.
    """

    def __init__(
        self, schema: pa.Schema, batches: Generator[pa.RecordBatch, None, None], keep: Callable[[], _Keep | None]
    ) -> None:
        self.closed = False
        self._batches, self._keep = batches, keep
        self._unread: Any = schema.serialize()

    def read(self, size: int) -> Any:
        if self.closed:  # an error closes it too: a stream that only ended would be taken for whole
            raise pa.ArrowInvalid("the scan is closed; begin a new one")
        if self._unread.size == 0:
            batch = self._next_batch()
            if batch is None:
                return b""
            self._unread = batch.serialize()
        size = min(size, self._unread.size)
        piece, self._unread = self._unread.slice(0, size), self._unread.slice(size)
        return piece

    def _next_batch(self) -> pa.RecordBatch | None:
        try:
            return next(self._batches, None)
        except BaseException as error:
            self.closed = True
            if (keep := self._keep()) is not None:
                keep(error)
            raise

    def close(self) -> None:
        self.closed = True
        self._batches.close()
