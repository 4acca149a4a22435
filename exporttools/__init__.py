"""What happened in an AI agent's run, what did it cost, and can you prove it? From a notebook.

Names are imported on first use, so that ``import exporttools`` stays light: pandas, matplotlib, SQLAlchemy and DuckDB
are loaded only by what needs them. ``__init__.pyi`` says where each name comes from.
"""

import ast
import logging

import lazy_loader

from exporttools.version import __version__

# lazy_loader.attach_stub() would read the stub from the file system, and so not from a zip file, as Spark ships packages.
_stub = ast.parse(__spec__.loader.get_data(f"{__path__[0]}/__init__.pyi"))
_names: dict[str, list[str]] = {}
for _import in _stub.body:
    if isinstance(_import, ast.ImportFrom):
        _names.setdefault(_import.module or "", []).extend(_alias.name for _alias in _import.names)

__getattr__, __dir__, _ = lazy_loader.attach(__name__, submodules=_names.pop(""), submod_attrs=_names)

logging.getLogger(__name__).addHandler(logging.NullHandler())

# What a user types. What only comes out of calls (a Comparison, a Finding, an ExportReport, a layout's parts) is there too.
__all__ = [  # noqa: RUF022 - sorted by code points
    "AOS",
    "BundleError",
    "BundleExists",
    "BundleUnreadable",
    "Column",
    "ColumnNotFound",
    "ColumnTypeMismatch",
    "ConfigError",
    "ConnectionFailed",
    "DatasetError",
    "DatasetUnreadable",
    "DestinationConflict",
    "DuplicateColumn",
    "ExportBundle",
    "ExportBundleStore",
    "ExportInterrupted",
    "ExportToolsError",
    "IncidentSnapshot",
    "InconsistentData",
    "Layout",
    "MissingExtra",
    "NATIVE",
    "QueryTimeout",
    "ReportError",
    "RunSnapshot",
    "SchemaMismatch",
    "SnapshotTable",
    "SqlTraceStore",
    "StoreError",
    "TenantMismatch",
    "TraceImportError",
    "TraceStepSnapshot",
    "TraceStore",
    "TraceSummarySnapshot",
    "UnrecognisedTrace",
    "VerificationFailed",
    "__version__",
    "anomalies",
    "baseline",
    "compare_bundles",
    "compare_runs",
    "cost_by",
    "cost_over_time",
    "cumulative_cost",
    "export_dataset",
    "get_export_bundle_store",
    "load_signing_key",
    "load_trusted_key",
    "load_trusted_keys",
    "open_dataset",
    "percentiles",
    "plan_export",
    "read_bundle",
    "read_traces",
    "reconcile_costs",
    "reconciliation_verdict",
    "repeated_calls",
    "reprice",
    "repricing_by",
    "repricing_verdict",
    "run_profiles",
    "run_totals",
    "step_tree",
    "timeline",
    "top_runs",
    "verify_bundle",
    "what_changed",
    "write_bundle",
    "write_key_pair",
    "write_report",
    "write_reports",
]
