"""The only room that writes to a database: native tables, filled in bulk or run by run, in one transaction each.

====================  ======================================================================
``targets``           databases to write to: PostgreSQL, SQLite
``native_tables``     the four tables as they are created
``fresh_tables``      :func:`load_tables`: fill them where they are empty
``imported_file``     what is known of a file that was imported
``run_replacement``   :func:`load_runs`: imported runs, each replaced whole where it has changed
====================  ======================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from exporttools.loading.fresh_tables import Batches, load_tables
    from exporttools.loading.imported_file import ImportedFile
    from exporttools.loading.run_replacement import LoadedRuns, imported_files, load_runs
    from exporttools.loading.targets import DatabaseName

# Drivers are for what is loaded: an import that is only looked at needs none.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fresh_tables": ["Batches", "load_tables"],
        "imported_file": ["ImportedFile"],
        "run_replacement": ["LoadedRuns", "imported_files", "load_runs"],
        "targets": ["DatabaseName"],
    },
)

__all__ = [
    "Batches", "DatabaseName", "ImportedFile", "LoadedRuns", "imported_files", "load_runs", "load_tables",
]  # fmt: skip
