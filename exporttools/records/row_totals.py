"""A table's totals, computed batch by batch: row count, digest, exact sums, failed rows, first and last time.

Only one batch is in memory, so that a bundle of any size can be checked; but which steps are parts of which shows only when all
are there, so that of steps that may be, their place and amounts are kept: some 50 bytes a step, and four times that for a moment,
when the sums are asked for. No file may come in here, and no rule for single values: the rows have already passed
:func:`exporttools.records.validity.require_valid`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import InconsistentData
from exporttools.files.digests import ContentDigest
from exporttools.records.exact_sums import BATCH_ROWS, ExactSum, exact_sum
from exporttools.records.roll_ups import PLACE, RollUps, count_once, find_roll_ups
from exporttools.records.schema import ARROW_TYPES, RecordType
from exporttools.records.statuses import failed_in_format_1, failed_steps


class RowTotals:
    """The totals of one table's rows.

    Parameters
    ----------
    record_type : RecordType
        The type of the rows.
    schema : pyarrow.Schema
        The record type's columns, then any extra columns.

    Examples
    --------
    >>> from exporttools import RunSnapshot
    >>> rows = RunSnapshot(run_id="r1", tenant_id="acme", total_cost_cents=12).to_arrow()
    >>> totals = RowTotals(RunSnapshot.RECORD_TYPE, rows.schema)
    >>> for batch in rows.to_batches():
    ...     totals.update(batch)
    >>> totals.rows, dict(totals.sums), totals.failed, totals.time_range
    (1, {'total_cost_cents': 12}, 0, None)
    """

    def __init__(self, record_type: RecordType, schema: pa.Schema) -> None:
        parent = schema.field("parent_step_index").type if "parent_step_index" in schema.names else None
        types = {column.name: column.type for column in record_type.columns}
        self._digest = ContentDigest(record_type.table, schema)
        self._sums = {c.name: ExactSum(ARROW_TYPES[c.type]) for c in record_type.columns if c.additive}
        # Text keys are not compared: databases sort text in different ways, and such a table has at most one row in a bundle.
        self._key = record_type.key[0] if [types[name] for name in record_type.key] == ["int64"] else None
        self._last_key: int | None = None
        self._has_status = "status" in types
        self._has_time = "timestamp" in types
        self._nulls = dict.fromkeys(schema.names, 0)
        # Which steps are parts of which shows only when all are there.
        self._tree_columns = (
            [name for name in (*PLACE, *self._sums) if name in schema.names] if parent == pa.int64() else []
        )
        self._placed: list[pa.RecordBatch] = []
        self._roll_ups: tuple[int, RollUps | None] | None = None
        self._failed = 0
        self._failed_in_format_1 = 0
        self._time_range: tuple[dt.datetime, dt.datetime] | None = None

    @classmethod
    def of(cls, record_type: RecordType, table: pa.Table) -> RowTotals:
        """Compute the totals of a whole table.

        Raises
        ------
        ConfigError, InconsistentData
            See :meth:`update`.
        """
        totals = cls(record_type, table.schema)
        for batch in table.to_batches(max_chunksize=BATCH_ROWS):
            totals.update(batch)
        return totals

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows, in key order. After an error the totals are invalid.

        Raises
        ------
        ConfigError
            The batch's columns differ from the schema.
        InconsistentData
            A float is NaN, or an integer key is not greater than the one before it.
        """
        self._digest.update(batch)
        if not batch.num_rows:
            return
        if self._key is not None:
            self._require_ascending(self._key, batch[self._key])
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._nulls[name] += column.null_count
        for name, total in self._sums.items():
            total.add(batch[name])
        if self._tree_columns:
            self._placed.append(batch.select(self._tree_columns))
        if self._has_status:
            self._failed += pc.sum(failed_steps(batch["status"])).as_py()
            self._failed_in_format_1 += pc.sum(failed_in_format_1(batch["status"])).as_py()
        if self._has_time:
            extent = pc.min_max(batch["timestamp"])
            found = [extent[end].as_py().replace(tzinfo=dt.UTC) for end in ("min", "max")]
            known = self._time_range or found
            self._time_range = min(known[0], found[0]), max(known[1], found[1])

    def _require_ascending(self, key: str, values: pa.Array) -> None:
        if (step_back := first_step_back(values, after=self._last_key)) is not None:
            _, before, found = step_back
            table = self._digest.table
            raise InconsistentData(
                f"{table}: row {key}={found} has {key} = {found} after {before}; expected strictly ascending order",
                table=table, key=f"{key}={found}", column=key,
            )  # fmt: skip
        self._last_key = values[-1].as_py()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self._digest.rows

    @property
    def content_digest(self) -> str:
        """The table's content digest (see :mod:`exporttools.files.digests`), in lower-case hexadecimal."""
        return self._digest.hexdigest()

    @property
    def sums(self) -> Mapping[str, int | float]:
        """The exact sum of each additive column as recorded, in its unit; see :class:`ExactSum`. NULLs count as zero."""
        return MappingProxyType({name: total.value for name, total in self._sums.items()})

    @property
    def own_sums(self) -> Mapping[str, int | float]:
        """The sums in which each cent, token and millisecond counts once; see :func:`find_roll_ups`."""
        found, sums = self._found(), dict(self.sums)
        if found is None:
            return MappingProxyType(sums)
        own = count_once(pa.Table.from_batches(self._placed), found)
        return MappingProxyType(sums | {name: exact_sum(own[name]) for name in found.left_out if name in sums})

    @property
    def rolled_up(self) -> Mapping[str, int | float]:
        """What :attr:`own_sums` leaves out: the sum of each amount, of ``steps`` whose parts have it too; and how many steps
        are ``ambiguous`` and so counted whole.
        """
        found = self._found()
        left_out = {} if found is None else found.left_out
        sums = {
            name: exact_sum(pa.chunked_array([left_out[name]])) if name in left_out else type(total)(0)
            for name, total in self.sums.items()
        }
        counts = (0, 0) if found is None else (found.steps, found.ambiguous)
        return MappingProxyType({"steps": counts[0], "ambiguous": counts[1]} | sums)

    def _found(self) -> RollUps | None:
        """What steps repeat of their parts, among the rows so far."""
        if not self._placed:
            return None
        if self._roll_ups is None or self._roll_ups[0] != self.rows:
            self._roll_ups = self.rows, find_roll_ups(pa.Table.from_batches(self._placed))
        return self._roll_ups[1]

    @property
    def nulls(self) -> Mapping[str, int]:
        """The number of NULLs in each column, extra columns included."""
        return MappingProxyType(self._nulls)

    @property
    def failed(self) -> int:
        """The number of rows whose ``status`` says that they failed; 0 without such a column."""
        return self._failed

    @property
    def failed_in_format_1(self) -> int:
        """The same by the rule of bundles of format 1."""
        return self._failed_in_format_1

    @property
    def time_range(self) -> tuple[dt.datetime, dt.datetime] | None:
        """The earliest and the latest ``timestamp``; None without rows or without such a column."""
        return self._time_range


def first_step_back(keys: pa.Array | pa.ChunkedArray, *, after: int | None = None) -> tuple[int, int, int] | None:
    """Find where integer keys first fail to ascend strictly.

    Parameters
    ----------
    keys : pyarrow.Array or ChunkedArray
        Of type int64, without NULLs.
    after : int, optional
        The key before the first one.

    Returns
    -------
    tuple of int, or None
        The row, the key before it and its own key, or None if the keys ascend.

    Examples
    --------
    >>> first_step_back(pa.array([0, 4, 4])), first_step_back(pa.array([0, 4]), after=0)
    ((2, 4, 4), (0, 0, 0))
    """
    values = keys.to_numpy()
    if after is not None:
        values = np.concatenate([[after], values])
    back = values[1:] <= values[:-1]  # no subtraction, which may overflow
    if not back.any():
        return None
    i = int(back.argmax())
    return i + (after is None), int(values[i]), int(values[i + 1])
