"""Parts that mean one thing to one reader and another to the next: each is a change to a valid part's tree."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from tests.bundle.page_mutations import plain_texts, split_levels
from tests.bundle.part_trees import (
    BINARY,
    BYTE,
    DICTIONARY,
    FALSE,
    I32,
    I64,
    LIST,
    STRUCT,
    TRUE,
    Items,
    Member,
    Page,
    PartTree,
    Struct,
    drop,
    encode_struct,
    get,
    packed,
    put,
)  # fmt: skip

Attack = Callable[[PartTree], object]


def skippable(octets: bytes) -> bytes:
    """A zstd frame that is skipped, with anything in it (RFC 8878 §3.1.2)."""
    return b"\x50\x2a\x4d\x18" + len(octets).to_bytes(4, "little") + octets


def says_of(column: str, *fields: tuple[int, int, Any]) -> Attack:
    """Statistics of a column's chunks: false, or of something else."""

    def attack(tree: PartTree) -> None:
        for group in range(len(tree.groups)):
            found: Struct = [Member(number, kind, value) for number, kind, value in fields]
            put(tree.chunk(column, group).metadata, 12, STRUCT, found)

    return attack


def extent(low: bytes, high: bytes, nulls: int | None = 0) -> list[tuple[int, int, Any]]:
    exact = [(7, TRUE, None), (8, TRUE, None)]
    return [*([(3, I64, nulls)] if nulls is not None else []), (5, BINARY, high), (6, BINARY, low), *exact]


def hidden_page(column: str, value: bytes) -> Attack:
    """A second page of other numbers inside the first, where ``dictionary_page_offset`` points and the walk does not go."""

    def attack(tree: PartTree) -> None:
        for group in range(len(tree.groups)):
            chunk = tree.chunk(column, group)
            (page,) = chunk.pages
            raw = value * page.values
            other = Page(page.header, packed(raw), raw).encode()
            page.body += skippable(other)
            place = len(page.encode()) - len(other)

            def lie(footer: Struct, group: int = group, place: int = place) -> None:
                for described in get(get(footer, 4).values[group], 1).values:
                    metadata = get(described, 3)
                    if get(metadata, 3).values == [column.encode()]:
                        put(metadata, 11, I64, get(metadata, 9) + place)

            tree.lies.append(lie)

    return attack


def annotated(column: str, *fields: tuple[int, int, Any]) -> Attack:
    """A column that the schema says more of."""

    def attack(tree: PartTree) -> None:
        for number, kind, value in fields:
            put(tree.element(column), number, kind, value)

    return attack


def paths_swapped(one: str, other: str) -> Attack:
    """Two columns that go by each other's names where their pages are."""

    def attack(tree: PartTree) -> None:
        for group in range(len(tree.groups)):
            first, second = tree.chunk(one, group), tree.chunk(other, group)
            put(first.metadata, 3, LIST, Items(BINARY, [other.encode()]))
            put(second.metadata, 3, LIST, Items(BINARY, [one.encode()]))

    return attack


def key_value(key: bytes, value: bytes) -> Attack:
    def attack(tree: PartTree) -> None:
        try:
            items = [item for item in get(tree.footer, 5).values if get(item, 1) != key]
        except KeyError:
            items = []
        put(tree.footer, 5, LIST, Items(STRUCT, [*items, [Member(1, BINARY, key), Member(2, BINARY, value)]]))

    return attack


def sorted_by(place: int, *, descending: bool = False) -> Attack:
    """Row groups that say in which order their rows are."""

    def attack(tree: PartTree) -> None:
        order = [Member(1, I32, place), Member(2, TRUE if descending else FALSE), Member(3, TRUE)]
        for group in get(tree.footer, 4).values:
            put(group, 4, LIST, Items(STRUCT, [order]))

    return attack


def bloom_filter(column: str) -> Attack:
    """A filter of which every bit is 0: it says of every value that it is not there (BloomFilter.md)."""

    def attack(tree: PartTree) -> None:
        one: Struct = [Member(1, STRUCT, [])]  # split blocks, XXHASH, not packed
        header: Struct = [Member(1, I32, 32), Member(2, STRUCT, one), Member(3, STRUCT, one), Member(4, STRUCT, one)]
        octets = encode_struct(header) + bytes(32)
        tree.before_footer = octets

        def lie(footer: Struct) -> None:
            end = tree.chunks[-1].at + get(tree.chunks[-1].metadata, 7)
            for group in get(footer, 4).values:
                for described in get(group, 1).values:
                    if get(described, 3, 3).values == [column.encode()]:
                        put(get(described, 3), 14, I64, end)
                        put(get(described, 3), 15, I32, len(octets))

        tree.lies.append(lie)

    return attack


def unit(column: str, said: str) -> Attack:
    """Another unit: in the Arrow schema of format 1, and in the columns of format 2."""

    def attack(tree: PartTree) -> None:
        for pair in get(tree.footer, 5).values:
            key, value = get(pair, 1), get(pair, 2)
            if key == b"ARROW:schema":
                schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(value)))
                i = schema.get_field_index(column)
                field = schema.field(i)
                changed = schema.set(i, field.with_metadata({**field.metadata, b"unit": said.encode()}))
                put(pair, 2, BINARY, base64.b64encode(changed.serialize().to_pybytes()))
            else:
                described = json.loads(value)
                described[column]["unit"] = said
                put(pair, 2, BINARY, json.dumps(described, separators=(",", ":")).encode())

    return attack


def arrow_type(column: str, other: pa.DataType) -> Attack:
    """An Arrow schema of another type, which pyarrow and Polars believe."""

    def attack(tree: PartTree) -> None:
        fields = []
        for element in get(tree.footer, 2).values[1:]:
            name = get(element, 4).decode()
            kind = {2: pa.int64(), 5: pa.float64(), 6: pa.string()}[get(element, 1)]
            kind = pa.timestamp("us", "UTC") if any(m.number == 6 and m.value == 10 for m in element) else kind
            fields.append(pa.field(name, other if name == column else kind, nullable=bool(get(element, 3))))
        key_value(b"ARROW:schema", base64.b64encode(pa.schema(fields).serialize().to_pybytes()))(tree)

    return attack


def pandas_index(column: str) -> Attack:
    """pandas metadata that makes a column an index, so that it is not a column."""

    def attack(tree: PartTree) -> None:
        names = [get(element, 4).decode() for element in get(tree.footer, 2).values[1:]]
        columns = [
            {"name": n, "field_name": n, "pandas_type": "object", "numpy_type": "object", "metadata": None}
            for n in names
        ]
        said = {
            "index_columns": [column],
            "column_indexes": [],
            "columns": columns,
            "creator": {"library": "pyarrow", "version": "26"},
        }
        key_value(b"pandas", json.dumps(said).encode())(tree)

    return attack


def gap(octets: bytes) -> Attack:
    """Octets before the footer that no reader looks at."""

    def attack(tree: PartTree) -> None:
        tree.before_footer = octets

    return attack


def more_in_dictionary(column: str, text: bytes) -> Attack:
    """A text in a dictionary that no row refers to: not UTF-8, or one that is a category in some readers."""

    def attack(tree: PartTree) -> None:
        page = tree.chunk(column).pages[0]
        assert page.kind == DICTIONARY
        count = len([*plain_texts(page.raw)])
        page.store(page.raw + len(text).to_bytes(4, "little") + text)
        put(page.details, 1, I32, count + 1)

    return attack


def dead_levels(column: str) -> Attack:
    """Octets between the levels and the values, which the length of the levels takes in."""

    def attack(tree: PartTree) -> None:
        chunk = tree.chunk(column)
        page = chunk.data_page
        levels, rest = split_levels(tree, chunk, page)
        assert levels is not None
        page.store((len(levels) + 9).to_bytes(4, "little") + levels + b"as hidden" + rest)

    return attack


def shared_place(column: str, place_of: str) -> Attack:
    """Two columns in one place: the pages of one stand there unread."""

    def attack(tree: PartTree) -> None:
        def lie(footer: Struct) -> None:
            for group in get(footer, 4).values:
                found = {
                    get(described, 3, 3).values[0].decode(): get(described, 3) for described in get(group, 1).values
                }
                for number in (6, 7, 9):
                    put(found[column], number, I64, get(found[place_of], number))

        tree.lies.append(lie)

    return attack


def without(*numbers: int) -> Attack:
    """A footer without some fields."""

    def attack(tree: PartTree) -> None:
        for number in numbers:
            drop(tree.footer, number)

    return attack


def twice(number: int, kind: int, value: Any) -> Attack:
    """A field of the footer twice: the second one may be the one that counts."""

    def attack(tree: PartTree) -> None:
        def lie(footer: Struct) -> None:
            place = next(i for i, member in enumerate(footer) if member.number == number)
            footer.insert(place, Member(number, kind, value))

        tree.lies.append(lie)

    return attack


INT = struct.Struct("<q").pack

# An attack, and readers that see other rows or none at all, where the reader of exporttools 0.1 saw the true ones.
READ_BEFORE: Mapping[str, tuple[Attack, set[str]]] = {
    "a second page where dictionary_page_offset is beyond data_page_offset": (
        hidden_page("tokens", INT(1)), {"DuckDB", "Polars", "Polars' scan"}),
    "a false minimum and maximum of a status": (
        says_of("status", *extent(b"ok", b"ok")), {"DuckDB", "pyarrow", "pyarrow's dataset", "Polars' scan", "fastparquet"}),
    "a false minimum and maximum of tokens": (
        says_of("tokens", *extent(INT(10**6), INT(10**7))), {"DuckDB", "pyarrow", "pyarrow's dataset", "Polars' scan", "fastparquet"}),
    "statistics that say that tokens are all alike": (
        says_of("tokens", *extent(INT(1), INT(1))), {"DuckDB", "pyarrow", "pyarrow's dataset", "Polars' scan", "fastparquet"}),
    "a false minimum and maximum in the fields of old": (
        says_of("tokens", (1, BINARY, INT(10**7)), (2, BINARY, INT(10**6))), {"DuckDB", "fastparquet"}),
    "a null_count of 0": (says_of("content_hash", (3, I64, 0)), {"DuckDB", "Polars' scan"}),
    "a null_count of all rows": (
        says_of("status", (3, I64, 25)), {"DuckDB", "pyarrow", "pyarrow's dataset", "Polars' scan", "fastparquet"}),
    "a Bloom filter in which there is nothing": (bloom_filter("status"), {"DuckDB"}),
    "tokens that are integers to some and decimals to others": (
        annotated("tokens", (6, I32, 5), (7, I32, 2), (8, I32, 18),
                  (10, STRUCT, [Member(10, STRUCT, [Member(1, BYTE, 64), Member(2, TRUE)])])), {"DuckDB", "fastparquet"}),
    "a status that is a decimal": (annotated("status", (6, I32, 5), (7, I32, 2), (8, I32, 18)), {"DuckDB", "fastparquet"}),
    "a status that is JSON": (annotated("status", (6, I32, 19)), {"DuckDB", "fastparquet"}),
    "a status that is BSON": (annotated("status", (6, I32, 20)), {"DuckDB", "fastparquet"}),
    "columns that go by each other's paths": (paths_swapped("cost_cents", "duration_ms"), {"fastparquet"}),
    "metadata that makes a column an index": (pandas_index("step_index"), {"fastparquet"}),
    "an Arrow schema in which tokens are times": (arrow_type("tokens", pa.timestamp("us")), {"Polars", "Polars' scan"}),
    "an Arrow schema in which a status is not text": (arrow_type("status", pa.binary()), {"Polars", "Polars' scan"}),
    "US dollars as a unit": (unit("cost_cents", "US dollars"), set()),
    "120 kB before the footer": (gap(bytes(120_000)), set()),
    "an order of rows that is not theirs": (sorted_by(3), set()),
    "a scale and precision without a type": (annotated("tokens", (7, I32, 2), (8, I32, 18)), set()),
    "milliseconds, for readers of old": (annotated("timestamp", (6, I32, 9)), set()),
    "a field id": (annotated("tokens", (9, I32, 1)), set()),
    "a text in a dictionary that no row has": (more_in_dictionary("status", b"failed"), set()),
    "a text in a dictionary that is not UTF-8": (more_in_dictionary("status", b"\xff"), {"DuckDB", "Polars", "Polars' scan"}),
    "octets among the levels": (dead_levels("content_hash"), set()),
}  # fmt: skip

REFUSED_BEFORE: Mapping[str, Attack] = {
    "tokens that are decimals": annotated("tokens", (6, I32, 5), (7, I32, 2), (8, I32, 18)),
    "tokens that are decimals, for readers of today": annotated(
        "tokens", (10, STRUCT, [Member(5, STRUCT, [Member(1, I32, 2), Member(2, I32, 18)])])
    ),
    "tokens without a sign": annotated("tokens", (6, I32, 14)),
    "hashes that cannot be NULL": annotated("content_hash", (3, I32, 0)),
    "hashes that are lists": annotated("content_hash", (3, I32, 2)),
    "costs where durations are": shared_place("cost_cents", "duration_ms"),
    "a number of rows twice": twice(3, I64, 1),
    "no version": without(1),
}
