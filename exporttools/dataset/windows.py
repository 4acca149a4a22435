"""Windows as intervals of time: a grid over the period to export, without what is committed. No database, no file."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence

from exporttools.errors import ConfigError
from exporttools.times import EARLIEST, EPOCH, LATEST, parse_length

Interval = tuple[dt.datetime, dt.datetime]
"""Half-open, [since, until)."""

_DAY_S = 86_400


def parse_window(text: str) -> int:
    """Return a window's length in seconds: whole days, or a length that divides a day.

    Raises
    ------
    ConfigError
        Neither, or more than 36,600 days.

    Examples
    --------
    >>> parse_window("1d")
    86400
    """
    length_s = int(parse_length("window", text).total_seconds())
    if not 0 < length_s <= 36_600 * _DAY_S or (length_s % _DAY_S and _DAY_S % length_s):
        raise ConfigError(
            f"window is {text!r}; expected whole days, or a length that divides a day, such as '1d', '7d', '1h', '15min'"
        )
    return length_s


def grid_number(moment: dt.datetime, length_s: int) -> int:
    """Return the number of the grid interval that contains a moment.

    Examples
    --------
    >>> grid_number(dt.datetime(1970, 1, 3, tzinfo=dt.UTC), 86_400)
    2
    """
    return (moment - EPOCH) // dt.timedelta(seconds=length_s)


def grid_interval(number: int, length_s: int) -> Interval:
    """Return a grid interval by its number, counted from 1970 UTC, clipped to what a datetime can hold."""
    ends = []
    for edge in (number, number + 1):
        try:
            ends.append(EPOCH + dt.timedelta(seconds=edge * length_s))
        except OverflowError:
            ends.append(LATEST if edge > 0 else EARLIEST)
    return ends[0], ends[1]


def clipped(interval: Interval, since: dt.datetime | None, until: dt.datetime | None) -> Interval:
    """Clip an interval to [since, until)."""
    return max(interval[0], since or interval[0]), min(interval[1], until or interval[1])


def without(interval: Interval, taken: Sequence[Interval]) -> list[Interval]:
    """Return what is left of an interval without others, which ascend and do not overlap.

    Examples
    --------
    >>> day = [dt.datetime(2026, 10, 5, hour, tzinfo=dt.UTC) for hour in range(24)]
    >>> [(a.hour, b.hour) for a, b in without((day[0], day[9]), [(day[2], day[4])])]
    [(0, 2), (4, 9)]
    """
    left = []
    start, end = interval
    for since, until in taken:
        if until <= start or since >= end:
            continue
        if start < since:
            left.append((start, since))
        start = max(start, until)
    if start < end:
        left.append((start, end))
    return left


def overlaps(interval: Interval, since: dt.datetime | None, until: dt.datetime | None) -> bool:
    """Return whether an interval overlaps [since, until)."""
    return (until is None or interval[0] < until) and (since is None or interval[1] > since)


def new_intervals(
    numbers: Iterable[int],
    length_s: int,
    since: dt.datetime | None,
    until: dt.datetime | None,
    committed: Sequence[Interval],
) -> list[Interval]:
    """Return the windows to export: the grid intervals of these numbers within [since, until), without what is committed."""
    taken = sorted(committed)
    found = []
    for number in numbers:
        start, end = clipped(grid_interval(number, length_s), since, until)
        if start < end:
            found += without((start, end), taken)
    return found
