"""What happened in an AI agent's run, what did it cost, and can you prove it? From a notebook.

Names are imported on first use, so that ``import exporttools`` stays light: pandas, matplotlib, SQLAlchemy and DuckDB
are loaded only by what needs them. ``__init__.pyi`` says where each name comes from.
"""

import lazy_loader

from exporttools.version import __version__

__getattr__, __dir__, _ = lazy_loader.attach_stub(__name__, __file__)

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
    "TraceStepSnapshot",
    "TraceStore",
    "TraceSummarySnapshot",
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
    "open_dataset",
    "plan_export",
    "read_bundle",
    "reconcile_costs",
    "reconciliation_verdict",
    "repeated_calls",
    "run_profiles",
    "timeline",
    "top_runs",
    "verify_bundle",
    "what_changed",
    "write_bundle",
    "write_key_pair",
    "write_report",
    "write_reports",
]
