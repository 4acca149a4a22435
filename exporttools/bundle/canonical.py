"""Holds a Parquet file to the one way in which exporttools writes it, from the first byte to the last.

Of a stranger's footer, only the names and types of extra columns and the rows of each row group are taken. From them and
from the pages, which follow each other without a gap, the footer is built that has to be there, and the two are compared.
So whatever a reader goes by, it finds the same rows. What only the rows can tell is left as claims
(:mod:`exporttools.bundle.row_claims`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from exporttools.bundle.format_1 import claims_of, expected_sizes, expected_statistics
from exporttools.bundle.parquet_footers import MAGIC, row_group, whole
from exporttools.bundle.parquet_pages import MOST_HELD_BYTES, Chunk, read_chunk
from exporttools.bundle.row_claims import Claim
from exporttools.bundle.stated_footers import (
    read_columns,
    read_footer,
    read_group_rows,
    require_chunk,
    require_footer,
)
from exporttools.bundle.thrift import Fields, struct_of, structs_of
from exporttools.records.schema import Column, RecordType

LEAST_PAGE_COST_BYTES = 64 << 10
"""What even the smallest page costs: checking it takes about as long as unpacking that much."""


class OverBudget(ValueError):
    """A file that unpacks to more than it may."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """What reading a row group depends on, and what the file says of its rows.

    Attributes
    ----------
    rows : int
    dictionary_texts : dict of str to int
        The columns with a dictionary, with the bytes of its longest text: any row may unpack to that much.
    claims : tuple of Claim
    """

    rows: int
    dictionary_texts: dict[str, int]
    claims: tuple[Claim, ...]


def read_canonical(
    record_type: RecordType,
    file: io.RawIOBase | BinaryIO,
    size_bytes: int,
    *,
    format_version: int,
    spend: Callable[[int], None],
) -> tuple[tuple[Column, ...], list[RowGroup]]:
    """Walk a file.

    Parameters
    ----------
    record_type : RecordType
        The kind of its rows.
    file : raw file
        Seekable.
    size_bytes : int
        Its size.
    format_version : int
        The format of the bundle: in format 1 there are statistics and an Arrow schema.
    spend : callable
        Called with the unpacked bytes of everything found, before it is unpacked; raises when it is too much.

    Returns
    -------
    columns : tuple of Column
        The record type's, then the extra ones.
    groups : list of RowGroup

    Raises
    ------
    ValueError
        It is written in another way; the message names the first difference.
    """
    footer = read_footer(file, size_bytes)
    columns, head = read_columns(record_type, footer, format_version=format_version)
    position, groups, expected = len(MAGIC), [], []
    for number, rows in enumerate(read_group_rows(footer, format_version=format_version)):
        stated = structs_of(footer.structs(4)[number], 1)
        charge = _charging(spend)
        chunks: list[Chunk] = []
        for i, column in enumerate(columns):
            where = f"row group {number}, column {column.name}"
            with _named(where):
                spend(rows * (4 if column.type == "string" else 8))
                chunk = read_chunk(
                    file, column, where=where, start=position, end=footer.start, rows=rows, charge=charge,
                    format_version=format_version,
                )  # fmt: skip
                found = stated[i] if i < len(stated) else {}
                if format_version == 1:
                    _take_statistics(chunk, struct_of(found, 3) or {}, where)
                require_chunk(chunk, found)
            position += chunk.size_bytes
            chunks.append(chunk)
        texts = {chunk.column.name: chunk.longest_text_bytes for chunk in chunks if chunk.dictionary_bytes is not None}
        groups.append(RowGroup(rows, texts, tuple(claim for chunk in chunks for claim in chunk.claims)))
        expected.append(row_group(chunks))
    if position != footer.start:
        raise ValueError(f"{footer.start - position:,} bytes before the footer that belong to no page")
    require_footer(whole(head, expected), footer)
    return columns, groups


def _charging(spend: Callable[[int], None]) -> Callable[[int], None]:
    """Spend what the pages of one row group cost, and refuse what could not be held in memory at one time."""
    held_bytes = 0

    def charge(cost: int) -> None:
        nonlocal held_bytes
        held_bytes += cost
        spend(max(cost, LEAST_PAGE_COST_BYTES))
        if held_bytes > MOST_HELD_BYTES:
            raise ValueError(f"a row group that unpacks to more than {MOST_HELD_BYTES:,} bytes")

    return charge


def _take_statistics(chunk: Chunk, metadata: Fields, where: str) -> None:
    chunk.statistics = expected_statistics(
        struct_of(metadata, 12), chunk.column, values=chunk.values, not_null=chunk.not_null
    )
    chunk.size_statistics = expected_sizes(
        struct_of(metadata, 16), chunk.column, values=chunk.values, not_null=chunk.not_null
    )
    chunk.claims += claims_of(chunk.statistics, chunk.size_statistics, where, chunk.column, 0, chunk.values)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say where an error is; those of the budget are the whole file's."""
    try:
        yield
    except OverBudget:
        raise
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
