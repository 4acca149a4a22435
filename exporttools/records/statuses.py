"""Which steps failed: the one rule on what a step's ``status`` means."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

FAILED_STATUSES: frozenset[str] = frozenset({"error", "failed", "failure", "timeout"})
"""The values of ``status`` that mean a step failed."""


def failed_steps(statuses: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return whether each step failed, judging by its status. Never NULL.

    Examples
    --------
    >>> failed_steps(pa.array(["ok", "timeout", None])).to_pylist()
    [False, True, False]
    """
    return pc.is_in(statuses, _failed_statuses())


def _failed_statuses() -> pa.Array:
    # Not at import: pyarrow loads pandas when it makes an array from a list, and importing this room must not.
    return pa.array(sorted(FAILED_STATUSES), pa.string())
