"""Sessions and traces of other tools: files in, tables out, which can be analysed as they are or loaded into a database.

=====================  ======================================================================
``source_files``       where the files are, and how they are opened
``json_records``       lines and documents of JSON, whatever has happened to them
``events``             what a format says of a record: the same words for every format
``formats``            what a format's module gives
``claude_code``        Claude Code
``file_reading``       one file: its format, and what its events add up to
``kept_files``         what was read from a file, as bytes to keep
``file_extracts``      that, with what ties the file to others
``reading_processes``  several files at a time
``file_archive``       what all files say, small, until it is resolved
``resolving``          files that belong together: which copy counts, whose step it is, what became of each record
``incident_rules``     what deserves a look
``tables``             the native tables, with prices and incidents
``import_report``      the bill's reconciliation
``imported``           :class:`ImportedTraces`
``session_import``     :func:`read_traces`
``explaining``         the fate of each line of a session
``own_database``       where imports go by default
=====================  ======================================================================

Nothing here opens a database, except that :meth:`ImportedTraces.load_into` writes one through ``loading``. Names are imported
on first use: processes that only read files need few modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from exporttools.importing.import_report import ImportReport
    from exporttools.importing.imported import ImportedTraces
    from exporttools.importing.session_import import read_traces

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "import_report": ["ImportReport"],
        "imported": ["ImportedTraces"],
        "session_import": ["read_traces"],
    },
)

__all__ = ["ImportReport", "ImportedTraces", "read_traces"]
