"""A page's header: what there is to take from one, and the one header that says so (parquet.thrift: PageHeader).

Data pages of version 1 and dictionaries, of plain values and of indices, with a checksum. Knows no files.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from exporttools.bundle.thrift import BOOL, I32, STRUCT, Fields, Names, struct_of

DATA_PAGE, DICTIONARY_PAGE = 0, 2  # PageType
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8  # Encoding
_DETAILS = {DATA_PAGE: 5, DICTIONARY_PAGE: 7}
_STATISTICS = 5  # DataPageHeader

STATISTICS_NAMES: Names = {
    1: "max", 2: "min", 3: "null_count", 4: "distinct_count", 5: "max_value", 6: "min_value",
    7: "is_max_value_exact", 8: "is_min_value_exact",
}  # fmt: skip
_LEVELS = {3: "definition_level_encoding", 4: "repetition_level_encoding", 5: ("statistics", STATISTICS_NAMES)}
HEADER_NAMES: Names = {
    1: "type", 2: "uncompressed_page_size", 3: "compressed_page_size", 4: "crc",
    5: ("data_page_header", {1: "num_values", 2: "encoding", **_LEVELS}),
    7: ("dictionary_page_header", {1: "num_values", 2: "encoding", 3: "is_sorted"}),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """What a page's header says.

    Attributes
    ----------
    kind : int
        DATA_PAGE or DICTIONARY_PAGE.
    values : int
        NULLs included.
    encoding : int
    unpacked_bytes, packed_bytes : int
        Of its content.
    checksum : int
        CRC-32 of the packed content, as a signed number.
    statistics : Fields or None
        Of its values, if any are stated.
    """

    kind: int
    values: int
    encoding: int
    unpacked_bytes: int
    packed_bytes: int
    checksum: int
    statistics: Fields | None

    @classmethod
    def of(cls, header: Fields) -> Page:
        """Take what is needed from a header.

        Raises
        ------
        ValueError
            It has no such fields.
        """
        kind = _number(header, 1)
        if kind not in _DETAILS:
            raise ValueError(f"a page of kind {kind}; expected data or a dictionary")
        if header.get(4, (None,))[0] != I32:
            raise ValueError("a page without a checksum")
        details = struct_of(header, _DETAILS[kind]) or {}
        page = cls(
            kind, _number(details, 1), _number(details, 2), _number(header, 2), _number(header, 3), _number(header, 4),
            struct_of(details, _STATISTICS),
        )  # fmt: skip
        if page.encoding not in ((PLAIN,) if kind == DICTIONARY_PAGE else (PLAIN, RLE_DICTIONARY)):
            raise ValueError(f"encoding {page.encoding}; expected PLAIN or a dictionary")
        if min(page.unpacked_bytes, page.packed_bytes, page.values) < 0:
            raise ValueError(
                f"a page of {page.values:,} values in {page.packed_bytes:,} bytes that unpacks to {page.unpacked_bytes:,}"
            )
        if kind == DICTIONARY_PAGE and page.values * 4 > page.unpacked_bytes:
            raise ValueError(f"a dictionary of {page.values:,} texts in {page.unpacked_bytes:,} bytes")
        return page

    def holding(self, content: bytes) -> Page:
        """Return the page with other packed content of the same meaning, and without statistics."""
        checksum = zlib.crc32(content)
        signed = checksum - (1 << 32) if checksum >> 31 else checksum
        return replace(self, packed_bytes=len(content), checksum=signed, statistics=None)

    def header(self) -> Fields:
        """Return the one header that says this."""
        details: Fields = {1: (I32, self.values), 2: (I32, self.encoding)}
        if self.kind == DICTIONARY_PAGE:
            details[3] = (BOOL, False)  # sorted
        else:
            details |= {3: (I32, RLE), 4: (I32, RLE)}  # of the levels
            if self.statistics is not None:
                details[_STATISTICS] = (STRUCT, self.statistics)
        return {
            1: (I32, self.kind),
            2: (I32, self.unpacked_bytes),
            3: (I32, self.packed_bytes),
            4: (I32, self.checksum),
            _DETAILS[self.kind]: (STRUCT, details),
        }


def _number(fields: Fields, number: int) -> int:
    """A 32-bit number, or -1, which no field that is read here can have."""
    kind, value = fields.get(number, (I32, -1))
    return int(value) if kind == I32 else -1
