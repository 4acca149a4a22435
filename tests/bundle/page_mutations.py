"""Random changes to pages: how they are packed, and what they unpack to. The other changes are in mutations.py."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from tests.bundle.part_trees import (
    DICTIONARY,
    FALSE,
    I32,
    SKIPPABLE,
    STRUCT,
    TRUE,
    UNCOMPRESSED,
    ZSTD,
    Chunk,
    Member,
    Page,
    PartTree,
    get,
    packed,
    put,
    varint,
)  # fmt: skip
from tests.bundle.runs import Run, packed_run, parse_runs, repeated, to_octets


def flipped(rng: random.Random, octets: bytes) -> bytes:
    """One bit or byte of it changed."""
    if not octets:
        return b"\1"
    i = rng.randrange(len(octets))
    change = rng.choice([1 << rng.randrange(8), rng.randrange(1, 256)])
    return octets[:i] + bytes([octets[i] ^ change]) + octets[i + 1 :]


def codec(rng: random.Random, tree: PartTree) -> None:
    """A chunk that is not packed, or says that it is packed otherwise."""
    chunk = rng.choice(tree.chunks)
    if rng.random() < 0.6:
        put(chunk.metadata, 4, I32, UNCOMPRESSED)
        for page in chunk.pages:
            page.body = page.raw
    else:
        put(chunk.metadata, 4, I32, rng.choice([0, 1, 2, 4, 5, 7, 8, -1, 99]))


def frames(rng: random.Random, tree: PartTree) -> None:
    """What a page is packed into: several frames, frames to skip, frames of other levels, octets after the last."""
    page = a_page(rng, tree)
    raw, half = page.raw, len(page.raw) // 2
    match rng.randrange(10):
        case 0:
            page.body = packed(raw[:half]) + packed(raw[half:])
        case 1:
            page.body = SKIPPABLE + page.body
        case 2:
            page.body += SKIPPABLE
        case 3:
            page.body += packed(b"")
        case 4:
            page.body += rng.choice([b"\0", b"x" * 20, packed(b"more")])
        case 5:
            page.body = stored_frame(raw, window=rng.choice([0x00, 0x58, 0x70, 0xA8, 0xFF]))
        case 6:
            page.body = stored_frame(raw, single=rng.choice([1, 2, 4, 8]))
        case 7:
            page.body = stored_frame(raw, single=4, flags=rng.choice([1, 2, 3, 4, 8, 16]))
        case 8:
            page.body = page.body[:-1]
        case _:
            page.body = flipped(rng, page.body)


def stored_frame(raw: bytes, *, window: int | None = None, single: int = 0, flags: int = 0) -> bytes:
    """A zstd frame by hand (RFC 8878 §3.1.1), of blocks that are not packed. `single`: octets of its content size."""
    sizes = {1: (0, "<B", 0), 2: (1, "<H", 256), 4: (2, "<I", 0), 8: (3, "<Q", 0)}
    header = bytes([0x28, 0xB5, 0x2F, 0xFD])
    if single:
        code, layout, less = sizes[single]
        if not less <= len(raw) < 256**single + less:
            code, layout, less = sizes[4]
        header += bytes([code << 6 | 0x20 | flags]) + struct.pack(layout, len(raw) - less)
    else:
        header += bytes([flags, 0 if window is None else window])
    blocks = [raw[i : i + 100_000] for i in range(0, len(raw), 100_000)] or [b""]
    last = len(blocks) - 1
    return header + b"".join(
        (len(block) << 3 | (i == last)).to_bytes(3, "little") + block for i, block in enumerate(blocks)
    )


def page_content(rng: random.Random, tree: PartTree) -> None:
    """What a page unpacks to: a flip, octets too few or too many."""
    chunk, page = a_place(rng, tree)
    raw = page.raw
    changed = rng.choice(
        [flipped(rng, raw), flipped(rng, raw), raw + b"\0", raw + rng.randbytes(9), raw[:-1], raw[1:], raw + raw, b""]
    )
    page.store(changed, chunk.codec)


def levels_and_indices(rng: random.Random, tree: PartTree) -> None:
    """Definition levels and indices into a dictionary: the same or other values in other runs."""
    candidates = [
        (c, p)
        for c in tree.chunks
        for p in c.pages
        if p.kind != DICTIONARY and (is_nullable(tree, c) or c.has_dictionary)
    ]
    if not candidates:
        page_content(rng, tree)
        return
    chunk, page = rng.choice(candidates)
    levels_, rest = split_levels(tree, chunk, page)
    if levels_ is not None and (rng.random() < 0.6 or page.encoding not in (2, 8)):
        levels_ = _other_runs(rng, levels_, 1, page.values)
        length = (
            len(levels_)
            if rng.random() < 0.8
            else rng.choice([len(levels_) + 1, max(len(levels_) - 1, 0), 0, 2**31 - 1, 2**32 - 1])
        )
        raw = length.to_bytes(4, "little") + levels_ + rest
    else:
        width, indices = (rest[0], rest[1:]) if rest else (0, b"")
        prefix = b"" if levels_ is None else len(levels_).to_bytes(4, "little") + levels_
        match rng.randrange(4):
            case 0:
                width = rng.choice([width + 1, max(width - 1, 0), 0, 32, 33, 255])
            case 1 if page.encoding in (2, 8):
                runs = parse_runs(indices, width, page.values)
                wider = rng.choice([8, width + 1, 32, 17])
                indices = to_octets([repeated(value, 1) for run in runs for value in run.values], wider)
                width = wider
            case _:
                indices = _other_runs(rng, indices, width, page.values)
        raw = prefix + bytes([width & 255]) + indices
    page.store(raw, chunk.codec)


def _other_runs(rng: random.Random, octets: bytes, width: int, values: int) -> bytes:
    runs = parse_runs(octets, width, values)
    if not runs:
        return rng.choice([b"\0", varint(2) + b"\1", b"\3\0"])
    flat = [value for run in runs for value in run.values][:values]
    i = rng.randrange(len(runs))
    match rng.randrange(13):
        case 0:  # one run a value
            runs = [repeated(value, 1) for value in flat]
        case 1:  # all packed
            runs = [packed_run(flat)]
        case 2:  # the last is longer than the values
            runs = [*runs[:-1], Run(runs[-1].values + runs[-1].values[-1:] * 8, runs[-1].packed)]
        case 3:  # too few
            runs = runs[:-1]
        case 4:  # one more run
            runs.append(rng.choice([repeated(0, 1), repeated(1, 8), packed_run([0] * 8), packed_run([1] * 8)]))
        case 5:  # a run of nothing
            runs.insert(i, rng.choice([repeated(0, 0), packed_run([])]))
        case 6:  # what pads the last group
            flat += [rng.randrange(1 << width) if width else 0 for _ in range(-len(flat) % 8)]
            runs = [packed_run(flat)]
        case 7:  # bits of a value beyond its width
            return to_octets(runs, width, high_bits=rng.choice([0x80, 0x40, 0x02]))
        case 8:  # a length in more octets than it needs
            return to_octets(runs, width, padding=rng.choice([1, 2, 5]))
        case 9:  # a run as two
            runs[i : i + 1] = [repeated(value, 1) for value in runs[i].values]
        case 10:
            return octets + rng.choice([b"\0", b"\2", b"\1", rng.randbytes(3)])
        case 11:
            return flipped(rng, octets)
        case _:
            return octets[:-1]
    return to_octets(runs, width)


def dictionary(rng: random.Random, tree: PartTree) -> None:
    """A dictionary's texts: more, twice, in another order, not UTF-8, too few."""
    chunks = [chunk for chunk in tree.chunks if chunk.has_dictionary]
    if not chunks:
        page_content(rng, tree)
        return
    chunk = rng.choice(chunks)
    page = chunk.pages[0]
    texts = list(plain_texts(page.raw))
    stated = None
    match rng.randrange(11):
        case 0:
            texts.append(rng.choice([b"more", b"", b"\xff"]))
        case 1:
            texts += texts[:1]
        case 2:
            texts.reverse()
        case 3 if texts:
            texts[rng.randrange(len(texts))] = rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\0b", b"other"])
        case 4:
            del texts[-1:]
        case 5:
            stated = len(texts) + rng.choice([-1, 1, 100])
        case 6:
            page.store(page.raw + rng.choice([b"\0", bytes(4), rng.randbytes(6)]), chunk.codec)
            return
        case 7:
            put(page.details, 2, I32, rng.choice([0, 2, 8, 3]))
        case 8:
            put(page.details, 3, rng.choice([TRUE, FALSE]), None)
        case 9:
            chunk.pages.append(chunk.pages.pop(0))
        case _:
            chunk.pages.insert(rng.randrange(2), Page(page.header, page.body, page.raw))
    page.store(b"".join(len(text).to_bytes(4, "little") + text for text in texts), chunk.codec)
    put(page.details, 1, I32, len(texts) if stated is None else stated)


def page_split(rng: random.Random, tree: PartTree) -> None:
    """Pages of no values, pages twice, pages that are missing, a page's number of values."""
    chunk, page = a_place(rng, tree)
    i = chunk.pages.index(page)
    match rng.randrange(5):
        case 0:
            chunk.pages.insert(i, Page(page.header, page.body, page.raw))
        case 1:
            del chunk.pages[i]
        case 2:
            empty = [Member(m.number, m.kind, m.value) for m in page.header]
            details = [Member(m.number, m.kind, 0 if m.number == 1 else m.value) for m in page.details]
            put(empty, 7 if page.kind == DICTIONARY else 5, STRUCT, details)
            raw = rng.choice([b"", bytes(4), b"\0", bytes(5)])
            chunk.pages.insert(rng.choice([i, i + 1]), Page(empty, packed(raw) if chunk.codec == ZSTD else raw, raw))
        case 3:
            put(page.details, 1, I32, page.values + rng.choice([1, -1, 8]))
        case _:
            chunk.pages.reverse()


def a_place(rng: random.Random, tree: PartTree) -> tuple[Chunk, Page]:
    chunk = rng.choice(tree.chunks)
    return chunk, rng.choice(chunk.pages)


def a_page(rng: random.Random, tree: PartTree) -> Page:
    return a_place(rng, tree)[1]


def is_nullable(tree: PartTree, chunk: Chunk) -> bool:
    return bool(get(tree.element(get(chunk.metadata, 3).values[0].decode()), 3))


def split_levels(tree: PartTree, chunk: Chunk, page: Page) -> tuple[bytes | None, bytes]:
    """A data page's definition levels, if its column has any, and what follows."""
    if not is_nullable(tree, chunk):
        return None, page.raw
    length = int.from_bytes(page.raw[:4], "little")
    return page.raw[4 : 4 + length], page.raw[4 + length :]


def plain_texts(raw: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(raw):
        length = int.from_bytes(raw[position : position + 4], "little")
        yield raw[position + 4 : position + 4 + length]
        position += 4 + length
