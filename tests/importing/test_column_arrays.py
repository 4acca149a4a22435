"""Arrays as pyarrow makes them, without pandas."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.importing.column_arrays import array_of, positions

_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.timestamp("us", tz="UTC"): st.integers(-(2**62), 2**62),
    pa.date32(): st.integers(-(2**31), 2**31 - 1),
}


@pytest.mark.parametrize("type_", _VALUES, ids=str)
@given(data=st.data())
def test_arrays_are_as_pyarrow_makes_them(type_: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | _VALUES[type_]))
    made = array_of(values, type_)
    made.validate(full=True)
    assert made.equals(pa.array(values, type_))
    assert made.null_count == values.count(None)


def test_positions_take_rows() -> None:
    assert array_of(["a", "b"], pa.string()).take(positions(np.array([1, 1, 0]))).to_pylist() == ["b", "b", "a"]


def test_an_import_does_not_need_pandas(tmp_path: Any) -> None:
    """Which would take half a second, and 60 MB."""
    (tmp_path / "s.jsonl").write_text(
        '{"type": "user", "sessionId": "s", "timestamp": "2026-08-01T12:00:00Z", "message": {"content": "go"}}\n'
    )
    code = f"import sys, exporttools; exporttools.read_traces({str(tmp_path)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "polars", "matplotlib", "psycopg", "adbc_driver_manager"} & set(done.stdout.split())
