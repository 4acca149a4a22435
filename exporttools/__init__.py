"""What happened in an AI agent's run, what did it cost, and can you prove it? From a notebook.

Names are imported on first use, so that ``import exporttools`` stays light: pandas, matplotlib, SQLAlchemy and DuckDB
are loaded only by what needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from exporttools.version import __version__

if TYPE_CHECKING:
    from exporttools.analysis import (
        anomalies,
        baseline,
        compare_runs,
        cost_by,
        cost_over_time,
        reconcile_costs,
        reconciliation_verdict,
        repeated_calls,
        run_profiles,
        top_runs,
        what_changed,
    )
    from exporttools.bundle import (
        Comparison,
        Finding,
        SigningKey,
        TrustedKey,
        Verification,
        compare_bundles,
        load_signing_key,
        load_trusted_key,
        read_bundle,
        verify_bundle,
        write_bundle,
        write_key_pair,
    )
    from exporttools.dataset import Dataset, DatasetVerification, open_dataset
    from exporttools.errors import (
        BundleError,
        BundleExists,
        BundleUnreadable,
        ConfigError,
        ConnectionFailed,
        DatasetUnreadable,
        DestinationConflict,
        ExportError,
        ExportInterrupted,
        ExportToolsError,
        InconsistentData,
        MissingExtra,
        QueryTimeout,
        ReportError,
        SchemaMismatch,
        StoreError,
        TenantMismatch,
        VerificationFailed,
    )
    from exporttools.export import ExportPlan, ExportReport, export_dataset, plan_export
    from exporttools.export_bundle import ExportBundle
    from exporttools.layouts import AOS, NATIVE, Constant, Field, Join, Layout, Source
    from exporttools.plots import cumulative_cost, timeline
    from exporttools.snapshot_table import SnapshotTable
    from exporttools.snapshots import (
        IncidentSnapshot,
        RunSnapshot,
        SourceSnapshot,
        TraceStepSnapshot,
        TraceSummarySnapshot,
    )
    from exporttools.store import ExportBundleStore, SqlTraceStore, TraceStore, get_export_bundle_store

_ROOMS = {
    "analysis": (
        "anomalies",
        "baseline",
        "compare_runs",
        "cost_by",
        "cost_over_time",
        "reconcile_costs",
        "reconciliation_verdict",
        "repeated_calls",
        "run_profiles",
        "top_runs",
        "what_changed",
    ),
    "dataset": ("Dataset", "DatasetVerification", "open_dataset"),
    "export": ("ExportPlan", "ExportReport", "export_dataset", "plan_export"),
    "bundle": (
        "Comparison",
        "Finding",
        "SigningKey",
        "TrustedKey",
        "Verification",
        "compare_bundles",
        "load_signing_key",
        "load_trusted_key",
        "read_bundle",
        "verify_bundle",
        "write_bundle",
        "write_key_pair",
    ),
    "errors": (
        "BundleError",
        "BundleExists",
        "BundleUnreadable",
        "ConfigError",
        "ConnectionFailed",
        "DatasetUnreadable",
        "DestinationConflict",
        "ExportError",
        "ExportInterrupted",
        "ExportToolsError",
        "InconsistentData",
        "MissingExtra",
        "QueryTimeout",
        "ReportError",
        "SchemaMismatch",
        "StoreError",
        "TenantMismatch",
        "VerificationFailed",
    ),
    "layouts": ("AOS", "NATIVE", "Constant", "Field", "Join", "Layout", "Source"),
    "plots": ("cumulative_cost", "timeline"),
    "snapshot_table": ("SnapshotTable",),
    "export_bundle": ("ExportBundle",),
    "snapshots": (
        "IncidentSnapshot",
        "RunSnapshot",
        "SourceSnapshot",
        "TraceStepSnapshot",
        "TraceSummarySnapshot",
    ),
    "store": ("ExportBundleStore", "SqlTraceStore", "TraceStore", "get_export_bundle_store"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [  # noqa: RUF022 - sorted by code points
    "AOS",
    "BundleError",
    "BundleExists",
    "BundleUnreadable",
    "Comparison",
    "ConfigError",
    "ConnectionFailed",
    "Constant",
    "Dataset",
    "DatasetUnreadable",
    "DatasetVerification",
    "DestinationConflict",
    "ExportBundle",
    "ExportBundleStore",
    "ExportError",
    "ExportInterrupted",
    "ExportPlan",
    "ExportReport",
    "ExportToolsError",
    "Field",
    "Finding",
    "IncidentSnapshot",
    "InconsistentData",
    "Join",
    "Layout",
    "MissingExtra",
    "NATIVE",
    "QueryTimeout",
    "ReportError",
    "RunSnapshot",
    "SchemaMismatch",
    "SigningKey",
    "SnapshotTable",
    "Source",
    "SourceSnapshot",
    "SqlTraceStore",
    "StoreError",
    "TenantMismatch",
    "TraceStepSnapshot",
    "TraceStore",
    "TraceSummarySnapshot",
    "TrustedKey",
    "Verification",
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
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'exporttools' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"exporttools.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_ROOM_OF]
