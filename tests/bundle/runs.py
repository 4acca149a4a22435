"""Parquet's hybrid of repeated and bit-packed runs (Encodings.md, RLE), read and written, right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bundle.part_trees import varint


@dataclass(frozen=True, slots=True)
class Run:
    """Values: all alike, or packed in groups of eight, of which the last may be padded."""

    values: tuple[int, ...]
    packed: bool


def repeated(value: int, count: int) -> Run:
    return Run((value,) * count, packed=False)


def packed_run(values: Sequence[int]) -> Run:
    return Run(tuple(values), packed=True)


def parse_runs(octets: bytes, width: int, most: int) -> list[Run]:
    """The runs of up to `most` values."""
    runs: list[Run] = []
    position = found = 0
    size = (width + 7) // 8
    while position < len(octets) and found < most:
        head = shift = 0
        while True:
            octet = octets[position]
            position += 1
            head |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                break
        if head & 1:
            count = (head >> 1) * 8
            bits = int.from_bytes(octets[position : position + (head >> 1) * width], "little")
            position += (head >> 1) * width
            runs.append(packed_run([bits >> i * width & (1 << width) - 1 for i in range(min(count, most - found))]))
        else:
            count = head >> 1
            runs.append(repeated(int.from_bytes(octets[position : position + size], "little"), count))
            position += size
        found += count
    return runs


def to_octets(runs: Sequence[Run], width: int, *, high_bits: int = 0, padding: int = 0) -> bytes:
    """Runs as octets. `high_bits`: of a repeated value, beyond its width; `padding`: octets of a length that say nothing."""
    octets = b""
    for run in runs:
        if run.packed:
            groups = (len(run.values) + 7) // 8
            bits = sum((value & (1 << width) - 1) << i * width for i, value in enumerate(run.values))
            octets += varint(groups << 1 | 1, padding) + bits.to_bytes(groups * width, "little")
        else:
            value = run.values[0] if run.values else 0
            size = (width + 7) // 8
            stored = (value & (1 << 8 * size) - 1) | (high_bits if size else 0)
            octets += varint(len(run.values) << 1, padding) + stored.to_bytes(size, "little")
    return octets
