"""Which values of a status mean that a step failed."""

from __future__ import annotations

import pyarrow as pa
import pytest

from exporttools.records.statuses import FAILED_STATUSES, failed_steps

STATUSES = ["error", "ok", None, "failed", "failure", "timeout", "", "Error", "errors", "running"]
FAILED = [True, False, False, True, True, True, False, False, False, False]


@pytest.mark.parametrize("statuses", [pa.array(STATUSES), pa.chunked_array([STATUSES[:3], STATUSES[3:]])])
def test_failed_steps(statuses: pa.Array | pa.ChunkedArray) -> None:
    found = failed_steps(statuses)
    assert found.to_pylist() == FAILED
    assert found.null_count == 0


def test_no_step_and_no_status() -> None:
    assert failed_steps(pa.array([], pa.string())).to_pylist() == []
    assert failed_steps(pa.nulls(2, pa.string())).to_pylist() == [False, False]


def test_the_failed_statuses() -> None:
    assert sorted(FAILED_STATUSES) == ["error", "failed", "failure", "timeout"]
