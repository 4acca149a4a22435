"""DuckDB for sorting and grouping more than fits in memory: it spills to a temporary directory. Knows no files of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


@contextmanager
def spilling_connection(memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to an empty in-memory database that spills what exceeds `memory`, such as ``"1GB"``, to disk."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="exporttools-") as directory:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory,
            "temp_directory": directory,
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            yield connection
