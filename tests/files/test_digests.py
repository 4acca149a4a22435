"""The content digest: equal for equal rows whatever wrote them, and for no others; and a digest of files."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporttools import ConfigError, InconsistentData
from exporttools.files.digests import ContentDigest, combined_digest, file_sha256, table_digest

TIME = pa.timestamp("us", tz="UTC")
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def independent_digest(name: str, table: pa.Table) -> str:
    """The content digest as docs tell it: numpy and hashlib, row values as Python objects."""
    kinds = {"string": "string", "int64": "int64", "double": "float64", "timestamp[us, tz=UTC]": "timestamp"}
    columns = []
    for field in table.schema:
        values, kind = table[field.name].to_pylist(), kinds[str(field.type)]
        parts = [bytes(value is not None for value in values)]
        if kind == "string":
            texts = [(value or "").encode() for value in values]
            parts += [b"".join(texts), np.array([len(text) for text in texts], "<i8").tobytes()]
        elif kind == "float64":
            parts += [(np.array([value or 0.0 for value in values], "<f8") + 0.0).tobytes()]
        elif kind == "timestamp":
            since = [EPOCH if value is None else value for value in values]
            parts += [np.array([(value - EPOCH) // dt.timedelta(microseconds=1) for value in since], "<i8").tobytes()]
        else:
            parts += [np.array([value or 0 for value in values], "<i8").tobytes()]
        columns.append([field.name, kind, *(hashlib.sha256(part).hexdigest() for part in parts)])
    text = json.dumps([name, table.num_rows, columns], separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    TIME: st.datetimes(timezones=st.just(dt.UTC)),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(0, 5))
    names = draw(st.lists(st.text(), min_size=1, max_size=4, unique=True))
    columns = {}
    for name in names:
        kind = draw(st.sampled_from(list(VALUES)))
        columns[name] = pa.array(draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


@given(st.text(), tables())
def test_the_digest_is_what_docs_tell(name: str, table: pa.Table) -> None:
    assert table_digest(name, table) == independent_digest(name, table)


@given(tables(), st.lists(st.integers(0, 5)))
def test_chunks_do_not_matter(table: pa.Table, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    chunked = pa.concat_tables([table.slice(i, j - i) for i, j in itertools.pairwise(edges)])
    assert table_digest("t", chunked) == table_digest("t", table)


@given(tables(), st.integers(0, 4), st.integers(0, 5))
def test_a_slice_is_its_rows_alone(table: pa.Table, offset: int, length: int) -> None:
    part = table.slice(offset, length)
    copied = pa.Table.from_pylist(part.to_pylist(), schema=part.schema)
    assert table_digest("t", part) == table_digest("t", copied)


@settings(deadline=None)
@given(tables())
def test_parquet_read_by_duckdb_has_the_same_digest(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> None:
    names = [f"c{i}" for i in range(table.num_columns)]  # DuckDB would change some of the names
    path = tmp_path_factory.mktemp("d") / "t.parquet"
    renamed = table.rename_columns(names)
    pq.write_table(renamed, path, compression="zstd", row_group_size=2)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")  # DuckDB gives times in the session's zone
        read = connection.sql(f"from '{path}'").to_arrow_table()
    assert read.schema.types == renamed.schema.types
    assert table_digest("t", read) == table_digest("t", renamed)


def _one(kind: pa.DataType, *values: object) -> str:
    return table_digest("t", pa.table({"x": pa.array(values, kind)}))


def test_a_golden_digest() -> None:
    rows = pa.table({
        "s": pa.array(["", "é", None]), "i": pa.array([-1, None, 2**63 - 1]), "f": pa.array([-0.0, 1.5, None]),
        "t": pa.array([EPOCH, None, dt.datetime(9999, 12, 31, tzinfo=dt.UTC)], TIME),
    })  # fmt: skip
    assert table_digest("golden", rows) == "1943fafcdf5035c03a46fbc8894aafbaeeab877a1d15e4d303c0020ac76e6ea7"


def test_rows_in_another_order_are_another_content() -> None:
    for kind, values in (
        (pa.int64(), (1, 2)),
        (pa.string(), ("a", "b")),
        (pa.float64(), (1.0, 2.0)),
        (pa.int64(), (None, 0)),
    ):
        assert _one(kind, *values) != _one(kind, *reversed(values))


def test_names_types_and_table_are_part_of_it() -> None:
    zeros = [
        table_digest(table, pa.table({name: pa.array([None], kind)}))
        for table in ("t", "u") for name in ("x", "y") for kind in VALUES
    ]  # fmt: skip
    assert len(set(zeros)) == len(zeros)
    a, b = pa.array([1]), pa.array([2])
    assert table_digest("t", pa.table({"x": a, "y": b})) != table_digest("t", pa.table({"y": b, "x": a}))


def test_null_is_neither_zero_nor_empty() -> None:
    assert _one(pa.string(), None) != _one(pa.string(), "")
    assert _one(pa.int64(), None) != _one(pa.int64(), 0)
    assert _one(pa.float64(), None) != _one(pa.float64(), 0.0)


def test_text_does_not_flow_from_row_to_row() -> None:
    assert _one(pa.string(), "ab", "c") != _one(pa.string(), "a", "bc")
    assert _one(pa.string(), "", "a") != _one(pa.string(), "a", "")


def test_minus_zero_is_zero_and_infinity_is_a_number() -> None:
    assert _one(pa.float64(), -0.0, None) == _one(pa.float64(), 0.0, None)
    assert _one(pa.float64(), float("inf")) != _one(pa.float64(), float("-inf"))


def test_metadata_and_nullability_are_no_content() -> None:
    plain = pa.table({"x": [1, 2]})
    told = plain.cast(
        pa.schema([pa.field("x", pa.int64(), nullable=False, metadata={"unit": "ms"})])
    ).replace_schema_metadata({"a": "b"})
    assert table_digest("t", plain) == table_digest("t", told)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), TIME])
def test_what_lies_under_a_null_does_not_matter(kind: pa.DataType) -> None:
    validity = pa.py_buffer(b"\x05")  # rows 0 and 2
    garbage = np.array([1.0, np.nan, 3.0], "<f8")
    values = garbage if kind == pa.float64() else np.array([1, 77, 3], "<i8")
    array = pa.Array.from_buffers(kind, 3, [validity, pa.py_buffer(values.tobytes())])
    clean = pa.array(array.to_pylist(), kind)
    assert array.null_count == 1
    assert table_digest("t", pa.table({"x": array})) == table_digest("t", pa.table({"x": clean}))


def test_text_under_a_null_does_not_matter() -> None:
    offsets = pa.py_buffer(np.array([0, 1, 8, 9], "<i4").tobytes())
    array = pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"agarbageb"), pa.py_buffer(b"\x05"))
    assert array.to_pylist() == ["a", None, "b"]
    for offset in range(3):
        garbage = pa.table({"x": array[offset:]})
        clean = pa.table({"x": pa.array(["a", None, "b"][offset:])})
        assert table_digest("t", garbage) == table_digest("t", clean)


def test_nan_is_refused_and_its_row_named() -> None:
    schema = pa.schema([("x", pa.float64())])
    digest = ContentDigest("t", schema)
    digest.update(pa.record_batch([pa.array([1.0, None])], schema))
    with pytest.raises(InconsistentData, match=r"^t: row 3 has x = nan; expected a number$") as caught:
        digest.update(pa.record_batch([pa.array([None, float("nan")])], schema))
    assert (caught.value.table, caught.value.key, caught.value.column) == ("t", "row 3", "x")


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.large_string(), pa.timestamp("us"), pa.timestamp("us", "Europe/Paris"), pa.bool_()]
)
def test_other_types_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(ConfigError) as caught:
        ContentDigest("t", pa.schema([("x", kind)]))
    accepted = "string, int64, double, timestamp[us, tz=UTC]"
    assert str(caught.value) == f"column 'x' is of type {kind}, which has no content digest; expected one of {accepted}"


@pytest.mark.parametrize(
    "other",
    [
        pa.record_batch({"y": pa.array([1]), "x": pa.array(["a"])}),
        pa.record_batch({"x": pa.array(["a"], pa.large_string()), "y": pa.array([1])}),
        pa.record_batch({"x": pa.array(["a"])}),
    ],
)
def test_a_batch_of_other_columns_is_refused(other: pa.RecordBatch) -> None:
    digest = ContentDigest("t", pa.schema([("x", pa.string()), ("y", pa.int64())]))
    with pytest.raises(ConfigError, match="^t: expected rows of x: string, y: int64; found "):
        digest.update(other)
    assert digest.rows == 0


def test_rows_are_counted_while_they_come() -> None:
    digest = ContentDigest("t", pa.schema([("x", pa.int64())]))
    seen = {digest.hexdigest()}
    for rows in range(1, 4):
        digest.update(pa.record_batch({"x": pa.array([0])}))
        assert digest.rows == rows
        seen.add(digest.hexdigest())
    assert len(seen) == 4


def test_several_tables_have_a_digest_in_their_order() -> None:
    assert combined_digest(["a", "b"]) == hashlib.sha256(b'["a","b"]').hexdigest()
    assert combined_digest(["a", "b"]) != combined_digest(["b", "a"])


def test_a_files_digest(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
