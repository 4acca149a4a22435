"""Times and lengths of time: typed, stored and counted."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporttools import ConfigError
from exporttools.times import (
    DAY_US,
    EARLIEST,
    EPOCH,
    LATEST,
    epoch_us,
    from_epoch_us,
    parse_length,
    parse_time,
    parse_utc,
    time_text,
    utc_text,
)

MOMENTS = st.datetimes(timezones=st.just(dt.UTC))


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1min", 1), ("90min", 90), ("6h", 360), ("1d", 1440), ("1w", 10_080), ("0d", 0), ("999999w", 10_079_989_920)],
)
def test_a_length_of_time(text: str, minutes: int) -> None:
    assert parse_length("every", text) == dt.timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "text", ["", "1", "d", "1 d", "-1d", "1.5h", "1D", "1m", "1s", "1000000d", "1d\n", "\u0661d", 5, None]
)
def test_what_is_not_a_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_length("every", text)
    assert str(caught.value) == f"every is {text!r}; expected a length of time such as '30min', '6h', '1d' or '1w'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-10-05", "2026-10-05T00:00:00+00:00"),
        ("2026-10-05 14:00", "2026-10-05T14:00:00+00:00"),
        ("2026-10-05T14:00:00Z", "2026-10-05T14:00:00+00:00"),
        ("2026-10-05T14:00:00.123456+02:00", "2026-10-05T12:00:00.123456+00:00"),
        ("2026-01-01T00:00:00+05:30", "2025-12-31T18:30:00+00:00"),
        ("0001-01-01", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.999999", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_a_time_is_read_as_utc(text: str, expected: str) -> None:
    for parse in (parse_time, parse_utc):
        found = parse(text)
        assert found.isoformat() == expected
        assert found.tzinfo is dt.UTC


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-13-01", "2026-02-30", "14:00", "0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00"]
)
def test_what_is_not_a_time(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_time(text)
    assert str(caught.value) == f"{text!r} is not a time; use for example 2026-10-05 or 2026-10-05T14:00:00Z"
    with pytest.raises((ValueError, OverflowError)):
        parse_utc(text)


def test_messages_are_short_and_inert() -> None:
    hostile = "\x1b[31m\n" + "x" * 100_000
    with pytest.raises(ConfigError) as caught:
        parse_time(hostile)
    assert len(str(caught.value)) < 150
    assert str(caught.value).isprintable()
    with pytest.raises(ConfigError) as caught:
        parse_length("every", hostile)
    assert len(str(caught.value)) < 150
    assert str(caught.value).isprintable()


@given(MOMENTS)
def test_a_stored_time_is_read_back(moment: dt.datetime) -> None:
    assert parse_utc(utc_text(moment)) == moment
    assert from_epoch_us(epoch_us(moment)) == moment


@given(MOMENTS, MOMENTS)
def test_stored_times_sort_as_text(a: dt.datetime, b: dt.datetime) -> None:
    assert (utc_text(a) < utc_text(b)) == (a < b)


def test_a_stored_time_has_microseconds_and_is_utc() -> None:
    zone = dt.timezone(-dt.timedelta(hours=3, minutes=30))
    assert utc_text(dt.datetime(2026, 10, 5, 22, tzinfo=zone)) == "2026-10-06T01:30:00.000000Z"
    assert utc_text(EARLIEST) == "0001-01-01T00:00:00.000000Z"
    assert utc_text(LATEST) == "9999-12-31T23:59:59.999999Z"


def test_microseconds_since_1970() -> None:
    assert epoch_us(EPOCH) == 0
    assert epoch_us(dt.datetime(1969, 12, 31, tzinfo=dt.UTC)) == -DAY_US == -86_400_000_000
    assert epoch_us(EARLIEST) == -62_135_596_800_000_000
    assert epoch_us(LATEST) == 253_402_300_799_999_999
    assert from_epoch_us(253_402_300_799_999_999) == LATEST
    assert from_epoch_us(-1).isoformat() == "1969-12-31T23:59:59.999999+00:00"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (EARLIEST, "0001-01-01 00:00:00"),
        (LATEST, "9999-12-31 23:59:59"),
        (dt.datetime(2026, 10, 5, 14, 0, 1, 999_999), "2026-10-05 14:00:01"),
    ],
)
def test_times_are_shown_to_the_second_and_with_four_digits_of_the_year(moment: dt.datetime, text: str) -> None:
    assert time_text(moment) == text
