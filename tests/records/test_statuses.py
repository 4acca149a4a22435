"""Which values of a status mean that a step failed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from exporttools.records.statuses import (
    FAILED_GROUPS,
    FAILED_IN_FORMAT_1,
    FAILED_STATUSES,
    failed_steps,
    failed_words,
    means_failed,
)

FAILED = [
    "error", "failed", "failure", "timeout", "ERROR", "Error", "STATUS_CODE_ERROR", "status_code_error", "exception", "rate_limited",
    "Rate limited", "rate-limited", " cancelled\n", "CANCELED", "TimedOut", "TIMED_OUT", "upstream_failed", "KILLED",
]  # fmt: skip
NOT_FAILED = [
    "ok", None, "", " ", "errors", "no error", "running", "STATUS_CODE_OK", "STATUS_CODE_", "STATUS_CODE_STATUS_CODE_ERROR", "unfinished",
    "skipped", "blocked", "500", "time  out", "error_", "e\N{COMBINING ACUTE ACCENT}rror", "\N{FULLWIDTH LATIN SMALL LETTER E}rror",
]  # fmt: skip
STATUSES = [*FAILED, *NOT_FAILED]


@pytest.mark.parametrize(
    "statuses",
    [
        pa.array(STATUSES), pa.chunked_array([STATUSES[:3], STATUSES[3:]]), pa.array(STATUSES).dictionary_encode(),
        pa.array(STATUSES, pa.large_string()),
    ],
    ids=["array", "chunks", "dictionary", "large"],
)  # fmt: skip
def test_failed_steps(statuses: pa.Array | pa.ChunkedArray) -> None:
    found = failed_steps(statuses)
    assert found.to_pylist() == [True] * len(FAILED) + [False] * len(NOT_FAILED)
    assert found.null_count == 0
    assert failed_words(statuses) == sorted(FAILED)
    assert [status for status in STATUSES if means_failed(status)] == FAILED


def test_no_step_and_no_status() -> None:
    for empty in (pa.array([], pa.string()), pa.nulls(2, pa.string()), pa.nulls(2)):
        assert failed_steps(empty).to_pylist() == [False] * len(empty)
        assert failed_words(empty) == []


def test_a_word_stands_once_and_as_it_is_read() -> None:
    words = Counter(word for group in FAILED_GROUPS for word in group.words)
    assert set(words.values()) == {1}
    assert failed_words(pa.array(list(words))) == sorted(words) == sorted(FAILED_STATUSES)
    assert all(word == word.lower().strip().replace("-", "_").replace(" ", "_") for word in words)
    assert FAILED_IN_FORMAT_1 == {"error", "failed", "failure", "timeout"} < FAILED_STATUSES


def test_the_table_in_the_docs_is_the_rule() -> None:
    page = (Path(__file__).parents[2] / "docs" / "layouts.md").read_text(encoding="utf-8")
    rows = [f"| {', '.join(f'`{word}`' for word in group.words)} | {group.meaning} |" for group in FAILED_GROUPS]
    assert "\n".join(["| status | why it counts as failed |", "|---|---|", *rows, ""]) in page
