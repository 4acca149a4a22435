"""Format 1: statistics and the Arrow schema, which pyarrow wrote into its footers, are what the rows and the records say."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporttools import RunSnapshot, SnapshotTable
from exporttools.bundle.format_1 import ARROW_SCHEMA_KEY
from exporttools.bundle.thrift import BINARY, BOOL, I32, I64, LIST, STRUCT, Fields, decode, encode
from exporttools.records.schema import RUNS, TRACE_STEPS
from tests.bundle.format_1_files import written_in_format_1
from tests.bundle.parquet_files import by_pyarrow, hashes, many_steps, read, refused, written
from tests.bundle.test_canonical import STEPS, changed, column_of, element_of, key_value, says, statistics
from tests.bundle.test_parts import WRITTEN
from tests.databases import run


def fallback() -> SnapshotTable[Any]:
    """Columns whose dictionaries become too large in the middle of a chunk, with NULL and without."""
    sampled = {*np.linspace(0, 131_071, 2000).astype(int).tolist()}
    texts = ["same" if i in sampled else f"{'x' * 100}{i:06}" for i in range(131_072)]
    return many_steps(
        131_072, name=pa.array(texts), model=pa.array([None if i % 3 == 1 else text for i, text in enumerate(texts)])
    )


def zeros() -> SnapshotTable[Any]:
    """Zeros of both signs, alone and beside others, which statistics turn into -0.0 and 0.0."""
    return many_steps(
        6, a=pa.array([0.0] * 6), b=pa.array([-0.0] * 6), c=pa.array([0.0, None, -1.5] * 2), d=pa.array([None, -0.0, 5e-324] * 2), e=pa.array([None] * 6, pa.float64()),
    )  # fmt: skip


def texts() -> SnapshotTable[Any]:
    """Texts that order otherwise as signed bytes or by UTF-16, and those that are too long for statistics."""
    values = ["", "a", "é", "\uffff", "\U0001f600", "\0", "z" * 4096, "z" * 4097, "~" * 100_000, None]
    return many_steps(
        30,
        error=pa.array(values * 3),
        name=pa.array(["é", "a", None] * 10),
        model=pa.array(["m" * 5000, "a", "b"] * 10),
    )


FILES: dict[str, Callable[[], SnapshotTable[Any]]] = {**WRITTEN, "fallback": fallback, "zeros": zeros, "texts": texts}


@pytest.mark.parametrize("name", FILES)
def test_promise_19_what_its_writer_wrote_is_read(name: str) -> None:
    table = FILES[name]()
    found = read(written_in_format_1(table), table.record_type, format_version=1)
    assert found.equals(table.to_arrow())
    assert found.schema.equals(table.schema, check_metadata=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9),
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9),
    st.lists(st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=9), min_size=1, max_size=9),
)
def test_promise_19_any_values_are_read(integers: list[Any], floats: list[Any], words: list[Any]) -> None:
    rows = len(integers) * len(floats) * len(words)
    columns = [
        pa.array((values * rows)[:rows], kind)
        for values, kind in ((integers, pa.int64()), (floats, pa.float64()), (words, pa.string()))
    ]
    table = many_steps(rows, one=columns[0], two=columns[1], three=columns[2])
    assert read(written_in_format_1(table), format_version=1).equals(table.to_arrow())


def number(value: float) -> bytes:
    return struct.pack("<q" if isinstance(value, int) else "<d", value)


def both(low: bytes, high: bytes) -> tuple[int, Fields]:
    return (STRUCT, {1: (BINARY, high), 2: (BINARY, low)} | statistics(low, high)[1])


def in_page(name: str, change: Callable[[Fields], object]) -> Callable[[], bytes]:
    """Change the header of a column's first data page, and move what comes after it."""

    def make() -> bytes:
        octets = written_in_format_1(STEPS)
        footer = decode(octets[len(octets) - 8 - int.from_bytes(octets[-8:-4], "little") :])[0]
        start = column_of(footer, name)[9][1]
        header, size = decode(octets[start:])
        change(header)
        grown = len(encode(header)) - size
        moved = octets[:start] + encode(header) + octets[start + size :]
        for group in footer[4][1][1]:
            group[6] = (I64, group[6][1] + grown)
            group[2] = (I64, group[2][1] + grown)
            for chunk in group[1][1][1]:
                metadata = chunk[3][1]
                if metadata[3][1][1] == [name.encode()]:
                    metadata |= {6: (I64, metadata[6][1] + grown), 7: (I64, metadata[7][1] + grown)}
                metadata |= {
                    place: (I64, metadata[place][1] + grown)
                    for place in (9, 11)
                    if place in metadata and metadata[place][1] > start
                }
        end = len(moved) - 8 - int.from_bytes(octets[-8:-4], "little")
        return moved[:end] + encode(footer) + len(encode(footer)).to_bytes(4, "little") + b"PAR1"

    return make


def in_footer(change: Callable[[Fields], object]) -> Callable[[], bytes]:
    return lambda: changed(change, written_in_format_1(STEPS))


def schema(made: Callable[[pa.Schema], pa.Schema]) -> Callable[[], bytes]:
    def change(footer: Fields) -> None:
        footer[5][1][1][0][2] = (BINARY, base64.b64encode(made(STEPS.schema).serialize()))

    return in_footer(change)


def with_unit(found: pa.Schema) -> pa.Schema:
    place = found.get_field_index("cost_cents")
    return found.set(place, found.field(place).with_metadata({"doc": "what the step cost", "unit": "US dollars"}))


ATTACKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a false maximum": (in_footer(says("tokens", _12=both(number(0), number(5)))),
                        "row group 0, column tokens: max 05 00 00 00 00 00 00 00; expected 2b 01 00 00 00 00 00 00"),
    "a false minimum": (in_footer(says("tokens", _12=both(number(7), number(299)))), "row group 0, column tokens: min 07 00"),
    "a false maximum of texts": (in_footer(says("status", _12=statistics(b"a", b"ok"))), "row group 0, column status: min 61; expected 65 72 72 6f 72"),
    "a wider range": (in_footer(says("status", _12=statistics(b"error", b"z"))), "row group 0, column status: max 7a; expected 6f 6b"),
    "the deprecated one false": (
        in_footer(says("tokens", _12=(STRUCT, statistics(number(0), number(299))[1] | {1: (BINARY, number(5))}))), "row group 0, column tokens: max 05 00"),
    "the deprecated one of texts": (
        in_footer(says("status", _12=(STRUCT, statistics(b"error", b"ok")[1] | {1: (BINARY, b"ok")}))),
        "row group 0, column status: footer: meta_data.statistics.max: expected nothing; found 'ok'"),
    "a minimum of 0.0 where -0.0 is written": (
        in_footer(says("cost_cents", _12=both(number(0.0), number(3.75)))), "row group 0, column cost_cents: min 00 00 00 00 00 00 00 00; expected 00 00 00 00 00 00 00 80"),
    "a minimum of four bytes": (in_footer(says("tokens", _12=both(b"\0" * 4, number(299)))), "row group 0, column tokens: footer: meta_data.statistics.min: expected nothing; found "),
    "a false count of NULL": (
        in_footer(says("model", _12=statistics(b"large", b"small", 0))), "row group 0, column model: footer: meta_data.statistics.null_count: expected 100; found 0"),
    "no count of NULL": (
        in_footer(says("model", _12=(STRUCT, {}))), "row group 0, column model: footer: meta_data.statistics.null_count: expected 100; found nothing"),
    "a count of different values": (
        in_footer(says("status", _12=(STRUCT, statistics(b"error", b"ok")[1] | {4: (I64, 1)}))), "meta_data.statistics.distinct_count: expected nothing; found 1"),
    "not exact, it says": (
        in_footer(says("status", _12=(STRUCT, statistics(b"error", b"ok")[1] | {7: (BOOL, False)}))), "meta_data.statistics.is_max_value_exact: expected true; found false"),
    "statistics of nothing": (
        in_footer(says("status", _12=(STRUCT, {3: (I64, 0), 7: (BOOL, True)}))), "meta_data.statistics.is_max_value_exact: expected nothing; found true"),
    "a false size of texts": (
        in_footer(says("status", _16=(STRUCT, {1: (I64, 1), 2: (LIST, (I64, [])), 3: (LIST, (I64, []))}))), "row group 0, column status: texts of 1 bytes; expected 639"),
    "a false histogram": (
        in_footer(says("model", _16=(STRUCT, {2: (LIST, (I64, [])), 3: (LIST, (I64, [0, 300]))}))),
        "row group 0, column model: footer: meta_data.size_statistics.definition_level_histogram[0]: expected 100; found 0"),
    "a false maximum of a page": (
        in_page("tokens", lambda header: header[5][1].update({5: statistics(number(0), number(5))})), "row group 0, column tokens, a page: max 05 00"),
    "a false count of NULL of a page": (
        in_page("model", lambda header: header[5][1].update({5: statistics(b"large", b"small", 0)})),
        "row group 0, column model: page header: data_page_header.statistics.null_count: expected 100; found 0"),
    "another field of a page": (
        in_page("model", lambda header: header.update({9: (I64, 1)})), "row group 0, column model: page header: field 9: expected nothing; found 1"),
    "a dictionary beyond the data": (
        in_footer(says("tokens", _11=(I64, 4000))), "row group 0, column tokens: footer: meta_data.dictionary_page_offset: expected nothing; found 4,000"),
    "a decimal point": (
        in_footer(lambda footer: element_of(footer, "tokens").update({6: (I32, 5), 7: (I32, 2), 8: (I32, 18)})),
        "footer: schema[4].converted_type: expected nothing; found 5"),
    "another unit": (schema(with_unit), "an Arrow schema that differs from the columns' own: cost_cents"),
    "metadata of the whole": (schema(lambda found: found.with_metadata({"pandas": "{}"})), "an Arrow schema that differs from the columns' own: other fields"),
    "a column more": (schema(lambda found: found.append(pa.field("more", pa.int64()))), "an Arrow schema that differs from the columns' own: other fields"),
    "a column less": (schema(lambda found: found.remove(9)), "an Arrow schema that differs from the columns' own: seen"),
    "an extension type": (
        schema(lambda found: found.set(8, found.field(8).with_metadata({"ARROW:extension:name": "x", "ARROW:extension:metadata": ""}))),
        "an Arrow schema that differs from the columns' own: model"),
    "a dictionary": (
        schema(lambda found: found.set(8, pa.field("model", pa.dictionary(pa.int32(), pa.string())))), "an Arrow schema that differs from the columns' own: model"),
    "local time": (
        schema(lambda found: found.set(1, pa.field("timestamp", pa.timestamp("us", "Europe/Oslo"), False))), "an Arrow schema that differs from the columns' own: timestamp"),
    "bytes after the schema": (
        in_footer(lambda footer: footer[5][1][1][0].update({2: (BINARY, base64.b64encode(STEPS.schema.serialize().to_pybytes() + b"hide"))})),
        "an Arrow schema that is not one message in base64"),
    "a long schema": (
        in_footer(lambda footer: footer[5][1][1][0].update({2: (BINARY, b"A" * 9000)})), "an Arrow schema of 9,000 bytes; expected at most 8,192"),
    "not base64": (in_footer(lambda footer: footer[5][1][1][0].update({2: (BINARY, b"A B")})), "base64"),
    "garbage": (
        in_footer(lambda footer: footer[5][1][1][0].update({2: (BINARY, base64.b64encode(b"\xff" * 4 + (5000).to_bytes(4, "little") + b"\7" * 5000))})), ""),
    "more metadata": (in_footer(key_value(b"pandas", b"{}")), "footer: key_value_metadata[1]: expected nothing"),
    "two schemas": (in_footer(key_value(ARROW_SCHEMA_KEY, b"")), ""),
    "another writer": (
        in_footer(lambda footer: footer.update({6: (BINARY, b"parquet-mr version 1.8.0")})),
        "footer: created_by: expected 'parquet-cpp-arrow version N.N.N'; found 'parquet-mr version 1.8.0'"),
    "the writer of format 2": (
        in_footer(lambda footer: footer.update({6: (BINARY, b"exporttools-bundle version 2")})), "footer: created_by: expected 'parquet-cpp-arrow version N.N.N'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_promise_16_statistics_and_schemas_that_lie_are_refused(name: str) -> None:
    make, message = ATTACKS[name]
    assert message in refused(make(), format_version=1)


@pytest.mark.parametrize("number", [12, 16])
def test_statistics_may_be_absent(number: int) -> None:
    octets = changed(lambda footer: column_of(footer, "status").pop(number), written_in_format_1(STEPS))
    assert read(octets, format_version=1).equals(STEPS.to_arrow())


def test_units_may_be_absent() -> None:
    octets = changed(lambda footer: footer.pop(5), written_in_format_1(STEPS))
    assert read(octets, format_version=1).schema.equals(STEPS.schema, check_metadata=True)


def test_a_dictionary_that_becomes_too_large_is_not_written_in_format_2() -> None:
    """Some readers take plain texts after indices for NULL."""
    table = fallback()
    kinds = {}
    for octets in (written_in_format_1(table), written(table)):
        footer = decode(octets[len(octets) - 8 - int.from_bytes(octets[-8:-4], "little") :])[0]
        kinds[octets] = [len(column_of(footer, name)[13][1][1]) for name in ("name", "model", "status")]
    assert list(kinds.values()) == [[3, 3, 2], [1, 1, 2]]  # a dictionary, plain pages, pages of indices
    assert read(written(table)).equals(table.to_arrow())


def test_a_format_is_not_the_other() -> None:
    assert refused(written_in_format_1(STEPS), format_version=2).startswith(
        "exporttools.columns: step_index: expected "
    )


def test_no_rows_are_no_row_groups_or_one_of_no_rows() -> None:
    """pyarrow's write_table writes one, and early files of format 1 have it; see the golden bundle of a run alone."""
    steps = many_steps(3)[:0]
    assert read(written_in_format_1(steps), format_version=1).equals(steps.to_arrow())
    table = many_steps(20_000, content_hash=hashes(20_000), error=pa.array([None] * 20_000, pa.string()))
    assert read(written_in_format_1(table), TRACE_STEPS, format_version=1).equals(table.to_arrow())


def test_long_texts_of_a_single_row_are_in_dictionaries_as_early_files_have_them() -> None:
    runs = SnapshotTable.from_records(RunSnapshot, [RunSnapshot(**run(goal="g" * 100_000))])
    octets = by_pyarrow(runs.to_arrow(), use_dictionary=["goal", "run_id"])
    assert read(octets, RUNS, format_version=1).equals(runs.to_arrow())
