"""Valid parts of both formats, which attacks and random mutations start from."""

from __future__ import annotations

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.bundle.fuzzing import Original
from tests.bundle.parquet_files import NOON_US, many_steps, written
from tests.bundle.part_trees import I64, by_format_1, get, parse, put
from tests.steps import with_extra

KEY = Ed25519PrivateKey.from_private_bytes(b"one meaning, and no other at all")

STEPS = many_steps(
    60,
    status=pa.array((["ok"] * 5 + ["error"]) * 10),
    content_hash=pa.array([None if i % 3 else f"h{i % 2}" for i in range(60)]),
)
EXTRAS = with_extra(
    STEPS,
    model=pa.array(["small", None, "large"] * 20),
    parent_step_index=pa.array([None, 7] * 30),
    note=pa.array([None, "", "a"] * 20),
    count=pa.array([-(2**63), 2**63 - 1] * 30),
    weight=pa.array([0.5, 1.7e308] * 30),
    seen=pa.array([None, NOON_US] * 30).cast(pa.timestamp("us", "UTC")),
    none=pa.nulls(60, pa.string()),
)
DICTIONARIES = ["step_type", "status", "content_hash"]


def joined(*parts: bytes) -> bytes:
    """One part of format 2 with the row groups of several."""
    trees = [parse(octets) for octets in parts]
    whole = trees[0]
    for tree in trees[1:]:
        whole.groups += tree.groups
        get(whole.footer, 4).values.extend(get(tree.footer, 4).values)
    put(whole.footer, 3, I64, sum(get(group, 3) for group in get(whole.footer, 4).values))
    return whole.encode()


def given_up(rows: int = 3000) -> tuple[bytes, pa.Table]:
    """A dictionary that pyarrow gave up, in a part of format 1: indices, then plain texts."""
    table = many_steps(
        rows, status=pa.array([f"status {i % 50 if i < rows // 2 else i}" for i in range(rows)])
    ).to_arrow()
    return by_format_1(table, dictionary=["status"], dictionary_bytes=2000, page_rows=500), table


_GIVEN_UP, _GIVEN_UP_ROWS = given_up()
ORIGINALS: dict[str, Original] = {
    "format 2": Original.of(written(STEPS), STEPS.to_arrow(), 2),
    "format 2 with extra columns": Original.of(written(EXTRAS), EXTRAS.to_arrow(), 2),
    "format 2, one row": Original.of(written(EXTRAS[:1]), EXTRAS[:1].to_arrow(), 2),
    "format 2, no rows": Original.of(written(STEPS[:0]), STEPS[:0].to_arrow(), 2),
    "format 2, three row groups": Original.of(joined(*(written(STEPS[i : i + 20]) for i in (0, 20, 40))), STEPS.to_arrow(), 2),
    "format 1, three row groups": Original.of(by_format_1(STEPS.to_arrow(), dictionary=DICTIONARIES, rows=25), STEPS.to_arrow(), 1),
    "format 1 with extra columns": Original.of(by_format_1(EXTRAS.to_arrow(), dictionary=DICTIONARIES), EXTRAS.to_arrow(), 1),
    "format 1, a dictionary given up": Original.of(_GIVEN_UP, _GIVEN_UP_ROWS, 1, but=["fastparquet"]),
}  # fmt: skip
