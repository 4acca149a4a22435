"""Holds a page's bytes to what one writer would write: one zstd frame, and levels and indices that are read in one way.

Readers differ in what they pass over: frames to skip, bytes after the last value, runs of nothing, bits of padding. So
none of these may be there (RFC 8878 §3.1.1; parquet-format, Encodings.md: RLE/bit-packing hybrid). Knows no headers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa

_MAGIC = b"\x28\xb5\x2f\xfd"
_MOST_WINDOW = 13 << 3 | 7  # 15 MiB: RFC 8878 §3.1.1.1.2 recommends that decoders support at least 8
_SINGLE_SEGMENT = 0x20
_REFUSED_FLAGS = 0x1F  # a reserved bit, an unused one, a checksum, a dictionary's id: none of them is written
_RLE, _RESERVED = 1, 3


def in_one_segment(octets: bytes) -> bytes:
    """Return a frame that zstd wrote as one without a window, in which each byte may refer to every byte before it.

    Examples
    --------
    >>> frame = pa.compress(bytes(10**6), codec="zstd", asbytes=True)
    >>> pa.decompress(in_one_segment(frame), 10**6, codec="zstd", asbytes=True) == bytes(10**6)
    True
    """
    flags = octets[4]
    return octets if flags & _SINGLE_SEGMENT else octets[:4] + bytes([flags | _SINGLE_SEGMENT]) + octets[6:]


def require_one_frame(octets: bytes, unpacked_bytes: int, *, windows: bool = False) -> None:
    """Raise unless the bytes are one zstd frame that says what it unpacks to, from the first byte to the last.

    Parameters
    ----------
    octets : bytes
    unpacked_bytes : int
        What it is to unpack to.
    windows : bool
        Whether it may have a window, as those of format 1: then it is unpacked in both ways that readers have.

    Raises
    ------
    ValueError
        It is not such a frame.

    Examples
    --------
    >>> require_one_frame(pa.compress(b"rows", codec="zstd", asbytes=True), 4)
    >>> require_one_frame(pa.compress(b"rows", codec="zstd", asbytes=True) + b"more", 4)
    Traceback (most recent call last):
    ValueError: not one zstd frame as it is written: 4 bytes after it
    """
    flags = octets[4] if len(octets) > 4 else 0xFF
    if octets[:4] != _MAGIC or flags & _REFUSED_FLAGS:
        raise _not_a_frame(f"it begins with {octets[:5].hex(' ')}")
    single = bool(flags & _SINGLE_SEGMENT)
    start = 5 if single else 6
    size = {0: int(single), 1: 2, 2: 4, 3: 8}[flags >> 6]
    content_bytes = int.from_bytes(octets[start : start + size], "little") + (256 if size == 2 else 0)
    if not size or content_bytes != unpacked_bytes:
        raise _not_a_frame(f"it says that it unpacks to {content_bytes:,} bytes; expected {unpacked_bytes:,}")
    position, last = start + size, 0
    while not last:
        header = int.from_bytes(octets[position : position + 3], "little")
        last, kind = header & 1, header >> 1 & 3
        position += 3 + (1 if kind == _RLE else header >> 3)
        if kind == _RESERVED or position > len(octets):
            raise _not_a_frame("a block of a reserved kind, or beyond the page")
    if position != len(octets):
        raise _not_a_frame(f"{len(octets) - position:,} bytes after it")
    if not single and not windows:
        raise _not_a_frame("it has a window")
    if not single:
        _require_one_content(octets, unpacked_bytes)


def _require_one_content(octets: bytes, unpacked_bytes: int) -> None:
    """Raise if a reader that goes by a frame's window, as streams do, unpacks something else than one that has all of it."""
    if octets[5] > _MOST_WINDOW:
        raise _not_a_frame("it needs a window of more than 15 MiB")
    at_once = pa.decompress(
        octets, unpacked_bytes, codec="zstd", asbytes=True
    )  # fails if there is more, unlike a stream
    with pa.CompressedInputStream(pa.BufferReader(octets), "zstd") as stream:
        if stream.read(unpacked_bytes + 1) != at_once:
            raise _not_a_frame("it refers to what is beyond its window")


def _not_a_frame(found: str) -> ValueError:
    return ValueError(f"not one zstd frame as it is written: {found}")


@lru_cache(maxsize=64)  # the levels of a column without NULL are the same on each of its pages
def count_not_null(octets: bytes, values: int) -> int:
    """Count the values that are not NULL by their definition levels, which are one bit each.

    Raises
    ------
    ValueError
        See :func:`read_runs`.

    Examples
    --------
    >>> count_not_null(bytes([10 << 1, 1]), 10)
    10
    """
    packed, repeated, counts = read_runs(octets, width=1, values=values, limit=2)
    return int(packed.sum() + (repeated * counts).sum())


def read_runs(octets: bytes, *, width: int, values: int, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read runs that encode exactly so many values.

    Parameters
    ----------
    octets : bytes
        Runs of repeated and of bit-packed values, and nothing else.
    width : int
        The bits of a value.
    values : int
        How many there are to be.
    limit : int
        What each must be less than.

    Returns
    -------
    packed : numpy.ndarray
        The values of all bit-packed runs.
    repeated, counts : numpy.ndarray
        The value of each other run, and how often it is repeated.

    Raises
    ------
    ValueError
        They encode other than so many values, or in a form that no writer has a reason for.

    Examples
    --------
    >>> packed, repeated, counts = read_runs(bytes([3, 0b10, 10 << 1, 1]), width=1, values=18, limit=2)
    >>> packed.tolist(), repeated.tolist(), counts.tolist()
    ([0, 1, 0, 0, 0, 0, 0, 0], [1], [10])
    """
    most = 5 * values + 3 * width if values else 0  # what follows takes memory
    if not bool(values) <= len(octets) <= most:
        raise ValueError(f"{len(octets):,} bytes of runs; expected at most {most:,} for {values:,} values")
    if not values:
        return (np.zeros(0, np.int64),) * 3
    data = np.frombuffer(octets + bytes(3), np.uint8)
    repeated_bytes = (width + 7) // 8
    # A header is a varint: of one byte before packed groups of eight, of up to three before a repeated value.
    first = np.arange(256)
    sizes = np.where(first & 1, 1 + (first >> 1) * width, 1 + repeated_bytes + (first >> 7))
    starts = _chain(sizes[data[:-3]] + ((data[:-3] & data[1:-2]) >> 7))
    one, two, three = (data[starts + i].astype(np.int64) for i in range(3))
    header_bytes = 1 + (one >> 7) + (one >> 7 & two >> 7)
    header = (
        (one & 0x7F) | np.where(header_bytes > 1, (two & 0x7F) << 7, 0) | np.where(header_bytes > 2, three << 14, 0)
    )
    is_packed, count, start = (header & 1).astype(bool), header >> 1, starts + header_bytes
    if (is_packed & (header_bytes > 1)).any():
        raise ValueError("more packed values in one run than are written")
    if (header < np.array([0, 0, 1 << 7, 1 << 14])[header_bytes]).any():
        raise ValueError("a run whose header is longer than it needs to be")
    found = int(np.where(is_packed, count * 8, count).sum())
    padding = found - values
    if not count.all() or not 0 <= padding <= (7 if is_packed[-1] else 0):
        raise ValueError(f"runs of {found:,} values; expected {values:,}")
    packed = _unpacked(data, start[is_packed], count[is_packed] * width, width)
    if packed[len(packed) - padding :].any():
        raise ValueError("bits after the last value that are not zero")
    repeated = np.zeros(int((~is_packed).sum()), np.int64)
    for i in range(repeated_bytes):
        repeated |= data[start[~is_packed] + i].astype(np.int64) << 8 * i
    greatest = max(packed.max(initial=0), repeated.max(initial=0))
    if greatest >= limit:
        raise ValueError(f"the value {greatest:,}; expected less than {limit:,}")
    return packed[: len(packed) - padding], repeated, count[~is_packed]


def _unpacked(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, width: int) -> np.ndarray:
    """The values of bit-packed runs, the first in the lowest bits, that begin and are as long as told."""
    before = np.cumsum(sizes) - sizes
    octets = data[np.repeat(starts - before, sizes) + np.arange(sizes.sum())]
    bits = np.unpackbits(octets, bitorder="little").reshape(-1, width)
    values = bits[:, 0].astype(np.int64)
    for i in range(1, width):
        values |= bits[:, i].astype(np.int64) << i
    return values


def _chain(sizes: np.ndarray) -> np.ndarray:
    """The positions at which runs begin, given the size that a run would have at each position.

    By doubling, because there may be a run in every second byte: where each position leads to in one step, in two, in four.
    """
    end = len(sizes)
    jump = np.concatenate([np.minimum(np.arange(end) + sizes, end + 1), [end, end + 1]])
    starts = np.zeros(1, np.int64)
    while starts[-1] < end:
        starts = np.concatenate([starts, jump[starts]])
        jump = jump[jump]
    if starts[-1] > end:
        raise ValueError("a run that is longer than its page")
    return starts[starts < end]
