"""Thrift's compact protocol: what is written reads back, there is one form of it, and what Parquet does not have is refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.bundle.thrift import (
    BINARY,
    BOOL,
    I16,
    I32,
    I64,
    LIST,
    STRUCT,
    Fields,
    decode,
    encode,
    octets_of,
    require_same,
    require_shortest,
    struct_of,
    structs_of,
)
from tests.bundle.parquet_files import thrift, varint


def _integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_SCALARS: dict[int, st.SearchStrategy[object]] = {
    BOOL: st.booleans(), I16: _integers(16), I32: _integers(32), I64: _integers(64), BINARY: st.binary(max_size=200),
}  # fmt: skip


def _values(structs: st.SearchStrategy[Fields]) -> st.SearchStrategy[tuple[int, object]]:
    elements = {kind: _SCALARS[kind] for kind in (I32, I64, BINARY)} | {STRUCT: structs}
    lists = [
        st.lists(of, max_size=20).map(lambda items, kind=kind: (LIST, (kind, items))) for kind, of in elements.items()
    ]  # type: ignore[misc]
    return st.one_of(
        *(of.map(lambda value, kind=kind: (kind, value)) for kind, of in _SCALARS.items()),
        *lists,
        structs.map(lambda fields: (STRUCT, fields)),
    )  # type: ignore[misc]


STRUCTS: st.SearchStrategy[Fields] = st.recursive(
    st.just({}), lambda structs: st.dictionaries(st.integers(1, 2**15 - 1) | st.integers(1, 20), _values(structs), max_size=5), max_leaves=8
)  # fmt: skip


@given(STRUCTS, st.binary(max_size=5))
def test_what_is_written_reads_back_and_says_where_it_ends(fields: Fields, more: bytes) -> None:
    octets = encode(fields)
    assert decode(octets + more) == (fields, len(octets))
    require_shortest(fields, octets, "it")
    for length in range(len(octets)):
        with pytest.raises(IndexError):
            decode(octets[:length])


@given(STRUCTS, st.integers(0, 2**32))
def test_there_is_one_form_of_each_struct(fields: Fields, seed: int) -> None:
    """Whatever else reads as the same struct, such as a number with more octets than it needs, is not that form."""
    octets = bytearray(encode(fields))
    rng = random.Random(seed)
    place = rng.randrange(len(octets))
    octets[place : place + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
    try:
        found, size = decode(bytes(octets))
    except (ValueError, IndexError):
        return
    if found == fields:
        assert octets[:size] == encode(fields) or len(octets[:size]) > len(encode(fields))


def test_it_is_written_as_another_writer_writes_it() -> None:
    fields: Fields = {
        1: (I32, 2),
        2: (LIST, (STRUCT, [{4: (BINARY, b"schema")}] * 20)),
        8: (BOOL, False),
        900: (I64, -(2**63)),
    }
    assert encode({1: fields[1], 8: (BOOL, True)}) == thrift({1: ("i32", 2), 8: ("bool", True)})
    assert encode({2: fields[2]}) == thrift({2: ("list", ("struct", [{4: ("binary", b"schema")}] * 20))})
    assert encode(fields)[-14:] == b"\x06\x88\x0e" + b"\xff" * 9 + b"\x01\x00"


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (b"\x1d\0", "a Thrift field of type 13"),
        (b"\x1a\0", "a Thrift field of type 10"),
        (b"\x13\0\0", "a Thrift field of type 3"),  # a byte
        (b"\x17" + bytes(9), "a Thrift field of type 7"),  # a double
        (b"\x15" + b"\x80" * 10 + b"\0", "a Thrift number of more than 32 bits"),
        (b"\x15" + b"\xff" * 5 + b"\1\0", "a Thrift number of more than 32 bits"),
        (b"\x14\x80\x80\x04\0", "a Thrift number of more than 16 bits"),
        (b"\x15\2\5\2\4\0", "a Thrift struct whose fields are out of order"),
        (b"\x05\0\0\0", "a Thrift struct whose fields are out of order"),
        (b"\x05\x03\0\0", "a Thrift struct whose fields are out of order"),
        (b"\x1c" * 40 + b"\0" * 41, "a Thrift struct with more levels than Parquet has"),
        (b"\x19\x11\1\0", "a Thrift list of elements of type 1"),
        (b"\x19\x19\x15\0\0", "a Thrift list of elements of type 9"),
        (b"\x29\xfc" + varint(100_001), "a Parquet footer with more than 100,000 elements"),
        (b"\x29\xfc" + varint(20) + (b"\x15\x00" * 32_000 + b"\0") * 20, "a Parquet footer with more than 400,000 fields"),
    ],
)  # fmt: skip
def test_what_parquet_does_not_have_is_refused(octets: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        decode(octets)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({1: (I32, 2)}, "footer: version: expected 1,000; found 2"),
        ({1: (I64, 1000)}, "footer: version: expected 1,000; found 1,000"),
        ({}, "footer: version: expected 1,000; found nothing"),
        ({1: (I32, 1000), 2: (LIST, (STRUCT, [{4: (BINARY, b"a\nb\xff")}]))}, r"footer: schema[0].name: expected nothing; found 'a\nb\\xff'"),
        ({1: (I32, 1000), 2: (LIST, (STRUCT, [{}, {7: (BOOL, True)}]))}, "footer: schema[1]: expected nothing; found a struct of 1 fields"),
        ({1: (I32, 1000), 2: (LIST, (I32, []))}, "footer: schema[0]: expected a struct of 0 fields; found nothing"),
        ({1: (I32, 1000), 2: (LIST, (STRUCT, [{}])), 9: (BOOL, False)}, "footer: field 9: expected nothing; found false"),
        ({1: (I32, 1000), 2: (LIST, (STRUCT, [{5: (BOOL, True)}]))}, "footer: schema[0].field 5: expected nothing; found true"),
    ],
)  # fmt: skip
def test_the_first_difference_is_named(found: Fields, message: str) -> None:
    expected: Fields = {1: (I32, 1000), 2: (LIST, (STRUCT, [{}]))}
    with pytest.raises(ValueError) as caught:
        require_same(expected, found, {1: "version", 2: ("schema", {4: "name"})}, "footer")
    assert str(caught.value) == message


def test_longer_forms_of_the_same_are_refused() -> None:
    fields, _ = decode(b"\x15\x84\x00\0")
    assert fields == {1: (I32, 2)}
    with pytest.raises(ValueError, match="^footer: 4 bytes; expected the shortest form of the same, 3$"):
        require_shortest(fields, b"\x15\x84\x00\0", "footer")


def test_fields_are_taken_by_their_kind() -> None:
    fields: Fields = {1: (I32, 2), 2: (STRUCT, {}), 3: (LIST, (I32, [1])), 4: (BINARY, b"x"), 5: (LIST, (STRUCT, [{}]))}
    assert [octets_of(fields, i) for i in (1, 4, 9)] == [b"", b"x", b""]
    assert [struct_of(fields, i) for i in (1, 2, 9)] == [None, {}, None]
    assert [structs_of(fields, i) for i in (1, 3, 5, 9)] == [[], [], [{}], []]
