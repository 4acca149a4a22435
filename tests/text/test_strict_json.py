"""Untrusted JSON: one meaning or an error, at bounded cost, and equality that knows 1 from true."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.text.strict_json import parse_object, same

MAX_BYTES = 1 << 20

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[1]", "a JSON list"),
        (b"7", "a JSON int"),
        (b"null", "a JSON NoneType"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} {}', "Extra data"),
        (b'{"a": 1,}', "line 1 column"),
        (b'{"a": 01}', "Expecting ',' delimiter"),
        (b'{"a": "\n"}', "Invalid control character"),
        (b'{"a": 1}\0', "Extra data"),
        (b'{"a": "\xff"}', "can't decode byte 0xff"),
        (b'{"a": "\xed\xa0\x80"}', "can't decode byte 0xed"),  # a surrogate, encoded
        ('{"a": 1}'.encode("utf-16"), "can't decode byte 0xff"),
        (b"\xef\xbb\xbf{}", "Unexpected UTF-8 BOM"),
        (b'{"b": 1, "a": 1, "b": 1}', "the key 'b' twice"),
        (b'{"a": {"b": 1, "\\u0062": 1}}', "the key 'b' twice"),
        (b'{"a": [{"b": 1, "b": 1}]}', "the key 'b' twice"),
        (b'{"a": NaN}', "the number NaN"),
        (b'{"a": Infinity}', "the number Infinity"),
        (b'{"a": -Infinity}', "the number -Infinity"),
        (b'{"a": 1e999}', "the number 1e999"),
        (b'{"a": [-1e400]}', "the number -1e400"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": "\\ud800"}', "a lone surrogate, \\ud800, in a string"),
        (b'{"a": ["\\ude00\\ud83d"]}', "a lone surrogate, \\ude00, in a string"),
        (b'{"\\uDFFF": 1}', "a lone surrogate, \\udfff, in a string"),
        (b"[" * 17, "JSON of more than 16 levels"),
        (b'{"a":' * 500_000, "2,500,000 bytes of JSON; at most 1,048,576 are read"),
        (b'{"a":' * 200_000, "JSON of more than 16 levels"),
        (b'{"a": [' + b"[]," * 70_000 + b"1]}", "JSON of more than 200,000 strings, brackets and commas"),
    ],
)
def test_what_is_not_a_strict_json_object(data: bytes, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_object(data, max_bytes=MAX_BYTES)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"' + b"k" * 100_000 + b'": 1, "' + b"k" * 100_000 + b'": 1}', "k… twice"),
        (b'{"\\u001b[31m": 1, "\\u001b[31m": 1}', r"the key '\x1b[31m' twice"),
        (b'{"a": ' + b"9" * 100_000 + b".0}", "9…"),
    ],
)
def test_a_message_is_short_and_inert(data: bytes, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_object(data, max_bytes=MAX_BYTES)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 120
    assert str(caught.value).isprintable()


def test_the_limits_hold_to_the_byte_and_the_level() -> None:
    data = b'{"a":' * 15 + b"{}" + b"}" * 15
    assert parse_object(data, max_bytes=len(data), max_depth=16)
    with pytest.raises(ValueError, match="levels"):
        parse_object(data, max_bytes=len(data), max_depth=15)
    with pytest.raises(ValueError, match="bytes of JSON"):
        parse_object(data, max_bytes=len(data) - 1)


@pytest.mark.parametrize("text", ["[[[{{{", '"[[[', "\\", '\\"[[[', "[]{}" * 9, "🙂[["])
def test_brackets_in_text_are_not_levels(text: str) -> None:
    value = {text: text, "a": [text]}
    for ascii_only in (True, False):
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert parse_object(data, max_bytes=MAX_BYTES, max_depth=2) == value


@given(st.dictionaries(TEXTS, VALUES, max_size=4), st.booleans())
def test_what_json_writes_reads_back_the_same(value: dict[str, Any], ascii_only: bool) -> None:
    found = parse_object(json.dumps(value, ensure_ascii=ascii_only).encode(), max_bytes=MAX_BYTES, max_depth=1000)
    assert same(found, value)
    assert json.dumps(found) == json.dumps(value)


@given(st.binary() | TEXTS.map(str.encode))
def test_any_bytes_are_an_object_or_a_value_error(data: bytes) -> None:
    try:
        found = parse_object(data, max_bytes=MAX_BYTES)
    except ValueError:
        return
    assert same(found, json.loads(data))


def test_depth_is_refused_where_the_stack_is_nearly_full() -> None:
    data = b'{"a":' * 100_000

    def called_from(depth: int) -> str:
        if depth:
            return called_from(depth - 1)
        with pytest.raises(ValueError) as caught:
            parse_object(data, max_bytes=MAX_BYTES)
        return str(caught.value)

    assert "levels" in called_from(sys.getrecursionlimit() // 2)


@pytest.mark.parametrize(
    "data",
    [
        b'"' * 1_000_001,
        b'"\\' * 500_000,
        b'{"a":"' + b'\\"' * 500_000,
        b"\\" * 1_000_000,
        b'{"a":"' + b"\\ud83d\\ude00" * 80_000 + b'"}',
        b"".join(b'"k%d":1,' % number for number in range(65_000)).join((b"{", b'"k":1}')),
    ],
)
def test_no_text_takes_more_than_a_moment(data: bytes) -> None:
    """A quadratic step would take minutes over a megabyte."""
    start = time.process_time()
    with contextlib.suppress(ValueError):
        parse_object(data, max_bytes=MAX_BYTES)
    assert time.process_time() - start < 5


DIFFERENT: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    0.0,
    1.0,
    "",
    "1",
    "true",
    [],
    [1],
    [1.0],
    [True],
    [1, 1],
    {},
    {"1": 1},
]
DIFFERENT += [{"1": 1.0}, {"1": True}, {"2": 1}, {"1": 1, "2": 1}, {"1": [1]}, {"1": [True]}, {"1": None}]


@pytest.mark.parametrize("i", range(len(DIFFERENT)))
def test_each_value_is_the_same_as_itself_alone(i: int) -> None:
    assert [j for j, other in enumerate(DIFFERENT) if same(DIFFERENT[i], other)] == [i]
    assert same(DIFFERENT[i], json.loads(json.dumps(DIFFERENT[i])))


def test_the_order_of_keys_is_not_a_difference_and_that_of_items_is() -> None:
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same([1, 2], [2, 1])


def test_zero_has_no_sign() -> None:
    assert same(0.0, -0.0)
