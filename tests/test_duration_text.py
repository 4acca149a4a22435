"""Durations as people read them."""

from __future__ import annotations

from exporttools.times import duration_text


def test_durations_in_words() -> None:
    assert [duration_text(us) for us in (0, 3, 1_500, 59_990_000, 59_999_999, 61_000_000, 3_599_999_999)] == [
        "0 s", "3 µs", "1.5 ms", "60 s", "60 s", "1 min 1 s", "60 min",
    ]  # fmt: skip
    assert [duration_text(h * 3_600e6) for h in (1, 1.5, 24, 75)] == ["1 h", "1 h 30 min", "1 d", "3 d 3 h"]
