"""Lines and documents of JSON as crashes, editors and other programs leave them: each is a record, blank or rejected."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporttools.importing import json_records
from exporttools.importing.json_records import Records, microseconds, number_of, text_of, whole_document

BOM = b"\xef\xbb\xbf"


def read(content: bytes, elements: str | None = None) -> tuple[list[tuple[int, Any]], Records]:
    records = Records(io.BytesIO(content), elements)
    return [(record.number, record.value) for record in records], records


def rejected(content: bytes, elements: str | None = None) -> list[tuple[int, str]]:
    return [(r.record, r.reason) for r in read(content, elements)[1].rejected]


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"b": 2}\n',
        b'{"a": 1}\n{"b": 2}',
        b'{"a": 1}\r\n{"b": 2}\r\n',
        BOM + b'{"a": 1}\n{"b": 2}\n',
        b'{"a": 1}\n' + BOM + b'{"b": 2}\n',
        b' {"a": 1} \n\t{"b": 2}\t\n',
        b'\0\0{"a": 1}\n{"b": 2}\0\0\0\n',
        b'{"a": 1}\n{"b": 2}\0\0\0',
    ],
)
def test_two_records_whatever_stands_around_them(content: bytes) -> None:
    assert read(content)[0] == [(1, {"a": 1}), (2, {"b": 2})]
    assert rejected(content) == []


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \n", b"\0\0\n", b"\t \0\n"])
def test_blank_lines_have_numbers_and_are_counted(blank: bytes) -> None:
    found, records = read(blank + b"{}\n" + blank)
    assert (found, records.blank, records.last) == ([(2, {})], 2, 3)


def test_an_empty_file_has_nothing() -> None:
    found, records = read(b"")
    assert (found, records.blank, records.last, records.rejected) == ([], 0, 0, [])
    assert read(BOM)[0] == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[1]\n", "expected an object; found a list"),
        (b'"x"\n', "expected an object; found text"),
        (b"7\n", "expected an object; found a number"),
        (b"7.5\n", "expected an object; found a number"),
        (b"NaN\n", "expected an object; found a number"),
        (b"true\n", "expected an object; found true or false"),
        (b"null\n", "expected an object; found null"),
        (b'{"a": x\n', "not valid JSON: Expecting value at byte 7"),
        ('{"ä": x}\n'.encode(), "not valid JSON: Expecting value at byte 8"),
        (b'{"a": 1} {"b": 2}\n', "not valid JSON: Extra data at byte 10"),
        (b'{"a": "\n', "not valid JSON: Invalid control character at byte 8"),
        (b'{"a": "\xff"}\n', "not valid JSON: not UTF-8 at byte 8"),
        (b'{"a": "\xff', "not valid JSON: the file ends in the middle of it"),
        (b'{"a": 1, "b', "not valid JSON: the file ends in the middle of it"),
        (b'{"a": 1, "b\0\0\0\0', "not valid JSON: the file ends in the middle of it"),
        ("{}\n".encode("utf-16"), "not valid JSON: not UTF-8 at byte 1"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "not valid JSON: maximum recursion depth exceeded"),
        (b'{"a": 1' + b"0" * 5000 + b"}\n", "not valid JSON: Exceeds the limit (4300 digits) for integer string"),
    ],
)
def test_what_cannot_be_read_is_rejected_with_its_place_and_why(line: bytes, why: str) -> None:
    content = b"{}\n" + line
    ((number, reason),) = rejected(content)
    assert number == 2
    assert reason.startswith(why)
    if line.endswith(b"\n"):
        assert read(content + b'{"z": 0}\n')[0] == [(1, {}), (3, {"z": 0})]


def test_what_javascript_writes_and_json_forbids_is_read() -> None:
    ((_, value),) = read(b'{"a": NaN, "b": -Infinity, "c": 1' + b"0" * 400 + b', "d": 18446744073709551616}\n')[0]
    assert str(value["a"]) == "nan"
    assert (value["b"], value["c"], value["d"]) == (float("-inf"), 10**400, 2**64)


def test_halves_of_surrogate_pairs_are_replaced_in_names_and_values() -> None:
    ((_, value),) = read(b'{"\\ud800": ["x\\udc00y", {"\\ud83e\\udd9c": "\\ud83e"}], "n": 1}\n')[0]
    assert value == {"�": ["x�y", {"🦜": "�"}], "n": 1}


def test_the_last_of_two_members_with_one_name_counts() -> None:
    assert read(b'{"a": 1, "a": 2}\n')[0] == [(1, {"a": 2})]


def test_a_line_beyond_the_limit_is_rejected_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "LONGEST_LINE_BYTES", 1 << 20)
    long = json.dumps({"a": "x" * (5 << 20)}).encode()
    found, records = read(b'{"a": 1}\n' + long + b'\n{"b": 2}\n' + long)
    assert found == [(1, {"a": 1}), (3, {"b": 2})]
    assert [(r.record, r.reason) for r in records.rejected] == [(2, "longer than 1 MiB"), (4, "longer than 1 MiB")]


def test_of_very_many_lines_that_cannot_be_read_only_the_first_say_why() -> None:
    _, records = read(b"1\n" * 5000)
    assert [r.record for r in records.rejected] == list(range(1, 1001))
    assert list(records.rejected_besides) == list(range(1001, 5001))


@pytest.mark.parametrize("line", [b"\n", b" \n", b"1\n"])
def test_a_file_of_almost_nothing_is_given_up(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "MOST_USELESS", 5_000)
    read(b"{}\n" + line * 5_000)
    with pytest.raises(OSError, match="^more than 5,000 of its lines are blank or not JSON objects$"):
        read(b"{}\n" + line * 7_000)


# Documents


def test_a_document_s_records_are_the_elements_of_a_member() -> None:
    found, records = read(BOM + b' {"id": 7, "steps": [{"a": 1}, 5, {"b": 2}]}\n\0', "steps")
    assert found == [(1, {"a": 1}), (3, {"b": 2})]
    assert (records.header, records.last) == ({"id": 7}, 3)
    assert [(r.record, r.reason) for r in records.rejected] == [(2, "expected an object; found a number")]


@pytest.mark.parametrize("listed", ["null", '"x"', "{}", "7"])
def test_a_document_whose_member_is_no_list_has_no_records(listed: str) -> None:
    assert read(f'{{"steps": {listed}}}'.encode(), "steps")[0] == []


def test_further_elements_are_numbered_on() -> None:
    found, records = read(b'{"steps": [{}, {}]}', "steps")
    assert [record.number for record in records.more([{}, 7, {}])] == [3, 5]
    assert (len(found), records.last) == (2, 5)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[1]", "expected an object; found a list"),
        (b"{", "Expecting property name enclosed in double quotes"),
        (b"", "Expecting value"),
        (b"{}{}", "Extra data"),
    ],
)
def test_what_is_no_document_is_an_error(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        whole_document(io.BytesIO(content))


def test_a_document_beyond_the_limit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "LONGEST_LINE_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="the document is larger than 1 MiB"):
        whole_document(io.BytesIO(b" " * (2 << 20)))


# Values


@pytest.mark.parametrize(
    ("value", "number", "bad"),
    [
        (0, 0, 0), (12, 12, 0), (10**11 - 1, 10**11 - 1, 0), (None, 0, 0),
        (10**11, 0, 1), (-1, 0, 1), (1.0, 0, 1), ("12", 0, 1), (True, 0, 1), ([1], 0, 1), ({}, 0, 1), (float("nan"), 0, 1),
    ],
)  # fmt: skip
def test_numbers_of_tokens(value: object, number: int, bad: int) -> None:
    records = Records(io.BytesIO())
    assert (records.number({"n": value}, "n"), records.number({}, "n"), records.bad_numbers) == (number, 0, bad)


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.25, 0.25), (-3, -3.0), (True, None), ("1", None), (None, None), (float("nan"), None),
     (float("inf"), None), (10**400, None), (-1e308, None), (2**53, 2.0**53), ([], None)],
)  # fmt: skip
def test_numbers(value: object, number: float | None) -> None:
    assert number_of(value) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [("", ""), ("ünï 🦜", "ünï 🦜"), ("a\0b", "a�b"), ("\ud800", "�"), ("x\udc00y\ud83e\udd9c", "x�y🦜"), ("\ufeffx", "\ufeffx"),
     (b"x", None), (7, None), (None, None), (["x"], None)],
)  # fmt: skip
def test_texts_that_a_database_takes(value: object, text: str | None) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "us"),
    [
        ("1970-01-01T00:00:01.500Z", 1_500_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01 00:00:00", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ("9999-12-31T23:59:59-01:00", None),
        ("yesterday", None),
        ("", None),
        ("x" * 5000, None),
        (0, None),
        (1.5e9, None),
        (None, None),
    ],
)
def test_times(value: object, us: int | None) -> None:
    assert microseconds(value) == us


# Whatever it is


@given(st.binary(max_size=200))
@example(b'{"a":1}\n\xff\n[]\n\n{')
@example(b"\r\r\n")
def test_every_line_of_any_bytes_is_accounted_for(content: bytes) -> None:
    found, records = read(content)
    lines = content.split(b"\n")
    assert records.last == len(lines) - (not lines[-1])
    assert len(found) + records.blank + len(records.rejected) == records.last


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), _VALUES), max_size=5), st.data())
def test_a_file_that_is_cut_anywhere_loses_only_its_last_line(
    values: list[dict[str, Any]], data: st.DataObject
) -> None:
    lines = [json.dumps(value, ensure_ascii=False, allow_nan=True).encode() for value in values]
    whole, content = read(b"\n".join(lines))[0], b"\n".join(lines)
    cut = content[: data.draw(st.integers(0, len(content)))]
    found, records = read(cut)
    full = cut.count(b"\n")
    assert repr(found[:full]) == repr(whole[:full])
    assert all(r.reason.startswith("not valid JSON: the file ends in the middle of it") for r in records.rejected)
