"""Random changes to a valid part, of every kind that a stranger could make, with checksums and sizes made right again.

:func:`mutate` chooses a kind, then a place: so a field that stands once is changed as often as one in every column.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

from tests.bundle.page_mutations import (
    a_page,
    codec,
    dictionary,
    flipped,
    frames,
    levels_and_indices,
    page_content,
    page_split,
)  # fmt: skip
from tests.bundle.part_trees import (
    BINARY,
    BYTE,
    DICTIONARY,
    FALSE,
    I16,
    I32,
    I64,
    LIST,
    STRUCT,
    TRUE,
    Chunk,
    Items,
    Member,
    PartTree,
    Struct,
    drop,
    get,
    put,
)  # fmt: skip

NUMBERS = (0, 1, -1, 2, 7, 127, 2**15, 2**31 - 1, -(2**31), 2**31, 2**32, 2**63 - 1, -(2**63))
TEXTS = (
    b"",
    b"x",
    b"tokens",
    b"ARROW:schema",
    b"\xff\xfe",
    b"US dollars",
    b"parquet-mr version 1.8.0 (build 1)",
    b"y" * 300,
)

# Fields that parquet.thrift knows at a level (the numbers that lead there) and that may not be there, by number and type.
_NONE: Struct = []
_STATISTICS: Struct = [
    Member(3, I64, 0), Member(5, BINARY, b"\1" + bytes(7)), Member(6, BINARY, bytes(8)), Member(7, TRUE), Member(8, TRUE)
]  # fmt: skip
_TIME = [Member(8, STRUCT, [Member(1, TRUE), Member(2, STRUCT, [Member(1, STRUCT, _NONE)])])]
_DECIMAL = [Member(5, STRUCT, [Member(1, I32, 2), Member(2, I32, 18)])]
KNOWN: dict[str, list[tuple[int, int, tuple[Any, ...]]]] = {
    "": [(1, I32, (0, 1, 3)), (5, LIST, (Items(STRUCT, []), Items(STRUCT, [[Member(1, BINARY, b"k"), Member(2, BINARY, b"v")]]))),
         (6, BINARY, TEXTS), (7, LIST, (Items(STRUCT, []), Items(STRUCT, [_NONE]))), (8, STRUCT, ([Member(1, STRUCT, _NONE)],)), (9, BINARY, TEXTS)],
    "2": [(1, I32, range(9)), (2, I32, (8, 0, 16)), (3, I32, (0, 1, 2)), (5, I32, (0, 1, 2)), (6, I32, range(-1, 24)), (7, I32, (0, 2)), (8, I32, (18, 9)),
          (9, I32, (0, 1, -1)), (10, STRUCT, (_TIME, _DECIMAL, *([Member(n, STRUCT, _NONE)] for n in range(1, 19))))],
    "4": [(4, LIST, (Items(STRUCT, [[Member(1, I32, 0), Member(2, TRUE), Member(3, FALSE)]]), Items(STRUCT, []))), (2, I64, NUMBERS), (5, I64, NUMBERS),
          (6, I64, NUMBERS), (7, I16, (0, 1, -1, 300))],
    "4.1": [(1, BINARY, TEXTS), (2, I64, NUMBERS), (4, I64, NUMBERS), (5, I32, NUMBERS), (6, I64, NUMBERS), (7, I32, NUMBERS), (8, STRUCT, ([Member(1, STRUCT, _NONE)],)),
            (9, BINARY, TEXTS)],
    "4.1.3": [(8, LIST, (Items(STRUCT, [[Member(1, BINARY, b"k")]]),)), (10, I64, NUMBERS), (11, I64, (0, 4, 100, 10**6)), (12, STRUCT, (_NONE, _STATISTICS)),
              (13, LIST, (Items(STRUCT, []), Items(STRUCT, [[Member(1, I32, 0), Member(2, I32, 0), Member(3, I32, 1)]]))), (14, I64, NUMBERS), (15, I32, NUMBERS),
              (16, STRUCT, (_NONE, [Member(1, I64, 5)])), (17, STRUCT, (_NONE,))],
    "4.1.3.12": [(1, BINARY, (bytes(8), b"z")), (2, BINARY, (bytes(8), b"z")), (3, I64, NUMBERS), (4, I64, NUMBERS), (5, BINARY, (bytes(8), b"\xff" * 8, b"z")),
                 (6, BINARY, (bytes(8), b"\xff" * 8, b"")), (7, TRUE, (None,)), (8, FALSE, (None,)), (9, I64, NUMBERS)],
    "page": [(4, I32, NUMBERS), (5, STRUCT, (_NONE,)), (6, STRUCT, (_NONE,)), (7, STRUCT, (_NONE, [Member(1, I32, 1), Member(2, I32, 0)])),
             (8, STRUCT, (_NONE, [Member(n, I32, 0) for n in range(1, 7)]))],
    "page.5": [(5, STRUCT, (_NONE, _STATISTICS)), (3, I32, range(10)), (4, I32, range(10))],
    "page.7": [(3, TRUE, (None,)), (3, FALSE, (None,)), (2, I32, range(10))],
}  # fmt: skip


# A tree of fields


def places(members: Struct, level: str = "") -> Iterator[tuple[str, Struct, int]]:
    """Every field of a tree: its level, the struct that it is in, and its place there."""
    for i, member in enumerate(members):
        yield level, members, i
        below = f"{level}.{member.number}".lstrip(".")
        if member.kind == STRUCT:
            yield from places(member.value, below)
        elif member.kind == LIST and member.value.kind == STRUCT:
            for item in member.value.values:
                yield from places(item, below)


def levels(members: Struct, level: str = "") -> Iterator[tuple[str, Struct]]:
    """Every struct of a tree, empty ones too."""
    yield level, members
    for member in members:
        below = f"{level}.{member.number}".lstrip(".")
        if member.kind == STRUCT:
            yield from levels(member.value, below)
        elif member.kind == LIST and member.value.kind == STRUCT:
            for item in member.value.values:
                yield from levels(item, below)


def change_fields(rng: random.Random, members: Struct, level: str = "") -> None:
    """Change one field somewhere in a tree."""
    if rng.random() < 0.25:
        _insert(rng, members, level)
        return
    by_field: dict[str, list[tuple[Struct, int]]] = {}
    for where, struct_, i in places(members, level):
        by_field.setdefault(f"{where}.{struct_[i].number}", []).append((struct_, i))
    struct_, i = rng.choice(by_field[rng.choice(sorted(by_field))])
    member = struct_[i]
    match rng.choice(
        ("value", "value", "value", "value", "remove", "twice", "other twice", "retype", "renumber", "order", "padding")
    ):
        case "remove":
            del struct_[i]
        case "twice":
            struct_.insert(i + 1, Member(member.number, member.kind, member.value))
        case "other twice":
            struct_.insert(i + rng.randrange(2), Member(member.number, member.kind, _other(rng, member)))
        case "retype":
            member.kind, member.value = rng.choice(
                [(I32, 1), (I64, 1), (BINARY, b"x"), (STRUCT, []), (LIST, Items(STRUCT, [])), (TRUE, None), (BYTE, 1), (I16, 1)]
            )  # fmt: skip
        case "renumber":
            member.number = rng.choice([member.number + 1, member.number - 1, 0, 15, 16, 31, 100, 2**15 - 1])
        case "order":
            j = rng.randrange(len(struct_))
            struct_[i], struct_[j] = struct_[j], struct_[i]
        case "padding":
            member.padding = rng.choice([1, 2, 8])
        case _:
            _change_value(rng, member)


def _insert(rng: random.Random, members: Struct, level: str) -> None:
    by_level: dict[str, list[Struct]] = {}
    for where, struct_ in levels(members, level):
        by_level.setdefault(where, []).append(struct_)
    where = rng.choice(sorted(by_level))
    struct_ = rng.choice(by_level[where])
    if where in KNOWN and rng.random() < 0.8:
        number, kind, values = rng.choice(KNOWN[where])
        put(struct_, number, kind, rng.choice(values))
    else:
        number = rng.choice([18, 19, 20, 30, 1000, 2**15 - 1, 0, *range(1, 18)])
        kind, value = rng.choice(
            [(I32, 1), (I64, 1), (BINARY, b"x" * 9), (STRUCT, []), (TRUE, None), (LIST, Items(I32, [1]))]
        )
        struct_.append(Member(number, kind, value))
        if rng.random() < 0.8:
            struct_.sort(key=lambda member: member.number)


def _change_value(rng: random.Random, member: Member) -> None:
    if member.kind in (TRUE, FALSE):
        member.kind = TRUE + FALSE - member.kind
    else:
        member.value = _other(rng, member)


def _other(rng: random.Random, member: Member) -> Any:
    value = member.value
    match member.kind:
        case 3 | 4 | 5 | 6:
            return rng.choice([value + 1, value - 1, value * 2, -value, value ^ (1 << rng.randrange(31)), *NUMBERS])
        case 8:
            return rng.choice([*TEXTS, value + b"\0", value[:-1], value[1:], flipped(rng, value), flipped(rng, value)])
        case 9:
            return _other_items(rng, value)
        case 12:
            return rng.choice([[], [*value, Member(99, I32, 1)], value[1:]])
    return value


def _other_items(rng: random.Random, items: Items) -> Items:
    values = list(items.values)
    match rng.choice(("drop", "double", "swap", "empty", "retype", "change")):
        case "drop" if values:
            del values[rng.randrange(len(values))]
        case "double" if values:
            i = rng.randrange(len(values))
            values.insert(rng.randrange(len(values) + 1), values[i])
        case "swap" if len(values) > 1:
            i, j = rng.sample(range(len(values)), 2)
            values[i], values[j] = values[j], values[i]
        case "retype":
            kind, value = rng.choice([(I32, 3), (I64, 3), (BINARY, b"x"), (STRUCT, [])])
            return Items(kind, [value] * len(values))
        case "change" if values and items.kind != STRUCT:
            i = rng.randrange(len(values))
            values[i] = _other(rng, Member(0, items.kind, values[i]))
        case _:
            values = []
    return Items(items.kind, values)


# Kinds of changes. Each changes the tree, or gives the octets of the whole file.

Kind = Callable[[random.Random, PartTree], bytes | None]


def footer_field(rng: random.Random, tree: PartTree) -> None:
    """After offsets and sizes were made right: they may be the ones that are changed."""
    tree.lies.append(lambda footer: change_fields(rng, footer))


def column_field(rng: random.Random, tree: PartTree) -> None:
    """In the schema or a chunk, not in all that stands around them."""

    def change(footer: Struct) -> None:
        if rng.random() < 0.5:
            change_fields(rng, rng.choice(get(footer, 2).values), "2")
        elif groups := get(footer, 4).values:
            change_fields(rng, rng.choice(get(rng.choice(groups), 1).values), "4.1")

    tree.lies.append(change)


def page_header(rng: random.Random, tree: PartTree) -> None:
    page = a_page(rng, tree)
    page.lies.append(lambda header: change_fields(rng, header, "page"))


def statistics(rng: random.Random, tree: PartTree) -> None:
    """Least, greatest and null counts: false ones, or some where there are none, in a chunk or in a page."""
    number = rng.randrange(len(tree.chunks))
    chunk = tree.chunks[number]
    values = [bytes(8), b"\xff" * 7 + b"\x7f", struct.pack("<q", 3), struct.pack("<d", 0.5), b"a", b"zz", b"ok", b""]
    found: Struct = []
    for field, kind, choices in (
        (1, BINARY, values), (2, BINARY, values), (3, I64, (0, 1, 3, 50, -1, chunk.data_page.values)), (4, I64, (0, 1, 2, 10)),
        (5, BINARY, values), (6, BINARY, values), (7, TRUE, (None,)), (8, FALSE, (None,)),
    ):  # fmt: skip
        if rng.random() < 0.6:
            found.append(Member(field, kind, rng.choice(choices)))
    if rng.random() < 0.5:
        page = rng.choice([page for page in chunk.pages if page.kind != DICTIONARY])
        page.lies.append(lambda header: put(get(header, 5), 5, STRUCT, found))
    else:
        put(chunk.metadata, 12, STRUCT, found)


def logical_type(rng: random.Random, tree: PartTree) -> None:
    """What a column's values mean: decimals, other times, signed and small integers, JSON."""
    element = rng.choice(get(tree.footer, 2).values[1:])
    kinds: list[Struct] = [
        *([Member(n, STRUCT, [])] for n in (1, 2, 3, 4, 6, 11, 12, 13, 14, 15, 16, 17, 18)),
        *([Member(5, STRUCT, [Member(1, I32, scale), Member(2, I32, precision)])] for scale, precision in ((2, 18), (0, 18), (18, 18))),
        *([Member(n, STRUCT, [Member(1, utc, None), Member(2, STRUCT, [Member(unit, STRUCT, [])])])]
          for n in (7, 8) for utc in (TRUE, FALSE) for unit in (1, 2, 3)),
        *([Member(10, STRUCT, [Member(1, BYTE, bits), Member(2, signed, None)])] for bits in (8, 16, 32, 64) for signed in (TRUE, FALSE)),
    ]  # fmt: skip
    if rng.random() < 0.6:
        put(element, 10, STRUCT, rng.choice(kinds))
    elif rng.random() < 0.5:
        drop(element, 10)
    if rng.random() < 0.6:
        put(element, 6, I32, rng.randrange(23))
        if rng.random() < 0.5:
            put(element, 7, I32, rng.choice([0, 2, 9]))
            put(element, 8, I32, rng.choice([18, 9, 1]))
    elif rng.random() < 0.5:
        drop(element, 6)
    if rng.random() < 0.3:
        put(element, 3, I32, rng.randrange(3))


def key_values(rng: random.Random, tree: PartTree) -> None:
    """What is said of the file: other keys, texts, an order, a key twice, another Arrow schema."""
    try:
        items = get(tree.footer, 5).values
    except KeyError:
        items = []
    match rng.choice(("insert", "remove", "twice", "text", "text", "key", "no value")):
        case "remove" if items:
            items.pop()
        case "twice" if items:
            items.append([Member(m.number, m.kind, m.value) for m in items[0]])
        case "text" if items:
            item = rng.choice(items)
            put(item, 2, BINARY, _edited(rng, get(item, 2)))
        case "key" if items:
            put(items[0], 1, BINARY, rng.choice([b"pandas", b"ARROW:schema", b"", b"geo", b"exporttools.columns "]))
        case "no value" if items:
            drop(items[0], 2)
        case _:
            key = rng.choice(
                [b"pandas", b"ARROW:schema", b"note", b"iceberg.schema", b"org.apache.spark.sql.parquet.row.metadata"]
            )
            items.append([Member(1, BINARY, key), Member(2, BINARY, rng.choice([b"{}", b"", b"//8=", b"null"]))])
    put(tree.footer, 5, LIST, Items(STRUCT, items))


def _edited(rng: random.Random, value: bytes) -> bytes:
    for old, new in ((b"US cents", b"US dollars"), (b'"ms"', b'"s"'), (b"tokens", b"kilotokens"), (b"UTC", b"CET")):
        if old in value and rng.random() < 0.4:
            return value.replace(old, new, 1)
    return rng.choice([flipped(rng, value), value + b" ", b" " + value, value[:-1], value.replace(b": ", b":"), b""])


def gap(rng: random.Random, tree: PartTree) -> None:
    """Octets that no one reads."""
    more = rng.choice([b"\0", b"x", bytes(8), rng.randbytes(40), b"PAR1", bytes(120_000)])
    match rng.choice(("start", "before the footer", "after the footer", "between chunks", "between pages")):
        case "start":
            tree.start += more
        case "before the footer":
            tree.before_footer = more
        case "after the footer":
            tree.after_footer = more
        case "between chunks" if tree.chunks:
            rng.choice(tree.chunks).before = more
        case _ if tree.chunks:
            a_page(rng, tree).after = more
        case _:
            tree.before_footer = more


def arrangement(rng: random.Random, tree: PartTree) -> None:
    """Row groups and chunks in other places, twice, or not at all."""
    match rng.choice(("groups", "chunks", "again", "without", "other chunk", "shared", "footer order", "empty group")):
        case "groups" if len(tree.groups) > 1:
            tree.order = [chunk for group in rng.sample(tree.groups, len(tree.groups)) for chunk in group]
        case "chunks":
            tree.order = rng.sample(tree.chunks, len(tree.chunks))
        case "again":
            i = rng.randrange(len(tree.groups))
            tree.order = tree.chunks
            tree.groups.append(tree.groups[i])
            items = get(tree.footer, 4).values
            items.append([Member(m.number, m.kind, m.value) for m in items[i]])
            if rng.random() < 0.7:
                put(tree.footer, 3, I64, sum(get(item, 3) for item in items))
        case "without":
            i = rng.randrange(len(tree.groups))
            tree.order = tree.chunks if rng.random() < 0.5 else None
            del tree.groups[i], get(tree.footer, 4).values[i]
            if rng.random() < 0.7:
                put(tree.footer, 3, I64, sum(get(item, 3) for item in get(tree.footer, 4).values))
        case "shared":
            tree.lies.append(lambda footer: _share(rng, footer))
        case "footer order" if len(tree.groups) > 1:
            tree.order = tree.chunks
            tree.groups.reverse()
            get(tree.footer, 4).values.reverse()
        case "empty group":
            _empty_group(tree)
        case _:
            group = rng.choice(tree.groups)
            i, j = rng.sample(range(len(group)), 2)
            group[i].pages, group[j].pages = group[j].pages, group[i].pages


def _share(rng: random.Random, footer: Struct) -> None:
    """Two columns in one place."""
    columns = get(rng.choice(get(footer, 4).values), 1).values
    one, other = (get(column, 3) for column in rng.sample(columns, 2))
    for member in one:
        if member.number in (6, 7, 9, 11):
            put(other, member.number, member.kind, member.value)


def _empty_group(tree: PartTree) -> None:
    """A row group of no rows, with columns of no pages."""
    columns = []
    for chunk in tree.groups[0]:
        metadata = [Member(m.number, m.kind, m.value) for m in chunk.metadata if m.number not in (11, 12, 13)]
        put(metadata, 5, I64, 0)
        described = [Member(m.number, m.kind, metadata if m.number == 3 else m.value) for m in chunk.described]
        columns.append(Chunk(described, []))
    tree.groups.append(columns)
    group = [Member(m.number, m.kind, m.value) for m in get(tree.footer, 4).values[0]]
    put(group, 3, I64, 0)
    get(tree.footer, 4).values.append(group)


def offsets(rng: random.Random, tree: PartTree) -> None:
    """Where a chunk's pages begin and end, as the footer says it."""

    def lie(footer: Struct) -> None:
        metadata = get(rng.choice(get(rng.choice(get(footer, 4).values), 1).values), 3)
        present = [member for member in metadata if member.number in (6, 7, 9, 11)]
        match rng.choice(("move", "move both", "dictionary", "no dictionary", "zero")):
            case "move":
                rng.choice(present).value += rng.choice([1, -1, 4, -4, 100, -100])
            case "move both":
                step = rng.choice([1, -1, 8, 50])
                get_ = {member.number: member for member in present}
                get_[9].value += step
                get_[7].value -= step
            case "dictionary":
                data = get(metadata, 9)
                put(metadata, 11, I64, rng.choice([data + 1, data + 40, data, 4, data - 1, 0, -1, 10**9]))
            case "no dictionary":
                drop(metadata, 11)
            case _:
                rng.choice(present).value = rng.choice([0, 4, -4])

    tree.lies.append(lie)


def octet(rng: random.Random, tree: PartTree) -> bytes:
    """Any byte of the file."""
    octets = tree.encode()
    return flipped(rng, octets)


def octets_anywhere(rng: random.Random, tree: PartTree) -> bytes:
    """Octets cut out, put in, or copied elsewhere."""
    octets = tree.encode()
    i, j = sorted(rng.randrange(len(octets)) for _ in range(2))
    j = min(j, i + rng.choice([0, 1, 4, 30]))
    return octets[:i] + rng.choice([b"", rng.randbytes(rng.randrange(9)), octets[:20]]) + octets[j:]


KINDS: dict[str, Kind] = {
    "footer field": footer_field, "column field": column_field, "page header": page_header, "statistics": statistics,
    "logical type": logical_type, "key-value metadata": key_values, "gap": gap, "arrangement": arrangement, "offsets": offsets,
    "codec": codec, "zstd frames": frames, "page content": page_content, "levels and indices": levels_and_indices,
    "dictionary": dictionary, "pages": page_split, "byte": octet, "bytes": octets_anywhere,
}  # fmt: skip


def mutate(rng: random.Random, tree: PartTree, kind: str) -> bytes:
    """A file changed in one way of a kind, or rarely in two of them."""
    tree = tree.copy()
    if not tree.chunks:  # a file of no row groups
        kind = kind if kind in ("footer field", "key-value metadata", "gap", "byte", "bytes") else "footer field"
    octets = KINDS[kind](rng, tree)
    if octets is None and rng.random() < 0.1:
        octets = KINDS["footer field"](rng, tree)
    return tree.encode() if octets is None else octets
