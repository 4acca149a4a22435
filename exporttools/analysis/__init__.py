"""Where the money went, what went wrong, what changed: frames in, new frames of the same kind out. No store, no file.

Every function takes a frame of any kind that Narwhals knows (pandas, Polars eager and lazy, pyarrow, DuckDB relations,
Dask, PySpark), a SnapshotTable or an ExportBundle. It does not change it, and returns a frame of the same kind; pyarrow
for a SnapshotTable or an ExportBundle.

====================  ======================================================================
``columns``           what columns are needed for, and the errors of those that do not fit
``frames``            any frame in, its columns checked; a frame of the same kind out
``groups``            groups of rows and their order statistics
``sequences``         steps in the order in which they happened
``costs``             :func:`cost_by`, :func:`cost_over_time`, :func:`top_runs`
``reconciliation``    :func:`reconcile_costs`, :func:`reconciliation_verdict`
``baselines``         :func:`baseline`, :func:`anomalies`, :func:`run_profiles`
``repeats``           :func:`repeated_calls`
``run_comparison``    :func:`compare_runs`
``changes``           :func:`what_changed`
====================  ======================================================================
"""

from __future__ import annotations

from exporttools.analysis.baselines import anomalies, baseline, run_profiles
from exporttools.analysis.changes import what_changed
from exporttools.analysis.costs import cost_by, cost_over_time, top_runs
from exporttools.analysis.reconciliation import reconcile_costs, reconciliation_verdict
from exporttools.analysis.repeats import repeated_calls
from exporttools.analysis.run_comparison import compare_runs

__all__ = [
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
]
