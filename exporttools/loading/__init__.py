"""The only room that writes to a database: native tables, filled in bulk or run by run, in one transaction each.

====================  ======================================================================
``targets``           databases to write to: PostgreSQL, SQLite
``native_tables``     the four tables as they are created
``fresh_tables``      :func:`load_tables`: fill them where they are empty
``run_replacement``   :func:`load_runs`: imported runs, each replaced whole where it has changed
====================  ======================================================================
"""

from __future__ import annotations

from exporttools.loading.fresh_tables import Batches, load_tables
from exporttools.loading.run_replacement import ImportedFile, LoadedRuns, imported_files, load_runs
from exporttools.loading.targets import DatabaseName

__all__ = [
    "Batches", "DatabaseName", "ImportedFile", "LoadedRuns", "imported_files", "load_runs", "load_tables",
]  # fmt: skip
