"""What a function needs a column for, and the errors for columns that are missing, duplicated or of another type; and for other arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from numbers import Integral
from typing import Any

import narwhals as nw

from exporttools.errors import ColumnNotFound, ColumnTypeMismatch, ConfigError, DuplicateColumn
from exporttools.text.inert import one_line


class Kind(Enum):
    """What a column is needed for, which decides what types it may have."""

    KEY = "values to group by"
    NUMBER = "numbers"
    WHOLE = "integers"
    TIME = "times with a time zone, such as UTC"
    TEXT = "text"


KINDS = {"string": Kind.TEXT, "int64": Kind.WHOLE, "float64": Kind.NUMBER, "timestamp": Kind.TIME}
"""What a record's column is needed for, by its type."""


def require_columns(what: str, columns: Sequence[str], needed: Mapping[str, Any]) -> None:
    """Raise ColumnNotFound if a needed column is missing; `what` is what messages call the frame."""
    if missing := tuple(name for name in needed if name not in columns):
        raise ColumnNotFound(
            f"{what}: no column {_joined(missing)}; found {_joined(columns) or 'no columns'}",
            missing=missing, available=tuple(columns),
        )  # fmt: skip


def require_unique(what: str, columns: Sequence[str]) -> None:
    """Raise DuplicateColumn if several columns have one name."""
    if duplicates := tuple(name for name, count in Counter(columns).items() if count > 1):
        raise DuplicateColumn(
            f"{what}: more than one column is named {_joined(duplicates)}; rename or drop all but one",
            duplicates=duplicates, available=tuple(columns),
        )  # fmt: skip


def type_mismatch(what: str, column: str, found: object, expected: object, why: str = "") -> ColumnTypeMismatch:
    """The error for a column of another type than expected."""
    return ColumnTypeMismatch(
        f"{what}: column {one_line(column, 60)!r} is {found}; expected {expected}" + (f": {why}" if why else ""),
        column=column, found=str(found), expected=str(expected),
    )  # fmt: skip


def require_keys(parameter: str, keys: Sequence[Any], result: Sequence[str]) -> list[str]:
    """Columns to group by, without repetitions.

    Raises
    ------
    ConfigError
        A key is not a string, or is the name of another column of the `result`.
    """
    for key in keys:
        if not isinstance(key, str):
            raise ConfigError(f"{parameter} has {one_line(repr(key), 60)}; expected column names")
        if key in result:
            raise ConfigError(f"cannot group by {key!r}: the result has a column of that name")
    return list(dict.fromkeys(keys))


def require_integer(parameter: str, value: Any, least: int) -> None:
    """Raise ConfigError if a parameter is not an integer, or less than that."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ConfigError(f"{parameter} is {one_line(repr(value), 60)}; expected an integer >= {least}")


def conversion(what: str, column: str, dtype: Any, kind: Kind) -> Any:
    """The Narwhals expression that turns a column into what it is needed as; None if it is that already.

    Raises
    ------
    ColumnTypeMismatch
        The column's type does not fit.
    """
    value = nw.col(column)
    if dtype == nw.Unknown or (dtype == nw.Object and kind in (Kind.KEY, Kind.TEXT)):
        return None  # an all-NULL column has no type in pyarrow and Polars, and text may have none in pandas
    fits, expression = False, None
    if kind in (Kind.NUMBER, Kind.WHOLE):
        fits = dtype.is_numeric()
        if dtype.is_float():
            expression = value.fill_nan(None)
        elif dtype.is_decimal():
            expression = value.cast(nw.Float64)
    elif kind is Kind.TIME:
        fits = isinstance(dtype, nw.Datetime) and dtype.time_zone is not None
    elif isinstance(dtype, (nw.Categorical, nw.Enum)):
        fits, expression = True, value.cast(nw.String)
    elif kind is Kind.TEXT:
        fits = dtype == nw.String
    else:
        fits = not (dtype.is_nested() or dtype.is_float() or dtype == nw.Binary)
    if not fits:
        raise type_mismatch(what, column, dtype, kind.value)
    return expression


def _joined(names: Sequence[object]) -> str:
    return ", ".join(one_line(name, 60) for name in names)
