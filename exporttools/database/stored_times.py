"""Times as they are stored, as SQL that compares and sorts them. Knows no layouts and no records.

PostgreSQL has types for times. SQLite has text in any form of ISO 8601, or anything else. Where all texts of a column
are proved to be of one form, they sort as text, and an index on the column serves; otherwise Python parses them.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.sql import ColumnElement

from exporttools.times import epoch_us

_DAY = dt.timedelta(days=1)
_DATED = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"
_FORM = re.compile(r"\d{4}-\d\d-\d\d([ T])\d\d:\d\d:\d\d(?:\.(\d{3}|\d{6}))?(Z|\+00:00)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeForm:
    """A form of ISO 8601 in UTC whose texts sort by time.

    Attributes
    ----------
    separator : str
        Between date and time: a space or ``T``.
    digits : int
        Of the second's fraction.
    zone : str
        ``Z``, ``+00:00`` or empty.

    Examples
    --------
    >>> TimeForm.of("2026-10-05 12:00:00.000Z").text(dt.datetime(2026, 10, 5, 12, 0, 0, 1, dt.UTC))
    '2026-10-05 12:00:00.001Z'
    """

    separator: str
    digits: int
    zone: str

    @classmethod
    def of(cls, stored: object) -> TimeForm | None:
        """Return the form of a stored time, or None if it is of no such form."""
        match = _FORM.fullmatch(stored) if isinstance(stored, str) else None
        return match and cls(match[1], len(match[2] or ""), match[3] or "")

    def text(self, moment: dt.datetime) -> str:
        """Return the first text of this form that is not before a time."""
        unit_us = 10 ** (6 - self.digits)
        try:
            moment += dt.timedelta(microseconds=-moment.microsecond % unit_us)
        except OverflowError:
            return ":"  # after every digit
        plain = moment.replace(tzinfo=None).isoformat(self.separator, "microseconds")
        return (plain[: 20 + self.digits] if self.digits else plain[:19]) + self.zone

    @property
    def pattern(self) -> str:
        """A pattern of SQLite's GLOB that its texts match; what else does is no valid time for SQLite."""
        last = f".{'?' * (self.digits - 1)}[0-9]" if self.digits else ""
        return f"????-??-??{self.separator}??:??:??{last}{self.zone}"


@dataclass(frozen=True, slots=True)
class StoredTime:
    """A column of times.

    Attributes
    ----------
    read : ColumnElement
        The column as it is read.
    dialect : str
    form : TimeForm or None
        SQLite only: the form that all texts are proved to have.
    """

    read: ColumnElement[Any]
    dialect: str
    form: TimeForm | None = None

    @property
    def stored(self) -> ColumnElement[Any]:
        """SQLite only: the column as text, whatever type it is declared with."""
        return sa.type_coerce(self.read, sa.Text())

    @property
    def moment(self) -> ColumnElement[Any]:
        """An expression that sorts by time; in SQLite, whatever is not a time is NULL unless a form is proved."""
        if self.dialect != "sqlite":
            return self.read
        if self.form is not None:
            return sa.collate(self.stored, "BINARY")
        return sa.func.exporttools_utc_us(self.read, type_=sa.BigInteger())

    def within(self, since: dt.datetime | None, until: dt.datetime | None) -> list[ColumnElement[bool]]:
        """The conditions that a time is in [since, until)."""
        moment = self.moment
        conditions = self._nearby(since, until) if self.dialect == "sqlite" and self.form is None else []
        if since is not None:
            conditions.append(moment >= self._bound(since))
        if until is not None:
            conditions.append(moment < self._bound(until))
        return conditions

    def _nearby(self, since: dt.datetime | None, until: dt.datetime | None) -> list[ColumnElement[bool]]:
        """Conditions that SQLite checks in C, before it calls Python to parse a text's time.

        A text that starts with a date is within a day of it, whatever its offset; any other text passes.
        """
        bounds = []
        if since is not None and since.year > 1:
            bounds.append(self.stored >= (since - _DAY).date().isoformat())
        if until is not None and until.year < dt.MAXYEAR:
            bounds.append(self.stored < (until + 2 * _DAY).date().isoformat())
        dated = self.stored.bool_op("GLOB")(_DATED)
        return [sa.or_(sa.not_(dated), sa.and_(*bounds))] if bounds else []

    def _bound(self, moment: dt.datetime) -> Any:
        if self.dialect != "sqlite":
            return moment
        return epoch_us(moment) if self.form is None else self.form.text(moment)

    def grid_number(self, length_s: int) -> ColumnElement[Any]:
        """The number of the grid interval that a time falls in; intervals of `length_s` start at 1970-01-01."""
        if self.dialect != "sqlite":
            seconds = sa.cast(sa.func.extract("epoch", self.read), sa.Numeric)
            return sa.cast(sa.func.floor(seconds / length_s), sa.BigInteger())
        if self.form is None:
            moment, length = self.moment, length_s * 1_000_000
        else:
            moment, length = (
                sa.cast(sa.func.strftime("%s", sa.func.substr(self.stored, 1, 19)), sa.BigInteger()),
                length_s,
            )
        # SQLite's remainder takes the sign of the dividend, and its integer division truncates towards zero.
        return (moment - (moment % length + length) % length) // length

    def is_of(self, forms: Collection[TimeForm]) -> ColumnElement[bool]:
        """SQLite only: the condition that a text is a valid time of one of the forms."""
        # No number and no blob is between two texts, nor is the year 0. GLOB fixes the places, date() checks the digits and
        # the calendar: with a modifier it turns 02-30 into 03-02, and 24:00 into the next day.
        text = self.stored
        in_calendar = sa.func.date(text, "+0 days", type_=sa.Text()) == sa.func.substr(text, 1, 10)
        of_form = sa.or_(*(text.bool_op("GLOB")(form.pattern) for form in forms))
        return sa.and_(text.between("0001", ":"), of_form, in_calendar).is_(True)

    def is_unreadable(self, forms: Collection[TimeForm]) -> ColumnElement[bool]:
        """SQLite only: the condition that a value is not a time. Python parses what is of none of the forms."""
        parsed = sa.func.exporttools_utc_us(self.read, type_=sa.BigInteger())
        readable = [(self.read.is_(None), False), *([(self.is_of(forms), False)] if forms else [])]
        return sa.case(*readable, else_=parsed.is_(None))


def data_version(connection: Connection) -> tuple[int, ...]:
    """SQLite only: numbers that change whenever anyone changes the data, as this connection's transaction sees it."""
    driver: Any = connection.connection.driver_connection
    databases = [str(row[1]).replace('"', '""') for row in driver.execute("PRAGMA database_list")]
    versions = [
        driver.execute(f'PRAGMA "{name}".{what}').fetchone()[0]
        for name in databases
        for what in ("data_version", "schema_version")
    ]
    # The data version says nothing of changes by the connection itself, as an Engine's may be used to write.
    return driver.total_changes, *versions
