"""A dataset's tables as DuckDB views over their Parquet files."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from exporttools.errors import ConfigError
from exporttools.records.schema import Column
from exporttools.text.inert import one_line, sql_identifier

_DUCKDB_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "float64": "DOUBLE", "timestamp": "TIMESTAMP WITH TIME ZONE"}
_FILENAME = "exporttools_filename"


def table_view(
    table: str, columns: Sequence[Column], files: Sequence[str], held: Collection[str], tenant_id: str | None = None
) -> str:
    """Return the SELECT of a table's rows, with their ``day``.

    Parameters
    ----------
    table : str
    columns : sequence of Column
    files : sequence of str
        Paths or URLs.
    held : collection of str
        The columns that at least one of the files has; the others are NULL.
    tenant_id : str, optional
        The only tenant whose rows are selected.

    Raises
    ------
    ConfigError
        Two columns differ only in case, which SQL ignores.
    """
    if not files:
        nulls = ", ".join(
            f"CAST(NULL AS {_DUCKDB_TYPES[column.type]}) AS {sql_identifier(column.name)}" for column in columns
        )
        return f"SELECT {nulls}, CAST(NULL AS VARCHAR) AS day WHERE false"
    _require_distinct(table, columns)
    selected = ", ".join(
        f"CAST({sql_identifier(column.name) if column.name in held else 'NULL'} AS {_DUCKDB_TYPES[column.type]}) "
        f"AS {sql_identifier(column.name)}"
        for column in columns
    )
    listed = ", ".join(_text(_literal(path)) for path in files)
    own = "" if tenant_id is None else f" WHERE tenant_id = {_text(tenant_id)}"
    # Only the path holds the day. The tenant is in the file too, and there not percent-encoded.
    return (
        f"SELECT {selected}, regexp_extract({_FILENAME}, '/day=([0-9_a-z-]+)/[^/]*$', 1) AS day "  # noqa: S608
        f"FROM read_parquet([{listed}], union_by_name = true, filename = '{_FILENAME}', hive_partitioning = false){own}"
    )


def only_files(files: Sequence[str]) -> str:
    """Return the statements after which the connection opens these files and no others, for good."""
    allowed = ", ".join(_text(path) for file in files for path in dict.fromkeys((file, _literal(file))))
    return f"SET allowed_paths = [{allowed}]; SET enable_external_access = false; SET lock_configuration = true"


def _require_distinct(table: str, columns: Sequence[Column]) -> None:
    """Raise if SQL would return one column's values for another."""
    seen = {"day": "day", _FILENAME: _FILENAME}
    for column in columns:
        other = seen.setdefault(column.name.lower(), column.name)
        if other != column.name or column.name in ("day", _FILENAME):
            raise ConfigError(
                f"{table} has a column {one_line(repr(column.name), 80)} that SQL cannot distinguish from "
                f"{one_line(repr(other), 80)}; read it with to_arrow or scan, or rename it in the layout"
            )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _literal(path: str) -> str:
    """Escape a path that DuckDB would take for a pattern."""
    if "://" in path:  # read through fsspec, without patterns
        return path
    return re.sub(r"[*?\[]", r"[\g<0>]", path)
