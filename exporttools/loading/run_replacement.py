"""Imported runs in a database: each written once, and replaced whole where it has changed. Reads only its own bookkeeping.

Two further tables keep it: ``import_runs``, a digest of each run as it was written, and ``import_files``, what was read from
each file. Rows that nobody imported are never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from exporttools.connections.urls import parse_url
from exporttools.errors import ConfigError, InconsistentData
from exporttools.loading.imported_file import ImportedFile
from exporttools.loading.native_tables import TableMaker
from exporttools.loading.targets import DatabaseName, Target, open_target
from exporttools.records.schema import RECORD_TYPES
from exporttools.records.validity import Origin, require_valid
from exporttools.text.inert import one_line

_IDS_PER_STATEMENT = 500

_RUN_COLUMN = {"incidents": "source_run_id", "runs": "run_id", "traces": "run_id", "trace_steps": "trace_id"}
"""What names the run in each table: an imported run has one trace, with its own id."""


@dataclass(frozen=True, slots=True)
class LoadedRuns:
    """What became of the runs of an import.

    Attributes
    ----------
    new, replaced, unchanged : int
    """

    new: int
    replaced: int
    unchanged: int


def load_runs(
    database: DatabaseName,
    tables: Mapping[str, pa.Table],
    digests: Mapping[str, str],
    files: Sequence[ImportedFile],
    *,
    tenant_id: str,
) -> LoadedRuns:
    """Write runs with all that is theirs, in one transaction.

    Parameters
    ----------
    database : str, path or URL
    tables : mapping of str to pyarrow.Table
        The four native tables' rows.
    digests : mapping of str to str
        By run id: equal digests mean equal rows.
    files : sequence of ImportedFile
        What they were read from.
    tenant_id : str
        Whose rows they are.

    Raises
    ------
    ConfigError
        A table lacks columns, or has a run of this id that was not imported. Nothing was written.
    StoreError
        The database failed. Nothing was written.
    """
    with open_target(database) as (target, label):
        maker = TableMaker(target, label)
        for table, rows in tables.items():
            maker.require(table, rows.schema)
        maker.finish()
        _make_bookkeeping(target)
        found = {str(run_id): str(digest) for run_id, digest in target.query("SELECT run_id, digest FROM import_runs")}
        changed = [run_id for run_id, digest in digests.items() if found.get(run_id) != digest]
        replaced = [run_id for run_id in changed if run_id in found]
        _require_not_there(target, maker, label, set(changed) - set(replaced), tenant_id)
        for table, column in _RUN_COLUMN.items():
            _delete(target, maker, table, column, replaced, tenant_id)
        _delete(target, maker, "import_runs", "run_id", replaced)
        for table, rows in tables.items():
            of_changed = rows.filter(pc.is_in(rows[_RUN_COLUMN[table]], pa.array(changed, pa.string())))
            record_type = RECORD_TYPES[table]
            require_valid(of_changed, record_type.stored_columns(), origin=Origin(table), key=record_type.stored_key)
            target.append(table, of_changed)
        target.append(
            "import_runs", pa.table({"run_id": changed, "digest": [digests[run_id] for run_id in changed]}, _RUNS)
        )
        _delete(target, maker, "import_files", "path", [file.path for file in files])
        columns = {name: [getattr(file, name) for file in files] for name in _FILES.names}
        target.append("import_files", pa.table(columns, _FILES))
        if changed:
            target.execute("ANALYZE")
    return LoadedRuns(len(changed) - len(replaced), len(replaced), len(digests) - len(changed))


def imported_files(database: DatabaseName) -> list[ImportedFile]:
    """What earlier imports into a database have read; empty if there were none. Creates nothing.

    Raises
    ------
    StoreError
        The database cannot be read, or has what no import writes.
    """
    url = parse_url(database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return []
    with open_target(database) as (target, _):
        if not target.column_names("import_files"):
            return []
        rows = target.query("SELECT path, size_bytes, mtime_ns, content FROM import_files ORDER BY path")
    return [_imported_file(*row) for row in rows]


def _imported_file(path: Any, size_bytes: Any, mtime_ns: Any, content: Any) -> ImportedFile:
    """A row of the bookkeeping; SQLite takes anything in any column."""
    if not (isinstance(path, str) and type(size_bytes) is type(mtime_ns) is int and isinstance(content, bytes)):
        raise InconsistentData(
            f"import_files: the row of {one_line(repr(path), 80)} has a value of another type than its column. Delete it to "
            "read that file again", table="import_files", key=one_line(path),
        )  # fmt: skip
    return ImportedFile(path, size_bytes, mtime_ns, content)


_RUNS = pa.schema([("run_id", pa.string()), ("digest", pa.string())])
_FILES = pa.schema(
    [("path", pa.string()), ("size_bytes", pa.int64()), ("mtime_ns", pa.int64()), ("content", pa.binary())]
)


def _make_bookkeeping(target: Target) -> None:
    binary = "BYTEA" if target.dialect.name == "postgresql" else "BLOB"
    target.execute("CREATE TABLE IF NOT EXISTS import_runs (run_id TEXT PRIMARY KEY, digest TEXT NOT NULL)")
    target.execute(
        "CREATE TABLE IF NOT EXISTS import_files (path TEXT PRIMARY KEY, size_bytes BIGINT NOT NULL, "
        f"mtime_ns BIGINT NOT NULL, content {binary} NOT NULL)"
    )


def _require_not_there(target: Target, maker: TableMaker, label: str, run_ids: Collection[str], tenant_id: str) -> None:
    """Runs that are new to the bookkeeping must be new to the table."""
    for some in _some(sorted(run_ids)):
        runs = sa.table("runs", sa.column("run_id"), sa.column("tenant_id"))
        there = sa.select(runs.c.run_id).where(runs.c.tenant_id == tenant_id, runs.c.run_id.in_(some)).limit(1)
        for (run_id,) in target.query(maker.sql(there)):
            raise ConfigError(
                f"{label}: the table runs already has a run {one_line(repr(run_id))} of tenant {tenant_id!r} that was not "
                "imported; import into another database. Nothing was written."
            )


def _delete(
    target: Target, maker: TableMaker, table: str, column: str, ids: Sequence[str], tenant_id: str | None = None
) -> None:
    for some in _some(ids):
        rows = sa.table(table, sa.column(column), sa.column("tenant_id"))
        statement = sa.delete(rows).where(rows.c[column].in_(some))
        if tenant_id is not None:
            statement = statement.where(rows.c.tenant_id == tenant_id)
        target.execute(maker.sql(statement))


def _some(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        yield ids[start : start + _IDS_PER_STATEMENT]
