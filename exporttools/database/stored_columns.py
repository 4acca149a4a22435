"""Columns of text as they are stored, compared in their own types, so that indexes serve, and always by bytes.

A uuid or an integer that is read as text is equal to a text where the text is how it is read: ``'7'``, not ``'007'``.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import ColumnElement

_COMPARABLE: tuple[tuple[type, ...], ...] = (
    (sa.Uuid,), (sa.Integer, sa.Numeric), (sa.Date, sa.DateTime), (sa.Boolean,), (sa.types.NullType,),
)  # fmt: skip
"""Types that compare with each other as they are stored; others compare as text."""


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column and how it is read.

    Attributes
    ----------
    stored : ColumnElement
        The column in its own type.
    read : ColumnElement
        The same as the record's type.
    folds : bool
        Whether its collation may call different texts equal.
    dialect : str
    """

    stored: ColumnElement[Any]
    read: ColumnElement[Any]
    folds: bool
    dialect: str

    @property
    def exact(self) -> ColumnElement[Any]:
        """The column as it is read; texts compare and sort by bytes."""
        return self._by_bytes() if self.folds else self.read

    def _by_bytes(self) -> ColumnElement[Any]:
        return sa.collate(self.read, "BINARY" if self.dialect == "sqlite" else "C")

    def among(self, values: Collection[str]) -> ColumnElement[bool]:
        """The condition that the column has one of the values."""
        kind = self.stored.type
        if self.dialect == "postgresql" and isinstance(kind, sa.Uuid):
            return _one_of(self.stored, [uuid.UUID(value) for value in values if _is_uuid(value)])
        if self.dialect == "postgresql" and isinstance(kind, sa.Integer):
            numbers = [int(value) for value in values if _is_int64(value)]
            return _one_of(sa.type_coerce(self.stored, sa.BigInteger()), numbers)
        conditions = [_one_of(self.read, list(values))]
        if self.dialect == "sqlite" and isinstance(kind, (sa.Integer, sa.Numeric)):
            # SQLite converts the value to the column's affinity: '7' and '007' both find 7 in the index.
            conditions.append(_one_of(sa.type_coerce(self.stored, sa.Text()), list(values)))
        if self.folds:
            conditions.append(_one_of(self._by_bytes(), list(values)))
        return sa.and_(*conditions)

    def equals(self, other: StoredColumn) -> ColumnElement[bool]:
        """The condition that two columns have the same value."""
        if any(isinstance(self.stored.type, kinds) and isinstance(other.stored.type, kinds) for kinds in _COMPARABLE):
            return self.stored == other.stored
        plain = self.read == other.read
        if not (self.folds or other.folds):
            return plain
        exact = self._by_bytes() == other._by_bytes()
        # PostgreSQL does not compare texts of two collations; SQLite does, and finds rows by the index of either.
        return exact if self.dialect == "postgresql" else sa.and_(plain, exact)


def _one_of(column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    if not values:
        return sa.false()
    return column == values[0] if len(values) == 1 else column.in_(values)


def _is_uuid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _is_int64(value: str) -> bool:
    try:
        return str(int(value)) == value and -(2**63) <= int(value) < 2**63
    except ValueError:
        return False
