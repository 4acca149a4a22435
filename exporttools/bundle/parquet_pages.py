"""What a Parquet file costs to read, from its footer and page headers, before anything is unpacked. Knows no records.

A footer may lie about sizes; the page headers are what a reader obeys. Both are Thrift structs in the compact protocol
(parquet-format, parquet.thrift: FileMetaData, PageHeader), of which this room reads the few fields it needs. It reads the
footer itself, since pyarrow's view of a column chunk ends the process where the footer is damaged (pyarrow 26).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from exporttools.inert import one_line

MOST_FOOTER_BYTES = 4 << 20
"""The most that a footer may have; that of a trace of 300 million steps fits."""

MOST_PAGE_BYTES = 64 << 20
"""The most that one page may unpack to; what holds a text of 50 million characters fits."""

_MOST_HEADER_BYTES = 64 << 10  # with a page's statistics, whose texts writers cut at 4 KiB
_MOST_LEVELS = 12
_BOOLEANS = {1, 2}  # as fields: the type is the value
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3  # PageType
_HEADER_FIELD = {_DATA_PAGE: 5, _DICTIONARY_PAGE: 7, _DATA_PAGE_V2: 8}
_ENCODING_FIELD = {_DATA_PAGE: 2, _DICTIONARY_PAGE: 2, _DATA_PAGE_V2: 4}
# Encoding: PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY. Of the others, some unpack to more than their page says.
_ENCODINGS = {0, 2, 3, 8}
_CODECS = {0, 6}  # CompressionCodec: UNCOMPRESSED, ZSTD


@dataclass(frozen=True, slots=True)
class ColumnCost:
    """What one column of a file costs to read.

    Attributes
    ----------
    page_bytes : int
        What all its pages unpack to.
    resident_bytes : int
        What is unpacked of it at one time: its largest page, and its largest dictionary.
    bytes_per_value : float
        The most that a page unpacks to for each of its values.
    has_dictionary : bool
        Whether pages refer to texts of a dictionary, which may unpack to more than the pages do.
    """

    page_bytes: int
    resident_bytes: int
    bytes_per_value: float
    has_dictionary: bool


@dataclass(frozen=True, slots=True)
class _Page:
    kind: int
    values: int
    unpacked_bytes: int


def column_costs(file: io.RawIOBase | BinaryIO, size_bytes: int) -> list[ColumnCost]:
    """Read a file's footer and walk all its page headers.

    Parameters
    ----------
    file : raw file
        Seekable.
    size_bytes : int
        Its size.

    Returns
    -------
    list of ColumnCost
        One for each column; none where there is no row group.

    Raises
    ------
    ValueError
        The file is not as its footer says, or has pages that are not to be read.
    """
    columns: list[list[_Page]] = []
    spans: list[tuple[int, int]] = []
    for rows, chunks in _row_groups(_footer(file, size_bytes)):
        columns = columns or [[] for _ in chunks]
        if len(chunks) != len(columns):
            raise ValueError(f"a row group of {len(chunks)} columns after one of {len(columns)}")
        for pages, chunk in zip(columns, chunks, strict=True):
            if not rows:  # pyarrow writes a row group without rows, and reads none of its pages
                continue
            start, end = chunk.start, chunk.start + chunk.size_bytes
            if not 4 <= start < end <= size_bytes - 8:
                raise ValueError(f"column {chunk.name}: pages from {start} to {end} of {size_bytes} bytes")
            spans.append((start, end))
            found = list(_pages(file, start, end, chunk.name))
            if sum(page.values for page in found if page.kind != _DICTIONARY_PAGE) != rows:
                raise ValueError(f"column {chunk.name}: pages of other than {rows:,} values")
            pages += found
    if any(after[0] < before[1] for before, after in itertools.pairwise(sorted(spans))):
        raise ValueError("columns whose bytes overlap")
    return [_cost(pages) for pages in columns]


def _cost(pages: list[_Page]) -> ColumnCost:
    dictionaries = [page.unpacked_bytes for page in pages if page.kind == _DICTIONARY_PAGE]
    data = [page for page in pages if page.kind != _DICTIONARY_PAGE]
    return ColumnCost(
        page_bytes=sum(page.unpacked_bytes for page in pages),
        resident_bytes=max((page.unpacked_bytes for page in data), default=0) + max(dictionaries, default=0),
        bytes_per_value=max((page.unpacked_bytes / max(page.values, 1) for page in data), default=0),
        has_dictionary=bool(dictionaries),
    )


@dataclass(frozen=True, slots=True)
class _Chunk:
    name: str
    start: int
    size_bytes: int


def _footer(file: io.RawIOBase | BinaryIO, size_bytes: int) -> dict[int, Any]:
    """The footer, with the magic at both ends (parquet-format, README: File format)."""
    file.seek(0)
    start = file.read(4)
    file.seek(max(0, size_bytes - 8))
    end = file.read(8) or b""
    if b"PARE" in (start, end[4:]):
        raise ValueError("an encrypted Parquet file")
    if size_bytes < 12 or start != b"PAR1" or end[4:] != b"PAR1":
        raise ValueError("no Parquet file")
    footer_bytes = int.from_bytes(end[:4], "little")
    if footer_bytes > min(MOST_FOOTER_BYTES, size_bytes - 12):
        raise ValueError(f"a Parquet footer of {footer_bytes:,} bytes in a file of {size_bytes:,}")
    file.seek(size_bytes - 8 - footer_bytes)
    try:
        footer = _Compact(file.read(footer_bytes) or b"").struct()
    except IndexError:
        raise ValueError("a Parquet footer that does not end") from None
    if 8 in footer:  # encryption_algorithm: the footer can be read, columns cannot
        raise ValueError("an encrypted Parquet file")
    return footer


def _row_groups(footer: dict[int, Any]) -> Iterator[tuple[int, list[_Chunk]]]:
    """The rows and the column chunks of each row group."""
    groups = [group for group in _list(footer, 4) if isinstance(group, dict)]
    rows = [_number(group, 3) for group in groups]
    if min(rows, default=0) < 0 or sum(rows) != _number(footer, 3):
        raise ValueError(f"a footer of {_number(footer, 3):,} rows whose row groups have another sum")
    for group, count in zip(groups, rows, strict=True):
        yield count, [_chunk(chunk) for chunk in _list(group, 1)]


def _chunk(chunk: Any) -> _Chunk:
    metadata = chunk.get(3) if isinstance(chunk, dict) else None
    if not isinstance(metadata, dict) or chunk.keys() & {1, 8, 9}:  # file_path, crypto_metadata, encrypted metadata
        raise ValueError("a column that is encrypted or elsewhere")
    name = one_line(b".".join(part for part in _list(metadata, 3) if isinstance(part, bytes)).decode(errors="replace"))
    if (codec := _number(metadata, 4)) not in _CODECS:
        raise ValueError(f"column {name}: compression codec {codec}; expected zstd or none")
    data, dictionary = _number(metadata, 9), _number(metadata, 11)
    return _Chunk(name, min(data, dictionary) if dictionary > 0 else data, _number(metadata, 7))


def _pages(file: io.RawIOBase | BinaryIO, start: int, end: int, column: str) -> Iterator[_Page]:
    position = start
    while position < end:
        file.seek(position)
        header = _Compact(file.read(min(512, end - position)) or b"")
        try:
            fields = header.struct()
        except IndexError:
            file.seek(position)
            header = _Compact(file.read(min(_MOST_HEADER_BYTES, end - position)) or b"")
            try:
                fields = header.struct()
            except IndexError:
                raise ValueError(f"column {column}: a page header that does not end") from None
        kind, unpacked, packed = (_number(fields, i) for i in (1, 2, 3))
        if kind not in _HEADER_FIELD or not isinstance(details := fields.get(_HEADER_FIELD[kind]), dict):
            raise ValueError(f"column {column}: a page of kind {kind}")
        values, encoding = _number(details, 1), _number(details, _ENCODING_FIELD[kind])
        if min(unpacked, packed, values) < 0 or unpacked > MOST_PAGE_BYTES:
            raise ValueError(
                f"column {column}: a page of {values:,} values that unpacks to {unpacked:,} bytes; "
                f"expected at most {MOST_PAGE_BYTES:,}"
            )
        if encoding not in _ENCODINGS:
            raise ValueError(f"column {column}: encoding {encoding}; expected PLAIN, RLE or a dictionary")
        if 4 not in fields:
            raise ValueError(f"column {column}: a page without a checksum")
        position += header.position + packed
        yield _Page(kind, values, unpacked)
    if position != end:
        raise ValueError(f"column {column}: a page that ends {position - end} bytes after its column")


def _number(fields: dict[int, Any], field: int) -> int:
    value = fields.get(field, -1)
    return value if isinstance(value, int) else -1


def _list(fields: dict[int, Any], field: int) -> list[Any]:
    value = fields.get(field)
    return value if isinstance(value, list) else []


class _Compact:
    """A Thrift struct in the compact protocol. An IndexError: the bytes end before it does."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.position = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Its fields by number: whole numbers, bytes, lists and structs; None for whatever else there is.

        Raises
        ------
        ValueError
            It is none.
        """
        if depth > _MOST_LEVELS:
            raise ValueError("a Thrift struct of too many levels")
        fields: dict[int, Any] = {}
        field = 0
        while octet := self._octet():
            step, kind = octet >> 4, octet & 15
            field = field + step if step else self._zigzag()
            if field in fields:
                raise ValueError("a Thrift struct with a field twice")
            fields[field] = None if kind in _BOOLEANS else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2 | 3:  # in a list a boolean has a byte
                return self._bytes(1) and None
            case 4 | 5 | 6:  # i16, i32, i64
                return self._zigzag()
            case 7:
                return self._bytes(8) and None
            case 8:
                return self._bytes(self._varint())
            case 9:
                return self._list(depth)
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"a Thrift field of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        octet = self._octet()
        size, kind = octet >> 4, octet & 15
        if size == 15:
            size = self._varint()
        if size > len(self._octets) - self.position:
            raise IndexError
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _octet(self) -> int:
        octet = self._octets[self.position]
        self.position += 1
        return octet

    def _bytes(self, count: int) -> bytes:
        octets = self._octets[self.position : self.position + count]
        if len(octets) < count:
            raise IndexError
        self.position += count
        return octets

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            octet = self._octet()
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
        raise ValueError("a Thrift number that does not end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
