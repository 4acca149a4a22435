"""One file, one meaning: what readers could read in different ways is refused, and what is accepted all of them read alike."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import fastparquet
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from exporttools import SnapshotTable, TraceStepSnapshot
from exporttools.bundle.thrift import BINARY, BOOL, I32, I64, LIST, STRUCT, Fields, decode, encode
from exporttools.records.schema import TRACE_STEPS
from tests.bundle.format_1_files import written_in_format_1
from tests.bundle.parquet_files import crafted, framed, hashes, many_steps, page, read, refused, written

STEPS = many_steps(
    300,
    status=pa.array(["error" if i % 23 == 5 else "ok" for i in range(300)]),
    content_hash=hashes(300),
    model=pa.array(["small", None, "large"] * 100),
    seen=pa.array([None, 1_790_000_000_000_000, -5] * 100).cast(pa.timestamp("us", "UTC")),
    weight=pa.array([None, -0.0, 1.5] * 100),
)


def split(octets: bytes) -> tuple[bytes, Fields]:
    """The pages of a file, with the magic number before them, and its footer."""
    start = len(octets) - 8 - int.from_bytes(octets[-8:-4], "little")
    return octets[:start], decode(octets[start:])[0]


def column_of(footer: Fields, name: str, group: int = 0) -> Fields:
    """What a footer says of a column chunk (ColumnMetaData)."""
    chunks = footer[4][1][1][group][1][1][1]
    (found,) = (chunk[3][1] for chunk in chunks if chunk[3][1][3][1][1] == [name.encode()])
    assert isinstance(found, dict)
    return found


def element_of(footer: Fields, name: str) -> Fields:
    (found,) = (element for element in footer[2][1][1] if element[4][1] == name.encode())
    assert isinstance(found, dict)
    return found


def changed(change: Callable[[Fields], object], octets: bytes | None = None) -> bytes:
    """A file whose footer was changed."""
    pages, footer = split(written(STEPS) if octets is None else octets)
    change(footer)
    return framed(encode(footer), pages)


def says(name: str, **fields: tuple[int, Any]) -> Callable[[Fields], object]:
    return lambda footer: column_of(footer, name).update({int(number[1:]): value for number, value in fields.items()})


def statistics(low: bytes, high: bytes, nulls: int = 0) -> tuple[int, Fields]:
    return (STRUCT, {3: (I64, nulls), 5: (BINARY, high), 6: (BINARY, low), 7: (BOOL, True), 8: (BOOL, True)})


def key_value(key: bytes, value: bytes) -> Callable[[Fields], object]:
    return lambda footer: footer[5][1][1].append({1: (BINARY, key), 2: (BINARY, value)})


def other_unit(footer: Fields) -> None:
    footer[5][1][1][0][2] = (BINARY, footer[5][1][1][0][2][1].replace(b"US cents", b"US dollars"))


def with_gap(position: int | None) -> bytes:
    """120 kB that no reader reads: after the pages, or, with the offsets made right, before them."""
    pages, footer = split(written(STEPS))
    if position is None:
        return framed(encode(footer), pages + bytes(120_000))
    for chunk in footer[4][1][1][0][1][1][1]:
        for number in (9, 11):
            if number in chunk[3][1]:
                chunk[3][1][number] = (I64, chunk[3][1][number][1] + 120_000)
    footer[4][1][1][0][5] = (I64, 4 + 120_000)
    return framed(encode(footer), pages[:4] + bytes(120_000) + pages[4:])


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a dictionary beyond the data": (
        lambda: changed(says("tokens", _11=(I64, 4000))),
        "row group 0, column tokens: footer: meta_data.dictionary_page_offset: expected nothing; found 4,000"),
    "data elsewhere": (
        lambda: changed(says("tokens", _9=(I64, 4))), "row group 0, column tokens: footer: meta_data.data_page_offset: expected 1,289; found 4"),
    "a false minimum and maximum": (
        lambda: changed(says("status", _12=statistics(b"a", b"b"))), "row group 0, column status: footer: meta_data.statistics: expected nothing; found a struct of 5 fields"),
    "a false count of NULL": (
        lambda: changed(says("status", _12=(STRUCT, {3: (I64, 300)}))), "row group 0, column status: footer: meta_data.statistics: expected nothing"),
    "sizes that are not so": (
        lambda: changed(says("model", _16=(STRUCT, {1: (I64, 0)}))), "row group 0, column model: footer: meta_data.size_statistics: expected nothing"),
    "a decimal point": (
        lambda: changed(lambda footer: element_of(footer, "tokens").update({6: (I32, 5), 7: (I32, 2), 8: (I32, 18)})),
        "footer: schema[4].converted_type: expected nothing; found 5"),
    "a logical decimal point": (
        lambda: changed(lambda footer: element_of(footer, "tokens").update({10: (STRUCT, {5: (STRUCT, {1: (I32, 2), 2: (I32, 18)})})})),
        "footer: schema[4].logicalType: expected nothing; found a struct of 1 fields"),
    "milliseconds": (
        lambda: changed(lambda footer: element_of(footer, "timestamp").update({10: (STRUCT, {8: (STRUCT, {1: (BOOL, True), 2: (STRUCT, {1: (STRUCT, {})})})})})),
        "footer: schema[2].logicalType.TIMESTAMP.unit.field 1: expected nothing; found a struct of 0 fields"),
    "local time": (
        lambda: changed(lambda footer: element_of(footer, "timestamp").update({10: (STRUCT, {8: (STRUCT, {1: (BOOL, False), 2: (STRUCT, {2: (STRUCT, {})})})})})),
        "footer: schema[2].logicalType.TIMESTAMP.isAdjustedToUTC: expected true; found false"),
    "an unsigned number": (
        lambda: changed(lambda footer: element_of(footer, "tokens").update({6: (I32, 14)})), "footer: schema[4].converted_type: expected nothing; found 14"),
    "optional where it is not": (
        lambda: changed(lambda footer: element_of(footer, "tokens").update({3: (I32, 1)})), "footer: schema[4].repetition_type: expected 0; found 1"),
    "a field id": (
        lambda: changed(lambda footer: element_of(footer, "tokens").update({9: (I32, 4)})), "footer: schema[4].field_id: expected nothing; found 4"),
    "another unit": (
        lambda: changed(other_unit),
        'exporttools.columns: cost_cents: expected {"unit": "US cents", "meaning": "what the step cost"}; found {"unit": "US dollars", "meaning": "what the step cost"}'),
    "more metadata": (lambda: changed(key_value(b"note", b"x")), "footer: key_value_metadata[1]: expected nothing; found a struct of 2 fields"),
    "an Arrow schema": (lambda: changed(key_value(b"ARROW:schema", b"x")), "footer: key_value_metadata[1]: expected nothing"),
    "pandas metadata": (lambda: changed(key_value(b"pandas", b"{}")), "footer: key_value_metadata[1]: expected nothing"),
    "units twice": (lambda: changed(key_value(b"exporttools.columns", b"{}")), "exporttools.columns: step_index: expected "),
    "no metadata": (lambda: changed(lambda footer: footer.pop(5)), "exporttools.columns: step_index: expected "),
    "another writer": (
        lambda: changed(lambda footer: footer.update({6: (BINARY, b"parquet-mr version 1.8.0 (build 1)")})),
        "footer: created_by: expected 'exporttools-bundle version 2'; found 'parquet-mr version 1.8.0 (build 1)'"),
    "no order of columns": (lambda: changed(lambda footer: footer.pop(7)), "footer: column_orders: expected a list of 11; found nothing"),
    "sorted, it says": (
        lambda: changed(lambda footer: footer[4][1][1][0].update({4: (LIST, (STRUCT, [{1: (I32, 0), 2: (BOOL, True), 3: (BOOL, False)}]))})),
        "footer: row_groups[0].sorting_columns: expected nothing; found a list of 1"),
    "fewer rows": (
        lambda: changed(lambda footer: footer[4][1][1][0].update({3: (I64, 299)})), "row group 0, column step_index: pages of 300 values; expected 299"),
    "a row group twice": (
        lambda: changed(lambda footer: footer[4][1][1].append(footer[4][1][1][0])), "row group 1, column step_index: "),
    "two columns exchanged": (
        lambda: changed(lambda footer: footer[4][1][1][0][1][1][1].reverse()), "row group 0, column step_index: footer: meta_data.type: expected 2; found "),
    "120 kB before the footer": (lambda: with_gap(None), "120,000 bytes before the footer that belong to no page"),
    "120 kB before the pages": (lambda: with_gap(4), "row group 0, column step_index: a page of kind -1; expected data or a dictionary"),
    "a field that Parquet does not know": (
        lambda: changed(lambda footer: footer.update({77: (BINARY, b"x" * 100)})), "footer: field 77: expected nothing; found 'xxx"),
    "a text hidden in a dictionary": (
        lambda: crafted((2, {"status": page(b"\2\0\0\0ok\6\0\0\0hidden", 2, kind=2) + page(b"\1\4\0", 2, 8)})),
        "row group 0, column status: a dictionary of 2 texts of which only 1 are in rows"),
    "a text twice in a dictionary": (
        lambda: crafted((2, {"status": page(b"\2\0\0\0ok\2\0\0\0ok", 2, kind=2) + page(b"\1\3\2", 2, 8)})),
        "row group 0, column status: a dictionary with the same text twice"),
    "plain texts after indices": (
        lambda: crafted((4, {"status": page(b"\2\0\0\0ok", 1, kind=2) + page(b"\1\4\0", 2, 8) + page(b"\2\0\0\0ok" * 2, 2)})),
        "row group 0, column status: plain values after indices into a dictionary"),
    "bytes after texts": (
        lambda: crafted((2, {"status": page(b"\2\0\0\0ok\2\0\0\0okhidden", 2)})), "row group 0, column status: texts of 10 bytes; expected 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_promise_16_what_readers_could_read_otherwise_is_refused(name: str) -> None:
    make, message = ATTACKS[name]
    assert message in refused(make())


def test_a_changed_footer_is_the_only_reason() -> None:
    assert read(changed(lambda footer: None)).equals(STEPS.to_arrow())


def test_names_that_differ_only_in_case_are_neither_written_nor_read() -> None:
    """To SQL they are one name: DuckDB gives the first column for both."""
    more = many_steps(3, Tokens=pa.array([7, 8, 9]))
    message = "columns 'tokens' and 'Tokens'; expected names that differ in more than case"
    assert refused_by_the_writer(more) == message
    assert read(written_in_format_1(more), format_version=1).equals(more.to_arrow())


@pytest.mark.parametrize(
    "name", ["", "a\0b", "status\0", "__filename", "__fragment_index", "__batch_index", "__last_in_fragment"]
)
def test_names_that_a_reader_cannot_give_a_column_are_neither_written_nor_read(name: str) -> None:
    """DuckDB cuts a name at a NUL, so that it is another column's; pyarrow's datasets have columns of these names."""
    more = many_steps(3, **{name: pa.array([7, 8, 9])})
    assert (
        refused_by_the_writer(more) == f"a column called {name!r}; expected a name that every reader can give a column"
    )
    assert read(written_in_format_1(more), format_version=1).equals(more.to_arrow())


def refused_by_the_writer(table: SnapshotTable[Any]) -> str:
    with pytest.raises(ValueError) as caught:
        written(table)
    return str(caught.value)


# Accepted


def by_duckdb(path: Path, condition: str) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(f"from '{path}' where {condition}").to_arrow_table()


def by_fastparquet(path: Path, filters: list[Any]) -> pa.Table:
    with path.open("rb") as file:
        frame = fastparquet.ParquetFile(file).to_pandas(filters=filters, row_filter=bool(filters))
    for name in ("timestamp", "seen"):  # it gives UTC without saying so
        frame[name] = frame[name].dt.tz_localize("UTC")
    return pa.Table.from_pandas(frame, preserve_index=False)


@pytest.mark.parametrize("write", [written, written_in_format_1], ids=["format 2", "format 1"])
@pytest.mark.parametrize("value", [None, "error", "ok", "absent"])
def test_promise_16_four_readers_read_the_same_rows(
    write: Callable[[SnapshotTable[Any]], bytes], value: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(write(STEPS))
    ours = read(path.read_bytes(), format_version=2 if write is written else 1)
    expected = ours if value is None else ours.filter(pc.equal(ours["status"], value))
    filters: list[Any] = [] if value is None else [("status", "==", value)]
    lazy = pl.scan_parquet(path)
    found = {
        "pyarrow": pq.read_table(path, filters=filters or None),
        "duckdb": by_duckdb(path, "true" if value is None else f"status = '{value}'"),
        "polars": (lazy if value is None else lazy.filter(pl.col("status") == value)).collect().to_arrow(),
        "fastparquet": by_fastparquet(path, filters),
    }
    for reader, table in found.items():
        types = {field.name: field.type for field in table.schema}
        assert (types["timestamp"].tz, types["seen"].tz) == ("UTC", "UTC"), reader
        assert table.cast(expected.schema).equals(expected), reader


def test_promise_16_units_are_there_for_every_reader(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    path.write_bytes(written(STEPS))
    by_pyarrow = pq.read_schema(path).metadata[b"exporttools.columns"]
    with duckdb.connect() as connection:
        ((_, key, by_duckdb),) = connection.sql(f"from parquet_kv_metadata('{path}')").fetchall()
    assert (key, by_duckdb) == (b"exporttools.columns", by_pyarrow)
    with path.open("rb") as file:
        assert fastparquet.ParquetFile(file).key_value_metadata["exporttools.columns"].encode() == by_pyarrow
    assert pl.read_parquet_metadata(path)["exporttools.columns"].encode() == by_pyarrow
    described = json.loads(by_pyarrow)
    assert described["cost_cents"] == {"unit": "US cents", "meaning": "what the step cost"}
    assert described["model"] == {"meaning": "the model that was called"}
    assert list(described) == [*TRACE_STEPS.names, "model"]  # nothing is known of the other extra columns


def test_units_and_meanings_of_other_extra_columns_are_kept() -> None:
    field = pa.field("score", pa.float64(), metadata={"unit": "points\U0001f600", "doc": 'of "100"'})
    table = STEPS.to_arrow().append_column(field, pa.array([1.5] * 300))
    steps = SnapshotTable(TraceStepSnapshot, table)
    octets = written(steps)
    assert read(octets).schema.equals(steps.schema, check_metadata=True)
    assert read(octets).schema.field("score").metadata == {b"unit": "points\U0001f600".encode(), b"doc": b'of "100"'}
    assert read(written_in_format_1(steps), format_version=1).schema.equals(steps.schema, check_metadata=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", "a JSON list"),
        (b'{"score":1}', "exporttools.columns: step_index: expected "),
        (b'{"a":{},"a":{}}', "the key 'a' twice"),
        (b"[" * 5000, ""),
        (b'{"a":{"b":{"c":{}}}}', ""),
        (b"\xff", "codec can't decode"),
    ],
)
def test_promise_16_units_that_are_not_written_so_are_refused(value: bytes, message: str) -> None:
    assert message in refused(changed(lambda footer: footer[5][1][1][0].update({2: (BINARY, value)})))


def test_the_same_units_in_another_form_are_refused() -> None:
    def spaced(footer: Fields) -> None:
        value = footer[5][1][1][0][2][1]
        footer[5][1][1][0][2] = (BINARY, json.dumps(json.loads(value)).encode())

    def with_another(footer: Fields) -> None:
        footer[5][1][1][0][2] = (BINARY, footer[5][1][1][0][2][1][:-1] + b',"more":{"unit":"x"}}')

    for change in (spaced, with_another):
        assert refused(changed(change)).startswith('footer: key_value_metadata[0].value: expected \'{"step_index":')


def test_two_hundred_columns_of_long_names_keep_their_units() -> None:
    table = STEPS.to_arrow()
    for i in range(190):
        field = pa.field(f"{'long' * 200}_{i}", pa.int64(), metadata={"unit": f"unit {i}", "doc": "d" * 200})
        table = table.append_column(field, pa.array([i] * 300))
    steps = SnapshotTable(TraceStepSnapshot, table.select(table.column_names[:200]))
    octets = written(steps)
    assert read(octets).schema.equals(steps.schema, check_metadata=True)
    with pq.ParquetFile(io.BytesIO(octets)) as file:
        assert len(file.metadata.metadata[b"exporttools.columns"]) > 190_000
