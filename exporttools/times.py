"""Times and durations, as users type them and as databases and files store them. Knows no records."""

from __future__ import annotations

import datetime as dt
import re

from exporttools.errors import ConfigError
from exporttools.text.inert import one_line

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
EARLIEST = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
LATEST = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)
"""The latest time that a datetime, and so a record, can hold."""

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US

_MICROSECOND = dt.timedelta(microseconds=1)
_UNITS_US = (("d", DAY_US), ("h", 3600 * SECOND_US), ("min", 60 * SECOND_US), ("s", SECOND_US), ("ms", 1000), ("µs", 1))
_UNITS_S = {"min": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_length(name: str, text: str) -> dt.timedelta:
    """Parse a length of time as users write it: ``30min``, ``6h``, ``1d``, ``1w``.

    Raises
    ------
    ConfigError
        `text` is not in that form; the message calls it `name`.

    Examples
    --------
    >>> parse_length("window", "6h")
    datetime.timedelta(seconds=21600)
    """
    match = re.fullmatch(r"([0-9]{1,6})(min|h|d|w)", text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(
            f"{name} is {one_line(repr(text), 60)}; expected a length of time such as '30min', '6h', '1d' or '1w'"
        )
    return dt.timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])


def parse_time(text: str) -> dt.datetime:
    """Parse a time as users type it, in ISO 8601. Without an offset it is UTC, like every time shown.

    Raises
    ------
    ConfigError
        `text` is not such a time.

    Examples
    --------
    >>> parse_time("2026-10-05").isoformat()
    '2026-10-05T00:00:00+00:00'
    """
    try:
        return parse_utc(text)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{one_line(repr(text), 60)} is not a time; use for example 2026-10-05 or 2026-10-05T14:00:00Z"
        ) from None


def parse_utc(text: str) -> dt.datetime:
    """Parse a time in ISO 8601, with ``T`` or a space, and convert it to UTC. Without an offset it is UTC.

    Raises
    ------
    ValueError, OverflowError
        `text` is not such a time, or in UTC it is outside the years 1 to 9999.

    Examples
    --------
    >>> parse_utc("2026-10-05T14:00:00+02:00").isoformat()
    '2026-10-05T12:00:00+00:00'
    """
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is dt.UTC:
        return moment
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def utc_text(moment: dt.datetime) -> str:
    """Format a time as files store it: ISO 8601 in UTC, always with microseconds, so that text sorts by time.

    Examples
    --------
    >>> utc_text(EPOCH)
    '1970-01-01T00:00:00.000000Z'
    """
    return moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def time_text(moment: dt.datetime) -> str:
    """Format a time as people read it, to the second, without its zone: every time shown is UTC.

    Examples
    --------
    >>> time_text(EPOCH)
    '1970-01-01 00:00:00'
    """
    return moment.replace(tzinfo=None).isoformat(" ", "seconds")


def epoch_us(moment: dt.datetime) -> int:
    """Return the microseconds from the start of 1970 UTC to `moment`.

    Examples
    --------
    >>> epoch_us(dt.datetime(1970, 1, 2, tzinfo=dt.UTC))
    86400000000
    """
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND_US + since.microseconds  # three times as fast as a division


def from_epoch_us(microseconds: int) -> dt.datetime:
    """Return the time that many microseconds after the start of 1970, in UTC.

    Examples
    --------
    >>> from_epoch_us(86_400_000_000).isoformat()
    '1970-01-02T00:00:00+00:00'
    """
    return EPOCH + microseconds * _MICROSECOND


def duration_text(duration_us: float) -> str:
    """Format a duration in its two largest units.

    Examples
    --------
    >>> duration_text(88_241_000), duration_text(5_240_000), duration_text(250_000), duration_text(0)
    ('1 min 28 s', '5.24 s', '250 ms', '0 s')
    """
    whole = round(duration_us)
    if whole == 0:
        return "0 s"
    position = next(i for i, (_, size) in enumerate(_UNITS_US) if whole >= size)
    unit, size = _UNITS_US[position]
    if size <= SECOND_US:
        return f"{whole / size:.3g} {unit}"
    smaller, smaller_size = _UNITS_US[position + 1]
    major, minor = divmod(round(whole / smaller_size), size // smaller_size)
    return f"{major:,} {unit}" + (f" {minor} {smaller}" if minor else "")
