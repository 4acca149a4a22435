"""Computes what a Parquet file costs to read, from its footer and page headers, before pyarrow sees it. Knows no records.

A stranger's footer may say anything, and a reader allocates what the footer and the page headers say. Both are Thrift
structs in the compact protocol (parquet-format, parquet.thrift: FileMetaData, PageHeader). They are read here, strictly
enough to be sure that another reader understands the same: pyarrow's own view of a footer ends the process on some numbers
that it does not know (pyarrow 26).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

MOST_FOOTER_BYTES = 16 << 20

MOST_HELD_BYTES = 64 << 20
"""The most bytes of a row group in memory at one time: all pages of its texts; the largest page of each other column."""

MOST_METADATA_BYTES = 8 << 10
"""The most bytes of a footer's key-value metadata. The Arrow schema in it is a flatbuffer, whose parts may be shared:
what a reader builds from it may grow with the third power of its size."""

LEAST_PAGE_COST_BYTES = 64 << 10
"""What even the smallest page costs: finding it takes about as long as unpacking that much."""

# In all lists of a footer: three bytes become a kilobyte. A row group of 13 columns has some 80.
_MOST_ELEMENTS = 100_000
_MOST_HEADER_BYTES = 64 << 10  # including a page's statistics, whose texts writers cut at 4 KiB
_MOST_LEVELS = 12
_DICTIONARY_ENTRY_BYTES = 64  # the cost of a text in a dictionary besides its bytes: a pointer, a length, and time

_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12  # the compact protocol's types
_BOOLEANS = {1, 2}  # as fields: the type is the value
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3  # PageType
_DETAILS_FIELD = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_V2: 8}
_ENCODING_FIELD = {_DATA_PAGE: 2, _DICTIONARY_PAGE: 2, _DATA_PAGE_V2: 4}
# Encoding: PLAIN, PLAIN_DICTIONARY, RLE_DICTIONARY. Some of the others unpack to more than their page says.
_ENCODINGS = {0, 2, 8}
_UNCOMPRESSED, _ZSTD = 0, 6  # CompressionCodec

# The lists of a footer by field, with their element types. A reader goes by these, not by what a list says of itself.
_Shape = Mapping[int, Any]
_COLUMN_CHUNK: _Shape = {
    3: {2: [_I32], 3: [_BINARY], 8: [{}], 13: [{}], 16: {2: [_I64], 3: [_I64]}, 17: {2: [_I32]}},  # ColumnMetaData
    8: {2: {1: [_BINARY]}},  # ColumnCryptoMetaData
}
_FOOTER: _Shape = {2: [{}], 4: [{1: [_COLUMN_CHUNK], 4: [{}]}], 5: [{}], 7: [{}]}  # FileMetaData

_KEY_VALUE_METADATA = 5

_Fields = dict[tuple[int, int], Any]  # by number and type: a reader ignores a field of another type


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What reading a row group depends on.

    Attributes
    ----------
    rows : int
    dictionary_texts : dict of str to int
        The columns whose rows refer to the texts of a dictionary, with the bytes of its longest text: any row may unpack
        to that much, however small the pages are.
    """

    rows: int
    dictionary_texts: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One column of a row group, and where its pages are."""

    column: str
    is_text: bool
    codec: int
    start: int
    end: int

    @property
    def value_bytes(self) -> int:
        """The least bytes of a value; for a text, its length in a page or its offset in Arrow."""
        return 4 if self.is_text else 8


@dataclass(frozen=True, slots=True)
class _Page:
    is_dictionary: bool
    values: int
    unpacked_bytes: int
    start: int
    end: int


def read_footer(file: io.RawIOBase | BinaryIO, size_bytes: int) -> _Fields:
    """Read a footer: of a Parquet file that is not encrypted and whose footer alone does not exhaust memory.

    Raises
    ------
    ValueError
        The file is not such a file (parquet-format, README: File format).
    """
    if size_bytes < 12:
        raise ValueError(f"not a Parquet file: expected at least 12 bytes; found {size_bytes}")
    start, end = _read_at(file, 0, 4), _read_at(file, size_bytes - 8, 8)
    if b"PARE" in (start, end[4:]):
        raise ValueError("an encrypted Parquet file")
    if start != b"PAR1" or end[4:] != b"PAR1":
        raise ValueError(f"not a Parquet file: expected PAR1 at both ends; found {start!r} and {end[4:]!r}")
    footer_bytes = int.from_bytes(end[:4], "little")
    if footer_bytes > (most := min(MOST_FOOTER_BYTES, size_bytes - 12)):
        raise ValueError(f"a Parquet footer of {footer_bytes:,} bytes; expected at most {most:,}")
    compact = _Compact(_read_at(file, size_bytes - 8 - footer_bytes, footer_bytes))
    try:
        footer = compact.struct(_FOOTER)
    except IndexError:
        raise ValueError("a truncated Parquet footer") from None
    if compact.metadata_bytes > MOST_METADATA_BYTES:
        raise ValueError(
            f"key-value metadata of {compact.metadata_bytes:,} bytes; expected at most {MOST_METADATA_BYTES:,}"
        )
    if (8, _STRUCT) in footer:  # encryption_algorithm: a plain footer with encrypted columns
        raise ValueError("an encrypted Parquet file")
    return footer


def row_groups(
    file: io.RawIOBase | BinaryIO, size_bytes: int, footer: _Fields, schema: pa.Schema, *, spend: Callable[[int], None]
) -> list[RowGroup]:
    """Walk all page headers of a file.

    Parameters
    ----------
    file : raw file
        Seekable.
    size_bytes : int
        Its size.
    footer : fields
        From :func:`read_footer`.
    schema : pyarrow.Schema
        The schema as a reader sees it: columns of texts and of eight-byte numbers, not nested.
    spend : callable
        Called with the unpacked bytes of everything found; raises when it is too much.

    Raises
    ------
    ValueError
        The file is not as its footer says, or has pages that must not be read.
    """
    groups = footer.get((4, _LIST), [])
    total = sum(_number(group, 3, _I64) for group in groups)
    if total != (rows := _number(footer, 3, _I64)):
        raise ValueError(f"a footer of {rows:,} rows; expected {total:,} as in its row groups")
    found, spans = [], []
    for group in groups:
        rows, columns = _number(group, 3, _I64), group.get((1, _LIST), [])
        if len(columns) != len(schema):
            raise ValueError(f"a row group of {len(columns)} columns; expected {len(schema)} as in the schema")
        dictionary_texts: dict[str, int] = {}
        held_bytes = 0
        for column, field in zip(columns, schema, strict=True):
            if not rows:  # pyarrow writes empty row groups, with or without pages, and never reads them
                continue
            chunk = _chunk(column, field, rows, size_bytes)
            spans.append((chunk.start, chunk.end))
            spend(rows * chunk.value_bytes)
            values = largest = 0
            for page in _pages(file, chunk):
                refers = page.is_dictionary and chunk.is_text
                cost = page.unpacked_bytes + (page.values * _DICTIONARY_ENTRY_BYTES if refers else 0)
                spend(max(cost, LEAST_PAGE_COST_BYTES))
                if chunk.is_text or page.is_dictionary:
                    held_bytes += cost
                else:
                    largest = max(largest, cost)
                if held_bytes + largest > MOST_HELD_BYTES:
                    raise ValueError(
                        f"a row group that takes more than {MOST_HELD_BYTES:,} bytes of memory; expected smaller ones"
                    )
                if refers:
                    dictionary_texts[chunk.column] = _longest_text(file, chunk, page)
                values += 0 if page.is_dictionary else page.values
            held_bytes += largest
            if values != rows:
                raise ValueError(f"column {chunk.column}: pages of {values:,} values; expected {rows:,}")
        found.append(RowGroup(rows, dictionary_texts))
    if any(after[0] < before[1] for before, after in itertools.pairwise(sorted(spans))):
        raise ValueError("columns whose bytes overlap")
    return found


def _read_at(file: io.RawIOBase | BinaryIO, position: int, count: int) -> bytes:
    """Read `count` bytes at a position, or as many as there are."""
    file.seek(position)
    octets = b""
    while len(octets) < count and (more := file.read(count - len(octets))):
        octets += more
    return octets


def _chunk(column: _Fields, field: pa.Field, rows: int, size_bytes: int) -> _Chunk:
    if any(number in (1, 8, 9) for number, _ in column):  # file_path, crypto_metadata, encrypted_column_metadata
        raise ValueError(f"column {field.name}: encrypted or in another file; expected it here and not encrypted")
    metadata = column.get((3, _STRUCT), {})
    if (codec := _number(metadata, 4, _I32)) not in (_UNCOMPRESSED, _ZSTD):
        raise ValueError(f"column {field.name}: compression codec {codec}; expected zstd or none")
    if rows < 0 or _number(metadata, 5, _I64) != rows:
        raise ValueError(
            f"column {field.name}: {_number(metadata, 5, _I64):,} values; expected {rows:,} as in its row group"
        )
    data, dictionary = _number(metadata, 9, _I64), _number(metadata, 11, _I64)
    start = dictionary if 0 < dictionary < data else data
    end = start + _number(metadata, 7, _I64)
    if not 4 <= start <= end <= size_bytes - 8:
        raise ValueError(f"column {field.name}: pages from {start:,} to {end:,} of {size_bytes:,} bytes")
    return _Chunk(field.name, field.type == pa.string(), codec, start, end)


def _pages(file: io.RawIOBase | BinaryIO, chunk: _Chunk) -> Iterator[_Page]:
    """The pages of a chunk from its first byte to its last, each as its header says."""
    position = chunk.start
    while position < chunk.end:
        fields, start = _page_header(file, position, chunk)
        kind, unpacked, packed = (_number(fields, field, _I32) for field in (1, 2, 3))
        details = fields.get((_DETAILS_FIELD.get(kind, 0), _STRUCT))
        if details is None:
            raise ValueError(f"column {chunk.column}: a page of kind {kind}; expected data or a dictionary")
        values, encoding = _number(details, 1, _I32), _number(details, _ENCODING_FIELD[kind], _I32)
        if min(unpacked, packed, values) < 0 or start + packed > chunk.end:
            raise ValueError(
                f"column {chunk.column}: a page of {values:,} values in {packed:,} bytes that unpacks to {unpacked:,}; "
                f"expected at most {chunk.end - start:,} bytes"
            )
        if chunk.codec == _UNCOMPRESSED and packed != unpacked:
            raise ValueError(
                f"column {chunk.column}: an uncompressed page of {packed:,} bytes that unpacks to {unpacked:,}"
            )
        if encoding not in _ENCODINGS:
            raise ValueError(f"column {chunk.column}: encoding {encoding}; expected PLAIN or a dictionary")
        if (4, _I32) not in fields:
            raise ValueError(f"column {chunk.column}: a page without a checksum")
        if kind == _DICTIONARY_PAGE:
            if position != chunk.start:
                raise ValueError(f"column {chunk.column}: a dictionary that is not its first page")
            if values * chunk.value_bytes > unpacked:  # a reader allocates for as many as the header says
                raise ValueError(f"column {chunk.column}: a dictionary of {values:,} values in {unpacked:,} bytes")
        yield _Page(kind == _DICTIONARY_PAGE, values, unpacked, start, start + packed)
        position = start + packed


def _page_header(file: io.RawIOBase | BinaryIO, position: int, chunk: _Chunk) -> tuple[_Fields, int]:
    """A page header, and the position after it."""
    for most in (512, _MOST_HEADER_BYTES):
        header = _Compact(_read_at(file, position, min(most, chunk.end - position)))
        try:
            return header.struct({}), position + header.position
        except IndexError:
            continue
    raise ValueError(f"column {chunk.column}: a truncated page header")


def _number(fields: _Fields, field: int, kind: int) -> int:
    """A number, or -1, which no field that is read here can have."""
    return int(fields.get((field, kind), -1))


def _longest_text(file: io.RawIOBase | BinaryIO, chunk: _Chunk, page: _Page) -> int:
    """The bytes of a dictionary's longest text (parquet-format, Encodings.md, PLAIN: four bytes of length, the text)."""
    octets = _read_at(file, page.start, page.end - page.start)
    if chunk.codec == _ZSTD:
        octets = pa.decompress(octets, page.unpacked_bytes, codec="zstd", asbytes=True)
    position = longest = 0
    for _ in range(page.values):
        length = int.from_bytes(octets[position : position + 4], "little")
        position += 4 + length
        longest = max(longest, length)
    if position != page.unpacked_bytes:
        raise ValueError(
            f"column {chunk.column}: a dictionary of {page.unpacked_bytes:,} bytes whose texts end at {position:,}"
        )
    return longest


class _Compact:
    """Reads Thrift's compact protocol (thrift, doc/specs/thrift-compact-protocol.md). An IndexError means truncated bytes.

    What readers may understand in different ways is refused: fields out of order, numbers that are too large, lists that
    Parquet does not have.
    """

    def __init__(self, octets: bytes) -> None:
        self.position = 0
        self.metadata_bytes = 0  # of a footer
        self._octets = octets
        self._elements = 0

    def struct(self, shape: _Shape, level: int = 0) -> _Fields:
        """A struct's fields: integers, structs and lists; None for what is skipped.

        Raises
        ------
        ValueError
            It is not a struct, or readers may understand it in different ways.
        """
        if level > _MOST_LEVELS:
            raise ValueError("a Thrift struct with more levels than Parquet has")
        fields: _Fields = {}
        last = 0
        while octet := self._octet():
            step, kind = octet >> 4, octet & 15
            field = last + step if step else self._zigzag(32)
            if not last < field < 1 << 15:
                raise ValueError("a Thrift struct whose fields are out of order")
            start = self.position
            fields[field, kind] = None if kind in _BOOLEANS else self._value(kind, shape.get(field), level)
            if shape is _FOOTER and field == _KEY_VALUE_METADATA:
                self.metadata_bytes = self.position - start
            last = field
        return fields

    def _value(self, kind: int, shape: Any, level: int) -> Any:
        match kind:
            case 3:  # a byte
                return self._skip(1)
            case 4:  # an i16
                return self._zigzag(16)
            case 5:
                return self._zigzag(32)
            case 6:
                return self._zigzag(64)
            case 7:  # a double
                return self._skip(8)
            case 8:
                return self._skip(self._varint(31))
            case 9:
                return self._list(shape, level)
            case 12:
                return self.struct(shape if isinstance(shape, dict) else {}, level + 1)
        raise ValueError(f"a Thrift field of type {kind}")

    def _list(self, shape: Any, level: int) -> list[Any]:
        octet = self._octet()
        size, kind = octet >> 4, octet & 15
        size = self._varint(31) if size == 15 else size
        self._elements += size
        if self._elements > _MOST_ELEMENTS:
            raise ValueError(f"a Parquet footer with more than {_MOST_ELEMENTS:,} elements")
        element = shape[0] if isinstance(shape, list) else None
        if kind != (_STRUCT if isinstance(element, dict) else element):
            raise ValueError("a Thrift list that Parquet does not have there")
        return [self._value(kind, element, level) for _ in range(size)]

    def _octet(self) -> int:
        octet = self._octets[self.position]
        self.position += 1
        return octet

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self._octets):
            raise IndexError

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
