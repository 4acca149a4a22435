"""Reads and writes Thrift's compact protocol, as far as Parquet needs it (thrift, doc/specs/thrift-compact-protocol.md).

A struct is a dict from field numbers to values with their kinds, so that what is read and what is expected can be compared
field by field, and written to compare bytes: the protocol has several forms for most numbers, and only the shortest is
written here. Knows no Parquet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from exporttools.text.inert import one_line

BOOL: Final = 1
I16: Final = 4
I32: Final = 5
I64: Final = 6
BINARY: Final = 8
LIST: Final = 9
STRUCT: Final = 12

Value = tuple[int, Any]
"""A kind, and a value of it: bool, int, bytes, Fields, or for a list the kind of its elements and the list of them."""

Fields = dict[int, Value]
"""A struct: its fields by number."""

Names = Mapping[int, Any]
"""What the fields of a struct are called: each by a name, or by a name and the Names of what is in it."""

MOST_ELEMENTS = 100_000
"""The most elements of all lists together: three bytes become a kilobyte. A Parquet row group of 13 columns has some 80."""

_MOST_FIELDS = 400_000  # in all: two bytes become a hundred. A column chunk has some 30.
_MOST_LEVELS = 12
_BITS = {I16: 16, I32: 32, I64: 64}
_FALSE = 2  # as fields, booleans have no value: the kind is the value


def encode(fields: Fields) -> bytes:
    r"""Write a struct in its shortest form.

    Examples
    --------
    >>> encode({1: (I32, 2), 4: (BINARY, b"schema"), 5: (LIST, (I32, [0, 3]))})
    b'\x15\x048\x06schema\x19%\x00\x06\x00'
    """
    octets, last = bytearray(), 0
    for number, (kind, value) in sorted(fields.items()):
        octets += _field_header(number - last, number, _FALSE if kind == BOOL and not value else kind)
        octets += b"" if kind == BOOL else _encoded(kind, value)
        last = number
    return bytes(octets) + b"\0"


def decode(octets: bytes) -> tuple[Fields, int]:
    r"""Read the struct that some bytes begin with.

    Returns
    -------
    fields : Fields
    size : int
        How many bytes it takes.

    Raises
    ------
    IndexError
        It is longer than the bytes.
    ValueError
        It is not a struct, or one that Parquet does not have.

    Examples
    --------
    >>> decode(b"\x15\x04\x00and more")
    ({1: (5, 2)}, 3)
    """
    reader = _Reader(octets)
    return reader.struct(0), reader.position


def octets_of(fields: Fields, number: int) -> bytes:
    """Return a field that is text or bytes, empty if there is none."""
    kind, value = fields.get(number, (BINARY, b""))
    return value if kind == BINARY else b""


def struct_of(fields: Fields, number: int) -> Fields | None:
    """Return a field that is a struct, None if there is none."""
    kind, value = fields.get(number, (STRUCT, None))
    return value if kind == STRUCT else None


def structs_of(fields: Fields, number: int) -> list[Fields]:
    """Return a field that is a list of structs, empty if there is none."""
    kind, value = fields.get(number, (LIST, (STRUCT, [])))
    return value[1] if kind == LIST and value[0] == STRUCT else []


def require_same(expected: Fields, found: Fields, names: Names, where: str) -> None:
    r"""Raise unless two structs are the same.

    Raises
    ------
    ValueError
        Names the first field that differs.

    Examples
    --------
    >>> require_same({1: (I32, 2)}, {1: (I32, 3)}, {1: "version"}, "footer")
    Traceback (most recent call last):
    ValueError: footer: version: expected 2; found 3
    """
    if expected != found:
        path, there, here = _first_difference((STRUCT, expected), (STRUCT, found), names)
        raise ValueError(f"{where}: {path.lstrip('.')}: expected {_shown(there)}; found {_shown(here)}")


def require_shortest(fields: Fields, octets: bytes, where: str) -> None:
    """Raise unless the bytes are the shortest form of a struct, in which each number has one form.

    Raises
    ------
    ValueError
        They are not.
    """
    if encode(fields) != octets:
        raise ValueError(
            f"{where}: {len(octets):,} bytes; expected the shortest form of the same, {len(encode(fields)):,}"
        )


def _first_difference(
    expected: Value | None, found: Value | None, names: Names, path: str = ""
) -> tuple[str, Value | None, Value | None]:
    if expected is not None and found is not None and expected[0] == found[0] and expected[0] in (STRUCT, LIST):
        one, other = _children(expected), _children(found)
        for number in sorted({*one, *other}):
            if one.get(number) != other.get(number):
                name = names.get(number, f"field {number}")
                step, below = (
                    (f"[{number}]", names)
                    if expected[0] == LIST
                    else ((f".{name}", {}) if isinstance(name, str) else (f".{name[0]}", name[1]))
                )
                return _first_difference(one.get(number), other.get(number), below, path + step)
    return path, expected, found


def _children(value: Value) -> Fields:
    kind, content = value
    return content if kind == STRUCT else {i: (content[0], each) for i, each in enumerate(content[1])}


def _shown(value: Value | None) -> str:
    if value is None:
        return "nothing"
    kind, content = value
    match kind:
        case 8:
            return one_line(repr(content.decode(errors="backslashreplace")), 80)
        case 9:
            return f"a list of {len(content[1]):,}"
        case 12:
            return f"a struct of {len(content):,} fields"
    return f"{content:,}" if kind != BOOL else str(content).lower()


def _field_header(step: int, number: int, kind: int) -> bytes:
    return bytes([step << 4 | kind]) if step <= 15 else bytes([kind]) + _zigzag(number)


def _encoded(kind: int, value: Any) -> bytes:
    match kind:
        case 4 | 5 | 6:
            return _zigzag(value)
        case 8:
            return _varint(len(value)) + bytes(value)
        case 9:
            element, values = value
            size = (
                bytes([len(values) << 4 | element])
                if len(values) < 15
                else bytes([0xF0 | element]) + _varint(len(values))
            )
            return size + b"".join(_encoded(element, each) for each in values)
        case 12:
            return encode(value)
    raise ValueError(f"a Thrift value of kind {kind}")


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _zigzag(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else -2 * number - 1)


class _Reader:
    def __init__(self, octets: bytes) -> None:
        self.position = 0
        self._octets = octets
        self._elements = 0
        self._fields = 0

    def struct(self, level: int) -> Fields:
        if level > _MOST_LEVELS:
            raise ValueError("a Thrift struct with more levels than Parquet has")
        fields: Fields = {}
        last = 0
        while octet := self._octet():
            step, kind = octet >> 4, octet & 15
            number = last + step if step else self._zigzag(16)
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError(f"a Parquet footer with more than {_MOST_FIELDS:,} fields")
            if not last < number < 1 << 15:
                raise ValueError("a Thrift struct whose fields are out of order")
            fields[number] = (BOOL, kind == BOOL) if kind in (BOOL, _FALSE) else (kind, self._value(kind, level))
            last = number
        return fields

    def _value(self, kind: int, level: int) -> Any:
        match kind:
            case 4 | 5 | 6:
                return self._zigzag(_BITS[kind])
            case 8:
                return self._take(self._varint(31))
            case 9:
                return self._list(level)
            case 12:
                return self.struct(level + 1)
        raise ValueError(f"a Thrift field of type {kind}")

    def _list(self, level: int) -> tuple[int, list[Any]]:
        octet = self._octet()
        size, kind = octet >> 4, octet & 15
        size = self._varint(31) if size == 15 else size
        self._elements += size
        if self._elements > MOST_ELEMENTS:
            raise ValueError(f"a Parquet footer with more than {MOST_ELEMENTS:,} elements")
        if kind not in (I32, I64, BINARY, STRUCT):
            raise ValueError(f"a Thrift list of elements of type {kind}")
        return kind, [self._value(kind, level) for _ in range(size)]

    def _octet(self) -> int:
        octet = self._octets[self.position]
        self.position += 1
        return octet

    def _take(self, count: int) -> bytes:
        start, self.position = self.position, self.position + count
        if self.position > len(self._octets):
            raise IndexError
        return self._octets[start : self.position]

    def _varint(self, bits: int) -> int:
        value = 0
        for shift in range(0, bits, 7):
            octet = self._octet()
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                if value >> bits:
                    break
                return value
        raise ValueError(f"a Thrift number of more than {bits} bits")

    def _zigzag(self, bits: int) -> int:
        value = self._varint(bits)
        return (value >> 1) ^ -(value & 1)
