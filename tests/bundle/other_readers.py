"""What DuckDB, pyarrow, Polars and fastparquet see in a part, whole and through filters, and what they should see.

Comparison is of values: :func:`as_rows` gives each reader's answer the types of the part's own schema. What it forgives is
known of the readers, and nothing else:

- fastparquet has no time zones, so that its times are naive (they are UTC); it has object, str and Int64 columns where
  pandas has several, and NaN for a NULL in a column of floats, which no part holds as a value.
- Polars and DuckDB have 64-bit or view types of text.
"""

from __future__ import annotations

import atexit
import io
import operator
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

with warnings.catch_warnings():  # as an error, its own warning about pandas has fastparquet take another path to texts
    warnings.simplefilter("ignore")
    import fastparquet

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "<>": operator.ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one column: ``=``, ``<``, ``>``, ``<=``, ``>=``, ``<>``, ``in``, ``is null`` or ``is not null``."""

    column: str
    operator: str
    value: Any = None

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {'' if self.value is None else repr(self.value)[:60]}".rstrip()

    @property
    def compares(self) -> bool:
        return self.operator in _OPERATORS

    def arrow(self) -> pc.Expression:
        field = pc.field(self.column)
        match self.operator:
            case "is null":
                return field.is_null()
            case "is not null":
                return field.is_valid()
            case "in":
                return field.isin(pa.array(self.value))
        return _OPERATORS[self.operator](field, pa.scalar(self.value))

    def polars(self) -> pl.Expr:
        column = pl.col(self.column)
        match self.operator:
            case "is null":
                return column.is_null()
            case "is not null":
                return column.is_not_null()
            case "in":
                return column.is_in(list(self.value))
        return _OPERATORS[self.operator](column, pl.lit(self.value))

    def sql(self) -> tuple[str, list[Any]]:
        name = '"{}"'.format(self.column.replace('"', '""'))
        match self.operator:
            case "is null" | "is not null":
                return f"{name} {self.operator}", []
            case "in":
                return f"{name} in ({', '.join('?' * len(self.value))})", list(self.value)
        return f"{name} {self.operator} ?", [self.value]

    def fastparquet(self) -> list[tuple[str, str, Any]]:
        value = self.value
        if hasattr(value, "tzinfo"):
            value = value.replace(tzinfo=None)
        if self.operator == "in":
            return [(self.column, "in", [v.replace(tzinfo=None) if hasattr(v, "tzinfo") else v for v in value])]
        return [(self.column, {"=": "==", "<>": "!="}.get(self.operator, self.operator), value)]


def filters_of(rows: pa.Table) -> list[Filter]:
    """Filters on every column: of values that are there, of their neighbours, and on NULL."""
    found: list[Filter] = []
    for name in rows.column_names:
        column = rows[name]
        found += [Filter(name, "is null"), Filter(name, "is not null")]
        values = column.drop_null()
        if not len(values):
            continue
        low, high = (pc.min_max(values)[key].as_py() for key in ("min", "max"))
        some = values[len(values) // 2].as_py()
        found += [Filter(name, "=", value) for value in dict.fromkeys((low, some, high))]
        found += [Filter(name, op, some) for op in ("<", ">", "<=", ">=", "<>")]
        found += [Filter(name, "<", low), Filter(name, ">", high)]
        if not (isinstance(low, float) and 0.0 in (low, some)):  # Arrow's own `is_in` tells -0.0 from 0.0
            found.append(Filter(name, "in", (low, some)))
    return found


def as_rows(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """A reader's answer with the part's own types."""
    assert found.column_names == schema.names
    columns = [_in_utc(found)[field.name].cast(field.type).combine_chunks() for field in schema]
    return pa.Table.from_arrays(columns, schema=pa.schema([pa.field(f.name, f.type) for f in schema]))


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """One for all: to open one takes longer than to read a small file. It keeps nothing of files."""
    connection = duckdb.connect()
    atexit.register(_close)
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1; SET enable_external_file_cache = false")
    return connection


def _close() -> None:
    _connection().close()
    _connection.cache_clear()


def _duckdb(query: str, values: list[Any]) -> pa.Table:
    return _connection().sql(query, params=values).to_arrow_table()


def by_duckdb(path: str, condition: Filter | None) -> pa.Table:
    where, values = condition.sql() if condition else ("true", [])
    return _duckdb(f"from read_parquet(?) where {where}", [path, *values])


def by_pyarrow(path: str, condition: Filter | None) -> pa.Table:
    return pq.read_table(path, filters=condition and condition.arrow(), use_threads=False)


def by_dataset(path: str, condition: Filter | None) -> pa.Table:
    return ds.dataset(path).to_table(filter=condition and condition.arrow(), use_threads=False)


def by_parquet_file(path: str, condition: Filter | None) -> pa.Table:
    with pq.ParquetFile(path) as file:
        rows = file.read(use_threads=False)
    return rows.filter(condition.arrow()) if condition else rows


def by_polars(path: str, condition: Filter | None) -> pa.Table:
    rows = pl.read_parquet(path)
    return (rows.filter(condition.polars()) if condition else rows).to_arrow()


def by_polars_scan(path: str, condition: Filter | None) -> pa.Table:
    scan = pl.scan_parquet(path)
    return (scan.filter(condition.polars()) if condition else scan).collect().to_arrow()


def _fastparquet(path: str) -> fastparquet.ParquetFile:
    return fastparquet.ParquetFile(
        path, open_with=lambda name, mode="rb": io.BytesIO(Path(name).read_bytes())
    )  # it closes no files


def by_fastparquet(path: str, condition: Filter | None) -> pa.Table:
    """It skips row groups by their statistics; its filter of rows is not asked, since it errs on columns with NULLs."""
    asked = condition is not None and (condition.compares or condition.operator == "in")
    frame = _fastparquet(path).to_pandas(filters=condition.fastparquet() if condition and asked else [])
    rows = pa.Table.from_arrays(
        [pa.Array.from_pandas(frame[name]) for name in frame.columns], names=list(frame.columns)
    )
    return rows if condition is None else _in_utc(rows).filter(condition.arrow())


def _in_utc(rows: pa.Table) -> pa.Table:
    """Naive times are UTC."""
    for i, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is None:
            rows = rows.set_column(i, field.name, rows[i].cast(pa.timestamp(field.type.unit, "UTC")))
    return rows


READERS: dict[str, Callable[[str, Filter | None], pa.Table]] = {
    "DuckDB": by_duckdb, "pyarrow": by_pyarrow, "pyarrow's dataset": by_dataset, "pyarrow's file": by_parquet_file,
    "Polars": by_polars, "Polars' scan": by_polars_scan, "fastparquet": by_fastparquet,
}  # fmt: skip


def expected_rows(rows: pa.Table, condition: Filter | None) -> pa.Table:
    return rows if condition is None else rows.filter(condition.arrow())


def answer(reader: str, path: str, condition: Filter | None, schema: pa.Schema) -> pa.Table | str:
    """A reader's rows, or what it said instead."""
    try:
        return as_rows(READERS[reader](path, condition), schema)
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  # whatever a reader of somebody else's raises
        return f"{type(error).__name__}: {error}"


def counts(path: str) -> dict[str, int]:
    """How many rows readers say there are, by what the footer says or otherwise."""
    (by_sql,) = _duckdb("select count(*) as n from read_parquet(?)", [path])["n"].to_pylist()
    return {
        "DuckDB": by_sql,
        "pyarrow": pq.read_metadata(path).num_rows,
        "pyarrow's dataset": ds.dataset(path).count_rows(),
        "Polars' scan": pl.scan_parquet(path).select(pl.len()).collect().item(),
        "fastparquet": _fastparquet(path).count(),
    }


def extents(path: str, column: str) -> dict[str, tuple[Any, ...]]:
    """The least and greatest value and the number of values of a column, which readers may take from statistics."""
    name = '"{}"'.format(column.replace('"', '""'))
    query = f"select min({name}), max({name}), count({name}) from read_parquet(?)"
    by_sql = _duckdb(query, [path]).to_pylist()[0]
    of = pl.col(column)
    by_scan = pl.scan_parquet(path).select(of.min().alias("min"), of.max().alias("max"), of.count().alias("count"))
    return {"DuckDB": tuple(by_sql.values()), "Polars' scan": by_scan.collect().row(0)}


def disagreements(
    path: str | os.PathLike[str],
    rows: pa.Table,
    conditions: Sequence[Filter | None],
    *,
    readers: Collection[str] = tuple(READERS),
) -> Iterator[tuple[str, str, str]]:
    """Yield each reader that sees other rows than `rows`, under which filter, and what it sees."""
    path = os.fspath(path)
    plain = pa.schema([pa.field(field.name, field.type) for field in rows.schema])
    rows = as_rows(rows, plain)
    for condition in conditions:
        expected = expected_rows(rows, condition)
        for reader in readers:
            found = answer(reader, path, condition, plain)
            if isinstance(found, str):
                yield reader, str(condition), found
            elif not same_rows(found, expected):
                yield reader, str(condition), f"{found.num_rows:,} rows; expected {expected.num_rows:,}"


def same_rows(found: pa.Table, expected: pa.Table) -> bool:
    return bool(found.equals(expected.combine_chunks()))
