"""Frames and runs: those that pyarrow writes are read as what they are, and each form that readers differ on is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools.bundle.page_contents import count_not_null, in_one_segment, read_runs, require_one_frame
from tests.bundle.parquet_files import packed, uncompressed_pages, varint

SKIPPABLE = b"\x50\x2a\x4d\x18\4\0\0\0" + b"hide"


@given(st.binary(max_size=3000) | st.integers(0, 3_000_000).map(lambda size: b"ab" * size))
def test_what_zstd_writes_is_one_frame_and_can_do_without_a_window(octets: bytes) -> None:
    frame = packed(octets)
    require_one_frame(frame, len(octets), windows=True)
    require_one_frame(in_one_segment(frame), len(octets))
    assert pa.decompress(in_one_segment(frame), len(octets), codec="zstd", asbytes=True) == octets


def reaching_back() -> tuple[bytes, bytes]:
    """A text, and a frame of it that says that it needs 128 KiB and refers to what is farther back than that."""
    letters = np.random.default_rng(5).bytes(150_000).hex().encode()
    octets = letters + letters[::-1] + letters
    frame = bytes(pa.Codec("zstd", compression_level=19).compress(octets, asbytes=True))
    return octets, frame[:4] + bytes([frame[4] & ~0x20, (17 - 10) << 3]) + frame[5:]


def test_promise_16_a_frame_that_reaches_back_beyond_its_window_is_refused() -> None:
    """One decoder of zstd finds what is there, the other something else or nothing."""
    octets, frame = reaching_back()
    assert pa.decompress(frame, len(octets), codec="zstd", asbytes=True) == octets
    with pytest.raises(ValueError, match="^not one zstd frame as it is written: it has a window$"):
        require_one_frame(frame, len(octets))
    with pytest.raises((ValueError, OSError), match="it refers to what is beyond its window$|ZSTD decompress failed"):
        require_one_frame(frame, len(octets), windows=True)
    large = packed(bytes(10**6))
    with pytest.raises(ValueError, match="it needs a window of more than 15 MiB$"):
        require_one_frame(large[:5] + b"\xf8" + large[6:], 10**6, windows=True)


FRAME = packed(bytes(1000))
FRAMES = {
    "bytes after it": (FRAME + b"hide", "4 bytes after it"),
    "a frame to skip after it": (FRAME + SKIPPABLE, "12 bytes after it"),
    "a frame to skip before it": (SKIPPABLE + FRAME, "it begins with 50 2a 4d 18 04"),
    "a frame of nothing before it": (packed(b"") + FRAME, "it says that it unpacks to 0 bytes; expected 1,000"),
    "another frame after it": (packed(bytes(1000)) * 2, f"{len(FRAME)} bytes after it"),
    "no frame": (b"", "it begins with "),
    "a checksum": (FRAME[:4] + bytes([FRAME[4] | 4]) + FRAME[5:] + b"\0\0\0\0", "it begins with 28 b5 2f fd"),
    "a dictionary's id": (FRAME[:4] + bytes([FRAME[4] | 1]) + b"\1" + FRAME[5:], "it begins with 28 b5 2f fd"),
    "a reserved bit": (FRAME[:4] + bytes([FRAME[4] | 8]) + FRAME[5:], "it begins with 28 b5 2f fd"),
    "another size": (packed(bytes(999)), "it says that it unpacks to 999 bytes; expected 1,000"),
    "no size": (FRAME[:4] + b"\0\x58" + FRAME[7:], "it says that it unpacks to 0 bytes; expected 1,000"),
    "a window": (FRAME[:4] + b"\x40\x38" + FRAME[5:], "it has a window"),
    "a block of a reserved kind": (FRAME[:7] + b"\x07\0\0" + FRAME[10:], "a block of a reserved kind, or beyond the page"),
    "a block beyond the page": (FRAME[:-1], "a block of a reserved kind, or beyond the page"),
    "blocks without a last one": (FRAME[:7] + bytes([FRAME[7] & 0xFE]) + FRAME[8:], "a block of a reserved kind, or beyond the page"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_promise_16_anything_but_one_frame_is_refused(name: str) -> None:
    octets, message = FRAMES[name]
    with pytest.raises(ValueError) as caught:
        require_one_frame(octets, 1000)
    assert str(caught.value).startswith(f"not one zstd frame as it is written: {message}")


@given(st.lists(st.tuples(st.integers(0, 40) | st.none(), st.integers(1, 600)), min_size=1, max_size=30))
def test_levels_and_indices_that_pyarrow_writes_are_read_as_they_are(runs: list[tuple[int | None, int]]) -> None:
    texts = pa.array(
        [None if value is None else f"t{value}" for value, count in runs for _ in range(count)], pa.string()
    )
    entries = 0
    for header, octets in uncompressed_pages(texts):
        if header[1][1] == 2:
            entries = header[7][1][1][1]
            continue
        size = int.from_bytes(octets[:4], "little")
        not_null = count_not_null(octets[4 : 4 + size], len(texts))
        assert not_null == len(texts) - texts.null_count
        packed, repeated, counts = read_runs(octets[5 + size :], width=octets[4 + size], values=not_null, limit=entries)
        assert len(packed) + counts.sum() == not_null
        assert {*packed.tolist(), *repeated.tolist()} == set(range(entries))


def run_of(value: int, count: int, size: int = 1) -> bytes:
    return varint(count << 1) + value.to_bytes(size, "little")


RUNS = {
    "fewer values": (run_of(1, 9), 1, "runs of 9 values; expected 10"),
    "more values": (run_of(1, 11), 1, "runs of 11 values; expected 10"),
    "a run of nothing": (run_of(1, 0) + run_of(1, 10), 1, "runs of 10 values; expected 10"),
    "packed nothing": (b"\1" + run_of(1, 10), 1, "runs of 10 values; expected 10"),
    "nothing at all": (b"", 1, "0 bytes of runs; expected at most 53 for 10 values"),
    "more than there could be": (run_of(1, 1) * 30, 1, "60 bytes of runs; expected at most 53 for 10 values"),
    "bytes after them": (run_of(1, 10) + b"\0", 1, "a run that is longer than its page"),
    "half a run": (run_of(1, 5) + b"\x0a", 1, "a run that is longer than its page"),
    "bits after the last value": (b"\5\xff\xff", 1, "bits after the last value that are not zero"),
    "a group after the last value": (b"\7\xff\3\0", 1, "runs of 24 values; expected 10"),
    "a value beyond the dictionary": (run_of(2, 10), 2, "the value 2; expected less than 2"),
    "a packed value beyond the dictionary": (b"\5\xaa\xaa\x0a\0", 2, "the value 2; expected less than 2"),
    "bits beyond the width": (run_of(129, 10), 1, "the value 129; expected less than 2"),
    "a header of two octets that needs one": (b"\x94\0\1", 1, "a run whose header is longer than it needs to be"),
    "a header of three octets that needs one": (b"\x94\x80\0\1", 1, "a run whose header is longer than it needs to be"),
    "a header of four octets": (b"\x94\x80\x80\0", 1, "runs of 1,048,586 values; expected 10"),
    "more packed values than are written": (b"\x83\1" + bytes(65), 1, "67 bytes of runs; expected at most 53 for 10 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_promise_16_runs_that_readers_could_read_in_two_ways_are_refused(name: str) -> None:
    octets, width, message = RUNS[name]
    with pytest.raises(ValueError) as caught:
        read_runs(octets, width=width, values=10, limit=2)
    assert str(caught.value) == message


def test_a_long_packed_run_is_refused() -> None:
    with pytest.raises(ValueError, match="^more packed values in one run than are written$"):
        read_runs(b"\x81\1" + bytes(63), width=1, values=512, limit=2)
    assert len(read_runs(b"\x7f" + bytes(63), width=1, values=504, limit=2)[0]) == 504


def test_no_values_take_no_bytes() -> None:
    assert [array.tolist() for array in read_runs(b"", width=3, values=0, limit=0)] == [[], [], []]
    with pytest.raises(ValueError, match="^2 bytes of runs; expected at most 0 for 0 values$"):
        read_runs(run_of(1, 1), width=1, values=0, limit=2)


@given(st.binary(max_size=40), st.integers(1, 17), st.integers(1, 60))
def test_any_bytes_are_runs_of_so_many_values_or_refused(octets: bytes, width: int, values: int) -> None:
    try:
        packed, repeated, counts = read_runs(octets, width=width, values=values, limit=2**width)
    except ValueError:
        return
    assert len(packed) + int(counts.sum()) == values
    assert max(packed.max(initial=0), repeated.max(initial=0)) < 2**width
    assert packed.dtype == np.int64
