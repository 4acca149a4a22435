"""Walks the pages of a column chunk, and holds each to what exporttools writes. Knows no footers and no rows.

A column chunk is at most one dictionary of short texts, pages of indices into it, then pages of plain values (parquet-format,
README: Column chunks; parquet.thrift: PageHeader; data pages of version 1, compressed with zstd, with a checksum). One page
begins where the one before it ends, so a walk from the first byte of a file finds every byte of it.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from exporttools.bundle.format_1 import claims_of, expected_statistics
from exporttools.bundle.page_contents import count_not_null, read_runs, require_one_frame
from exporttools.bundle.page_headers import DATA_PAGE, DICTIONARY_PAGE, HEADER_NAMES, PLAIN, RLE_DICTIONARY, Page
from exporttools.bundle.row_claims import Claim
from exporttools.bundle.thrift import Fields, decode, encode, require_same, require_shortest
from exporttools.records.schema import Column

MOST_HELD_BYTES = 64 << 20
"""The most bytes that the pages of a row group may unpack to."""

_DICTIONARY_ENTRY_BYTES = 64  # the cost of a text in a dictionary besides its bytes: a pointer, a length, and time
_MOST_HEADER_BYTES = 64 << 10  # including the statistics of format 1, whose texts are cut at 4 KiB


@dataclass(slots=True)
class Chunk:
    """One column of a row group, as its pages are.

    Attributes
    ----------
    column : Column
    start : int
        Where in the file its first page begins.
    size_bytes, unpacked_bytes : int
        Of its pages with their headers, as they are and unpacked.
    values, not_null : int
    dictionary_bytes : int or None
        The size of the dictionary's page with its header, if it has one.
    longest_text_bytes : int
        The longest text of the dictionary: any row may unpack to that much, however small the pages are.
    data_pages : dict
        How many there are of each encoding.
    plain_from : int
        How many rows come before the plain ones.
    plain_text_bytes : int
        What the plain pages of a text column leave for texts.
    statistics, size_statistics : Fields or None
        What a footer of format 1 says of its values.
    claims : list of Claim
        What has to be held against its rows.
    """

    column: Column
    start: int
    size_bytes: int = 0
    unpacked_bytes: int = 0
    values: int = 0
    not_null: int = 0
    dictionary_bytes: int | None = None
    longest_text_bytes: int = 0
    data_pages: dict[int, int] = field(default_factory=dict)
    plain_from: int = 0
    plain_text_bytes: int = 0
    statistics: Fields | None = None
    size_statistics: Fields | None = None
    claims: list[Claim] = field(default_factory=list)

    def add(self, page: Page, header_bytes: int) -> None:
        """Count the next page.

        Raises
        ------
        ValueError
            There is no such page in that place.
        """
        if page.kind == DICTIONARY_PAGE:
            if self.size_bytes:
                raise ValueError("a dictionary that is not its first page")
            self.dictionary_bytes = header_bytes + page.packed_bytes
        else:
            if not page.values:
                raise ValueError("a page of no values")
            if page.encoding == RLE_DICTIONARY and (self.dictionary_bytes is None or PLAIN in self.data_pages):
                raise ValueError("a page of indices without a dictionary, or after plain values")
            if page.encoding == PLAIN and self.dictionary_bytes is not None and not self.data_pages:
                raise ValueError("a dictionary that no page refers to")
            if PLAIN not in self.data_pages:
                self.plain_from = self.values
            self.data_pages[page.encoding] = self.data_pages.get(page.encoding, 0) + 1
            self.values += page.values
        self.size_bytes += header_bytes + page.packed_bytes
        self.unpacked_bytes += header_bytes + page.unpacked_bytes


def read_pages(
    file: io.RawIOBase | BinaryIO, start: int, end: int, rows: int, charge: Callable[[int], None]
) -> Iterator[tuple[Page, Fields, bytes, bytes]]:
    """Read the pages of as many values as there are rows, one after the other, however they are written.

    `charge` is called with what each unpacks to, before its content is read.

    Yields
    ------
    page : Page
    fields : Fields
        Its header.
    header, content : bytes
        Both as they are in the file.

    Raises
    ------
    ValueError
        There are no such pages before `end`.
    """
    position, left = start, rows
    while left or position == start:  # pyarrow writes a dictionary even for no rows
        fields, header = _read_header(file, position, end)
        page = Page.of(fields)
        left -= page.values if page.kind == DATA_PAGE else 0
        position += len(header)
        most = min(end - position, page.unpacked_bytes + (page.unpacked_bytes >> 8) + 64)  # zstd never needs more
        if page.packed_bytes > most:
            raise ValueError(f"a page of {page.packed_bytes:,} bytes; expected at most {most:,}")
        if left < 0:
            raise ValueError(f"pages of {rows - left:,} values; expected {rows:,} as in its row group")
        charge(page.unpacked_bytes + (page.values * _DICTIONARY_ENTRY_BYTES if page.kind == DICTIONARY_PAGE else 0))
        yield page, fields, header, read_at(file, position, page.packed_bytes)
        position += page.packed_bytes


def read_chunk(
    file: io.RawIOBase | BinaryIO,
    column: Column,
    *,
    where: str,
    start: int,
    end: int,
    rows: int,
    charge: Callable[[int], None],
    format_version: int,
) -> Chunk:
    """Walk the pages of a chunk and check whatever can be checked without unpacking plain values.

    Parameters
    ----------
    file : raw file
        Seekable.
    column : Column
        What it is to be a chunk of.
    where : str
        Its name in messages about its rows.
    start, end : int
        Where it begins, and what it must not go beyond.
    rows : int
        How many values it is to have.
    charge : callable
        Called with what each page unpacks to, before it is unpacked; raises when it is too much.
    format_version : int
        In format 1, headers of pages may have statistics, frames windows, and plain values come after indices.

    Raises
    ------
    ValueError
        It has other pages than exporttools writes.
    """
    chunk = Chunk(column, start)
    if not rows and column.type != "string":
        return chunk
    used = np.zeros(0, bool)
    for page, fields, header, content in read_pages(file, start, end, rows, charge):
        first = chunk.values
        chunk.add(page, len(header))
        if len(chunk.data_pages) > 1 and format_version > 1:  # some readers take plain texts after indices for NULL
            raise ValueError("plain values after indices into a dictionary")
        require_one_frame(content, page.unpacked_bytes, windows=format_version == 1)
        if not rows and zlib.crc32(content) != page.checksum & 0xFFFFFFFF:  # pyarrow never reads such a page
            raise ValueError("a page whose checksum does not match")
        expected = replace(page, statistics=None)
        if page.kind == DICTIONARY_PAGE:
            used = np.zeros(page.values, bool)
            chunk.longest_text_bytes = _require_dictionary(page, content, column)
        else:
            levels_bytes, not_null = _read_levels(page, content, column)
            if page.encoding == RLE_DICTIONARY:
                _read_indices(_unpacked(page, content)[levels_bytes:], not_null, used)
            else:
                chunk.plain_text_bytes += _require_plain(page, levels_bytes, not_null, column)
            chunk.not_null += not_null
            if format_version == 1:
                stated = expected_statistics(page.statistics, column, values=page.values, not_null=not_null)
                expected = replace(page, statistics=stated)
                chunk.claims += claims_of(stated, None, f"{where}, a page", column, first, chunk.values)
        if encode(expected.header()) != header:
            require_same(expected.header(), fields, HEADER_NAMES, "page header")
            require_shortest(fields, header, "page header")
    if not used.all():
        raise ValueError(f"a dictionary of {len(used):,} texts of which only {used.sum():,} are in rows")
    if column.type == "string" and PLAIN in chunk.data_pages:
        chunk.claims.append(Claim(where, column.name, chunk.plain_from, rows, text_bytes=chunk.plain_text_bytes))
    return chunk


def read_at(file: io.RawIOBase | BinaryIO, position: int, count: int) -> bytes:
    """Read `count` bytes at a position, or as many as there are."""
    file.seek(position)
    octets = file.read(count) or b""
    while len(octets) < count and (more := file.read(count - len(octets))):
        octets += more
    return octets


def _read_header(file: io.RawIOBase | BinaryIO, position: int, end: int) -> tuple[Fields, bytes]:
    for most in (128, _MOST_HEADER_BYTES):
        octets = read_at(file, position, max(0, min(most, end - position)))
        try:
            fields, size = decode(octets)
        except IndexError:
            continue
        return fields, octets[:size]
    raise ValueError("a truncated page header")


def _unpacked(page: Page, content: bytes) -> bytes:
    return bytes(pa.decompress(content, page.unpacked_bytes, codec="zstd", asbytes=True))


def _read_levels(page: Page, content: bytes, column: Column) -> tuple[int, int]:
    """The bytes that say which values are NULL, and how many are not. Of plain values only these bytes are unpacked."""
    if not column.nullable:
        return 0, page.values
    with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
        size = int.from_bytes(stream.read(4), "little")
        levels = stream.read(min(size, page.unpacked_bytes))
    if len(levels) != size:
        raise ValueError(f"levels of {size:,} bytes in a page of {page.unpacked_bytes:,}")
    return 4 + size, count_not_null(levels, page.values)


def _require_plain(page: Page, levels_bytes: int, not_null: int, column: Column) -> int:
    """What plain values leave for texts, beside four bytes of length for each."""
    each = 4 if column.type == "string" else 8
    left = page.unpacked_bytes - levels_bytes - not_null * each
    if left < 0 or (left and column.type != "string"):
        raise ValueError(
            f"a page of {not_null:,} values in {page.unpacked_bytes:,} bytes; expected {levels_bytes + not_null * each:,}"
        )
    return left


def _read_indices(octets: bytes, values: int, used: np.ndarray) -> None:
    """Note which texts of a dictionary are used; of a million hidden in it, no reader would say anything."""
    most = max(1, (len(used) - 1).bit_length()) if len(used) else 0
    width = octets[0] if octets else -1
    if not bool(values) <= width <= most:
        raise ValueError(f"indices of {width} bits into a dictionary of {len(used):,} texts")
    packed, repeated, _ = read_runs(octets[1:], width=width, values=values, limit=len(used))
    used[packed] = True
    used[repeated] = True


def _require_dictionary(page: Page, content: bytes, column: Column) -> int:
    """The bytes of its longest text; they are to be different (Encodings.md, PLAIN: four bytes of length, the text)."""
    if column.type != "string":
        raise ValueError(f"a dictionary of {column.type} values; expected one of texts alone")
    octets = _unpacked(page, content)
    texts = set()
    position = 0
    for _ in range(page.values):
        start = position + 4
        position = start + int.from_bytes(octets[position:start], "little")
        texts.add(octets[start:position])
    if position != page.unpacked_bytes:
        raise ValueError(f"a dictionary of {page.unpacked_bytes:,} bytes whose texts end at {position:,}")
    if len(texts) != page.values:
        raise ValueError("a dictionary with the same text twice")
    for text in texts:
        text.decode()
    return max(map(len, texts), default=0)
