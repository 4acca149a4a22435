"""What an import has found, as tables: for analysis, plots and bundles as they are, or to be loaded into a database."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from exporttools.errors import ConfigError
from exporttools.importing.column_arrays import positions
from exporttools.importing.import_report import ImportReport
from exporttools.importing.tables import TENANT
from exporttools.loading.imported_file import ImportedFile
from exporttools.records.export_bundle import ExportBundle
from exporttools.records.schema import Column
from exporttools.records.snapshot_table import SnapshotTable
from exporttools.records.snapshots import (
    IncidentSnapshot,
    RunSnapshot,
    SourceSnapshot,
    TraceStepSnapshot,
    TraceSummarySnapshot,
)
from exporttools.text.inert import one_line
from exporttools.version import __version__

if TYPE_CHECKING:
    from exporttools.loading import DatabaseName, LoadedRuns

_OF_THE_RUN = (
    Column("run_id", "string", False, "the run that the step is of"),
    Column("agent_id", "string", True, "the agent that ran"),
)


class ImportedTraces:
    """The runs, traces and steps that were found in files. Immutable.

    Attributes
    ----------
    incidents, runs, traces : SnapshotTable
        All of tenant ``local``; runs by their start.
    trace_steps : pyarrow.Table
        ``tenant_id``, ``run_id``, ``trace_id``, ``agent_id``, then a step's own columns and the well-known extra ones:
        ``name``, ``model``, ``input_tokens`` and so on. By run, then by ``step_index``.
    report : ImportReport
        What was read and what became of it.
    """

    __slots__ = (
        "_also_loaded",
        "_digests",
        "_files",
        "_step_counts",
        "_stored",
        "incidents",
        "report",
        "runs",
        "trace_steps",
        "traces",
    )

    incidents: SnapshotTable[IncidentSnapshot]
    runs: SnapshotTable[RunSnapshot]
    traces: SnapshotTable[TraceSummarySnapshot]
    trace_steps: pa.Table
    report: ImportReport

    def __init__(
        self,
        stored: Mapping[str, pa.Table],
        step_counts: Sequence[int],
        report: ImportReport,
        files: Sequence[ImportedFile],
        digests: Sequence[str],
        also_loaded: Mapping[str, pa.Table],
    ) -> None:
        self._stored, self._step_counts, self._files, self._digests = stored, step_counts, files, digests
        self._also_loaded = also_loaded
        self.incidents = SnapshotTable(IncidentSnapshot, stored["incidents"])
        self.runs = SnapshotTable(RunSnapshot, stored["runs"])
        self.traces = SnapshotTable(TraceSummarySnapshot, stored["traces"])
        self.trace_steps = _with_runs(stored["trace_steps"], stored["runs"], step_counts)
        self.report = report

    def __repr__(self) -> str:
        return (
            f"<ImportedTraces: {len(self.runs):,} runs, {self.trace_steps.num_rows:,} steps, "
            f"{len(self.incidents):,} incidents>"
        )

    def _repr_html_(self) -> str:
        return self.report._repr_html_()  # Jupyter's name

    def get_export_bundle(self, identifier: str) -> ExportBundle | None:
        """Return the bundle of an incident, or else of a run.

        Parameters
        ----------
        identifier : str
            The incident's or the run's id.

        Returns
        -------
        ExportBundle or None
            None if there is neither.
        """
        incident = self._row("incidents", "id", identifier)
        run_id = identifier if incident is None else self.incidents[incident].source_run_id
        run = self._row("runs", "run_id", str(run_id))
        if run is None:
            return None
        start = sum(self._step_counts[:run])
        steps = self._stored["trace_steps"].slice(start, self._step_counts[run]).drop_columns(["tenant_id", "trace_id"])
        return ExportBundle(
            None if incident is None else self.incidents[incident : incident + 1],
            self.runs[run : run + 1],
            self.traces[run : run + 1],
            SnapshotTable(TraceStepSnapshot, steps),
            trace_count=1,
            source=SourceSnapshot(
                dialect="files",
                server_version=f"exporttools {__version__}",
                layout=str(self._stored["runs"]["source_format"][run]),
                snapshot_id=None,
                read_at=dt.datetime.now(dt.UTC),
            ),
        )

    def load_into(self, database: DatabaseName) -> LoadedRuns:
        """Write the runs with all that is theirs into a database, in one transaction.

        The same files twice change nothing; a session that has grown replaces its run. Runs of other imports stay.

        Parameters
        ----------
        database : str, path or URL
            ``postgresql://...``, ``sqlite:///...`` or the path of an SQLite file. Native tables are created where there
            are none.

        Returns
        -------
        LoadedRuns
            How many runs are new, were replaced, and are as they were.

        Raises
        ------
        ConfigError
            The database's tables lack columns. Nothing was written.
        StoreError
            The database failed. Nothing was written.
        """
        from exporttools.loading import load_runs  # databases' drivers are for what is loaded

        tables = self._stored
        if self._also_loaded:
            tables = {name: pa.concat_tables([rows, self._also_loaded[name]]) for name, rows in tables.items()}
        digests = dict(zip(tables["runs"]["run_id"].to_pylist(), self._digests, strict=True))
        return load_runs(database, tables, digests, self._files, tenant_id=TENANT)

    def _row(self, table: str, column: str, value: str) -> int | None:
        if not isinstance(value, str):
            raise ConfigError(f"the id is {one_line(repr(value), 80)}; expected a str")
        found = pc.index(self._stored[table][column], value).as_py()
        return None if found < 0 else int(found)


def _with_runs(steps: pa.Table, runs: pa.Table, counts: Sequence[int]) -> pa.Table:
    """Steps with the run and the agent that they are of, where a scan of a database has them."""
    of_run = positions(np.repeat(np.arange(len(counts)), counts))
    added = {"run_id": steps["trace_id"], "agent_id": runs["agent_id"].take(of_run)}  # a run has one trace, of its id
    names = ["tenant_id", "run_id", "trace_id", "agent_id", *steps.column_names[2:]]
    fields = {field.name: field for field in steps.schema} | {c.name: c.arrow_field for c in _OF_THE_RUN}
    columns = [added[name] if name in added else steps[name] for name in names]
    return pa.Table.from_arrays(columns, schema=pa.schema([fields[name] for name in names]))
