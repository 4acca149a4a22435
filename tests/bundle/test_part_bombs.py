"""Small Parquet files that would fill the memory or take for ever cost little of either."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporttools.bundle.parquet_footers import ROW_GROUP_ROWS
from tests.bundle.format_1_files import written_in_format_1
from tests.bundle.parquet_files import (
    STEPS,
    THRIFT,
    Fields,
    crafted,
    dictionary_of,
    element_of,
    framed,
    hashes,
    many_steps,
    of_ten,
    page,
    text,
    thrift,
    varint,
    written,
)

pytestmark = pytest.mark.slow

_CHILD = """
import sys, time
from exporttools.bundle.parts import PartRefused, read_part
from exporttools.records.schema import TRACE_STEPS
start, rows, refusal = time.monotonic(), 0, ""
with open(sys.argv[1], "rb", buffering=0) as file:
    try:
        for batch in read_part(TRACE_STEPS, file, format_version=int(sys.argv[2]))[1]:
            rows += batch.num_rows
    except PartRefused as error:
        refusal = str(error)
seconds = time.monotonic() - start
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) // 1024, seconds, rows, refusal, sep="|")
"""


def read_apart(path: Path, format_version: int = 2) -> tuple[int, float, int, str]:
    """Read a file in a process of its own: the most memory it had in MiB, the seconds, the rows, the refusal."""
    # Not getrusage: what it gives is at least what the process had that started this one.
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, path, str(format_version)], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    peak, seconds, rows, refusal = done.stdout.rstrip("\n").split("|")
    return int(peak), float(seconds), int(rows), refusal


LARGE = 62 << 20
OVER = "expected at most 268,435,456 (max_bytes sets another limit)"
ROWS = ROW_GROUP_ROWS
ONE = "a dictionary of 59 texts of which only 1 are in rows"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a page of a gigabyte of zeros": (lambda: of_ten(status=page(bytes(10**9), 10)), OVER),
    "row groups of zeros, gigabytes": (lambda: crafted(*[(ROWS, {})] * 300), OVER),
    "more rows than a row group has": (lambda: crafted((10**9, {leaf[0]: (b"", 0) for leaf in STEPS})), "row group 0: 1,000,000,000 rows; expected 1 to 131,072"),
    "NULL in millions of rows": (lambda: crafted(*[(ROWS, {"content_hash": nulls(ROWS)})] * 50), OVER),
    "a text of a megabyte in a hundred thousand rows": (
        lambda: crafted((10**5, {"status": dictionary_of(text(2**20), 1, 10**5)})), "100,000 rows with dictionary texts of up to 1,048,"),
    "a text of a kilobyte in a million rows": (lambda: crafted(*[(ROWS, {"status": dictionary_of(text(1000), 1, ROWS)})] * 8), OVER),
    "texts of a kilobyte in each column": (
        lambda: crafted((30_000, {leaf[0]: dictionary_of(text(1000), 1, 30_000, nullable=True) for leaf in _MANY[8:]}), leaves=_MANY),
        "30,000 rows with dictionary texts of up to 193,"),
    "a text of 60 MB": (lambda: crafted((1, {"status": page(text(LARGE), 1)})), ""),
    "texts of 60 MB": (lambda: crafted(*[(1, {"status": page(text(LARGE), 1)})] * 3), ""),
    "a text of 60 MB that may be NULL": (lambda: crafted((1, {"content_hash": page(b"\2\0\0\0\2\1" + text(LARGE), 1)})), ""),
    "60 MB of texts in one batch": (lambda: crafted((57_000, {"status": page(text(1000) * 57_000, 57_000)})), ""),
    "a text of 16 MB among a hundred thousand empty ones": (
        lambda: crafted((ROWS, {"status": page(text(2**24), 1) + page(text(0) * (ROWS - 1), ROWS - 1)})), ""),
    "a dictionary of 58 MB": (
        lambda: crafted((ROWS, {"status": dictionary_of(text(0) + b"".join(text(10**6 - i) for i in range(58)), 59, ROWS)})), ONE),
    "a dictionary of 58 MB, half of it NULL": (
        lambda: crafted((10, {"content_hash": dictionary_of(text(0) + b"".join(text(10**6 - i) for i in range(58)), 59, 10, nullable=True)})), ONE),
    "dictionaries of empty texts": (
        lambda: crafted(*[(9, {name: dictionary_of(text(0) * 450_000, 450_000, 9) for name in ("status", "step_type")})] * 4),
        "column step_type: a dictionary with the same text twice"),
    "a dictionary of 15 million empty texts": (lambda: of_ten(status=dictionary_of(text(0) * 15_000_000, 15_000_000, 10)), OVER),
    "a hundred thousand pages": (lambda: crafted((10**5, {"status": page(text(0), 1) * 10**5})), "bytes that unpack to "),
    "a hundred thousand runs": (lambda: crafted((ROWS, {"status": page(text(1), 1, kind=2) + page(b"\1" + b"\2\0" * ROWS, ROWS, 8)})), ""),
    "row groups of one row": (lambda: crafted(*[(1, {})] * 2000), "bytes that unpack to "),
    "row groups of no rows": (lambda: crafted(*[(0, {leaf[0]: (b"", 0) for leaf in STEPS})] * 2000), "row group 0: 0 rows; expected 1 to 131,072"),
    "200 columns of dictionaries": (
        lambda: crafted((30_000, {leaf[0]: dictionary_of(text(100), 1, 30_000, nullable=True) for leaf in _MANY[8:]}), leaves=_MANY), ""),
    "5,000 columns": (
        lambda: crafted((1, {}), leaves=STEPS + [(f"c{i}", "int64", True) for i in range(4992)]), "5,000 columns; expected at most 200"),
    "a footer of a million row groups": (
        lambda: framed(_footer(_list("struct", 10**6) + thrift({1: ("list", ("struct", [])), 2: ("i64", 0), 3: ("i64", 0)}) * 10**6)),
        "a Parquet footer with more than 100,000 elements"),
    "a footer that announces a million columns": (
        lambda: framed(_footer(_list("struct", 1) + b"\x19" + _list("struct", 10**6))), "a Parquet footer with more than 100,000 elements"),
    "a footer of as many columns as may be": (
        lambda: framed(_footer(_list("struct", 1) + b"\x19" + _list("struct", 99_900) + thrift({2: ("i64", 0)}) * 99_900 + b"\x16\0\x16\0\0")), "column 0 is missing; expected 'step_index'"),
    "a schema of as many columns as may be": (
        lambda: crafted(footer=lambda footer: footer | {2: ("list", ("struct", [_ROOT | {5: ("i32", 99_000)}, *[element_of(STEPS[0])] * 99_000]))}),
        "99,000 columns; expected at most 200"),
    "a schema of as many levels as may be": (
        lambda: crafted(footer=lambda footer: footer | {2: ("list", ("struct", [_ROOT | {5: ("i32", 1)}] * 50_000 + [element_of(STEPS[0])]))}),
        "50,000 columns; expected at most 200"),
    "a footer of 15 MB of text": (
        lambda: crafted((1, {}), footer=lambda footer: footer | {6: ("binary", b"x" * 15_000_000)}), "footer: created_by: expected "),
}  # fmt: skip
"""A file, and what its refusal says; empty: it may be read or refused, so long as it does not cost more than is promised."""

_MANY = STEPS + [(f"c{i}", "string", True) for i in range(192)]
_ROOT: Fields = {4: ("binary", b"schema")}


def _list(kind: str, count: int) -> bytes:
    return bytes([0xF0 | THRIFT[kind]]) + varint(count)


def _footer(row_groups: bytes) -> bytes:
    """A footer whose row groups are the given octets, a Thrift list."""
    return thrift({1: ("i32", 2), 2: ("list", ("struct", [_ROOT])), 3: ("i64", 0)})[:-1] + b"\x19" + row_groups + b"\0"


def nulls(rows: int) -> bytes:
    levels = varint(rows << 1) + b"\0"
    return page(len(levels).to_bytes(4, "little") + levels, rows)


@pytest.mark.parametrize("name", BOMBS)
def test_promise_16_a_bomb_costs_little_memory_and_time(name: str, tmp_path: Path) -> None:
    make, message = BOMBS[name]
    path = tmp_path / "part.parquet"
    path.write_bytes(make())
    peak_mib, seconds, rows, refusal = read_apart(path)
    assert message in refusal
    assert rows or refusal
    assert peak_mib < 512, f"{peak_mib} MiB"
    assert seconds < 10, f"{seconds} s"


def test_promise_16_a_gap_is_refused_at_once_however_large(tmp_path: Path) -> None:
    """A hole takes no place on a disk, and none to send in a zip file; whoever reads it reads gigabytes of zeros."""
    octets = crafted((10, {}), (10, {}))
    path = tmp_path / "part.parquet"
    for position in (4, 700, len(octets) - 8 - int.from_bytes(octets[-8:-4], "little")):
        with path.open("wb") as file:
            file.write(octets[:position])
            file.seek(3 << 30, 1)
            file.write(octets[position:])
        peak_mib, seconds, _, refusal = read_apart(path)
        assert refusal
        assert peak_mib < 256
        assert seconds < 1


@pytest.mark.parametrize("by", [written, written_in_format_1], ids=["ours", "format 1"])
def test_promise_16_memory_does_not_grow_with_the_rows(by: Callable[[Any], bytes], tmp_path: Path) -> None:
    peaks = []
    for rows in (300_000, 1_500_000):
        path = tmp_path / f"{rows}.parquet"
        path.write_bytes(by(many_steps(rows, content_hash=hashes(rows))))
        peak_mib, _, found, refusal = read_apart(path, 2 if by is written else 1)
        assert (found, refusal) == (rows, "")
        peaks.append(peak_mib)
    assert max(peaks) < 350
    assert peaks[1] - peaks[0] < 120
