"""A Parquet file as trees that may be changed anywhere and written again: with its own Thrift, so that it can judge ours.

:func:`parse` takes a file apart into a footer, chunks and pages. :meth:`PartTree.encode` puts it together: pages where
they stand now, their offsets, sizes and checksums made right, then :attr:`PartTree.lies`, changes to the finished footer.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)  # the compact protocol's types
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # PageType
UNCOMPRESSED, ZSTD = 0, 6  # CompressionCodec
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0skip"


@dataclass(slots=True)
class Member:
    """One field of a struct. `padding` adds octets to its varint that say nothing."""

    number: int
    kind: int
    value: Any = None
    padding: int = 0


@dataclass(slots=True)
class Items:
    """A list: of one kind, whatever its items are."""

    kind: int
    values: list[Any]


Struct = list[Member]


def get(members: Struct, *path: int) -> Any:
    """The value at a path: numbers of fields, and places in lists. A KeyError if it is not there."""
    found: Any = members
    for step in path:
        if isinstance(found, Items):
            found = found.values[step]
        else:
            found = next((member.value for member in found if member.number == step), None)
            if found is None:
                raise KeyError(path)
    return found


def put(members: Struct, number: int, kind: int, value: Any) -> None:
    """Set a field, in its place."""
    members[:] = sorted([m for m in members if m.number != number] + [Member(number, kind, value)], key=_number)


def drop(members: Struct, number: int) -> None:
    members[:] = [member for member in members if member.number != number]


def _number(member: Member) -> int:
    return member.number


def clone(members: Struct) -> Struct:
    """A copy that shares nothing that can change; ten times as fast as copy.deepcopy."""
    return [Member(member.number, member.kind, _clone(member.value), member.padding) for member in members]


def _clone(value: Any) -> Any:
    if isinstance(value, list):
        return clone(value)
    if isinstance(value, Items):
        return Items(value.kind, [_clone(item) for item in value.values])
    return value


def varint(number: int, padding: int = 0) -> bytes:
    octets = bytearray()
    while number > 127 or padding:
        octets.append(number & 127 | 128)
        number >>= 7
        if not number and padding:
            octets += b"\x80" * (padding - 1) + b"\0"
            return bytes(octets)
    return bytes([*octets, number])


def encode_struct(members: Struct) -> bytes:
    """In the order given, whatever it is; duplicates too."""
    octets, last = bytearray(), 0
    for member in members:
        step = member.number - last
        if 0 < step < 16:
            octets.append(step << 4 | member.kind)
        else:
            octets.append(member.kind)
            octets += varint(_zigzag(member.number))
        last = member.number
        octets += _encode(member.kind, member.value, member.padding)
    return bytes(octets) + b"\0"


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else -2 * number - 1


def _encode(kind: int, value: Any, padding: int = 0) -> bytes:
    match kind:
        case 1 | 2:
            return b""
        case 3:
            return bytes([value & 255])
        case 4 | 5 | 6:
            return varint(_zigzag(value), padding)
        case 7:
            return struct.pack("<d", value)
        case 8:
            return varint(len(value), padding) + value
        case 9 | 10:
            count = len(value.values)
            head = (
                bytes([count << 4 | value.kind]) if count < 15 else bytes([0xF0 | value.kind]) + varint(count, padding)
            )
            return head + b"".join(_encode_item(value.kind, item) for item in value.values)
        case 12:
            return encode_struct(value)
    raise AssertionError(kind)


def _encode_item(kind: int, value: Any) -> bytes:
    return bytes([value]) if kind in (TRUE, FALSE) else _encode(kind, value)


class _Octets:
    """Reads Thrift, and believes it: only files that a writer wrote are parsed."""

    def __init__(self, octets: bytes, position: int = 0) -> None:
        self.octets, self.position = octets, position

    def take(self, count: int) -> bytes:
        self.position += count
        return self.octets[self.position - count : self.position]

    def varint(self) -> int:
        value = shift = 0
        while True:
            octet = self.take(1)[0]
            value |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                return value

    def struct(self) -> Struct:
        members: Struct = []
        last = 0
        while octet := self.take(1)[0]:
            last = last + (octet >> 4) if octet >> 4 else self.signed()
            members.append(Member(last, octet & 15, self.value(octet & 15)))
        return members

    def signed(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def value(self, kind: int, *, item: bool = False) -> Any:
        match kind:
            case 1 | 2:
                return self.take(1)[0] if item else kind == TRUE
            case 3:
                return self.take(1)[0]
            case 4 | 5 | 6:
                return self.signed()
            case 7:
                return struct.unpack("<d", self.take(8))[0]
            case 8:
                return self.take(self.varint())
            case 9:
                head = self.take(1)[0]
                count = head >> 4 if head >> 4 < 15 else self.varint()
                return Items(head & 15, [self.value(head & 15, item=True) for _ in range(count)])
            case 12:
                return self.struct()
        raise AssertionError(kind)


@dataclass(slots=True)
class Page:
    """A page: its header, and its body as it is stored. Checksum and sizes follow from the body when it is written."""

    header: Struct
    body: bytes
    raw: bytes
    after: bytes = b""  # stands between this page and the next
    lies: list[Callable[[Struct], object]] = field(default_factory=list)

    @property
    def kind(self) -> int:
        return int(get(self.header, 1))

    @property
    def details(self) -> Struct:
        found: Struct = get(self.header, {DATA: 5, DICTIONARY: 7, DATA_V2: 8}[self.kind])
        return found

    @property
    def values(self) -> int:
        return int(get(self.details, 1))

    @property
    def encoding(self) -> int:
        return int(get(self.details, 2))

    def store(self, raw: bytes, codec: int = ZSTD) -> None:
        """Replace what the page unpacks to."""
        self.raw, self.body = raw, packed(raw) if codec == ZSTD else raw

    def encode(self) -> bytes:
        header = clone(self.header) if self.lies else list(self.header)
        checksum = struct.unpack("<i", struct.pack("<I", zlib.crc32(self.body)))[0]
        for number, value in ((2, len(self.raw)), (3, len(self.body)), (4, checksum)):
            put(header, number, I32, value)
        for lie in self.lies:
            lie(header)
        return encode_struct(header) + self.body


@dataclass(slots=True)
class Chunk:
    """The pages of one column of a row group, and what the footer says of them."""

    described: Struct
    pages: list[Page]
    before: bytes = b""  # stands between the chunk before and this one
    at: int = 0  # in the file, when written

    @property
    def metadata(self) -> Struct:
        found: Struct = get(self.described, 3)
        return found

    @property
    def codec(self) -> int:
        return int(get(self.metadata, 4))

    @property
    def data_page(self) -> Page:
        return next(page for page in self.pages if page.kind != DICTIONARY)

    @property
    def has_dictionary(self) -> bool:
        return bool(self.pages) and self.pages[0].kind == DICTIONARY


@dataclass(slots=True)
class PartTree:
    """A whole file.

    Attributes
    ----------
    footer : Struct
        Its row groups are those of `groups`: what is put here in place of them has no effect.
    groups : list of list of Chunk
    order : list of Chunk, or None
        Which chunks stand one after the other in the file, if not those of the groups in their order.
    start, before_footer, after_footer : bytes
        What stands at the beginning, before the footer, and between it and its length.
    lies : list of callable
        Changes to the finished footer, offsets and all.
    """

    footer: Struct
    groups: list[list[Chunk]]
    order: list[Chunk] | None = None
    start: bytes = b"PAR1"
    before_footer: bytes = b""
    after_footer: bytes = b""
    lies: list[Callable[[Struct], object]] = field(default_factory=list)

    def copy(self) -> PartTree:
        """A copy of a tree as it was parsed."""
        groups = [
            [Chunk(clone(c.described), [Page(clone(p.header), p.body, p.raw) for p in c.pages]) for c in group]
            for group in self.groups
        ]
        return PartTree(clone(self.footer), groups)

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for group in self.groups for chunk in group]

    def chunk(self, column: str, group: int = 0) -> Chunk:
        return next(c for c in self.groups[group] if get(c.metadata, 3).values == [column.encode()])

    def element(self, column: str) -> Struct:
        """The schema's element of a column."""
        found: Struct = next(e for e in get(self.footer, 2).values if get(e, 4) == column.encode())
        return found

    def encode(self) -> bytes:
        octets = bytearray(self.start)
        for chunk in self.order if self.order is not None else self.chunks:
            octets += chunk.before
            self._place(chunk, octets)
        footer = clone(self.footer)
        for group, chunks in zip(get(footer, 4).values, self.groups, strict=True):
            described = [clone(chunk.described) if self.lies else chunk.described for chunk in chunks]
            put(group, 1, LIST, Items(STRUCT, described))
            _total(group, chunks)
        for lie in self.lies:
            lie(footer)
        encoded = encode_struct(footer)
        octets += self.before_footer + encoded + self.after_footer
        return bytes(octets) + (len(encoded) + len(self.after_footer)).to_bytes(4, "little") + b"PAR1"

    def _place(self, chunk: Chunk, octets: bytearray) -> None:
        """Append a chunk's pages, and say in the footer where they are."""
        chunk.at = len(octets)
        headers = 0
        data_at = None
        for page in chunk.pages:
            encoded = page.encode()
            if data_at is None and page.kind != DICTIONARY:
                data_at = len(octets)
            octets += encoded + page.after
            headers += len(encoded) - len(page.body)
        metadata = chunk.metadata
        if any(member.number == 7 for member in metadata):
            put(metadata, 6, I64, headers + sum(len(page.raw) for page in chunk.pages))
            put(metadata, 7, I64, len(octets) - chunk.at)
            put(metadata, 9, I64, data_at or 0)
        if chunk.has_dictionary:
            put(metadata, 11, I64, chunk.at)


def _total(group: Struct, chunks: list[Chunk]) -> None:
    """A row group's place and sizes, where it says them."""
    present = {member.number for member in group}
    sums = {number: sum(get(chunk.metadata, field) for chunk in chunks) for number, field in ((2, 6), (6, 7))}
    for number in (2, 6):
        if number in present:
            put(group, number, I64, sums[number])
    if 5 in present and chunks:
        put(group, 5, I64, chunks[0].at if chunks[0].pages else 0)


def packed(raw: bytes) -> bytes:
    return bytes(pa.compress(raw, codec="zstd", asbytes=True))


def unpacked(body: bytes, size: int) -> bytes:
    return bytes(pa.decompress(body, size, codec="zstd", asbytes=True)) if size else b""


def parse(octets: bytes) -> PartTree:
    """Take a file apart that is well-formed."""
    size = int.from_bytes(octets[-8:-4], "little")
    footer = _Octets(octets[-8 - size : -8]).struct()
    groups = get(footer, 4).values
    return PartTree(footer, [[_chunk(octets, described) for described in get(group, 1).values] for group in groups])


def _chunk(octets: bytes, described: Struct) -> Chunk:
    metadata = get(described, 3)
    numbers = {member.number: member.value for member in metadata}
    start = numbers.get(11) or numbers[9]
    return Chunk(described, list(_pages(octets, start, start + numbers[7], numbers[4])))


def _pages(octets: bytes, start: int, end: int, codec: int) -> Iterator[Page]:
    while start < end:
        reader = _Octets(octets, start)
        header = reader.struct()
        body = reader.take(get(header, 3))
        yield Page(header, body, unpacked(body, get(header, 2)) if codec == ZSTD else body)
        start = reader.position


def by_format_1(
    table: pa.Table,
    *,
    dictionary: list[str],
    rows: int = 131_072,
    dictionary_bytes: int = 1 << 20,
    page_rows: int = 20_000,
) -> bytes:
    """A part as the writer of format 1 wrote it, in row groups of so many rows."""
    file = io.BytesIO()
    with pq.ParquetWriter(
        file, table.schema, compression="zstd", compression_level=1, use_dictionary=dictionary, write_page_checksum=True,
        dictionary_pagesize_limit=dictionary_bytes, max_rows_per_page=page_rows,
    ) as writer:  # fmt: skip
        for start in range(0, len(table), rows):
            writer.write_table(table.slice(start, rows))
    return file.getvalue()
