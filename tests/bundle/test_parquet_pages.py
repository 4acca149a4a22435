"""Footers and page headers are read strictly, and what they cannot mean is refused."""

from __future__ import annotations

import io
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from tests.bundle.parquet_files import (
    Fields,
    chunk_of,
    crafted,
    dictionary_of,
    framed,
    of_ten,
    page,
    read,
    refused,
    text,
    varint,
)


def test_what_is_made_by_hand_is_parquet() -> None:
    octets = crafted((1000, {}), (3, {"status": page(text(2, b"a") + text(0) + text(3, b"b"), 3)}))
    table = read(octets)
    assert table.equals(pq.read_table(io.BytesIO(octets)).cast(table.schema))
    assert table.num_rows == 1003
    assert table["status"].to_pylist()[-4:] == ["xx", "aa", "", "bbb"]


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"", "not a Parquet file: expected at least 12 bytes; found 0"),
        (b"PAR1PAR1", "not a Parquet file: expected at least 12 bytes; found 8"),
        (b"x" * 100, "not a Parquet file: expected PAR1 at both ends; found b'xxxx' and b'xxxx'"),
        (b"PAR1" + b"\0" * 20, "not a Parquet file: expected PAR1 at both ends; found b'PAR1' and b'\\x00\\x00\\x00\\x00'"),
        (b"PARE" * 9, "an encrypted Parquet file"),
        (b"PAR1\1\0\0\0PAR1", "a Parquet footer of 1 bytes; expected at most 0"),
        (b"PAR1" + b"\xff" * 4 + b"PAR1", "a Parquet footer of 4,294,967,295 bytes; expected at most 0"),
        (framed(b""), "a truncated Parquet footer"),
        (framed(b"\x15\x04"), "a truncated Parquet footer"),
        (framed(b"\x18\x7f"), "a truncated Parquet footer"),
        (framed(b"\x1d\0"), "a Thrift field of type 13"),
        (framed(b"\x15" + b"\x80" * 10 + b"\0"), "a Thrift number of more than 32 bits"),
        (framed(b"\x15" + b"\xff" * 5 + b"\1\0"), "a Thrift number of more than 32 bits"),
        (framed(b"\x15\2\5\2\4\0"), "a Thrift struct whose fields are out of order"),
        (framed(b"\x1c" * 40 + b"\0" * 41), "a Thrift struct with more levels than Parquet has"),
        (framed(b"\x1a\0"), "a Thrift field of type 10"),
        (framed(b"\x29\xfc" + varint(100_001)), "a Parquet footer with more than 100,000 elements"),
        (framed(b"\0"), "column 0 is missing; expected 'step_index'"),
    ],
)  # fmt: skip
def test_promise_16_what_is_not_parquet_is_refused(octets: bytes, message: str) -> None:
    assert refused(octets).startswith(message)


# Pages and footers that lie


NUMBERS = bytes(80)
LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "more rows in the footer": (
        lambda: crafted((10, {}), footer=lambda footer: footer | {3: ("i64", 11)}),
        "footer: num_rows: expected 10; found 11"),
    "fewer rows in the footer": (
        lambda: crafted((10, {}), (10, {}), footer=lambda footer: footer | {3: ("i64", 10)}),
        "footer: num_rows: expected 20; found 10"),
    "more values in a column": (
        lambda: crafted((10, {}), chunk=chunk_of("tokens", fields={5: ("i64", 11)})),
        "column tokens: footer: meta_data.num_values: expected 10; found 11"),
    "negative rows": (
        lambda: crafted((10, {}), chunk=chunk_of("tokens", fields={5: ("i64", -10)})),
        "column tokens: footer: meta_data.num_values: expected 10; found -10"),
    "fewer values in the pages": (lambda: of_ten(tokens=page(bytes(72), 9)), "column tokens: pages of 19 values; expected 10 as in its row group"),
    "more values in the pages": (lambda: of_ten(tokens=page(bytes(88), 11)), "column tokens: pages of 11 values; expected 10"),
    "more values than the page has": (lambda: of_ten(tokens=page(bytes(72), 10)), "column tokens: a page of 10 values in 72 bytes; expected 80"),
    "negative values": (
        lambda: of_ten(tokens=page(NUMBERS, -10) + page(bytes(160), 20)), "column tokens: a page of -10 values in "),
    "a page of 2 GB": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={2: ("i32", 2**31 - 1)})), " bytes that unpack to 2,147,"),
    "a page of 60 MB that has 80 bytes": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={2: ("i32", 60_000_000)})), "column tokens: not one zstd frame as it is written: it says that it unpacks to 80 bytes; expected 60,000,000"),
    "a page of a negative size": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={2: ("i32", -1)})), "column tokens: a page of 10 values in "),
    "a page before the last": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={3: ("i32", -100)})), "column tokens: a page of 10 values in -100 bytes"),
    "a page that ends after its column": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={3: ("i32", 1000)})), "column tokens: a page of 1,000 bytes; expected at most 144"),
    "a gap after the last page": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10) + b"\0" * 5})), "column tokens: footer: meta_data.total_compressed_size: expected 41; found 46"),
    "a page that has no end": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10) + b"\x15"})), "column tokens: footer: meta_data.total_compressed_size: expected 41; found 42"),
    "a page of another kind": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={1: ("i32", 1)})), "column tokens: a page of kind 1; expected data or a dictionary"),
    "a page of version 2 with the header of version 1": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={1: ("i32", 3)})), "column tokens: a page of kind 3; expected data or a dictionary"),
    "no checksum": (lambda: of_ten(tokens=page(NUMBERS, 10, changes={4: ("i32", None)})), "column tokens: a page without a checksum"),
    "a checksum of another type, which a reader passes over": (
        lambda: of_ten(tokens=page(NUMBERS, 10, changes={4: ("i64", 1)})), "column tokens: a page without a checksum"),
    "a wrong checksum": (lambda: of_ten(tokens=page(NUMBERS, 10, changes={4: ("i32", 1)})), "could not verify page integrity"),
    "a dictionary of 2**31 numbers": (
        lambda: of_ten(tokens=dictionary_of(bytes(8), 1, 10, says=2**31 - 1)), "column tokens: a dictionary of 2,147,483,647 texts in 8 bytes"),
    "a dictionary of 2**31 texts": (
        lambda: of_ten(status=dictionary_of(text(2), 1, 10, says=2**31 - 1)), "column status: a dictionary of 2,147,483,647 texts in 6 bytes"),
    "a dictionary of more texts than it has": (
        lambda: of_ten(status=dictionary_of(text(12), 1, 10, says=4)), "column status: a dictionary of 16 bytes whose texts end at "),
    "a dictionary of fewer texts than it has": (
        lambda: of_ten(status=dictionary_of(text(2) * 2, 1, 10)), "column status: a dictionary of 12 bytes whose texts end at 6"),
    "a dictionary's text of 4 GB": (
        lambda: of_ten(status=dictionary_of(b"\xff" * 4, 1, 10)), "column status: a dictionary of 4 bytes whose texts end at 4,294,967,299"),
    "two dictionaries": (
        lambda: of_ten(status=(page(text(2), 1, kind=2) + dictionary_of(text(2), 1, 10)[0], len(page(text(2), 1, kind=2)))),
        "column status: a dictionary that is not its first page"),
    "an index beyond the dictionary": (
        lambda: of_ten(status=(page(text(2), 1, kind=2) + page(b"\3" + varint(10 << 1) + b"\7", 10, 8), len(page(text(2), 1, kind=2)))),
        "column status: indices of 3 bits into a dictionary of 1 texts"),
    "indices without a dictionary": (lambda: of_ten(status=page(b"\0" + varint(20), 10, 8)), "column status: a page of indices without a dictionary, or after plain values"),
    "pages outside the file": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10)}), chunk=chunk_of("tokens", fields={9: ("i64", 10**9)})),
        "column tokens: footer: meta_data.data_page_offset: expected 163; found 1,000,000,000"),
    "pages in the footer": (
        lambda: crafted((10, {}), chunk=chunk_of("content_hash", fields={7: ("i64", 400)})), "column content_hash: footer: meta_data.total_compressed_size: expected 76; found 400"),
    "pages at a negative place": (
        lambda: crafted((10, {"tokens": page(NUMBERS, 10)}), chunk=chunk_of("tokens", fields={9: ("i64", -8)})), "column tokens: footer: meta_data.data_page_offset: expected 163; found -8"),
    "pages of a negative size": (
        lambda: crafted((10, {}), chunk=chunk_of("tokens", fields={7: ("i64", -8)})), "column tokens: footer: meta_data.total_compressed_size: expected 41; found -8"),
    "two columns in one place": (
        lambda: crafted((10, {name: page(NUMBERS, 10) for name in ("tokens", "cost_cents")}), chunk=_twice), "column cost_cents: footer: meta_data.data_page_offset: expected 204; found 163"),
    "an unknown codec": (
        lambda: crafted((10, {}), chunk=chunk_of("tokens", fields={4: ("i32", 99)})),
        "column tokens: footer: meta_data.codec: expected 6; found 99"),
    "sizes of pages that are not packed": (
        lambda: crafted((10, {}), chunk=chunk_of("tokens", fields={4: ("i32", 0)})), "column tokens: footer: meta_data.codec: expected 6; found 0"),
    "a row group with a column too few": (lambda: crafted((10, {}), footer=_without_a_column), "column content_hash: footer: file_offset: expected 0; found nothing"),
    "a column in another file": (
        lambda: crafted((10, {}), footer=_with_a_column_elsewhere),
        "column step_index: footer: file_path: expected nothing; found 'elsewhere'"),
    "a row group of 80 MB of texts": (
        lambda: crafted((2, {"status": page(text(40 << 20), 1) * 2})),
        "column status: a row group that unpacks to more than 67,108,864 bytes"),
    "encrypted, says the footer": (
        lambda: crafted((10, {}), footer=lambda footer: footer | {8: ("struct", {1: ("struct", {})})}), "footer: encryption_algorithm: expected nothing; found a struct of 1 fields"),
    "nothing more than rows": (lambda: crafted((10**9, {})), "row group 0: 1,000,000,000 rows; expected 1 to 131,072"),
}  # fmt: skip


def _twice(name: str, fields: Fields) -> Fields:
    """Where the tokens lie, the costs are to lie as well."""
    if name == "tokens":
        _twice.place = fields[9]  # type: ignore[attr-defined]
    return fields | {9: _twice.place} if name == "cost_cents" else fields  # type: ignore[attr-defined]


def _with_a_column_elsewhere(footer: Fields) -> Fields:
    footer[4][1][1][0][1][1][1][0][1] = ("binary", b"elsewhere")
    return footer


def _without_a_column(footer: Fields) -> Fields:
    footer[4][1][1][0][1][1][1].pop()
    return footer


@pytest.mark.parametrize("name", LIES)
def test_promise_16_pages_and_footers_that_lie_are_refused(name: str) -> None:
    make, message = LIES[name]
    found = refused(make())
    assert message in found
    assert 10 < len(found) < 400


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({3: ("list", ("binary", [b"token"]))}, "path_in_schema[0]: expected 'tokens'; found 'token'"),
        ({1: ("i32", 6)}, "type: expected 2; found 6"),
        ({1: ("i32", 99)}, "type: expected 2; found 99"),
        ({2: ("list", ("i32", [99]))}, "encodings[0]: expected 3; found 99"),
        ({3: ("list", ("binary", []))}, "path_in_schema[0]: expected 'tokens'; found nothing"),
        ({6: ("i64", 2**40)}, "total_uncompressed_size: expected 104; found 1,099,511,627,776"),
        ({6: ("i64", -1)}, "total_uncompressed_size: expected 104; found -1"),
        ({10: ("i64", 4)}, "index_page_offset: expected nothing; found 4"),
        ({14: ("i64", 4)}, "bloom_filter_offset: expected nothing; found 4"),
        ({8: ("list", ("struct", []))}, "key_value_metadata: expected nothing; found a list of 0"),
        ({18: ("bool", True)}, "field 18: expected nothing; found true"),
    ],
)  # fmt: skip
def test_promise_16_what_a_row_group_says_again_may_not_lie(fields: Fields, message: str) -> None:
    octets = crafted((10, {"tokens": page(NUMBERS, 10)}), chunk=chunk_of("tokens", fields=fields))
    assert refused(octets) == f"row group 0, column tokens: footer: meta_data.{message}"
